"""Agents' programs and their configuration files: where each keeps its MCP servers, and the one entry for the gateway.

Eight programs in three formats. A file is read as text with its encoding (`config/textfile`), and edited so that
everything but the one entry stays as it was. Each file's shape stands here and nowhere else.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final, Literal

import tomlkit

from mcp_gateway.config import jsonc, yaml_edit
from mcp_gateway.config.places import Places
from mcp_gateway.config.textfile import FileCode, TextFile, refusal
from mcp_gateway.config.toml_edit import NotEditable, without_table

Format = Literal["json", "toml", "yaml"]
Variables = Literal["none", "shell", "env"]
"""How a program writes an environment variable in its file: not at all, `${NAME}`, or `${env:NAME}`."""

ENTRY: Final = "gateway"
"""The name of our entry, unless the operator gives another."""


@dataclass(frozen=True, slots=True)
class Client:
    """One program that agents run in."""

    id: str
    """How commands name it; also the agent that its entry is bound to, unless another is asked for."""
    title: str
    table: str
    """The key that holds the servers."""
    user_file: Callable[[Places], PurePath]
    project_file: str = ""
    """Where a project keeps its own; empty: nowhere."""
    format: Format = "json"
    variables: Variables = "none"
    extra: Mapping[str, Any] | None = None
    """What its entries say beside the command."""

    def files(self, places: Places, project: Path) -> list[Path]:
        """Where its servers may stand, the user's file first; none of them need exist."""
        found = [Path(self.user_file(places))]
        if self.project_file:
            found.append(project / self.project_file)
        return list(dict.fromkeys(found))

    def entry(self, command: str, args: list[str]) -> dict[str, Any]:
        """An entry as the program wants it, which starts that command."""
        if self.format == "yaml":
            return {**(self.extra or {}), "cmd": command, "args": args}
        return {**(self.extra or {}), "command": command, "args": args}


CLIENTS: Final = (
    Client(
        "claude-code",
        "Claude Code",
        "mcpServers",
        lambda at: at.home / ".claude.json",
        ".mcp.json",
        variables="shell",
        extra={"type": "stdio"},
    ),
    Client(
        "claude-desktop",
        "Claude Desktop",
        "mcpServers",
        lambda at: at.config / "Claude" / "claude_desktop_config.json",
    ),
    Client(
        "cursor",
        "Cursor",
        "mcpServers",
        lambda at: at.home / ".cursor" / "mcp.json",
        ".cursor/mcp.json",
        variables="env",
    ),
    Client(
        "vscode",
        "VS Code",
        "servers",
        lambda at: at.config / "Code" / "User" / "mcp.json",
        ".vscode/mcp.json",
        variables="env",
        extra={"type": "stdio"},
    ),
    Client(
        "codex",
        "Codex",
        "mcp_servers",
        lambda at: type(at.home)(at.environ.get("CODEX_HOME") or at.home / ".codex") / "config.toml",
        ".codex/config.toml",
        format="toml",
    ),
    Client(
        "gemini",
        "Gemini CLI",
        "mcpServers",
        lambda at: at.home / ".gemini" / "settings.json",
        ".gemini/settings.json",
        variables="shell",
    ),
    Client(
        "goose",
        "Goose",
        "extensions",
        lambda at: (
            at.config / "Block" / "goose" / "config" / "config.yaml"
            if at.system == "windows"
            else at.dot_config / "goose" / "config.yaml"
        ),
        format="yaml",
        extra={"enabled": True, "type": "stdio", "name": "gateway", "description": "", "timeout": 300},
    ),
    Client(
        "zed",
        "Zed",
        "context_servers",
        lambda at: (at.config / "Zed" if at.system == "windows" else at.dot_config / "zed") / "settings.json",
        ".zed/settings.json",
        extra={"source": "custom"},
    ),
)

BY_ID: Final[Mapping[str, Client]] = {client.id: client for client in CLIENTS}


def servers_in(client: Client, file: TextFile) -> dict[str, Any]:
    """What stands in a program's file under its servers, by name, as written. Raises `ConfigInvalid`."""
    document = _document(client, file)
    table = document.get(client.table)
    if table is not None and not isinstance(table, dict):
        raise _misshapen(file, f"{client.table!r} is not a table of servers")
    servers = dict(table or {})
    if client.id == "claude-code":
        servers |= _of_projects(document)
    return servers


def inputs_in(client: Client, file: TextFile) -> dict[str, bool]:
    """What VS Code asks its user for, by id: whether it is a password."""
    inputs = _document(client, file).get("inputs")
    found = [item for item in inputs if isinstance(item, dict)] if isinstance(inputs, list) else []
    return {str(item["id"]): bool(item.get("password")) for item in found if "id" in item}


def line_of(client: Client, file: TextFile, name: str) -> int:
    """The line on which a server stands in its file; 1 where that cannot be said."""
    if client.format == "json":
        return jsonc.line_of(file.text, (client.table, name))
    if client.format == "yaml":
        return yaml_edit.line_of(file.text, client.table, name)
    at = file.text.find(f"[{client.table}.{name}]")
    return file.text.count("\n", 0, max(at, 0)) + 1


def with_entry(client: Client, file: TextFile, name: str, entry: dict[str, Any]) -> str:
    """The file's text with our entry in it, in place of one of that name. Raises `ConfigInvalid`."""
    if client.format == "toml":
        return _with_toml_entry(client, file, name, entry)
    try:
        if client.format == "yaml":
            return yaml_edit.with_entry(file.text, client.table, name, entry, file.newline)
        return jsonc.with_member(file.text, (client.table, name), entry, file.newline)
    except (jsonc.JsoncError, yaml_edit.YamlError) as e:
        raise refusal(file.path, e.line, str(e), "correct it by hand first", FileCode.SHAPE) from e


def without_entry(client: Client, file: TextFile, name: str) -> str:
    """The file's text without the entry of that name; as it is where there is none. Raises `ConfigInvalid`."""
    try:
        if client.format == "toml":
            return _without_toml_entry(client, file, name)
        if client.format == "yaml":
            return yaml_edit.without_entry(file.text, client.table, name)
        return jsonc.without_member(file.text, (client.table, name))
    except (jsonc.JsoncError, yaml_edit.YamlError) as e:
        raise refusal(file.path, e.line, str(e), "take the entry out by hand", FileCode.SHAPE) from e


def _document(client: Client, file: TextFile) -> dict[str, Any]:
    try:
        value = _parsed(client.format, file.text)
    except (jsonc.JsoncError, yaml_edit.YamlError) as e:
        raise refusal(
            file.path, e.line, f"not valid {client.format.upper()}: {e}", "correct it", FileCode.SYNTAX
        ) from e
    except tomllib.TOMLDecodeError as e:
        raise refusal(file.path, 0, f"not valid TOML: {e}", "correct it", FileCode.SYNTAX) from e
    if not isinstance(value, dict):
        raise _misshapen(file, "the document is not a table of settings")
    return value


def _parsed(kind: Format, text: str) -> Any:
    if kind == "json":
        return jsonc.parse(text)
    if kind == "yaml":
        return yaml_edit.parse(text)
    return tomllib.loads(text.replace("\r\n", "\n"))


def _of_projects(document: Mapping[str, Any]) -> dict[str, Any]:
    """Claude Code keeps servers of single projects in the user's file too."""
    projects = document.get("projects")
    found: dict[str, Any] = {}
    for project in projects.values() if isinstance(projects, dict) else ():
        servers = project.get("mcpServers") if isinstance(project, dict) else None
        for name, entry in servers.items() if isinstance(servers, dict) else ():
            found.setdefault(name, entry)
    return found


def _with_toml_entry(client: Client, file: TextFile, name: str, entry: dict[str, Any]) -> str:
    document = _document(client, file)
    table = document.get(client.table, {})
    if not isinstance(table, dict):
        raise _misshapen(file, f"{client.table!r} is not a table of servers")
    wanted = {**document, client.table: {**table, name: entry}}
    text = _without_toml_entry(client, file, name)
    added = tomlkit.dumps({client.table: {name: entry}}).replace("\n", file.newline)
    gap = "" if not text else file.newline * (1 if text.endswith("\n") else 2)
    try:
        if tomllib.loads((text + gap + added).replace("\r\n", "\n")) == wanted:
            return text + gap + added
    except tomllib.TOMLDecodeError:
        pass
    message = "its servers stand in a form that is edited by hand only"
    raise refusal(file.path, 0, message, f"write them as [{client.table}.NAME] tables", FileCode.SHAPE)


def _without_toml_entry(client: Client, file: TextFile, name: str) -> str:
    table = _document(client, file).get(client.table)
    if not isinstance(table, dict) or name not in table:
        return file.text
    try:
        return without_table(file.text, client.table, name)
    except NotEditable as e:
        raise refusal(file.path, 0, str(e), "take the entry out by hand", FileCode.SHAPE) from e


def _misshapen(file: TextFile, message: str) -> Exception:
    return refusal(file.path, 0, message, "correct it", FileCode.SHAPE)
