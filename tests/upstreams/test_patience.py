"""A hard limit on an upstream's own time, which cancels nothing but what it stands around."""

import asyncio

import pytest

from mcp_gateway.upstreams.connection import SILENT, Silent
from mcp_gateway.upstreams.patience import patience


class Thinking(Silent):
    """A person who has been asked something for so long."""

    def __init__(self) -> None:
        self.asked_at: float | None = None

    @property
    def waited_s(self) -> float:
        return 0.0 if self.asked_at is None else asyncio.get_running_loop().time() - self.asked_at


async def test_what_is_done_in_time_is_left_alone() -> None:
    with patience(10, SILENT):
        await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.mark.parametrize("timeout_s", [0.01, 0, -1])
async def test_what_takes_too_long_is_left_and_nothing_else_is_cancelled(timeout_s: float) -> None:
    with patience(timeout_s, SILENT):
        await asyncio.Event().wait()
        raise AssertionError
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_time_spent_waiting_for_a_person_does_not_count() -> None:
    reply, done = Thinking(), asyncio.Event()
    reply.asked_at = asyncio.get_running_loop().time()
    asyncio.get_running_loop().call_later(0.05, done.set)
    with patience(0.01, reply):
        await done.wait()
    assert done.is_set()


async def test_somebody_elses_cancellation_goes_its_way() -> None:
    async def work() -> None:
        with patience(10, SILENT):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_work_comes_out_as_it_is() -> None:
    with pytest.raises(ValueError, match="x"), patience(10, SILENT):
        raise ValueError("x")
