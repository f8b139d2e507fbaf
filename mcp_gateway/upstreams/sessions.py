"""Legacy HTTP sessions of one upstream: opened by `initialize`, renewed when the server has forgotten them, ended.

One session for each credential, because servers bind a session to whoever opened it; sharing one would hand one
principal's state to another.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import anyio

from mcp_gateway import jsonrpc
from mcp_gateway.domain import NOTHING, UpstreamRequest
from mcp_gateway.errors import Misbehaved, Unreachable
from mcp_gateway.upstreams.connection import SILENT, Answer, Greeting
from mcp_gateway.upstreams.dialect import HANDSHAKE, Dialect, initialize_params
from mcp_gateway.upstreams.handshake import greeting_of_initialize
from mcp_gateway.upstreams.http import ERRAND_TIMEOUT_S, Http
from mcp_gateway.upstreams.peer import notification
from mcp_gateway.upstreams.relay import Verbosity

_SESSION_ID: Final = re.compile(r"[\x21-\x7e]{1,1024}")
"""Visible ASCII (2025-11-25 transports, "Session Management"); the bound is ours."""


@dataclass(slots=True)
class Session:
    """What one `initialize` agreed on."""

    key: str
    credentials: Mapping[str, str]
    id: str
    dialect: Dialect
    greeting: Greeting
    verbosity: Verbosity = field(default_factory=Verbosity)


class Sessions:
    """The open sessions, the longest unused one first."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._open: OrderedDict[str, Session] = OrderedDict()
        self._locks: dict[str, anyio.Lock] = {}

    async def session_for(
        self, credentials: Mapping[str, str], lost: Session | None = None, owner: str = ""
    ) -> Session:
        """The session these credentials opened; a new one where there is none, or where it is the `lost` one.

        Whose credentials they are (`owner`) is what counts where that is known: a renewed token is no new session.
        Raises `UpstreamError`. Callers that come together share one `initialize`.
        """
        key = f"owner {owner}" if owner else _key_of(credentials)
        session = self._open.get(key)
        if session is None or session is lost:
            session = await self._opened_once(key, credentials, lost)
        elif owner:
            session.credentials = credentials
        if key in self._open:
            self._open.move_to_end(key)
        return session

    def headers(self, session: Session) -> dict[str, str]:
        """The headers of a message in this session that answers no call."""
        return self._http.headers(session.credentials, {"mcp-protocol-version": session.dialect.version}, session.id)

    async def close(self) -> None:
        """End every session, all at once and within a bound; servers may refuse (405)."""
        sessions = [session for session in self._open.values() if session.id]
        self._open.clear()
        with anyio.move_on_after(ERRAND_TIMEOUT_S / 5, shield=True):
            async with anyio.create_task_group() as tasks:
                for session in sessions:
                    tasks.start_soon(self._end, session)

    async def _opened_once(self, key: str, credentials: Mapping[str, str], lost: Session | None) -> Session:
        """Open a session, unless another caller has done so meanwhile."""
        lock = self._locks.setdefault(key, anyio.Lock())
        try:
            async with lock:
                session = self._open.get(key)
                if session is None or session is lost:
                    session = await self._initialized(key, credentials)
                    self._keep(session)
                return session
        finally:
            if not lock.statistics().tasks_waiting:
                self._locks.pop(key, None)

    async def _initialized(self, key: str, credentials: Mapping[str, str]) -> Session:
        capabilities = self._http.listener.question_capabilities
        request = UpstreamRequest("initialize", initialize_params(capabilities), credentials)
        exchange = self._http.begin(HANDSHAKE, request, SILENT)
        answer: Answer = await self._http.run(exchange)
        dialect, greeting = greeting_of_initialize(self._http.name, answer)
        if exchange.new_session_id and not _SESSION_ID.fullmatch(exchange.new_session_id):
            raise Misbehaved(self._http.name, f"upstream {self._http.name!r} sent a session id that is none")
        session = Session(key, credentials, exchange.new_session_id, dialect, greeting)
        await self._http.post(notification("notifications/initialized"), self.headers(session))
        return session

    def _keep(self, session: Session) -> None:
        self._open[session.key] = session
        if len(self._open) > self._http.limits.max_sessions:
            _, oldest = self._open.popitem(last=False)
            self._http.run_errand(self._end, oldest)

    async def _end(self, session: Session) -> None:
        try:
            async with self._http.open("DELETE", self.headers(session)):
                return
        except Unreachable:
            self._http.listener.dropped["session end"] += 1


def _key_of(credentials: Mapping[str, str]) -> str:
    """A name for a set of credentials that does not show them."""
    return hashlib.sha256(jsonrpc.canonical(dict(credentials or NOTHING))).hexdigest()
