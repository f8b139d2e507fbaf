"""Who may be in flight together on one channel: calls whose upstream could ask something about them go alone.

A duplex channel does not tell which call a question belongs to: sure is that only while there is exactly one. First
come, first served, so nobody waits for ever behind those who came later. Knows no messages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class StillTaken(Exception):
    """No turn within the time there was."""


class Turns:
    """Lets any number of calls in together, or one alone."""

    def __init__(self) -> None:
        self._inside = 0
        self._is_one_alone = False
        self._queue: deque[tuple[bool, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    @asynccontextmanager
    async def turn(self, *, alone: bool, within_s: float | None) -> AsyncIterator[None]:
        """Wait for a turn, and have it until the block is left. Raises `StillTaken`."""
        if self._queue or not self._fits(alone):
            await self._wait(alone, within_s)
        else:
            self._enter(alone)
        try:
            yield
        finally:
            self._inside -= 1
            self._is_one_alone = False
            self._admit()

    async def _wait(self, alone: bool, within_s: float | None) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queue.append((alone, turn))
        try:
            async with asyncio.timeout(within_s):
                await turn
        except (asyncio.CancelledError, TimeoutError) as e:
            if turn.cancelled():
                self._queue = deque(each for each in self._queue if each[1] is not turn)
            else:  # it was let in at the very moment it gave up
                self._inside -= 1
                self._is_one_alone = False
            self._admit()
            if isinstance(e, TimeoutError):
                raise StillTaken from e
            raise

    def _admit(self) -> None:
        while self._queue and self._fits(self._queue[0][0]):
            alone, turn = self._queue.popleft()
            if not turn.cancelled():
                self._enter(alone)
                turn.set_result(None)

    def _fits(self, alone: bool) -> bool:
        return not self._is_one_alone and not (alone and self._inside)

    def _enter(self, alone: bool) -> None:
        self._inside += 1
        self._is_one_alone = alone
