"""Connections over TLS: the server chooses HTTP/2 or HTTP/1.1, and those over HTTP/2 are shared by many exchanges.

The first exchange with a server connects, and those that come meanwhile wait for it: only then is it known whether
they share its connection (HTTP/2), or each connects for itself (HTTP/1.1). Another shared connection is opened only
where those there are have no room. A server that has chosen HTTP/2 and then wants HTTP/1.1 is not offered it again.

The HTTP/2 part is loaded when a server has chosen it for the first time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from mcp_gateway.upstreams.wire import KEEPALIVE_S, WireError, shared_tls
from mcp_gateway.upstreams.wire_connection import Connection

if TYPE_CHECKING:
    from mcp_gateway.upstreams.h2_connection import SharedConnection
    from mcp_gateway.upstreams.h2_stream import Stream

PEEK_AFTER_S: Final = 0.5
"""A connection that was idle for longer may have been closed without our having heard of it yet."""


class Origin(NamedTuple):
    """What connections lead to."""

    host: str
    port: int
    is_tls: bool


class TlsConnections:
    """What one client has open over TLS. `connect` opens one more connection. Belongs to one event loop."""

    def __init__(
        self,
        connect: Callable[[Origin], Awaitable[Connection | SharedConnection]],
        connect_timeout_s: float,
        *,
        offers_h2: bool = True,
    ) -> None:
        self._offers_h2 = offers_h2
        self._connect = connect
        self._connect_timeout_s = connect_timeout_s
        self._known: dict[Origin, _Known] = {}

    async def carrier(self, origin: Origin) -> Connection | Stream:
        """What an exchange goes over: a new connection, or a part of one. Raises `WireError`."""
        known = self._known.setdefault(origin, _Known())
        while True:
            if known.speaks_http_1:
                return self._noted(known, await self._connect(origin))
            if (stream := known.stream()) is not None:
                return stream
            if not known.will_change:
                return await self._opened(known, origin)
            await known.change(self._connect_timeout_s)

    async def connected_to(
        self,
        address: str,
        origin: Origin,
        connection: Connection,
        on_lost: Callable[[SharedConnection], None],
    ) -> Connection | SharedConnection:
        """A new connection to `address`: the one given, or a shared one if the server wants that. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        chosen = _Chosen(connection)
        tls = shared_tls(offers_h2=self._offers_h2 and not self._known[origin].wants_http_1)
        try:
            await loop.create_connection(lambda: chosen, address, origin.port, ssl=tls, server_hostname=origin.host)
            if not chosen.is_shared:
                return connection
            module = await asyncio.to_thread(import_module, "mcp_gateway.upstreams.h2_connection")
            shared: SharedConnection = module.SharedConnection(lambda it: self._changed(origin, it, on_lost))
            chosen.hand_over_to(shared)
        except BaseException:
            chosen.abort()  # a timeout in the very moment it was made would leave it open
            raise
        return shared

    async def _opened(self, known: _Known, origin: Origin) -> Connection | Stream:
        known.is_opening = True
        try:
            made = await self._connect(origin)
        except WireError as e:
            known.tell(str(e))
            raise
        finally:
            known.is_opening = False
            known.wake()
        return self._noted(known, made)

    def _noted(self, known: _Known, made: Connection | SharedConnection) -> Connection | Stream:
        known.speaks_http_1 = not made.is_shared
        if not made.is_shared:
            return made
        known.shared.append(made)
        return made.stream()

    def _changed(self, origin: Origin, changed: SharedConnection, on_lost: Callable[[SharedConnection], None]) -> None:
        known = self._known[origin]
        known.wants_http_1 |= changed.wants_http_1
        if not changed.is_open:
            if changed in known.shared:
                known.shared.remove(changed)
            on_lost(changed)
        known.wake()


class _Known:
    """What is known of one server."""

    def __init__(self) -> None:
        self.speaks_http_1 = False
        self.wants_http_1 = False
        """It chose HTTP/2, and then said that HTTP/1.1 is required."""
        self.shared: list[SharedConnection] = []
        self.is_opening = False
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def will_change(self) -> bool:
        """Whether a connection is about to be there, or to say how much it takes."""
        return self.is_opening or any(not connection.is_settled for connection in self.shared if connection.is_open)

    def stream(self) -> Stream | None:
        """A part of a connection that has room."""
        for connection in list(self.shared):
            if connection.has_room:
                if not self._is_stale(connection):
                    return connection.stream()
                connection.abort()
        return None

    def _is_stale(self, connection: SharedConnection) -> bool:
        """Whether it was idle for so long that the other side may have left."""
        if not connection.is_idle:
            return False
        idle_s = asyncio.get_running_loop().time() - connection.idle_since
        return idle_s >= KEEPALIVE_S or (idle_s >= PEEK_AFTER_S and connection.has_news())

    async def change(self, timeout_s: float) -> None:
        """Wait until there may be room. Raises `WireError`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError as e:
            raise WireError("could not be connected to in time") from e
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def wake(self) -> None:
        """Let those who wait look again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def tell(self, words: str) -> None:
        """Those who wait would have shared what could not be opened."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(WireError(words))


class _Chosen(asyncio.Protocol):
    """Learns in the handshake what the server speaks, and makes way for it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        self.is_shared = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = made = cast(asyncio.Transport, transport)
        self.is_shared = made.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        if self.is_shared:
            made.pause_reading()  # until there is somebody to read it
        else:
            made.set_protocol(self._connection)
            self._connection.connection_made(made)

    def hand_over_to(self, shared: SharedConnection) -> None:
        """Whatever comes is for `shared` from now on. Raises `OSError` if nothing will come."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        self._transport.set_protocol(shared)
        shared.connection_made(self._transport)
        self._transport.resume_reading()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
