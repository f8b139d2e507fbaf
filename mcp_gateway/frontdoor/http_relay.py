"""The answer to an agent that speaks plain HTTP: passed on piece by piece, its end held until it is written down.

What is known in whole leaves in one write with its length; what comes in pieces leaves as it comes. Ends the work on an
answer as soon as its agent has hung up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from anyio import CancelScope
from starlette.types import Receive, Send

_STREAM_HEADERS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))


class HttpRelay:
    """`domain.Relay` on ASGI."""

    def __init__(self, send: Send, more_headers: Mapping[str, str], error_event: Callable[[Exception], bytes]) -> None:
        self.scope = CancelScope()
        self.is_begun = False
        self._send = send
        self._more_headers = more_headers
        self._error_event = error_event
        self._status = 200
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_streaming = False
        self._held: list[bytes] = []
        self._afterwards: list[Callable[[], None]] = []

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Commit to an answer; its head leaves with the first of the body."""
        self.is_begun = True
        self._status = status
        everything = {**headers, **self._more_headers}
        self._headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in everything.items()]

    async def write(self, piece: bytes) -> None:
        if not self._is_streaming:
            self._is_streaming = True
            headers = [*self._headers, *_STREAM_HEADERS]
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
            headers = [*self._headers, (b"content-length", b"%d" % len(body))]
            await self._send({"type": "http.response.start", "status": self._status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    @asynccontextmanager
    async def watched(self, receive: Receive) -> AsyncIterator[None]:
        """While in here, an agent that hangs up ends the work on its answer."""
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
