"""An upstream over the older HTTP+SSE transport (2024-11-05): one event stream in, a POST for each message out.

Always legacy. The server names the address to POST to; only its own origin is accepted, since credentials go there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from time import perf_counter
from urllib.parse import urljoin, urlsplit

import anyio
import orjson
from anyio.abc import TaskGroup

from mcp_gateway import jsonrpc
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Era, Json, Reply, UpstreamRequest
from mcp_gateway.errors import Misbehaved, Unreachable, UpstreamError
from mcp_gateway.upstreams.channels import Channels
from mcp_gateway.upstreams.connection import SILENT, Answer, Greeting, Limits, Listener, errands
from mcp_gateway.upstreams.dialect import HANDSHAKE, initialize_params
from mcp_gateway.upstreams.events import Event
from mcp_gateway.upstreams.handshake import greeting_of_initialize
from mcp_gateway.upstreams.http import Http
from mcp_gateway.upstreams.peer import Peer, notification
from mcp_gateway.upstreams.proving import client_for
from mcp_gateway.upstreams.relay import Verbosity
from mcp_gateway.upstreams.wire import HttpClient


class SseConnection:
    """A connection over HTTP+SSE."""

    transport = "sse"

    def __init__(self, http: Http, tasks: TaskGroup) -> None:
        self.broken = anyio.Event()
        self.why_broken = ""
        self.greeting = Greeting(Era.LEGACY, HANDSHAKE.version)
        self._http = http
        self._tasks = tasks
        self._dialect = HANDSHAKE
        self._verbosity = Verbosity()
        self._peer = Peer(http.name, partial(self._post_soon, {}), tasks, http.listener, http.limits, self._note_change)
        self._channels = Channels(http.name, self._peer, http.listener, http.limits)
        self._endpoint = ""
        self._has_endpoint = anyio.Event()

    async def greet(self) -> None:
        """Wait for the address to POST to, then initialize. Raises `UpstreamError`."""
        name, limits = self._http.name, self._http.limits
        self._tasks.start_soon(self._read)
        with anyio.move_on_after(limits.connect_timeout_s):
            await self._has_endpoint.wait()
        if not self._endpoint:
            raise Unreachable(name, f"upstream {name!r} {self.why_broken or 'did not name its endpoint in time'}")
        params = initialize_params(self._http.listener.question_capabilities)
        answer = await self._peer.ask(
            HANDSHAKE, "initialize", params, SILENT, limits.start_timeout_s, cancellable=False
        )
        self._dialect, self.greeting = greeting_of_initialize(name, answer)
        await self._post({}, jsonrpc.dump(notification("notifications/initialized")))

    async def ask(self, request: UpstreamRequest, reply: Reply, timeout_s: float) -> Answer:
        """Ask one thing; see `Connection.ask`."""
        if reply is SILENT:
            return await self._ask(request, reply, timeout_s)
        return await self._channels.ask(reply, timeout_s, lambda _, left_s: self._ask(request, reply, left_s))

    async def _ask(self, request: UpstreamRequest, reply: Reply, timeout_s: float) -> Answer:
        deadline = perf_counter() + timeout_s
        send = partial(self._post_soon, request.headers)
        level = self._verbosity.raised_to(reply.log_level)
        if level is not None and "logging" in self.greeting.capabilities:
            await self._peer.set_level(self._dialect, level, send)
        left_s = deadline - perf_counter()
        return await self._peer.ask(self._dialect, request.method, request.params, reply, left_s, send=send)

    async def listen(self, notifications: Json) -> None:
        """Legacy servers have no such thing."""
        raise LookupError("subscriptions/listen")

    def _note_change(self) -> None:
        self._channels.turns.look_again()

    async def _read(self) -> None:
        try:
            headers = self._http.headers({}, {}, "")
            async with aclosing(self._http.events_of_get(headers)) as events:
                async for event in events:
                    self._take(event)
            why = "ended its stream"
        except UpstreamError as e:
            why = str(e).removeprefix(f"upstream {self._http.name!r} ")
        self.break_off(why)

    def carry(self, headers: Mapping[str, str]) -> None:
        """Nothing: this transport has no credential that changes."""

    def break_off(self, why: str) -> None:
        """See `Connection.break_off`; the first reason counts."""
        self.why_broken = self.why_broken or why
        self._peer.close(Unreachable(self._http.name, f"upstream {self._http.name!r} {why} before it answered"))
        self._has_endpoint.set()
        self.broken.set()

    def _take(self, event: Event) -> None:
        if event.name == "message" and event.data:
            self._peer.receive(event.data)
        elif event.name == "endpoint" and not self._endpoint:
            self._endpoint = self._checked_endpoint(event.data.decode(errors="replace"))
            self._has_endpoint.set()

    def _checked_endpoint(self, named: str) -> str:
        endpoint = _same_origin(self._http.url, named.strip())
        if endpoint is None:
            raise Misbehaved(self._http.name, f"upstream {self._http.name!r} named an endpoint of another origin")
        return endpoint

    def _post_soon(self, credentials: Mapping[str, str], data: bytes) -> None:
        if self.broken.is_set():
            raise Unreachable(self._http.name, f"upstream {self._http.name!r} {self.why_broken}")
        self._tasks.start_soon(self._post_or_fail, credentials, data)

    async def _post_or_fail(self, credentials: Mapping[str, str], data: bytes) -> None:
        try:
            await self._post(credentials, data)
        except UpstreamError as e:
            message = orjson.loads(data)
            if "method" in message and "id" in message:
                self._peer.fail(message["id"], e)
            else:
                self._http.listener.dropped["post"] += 1

    async def _post(self, credentials: Mapping[str, str], data: bytes) -> None:
        headers = self._http.headers(credentials, {"mcp-protocol-version": self._dialect.version}, "")
        await self._http.deliver(headers, data, self._endpoint)


@asynccontextmanager
async def open_sse(
    config: ServerConfig, listener: Listener, limits: Limits, client: HttpClient | None = None
) -> AsyncIterator[SseConnection]:
    """A connection that is initialized. Raises `UpstreamError`."""
    client = client or client_for(config, limits)
    try:
        async with errands() as tasks:
            http = Http(config.name, config.url or "", config.headers, client, tasks, listener, limits)
            connection = SseConnection(http, tasks)
            try:
                await connection.greet()
                yield connection
            finally:
                connection.break_off("was closed")
    finally:
        with anyio.CancelScope(shield=True):
            await client.close()


def _same_origin(url: str, reference: str) -> str | None:
    """The URL that `reference` means at `url`; None if it is none, or of another origin.

    >>> _same_origin("https://a.example/sse", "/messages?s=1")
    'https://a.example/messages?s=1'
    >>> _same_origin("https://a.example/sse", "https://b.example/")
    """
    try:
        joined = urljoin(url, reference)
        return joined if _origin(joined) == _origin(url) else None
    except ValueError:
        return None


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port (RFC 6454). Raises `ValueError` for what is no URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
