"""One timer for everything under way at once: a timer for each call costs more than looking at all that are late."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Final, Protocol


class Waiting(Protocol):
    """Something to be looked at when its time has come."""

    @property
    def due(self) -> float:
        """When, in the loop's time."""
        ...

    def look(self, now: float) -> bool:
        """Whether it is over; if not, it is looked at again when `due`, which must be later than `now` then."""
        ...


class SharedTimer:
    """What waits on one event loop. Nobody is looked at early; `add` and `discard` cost next to nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: Final = loop
        self._waiting: dict[Waiting, None] = {}
        self._due = inf
        self._handle: asyncio.TimerHandle | None = None

    def add(self, one: Waiting) -> None:
        """Look at it when it is due."""
        self._waiting[one] = None
        if one.due < self._due:
            self._set(one.due)

    def discard(self, one: Waiting) -> None:
        """Look at it no more; what is not there is fine. The timer stays: whoever comes next will need one."""
        self._waiting.pop(one, None)

    def _set(self, due: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._due = due
        self._handle = self.loop.call_at(due, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        self._handle, self._due = None, inf
        for one in [one for one in self._waiting if one.due <= now]:
            if one.look(now):
                self.discard(one)
        if self._waiting:
            self._set(min(one.due for one in self._waiting))


_timers: list[SharedTimer] = []


def shared_timer() -> SharedTimer:
    """The timer of the running loop. A process has one loop; tests have one after the other."""
    loop = asyncio.get_running_loop()
    if not _timers or _timers[0].loop is not loop:
        _timers[:] = [SharedTimer(loop)]
    return _timers[0]
