"""The event loop that a gateway runs on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVarTuple, Unpack

import anyio
import uvloop

P = TypeVarTuple("P")


def run_async(main: Callable[[Unpack[P]], Awaitable[None]], *arguments: Unpack[P]) -> None:
    """Run `main` on uvloop until it returns.

    Through anyio: where sniffio is installed (other libraries bring it along), anyio asks it for the library at hand,
    and outside of tasks, where children's pipes are read, it knows only if anyio told it in the beginning.
    """
    anyio.run(main, *arguments, backend="asyncio", backend_options={"loop_factory": uvloop.new_event_loop})
