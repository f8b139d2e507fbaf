"""Plain HTTP passed through: an agent's own request to an API behind us, relayed as it comes, credential put in last.

What policy judged is what is sent: the path is the canonical one, the query and body are the agent's own bytes, or what
the operator made of them before policy was asked. Headers pass by a list, redirects are not followed, and only what may
be repeated is sent again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field, replace
from time import perf_counter, time
from typing import Final

from mcp_gateway import __version__
from mcp_gateway.cache import digest_of, owner_of
from mcp_gateway.config.rest import RestConfig
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import NOTHING, Caller, Credential, HttpPart, Json, Outcome, OutcomeStatus, Request, Target
from mcp_gateway.errors import BadArguments, BadRequest, Gone, Misbehaved, TimedOut, Unreachable
from mcp_gateway.rest.breaker import Breaker, retry_after_s
from mcp_gateway.rest.caching import Asked, Ready, RouteCache, Visit
from mcp_gateway.rest.headers import PASSED_BACK, PASSED_ON, passing
from mcp_gateway.rest.operations import REPEATABLE
from mcp_gateway.rest.room import Room
from mcp_gateway.rest.routing import Route
from mcp_gateway.upstreams.edited import EditedRelay
from mcp_gateway.upstreams.plain import PlainClient
from mcp_gateway.upstreams.wire import HttpResponse

IDLE_S: Final = 60.0
"""Between two pieces of an answer."""
_BUSY: Final = (429, 503)


Check = Callable[[str, RestConfig, Request], Awaitable[None]]
"""Whether a request fits the document of the API of that name. Raises `BadArguments`, `OverLimit`, `Misbehaved`."""


@dataclass(frozen=True, slots=True)
class Api:
    """One API that requests are passed to, or what of it one of its routes makes."""

    server: ServerConfig
    rest: RestConfig
    breaker: Breaker
    rooms: tuple[Room, ...] = ()
    """Each has to have a place for a request."""
    route: Route | None = None
    routes: Mapping[str, Api] = field(default_factory=lambda: NOTHING)


def api_of(server: ServerConfig, rest: RestConfig) -> Api:
    """An API with nothing learned yet of how its addresses do."""
    rooms = _room(f"{server.name!r}", rest.max_concurrent)
    api = Api(server, rest, Breaker(rest.targets, by_load=rest.balance == "least-in-flight"), rooms)
    return replace(api, routes={route.name: _on(api, route) for route in rest.routes})


def _on(api: Api, route: Route) -> Api:
    rooms = (*api.rooms, *_room(f"the route {route.name!r} of {api.server.name!r}", route.max_concurrent))
    if not route.targets:
        return replace(api, rooms=rooms, route=route)
    breaker = Breaker(route.targets, by_load=route.balance == "least-in-flight")
    return Api(api.server, replace(api.rest, targets=route.targets), breaker, rooms, route)


def _room(name: str, most: int | None) -> tuple[Room, ...]:
    return () if most is None else (Room(name, most),)


class RouteSender:
    """`domain.Sender` for plain routes, under one configuration."""

    def __init__(
        self,
        apis: Mapping[str, Api],
        client: PlainClient,
        credential_for: Callable[[Caller, str], Awaitable[Credential]],
        max_answer_bytes: int,
        caches: Mapping[str, RouteCache] = NOTHING,
        check: Check | None = None,
    ) -> None:
        """`caches`: by API, for those whose answers may be kept."""
        self._apis = apis
        self._caches = caches
        self._check = check
        self._client = client
        self._credential_for = credential_for
        self._max_answer_bytes = max_answer_bytes

    async def send(self, caller: Caller, target: Target, request: Request) -> Outcome:
        """See `domain.Sender`."""
        api, http = self._apis.get(target.upstream), request.http
        if api is None or http is None:
            raise BadRequest("there is no such route")
        if http.route:
            api, http = self._on_its_route(api, http)
        if self._check is not None and api.rest.check_requests != "off":
            await self._check(api.server.name, api.rest, request)
        if not api.rooms:
            return await self._passed(api, http, caller, target, request)
        with ExitStack() as places:
            for room in api.rooms:
                places.enter_context(room.place())
            return await self._passed(api, http, caller, target, request)

    async def _passed(self, api: Api, http: HttpPart, caller: Caller, target: Target, request: Request) -> Outcome:
        credential = await self._credential_for(caller, target.upstream)
        passage = _Passage(api, self._client, http, request, credential, self._max_answer_bytes)
        with http.relay.scope:
            cache = self._caches.get(target.upstream)
            outcome = await (passage.run() if cache is None else passage.through(cache, caller))
            if isinstance(http.relay, EditedRelay):
                await http.relay.end()
            return outcome
        return passage.outcome(OutcomeStatus.CANCELLED)

    def _on_its_route(self, api: Api, http: HttpPart) -> tuple[Api, HttpPart]:
        """What a route makes of an API and of the way back. Raises `Gone`, `BadArguments`."""
        on_route = api.routes.get(http.route)
        if on_route is None or on_route.route is None:
            # servers.toml was edited in between: what the route was to do cannot be done any more.
            raise Unreachable(api.server.name, f"{api.server.name!r} has just been configured anew; try again")
        route = on_route.route
        if route.life.is_over(time()):
            raise Gone("this part of the API has been retired", route.life.headers())
        if http.fault:
            raise BadArguments(http.fault)
        if not route.edits_answers:
            return on_route, http
        return on_route, replace(http, relay=EditedRelay(http.relay, route, api.server.name, self._max_answer_bytes))


class _Passage:
    """One request on its way."""

    def __init__(
        self,
        api: Api,
        client: PlainClient,
        http: HttpPart,
        request: Request,
        credential: Credential,
        max_answer_bytes: int,
    ) -> None:
        self._api = api
        self._name = api.server.name
        self._client = client
        self._http = http
        self._method = str(request.arguments["method"])
        self._credential = credential
        self._room = max_answer_bytes
        self._began_at = perf_counter()
        self._status, self._address = 0, ""
        self._bytes = 0
        self._is_begun = False
        self._request_id = request.request_id
        self._visit: Visit | None = None

    async def through(self, cache: RouteCache, caller: Caller) -> Outcome:
        """`run`, unless there is an answer already; whoever is not answered may get an older one. Raises as `run`."""
        self._visit = visit = cache.visit(self._asked(caller))
        try:
            ready = visit.at_once()
            if ready is not None:
                return await self._given(ready)
            return await self.run()
        except (Unreachable, TimedOut):
            ready = None if self._is_begun else visit.failed()
            if ready is None:
                raise
            return await self._given(ready)
        finally:
            if not self._status:
                visit.unknown()

    async def run(self) -> Outcome:
        """Relay the answer of the first address that gives one.

        Raises `UpstreamError` where there is none, and where it breaks off: without its end the agent sees that too.
        """
        tried: frozenset[str] = frozenset()
        while True:
            address, wait_s = self._api.breaker.choose(perf_counter(), tried)
            if address is None:
                raise Unreachable(self._name, f"{self._name!r} keeps failing; try again in {wait_s:.0f} s")
            tried |= {address}
            try:
                with self._api.breaker.asking(address):
                    return await self._through(address)
            except (Unreachable, TimedOut) as e:
                self._api.breaker.failed(address, perf_counter())
                if self._is_begun or isinstance(e, TimedOut) or not self._may_repeat(tried):
                    raise

    def outcome(self, status: OutcomeStatus) -> Outcome:
        """What became of it so far."""
        result: Json | None = {"status": self._status, "bytes": self._bytes} if self._status else None
        if result is not None and len(self._api.rest.targets) > 1:
            result["target"] = self._address
        return Outcome(status, result, upstream_ms=(perf_counter() - self._began_at) * 1000)

    def _may_repeat(self, tried: frozenset[str]) -> bool:
        is_repeatable = self._method in REPEATABLE or "idempotency-key" in self._headers()
        return is_repeatable and len(tried) <= self._api.rest.retries and len(tried) < len(self._api.rest.targets)

    async def _through(self, address: str) -> Outcome:
        timeout_s = self._api.server.timeout_s
        body = self._http.body or None
        try:
            async with asyncio.timeout(timeout_s) as until_head:
                url = address + self._http.path
                async with self._client.open(self._name, self._method, url, self._headers(), body) as answer:
                    until_head.reschedule(None)
                    return await self._relayed(address, answer)
        except TimeoutError as e:
            raise TimedOut(self._name, f"{self._name!r} did not answer within {timeout_s:.3g} s") from e

    def _headers(self) -> dict[str, str]:
        """By name in lower case, so that nothing the agent sends stands beside what is put in here."""
        own = {"accept": "*/*", "accept-encoding": "identity", "user-agent": f"mcp-gateway/{__version__}"}
        passed = passing(self._http.headers, PASSED_ON, self._api.rest.send_headers)
        if self._api.route is not None:
            passed = self._api.route.request_headers(passed)
        sent = own | passed | {name.lower(): value for name, value in self._credential.headers.items()}
        return sent if self._visit is None else self._visit.sent(sent)

    def _asked(self, caller: Caller) -> Asked:
        credential, http = self._credential.headers, self._http
        secret = {name.lower() for name in credential}
        return Asked(
            owner=owner_of(caller),
            method=self._method,
            path=http.path,
            said=http.headers,
            sent={name: value for name, value in self._headers().items() if name not in secret},
            has_body=bool(http.body),
            credential=digest_of(credential),
            request_id=self._request_id,
            route=http.route,
        )

    async def _given(self, ready: Ready) -> Outcome:
        """The agent gets an answer that a cache has."""
        relay, self._status, self._bytes = self._http.relay, ready.status, len(ready.body)
        await relay.begin(ready.status, ready.headers)
        self._is_begun = True
        relay.hold(ready.body)
        self._keep_afterwards()
        status = OutcomeStatus.HTTP_ERROR if ready.status >= 400 else OutcomeStatus.OK
        return replace(self.outcome(status), cached=ready.cached)

    def _keep_afterwards(self) -> None:
        keep = None if self._visit is None else self._visit.to_keep()
        if keep is not None:
            self._http.relay.afterwards(keep)

    async def _relayed(self, address: str, answer: HttpResponse) -> Outcome:
        self._status, self._address = answer.status, without_credentials(address)
        is_failure = answer.status in _BUSY or answer.status >= 500
        if is_failure:
            self._api.breaker.failed(address, perf_counter(), retry_after_s(answer.headers, time()))
        else:
            self._api.breaker.worked(address)
        headers = passing(answer.headers, PASSED_BACK, self._api.rest.return_headers)
        if self._visit is not None and (ready := self._judged(self._visit, answer, headers)) is not None:
            return await self._given(ready)
        await self._http.relay.begin(answer.status, headers)
        self._is_begun = True
        held = b""
        async with aclosing(answer.body()) as body:
            async for piece in _in_time(body, self._name):
                self._count(piece)
                if self._visit is not None:
                    self._visit.piece(piece)
                if held:
                    await self._http.relay.write(held)
                held = piece
        self._http.relay.hold(held)
        self._keep_afterwards()
        return self.outcome(OutcomeStatus.HTTP_ERROR if answer.status >= 400 else OutcomeStatus.OK)

    def _judged(self, visit: Visit, answer: HttpResponse, headers: dict[str, str]) -> Ready | None:
        try:
            return visit.answered(answer.status, answer.headers, headers)
        except ValueError as e:
            raise Misbehaved(self._name, f"{self._name!r} answered with {e}") from e

    def _count(self, piece: bytes) -> None:
        self._bytes += len(piece)
        if self._bytes > self._room:
            raise Misbehaved(self._name, f"{self._name!r} answered with more than {self._room} bytes")


def without_credentials(address: str) -> str:
    """An address as it may be written down.

    >>> without_credentials("https://user:secret@orders.internal/v2")
    'https://orders.internal/v2'
    """
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


async def _in_time(body: AsyncGenerator[bytes, None], name: str) -> AsyncGenerator[bytes, None]:
    while True:
        try:
            async with asyncio.timeout(IDLE_S):
                piece = await anext(body, None)
        except TimeoutError as e:
            raise TimedOut(name, f"{name!r} stopped in the middle of its answer") from e
        if piece is None:
            return
        if piece:
            yield piece
