"""Who may be in flight together on a channel: of calls whose upstream could ask something, one is at work at a time.

A duplex channel does not tell which call a question belongs to. So where one may come, a call joins others only if each
of them waits for an answer (then it is not they who ask) and all are of one side: the same agent, person and task.
Where there are several channels to one upstream, a call goes to the first that has room for it. First come, first
served, so nobody waits for ever behind those who came later. Knows no messages.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
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
    def calls_asked(self) -> int:
        """How many calls on it do nothing but wait for their agent's answer; less than there are while one of them has
        it and is about to go on."""
        ...

    def note_inside(self, calls: int) -> None:
        """So many calls have a turn on it by now, those included that have not been sent yet."""
        ...

    def has_strays_besides(self, side: object) -> bool:
        """Whether calls of another side, which were given up, may still be at work there, and may still ask."""
        ...


C = TypeVar("C", bound=Channel)


@dataclass(eq=False, slots=True)
class _Comer:
    """One call that wants a turn: whose it is, and whether it has to be the only one at work."""

    side: object
    alone: bool


@dataclass(eq=False, slots=True)
class _Room(Generic[C]):
    """One channel and who is in flight on it."""

    channel: C
    inside: dict[_Comer, None] = field(default_factory=dict)
    is_one_sides: bool = False

    def fits(self, comer: _Comer) -> bool:
        """Whether one more could go now."""
        if comer.alone and self.channel.has_strays_besides(comer.side):
            return False
        if not (comer.alone or self.is_one_sides):
            return True
        return not self.inside or (self.holds_only(comer.side) and self.channel.calls_asked == len(self.inside))

    def holds_only(self, side: object) -> bool:
        """Whether nobody of another side is in flight."""
        return all(each.side == side for each in self.inside)

    def enter(self, comer: _Comer) -> None:
        self.inside[comer] = None
        self.channel.note_inside(len(self.inside))
        self.is_one_sides = self.is_one_sides or comer.alone

    def leave(self, comer: _Comer) -> None:
        del self.inside[comer]
        self.channel.note_inside(len(self.inside))
        self.is_one_sides = self.is_one_sides and bool(self.inside)


class Turns(Generic[C]):
    """Lets any number of calls on a channel together, or one at a time of one side.

    `on_crowded` is called when somebody waits although every channel only waits for an answer to its upstream's
    question, or for what strays on it to end: another channel would help, the upstream being faster would not.
    """

    def __init__(self, first: C, on_crowded: Callable[[], None] = lambda: None) -> None:
        self._rooms = [_Room(first)]
        self._on_crowded = on_crowded
        self._queue: deque[tuple[_Comer, asyncio.Future[_Room[C]]]] = deque()

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
            if room.channel.is_asking and room.inside and room.holds_only(next(iter(room.inside)).side):
                room.is_one_sides = True  # or the next question could be of a call that came meanwhile
        self._admit()

    @asynccontextmanager
    async def turn(self, side: object, *, alone: bool, within_s: float | None) -> AsyncIterator[C]:
        """Wait for a turn, and have it, on this channel, until the block is left. Raises `StillTaken`."""
        comer = _Comer(side, alone)
        room = None if self._queue else self._room_for(comer)
        if room is None:
            room = await self._wait(comer, within_s)
        else:
            room.enter(comer)
        try:
            yield room.channel
        finally:
            room.leave(comer)
            self._admit()

    async def _wait(self, comer: _Comer, within_s: float | None) -> _Room[C]:
        turn: asyncio.Future[_Room[C]] = asyncio.get_running_loop().create_future()
        self._queue.append((comer, turn))
        self._admit()
        try:
            async with asyncio.timeout(within_s):
                return await turn
        except (asyncio.CancelledError, TimeoutError) as e:
            if turn.cancelled():
                self._queue = deque(each for each in self._queue if each[1] is not turn)
            else:  # it was let in at the very moment it gave up
                turn.result().leave(comer)
            self._admit()
            if isinstance(e, TimeoutError):
                raise StillTaken from e
            raise

    def _admit(self) -> None:
        while self._queue:
            comer, turn = self._queue[0]
            room = self._room_for(comer)
            if room is None:
                break
            self._queue.popleft()
            if not turn.cancelled():
                room.enter(comer)
                turn.set_result(room)
        if self._queue and all(_is_held_up(room, self._queue[0][0]) for room in self._rooms):
            self._on_crowded()

    def _room_for(self, comer: _Comer) -> _Room[C] | None:
        for room in self._rooms:
            if room.fits(comer):
                return room
            if room.inside and not _is_held_up(room, comer) and room.holds_only(comer.side):
                return None  # its own call there is at work: it waits for that, and finds there what it left
        return None


def _is_held_up(room: _Room[C], comer: _Comer) -> bool:
    """Whether a channel waits for somebody, and not for its upstream."""
    waits_for_others = room.channel.is_asking and not room.holds_only(comer.side)
    return waits_for_others or room.channel.has_strays_besides(comer.side)
