"""Where the program begins: the command that agents' programs start is not kept waiting for all the others to load."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from mcp_gateway.cli.ahead import BACKGROUND, begun_ahead

NAME = "mcp-gateway"


def main() -> None:
    """What `mcp-gateway` and `python -m mcp_gateway` run."""
    words = sys.argv[1:]
    if words[:1] == ["stdio"]:
        ahead = begun_ahead(words, os.environ)  # before this process loads anything else
        import_module("mcp_gateway.cli.stdio").app()(prog_name=NAME, obj=ahead)
    elif tuple(words[: len(BACKGROUND)]) == BACKGROUND:
        import_module("mcp_gateway.cli.background").main()
    else:
        import_module("mcp_gateway.cli.main").app(prog_name=NAME)
