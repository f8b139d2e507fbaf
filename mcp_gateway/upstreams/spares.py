"""A stdio upstream's child, and spare ones of the same command for as long as the others wait for people's answers.

An upstream of the handshake era that asks something over stdio does not say about which call, so a call that may be
asked has a child to itself (`channels`). Without more children, one person's thinking would hold up everybody. A
spare is started when somebody waits and every child there is only waits for an answer; it is ended when nobody has
needed it for a while. Everything that is not a call of an agent's goes to the first child: lists, subscriptions, pings.

A server that keeps state in its memory would show another state in a spare: `children = 1` in servers.toml.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import anyio
from anyio.abc import TaskGroup

from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Era, Json, Reply, UpstreamRequest
from mcp_gateway.errors import Misbehaved, UpstreamError
from mcp_gateway.upstreams.channels import Channels
from mcp_gateway.upstreams.connection import SILENT, Answer, Greeting, Limits, Listener, errands
from mcp_gateway.upstreams.handshake import Memory
from mcp_gateway.upstreams.stdio import StdioConnection, open_stdio

IDLE_S: Final = 60.0
"""A spare that nobody uses after so long is ended."""

TRY_AGAIN_S: Final = 30.0
"""After a spare could not be started: a server that can run only once would refuse the next one too."""

OpenSpare = Callable[[], AbstractAsyncContextManager[StdioConnection]]

_log = logging.getLogger(__name__)


class Children:
    """`Connection` over all children of one stdio upstream; as good as its first, and broken with it."""

    transport = "stdio"

    def __init__(
        self, config: ServerConfig, first: StdioConnection, open_spare: OpenSpare, tasks: TaskGroup, limits: Limits,
        listener: Listener,
    ) -> None:  # fmt: skip
        self._first = first
        self._config = config
        self._open_spare = open_spare
        self._tasks = tasks
        self._spares = 0
        self._is_starting = False
        self._not_before = 0.0
        self._channels = Channels(config.name, first, listener, limits, self._start_spare)
        first.on_changed = self._channels.turns.look_again

    @property
    def greeting(self) -> Greeting:
        return self._first.greeting

    @property
    def broken(self) -> anyio.Event:
        return self._first.broken

    @property
    def why_broken(self) -> str:
        return self._first.why_broken

    def carry(self, headers: Mapping[str, str]) -> None:
        """Nothing: children have no credential that changes."""

    def break_off(self, why: str) -> None:
        """See `Connection.break_off`."""
        self._first.break_off(why)

    async def ask(self, request: UpstreamRequest, reply: Reply, timeout_s: float) -> Answer:
        """Ask one thing; see `Connection.ask`."""
        # A modern upstream's questions are answers to the call they belong to.
        if reply is SILENT or self._first.greeting.era is Era.MODERN:
            return await self._first.ask(request, reply, timeout_s)
        return await self._channels.ask(reply, timeout_s, lambda child, left_s: child.ask(request, reply, left_s))

    async def listen(self, notifications: Json) -> None:
        """See `Connection.listen`."""
        await self._first.listen(notifications)

    def _start_spare(self) -> None:
        is_allowed = 1 + self._spares < self._config.children and anyio.current_time() >= self._not_before
        if is_allowed and not self._is_starting and not self._first.broken.is_set():
            self._is_starting = True
            self._spares += 1
            self._tasks.start_soon(self._run_spare)

    async def _run_spare(self) -> None:
        """One spare from its start to its end."""
        try:
            async with self._open_spare() as spare:
                self._check_like_the_first(spare)
                self._is_starting = False
                await self._lend(spare)
        except UpstreamError as e:
            self._not_before = anyio.current_time() + TRY_AGAIN_S
            _log.warning("upstream %s: another process of it could not be used: %s", self._config.name, e)
        finally:
            self._is_starting = False
            self._spares -= 1
        self._channels.turns.look_again()

    async def _lend(self, spare: StdioConnection) -> None:
        """Let calls go to it until it breaks or nobody needs it."""
        turns = self._channels.turns
        spare.on_changed = turns.look_again
        turns.add(spare)
        try:
            while not spare.broken.is_set():
                with anyio.move_on_after(IDLE_S):
                    await spare.broken.wait()
                if turns.is_empty(spare):
                    return
        finally:
            turns.remove(spare)

    def _check_like_the_first(self, spare: StdioConnection) -> None:
        if spare.greeting.era is not self._first.greeting.era:
            raise Misbehaved(self._config.name, "it speaks another era of the protocol than the first one")


@asynccontextmanager
async def open_children(
    config: ServerConfig, listener: Listener, limits: Limits, memory: Memory
) -> AsyncIterator[Children]:
    """A connection to a fresh child and its spares; all are gone when the block is left. Raises `UpstreamError`."""

    def open_spare() -> AbstractAsyncContextManager[StdioConnection]:
        return open_stdio(config, listener, limits, memory)

    async with open_stdio(config, listener, limits, memory) as first, errands() as tasks:
        yield Children(config, first, open_spare, tasks, limits, listener)
