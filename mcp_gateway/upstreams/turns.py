"""Who may be in flight together on a channel: calls whose upstream could ask something about them go alone.

A duplex channel does not tell which call a question belongs to: sure is that only while there is exactly one. Where
there are several channels to one upstream, a call goes to the first that has room for it. First come, first served, so
nobody waits for ever behind those who came later. Knows no messages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class StillTaken(Exception):
    """No turn within the time there was."""


class Channel(Protocol):
    """What turns have to know of a channel."""

    @property
    def is_asking(self) -> bool:
        """Whether its upstream waits for somebody's answer."""
        ...

    @property
    def has_strays(self) -> bool:
        """Whether calls that were given up may still be at work there, and may still ask."""
        ...


C = TypeVar("C", bound=Channel)


@dataclass(eq=False, slots=True)
class _Room(Generic[C]):
    """One channel and who is in flight on it."""

    channel: C
    inside: int = 0
    is_one_alone: bool = False

    def fits(self, *, alone: bool) -> bool:
        """Whether one more could go now."""
        return not self.is_one_alone and not (alone and (self.inside or self.channel.has_strays))

    def enter(self, *, alone: bool) -> None:
        self.inside += 1
        self.is_one_alone = alone

    def leave(self) -> None:
        self.inside -= 1
        self.is_one_alone = False


class Turns(Generic[C]):
    """Lets any number of calls on a channel together, or one alone.

    `on_crowded` is called when somebody waits although every channel only waits for an answer to its upstream's
    question, or for what strays on it to end: another channel would help, the upstream being faster would not.
    """

    def __init__(self, first: C, on_crowded: Callable[[], None] = lambda: None) -> None:
        self._rooms = [_Room(first)]
        self._on_crowded = on_crowded
        self._queue: deque[tuple[bool, asyncio.Future[_Room[C]]]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    def add(self, channel: C) -> None:
        """Let calls go to one more channel."""
        self._rooms.append(_Room(channel))
        self.look_again()

    def remove(self, channel: C) -> None:
        """Send nobody to a channel any more; those on it stay."""
        self._rooms = [room for room in self._rooms if room.channel is not channel]

    def is_empty(self, channel: C) -> bool:
        """Whether nobody is in flight on a channel."""
        return not any(room.inside for room in self._rooms if room.channel is channel)

    def look_again(self) -> None:
        """Something about a channel is another: perhaps somebody can go now, or nobody can for long."""
        for room in self._rooms:
            if room.channel.is_asking and room.inside == 1:
                room.is_one_alone = True  # or the next question could be of a call that came meanwhile
        self._admit()

    @asynccontextmanager
    async def turn(self, *, alone: bool, within_s: float | None) -> AsyncIterator[C]:
        """Wait for a turn, and have it, on this channel, until the block is left. Raises `StillTaken`."""
        room = None if self._queue else self._room_for(alone=alone)
        if room is None:
            room = await self._wait(alone, within_s)
        else:
            room.enter(alone=alone)
        try:
            yield room.channel
        finally:
            room.leave()
            self._admit()

    async def _wait(self, alone: bool, within_s: float | None) -> _Room[C]:
        turn: asyncio.Future[_Room[C]] = asyncio.get_running_loop().create_future()
        self._queue.append((alone, turn))
        self._admit()
        try:
            async with asyncio.timeout(within_s):
                return await turn
        except (asyncio.CancelledError, TimeoutError) as e:
            if turn.cancelled():
                self._queue = deque(each for each in self._queue if each[1] is not turn)
            else:  # it was let in at the very moment it gave up
                turn.result().leave()
            self._admit()
            if isinstance(e, TimeoutError):
                raise StillTaken from e
            raise

    def _admit(self) -> None:
        while self._queue:
            alone, turn = self._queue[0]
            room = self._room_for(alone=alone)
            if room is None:
                break
            self._queue.popleft()
            if not turn.cancelled():
                room.enter(alone=alone)
                turn.set_result(room)
        if self._queue and all(room.channel.is_asking or room.channel.has_strays for room in self._rooms):
            self._on_crowded()

    def _room_for(self, *, alone: bool) -> _Room[C] | None:
        return next((room for room in self._rooms if room.fits(alone=alone)), None)
