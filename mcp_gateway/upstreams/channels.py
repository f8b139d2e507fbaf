"""Agents' calls over duplex channels to one upstream: which call goes on which of them, and when.

Once the upstream has asked something in the middle of a call, calls of agents that can be asked have a channel to
themselves but for calls of the same side that wait for answers: nothing else tells whose a question is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Generic, TypeVar

from mcp_gateway.domain import Reply
from mcp_gateway.errors import TimedOut
from mcp_gateway.upstreams.connection import Answer, Limits, Listener, TooBusy
from mcp_gateway.upstreams.dialect import QUESTIONS
from mcp_gateway.upstreams.turns import Channel, StillTaken, Turns

C = TypeVar("C", bound=Channel)


class Channels(Generic[C]):
    """The channels to one upstream. `on_crowded`: see `Turns`."""

    def __init__(
        self, name: str, first: C, listener: Listener, limits: Limits, on_crowded: Callable[[], None] = lambda: None
    ) -> None:
        self.turns = Turns(first, on_crowded)
        self._name = name
        self._listener = listener
        self._limits = limits

    async def ask(self, reply: Reply, timeout_s: float, go: Callable[[C, float], Awaitable[Answer]]) -> Answer:
        """Wait for a channel, and `go` with it and the seconds that are left. Raises `UpstreamError`."""
        if self.turns.waiting >= self._limits.max_in_flight:
            raise TooBusy(self._name, f"upstream {self._name!r} has too many calls in flight")
        deadline = perf_counter() + timeout_s
        try:
            alone = self._listener.asks and _can_be_asked(reply)
            async with self.turns.turn(reply.side, alone=alone, within_s=timeout_s) as channel:
                return await go(channel, deadline - perf_counter())
        except StillTaken as e:
            words = f"upstream {self._name!r} is taken: calls of others still wait for their people's answers"
            raise TimedOut(self._name, words) from e


def _can_be_asked(reply: Reply) -> bool:
    """Whether the agent said that there is somebody, or something, to be asked."""
    return any(name in reply.capabilities for name in QUESTIONS)
