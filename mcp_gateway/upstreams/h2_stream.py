"""One exchange on a connection that others share: a request out, an answer in, its body held in bounds.

Offers what `wire_connection.Connection` offers to an exchange, so that answers are read the same way. The window that
lets the server send more is opened as the body is read, never before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Literal

from mcp_gateway.upstreams.h2_fields import BadFields, Head, request_block
from mcp_gateway.upstreams.wire import MAX_UNWANTED_BYTES, Unprocessed, WireError
from mcp_gateway.upstreams.wire_connection import MAX_HEAD_BYTES, MAX_HELD_BYTES

if TYPE_CHECKING:
    from mcp_gateway.upstreams.h2_connection import SharedConnection

WINDOW_BYTES: Final = MAX_HELD_BYTES
"""What the server may send of one body while nobody reads it."""


class Stream:
    """One exchange: `ask`, `unheard` until it says None, `piece` until it is empty, then `abort` in any case."""

    is_shared: Literal[True] = True
    is_reusable: Literal[False] = False

    def __init__(self, connection: SharedConnection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._fault: WireError | None = None
        self._body = bytearray()
        self._read_bytes = 0
        self._head_bytes = 0
        self._body_bytes = 0
        self._has_no_body = False
        self._is_complete = False
        self._then: Callable[[Stream], None] | None = None
        self._unwanted_bytes = 0
        self.id = 0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.unsent = memoryview(b"")
        self.send_window = 0
        self.receive_window = WINDOW_BYTES
        self.heard_before = 0
        """How much the connection had heard when this was sent: whether it lives can be told from that."""

    def ask(self, method: str, authority: str, target: str, headers: Mapping[str, str], body: bytes | None) -> None:
        """Send a request. Raises `WireError`."""
        self.unsent = memoryview(body or b"")
        self._has_no_body = method == "HEAD"
        self._connection.begin(self, request_block(method, authority, target, headers, body), has_body=bool(body))

    def unheard(self) -> asyncio.Future[None] | None:
        """See `Connection.unheard`. Raises `WireError`, `Unprocessed` where the request may be sent once more."""
        return None if self.status else self._news()

    def whole(self, max_bytes: int) -> bytes | None:
        """What is left of the body, as it was sent, if all of it is here and has at most `max_bytes`."""
        return self._taken() if self._is_complete and len(self._body) <= max_bytes else None

    async def piece(self) -> bytes:
        """What has come of the body, as it was sent, content encoding and all; empty at its end. Raises `WireError`."""
        while not self._body:
            if self._is_complete:
                return b""
            await self._news()
        return self._taken()

    def finish(self, then: Callable[[Stream], None]) -> bool:
        """See `Connection.finish`: an answer that was found is no reason to tell the server to stop."""
        if self._is_complete or self._fault is not None or not self.status or self.unsent:
            return False
        self._then = then
        self._body.clear()
        return True

    def abort(self) -> None:
        """Be done with it: the server is told to stop, where it has not come to the end. The others go on."""
        self._connection.leave(self)

    # -- what the connection hears -------------------------------------------------------------------------------------

    def take_head(self, head: Head, *, is_end: bool) -> None:
        """Headers have come: those of the answer, of a 1xx before it, or trailers. Raises `BadFields`."""
        status, headers, size = head
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise BadFields("sent more headers than anybody needs")
        if bool(status) is bool(self.status):  # none, or another one; trailers are without
            raise BadFields("sent headers that are no answer")
        if status < 200 and is_end is bool(status):  # a 1xx that ends all, or trailers that do not
            raise BadFields("sent headers that are no answer")
        if status >= 200:  # RFC 9110 section 15.2: any number of 1xx may come before the answer
            self.status, self.headers = status, headers
            self._wake()
        if is_end:
            self.take_end()

    def take_body(self, data: bytes, padding: int) -> None:
        """A piece of the body has come. Raises `BadFields` before an answer."""
        if not self.status:
            raise BadFields("sent a body without an answer")
        if self._then is not None:
            self._unwanted_bytes += len(data) + padding
            self._body_bytes += len(data)
            if self._unwanted_bytes > MAX_UNWANTED_BYTES:
                self.abort()
            return
        self._body += data
        self._body_bytes += len(data)
        self._read_bytes += padding
        self._wake()

    def take_end(self) -> None:
        """The answer is complete. Raises `BadFields` where it is shorter or longer than it said."""
        has_length = "content-length" in self.headers and not self._has_no_body and self.status != 304
        if has_length and (self.headers["content-length"].lstrip("0") or "0") != str(self._body_bytes):
            raise BadFields("sent a body of another length than it said")
        self._is_complete = True
        self._end()
        self._wake()

    def fail(self, words: str, *, is_unprocessed: bool = False) -> None:
        """Nothing more will come; an answer that is complete already stands."""
        if not self._is_complete and self._fault is None:
            self._fault = Unprocessed(words) if is_unprocessed and not self.status else WireError(words)
            self._end()
            self._wake()

    @property
    def is_over(self) -> bool:
        """Whether both sides have said all."""
        return self._is_complete and not self.unsent

    # ------------------------------------------------------------------------------------------------------------------

    def _taken(self) -> bytes:
        body = bytes(self._body)
        self._body.clear()
        self._read_bytes += len(body)
        if self._read_bytes >= WINDOW_BYTES // 2 and not self._is_complete:
            self.receive_window += self._read_bytes
            self._connection.credit(self, self._read_bytes)
            self._read_bytes = 0
        return body

    def _end(self) -> None:
        if self._then is not None:
            self._loop.call_soon(self._then, self)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _news(self) -> asyncio.Future[None]:
        """Done when anything has changed. Raises `WireError`."""
        if self._fault is not None:
            raise self._fault
        self._waiter = self._loop.create_future()
        return self._waiter
