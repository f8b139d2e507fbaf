"""The event loop that the long-running commands run on: uvloop where there is one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec

import anyio


def run_loop(serve: Callable[[], Awaitable[None]]) -> None:
    """Run `serve` to its end.

    Through anyio and not through the loop itself: where the package sniffio is installed, anyio asks it which library
    is running, and a reader's callback, which belongs to no task, could not tell (anyio 4.16, `start_soon`).
    """
    anyio.run(serve, backend_options={"use_uvloop": find_spec("uvloop") is not None})
