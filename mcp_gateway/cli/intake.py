"""Servers taken over from elsewhere: where their description is read, and where their secrets go."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from mcp_gateway.config import keyrings
from mcp_gateway.config.found import FoundServer
from mcp_gateway.config.moved_secrets import Moved, Reference
from mcp_gateway.config.registry import NotAServer, described
from mcp_gateway.config.settings import is_loopback
from mcp_gateway.config.textfile import create, read
from mcp_gateway.config.writing import Comment
from mcp_gateway.errors import Complaint, ConfigInvalid

Keep = Literal["auto", "keyring", "env", "file"]

SecretsIn = Annotated[
    Keep, typer.Option("--secrets", help="Where secrets go: the keyring if it is usable, else ${ENV}.")
]

MAX_DESCRIPTION_BYTES: Final = 1024 * 1024
FETCH_S: Final = 15.0

DESCRIPTION: Final = "GW-INIT-DESCRIPTION"

_VARIABLE: Final = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def resolved_keep(keep: Keep) -> Keep:
    """Where secrets go, once it was looked whether there is a keyring."""
    if keep == "auto":
        return "keyring" if keyrings.is_usable() else "env"
    return keep


def referring(keep: Keep) -> Reference:
    """What stands in a secret's place."""

    def reference(name: str, is_whole: bool) -> str:
        if keep == "keyring":
            return f"keyring:{name}" if is_whole else f"${{keyring:{name}}}"
        return f"file:secrets/{name}" if keep == "file" and is_whole else f"${{{name}}}"

    return reference


def switched_off_without(server: FoundServer) -> FoundServer:
    """A server whose variables are not set yet must not keep the others from starting."""
    values = " ".join((*server.command, server.url, server.cwd, *server.env.values(), *server.headers.values()))
    waits_for = [name for name in dict.fromkeys(_VARIABLE.findall(values)) if name not in os.environ]
    if not waits_for:
        return server
    note = f"off until {', '.join(waits_for)} is set: then mcp-gateway servers enable {server.name}"
    needs = tuple(dict.fromkeys((*server.needs, *waits_for)))
    return replace(server, enabled=False, needs=needs, notes=(*server.notes, note))


def keep_secrets(moved: Sequence[Moved], keep: Keep, folder: Path) -> None:
    """Put the secrets where the references point."""
    for item in moved:
        if keep == "keyring":
            keyrings.store(item.name, item.value)
        elif keep == "file":
            place = folder / "secrets" / item.name
            place.parent.mkdir(mode=0o700, exist_ok=True)
            create(place, item.value)


def comment_on(server: FoundServer) -> Comment:
    """What servers.toml says of where a server came from."""
    return Comment((f"from {server.origin}", *server.notes))


def description(source: str) -> FoundServer:
    """The server that a registry entry or a bundle's manifest describes. Raises `ConfigInvalid`."""
    try:
        if source.startswith(("https://", "http://")):
            return described(_fetched(source), source.partition("?")[0], None)
        path = Path(source)
        if path.suffix in (".mcpb", ".dxt"):
            raise NotAServer("a bundle holds programs: unpack it, and name the manifest.json in it")
        file = read(path)
        if file is None:
            raise NotAServer("there is no such file")
        return described(file.text, str(path), path.absolute().parent)
    except NotAServer as e:
        fix = "give its command yourself: mcp-gateway servers add NAME -- PROGRAM ARGUMENTS"
        raise ConfigInvalid([Complaint(source.partition("?")[0], 0, str(e), fix, DESCRIPTION)]) from e


def _fetched(url: str) -> str:
    httpx2: Any = import_module("httpx2")  # every start of a gateway passes here, and nearly none fetches anything
    parts = httpx2.URL(url)
    if parts.scheme != "https" and not is_loopback(parts.host):
        raise NotAServer("only https:// addresses are read")
    try:
        with httpx2.Client(timeout=FETCH_S, follow_redirects=False) as client, client.stream("GET", url) as answer:
            if answer.status_code != httpx2.codes.OK:
                raise NotAServer(f"the answer is HTTP {answer.status_code}")
            body = b""
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > MAX_DESCRIPTION_BYTES:
                    raise NotAServer(f"it is larger than {MAX_DESCRIPTION_BYTES} bytes")
    except httpx2.HTTPError as e:
        raise NotAServer(f"it cannot be fetched: {type(e).__name__}") from e
    return body.decode("utf-8", "replace")
