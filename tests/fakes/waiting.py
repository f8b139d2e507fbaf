"""Waiting for something to become true, instead of sleeping and hoping."""

import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


async def until(condition: Callable[[], T | Awaitable[T]], within_s: float = 5.0, every_s: float = 0.01) -> T:
    """Poll `condition` (a function, or a coroutine function) until what it returns is true, and return that.

    Raises `AssertionError`, with what the condition said last, when `within_s` has passed. An exception of the
    condition itself goes through.
    """
    last: object = None
    with anyio.move_on_after(within_s):
        while True:
            said = condition()
            last = value = await said if inspect.isawaitable(said) else said
            if value:
                return value
            await anyio.sleep(every_s)
    raise AssertionError(f"not true within {within_s} s; last said: {last!r}")
