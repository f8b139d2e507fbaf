"""One HTTP connection of an agent: bytes in, ASGI out, with bounds on whatever its other side may do or leave undone.

Made for uvicorn's `Server`, in place of uvicorn's own connection: an answer leaves in one write, a request that comes
in one piece costs no timer, and a proxy in front is not what keeps us safe. Without the bounds a connection could stay
silent for ever, send headers for ever, go on sending a body nobody asked for, or never read its answer. The parser is
llhttp in its strict mode. `http_exchange` has what one request and its answer are.

Knows nothing of MCP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote

import httptools
from starlette.types import ASGIApp, Scope

from mcp_gateway.frontdoor.http_exchange import MAX_UNREAD_BYTES, Exchange
from mcp_gateway.known_heads import END_OF_HEAD, KnownHeads

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

HEADERS_TIMEOUT_S: Final = 10.0
"""From the connection's or the request's first byte to the end of its headers; and from a head that is known to its
body, before it counts as a slow one."""

LINGER_S: Final = 5.0
"""How long the rest of a body may still come after its request was answered; then the connection is closed."""

STALL_S: Final = 30.0
"""How long a reader may take nothing while more than the socket holds is waiting for it."""

MAX_EXCHANGES: Final = 5_000
"""Requests being answered. They can be more than connections: who hangs up in the handshake era cancels nothing."""

IDLE_LOOKED_AT: Final = 32
"""Idle connections compared where one of them has to go: opening connections must stay cheap."""

_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
_BAD_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 20\r\nconnection: close\r\n\r\n"
    b"invalid HTTP request"
)
_BUSY: Final = b"too many connections"


class KnownHead(NamedTuple):
    """What the parser made of the head of a request."""

    scope: Scope
    length_at: int
    """Where among its headers the length of the body stands."""


class BoundedConnection(asyncio.Protocol):
    """A connection that ends by itself whatever its other side does or leaves undone."""

    max_header_bytes: int = 64 * 1024

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        sent: bytes = b"",
    ) -> None:
        """`sent`: what another process has read from this connection before it was handed in here."""
        self._sent = sent
        self.loop = _loop or asyncio.get_running_loop()
        self.state = server_state
        self.is_write_paused = False
        self.transport: asyncio.Transport
        self._app: ASGIApp = config.loaded_app
        self._keep_alive_s = config.timeout_keep_alive
        self._most_at_once = config.limit_concurrency or 0
        self._parser = httptools.HttpRequestParser(self)
        self._ends: dict[str, tuple[str, int] | None] = {}
        self._waiting: deque[Exchange] = deque()
        """Exchanges in the order their requests came; the first is being answered, the others were pipelined."""
        self._newest: Exchange | None = None
        self._is_in_headers = self._is_in_message = False
        self._is_deaf = False
        self._has_just_begun = False
        self._known = KnownHeads[KnownHead]()
        self._head_alone = b""
        """A known head whose body has not come yet."""
        self._first = b""
        self._header_bytes = 0
        self._idle_since = 0.0
        self._writable: list[asyncio.Future[None]] = []
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.state.connections.add(self)  # type: ignore[arg-type]
        self._ends = {
            "server": _address(transport.get_extra_info("sockname")),
            "client": _address(transport.get_extra_info("peername")),
        }
        self._set_timer("headers", HEADERS_TIMEOUT_S, self.transport.abort)
        self._idle_since = self.loop.time()
        if self._most_at_once and len(self.state.connections) >= self._most_at_once:
            self._let_an_idle_one_go()
        if self._sent:  # before anything that is read from now on
            sent, self._sent = self._sent, b""
            self.data_received(sent)

    def connection_lost(self, exc: Exception | None) -> None:
        self.state.connections.discard(self)
        for timer in self._timers.values():
            timer.cancel()
        for exchange in self._waiting:
            exchange.disconnect()
        self.resume_writing()

    def eof_received(self) -> None:
        """Nothing more will be asked; the transport closes."""

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        if self._is_in_message or self._waiting:
            if not self._first.endswith(END_OF_HEAD):  # else this may be its body
                self._first = b""
        else:
            data = self._with_head(data)
            if self._take_known(data):
                return
            self._first = data
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        self._has_just_begun = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._hear_no_more()
        except httptools.HttpParserError:
            self._refuse_malformed()
            return
        if self._is_in_headers:
            self._wait_for_headers(len(data))

    def _take_known(self, data: bytes) -> bool:
        """Take a request without parsing it whose head is known, and whose body is here, or is all that is missing."""
        known = self._known.find(data)
        if known is None:
            return False
        (scope, length_at), end, length = known
        if len(data) == end and 0 < length <= MAX_UNREAD_BYTES:  # many programs send head and body one after the other
            self._head_alone = data
            self._set_timer("headers", HEADERS_TIMEOUT_S, self._parse_head_alone)
            return True
        if len(data) - end != length:
            return False
        headers = scope["headers"].copy()
        headers[length_at] = (b"content-length", b"%d" % length)
        exchange = self._newest = Exchange(self, {**scope, "headers": headers}, keeps_alive=True)
        exchange.hold(data[end:])
        self._waiting.append(exchange)
        self._start(exchange)
        return True

    def _with_head(self, body: bytes) -> bytes:
        """What came, behind a head that waited for it."""
        head, self._head_alone = self._head_alone, b""
        if head:
            self._stop_timer("headers")
        return head + body

    def _parse_head_alone(self) -> None:
        """Its body does not come, or will not be waited for: from here on it is a request like any other."""
        self._parse(self._with_head(b""))

    def _learn(self, first: bytes, exchange: Exchange) -> None:
        """Remember the head of the request that was just parsed, and began with `first`."""
        length = (b"content-length", b"%d" % len(exchange.held))
        # White space may stand before a request; with a letter in front, the first empty line is the head's end. Behind
        # an `Expect` no body comes before it was asked for.
        is_plain = first[:1].isalpha() and not any(name == b"expect" for name, _ in self._headers)
        if is_plain and self._headers.count(length) == 1:
            self._known.learn(first, exchange.held, KnownHead(exchange.with_kept(), self._headers.index(length)))

    def pause_writing(self) -> None:
        self.is_write_paused = True
        self._set_timer("stall", STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self._stop_timer("stall")
        writable, self._writable = self._writable, []
        for future in writable:
            if not future.done():
                future.set_result(None)

    def shutdown(self) -> None:
        """uvicorn's: the server stops, so take no further request."""
        if self._head_alone:
            self._parse_head_alone()
        if self._waiting:
            for exchange in self._waiting:
                exchange.keeps_alive = False
        else:
            self.transport.close()

    # -- httptools -----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._is_in_headers = self._is_in_message = self._has_just_begun = True
        self._header_bytes = 0
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # RFC 9110 section 6.5.1: trailers must not be merged into headers, whose checks they would come after.
        if self._is_in_headers:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        version = self._parser.get_http_version()
        if not self._url.startswith(b"/") or version not in ("1.0", "1.1"):
            # RFC 9112 section 3.2.2: a target with an authority of its own would overrule the Host that is checked. The
            # parser also takes a line without a version. What is raised here is answered 400 and hung up on.
            raise ValueError("only HTTP/1.0 and 1.1, and targets that are a path")
        self._is_in_headers = False
        if "headers" in self._timers:
            self._stop_timer("headers")
        exchange = Exchange(
            self, self._scope(version), keeps_alive=version == "1.1" and self._parser.should_keep_alive()
        )
        exchange.expects_continue = any(n == b"expect" and v.lower() == b"100-continue" for n, v in self._headers)
        self._newest = exchange
        self._waiting.append(exchange)
        if len(self._waiting) == 1:
            self._start(exchange)
        else:
            self.transport.pause_reading()

    def on_body(self, body: bytes) -> None:
        if self._newest is not None and not self._newest.is_answered:
            self._newest.put(body)

    def on_message_complete(self) -> None:
        self._is_in_message = False
        newest = self._newest
        first, self._first = self._first, b""  # what begins behind it did not begin with that
        if newest is not None:
            newest.is_whole = True
            if first and newest.keeps_alive:
                self._learn(first, newest)
            newest.wake()

    # -- exchanges -----------------------------------------------------------------------------------------------------

    async def writable(self) -> None:
        """Wait until the other side has read enough of what was written."""
        while self.is_write_paused:
            future = self.loop.create_future()
            self._writable.append(future)
            await future

    def answered(self, exchange: Exchange) -> None:
        """An exchange is over: close, begin the next, or wait for one."""
        self.state.total_requests += 1
        self._waiting.popleft()
        if not exchange.keeps_alive:
            self.transport.close()
            return
        if self._waiting:
            self._start(self._waiting[0])
            return
        self._resume_reading()
        if exchange is self._newest and self._is_in_message:
            self._set_timer("linger", LINGER_S, self._close_if_still_sending(exchange))
        self._idle_since = self.loop.time()
        if "idle" not in self._timers:
            self._set_timer("idle", self._keep_alive_s, self._close_if_idle)

    def _let_an_idle_one_go(self) -> None:
        """Connections that ask nothing, or have not said yet what, must not keep others out: nobody needs a key to
        open them. Of some, the one that has been idle longest."""
        others = (other for other in self.state.connections if isinstance(other, BoundedConnection))
        idle = list(islice((other for other in others if other is not self and other._is_idle), IDLE_LOOKED_AT))
        if idle:
            longest = min(idle, key=lambda other: other._idle_since)
            self.state.connections.discard(longest)  # at once: its place is another's
            longest.transport.abort()

    @property
    def _is_idle(self) -> bool:
        return not (self._waiting or self.transport.is_closing())

    def holds_only(self, exchange: Exchange) -> bool:
        """Whether nothing but this request has come and nothing waits to be sent."""
        is_last = exchange is self._newest and len(self._waiting) == 1 and self._is_in_message != exchange.is_whole
        return is_last and not self._is_deaf and not self.transport.get_write_buffer_size()

    def resume_reading(self) -> None:
        """The application has taken what had come."""
        if len(self._waiting) <= 1:
            self._resume_reading()

    def _start(self, exchange: Exchange) -> None:
        app = self._app
        is_full = self._most_at_once and len(self.state.connections) >= self._most_at_once
        if is_full or len(self.state.tasks) >= MAX_EXCHANGES:
            app = _too_busy
        exchange.task = self.loop.create_task(exchange.run(app))
        self.state.tasks.add(exchange.task)

    def leave(self, task: asyncio.Task[None]) -> None:
        """A task of ours is about to end."""
        self.state.tasks.discard(task)

    def _scope(self, version: str) -> Scope:
        path, raw_path, query = _target(self._url) if len(self._url) < 1024 else _target.__wrapped__(self._url)
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "scheme": "http",
            "method": self._parser.get_method().decode("ascii"),
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            **self._ends,
        }

    def _resume_reading(self) -> None:
        if not (self._is_deaf or self.transport.is_closing() or self.transport.is_reading()):
            self.transport.resume_reading()

    def _wait_for_headers(self, size: int) -> None:
        # Where a request began in this very piece, who knows where in it: its headers are counted from the next.
        self._header_bytes += 0 if self._has_just_begun else size
        if self._header_bytes > self.max_header_bytes:
            self.transport.abort()
        elif "headers" not in self._timers:
            self._set_timer("headers", HEADERS_TIMEOUT_S, self.transport.abort)

    def _refuse_malformed(self) -> None:
        self._hear_no_more()
        broken = self._newest if self._newest is not None and not self._newest.is_whole else None
        if broken is not None:  # whoever reads its body learns that there will be no more of it
            broken.disconnect()
        if not self._waiting or (self._waiting[0] is broken and not broken.has_begun):
            self.transport.write(_BAD_REQUEST)
            self.transport.close()

    def _hear_no_more(self) -> None:
        """What comes from now on is no request of ours; those that came are answered, then the connection is closed."""
        self._is_deaf = True
        for exchange in self._waiting:
            exchange.keeps_alive = False

    def _close_if_still_sending(self, answered: Exchange) -> Callable[[], None]:
        def close() -> None:
            if self._is_in_message and self._newest is answered:
                self.transport.abort()

        return close

    def _close_if_idle(self) -> None:
        left_s = self._idle_since + self._keep_alive_s - self.loop.time()
        if self._waiting or self._is_in_message or self._head_alone:
            left_s = self._keep_alive_s
        elif left_s <= 0:
            self.transport.close()
            return
        self._set_timer("idle", left_s, self._close_if_idle)

    def _set_timer(self, name: str, delay_s: float, then: Callable[[], None]) -> None:
        self._stop_timer(name)
        self._timers[name] = self.loop.call_later(delay_s, then)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


@lru_cache(maxsize=256)  # the same few come with every request
def _target(url: bytes) -> tuple[str, bytes, bytes]:
    """A request's target as ASGI wants it: path, path as it came, query."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii", "replace")
    return (unquote(path) if "%" in path else path), parsed.path, parsed.query or b""


def _address(found: Any) -> tuple[str, int] | None:
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None


async def _too_busy(scope: Scope, receive: Any, send: Any) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(_BUSY)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": _BUSY})
