"""The generated part of docs/reference/commands.md: what `--help` says of every command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from mcp_gateway.cli.main import app


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with the words that call it, such as `key create`, in the order of `--help`."""
    return _below(get_command(app), ())


def command_reference() -> str:
    """A section for each command: what it does, an example, its arguments and options."""
    return "\n\n".join(_section(words, command) for words, command in commands())


def _below(group: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _below(command, (*words, name))
        else:
            yield " ".join((*words, name)), command


def _section(words: str, command: Any) -> str:
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    table = ["| | default | meaning |", "|---|---|---|", *rows] if rows else []
    paragraphs = [" ".join(paragraph.split()) for paragraph in command.help.split("\n\n")]
    return "\n".join([f"## mcp-gateway {words}", "", "\n\n".join(paragraphs), *([""] if rows else []), *table])


def _row(parameter: Any) -> str:
    is_argument = parameter.param_type_name == "argument"
    written = parameter.name.upper() if is_argument else ", ".join(sorted(parameter.opts, key=len, reverse=True))
    default = "required" if parameter.required else f"`{parameter.default}`" if parameter.default else "none"
    return f"| `{written}` | {default} | {parameter.help} |"
