"""The event loop that the long-running commands run on: uvloop where there is one."""

from __future__ import annotations

import ctypes
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Final

import anyio

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
"""Names of `mallopt` (malloc.h of glibc)."""

KEPT_BYTES: Final = 16 * 2**20
MAPPED_FROM_BYTES: Final = 2**20


def run_loop(serve: Callable[[], Awaitable[None]]) -> None:
    """Run `serve` to its end.

    Through anyio and not through the loop itself: where the package sniffio is installed, anyio asks it which library
    is running, and a reader's callback, which belongs to no task, could not tell (anyio 4.16, `start_soon`).
    """
    keep_freed_memory()
    anyio.run(serve, backend_options={"use_uvloop": find_spec("uvloop") is not None})


def keep_freed_memory() -> None:
    """Have the C library keep up to `KEPT_BYTES` of memory that was freed, for what comes next.

    By default it gives 128 KiB back to the system as soon as they are free, and every large result begins with asking
    for them again, page by page. Only glibc has this; elsewhere nothing happens.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
