"""Requests passed to a plain API, against a real HTTP server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import CancelScope

from fakes.library_api import LibraryApi
from fakes.plain_api import PlainApi
from fakes.ports import free_port
from fakes.served import serving
from mcp_gateway.cache import Cache
from mcp_gateway.config.rest import RestConfig
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Caller, Credential, HttpPart, Kind, Outcome, OutcomeStatus, Request, Target, Verb
from mcp_gateway.errors import BadRequest, Misbehaved, OverLimit, TimedOut, Unreachable
from mcp_gateway.rest.breaker import FAILURES_UNTIL_OPEN
from mcp_gateway.rest.caching import CacheRules, Clocks, RouteCache
from mcp_gateway.rest.editing import HeaderEdits, RequestEdits
from mcp_gateway.rest.matching import read_pattern
from mcp_gateway.rest.routing import Route
from mcp_gateway.upstreams.plain import PlainClient
from mcp_gateway.upstreams.routes import RouteSender, api_of, without_credentials

CALLER = Caller("bot", "read")
TARGET = Target(Kind.ROUTE, "orders", "**", "orders", {}, "")
ROOM = 100_000


class Wire:
    """What the agent gets."""

    def __init__(self) -> None:
        self.scope = CancelScope()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.sent = b""
        self.held = b""

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, dict(headers)

    async def write(self, piece: bytes) -> None:
        self.sent += piece

    def hold(self, piece: bytes) -> None:
        self.held += piece

    def hold_error(self, error: Exception) -> None:
        raise error

    def afterwards(self, do: Callable[[], None]) -> None:
        do()


class Passing:
    """A sender with its wire; each `send` is a new request."""

    def __init__(self, client: PlainClient, bases: tuple[str, ...], more: dict[str, Any], timeout_s: float) -> None:
        rest = RestConfig(tuple((base, 1.0) for base in bases), **more)
        server = ServerConfig("orders", url=bases[0], rest=rest, timeout_s=timeout_s)
        self.route = ""
        clocks = Clocks(time.time, time.monotonic)
        caches = {} if rest.cache is None else {"orders": RouteCache(rest.cache, bases, Cache(), clocks)}
        self.sender = RouteSender({"orders": api_of(server, rest)}, client, self._credential_for, ROOM, caches)
        self.wire = Wire()

    async def _credential_for(self, caller: Caller, upstream: str) -> Credential:
        return Credential({"Authorization": f"Bearer key of {upstream} for {caller.agent}"})

    async def send(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Outcome:
        self.wire = Wire()
        http = HttpPart(path, headers or {}, body, None, self.wire, self.route)
        params = {"arguments": {"method": method}}
        request = Request("r", Verb.ROUTE, "route", Kind.ROUTE, f"{method} {path}", params, http=http)
        return await self.sender.send(CALLER, TARGET, request)


@asynccontextmanager
async def passing(*bases: str, timeout_s: float = 5, **more: Any) -> AsyncIterator[Passing]:
    client = PlainClient()
    try:
        yield Passing(client, bases, more, timeout_s)
    finally:
        await client.close()


async def test_the_request_is_the_agents_but_for_its_headers_and_the_credential() -> None:
    api = PlainApi()
    sent = {"accept-language": "de", "cookie": "a=canary", "x-canary": "canary", "x-tenant": "7", "user-agent": "bot"}
    async with serving(api) as origin, passing(f"{origin}/api", send_headers=("x-tenant",)) as route:
        outcome = await route.send("/v1/orders/a%20b?x=%31", "POST", sent, b'{ "as": "it came" }')
    [seen] = api.seen
    assert (seen.method, seen.path, seen.query) == ("POST", "/api/v1/orders/a%20b", "x=%31")
    assert seen.body == b'{ "as": "it came" }'
    assert seen.headers["authorization"] == "Bearer key of orders for bot"
    assert (seen.headers["accept-language"], seen.headers["x-tenant"]) == ("de", "7")
    assert seen.headers["user-agent"].startswith("mcp-gateway/")
    assert "canary" not in str(seen.headers)
    assert outcome.status is OutcomeStatus.OK


async def test_nothing_of_the_agents_can_stand_beside_or_before_the_credential() -> None:
    api = PlainApi()
    async with serving(api) as origin, passing(origin, send_headers=("authorization",)) as route:
        await route.send("/v1/orders", headers={"authorization": "Bearer the-agents"})
    assert api.seen[0].headers["authorization"] == "Bearer key of orders for bot"


async def test_headers_of_an_answer_pass_by_a_list() -> None:
    async with serving(PlainApi()) as origin, passing(origin) as route:
        await route.send("/v1/orders/7")
    assert route.wire.headers["etag"] == '"7"'
    assert "canary" not in str(route.wire.headers)
    assert "location" not in route.wire.headers
    async with serving(PlainApi()) as origin, passing(origin, return_headers=("x-backend",)) as route:
        await route.send("/v1/orders/7")
    assert route.wire.headers["x-backend"] == "canary"


async def test_the_last_piece_of_an_answer_is_held_for_the_audit() -> None:
    async with serving(PlainApi()) as origin, passing(origin) as route:
        outcome = await route.send("/v1/stream")
    assert route.wire.sent + route.wire.held == b"0\n1\n2\n"
    assert route.wire.held
    assert outcome.result == {"status": 200, "bytes": 6}


@pytest.mark.parametrize(("status", "outcome"), [(302, "ok"), (404, "http_error"), (500, "http_error")])
async def test_what_the_api_says_is_passed_on_and_no_redirect_followed(status: int, outcome: str) -> None:
    api = PlainApi()
    async with serving(api) as origin, passing(origin) as route:
        said = await route.send(f"/v1/status/{status}")
    assert (route.wire.status, said.status) == (status, outcome)
    assert len(api.seen) == 1


async def test_what_may_be_repeated_is_sent_to_another_address_and_what_may_not_is_not() -> None:
    api, nobody = PlainApi(), f"http://127.0.0.1:{free_port()}"
    async with serving(api) as origin:
        async with passing(nobody, origin) as route:
            assert (await route.send("/v1/orders")).status is OutcomeStatus.OK
        async with passing(nobody, origin) as route:
            with pytest.raises(Unreachable):
                await route.send("/v1/orders", "POST", body=b"{}")
        async with passing(nobody, origin) as route:
            once = {"idempotency-key": "1"}
            assert (await route.send("/v1/orders", "POST", once, b"{}")).status is OutcomeStatus.OK
        async with passing(nobody, origin, retries=0) as route:
            with pytest.raises(Unreachable):
                await route.send("/v1/orders")
    assert [seen.method for seen in api.seen] == ["GET", "POST"]


async def test_an_api_that_keeps_failing_is_left_alone() -> None:
    api = PlainApi()
    async with serving(api) as origin, passing(origin) as route:
        for _ in range(FAILURES_UNTIL_OPEN):
            await route.send("/v1/status/503")
        with pytest.raises(Unreachable, match="keeps failing"):
            await route.send("/v1/orders")
    assert len(api.seen) == FAILURES_UNTIL_OPEN


async def test_an_answer_may_not_keep_an_agent_waiting() -> None:
    async with serving(PlainApi()) as origin, passing(origin, timeout_s=0.1) as route:
        with pytest.raises(TimedOut, match=r"within 0\.1 s"):
            await route.send("/v1/slow")
    assert route.wire.status == 0


async def test_an_answer_without_end_breaks_off() -> None:
    async with serving(PlainApi()) as origin, passing(origin) as route:
        with pytest.raises(Misbehaved, match=f"more than {ROOM} bytes"):
            await route.send("/v1/huge")
    assert len(route.wire.sent) <= ROOM
    assert route.wire.held == b""


async def test_an_agent_that_hangs_up_ends_the_request() -> None:
    api = PlainApi()
    async with serving(api) as origin, passing(origin) as route:
        sending = asyncio.create_task(route.send("/v1/slow"))
        with anyio.fail_after(5):
            await api.slow.wait()
        route.wire.scope.cancel()
        assert (await sending).status is OutcomeStatus.CANCELLED


async def test_an_api_that_is_gone_since_the_request_was_judged_gets_nothing() -> None:
    async with passing("http://127.0.0.1:9") as route:
        target = Target(Kind.ROUTE, "nobody", "**", "nobody", {}, "")
        http = HttpPart("/v1/orders", {}, b"", None, Wire())
        params = {"arguments": {"method": "GET"}}
        with pytest.raises(BadRequest, match="no such route"):
            await route.sender.send(
                CALLER, target, Request("r", Verb.ROUTE, "route", Kind.ROUTE, "GET /", params, http=http)
            )


CACHED = CacheRules((read_pattern("GET /v1/**"),), 60.0)


async def test_a_kept_answer_is_given_without_asking_and_with_the_headers_that_pass() -> None:
    api = LibraryApi(more={"x-backend": "canary"})
    async with serving(api) as origin, passing(origin, cache=CACHED) as route:
        await route.send("/v1/a")
        first, outcome = route.wire, await route.send("/v1/a")
    assert len(api.asked) == 1
    assert (route.wire.sent + route.wire.held, route.wire.status) == (first.sent + first.held, 200)
    assert (route.wire.headers["content-type"], "canary" in str(route.wire.headers)) == ("application/json", False)
    assert outcome.cached is not None
    assert (outcome.status, outcome.upstream_ms < 50) == (OutcomeStatus.OK, True)


async def test_a_change_that_is_never_answered_may_have_been_made() -> None:
    api = LibraryApi()
    async with serving(api) as origin, passing(origin, cache=CACHED, timeout_s=0.2) as route:
        await route.send("/v1/a")
        api.is_silent = True
        with pytest.raises(TimedOut):
            await route.send("/v1/a", "PUT")
        await route.send("/v1/a")
    assert route.wire.held.endswith(b'"edition": 1, "note": ""}')


async def test_an_api_that_is_gone_is_stood_in_for_and_only_where_something_is_kept() -> None:
    api = LibraryApi(more={"age": "60"})
    async with serving(api) as origin, passing(origin, cache=CACHED) as route:
        await route.send("/v1/a")
        route.sender._apis["orders"].breaker._states[origin].rests_until = 1e12
        outcome = await route.send("/v1/a")
        assert outcome.cached is not None
        with pytest.raises(Unreachable):
            await route.send("/v1/b")


async def test_a_route_that_is_gone_since_the_request_was_judged_sends_nothing() -> None:
    api = PlainApi()
    async with serving(api) as origin, passing(origin) as route:
        http = HttpPart("/v1/orders", {}, b"", None, Wire(), route="v1")
        request = Request("r", Verb.ROUTE, "route", Kind.ROUTE, "GET /", {"arguments": {"method": "GET"}}, http=http)
        with pytest.raises(Unreachable, match="configured anew"):
            await route.sender.send(CALLER, TARGET, request)
    assert api.seen == []


async def test_an_edit_never_stands_in_for_the_credential() -> None:
    edits = RequestEdits(HeaderEdits(set={"authorization": "Bearer edited", "x-tenant": "7"}))
    route = Route("all", (read_pattern("* **"),), request=edits)
    api = PlainApi()
    async with serving(api) as origin, passing(origin, routes=(route,)) as passage:
        passage.route = "all"
        await passage.send("/v1/orders")
    assert api.seen[0].headers["authorization"] == "Bearer key of orders for bot"
    assert api.seen[0].headers["x-tenant"] == "7"


async def test_of_several_addresses_the_one_that_answered_is_written_down_without_what_it_may_hold() -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    async with serving(PlainApi()) as origin, passing(nobody, f"{origin}/canary") as route:
        outcome = await route.send("/v1/orders")
    assert outcome.result is not None
    assert outcome.result["target"] == f"{origin}/canary"
    assert without_credentials("https://user:secret@a.internal/v2@x") == "https://a.internal/v2@x"


async def test_a_key_that_a_route_keeps_back_makes_nothing_repeatable() -> None:
    route = Route("all", (read_pattern("* **"),), request=RequestEdits(HeaderEdits(frozenset({"idempotency-key"}))))
    nobody = f"http://127.0.0.1:{free_port()}"
    async with serving(PlainApi()) as origin, passing(nobody, origin, routes=(route,)) as passage:
        passage.route = "all"
        with pytest.raises(Unreachable):
            await passage.send("/v1/orders", "POST", {"idempotency-key": "1"}, b"{}")


async def test_an_api_takes_only_so_many_requests_at_once_on_all_its_routes_together() -> None:
    api = PlainApi()
    async with serving(api) as origin, passing(origin, max_concurrent=1) as route:
        sending = asyncio.create_task(route.send("/v1/slow"))
        with anyio.fail_after(5):
            await api.slow.wait()
        first = route.wire
        with pytest.raises(OverLimit, match="'orders' takes at most 1 requests at once"):
            await route.send("/v1/orders")
        first.scope.cancel()
        assert (await sending).status is OutcomeStatus.CANCELLED
        assert (await route.send("/v1/orders")).status is OutcomeStatus.OK


async def test_by_load_an_address_that_is_slow_gets_no_more() -> None:
    slow, quick = PlainApi(), PlainApi()
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(serving(api)) for api in (slow, quick)]
        route = await stack.enter_async_context(passing(*addresses, balance="least-in-flight"))
        sending = asyncio.create_task(route.send("/v1/slow"))
        with anyio.fail_after(5):
            await slow.slow.wait()
        held = route.wire
        for _ in range(3):
            await route.send("/v1/orders")
        held.scope.cancel()
        await sending
    assert (len(slow.seen), len(quick.seen)) == (1, 3)
