"""Where the program begins: the command that agents' programs start is not kept waiting for all the others to load."""

from __future__ import annotations

import sys
from importlib import import_module

import typer

from mcp_gateway.cli.output import Commands
from mcp_gateway.cli.stdio import stdio

NAME = "mcp-gateway"


def main() -> None:
    """What `mcp-gateway` and `python -m mcp_gateway` run."""
    if sys.argv[1:2] == ["stdio"]:
        _only_stdio()(prog_name=NAME)
    else:
        import_module("mcp_gateway.cli.main").app(prog_name=NAME)


def _only_stdio() -> typer.Typer:
    app = typer.Typer(name=NAME, cls=Commands, pretty_exceptions_enable=False, rich_markup_mode="markdown")
    app.callback()(lambda: None)  # else typer takes a lone command for the whole program
    app.command("stdio")(stdio)
    return app
