"""The HTTP client towards upstreams: a pool of kept connections to each, and nothing a gateway must not do.

Redirects are not followed (a redirect would carry credentials elsewhere), nothing is read from the environment (no
proxies, no .netrc), no cookies are kept, and a request is never sent twice: a connection is given up before anything
is written to it, or the caller hears that it broke. Every address is put to `admits` when it is connected to, after
DNS has answered, so that no name can lead anywhere else in between.

HTTP/1.1 here, HTTP/2 where `over_tls` finds it. Why not a library: docs/decisions/0004-http-client.md.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import lru_cache
from socket import SOCK_STREAM
from ssl import SSLCertVerificationError
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from mcp_gateway.upstreams.over_tls import PEEK_AFTER_S, Origin, TlsConnections
from mcp_gateway.upstreams.wire import (
    KEEPALIVE_S,
    MAX_ATTEMPTS,
    MAX_CONNECTIONS,
    HttpResponse,
    SameHeaders,
    Unprocessed,
    WireError,
)
from mcp_gateway.upstreams.wire_connection import Connection

if TYPE_CHECKING:
    from mcp_gateway.upstreams.h2_connection import SharedConnection
    from mcp_gateway.upstreams.h2_stream import Stream

Admits = Callable[[str, str], bool]
"""Whether an IP address, as text, may be connected to for the host that the URL names."""

REFUSED_ADDRESS: Final = "leads to an address that is not public and not allowed"
"""What `doctor` knows it by."""

MAX_PIECE_BYTES: Final = 1024 * 1024
"""Of decoded body. Reading in pieces is what keeps a bomb from filling the memory."""

ATTEMPT_S: Final = 3.0
"""For one of several addresses of a name: an address family without a route must not use up all the time."""

LINGER_S: Final = 0.5
"""How long the end of an answer may take that has said all there was to say (event streams end after their event)."""
MAX_LINGERING: Final = 100
"""Connections that wait for such an end; others are closed."""

_OURS: Final = frozenset({"connection", "content-length", "host", "transfer-encoding"})
_TOKEN: Final = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_CANNOT_BE_SENT: Final = "cannot be sent such a request"
_UNDECODABLE: Final = "sent a body that cannot be decoded"


class Place(NamedTuple):
    """Where a URL leads."""

    origin: Origin
    first_lines: str
    """What every request there has between its method and the caller's headers."""
    authority: str
    target: str


class FastClient:
    """`HttpClient` on asyncio and httptools. Belongs to one event loop."""

    def __init__(self, connect_timeout_s: float, *, admits: Admits | None = None, offers_h2: bool = True) -> None:
        """`offers_h2`: over TLS the server may choose HTTP/2."""
        self._connect_timeout_s = connect_timeout_s
        self._admits = admits
        self._loop = asyncio.get_running_loop()
        self._open: dict[Connection | SharedConnection, Origin] = {}
        self._over_tls = TlsConnections(self._connected, connect_timeout_s, offers_h2=offers_h2)
        self._idle: dict[Origin, list[Connection]] = {}
        self._lingering: dict[Connection | Stream, asyncio.TimerHandle] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._busy = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    def open(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Exchange:
        """Send a request; leaving the block closes the answer's stream. Raises `WireError`."""
        return Exchange(self, method, url, headers, body)

    async def close(self) -> None:
        """Close every connection, those in use included."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._idle.clear()
        for connection in list(self._open):
            connection.abort()

    def kept(self, origin: Origin) -> Connection | None:
        """A connection that is open already and nobody else uses, to be given back; None where there is none."""
        idle = self._idle.get(origin)
        while idle and self._busy < MAX_CONNECTIONS:
            connection = idle.pop()
            if self._is_fresh(connection):
                self._busy += 1
                return connection
            connection.abort()
        return None

    async def take(self, origin: Origin) -> Connection | Stream:
        """A connection that nobody else uses, or a part of one, to be given back. Raises `WireError`."""
        while self._busy >= MAX_CONNECTIONS:
            await self._room()
        if (connection := self.kept(origin)) is not None:
            return connection
        self._busy += 1
        try:
            if origin.is_tls:
                return await self._over_tls.carrier(origin)
            made = await self._connected(origin)
            return made.stream() if made.is_shared else made
        except BaseException:
            self._leave()
            raise

    def give_back(self, connection: Connection | Stream, *, is_answered: bool = False) -> None:
        """The exchange on this connection is over, or given up: keep the one for the next, close the other.

        `is_answered`: nothing may be missing but the end of the answer.
        """
        self._leave()
        if connection.is_reusable:
            self._keep(connection)
        elif is_answered and len(self._lingering) < MAX_LINGERING and connection.finish(self._ended):
            self._lingering[connection] = self._loop.call_later(LINGER_S, self._ended, connection)
        else:
            connection.abort()

    def _ended(self, connection: Connection | Stream) -> None:
        """What lingered has come to its end, or has not in time."""
        timer = self._lingering.pop(connection, None)
        if timer is None:
            return
        timer.cancel()
        if connection.is_reusable:
            self._keep(connection)
        else:
            connection.abort()

    def _keep(self, connection: Connection) -> None:
        connection.reset()
        connection.idle_since = self._loop.time()
        self._idle.setdefault(self._open[connection], []).append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(KEEPALIVE_S, self._close_idle)

    def _is_fresh(self, connection: Connection) -> bool:
        idle_s = self._loop.time() - connection.idle_since
        return connection.is_open and idle_s < KEEPALIVE_S and (idle_s < PEEK_AFTER_S or not connection.has_news())

    def _close_idle(self) -> None:
        """Close what was idle for too long; goes on for as long as anything is idle."""
        expired_at = self._loop.time() - KEEPALIVE_S
        for kept in self._idle.values():
            while kept and kept[0].idle_since <= expired_at:
                kept.pop(0).abort()
        oldest = min((kept[0].idle_since for kept in self._idle.values() if kept), default=None)
        self._sweep = None if oldest is None else self._loop.call_at(oldest + KEEPALIVE_S, self._close_idle)

    def _leave(self) -> None:
        self._busy -= 1
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _room(self) -> None:
        """Wait until a connection was given back."""
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await waiter
        except TimeoutError as e:
            raise WireError("has too many connections open") from e

    async def _connected(self, origin: Origin) -> Connection | SharedConnection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connection = await self._connect(origin)
        except TimeoutError as e:
            raise WireError("could not be connected to in time") from e
        except SSLCertVerificationError as e:
            raise WireError("could not be connected to: its TLS certificate is not trusted here") from e
        except (OSError, ValueError) as e:  # ValueError: a host name that cannot be one
            raise WireError("could not be connected to") from e
        if not connection.is_open:
            raise WireError("could not be connected to")
        self._open[connection] = origin
        return connection

    async def _connect(self, origin: Origin) -> Connection | SharedConnection:
        addresses = await self._addresses_of(origin)
        for number, address in enumerate(addresses, start=1):
            is_last = number == len(addresses)
            try:
                async with asyncio.timeout(None if is_last else ATTEMPT_S):
                    return await self._connect_to(address, origin)
            except OSError:  # a timeout is one too
                if is_last:
                    raise
        raise WireError(REFUSED_ADDRESS)

    async def _addresses_of(self, origin: Origin) -> list[str]:
        found = await self._loop.getaddrinfo(origin.host, origin.port, type=SOCK_STREAM)
        addresses = dict.fromkeys(str(address[0]) for *_, address in found)
        return [address for address in addresses if self._admits is None or self._admits(address, origin.host)]

    async def _connect_to(self, address: str, origin: Origin) -> Connection | SharedConnection:
        connection = Connection(self._lost)
        if origin.is_tls:
            return await self._over_tls.connected_to(address, origin, connection, self._lost)
        try:
            await self._loop.create_connection(lambda: connection, address, origin.port)
        except BaseException:
            connection.abort()  # a timeout in the very moment it was made would leave it open
            raise
        return connection

    def _lost(self, connection: Connection | SharedConnection) -> None:
        origin = self._open.pop(connection, None)
        if not connection.is_shared:
            self._ended(connection)
        idle = self._idle.get(origin, []) if origin is not None else []
        if connection in idle:
            idle.remove(connection)


class Exchange:
    """One request and its answer: what `HttpClient.open` gives."""

    __slots__ = ("_body", "_client", "_connection", "_headers", "_method", "_url")

    def __init__(
        self, client: FastClient, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> None:
        self._client = client
        self._method = method
        self._url = url
        self._headers = headers
        self._body = body
        self._connection: Connection | Stream

    async def begin(self, attempts: int = MAX_ATTEMPTS) -> HttpResponse:
        """See `HttpExchange`. `attempts`: how often a request may be sent that the server says it did not look at."""
        place = place_of(self._url)
        request = request_bytes(self._method, place, self._headers, self._body)
        connection = self._connection = self._client.kept(place.origin) or await self._client.take(place.origin)
        try:
            if connection.is_shared:
                connection.ask(self._method, place.authority, place.target, self._headers, self._body)
            else:
                connection.send(request, is_head=self._method == "HEAD")
            while (heard := connection.unheard()) is not None:
                await heard
        except BaseException as e:
            connection.abort()
            self._client.give_back(connection)
            if isinstance(e, Unprocessed) and attempts > 1:
                return await self.begin(attempts - 1)
            raise
        return Response(connection)

    def end(self, *, is_answered: bool = False) -> None:
        """See `HttpExchange`."""
        self._client.give_back(self._connection, is_answered=is_answered)

    async def __aenter__(self) -> HttpResponse:
        return await self.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Response:
    """`HttpResponse` on one connection."""

    __slots__ = ("_connection", "headers", "status")

    def __init__(self, connection: Connection | Stream) -> None:
        self._connection = connection
        self.status = connection.status
        self.headers: Mapping[str, str] = connection.headers

    def read_at_once(self, max_bytes: int) -> bytes | None:
        """See `HttpResponse`."""
        if "content-encoding" in self.headers:
            return None
        return self._connection.whole(max_bytes)

    async def read(self, max_bytes: int) -> bytes | None:
        """The whole decoded body, if it has no more than `max_bytes`. Raises `WireError`."""
        if self.headers.get("content-encoding"):
            return await self._read_decoded(max_bytes)
        whole = await self._connection.piece()
        if len(whole) > max_bytes:
            return None
        if not whole or not (more := await self._connection.piece()):
            return whole
        pieces, size = [whole, more], len(whole) + len(more)
        while size <= max_bytes and (more := await self._connection.piece()):
            pieces.append(more)
            size += len(more)
        return b"".join(pieces) if size <= max_bytes else None

    async def _read_decoded(self, max_bytes: int) -> bytes | None:
        pieces, size = [], 0
        async with aclosing(self.body()) as body:
            async for piece in body:
                pieces.append(piece)
                size += len(piece)
                if size > max_bytes:
                    return None
        return b"".join(pieces)

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The decoded body in bounded pieces. Raises `WireError`."""
        encoding = self.headers.get("content-encoding", "").strip().lower()
        if encoding in ("gzip", "x-gzip"):
            unzip = zlib.decompressobj(wbits=31)
        elif encoding not in ("", "identity"):
            raise WireError(_UNDECODABLE)
        else:
            while piece := await self._connection.piece():
                yield piece
            return
        is_empty = True
        while piece := await self._connection.piece():
            is_empty = False
            for decoded in _unzipped(unzip, piece):
                yield decoded
        if not (unzip.eof or is_empty):
            raise WireError(_UNDECODABLE)


def request_bytes(method: str, place: Place, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """A whole request. Raises `WireError` for headers that would change how it is framed or read."""
    start = _start_of(method, place, headers)
    if body is None:
        return start + b"\r\n"
    return b"%bcontent-length: %d\r\n\r\n%b" % (start, len(body), body)


def _start_of(method: str, place: Place, headers: Mapping[str, str]) -> bytes:
    """A request up to the last of the caller's headers."""
    if isinstance(headers, SameHeaders) and headers.start:
        return headers.start
    if not all(map(_is_name, headers)) or not _are_values(headers.values()):
        raise WireError(_CANNOT_BE_SENT)
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    start = f"{method}{place.first_lines}{lines}".encode("ascii")
    if isinstance(headers, SameHeaders):
        headers.start = start
    return start


def _unzipped(unzip: zlib._Decompress, piece: bytes) -> Iterator[bytes]:
    """What a piece of gzip decodes to, in bounded pieces. Raises `WireError`."""
    while piece:
        if unzip.eof:  # a second member, or garbage behind the first
            raise WireError(_UNDECODABLE)
        try:
            decoded = unzip.decompress(piece, MAX_PIECE_BYTES)
        except zlib.error as e:
            raise WireError(_UNDECODABLE) from e
        piece = unzip.unconsumed_tail or unzip.unused_data
        if decoded:
            yield decoded


@lru_cache(maxsize=1024)
def place_of(url: str) -> Place:
    """Where a URL leads. Raises `WireError` for what is no http or https URL.

    >>> place_of("https://[::1]:8443/mcp?a=b").first_lines
    ' /mcp?a=b HTTP/1.1\\r\\nhost: [::1]:8443\\r\\n'
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        shown = f"[{host}]" if ":" in host else host.encode("idna").decode()
    except ValueError as e:
        raise WireError("has an invalid URL") from e
    if parts.scheme not in ("http", "https"):
        raise WireError("has a URL that is neither http nor https")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not host or "@" in parts.netloc or " " in target or not (target.isascii() and target.isprintable()):
        raise WireError("has an invalid URL")
    is_tls = parts.scheme == "https"
    usual_port = 443 if is_tls else 80
    shown += f":{port}" if port not in (None, usual_port) else ""
    origin = Origin(host, port or usual_port, is_tls)
    return Place(origin, f" {target} HTTP/1.1\r\nhost: {shown}\r\n", shown, target)


@lru_cache(maxsize=1024)
def _is_name(name: str) -> bool:
    return bool(name) and _TOKEN.issuperset(name) and name.lower() not in _OURS


def _are_values(values: Iterable[str]) -> bool:
    """RFC 9110 section 5.5: visible ASCII, spaces and tabs."""
    text = "".join(values)
    return text.isascii() and (text.isprintable() or text.replace("\t", "").isprintable())
