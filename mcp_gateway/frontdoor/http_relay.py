"""The answer to an agent that speaks plain HTTP: passed on piece by piece, its end held until it is written down.

What is known in whole leaves in one write with its length; what comes in pieces leaves as it comes. Ends the work on an
answer as soon as its agent has hung up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from anyio import CancelScope
from starlette.types import Receive, Send

_STREAM_HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


class Connection(Protocol):
    """Where an HTTP exchange takes place."""

    is_disconnected: bool

    def on_hang_up(self, call: Callable[[], None] | None) -> None: ...


class HttpRelay:
    """`domain.Relay` on ASGI."""

    def __init__(self, send: Send, more_headers: Mapping[str, str], error_event: Callable[[Exception], bytes]) -> None:
        self.scope = CancelScope()
        self.is_begun = False
        self._send = send
        self._more_headers = more_headers
        self._error_event = error_event
        self.late_headers: Callable[[], Mapping[str, str]] = dict
        """More headers, asked for when the head leaves."""
        self._status = 200
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_streaming = False
        self._held: list[bytes] = []
        self._afterwards: list[Callable[[], None]] = []

    @property
    def has_left(self) -> bool:
        """Whether some of the answer is on its way: then there can be no other one."""
        return self._is_streaming

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Commit to an answer; its head leaves with the first of the body."""
        self.is_begun = True
        self._status = status
        everything = {**headers, **self._more_headers}
        self._headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in everything.items()]

    async def write(self, piece: bytes) -> None:
        if not self._is_streaming:
            self._is_streaming = True
            headers = [*self._headers, *self._late(), *_STREAM_HEADERS]
            await self._send({"type": "http.response.start", "status": self._status, "headers": headers})
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    def hold(self, piece: bytes) -> None:
        self._held.append(piece)

    def hold_error(self, error: Exception) -> None:
        self._held.append(self._error_event(error))

    def afterwards(self, do: Callable[[], None]) -> None:
        self._afterwards.append(do)

    async def finish(self) -> None:
        """Send what was held, and end."""
        for do in self._afterwards:
            do()
        body = b"".join(self._held)
        if not self._is_streaming:
            headers = [*self._headers, *self._late(), (b"content-length", b"%d" % len(body))]
            await self._send({"type": "http.response.start", "status": self._status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _late(self) -> list[tuple[bytes, bytes]]:
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.late_headers().items()]

    @asynccontextmanager
    async def watched(self, receive: Receive, connection: Connection | None = None) -> AsyncIterator[None]:
        """While in here, an agent that hangs up ends the work on its answer. `connection`: what tells, without a task
        that waits for it."""
        if connection is not None:
            connection.on_hang_up(self.scope.cancel)
            if connection.is_disconnected:
                self.scope.cancel()
            try:
                yield
            finally:
                connection.on_hang_up(None)
            return
        watcher = asyncio.create_task(self._cancel_on_hang_up(receive))
        try:
            yield
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher

    async def _cancel_on_hang_up(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.scope.cancel()
