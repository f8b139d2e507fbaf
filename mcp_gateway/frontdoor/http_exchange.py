"""One request on a connection and its answer, as ASGI's `receive` and `send`; and what our own doors may have besides.

An answer that is whole leaves in one write. What an application sends is held to what HTTP allows: a length that is
kept, one head, and no header that would end another one.

Knows nothing of MCP.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from starlette.types import ASGIApp, Message, Scope

if TYPE_CHECKING:
    from mcp_gateway.frontdoor.http_connection import BoundedConnection

MAX_UNREAD_BYTES: Final = 64 * 1024
"""Body that the application has not taken; beyond it the connection is not read from."""

EXCHANGE: Final = "mcp_gateway.exchange"
"""A scope's member: the `Exchange`, for an application that wants more of it than ASGI offers."""

KEPT: Final = "mcp_gateway.kept"
"""A scope's member: a dict for what follows from this very head, for the next request that has it byte for byte, but
for the value of `Content-Length`. It lives as long as the connection. Not every scope has one."""

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

_logger: Final = logging.getLogger(__name__)


class Exchange:
    """One request and its answer, as ASGI's `receive` and `send`."""

    __slots__ = (
        "_body", "_connection", "_head", "_is_taken", "_left_bytes", "_on_hang_up", "_scope", "_waiter",
        "expects_continue", "is_answered", "is_disconnected", "is_whole", "keeps_alive", "task",
    )  # fmt: skip

    def __init__(self, connection: BoundedConnection, scope: Scope, *, keeps_alive: bool) -> None:
        self.task: asyncio.Task[None]
        self.keeps_alive = keeps_alive
        self.expects_continue = False
        self.is_whole = False
        self.is_answered = False
        self.is_disconnected = False
        self._connection = connection
        self._scope = scope
        self._body = b""
        self._is_taken = False
        self._waiter: asyncio.Future[None] | None = None
        self._head: bytes | None = None
        self._left_bytes: int | None = None
        self._on_hang_up: Callable[[], None] | None = None
        scope[EXCHANGE] = self

    @property
    def has_begun(self) -> bool:
        """Whether the application has begun to answer."""
        return self._head is not None

    @property
    def held(self) -> bytes:
        """The body as far as it has come and was not taken."""
        return self._body

    @property
    def has_whole_body(self) -> bool:
        """Whether `receive` would give the whole body at once."""
        return self.is_whole and not self._is_taken

    def hold(self, body: bytes) -> None:
        """The whole body, which came with the head."""
        self._body = body
        self.is_whole = True

    def take_whole(self) -> bytes | None:
        """The whole body if it has come and nobody has taken it; else None. Then there is nothing to `receive`."""
        if not self.is_whole or self._is_taken:
            return None
        body, self._body = self._body, b""
        self._is_taken = True
        return body

    def give_back(self, body: bytes) -> None:
        """Undo `take_whole`."""
        self._body, self._is_taken = body, False

    def with_kept(self) -> Scope:
        """The scope for requests with the same head, and from now on a place for what follows from it."""
        self._scope[KEPT] = {}
        return {name: value for name, value in self._scope.items() if name != EXCHANGE}

    def on_hang_up(self, call: Callable[[], None] | None) -> None:
        """Have something called when the other side goes away before it is answered; None: nothing any more."""
        self._on_hang_up = call

    def disconnect(self) -> None:
        """The other side is gone, or will send no more of its body."""
        self.is_disconnected = True
        self.wake()
        if self._on_hang_up is not None:
            self._on_hang_up()

    def respond(self, head: bytes, body: bytes) -> bool:
        """Answer at once and whole. `head`: status line and header lines without `content-length`.

        False: the reader is slow or something was sent already; then `send` is the way.
        """
        connection = self._connection
        if connection.is_write_paused or self.is_disconnected or not self.keeps_alive or self._head is not None:
            return self.is_disconnected
        self._head = b""
        usual = _lines_of(connection.state.default_headers)
        connection.transport.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (head, usual, len(body), body))
        self.is_answered = True
        self.wake()
        connection.answered(self)
        return True

    def give_away(self) -> socket.socket | None:
        """The connection, for another process to answer this request on it; this one is done with it.

        None where it cannot be: something was sent already, or asked besides.
        """
        connection = self._connection
        if self.is_disconnected or self._head is not None or not connection.holds_only(self):
            return None
        found = connection.transport.get_extra_info("socket")
        given = socket.socket(fileno=os.dup(found.fileno()))
        self.is_answered = True
        connection.transport.abort()  # closes our descriptor; the connection lives as long as there is another one
        return given

    async def run(self, app: ASGIApp) -> None:
        """Let the application answer; what it leaves undone ends the connection."""
        try:
            await app(self._scope, self.receive, self.send)
        except Exception:
            _logger.exception("a bug of ours ended an HTTP exchange")
        finally:
            self._on_hang_up = None
            if not self.is_answered:
                self._connection.transport.abort()
            self._connection.leave(self.task)

    async def receive(self) -> Message:
        """The body as far as it has come, then the end of the connection."""
        connection = self._connection
        if self.expects_continue and not self.is_whole and not connection.transport.is_closing():
            self.expects_continue = False
            connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self.is_disconnected or self.is_answered):
            if self._body or (self.is_whole and not self._is_taken):
                return self._take()
            connection.resume_reading()
            self._waiter = connection.loop.create_future()
            await self._waiter
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take one message of the application; a head of known length waits for the body: both leave in one write."""
        if self._connection.is_write_paused:
            await self._connection.writable()
        if self.is_disconnected:
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], message.get("headers", ()))
        elif self._head is None or self.is_answered:
            raise RuntimeError(f"{message['type']} does not belong here")
        else:
            self._write(message.get("body", b""), is_last=not message.get("more_body", False))

    def put(self, body: bytes) -> None:
        """More of the body has come."""
        self._body += body
        if len(self._body) > MAX_UNREAD_BYTES:
            self._connection.transport.pause_reading()
        self.wake()

    def wake(self) -> None:
        """Something that `receive` may wait for has happened."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> Message:
        body, self._body = self._body, b""
        self._is_taken = self.is_whole
        return {"type": "http.request", "body": body, "more_body": not self.is_whole}

    def _begin(self, status: int, headers: Any) -> None:
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d Unassigned\r\n" % status]  # 529, as Anthropic has it
        has_length = False
        for name, value in (*self._connection.state.default_headers, *headers):
            lines.append(name + b": " + value + b"\r\n")
            if name == b"content-length":
                has_length, self._left_bytes = True, int(value)
            elif name == b"connection" and value == b"close":
                self.keeps_alive = False
        if not self.keeps_alive:
            lines.append(b"connection: close\r\n")
        if not has_length:
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise RuntimeError("a header would end another one")  # RFC 9110 section 5.5
        self._head = head + b"\r\n"
        if not has_length:  # a stream: nobody knows when its first event comes
            self._connection.transport.write(self._head)
            self._head = b""

    def _write(self, body: bytes, *, is_last: bool) -> None:
        head, self._head = self._head or b"", b""
        if self._scope["method"] == "HEAD":
            body = b""
        elif self._left_bytes is None:
            body = _chunk(body) + (b"0\r\n\r\n" if is_last else b"")
        else:
            self._left_bytes -= len(body)
            if self._left_bytes < 0 or (is_last and self._left_bytes):
                raise RuntimeError("the body has not the length that was announced")
        if head or body:
            self._connection.transport.write(head + body)
        if is_last:
            self.is_answered = True
            self.wake()
            self._connection.answered(self)


_usual: list[Any] = [None, b""]


def _lines_of(headers: list[tuple[bytes, bytes]]) -> bytes:
    """uvicorn's header lines for every answer; another list every second."""
    if _usual[0] is not headers:
        _usual[:] = headers, b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    lines: bytes = _usual[1]
    return lines


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n" % len(body) + body + b"\r\n" if body else b""
