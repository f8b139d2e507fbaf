"""One HTTP/1.1 connection to an upstream: a request out, an answer in, bounded whatever the other side sends.

The parser is llhttp in its strict mode (by httptools): it refuses two lengths, a length beside chunks, folded headers,
bare line feeds. What it leaves to us stands here: how many bytes may come that are no body, what 1xx and trailers
mean, how much unread body is held, and when a connection may carry another request.

Knows nothing of pools, addresses or JSON.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import httptools

from mcp_gateway.known_heads import END_OF_HEAD, KnownHeads
from mcp_gateway.upstreams.wire import MAX_UNWANTED_BYTES, WireError

MAX_HEAD_BYTES: Final = 64 * 1024
"""Status line, headers, 1xx answers before them, and between two pieces of body: chunk sizes, extensions, trailers."""

MAX_HEADER_LINES: Final = 200

MAX_HELD_BYTES: Final = 256 * 1024
"""Body that nobody has read yet; beyond it the connection is not read from until somebody does."""

_BROKEN: Final = "broke the connection or the HTTP protocol"
_TOO_MUCH_HEAD: Final = "sent more headers than anybody needs"


class KnownHead(NamedTuple):
    """What the parser made of the head of an answer that kept its connection alive."""

    status: int
    headers: dict[str, str]


def has_news(transport: asyncio.BaseTransport) -> bool:
    """Whether an idle connection has something to read that the loop has not read yet: its end, most likely.

    RFC 9112 section 9.3.1: a request must not be sent again once it may have been run, so this is asked before.
    """
    readable = select.poll()
    readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(readable.poll(0))


class Connection(asyncio.Protocol):
    """One connection, carrying one exchange at a time: `send`, `unheard` until it says None, `piece` until it is empty,
    then `reset`."""

    is_shared: Literal[False] = False

    def __init__(self, on_lost: Callable[[Connection], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._is_asked = False
        self._is_made = False
        self._is_lost = False
        self._is_paused = False
        self._known = KnownHeads[KnownHead]()
        self._first = b""
        self.idle_since = 0.0
        self.reset()

    def reset(self) -> None:
        """Make ready for another exchange."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self._fault = ""
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._head_bytes = 0
        self._fruitless_bytes = 0
        self._head_alone = b""
        self._then: Callable[[Connection], None] | None = None
        self._unwanted_bytes = 0
        self._is_asked = False
        self._has_no_body = False
        self._has_begun = False
        self._has_head = False
        self._is_complete = False
        self._is_spent = False
        self._ends_with_connection = False

    @property
    def is_open(self) -> bool:
        """Whether the transport would still take a request."""
        return not self._is_lost and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether the exchange is over and the other side has left the connection fit for another."""
        return (
            self._is_complete
            and not self._is_spent
            and not self._fault
            and self.is_open
            # Answered before it had read the request: what is left of it would meet the next one.
            and not self._transport.get_write_buffer_size()
        )

    def has_news(self) -> bool:
        """See `has_news`."""
        return has_news(self._transport)

    def send(self, request: bytes, *, is_head: bool = False) -> None:
        """Write a whole request. `is_head`: the method is HEAD, whose answers have headers of a body and no body."""
        self._is_asked = True
        self._has_no_body = is_head
        self._transport.write(request)

    def unheard(self) -> asyncio.Future[None] | None:
        """What to wait for, and then to ask again, until status and headers are there: then None. Raises `WireError`.

        No coroutine: every call waits here.
        """
        if self._has_head:
            return None
        if self._fault:
            raise WireError(self._fault)
        self._waiter = self._loop.create_future()
        return self._waiter

    def whole(self, max_bytes: int) -> bytes | None:
        """What is left of the body, as it was sent, if all of it is here in one piece of at most `max_bytes`."""
        if not self._is_complete or self._held > max_bytes or self._is_paused or len(self._pieces) > 1:
            return None
        self._held = 0
        return self._pieces.popleft() if self._pieces else b""

    async def piece(self) -> bytes:
        """The next piece of the body as it was sent, content encoding and all; empty at its end. Raises `WireError`."""
        while not self._pieces:
            if self._is_complete:
                return b""
            if self._fault:
                raise WireError(self._fault)
            await self._something()
        piece = self._pieces.popleft()
        self._held -= len(piece)
        if self._is_paused and self._held <= MAX_HELD_BYTES // 2:
            self._is_paused = False
            self._transport.resume_reading()
        return piece

    def finish(self, then: Callable[[Connection], None]) -> bool:
        """Wait for the end of an answer of which nobody wants more, and call `then` in a turn of its own.

        False where no end is to be expected, or none after which the connection could be used again.
        """
        is_delimited = self._has_head and not (self._is_complete or self._ends_with_connection)
        if not is_delimited or self._fault or self._is_paused or not self.is_open:
            return False
        self._then = then
        self._pieces.clear()
        self._held = 0
        return True

    def abort(self) -> None:
        """Close at once; what comes no longer matters to anybody."""
        if self._is_made:
            self._transport.abort()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._is_made = True

    def data_received(self, data: bytes) -> None:
        if not self._is_asked:  # an answer to nothing: whatever comes next could be taken for the next answer
            self.abort()
            return
        if self._has_begun:
            if not self._first.endswith(END_OF_HEAD):  # else this may be its body
                self._first = b""
        else:
            data, self._head_alone = self._head_alone + data, b""
            if self._is_known(data):
                return
            self._has_begun, self._first = True, data
        self._fruitless_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(_BROKEN)
        if self._fruitless_bytes > MAX_HEAD_BYTES:
            self._fail(_TOO_MUCH_HEAD)
        if self._held > MAX_HELD_BYTES and not self._is_paused and self.is_open:
            self._is_paused = True
            self._transport.pause_reading()

    def _is_known(self, data: bytes) -> bool:
        """Take an answer without parsing it whose head is known, and whose body is here, or is all that is missing."""
        known = None if self._has_no_body else self._known.find(data)
        if known is None:
            return False
        (status, headers), end, length = known
        if len(data) == end and length:  # many servers send head and body one after the other
            self._head_alone = data
            return True
        if len(data) - end != length:
            return False
        self.status, self.headers = status, {**headers, "content-length": str(length)}
        self._has_begun = self._has_head = self._is_complete = True
        if length:
            self._pieces.append(data[end:])
            self._held = length
        self._wake()
        return True

    def _learn(self, first: bytes) -> None:
        """Remember the head of the answer that was just parsed, and began with `first`."""
        is_plain = first.startswith(b"HTTP/1.1 %d" % self.status) and len(self._pieces) == 1 and not self._has_no_body
        if is_plain and self.headers.get("content-length") == str(len(self._pieces[0])):
            self._known.learn(first, self._pieces[0], KnownHead(self.status, self.headers))

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._is_asked and not self._is_complete:
            if self._ends_with_connection and exc is None:
                self._is_complete = self._is_spent = True
                self._wake()
            else:
                self._fail(_BROKEN)
        self._on_lost(self)

    # -- httptools: these never raise ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._is_spent = self._is_complete  # a second answer, where one was asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._has_head:  # RFC 9110 section 6.5.1: trailers must not be merged into headers
            return
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) >= MAX_HEADER_LINES:
            self._fail(_TOO_MUCH_HEAD)
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        if self._is_complete or self._fault:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:  # RFC 9110 section 15.2: any number of these may come before the answer
            self.headers.clear()
            return
        if self.headers.get("transfer-encoding", "chunked").lower() != "chunked":
            self._fail("sent a body that cannot be decoded")
            return
        self.status = status
        self._has_head = True
        self._ends_with_connection = self.headers.keys().isdisjoint(("content-length", "transfer-encoding"))
        if self._has_no_body:
            self._is_complete = self._is_spent = True
        self._wake()

    def on_body(self, body: bytes) -> None:
        self._fruitless_bytes = 0
        if self._then is not None:
            self._unwanted_bytes += len(body)
            if self._unwanted_bytes > MAX_UNWANTED_BYTES:
                self._fail(_BROKEN)
        elif not self._is_complete:
            self._pieces.append(body)
            self._held += len(body)
            self._wake()

    def on_message_complete(self) -> None:
        if self._has_head and not self._is_complete:  # else it was a 1xx
            self._is_complete = True
            self._is_spent = not self._parser.should_keep_alive()
            first, self._first = self._first, b""
            if first and not (self._is_spent or self._fault):
                self._learn(first)
            if self._then is not None:  # not from within the parser, which may have more to say
                self._loop.call_soon(self._then, self)
            self._wake()

    # ------------------------------------------------------------------------------------------------------------------

    def _fail(self, words: str) -> None:
        """Give the connection up; an answer that is complete already stands."""
        self._fault = self._fault or words
        self._is_spent = True
        if not self._is_lost:
            self.abort()
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _something(self) -> None:
        """Wait until anything has changed."""
        self._waiter = self._loop.create_future()
        await self._waiter
