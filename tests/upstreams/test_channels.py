"""Which agents' calls wait for a channel once its upstream is known to ask, and what those hear that wait in vain."""

import asyncio

import pytest

from fakes.replies import RecordingReply
from mcp_gateway.domain import Json
from mcp_gateway.errors import TimedOut
from mcp_gateway.upstreams.channels import Channels
from mcp_gateway.upstreams.connection import Limits, Listener, TooBusy


class Line:
    """A channel on which calls end when they are told to."""

    is_asking = False
    calls_asked = 0

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.end = asyncio.Event()

    def note_inside(self, calls: int) -> None:
        pass

    def has_strays_besides(self, side: object) -> bool:
        return False

    async def go(self, left_s: float) -> Json:
        self.calls.append(left_s)
        await self.end.wait()
        return {}


def agent(side: str, **capabilities: Json) -> RecordingReply:
    return RecordingReply(side=side, capabilities=capabilities)


async def begun(channels: Channels[Line], reply: RecordingReply, timeout_s: float = 5) -> "asyncio.Task[object]":
    task = asyncio.ensure_future(channels.ask(reply, timeout_s, lambda line, left_s: line.go(left_s)))
    for _ in range(5):
        await asyncio.sleep(0)
    return task


@pytest.mark.parametrize(("asks", "together"), [(False, 2), (True, 1)])
async def test_agents_that_can_be_asked_wait_for_each_other_only_where_something_is_asked(
    asks: bool, together: int
) -> None:
    line = Line()
    channels = Channels("up", line, Listener(asks=asks), Limits())
    tasks = [await begun(channels, agent(name, sampling={})) for name in ("alice", "bob")]
    assert len(line.calls) == together
    line.end.set()
    assert await asyncio.gather(*tasks) == [{}, {}]


async def test_the_time_spent_waiting_for_a_channel_counts() -> None:
    line = Line()
    channels = Channels("up", line, Listener(asks=True), Limits())
    first = await begun(channels, agent("alice", roots={}))
    second = await begun(channels, agent("bob", roots={}), timeout_s=1)
    line.end.set()
    await asyncio.gather(first, second)
    assert line.calls[1] < 1


async def test_whoever_waits_in_vain_is_told_why() -> None:
    channels = Channels("up", Line(), Listener(asks=True), Limits())
    first = await begun(channels, agent("alice", elicitation={}))
    with pytest.raises(TimedOut, match="others still wait for their people's answers"):
        await channels.ask(agent("bob", elicitation={}), 0.02, lambda line, left_s: line.go(left_s))
    first.cancel()


async def test_no_more_wait_than_may_be_in_flight() -> None:
    channels = Channels("up", Line(), Listener(asks=True), Limits(max_in_flight=1))
    tasks = [await begun(channels, agent(name, elicitation={})) for name in ("alice", "bob")]
    with pytest.raises(TooBusy):
        await channels.ask(agent("eve", elicitation={}), 1, lambda line, left_s: line.go(left_s))
    for task in tasks:
        task.cancel()
