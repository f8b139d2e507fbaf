"""An upstream over Streamable HTTP: the era settled once, then each request sent the way that era wants it.

Modern requests stand alone. Legacy ones go in the session of their credential; one that the server has forgotten is
renewed once, and the request sent again, since a server that does not know the session has not run it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio

from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import NOTHING, Era, Json, Reply, RpcError, UpstreamRequest
from mcp_gateway.errors import Misbehaved, TimedOut, Unreachable, UpstreamError
from mcp_gateway.upstreams.backoff import Backoff
from mcp_gateway.upstreams.connection import SILENT, Answer, Greeting, Limits, Listener, errands
from mcp_gateway.upstreams.dialect import MODERN, Dialect
from mcp_gateway.upstreams.handshake import HandshakeRefused, discovered
from mcp_gateway.upstreams.http import Http
from mcp_gateway.upstreams.patience import patience, shown_s
from mcp_gateway.upstreams.proving import client_for
from mcp_gateway.upstreams.refusals import EraRefused, Rejected, SessionLost
from mcp_gateway.upstreams.sessions import Session, Sessions
from mcp_gateway.upstreams.wire import HttpClient

STREAM_FIRST_WAIT_S = 1.0
STREAM_MOST_WAIT_S = 60.0
STREAM_LONG_ENOUGH_S = 30.0
"""A stream that lived so long ended for its own reasons; a shorter one is not worth hurrying for."""
_MAY_ASK = frozenset({"tools/call", "prompts/get", "resources/read"})
HEARD_WITHIN_S = 0.5
"""How long the first calls wait for the stream to be open: many servers ask there what they want to know in a call, and
what they say before is lost."""


class NotStreamable(UpstreamError):
    """The URL answers neither era's POST; perhaps it speaks the older HTTP+SSE."""


class HttpConnection:
    """A connection over Streamable HTTP."""

    transport = "http"

    def __init__(self, http: Http) -> None:
        self.broken = anyio.Event()
        self.why_broken = ""
        self.greeting = Greeting(Era.MODERN, MODERN.version)
        self._http = http
        self._dialect = MODERN
        self._sessions = Sessions(http)
        self._hearing = anyio.CancelScope()
        self._is_heard = anyio.Event()
        """The first attempt to open the stream has ended, one way or the other."""

    async def greet(self) -> None:
        """Settle the era. Raises `UpstreamError`, among them `NotStreamable`."""
        found = await self._discovered()
        if found is not None:
            self._dialect, self.greeting = found
            return
        try:
            with anyio.fail_after(self._http.limits.start_timeout_s):
                session = await self._sessions.session_for(NOTHING)
        except TimeoutError as e:
            raise TimedOut(self._http.name, f"upstream {self._http.name!r} did not initialize in time") from e
        except (Rejected, Misbehaved, HandshakeRefused) as e:
            raise _perhaps_not_streamable(e) from e
        self._dialect, self.greeting = session.dialect, session.greeting
        self._http.run_errand(self._keep_hearing)

    async def ask(self, request: UpstreamRequest, reply: Reply, timeout_s: float) -> Answer:
        """Ask one thing; see `Connection.ask`."""
        with patience(timeout_s, reply):
            try:
                if self._dialect.era is Era.MODERN:
                    return await self._http.run(self._http.begin(self._dialect, request, reply))
                return await self._ask_in_session(request, reply)
            except EraRefused as e:
                await self._check_era()
                return e.answer
        name = self._http.name
        raise TimedOut(name, f"upstream {name!r} did not answer within {shown_s(timeout_s)} s")

    async def listen(self, notifications: Json) -> None:
        """Hold a `subscriptions/listen`; see `Connection.listen`."""
        request = UpstreamRequest("subscriptions/listen", {"notifications": notifications})
        answer = await self._http.run(self._http.begin(self._dialect, request, SILENT))
        if isinstance(answer, RpcError):
            raise LookupError(f"subscriptions/listen: error {answer.code}")

    def carry(self, headers: Mapping[str, str]) -> None:
        """See `Connection.carry`."""
        self._http.carry(headers)

    def break_off(self, why: str) -> None:
        """See `Connection.break_off`. Calls in flight go on until the connection is left."""
        self.why_broken = self.why_broken or why
        self.broken.set()

    async def close(self) -> None:
        """End the sessions, and with the connection's own tasks all calls in flight."""
        await self._http.close()
        await self._sessions.close()

    async def _discovered(self) -> tuple[Dialect, Greeting] | None:
        try:
            return await discovered(self._http.name, self._ask_plainly, self._http.limits.connect_timeout_s)
        except Rejected as e:
            # A refused credential or a redirect is no verdict on the era; any other status may be an older server's
            # way of not knowing the method.
            if e.is_about_credentials or e.status < 400:
                raise
        except (Misbehaved, TimedOut):
            pass
        return None

    async def _check_era(self) -> None:
        """Break off, and raise `Unreachable`, if the server speaks the other era by now (an update may do that)."""
        is_modern = await self._discovered() is not None
        if is_modern != (self._dialect.era is Era.MODERN):
            self.break_off("speaks another era of the protocol than before")
            raise Unreachable(self._http.name, f"upstream {self._http.name!r} {self.why_broken}; try again")

    async def _ask_plainly(self, dialect: Dialect, method: str, params: Json, timeout_s: float) -> Answer:
        with anyio.move_on_after(timeout_s):
            return await self._http.run(self._http.begin(dialect, UpstreamRequest(method, params), SILENT))
        raise TimedOut(self._http.name, f"upstream {self._http.name!r} did not answer within {shown_s(timeout_s)} s")

    async def _ask_in_session(self, request: UpstreamRequest, reply: Reply) -> Answer:
        session = await self._sessions.session_for(request.headers, owner=request.owner)
        if not self._is_heard.is_set() and request.method in _MAY_ASK:
            await self._until_heard()
        try:
            return await self._ask_once(session, request, reply)
        except SessionLost:
            session = await self._sessions.session_for(request.headers, lost=session, owner=request.owner)
            self._http.listener.on_list_changed("session renewed")
            if not request.headers:  # the session that subscriptions are made in, and whose stream is heard
                self._http.listener.on_gap(True)
                self._hearing.cancel()  # of the old session, where nothing is said any more
            return await self._ask_once(session, request, reply)

    async def _until_heard(self) -> None:
        with anyio.move_on_after(HEARD_WITHIN_S):
            await self._is_heard.wait()
        self._is_heard.set()

    async def _ask_once(self, session: Session, request: UpstreamRequest, reply: Reply) -> Answer:
        level = session.verbosity.raised_to(reply.log_level)
        if level is not None and "logging" in session.greeting.capabilities:
            await self._run(session, UpstreamRequest("logging/setLevel", {"level": level}, request.headers), SILENT)
        return await self._run(session, request, reply)

    async def _run(self, session: Session, request: UpstreamRequest, reply: Reply) -> Answer:
        return await self._http.run(self._http.begin(session.dialect, request, reply, session.id))

    async def _keep_hearing(self) -> None:
        """Keep a legacy server's GET stream open, for its news of changed lists; 405 means it has none."""
        backoff = Backoff(STREAM_FIRST_WAIT_S, STREAM_MOST_WAIT_S)
        while True:
            opened_at = anyio.current_time()
            try:
                with anyio.CancelScope() as self._hearing:
                    await self._hear()
            except Rejected as e:
                if e.status < 500:
                    return
            except UpstreamError:
                self._http.listener.dropped["stream"] += 1
            finally:
                self._is_heard.set()
            if anyio.current_time() - opened_at > STREAM_LONG_ENOUGH_S:
                backoff.reset()
            await anyio.sleep(backoff.next_s())

    async def _hear(self) -> None:
        session = await self._sessions.session_for(NOTHING)
        try:
            await self._http.hear(self._sessions.headers(session), self._is_heard.set)
        except Rejected as e:
            if e.status != 404 or not session.id:
                raise
            await self._sessions.session_for(NOTHING, lost=session)
            self._http.listener.on_gap(True)
        # What changed while nobody listened is only seen by looking.
        self._http.listener.on_list_changed("stream ended")


@asynccontextmanager
async def open_http(
    config: ServerConfig, listener: Listener, limits: Limits, client: HttpClient | None = None
) -> AsyncIterator[HttpConnection]:
    """A connection whose era is settled. Raises `UpstreamError`, among them `NotStreamable`."""
    client = client or client_for(config, limits)
    try:
        async with errands() as tasks:
            http = Http(config.name, config.url or "", config.headers, client, tasks, listener, limits)
            connection = HttpConnection(http)
            try:
                await connection.greet()
                yield connection
            finally:
                await connection.close()
    finally:
        with anyio.CancelScope(shield=True):
            await client.close()


def _perhaps_not_streamable(error: UpstreamError) -> UpstreamError:
    """Any answer but a refused credential may be that of a server of the older transport (2025-11-25 transports,
    "Backwards Compatibility")."""
    if isinstance(error, Rejected) and error.is_about_credentials:
        return error
    return NotStreamable(error.upstream, str(error))
