"""One timer for all: everybody is looked at in time, and only then."""

import asyncio

from fakes.waiting import until
from mcp_gateway.timers import SharedTimer, shared_timer


class One:
    def __init__(self, due: float, again: tuple[float, ...] = ()) -> None:
        self.due = due
        self.again = list(again)
        self.looked_at: list[float] = []

    def look(self, now: float) -> bool:
        self.looked_at.append(now)
        if self.again:
            self.due = now + self.again.pop(0)
            return False
        return True


async def test_everybody_is_looked_at_in_time_whatever_the_order() -> None:
    loop = asyncio.get_running_loop()
    timer, now = SharedTimer(loop), loop.time()
    late, early = One(now + 0.04), One(now + 0.01)
    timer.add(late)
    timer.add(early)
    await until(lambda: late.looked_at)
    assert early.looked_at[0] < late.looked_at[0]
    assert early.looked_at[0] >= early.due
    assert late.looked_at[0] >= late.due


async def test_what_is_not_over_is_looked_at_again() -> None:
    timer = shared_timer()
    one = One(timer.loop.time(), again=(0.01, 0.01))
    timer.add(one)
    await until(lambda: len(one.looked_at) == 3)


async def test_what_was_discarded_is_not_looked_at() -> None:
    timer = shared_timer()
    gone, other = One(timer.loop.time()), One(timer.loop.time() + 0.01)
    timer.add(gone)
    timer.add(other)
    timer.discard(gone)
    timer.discard(gone)
    await until(lambda: other.looked_at)
    assert not gone.looked_at


async def test_one_that_comes_after_the_timer_ran_out_is_looked_at_too() -> None:
    timer = shared_timer()
    for _ in range(2):
        one = One(timer.loop.time())
        timer.add(one)
        await until(lambda one=one: one.looked_at)


async def test_a_loop_has_one_timer() -> None:
    assert shared_timer() is shared_timer()
    assert shared_timer().loop is asyncio.get_running_loop()
