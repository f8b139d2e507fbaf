"""Where `mcp-gateway stdio` hands its agent's streams to a gateway that runs already: one gateway for many windows.

A unix socket in the gateway's private folder (a loopback port where a platform has none). The first line of a
connection says who attaches and proves it with a token that only the owner of the state folder can read; whoever can
read that could as well start a gateway of their own, and so who the agent is, is theirs to say, as with any command
line. After one line in answer the connection is that agent's standard streams.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import anyio

from mcp_gateway.domain import Json
from mcp_gateway.errors import BadRequest, Complaint, ConfigInvalid, NotAuthenticated
from mcp_gateway.frontdoor.hello import Hello
from mcp_gateway.frontdoor.stdio import StdioDoor
from mcp_gateway.jsonrpc import dump, parse

MAX_HELLO_BYTES: Final = 16 * 1024
HELLO_S: Final = 5.0
"""How long whoever connects may take to say who it is."""

MAX_ATTACHED: Final = 1_000

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """What an agent that attaches is given."""

    door: StdioDoor
    until: Callable[[], Awaitable[None]] | None = None
    """Returns once it has to go (its started task is over); None: it may stay."""


@dataclass(frozen=True, slots=True)
class Attached:
    """One connection, for `status`."""

    agent: str
    task: str | None
    client: str
    since: float


class AttachDoor:
    """Serves those who attach until it is closed."""

    def __init__(
        self,
        open_for: Callable[[Hello], Opened],
        about: Callable[[], Json],
        token: str,
        version: str,
        config: str,
        clock: Callable[[], float],
    ) -> None:
        self._open_for = open_for
        self._about = about
        self._token = token
        self._version = version
        self._config = config
        self._clock = clock
        self._attached: dict[int, Attached] = {}
        self._count = 0
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def attached(self) -> tuple[Attached, ...]:
        """Who is there now."""
        return tuple(self._attached.values())

    @asynccontextmanager
    async def opened(self, listener: socket.socket) -> AsyncIterator[None]:
        """Take connections on a bound socket; at the end whoever is still attached is let go."""
        server = await asyncio.start_server(self._take, sock=listener, limit=MAX_HELLO_BYTES)
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def idle(self, linger_s: float, first_s: float) -> None:
        """Return once nobody has been attached for `linger_s`; the first one may take `first_s` to come."""
        wait_s = max(first_s, linger_s)
        while True:
            self._changed.clear()
            with anyio.move_on_after(None if self._attached else wait_s) as waiting:
                await self._changed.wait()
            if waiting.cancelled_caught and not self._attached:
                return
            wait_s = linger_s

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  asyncio runs this as a task
        self._tasks.add(task)
        try:
            with suppress(ConnectionError, OSError):
                await self._serve(reader, writer)
        except Exception:  # noqa: BLE001  a connection's own task: nobody awaits it, and the others go on
            _log.exception("an attached agent's connection ended")
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello, refusal = await self._hello(reader)
        if hello is None:
            await _say(writer, {"ok": False, **refusal})
            return
        if hello.want == "status":
            await _say(writer, {"ok": True, "status": self._about()})
            return
        try:
            opened = self._open_for(hello)
        except (ConfigInvalid, NotAuthenticated) as e:
            complaint = e.complaints[0] if isinstance(e, ConfigInvalid) else Complaint("", 0, str(e))
            await _say(writer, {"ok": False, "why": "agent", "message": complaint.message, "fix": complaint.fix})
            return
        await _say(writer, {"ok": True})
        with self._present(hello):
            await _serve_until(opened, reader, writer)

    def _present(self, hello: Hello) -> _Presence:
        self._count += 1
        return _Presence(
            self._attached, self._count, Attached(hello.agent, hello.task, hello.client, self._clock()), self._changed
        )

    async def _hello(self, reader: asyncio.StreamReader) -> tuple[Hello | None, Json]:
        """Who attaches; or None and what it is told."""
        try:
            with anyio.fail_after(HELLO_S):
                said = parse(await reader.readline())
            hello = Hello(**said) if isinstance(said, dict) else None
        except (TimeoutError, ValueError, TypeError, BadRequest):
            hello = None
        if hello is None or not hmac.compare_digest(str(hello.token).encode(), self._token.encode()):
            return None, {"why": "token", "message": "who attaches has to know the token in the state folder"}
        if hello.config != self._config:
            return None, {"why": "config", "message": f"this gateway serves {self._config}"}
        if hello.version != self._version and hello.want == "agent":
            return None, {"why": "version", "message": f"this gateway is version {self._version}"}
        if len(self._attached) >= MAX_ATTACHED:
            return None, {"why": "full", "message": f"at most {MAX_ATTACHED} agents at once"}
        return hello, {}


class _Presence:
    """Somebody is attached as long as this is entered."""

    def __init__(self, all_: dict[int, Attached], number: int, who: Attached, changed: asyncio.Event) -> None:
        self._all = all_
        self._number = number
        self._who = who
        self._changed = changed

    def __enter__(self) -> None:
        self._all[self._number] = self._who
        self._changed.set()

    def __exit__(self, *_: object) -> None:
        del self._all[self._number]
        self._changed.set()


async def _serve_until(opened: Opened, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if opened.until is None:
        await opened.door.serve(reader, writer)
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_after, opened.until, tasks.cancel_scope)
        await opened.door.serve(reader, writer)
        tasks.cancel_scope.cancel()


async def _cancel_after(until: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
    await until()
    scope.cancel()


async def _say(writer: asyncio.StreamWriter, message: Json) -> None:
    writer.write(dump(message) + b"\n")
    await writer.drain()
