"""servers.toml and a first policy as the gateway writes them, and edits that leave comments and order as they are.

What is written is read again by the reader that the gateway uses, so that no edit of ours leaves a file it would
refuse. Values are TOML strings made by tomlkit; nothing is pasted together that an outsider chose.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import tomlkit

from mcp_gateway.config.found import FoundServer
from mcp_gateway.config.toml_edit import checked, without_table
from mcp_gateway.config.toml_lines import headers, parse

HEAD: Final = """\
# What the gateway serves. `mcp-gateway check` says what is wrong here, and on which line; `mcp-gateway servers` edits
# it and keeps your comments. Secrets stay elsewhere: ${NAME} is an environment variable, "keyring:NAME" the system's
# keyring, "file:PATH" a file that only you can read.

[gateway]
listen   = "127.0.0.1:8765"       # used by `mcp-gateway serve` alone
audit    = "audit.db"
policies = "policies"
"""

NO_SERVERS: Final = """
# [servers.time]
# command = ["uvx", "mcp-server-time"]
"""

_FLAG: Final = re.compile(r"(\benabled\s*=\s*)(?:true|false)\b")
_FLAG_ALONE: Final = re.compile(r"\s*enabled\s*=\s*(?:true|false)\s*")
_BEARER: Final = re.compile(r"Bearer\s+(.+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Comment:
    """What stands above a server's table."""

    lines: tuple[str, ...] = ()


class NoSuchServer(Exception):
    """servers.toml has no table of that name."""


class AlreadyThere(Exception):
    """servers.toml has a table of that name."""


def new_servers_toml(servers: Sequence[FoundServer], comments: Mapping[str, Comment] | None = None) -> str:
    """A whole servers.toml."""
    tables = [_table_text(server, (comments or {}).get(server.name, Comment())) for server in servers]
    return HEAD + ("".join(f"\n{table}" for table in tables) or NO_SERVERS)


def added(text: str, server: FoundServer, comment: Comment | None = None) -> str:
    """The text with a server more, at the end. Raises `AlreadyThere`."""
    if server.name in tomllib.loads(text).get("servers", {}):
        raise AlreadyThere(server.name)
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return text + gap + _table_text(server, comment or Comment())


def removed(text: str, name: str) -> str:
    """The text without a server, its sub-tables and the comment right above it. Raises `NoSuchServer`."""
    _document(text, name)
    return without_table(text, "servers", name)


def with_flag(text: str, name: str, *, enabled: bool) -> str:
    """The text with a server switched on or off. Raises `NoSuchServer`."""
    before = _document(text, name)
    table = before["servers"][name]
    if table.get("enabled", True) == enabled:
        return text
    is_plain = enabled and "enabled" in table
    server = {**table, "enabled": enabled}
    lines = text.splitlines(keepends=True)
    at = next((line for line, path in headers(text) if path == ("servers", name)), 0)
    written = parse(text, "")[1].of(("servers", name, "enabled")) if "enabled" in table else 0
    if written and _FLAG_ALONE.fullmatch(lines[written - 1]) and is_plain:
        del lines[written - 1]
        del server["enabled"]
    elif written:
        lines[written - 1] = _FLAG.sub(rf"\g<1>{str(enabled).lower()}", lines[written - 1], count=1)
    elif at:
        end = "\r\n" if lines[at - 1].endswith("\r\n") else "\n"
        lines[at - 1] = lines[at - 1].rstrip("\r\n") + end
        lines.insert(at, f"enabled = {str(enabled).lower()}{end}")
    wanted = {**before, "servers": {**before["servers"], name: server}}

    def by_tomlkit(document: Any) -> None:
        if "enabled" not in server:
            del document["servers"][name]["enabled"]
        else:
            document["servers"][name]["enabled"] = enabled

    return checked("".join(lines), wanted, text, by_tomlkit)


def first_policy(agents: Sequence[str], servers: Sequence[str]) -> str:
    """A policy that lets these agents use what says of itself that it only reads; nothing else."""
    names = list(agents) or ["agent"]
    head = (
        "# Who may do what. Nothing is allowed that no line here allows; a deny beats every grant.\n"
        "# Why something is or is not allowed: `mcp-gateway why AGENT SERVER/TOOL`.\n"
    )
    agents_text = "".join(f'\n[agents.{_key(name)}]\ntasks = ["look"]\ndefault_task = "look"\n' for name in names)
    if not servers:
        return head + agents_text + '\n[tasks.look]\npurpose = "Look, change nothing"\nallow = []\n'
    patterns = ", ".join(_string(f"{server}/*") for server in servers)
    return (
        head
        + agents_text
        + f"""
[tasks.look]
purpose = "Look, change nothing"
allow = [
    # What else these agents may use, whatever it says of itself, one line for each tool:
    # {_string(servers[0] + "/NAME_OF_A_TOOL")},
]

# Tools that say of themselves that they only read. It is their word: take a server out that you would not take it from.
[[tasks.look.grant]]
tools = [{patterns}]
when = "tool.annotations.readOnlyHint == true"
"""
    )


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def _document(text: str, name: str) -> dict[str, Any]:
    document = tomllib.loads(text)
    if name not in document.get("servers", {}):
        raise NoSuchServer(name)
    return document


def _table_text(server: FoundServer, comment: Comment) -> str:
    lines = [f"# {line}" for line in comment.lines]
    lines.append(f"[servers.{_key(server.name)}]")
    lines += [f"{key} = {value}" for key, value in _pairs(server)]
    return "\n".join(lines) + "\n"


def _pairs(server: FoundServer) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    if server.command:
        pairs.append(("command", _strings(server.command)))
        pairs += [("env", _inline(server.env))] if server.env else []
        pairs += [("cwd", _string(server.cwd))] if server.cwd else []
    else:
        pairs.append(("url", _string(server.url)))
        pairs += _auth(server.headers)
        pairs += [("transport", _string(server.transport))] if server.transport else []
    pairs += [
        (key, _strings(words)) for key, words in (("include", server.include), ("exclude", server.exclude)) if words
    ]
    return pairs if server.enabled else [*pairs, ("enabled", "false")]


def _auth(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    rest = dict(headers)
    pairs: list[tuple[str, str]] = []
    name = next((key for key in rest if key.lower() == "authorization"), "")
    bearer = _BEARER.fullmatch(rest.get(name, ""))
    if bearer:
        del rest[name]
        token = re.sub(r"^\$\{(keyring:[^}]*)\}$", r"\1", bearer[1])
        pairs.append(("auth", f"{{ bearer = {_string(token)} }}"))
    return [*pairs, ("headers", _inline(rest))] if rest else pairs


def _string(text: str) -> str:
    return tomlkit.item(text).as_string()


def _strings(texts: Sequence[str]) -> str:
    found = tomlkit.array()
    found.extend(texts)
    return found.as_string()


def _inline(table: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{_key(key)} = {_string(value)}" for key, value in table.items()) + " }"
