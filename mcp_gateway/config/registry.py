"""A server as somebody else described it: a registry's `server.json`, or the manifest of an `.mcpb` bundle.

Such a description is data of a stranger. Of it we take names, versions, arguments and addresses, never a program: which
one is started (npx, uvx, docker, dnx) follows from the kind of package. What would have to be unpacked, downloaded or
run to be understood is refused. Nothing is enabled before the operator has seen it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from mcp_gateway.config import jsonc
from mcp_gateway.config.found import FoundServer, server_name
from mcp_gateway.config.secrets import is_secret_name
from mcp_gateway.config.settings import is_loopback

MAX_ARGUMENTS: Final = 64

_PACKAGE: Final = re.compile(r"@?[A-Za-z0-9][A-Za-z0-9._/-]*")
_IMAGE: Final = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]*")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACEHOLDER: Final = re.compile(r"(?<!\$)\{([A-Za-z0-9_.-]+)\}")
_USER_CONFIG: Final = re.compile(r"\$\{user_config\.([^}]+)\}")
_PROGRAMS: Final = ("node", "python", "python3", "uv", "uvx", "npx", "deno", "bun")


class NotAServer(ValueError):
    """A description that we cannot use; the message says why."""


@dataclass(slots=True)
class _Wanted:
    """Variables that a description leaves to whoever uses it."""

    names: list[str]

    def reference(self, name: str, default: str = "") -> str:
        """`${NAME}`; a default of the description stands in where nobody sets it."""
        variable = re.sub(r"\W", "_", name).upper()
        if not _VARIABLE.fullmatch(variable):
            raise NotAServer(f"{name!r} is no name for a variable")
        if default and "}" not in default:
            return f"${{{variable}:-{default}}}"
        self.names.append(variable)
        return f"${{{variable}}}"


def described(text: str, origin: str, folder: Path | None) -> FoundServer:
    """The server that a `server.json` or a bundle's manifest describes. Raises `NotAServer`.

    `folder` is where a manifest lies unpacked; None for one that came from elsewhere.
    """
    try:
        document = jsonc.parse(text)
    except jsonc.JsoncError as e:
        raise NotAServer(f"not JSON: {e} (line {e.line})") from e
    if isinstance(document, dict) and isinstance(document.get("server"), dict) and "name" in document["server"]:
        document = document["server"]  # what a registry's API wraps around it
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise NotAServer("neither a registry's server.json nor a bundle's manifest: it has no name")
    if isinstance(document.get("server"), dict):
        return _of_manifest(document, origin, folder)
    return _of_registry(document, origin)


def _of_registry(document: Mapping[str, Any], origin: str) -> FoundServer:
    name = server_name(document["name"].rpartition("/")[2])
    problems: list[str] = []
    for package in _tables(document.get("packages")):
        try:
            return _of_package(name, package, origin)
        except NotAServer as e:
            problems.append(str(e))
    for remote in _tables(document.get("remotes")):
        return _of_remote(name, remote, origin)
    raise NotAServer("; ".join(problems) or "it names no package and no remote")


def _of_package(name: str, package: Mapping[str, Any], origin: str) -> FoundServer:
    transport = package.get("transport")
    if isinstance(transport, dict) and transport.get("type", "stdio") != "stdio":
        raise NotAServer("the package serves HTTP: start it yourself and add its URL")
    wanted = _Wanted([])
    env = {_name(item): _value(item, wanted) for item in _needed(package.get("environmentVariables"))}
    before = list(_arguments(package.get("runtimeArguments"), wanted))
    if set(before) - {"-y", "--yes", "-i", "--rm"}:
        raise NotAServer("it wants arguments of its own for the runtime: add the command yourself")
    command = _program(package, list(_arguments(package.get("packageArguments"), wanted)), sorted(env))
    return FoundServer(name, origin, command=tuple(command), env=env, needs=tuple(dict.fromkeys(wanted.names)))


def _program(package: Mapping[str, Any], after: list[str], variables: list[str]) -> list[str]:
    """What starts a package of each kind; a description chooses no program of its own."""
    kind = str(package.get("registryType", package.get("registry_name", "")))
    identifier, version = str(package.get("identifier", package.get("name", ""))), str(package.get("version") or "")
    pattern = _IMAGE if kind == "oci" else _PACKAGE
    if not pattern.fullmatch(identifier) or ".." in identifier or (version and not _VERSION.fullmatch(version)):
        raise NotAServer("the package's name or version holds characters that it may not")
    if kind == "npm":
        return ["npx", "-y", f"{identifier}@{version}" if version else identifier, *after]
    if kind == "pypi":
        return ["uvx", f"{identifier}=={version}" if version else identifier, *after]
    if kind == "nuget":
        return ["dnx", f"{identifier}@{version}" if version else identifier, "--yes", *after]
    if kind == "oci":
        image = f"{identifier}:{version}" if version and ":" not in identifier.rpartition("/")[2] else identifier
        passed = [word for variable in variables for word in ("-e", variable)]
        return ["docker", "run", "-i", "--rm", *passed, image, *after]
    raise NotAServer(f"packages of the kind {kind or 'unknown'!r} have to be installed first: add the command yourself")


def _of_remote(name: str, remote: Mapping[str, Any], origin: str) -> FoundServer:
    wanted = _Wanted([])
    variables = remote.get("variables")
    url = _filled(str(remote.get("url", "")), variables if isinstance(variables, dict) else {}, wanted)
    parts = urlsplit(url)
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    if not is_safe or not parts.hostname:
        raise NotAServer("its address does not begin with https://")
    headers = {_header(item): _value(item, wanted) for item in _needed(remote.get("headers"))}
    transport = "sse" if remote.get("type", remote.get("transport_type")) == "sse" else ""
    needs = tuple(dict.fromkeys(wanted.names))
    return FoundServer(name, origin, url=url, headers=headers, transport=transport, needs=needs)


def _of_manifest(document: Mapping[str, Any], origin: str, folder: Path | None) -> FoundServer:
    server = document["server"]
    config = server.get("mcp_config")
    if not isinstance(config, dict) or not isinstance(config.get("command"), str):
        raise NotAServer("the manifest does not say how its server is started (server.mcp_config)")
    written = [config["command"], *(arg for arg in config.get("args") or [] if isinstance(arg, str))]
    if folder is None and any("${__dirname}" in word for word in written):
        raise NotAServer("the server's files are in the bundle: unpack it, then name its manifest.json")
    if config["command"] not in _PROGRAMS and "${__dirname}" not in config["command"]:
        raise NotAServer(f"it starts {config['command']!r}, which is neither in the bundle nor a usual runtime")
    options = document.get("user_config")
    wanted = _Wanted([])

    def fill(text: str) -> str:
        text = text.replace("${__dirname}", str(folder)).replace("${/}", "/").replace("${pathSeparator}", "/")
        return _USER_CONFIG.sub(lambda match: _option(match[1], options, wanted), text)

    env = {str(key): fill(str(value)) for key, value in (config.get("env") or {}).items()}
    command = tuple(fill(word) for word in written[:MAX_ARGUMENTS])
    needs = tuple(dict.fromkeys(wanted.names))
    return FoundServer(server_name(document["name"]), origin, command=command, env=env, needs=needs)


def _option(name: str, options: Any, wanted: _Wanted) -> str:
    option = options.get(name) if isinstance(options, dict) else None
    default = option.get("default") if isinstance(option, dict) else None
    is_secret = isinstance(option, dict) and bool(option.get("sensitive"))
    return wanted.reference(name, str(default) if isinstance(default, (str, int, float)) and not is_secret else "")


def _arguments(written: Any, wanted: _Wanted) -> Iterator[str]:
    for item in _needed(written):
        if item.get("type") == "named":
            yield str(item.get("name", ""))
        if item.get("type") != "named" or any(key in item for key in ("value", "default", "valueHint", "variables")):
            yield _value(item, wanted, fallback=str(item.get("valueHint", item.get("name", "value"))))


def _value(item: Mapping[str, Any], wanted: _Wanted, fallback: str = "") -> str:
    """A fixed value, or a variable where the description leaves it open."""
    value, default = item.get("value"), item.get("default")
    variables = item.get("variables")
    if isinstance(value, str) and value:
        return _filled(value, variables if isinstance(variables, dict) else {}, wanted)
    is_secret = bool(item.get("isSecret", item.get("is_secret"))) or is_secret_name(str(item.get("name", "")))
    usual = str(default) if isinstance(default, (str, int, float)) and not is_secret else ""
    return wanted.reference(str(item.get("name") or fallback), usual)


def _needed(written: Any) -> list[Mapping[str, Any]]:
    """Those that have a value or must be given one; what is optional and open is left out."""
    keys = ("value", "default")
    return [
        item
        for item in _tables(written)
        if any(item.get(key) not in (None, "") for key in keys)
        or item.get("isRequired", item.get("is_required")) is True
        or (item.get("type") == "named" and "valueHint" not in item)
    ]


def _filled(text: str, variables: Mapping[str, Any], wanted: _Wanted) -> str:
    """`{name}` in a text as the variable it stands for."""

    def variable(match: re.Match[str]) -> str:
        told = variables.get(match[1])
        default = told.get("default") if isinstance(told, dict) else None
        return wanted.reference(match[1], str(default) if isinstance(default, str) else "")

    return _PLACEHOLDER.sub(variable, text.replace("${", "$${"))


def _name(item: Mapping[str, Any]) -> str:
    name = str(item.get("name", ""))
    if not _VARIABLE.fullmatch(name):
        raise NotAServer(f"{name!r} is no name for an environment variable")
    return name


def _header(item: Mapping[str, Any]) -> str:
    name = str(item.get("name", ""))
    if not re.fullmatch(r"[A-Za-z0-9-]+", name):
        raise NotAServer(f"{name!r} is no name for a header")
    return name


def _tables(written: Any) -> list[Mapping[str, Any]]:
    found = written if isinstance(written, list) else []
    if len(found) > MAX_ARGUMENTS:
        raise NotAServer(f"it lists more than {MAX_ARGUMENTS} of one thing")
    return [item for item in found if isinstance(item, dict)]
