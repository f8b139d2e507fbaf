"""A plain API's operations as tools, against a real HTTP server."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from fakes.plain_api import OPENAPI, PlainApi
from fakes.ports import free_port
from fakes.served import serving
from mcp_gateway.config.rest import RestConfig
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Json, UpstreamRequest
from mcp_gateway.errors import Misbehaved, TimedOut, Unreachable
from mcp_gateway.rest.breaker import FAILURES_UNTIL_OPEN
from mcp_gateway.rest.editing import AnswerEdits, HeaderEdits, QueryEdits, RequestEdits, Rewrite
from mcp_gateway.rest.lifecycle import Life, State
from mcp_gateway.rest.matching import read_pattern
from mcp_gateway.rest.pointers import Edit
from mcp_gateway.rest.routing import Route
from mcp_gateway.upstreams.connection import SILENT, Answer, Limits
from mcp_gateway.upstreams.rest import RestConnection, open_rest


@asynccontextmanager
async def connected(
    folder: Path, *bases: str, include: str = "* /v1/orders**", retries: int = 1, routes: tuple[Route, ...] = ()
) -> AsyncIterator[RestConnection]:
    (folder / "orders.yaml").write_text(OPENAPI)
    targets = tuple((base, 1.0) for base in bases)
    rest = RestConfig(targets, (read_pattern(include),), folder / "orders.yaml", retries=retries, routes=routes)
    config = ServerConfig("orders", url=bases[0], rest=rest)
    async with open_rest(config, rest, Limits(max_message_bytes=1_000_000)) as connection:
        yield connection


async def call(
    connection: RestConnection, tool: str, headers: Mapping[str, str] | None = None, **arguments: Any
) -> Answer:
    request = UpstreamRequest("tools/call", {"name": tool, "arguments": arguments}, headers or {})
    return await connection.ask(request, SILENT, 5)


def text_of(answer: Answer) -> str:
    assert isinstance(answer, dict)
    return str(answer["content"][0]["text"])


async def test_only_what_is_included_is_a_tool(tmp_path: Path) -> None:
    async with connected(tmp_path, "http://127.0.0.1:9") as connection:
        listed = await connection.ask(UpstreamRequest("tools/list", {}), SILENT, 5)
    assert isinstance(listed, dict)
    assert [tool["name"] for tool in listed["tools"]] == ["get_order", "create_order"]


async def test_a_call_is_one_request_with_the_credential_and_nothing_else(tmp_path: Path) -> None:
    api = PlainApi()
    async with serving(api) as origin, connected(tmp_path, f"{origin}") as connection:
        answer = await call(connection, "get_order", {"Authorization": "Bearer key"}, id="a b", expand=["x", "y"])
    (seen,) = api.seen
    assert (seen.method, seen.path, seen.query, seen.body) == ("GET", "/v1/orders/a%20b", "expand=x&expand=y", b"")
    assert seen.headers["authorization"] == "Bearer key"
    assert isinstance(answer, dict)
    assert answer["structuredContent"] == {"path": "/v1/orders/a%20b"}


async def test_a_base_path_is_kept(tmp_path: Path) -> None:
    api = PlainApi()
    async with serving(api) as origin, connected(tmp_path, f"{origin}/api") as connection:
        await call(connection, "create_order", body={"amount": 1})
    assert (api.seen[0].path, api.seen[0].body) == ("/api/v1/orders", b'{"amount":1}')


@pytest.mark.parametrize(
    ("status", "said"), [(404, "HTTP 404: it says so"), (500, "HTTP 500: it says so"), (302, "is not followed")]
)
async def test_what_the_api_refuses_is_a_tool_error_in_its_own_words_alone(
    tmp_path: Path, status: int, said: str
) -> None:
    api = PlainApi()
    spec = OPENAPI.replace("/v1/orders:", f"/v1/status/{status}:").replace("post:", "get:")
    async with serving(api) as origin:
        async with connected(tmp_path, origin) as _:
            (tmp_path / "orders.yaml").write_text(spec.replace("requestBody", "x-none"))
        rest = RestConfig(((origin, 1.0),), (read_pattern("* **"),), tmp_path / "orders.yaml")
        async with open_rest(ServerConfig("o", url=origin, rest=rest), rest, Limits()) as connection:
            answer = await call(connection, "create_order")
    assert isinstance(answer, dict)
    assert answer["isError"] is True
    assert said in text_of(answer)
    assert "canary" not in str(answer)
    assert len(api.seen) == 1


async def test_a_value_that_would_lead_elsewhere_is_never_sent(tmp_path: Path) -> None:
    api = PlainApi()
    async with serving(api) as origin, connected(tmp_path, origin) as connection:
        answer = await call(connection, "get_order", id="../admin")
    assert isinstance(answer, dict)
    assert answer["isError"] is True
    assert api.seen == []


async def test_what_may_be_repeated_is_sent_to_another_address_and_what_may_not_is_not(tmp_path: Path) -> None:
    api, nobody = PlainApi(), f"http://127.0.0.1:{free_port()}"
    async with serving(api) as origin, connected(tmp_path, nobody, origin) as connection:
        for _ in range(2):
            assert text_of(await call(connection, "get_order", id="7"))
        failed = 0
        for _ in range(2):
            try:
                await call(connection, "create_order", body={"amount": 1})
            except Unreachable:
                failed += 1
    assert failed == 1
    assert [seen.method for seen in api.seen] == ["GET", "GET", "POST"]


async def test_an_api_that_keeps_failing_is_left_alone(tmp_path: Path) -> None:
    async with connected(tmp_path, f"http://127.0.0.1:{free_port()}", retries=0) as connection:
        for _ in range(FAILURES_UNTIL_OPEN):
            with pytest.raises(Unreachable):
                await call(connection, "get_order", id="7")
        with pytest.raises(Unreachable, match="keeps failing"):
            await call(connection, "get_order", id="7")


async def test_a_call_has_its_time(tmp_path: Path) -> None:
    api = PlainApi()
    spec = OPENAPI.replace("/v1/orders:", "/v1/slow:").replace("post:", "get:").replace("requestBody", "x-none")
    async with serving(api) as origin:
        (tmp_path / "slow.yaml").write_text(spec)
        rest = RestConfig(((origin, 1.0),), (read_pattern("* **"),), tmp_path / "slow.yaml")
        async with open_rest(ServerConfig("o", url=origin, rest=rest), rest, Limits()) as connection:
            request = UpstreamRequest("tools/call", {"name": "create_order", "arguments": {}})
            with pytest.raises(TimedOut):
                await connection.ask(request, SILENT, 0.1)


async def test_a_document_that_cannot_be_read_says_so_without_the_path(tmp_path: Path) -> None:
    (tmp_path / "orders.yaml").write_text("swagger: '2.0'")
    rest = RestConfig((("http://127.0.0.1:9", 1.0),), (), tmp_path / "orders.yaml")
    with pytest.raises(Misbehaved, match=r"orders\.yaml cannot be used: it is no OpenAPI 3") as refusal:
        async with open_rest(ServerConfig("o", rest=rest), rest, Limits()):
            pass
    assert str(tmp_path) not in str(refusal.value)


@pytest.mark.parametrize("method", ["prompts/get", "resources/read"])
async def test_an_api_has_tools_alone(tmp_path: Path, method: str) -> None:
    async with connected(tmp_path, "http://127.0.0.1:9") as connection:
        assert not isinstance(await connection.ask(UpstreamRequest(method, {}), SILENT, 5), dict)
        with pytest.raises(LookupError):
            await connection.listen({})
        discovered: Json | Any = await connection.ask(UpstreamRequest("server/discover", {}), SILENT, 5)
        assert discovered == {}


async def test_a_connection_that_is_given_up_says_why(tmp_path: Path) -> None:
    async with connected(tmp_path, "http://127.0.0.1:9") as connection:
        connection.break_off("was told to")
        with anyio.fail_after(1):
            await connection.broken.wait()
        assert connection.why_broken == "was told to"


async def test_whoever_keeps_answers_hears_of_every_call_that_may_change_something(tmp_path: Path) -> None:
    api, told = PlainApi(), list[str]()
    async with serving(api) as origin, connected(tmp_path, origin) as connection:
        connection.on_written = lambda: told.append("written")
        await call(connection, "get_order", id="7")
        assert told == []
        await call(connection, "create_order", body={"amount": 1})
        assert told == ["written"]
        api.fail_times = 1
        answer = await call(connection, "create_order", body={"amount": 1})
        assert isinstance(answer, dict)
        assert answer["isError"]
        assert told == ["written", "written"]


def on(match: str, **more: Any) -> Route:
    return Route("route", (read_pattern(match),), **more)


async def test_what_is_deprecated_says_so_beside_its_definition_and_what_is_no_more_is_no_tool(tmp_path: Path) -> None:
    old = on("GET /v1/orders/*", life=Life(State.DEPRECATED, 1767225600, successor="/v2"))
    for state in (State.DRAFT, State.RETIRED):
        routes = (old, on("POST /v1/orders", life=Life(state)))
        async with connected(tmp_path, "http://127.0.0.1:9", routes=routes) as connection:
            listed = await connection.ask(UpstreamRequest("tools/list", {}), SILENT, 5)
            called = await call(connection, "create_order", body={"amount": 1})
        assert connection.greeting.notes == {"get_order": "Deprecated since 2026-01-01. Use /v2 instead."}
        assert isinstance(listed, dict)
        assert [(tool["name"], tool["description"]) for tool in listed["tools"]] == [("get_order", "Look an order up.")]
        assert text_of(called) == "this operation is no longer offered"


async def test_a_call_goes_the_way_of_its_route(tmp_path: Path) -> None:
    api = PlainApi()
    edits = RequestEdits(
        HeaderEdits(set={"x-tenant": "7", "accept": "text/plain"}),
        QueryEdits(set={"expand": "all"}),
        (Edit("move", ("sum",), origin=("amount",)),),
        Rewrite(("v1",), ("v2",)),
    )
    async with serving(api) as origin:
        answers = AnswerEdits(body=(Edit("add", ("from",), "gateway"),))
        route = on("* /v1/orders**", request=edits, answer=answers, targets=((f"{origin}/canary", 1.0),))
        async with connected(tmp_path, "http://127.0.0.1:9", routes=(route,)) as connection:
            answer = await call(connection, "create_order", {"X-Tenant": "key"}, body={"amount": 1})
            unfit = await call(connection, "create_order", body={})
            read = await call(connection, "get_order", id="7", expand=["x"])
    made, looked = api.seen
    assert (made.path, made.query, made.body) == ("/canary/v2/orders", "expand=all", b'{"sum":1}')
    assert (made.headers["x-tenant"], made.headers["accept"]) == ("key", "text/plain")
    assert (looked.path, looked.query) == ("/canary/v2/orders/7", "expand=all")
    assert text_of(unfit) == "there is no place /amount in the body"
    assert isinstance(answer, dict)
    assert answer["structuredContent"] == {"path": "/canary/v2/orders", "from": "gateway"}
    assert '"from":"gateway"' in text_of(read)


async def test_an_answer_that_cannot_be_edited_is_no_answer(tmp_path: Path) -> None:
    route = on("* **", answer=AnswerEdits(body=(Edit("remove", ("secret",)),)))
    async with serving(PlainApi()) as origin, connected(tmp_path, origin, routes=(route,)) as connection:
        with pytest.raises(Misbehaved, match="cannot be edited: there is no place /secret"):
            await call(connection, "get_order", id="7")


async def test_a_route_that_asks_for_a_host_or_a_header_is_no_tools(tmp_path: Path) -> None:
    routes = (on("* **", hosts=frozenset({"a"}), life=Life(State.RETIRED)),)
    async with serving(PlainApi()) as origin, connected(tmp_path, origin, routes=routes) as connection:
        assert text_of(await call(connection, "get_order", id="7")) == '{"path": "/v1/orders/7"}'
