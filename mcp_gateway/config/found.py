"""MCP servers that other programs already know, read into our own words; nothing of theirs is changed or started.

Each program writes them a little differently: `command` is a text or a table, URLs have four names, variables three
forms. Here they become one noun, with `${NAME}` as we write it. What is no server of that kind (an extension that a
program brings itself, an entry without command and URL, the gateway's own) is left out with the reason.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any, Final

from mcp_gateway.config.clients import CLIENTS, Client, inputs_in, line_of, servers_in
from mcp_gateway.config.places import Places
from mcp_gateway.config.servers import SERVER_NAME
from mcp_gateway.config.textfile import TextFile, read
from mcp_gateway.errors import Complaint, ConfigInvalid

MAX_NAME: Final = 32

_BUILT_IN: Final = ("builtin", "platform", "frontend", "inline_python", "extension", "sdk")
_URL_KEYS: Final = ("url", "httpUrl", "serverUrl", "uri")
_ENV_FORM: Final = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_INPUT_FORM: Final = re.compile(r"\$\{input:([^}]+)\}")
_SHELL_FORM: Final = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(:-[^}]*)?\}|([A-Za-z_][A-Za-z0-9_]*))")
_OTHER: Final = re.compile(r"\$\{")


@dataclass(frozen=True, slots=True)
class FoundServer:
    """One server as its program starts or reaches it. Values may be secrets: never printed as they are."""

    name: str
    """As we could name it in servers.toml."""
    origin: str
    """Which program's file it stands in, with the line: for the preview."""
    client: str = ""
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    transport: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    enabled: bool = True
    needs: tuple[str, ...] = ()
    """Variables that somebody has to set, because their value stands nowhere."""
    notes: tuple[str, ...] = ()

    @property
    def reach(self) -> tuple[object, ...]:
        """What makes two of them the same server."""
        return (self.command, self.url, tuple(sorted(self.env.items())), tuple(sorted(self.headers.items())))

    def __repr__(self) -> str:
        return f"FoundServer({self.name!r}, {self.origin!r})"


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything found on this machine."""

    servers: tuple[FoundServer, ...] = ()
    clients: tuple[str, ...] = ()
    """The programs that are there, as far as their files or folders tell."""
    files: tuple[Path, ...] = ()
    skipped: tuple[str, ...] = ()
    """What was left out, and why."""
    complaints: tuple[Complaint, ...] = ()
    """Files that could not be read; the others count all the same."""


def survey(places: Places, project: Path, clients: Iterable[Client] = CLIENTS) -> Survey:
    """Read every known program's files. A file that cannot be read is complained about and stops nothing."""
    servers: list[FoundServer] = []
    there: list[str] = []
    files: list[Path] = []
    skipped: list[str] = []
    complaints: list[Complaint] = []
    for client in clients:
        for path in client.files(places, project):
            try:
                file = read(path)
                if file is not None:
                    files.append(path)
                    _read_into(servers, skipped, client, file, places)
            except ConfigInvalid as e:
                complaints += e.complaints
        if _is_there(client, places, files, project):
            there.append(client.id)
    return Survey(tuple(_named_apart(servers)), tuple(there), tuple(files), tuple(skipped), tuple(complaints))


def _is_there(client: Client, places: Places, files: Sequence[Path], project: Path) -> bool:
    own = client.files(places, project)
    folder = own[0].parent
    return any(file in files for file in own) or (folder != Path(places.home) and folder.is_dir())


def _read_into(servers: list[FoundServer], skipped: list[str], client: Client, file: TextFile, places: Places) -> None:
    inputs = inputs_in(client, file) if client.id == "vscode" else {}
    for name, entry in servers_in(client, file).items():
        origin = f"{client.title} ({file.path}:{line_of(client, file, name)})"
        server, reason = read_entry(client, name, entry, origin, file.path.parent, places, inputs)
        if server is None:
            skipped.append(f"{name} of {origin}: {reason}")
        else:
            servers.append(server)


def read_entry(
    client: Client,
    name: str,
    entry: Any,
    origin: str,
    folder: Path,
    places: Places,
    inputs: Mapping[str, bool] | None = None,
) -> tuple[FoundServer | None, str]:
    """One entry in our words; or None and why it is none."""
    if not isinstance(entry, dict):
        return None, "not a table"
    if str(entry.get("type", "")) in _BUILT_IN or str(entry.get("source", "")) in _BUILT_IN:
        return None, f"part of {client.title} itself"
    needs: list[str] = []
    say = _rewriter(client, folder, places, inputs or {}, needs)
    words = _command(entry)
    if _is_ours(words):
        return None, "the gateway itself"
    url = next((str(entry[key]) for key in _URL_KEYS if isinstance(entry.get(key), str) and entry[key]), "")
    if not words and not url:
        return None, "it has neither a command nor a URL"
    found = FoundServer(
        name=server_name(name),
        origin=origin,
        client=client.id,
        command=tuple(say(word) for word in words),
        env={} if not words else _env(entry, say),
        cwd=say(str(entry.get("cwd") or "")) if words else "",
        url="" if words else say(url),
        headers={} if words else _headers(entry, say),
        transport=_transport(entry) if not words else "",
        include=_texts(entry, "includeTools", "enabled_tools", "available_tools"),
        exclude=_texts(entry, "excludeTools", "disabled_tools"),
        enabled=entry.get("disabled") is not True and entry.get("enabled", True) is not False,
    )
    return replace(found, needs=tuple(dict.fromkeys(needs))), ""


def server_name(name: str) -> str:
    """The closest name that servers.toml takes.

    >>> server_name("My GitHub__Server_")
    'my-github_server'
    """
    plain = re.sub(r"[^a-z0-9_-]+", "-", name.lower())
    plain = re.sub(r"_{2,}", "_", plain).strip("_-")[:MAX_NAME].strip("_-")
    return plain if SERVER_NAME.fullmatch(plain) else "server"


def _named_apart(servers: Iterable[FoundServer]) -> Iterator[FoundServer]:
    """Without what two programs both have; those of one name that differ are told apart by the program's name."""
    taken: dict[str, FoundServer] = {}
    for server in servers:
        if any(server.reach == other.reach for other in taken.values()):
            continue
        name, number = server.name, 2
        if name in taken:
            name = server_name(f"{server.name[: MAX_NAME - 1 - len(server.client)]}-{server.client}")
        while name in taken:
            name, number = server_name(f"{server.name[:24]}-{number}"), number + 1
        taken[name] = replace(server, name=name)
        yield taken[name]


def _command(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Program and arguments; older files of Zed have both in one table."""
    command = entry.get("command", entry.get("cmd"))
    args = entry.get("args") or []
    if isinstance(command, dict):
        path, args = command.get("path"), command.get("args") or []
        command = path
    if isinstance(command, list):
        command, args = (command[0] if command else ""), [*command[1:], *args]
    if not isinstance(command, str) or not command.strip():
        return ()
    words = shlex.split(command) if " " in command and not args and not _is_path(command) else [command]
    return (*words, *(str(arg) for arg in args if isinstance(arg, (str, int, float))))


def _is_path(command: str) -> bool:
    return "/" in command or "\\" in command


def _is_ours(words: Sequence[str]) -> bool:
    program = PurePath(words[0].replace("\\", "/")).stem if words else ""
    is_module = any(a == "-m" and b == "mcp_gateway" for a, b in pairwise(words))
    return "stdio" in words and (program == "mcp-gateway" or is_module or "mcp-gateway" in words)


def _env(entry: Mapping[str, Any], say: Callable[[str], str]) -> dict[str, str]:
    command = entry.get("command")
    inner = command.get("env") if isinstance(command, dict) else None
    written = {**_table(entry, "env"), **_table(entry, "envs"), **(inner if isinstance(inner, dict) else {})}
    found = {str(key): say(str(value)) for key, value in written.items() if value is not None}
    for name in (*_texts(entry, "env_vars"), *_texts(entry, "env_keys")):
        found.setdefault(name, f"${{{name}}}")
    return found


def _headers(entry: Mapping[str, Any], say: Callable[[str], str]) -> dict[str, str]:
    written = {**_table(entry, "headers"), **_table(entry, "http_headers")}
    found = {str(key): say(str(value)) for key, value in written.items()}
    for header, variable in _table(entry, "env_http_headers").items():
        found[str(header)] = f"${{{variable}}}"
    token = entry.get("bearer_token_env_var")
    if isinstance(token, str) and token:
        found["Authorization"] = f"Bearer ${{{token}}}"
    return found


def _transport(entry: Mapping[str, Any]) -> str:
    return "sse" if str(entry.get("type", entry.get("transport", ""))).lower() == "sse" else ""


def _table(entry: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = entry.get(key)
    return value if isinstance(value, dict) else {}


def _texts(entry: Mapping[str, Any], *keys: str) -> tuple[str, ...]:
    lists = (entry.get(key) for key in keys)
    return tuple(str(item) for found in lists if isinstance(found, list) for item in found if isinstance(item, str))


def _rewriter(
    client: Client, folder: Path, places: Places, inputs: Mapping[str, bool], needs: list[str]
) -> Callable[[str], str]:
    """How one program's variables become ours."""
    workspace = folder.parent if folder.name in (".vscode", ".cursor", ".zed", ".gemini") else folder

    def as_input(match: re.Match[str]) -> str:
        name = re.sub(r"\W+", "_", match[1]).strip("_").upper()
        needs.append(name)
        return f"${{{name}}}"

    def say(text: str) -> str:
        if client.variables == "shell":
            return _SHELL_FORM.sub(lambda m: f"${{{m[1] or m[3]}{m[2] or ''}}}", text)
        if client.variables == "none":
            return _OTHER.sub("$${", text)
        for word, path in (("workspaceFolder", workspace), ("userHome", places.home)):
            text = text.replace(f"${{{word}}}", str(path))
        return _INPUT_FORM.sub(as_input, _ENV_FORM.sub(r"${\1}", text))

    return say
