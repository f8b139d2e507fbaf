"""An upstream that is our child process: started from its command, spoken to over stdin and stdout, in either era."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import anyio
from anyio.abc import TaskGroup

from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Era, Json, Reply, RpcError, UpstreamRequest
from mcp_gateway.errors import Unreachable, UpstreamError
from mcp_gateway.upstreams.child import Child, base_environment
from mcp_gateway.upstreams.connection import SILENT, Answer, Greeting, Limits, Listener, errands
from mcp_gateway.upstreams.dialect import HANDSHAKE, Dialect
from mcp_gateway.upstreams.handshake import Memory, greet
from mcp_gateway.upstreams.peer import Peer
from mcp_gateway.upstreams.relay import Verbosity


class StdioConnection:
    """A connection to a child. Made in a running event loop; whoever makes it has to `stop` it."""

    transport = "stdio"

    def __init__(self, config: ServerConfig, tasks: TaskGroup, listener: Listener, limits: Limits) -> None:
        self.broken = anyio.Event()
        self.why_broken = ""
        self.on_changed: Callable[[], None] = lambda: None
        self.greeting = Greeting(Era.LEGACY, HANDSHAKE.version)
        self._name = config.name
        self._limits = limits
        self._listener = listener
        self._dialect = HANDSHAKE
        self._verbosity = Verbosity()
        self._noise_bytes = 0
        self._peer = Peer(config.name, self._send, tasks, listener, limits, lambda: self.on_changed())
        self._child = self._started(config)

    @property
    def is_asking(self) -> bool:
        """See `turns.Channel`; `on_changed` is called when this or `has_strays_besides` may be another."""
        return self._peer.is_asking

    @property
    def calls_asked(self) -> int:
        """See `turns.Channel`."""
        return self._peer.calls_asked

    def note_inside(self, calls: int) -> None:
        """See `turns.Channel`."""
        self._peer.note_inside(calls)

    def has_strays_besides(self, side: object) -> bool:
        """See `turns.Channel`."""
        return self._peer.has_strays_besides(side)

    @property
    def stderr_tail(self) -> str:
        """The last the child wrote to stderr; may hold its secrets, see `redact`."""
        return self._child.stderr_tail

    async def greet(self, memory: Memory) -> None:
        """Settle the era. Raises `UpstreamError`."""
        capabilities = self._listener.question_capabilities
        self._dialect, self.greeting = await greet(self._name, self._probe, self._limits, memory, capabilities)
        if self._dialect.era is Era.LEGACY:
            self._peer.notify("notifications/initialized")

    async def ask(self, request: UpstreamRequest, reply: Reply, timeout_s: float) -> Answer:
        """Ask one thing; see `Connection.ask`. Whoever calls sees to it which calls share it (`turns`)."""
        deadline = perf_counter() + timeout_s
        if self._dialect.era is Era.LEGACY:
            level = self._verbosity.raised_to(reply.log_level)
            if level is not None and "logging" in self.greeting.capabilities:
                await self._peer.set_level(self._dialect, level)
        return await self._peer.ask(self._dialect, request.method, request.params, reply, deadline - perf_counter())

    async def listen(self, notifications: Json) -> None:
        """Hold a `subscriptions/listen`; see `Connection.listen`."""
        params: dict[str, Any] = {"notifications": notifications}
        answer = await self._peer.ask(self._dialect, "subscriptions/listen", params, SILENT, None)
        if isinstance(answer, RpcError):
            raise LookupError(f"subscriptions/listen: error {answer.code}")

    async def stop(self) -> None:
        """End the child and everything it started; calls in flight fail now."""
        self.break_off("was stopped")
        await self._child.stop()

    def _started(self, config: ServerConfig) -> Child:
        if config.command is None:
            raise Unreachable(config.name, f"upstream {config.name!r} has no command")
        try:
            return Child(
                config.command,
                base_environment(os.environ) | dict(config.env),
                config.cwd,
                on_line=self._receive,
                on_end=self.break_off,
                max_line_bytes=self._limits.max_message_bytes,
                max_unread_bytes=self._limits.max_unread_bytes,
            )
        except (OSError, ValueError) as e:
            raise Unreachable(config.name, f"upstream {config.name!r} could not be started: {_words_for(e)}") from e

    async def _probe(self, dialect: Dialect, method: str, params: Json, timeout_s: float) -> Answer:
        return await self._peer.ask(dialect, method, params, SILENT, timeout_s, cancellable=False)

    def _receive(self, line: bytes) -> None:
        if self._peer.receive(line):
            self._noise_bytes = 0
            return
        self._noise_bytes += len(line)
        if self._noise_bytes > self._limits.max_noise_bytes:
            self.break_off("floods its output with what is no message")

    def _send(self, line: bytes) -> None:
        try:
            self._child.write(line)
        except BufferError as e:
            raise Unreachable(self._name, f"upstream {self._name!r} does not read its input") from e
        except BrokenPipeError as e:
            raise Unreachable(self._name, f"upstream {self._name!r} {self.why_broken or 'closed its input'}") from e

    def carry(self, headers: Mapping[str, str]) -> None:
        """Nothing: this transport has no credential that changes."""

    def break_off(self, why: str) -> None:
        """See `Connection.break_off`; the first reason counts."""
        if not self.broken.is_set():
            self.why_broken = why
            self._peer.close(Unreachable(self._name, f"upstream {self._name!r} {why} before it answered"))
            self.broken.set()


def _words_for(error: OSError | ValueError) -> str:
    """Why a command could not be started; the error's own text may quote arguments, and those may hold secrets."""
    if isinstance(error, FileNotFoundError):
        return "its command, or the folder it is to run in, does not exist"
    return (os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "") or "it cannot be used"


@asynccontextmanager
async def open_stdio(
    config: ServerConfig, listener: Listener, limits: Limits, memory: Memory
) -> AsyncIterator[StdioConnection]:
    """A connection to a fresh child, its era settled; the child is gone when the block is left."""
    async with errands() as tasks:
        connection = StdioConnection(config, tasks, listener, limits)
        try:
            await connection.greet(memory)
            yield connection
        except UpstreamError as e:
            await connection.stop()  # only now has all of its stderr been read
            e.add_note(connection.stderr_tail)
            raise
        finally:
            await connection.stop()
