"""Any number together, or one alone; first come, first served; nobody is forgotten and nobody counted twice."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest

from mcp_gateway.upstreams.turns import StillTaken, Turns


@dataclass(eq=False)
class Line:
    """A channel."""

    is_asking: bool = False
    calls_asked: int = 0
    strays_of: str = ""
    inside: int = 0

    def note_inside(self, calls: int) -> None:
        self.inside = calls

    def has_strays_besides(self, side: object) -> bool:
        return self.strays_of not in ("", side)


class Room:
    """Who is inside at the moment, and in which order they came in."""

    def __init__(self) -> None:
        self.line = Line()
        self.turns = Turns(self.line)
        self.inside: dict[str, bool] = {}
        self.order: list[str] = []

    @asynccontextmanager
    async def turn(self, name: str, *, alone: bool, within_s: float | None = 5) -> AsyncIterator[None]:
        async with self.turns.turn(name, alone=alone, within_s=within_s):
            self.inside[name] = alone
            self.order.append(name)
            assert len(self.inside) == 1 or not any(self.inside.values())
            try:
                yield
            finally:
                del self.inside[name]

    def enter(self, name: str, *, alone: bool, leave: asyncio.Event) -> asyncio.Task[None]:
        async def stay() -> None:
            async with self.turn(name, alone=alone):
                await leave.wait()

        return asyncio.ensure_future(stay())

    @property
    def is_empty(self) -> bool:
        kept = (self.inside, self.turns.is_empty(self.line), self.turns.waiting, self.line.inside)
        return kept == ({}, True, 0, 0)


async def test_calls_go_together_and_one_alone_waits_for_them_and_they_for_it() -> None:
    room, leave = Room(), asyncio.Event()
    names = [("a", False), ("b", False), ("alone", True), ("c", False), ("d", False)]
    tasks = [room.enter(name, alone=alone, leave=leave) for name, alone in names]
    await anyio.wait_all_tasks_blocked()
    assert room.order == ["a", "b"]
    leave.set()
    await asyncio.gather(*tasks)
    assert room.order == ["a", "b", "alone", "c", "d"]
    assert room.is_empty


async def test_nobody_waits_longer_than_they_said() -> None:
    room, leave = Room(), asyncio.Event()
    task = room.enter("alone", alone=True, leave=leave)
    await anyio.wait_all_tasks_blocked()
    with pytest.raises(StillTaken):
        async with room.turn("late", alone=False, within_s=0.01):
            pytest.fail("let in")
    assert room.turns.waiting == 0
    leave.set()
    await task
    assert room.is_empty


async def test_one_that_gives_up_lets_those_behind_it_in() -> None:
    room, leave = Room(), asyncio.Event()
    first = room.enter("first", alone=False, leave=leave)
    second = room.enter("second", alone=True, leave=leave)
    third = room.enter("third", alone=False, leave=leave)
    await anyio.wait_all_tasks_blocked()
    second.cancel()
    await anyio.wait_all_tasks_blocked()
    assert room.order == ["first", "third"]
    leave.set()
    await asyncio.gather(first, third)
    assert room.is_empty


async def test_one_cancelled_at_the_very_moment_it_is_let_in_keeps_nothing() -> None:
    room, leave, never = Room(), asyncio.Event(), asyncio.Event()
    first = room.enter("first", alone=True, leave=leave)
    second = room.enter("second", alone=True, leave=never)
    third = room.enter("third", alone=True, leave=leave)
    await anyio.wait_all_tasks_blocked()
    leave.set()
    while room.turns.waiting == 2:
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert room.order == ["first", "third"]
    assert room.is_empty


async def test_whatever_happens_everybody_has_a_turn_and_nothing_is_left() -> None:
    room, chance = Room(), random.Random(7)

    async def come(name: str) -> None:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        async with room.turn(name, alone=chance.random() < 0.5):
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(come(str(n))) for n in range(300)]
    for task in chance.sample(tasks, 100):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(task.cancelled() or task.exception() is None for task in tasks)
    assert room.is_empty


# More than one channel


async def enter(turns: Turns[Line], side: str, *, leave: asyncio.Event, alone: bool = True) -> "asyncio.Queue[Line]":
    """Come in and stay until told to leave; the channel is in the queue once there is a turn."""
    got: asyncio.Queue[Line] = asyncio.Queue()

    async def stay() -> None:
        async with turns.turn(side, alone=alone, within_s=5) as line:
            got.put_nowait(line)
            await leave.wait()

    task = asyncio.ensure_future(stay())
    task.add_done_callback(lambda done: done.exception())
    await anyio.wait_all_tasks_blocked()
    return got


async def test_a_call_that_is_being_asked_about_goes_on_alone_although_it_came_with_others_allowed() -> None:
    line, leave = Line(), asyncio.Event()
    turns = Turns(line)
    await enter(turns, "a", alone=False, leave=leave)
    line.is_asking = True
    turns.look_again()
    late = await enter(turns, "b", alone=False, leave=leave)
    assert late.empty()
    leave.set()
    assert await late.get() is line


async def test_a_call_joins_those_of_its_own_side_that_only_wait_for_an_answer() -> None:
    line, leave = Line(is_asking=True), asyncio.Event()
    turns = Turns(line)
    assert not (await enter(turns, "a", leave=leave)).empty()
    second = await enter(turns, "a", leave=leave)
    assert second.empty(), "the first one is at work"
    line.calls_asked = 1
    turns.look_again()
    await anyio.wait_all_tasks_blocked()
    assert not second.empty()
    third = await enter(turns, "a", alone=False, leave=leave)
    assert third.empty(), "now the second one is"
    line.calls_asked = 2
    others = await enter(turns, "b", leave=leave)
    turns.look_again()
    await anyio.wait_all_tasks_blocked()
    assert (third.empty(), others.empty()) == (False, True)
    leave.set()
    assert await others.get() is line


async def test_a_slow_upstream_is_not_crowded_but_one_that_waits_for_a_person_is() -> None:
    line, leave, crowded = Line(), asyncio.Event(), list[str]()
    turns = Turns(line, lambda: crowded.append("!"))
    await enter(turns, "a", leave=leave)
    waiting = await enter(turns, "b", leave=leave)
    assert crowded == []
    line.is_asking = True
    turns.look_again()
    assert crowded == ["!"]
    more = Line()
    turns.add(more)
    assert await waiting.get() is more
    leave.set()


async def test_a_call_that_may_be_asked_waits_while_one_of_another_side_that_was_given_up_could_still_ask() -> None:
    line, leave, crowded = Line(strays_of="a"), asyncio.Event(), list[str]()
    leave.set()
    turns = Turns(line, lambda: crowded.append("!"))
    assert not (await enter(turns, "b", alone=False, leave=leave)).empty()
    assert not (await enter(turns, "a", leave=leave)).empty()
    waiting = await enter(turns, "b", leave=leave)
    assert (waiting.empty(), crowded) == (True, ["!"])
    line.strays_of = ""
    turns.look_again()
    assert await waiting.get() is line


async def test_the_first_channel_is_taken_as_long_as_it_has_room_and_a_removed_one_never() -> None:
    first, second, leave = Line(), Line(), asyncio.Event()
    turns = Turns(first)
    turns.add(second)
    lines = [await enter(turns, name, leave=leave) for name in ("a", "b")]
    assert [await line.get() for line in lines] == [first, second]
    turns.remove(second)
    assert turns.is_empty(second)
    waiting = await enter(turns, "b", leave=leave)
    assert waiting.empty()
    leave.set()
    assert await waiting.get() is first


async def test_a_call_waits_for_another_of_its_side_that_is_at_work_rather_than_go_elsewhere() -> None:
    first, leave, crowded = Line(is_asking=True), asyncio.Event(), list[str]()
    turns = Turns(first, lambda: crowded.append("!"))
    turns.add(Line())
    assert not (await enter(turns, "a", leave=leave)).empty()
    waiting = await enter(turns, "a", leave=leave)
    assert (waiting.empty(), crowded) == (True, [])
    leave.set()
    assert await waiting.get() is first
