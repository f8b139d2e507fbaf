"""The door of plain routes: who may come in, what becomes facts for policy, what is refused before it is judged."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fakes.model_gateway import ModelGateway, model_gateway
from fakes.plain_api import PlainApi
from fakes.ports import free_port
from fakes.served import serving
from mcp_gateway.frontdoor.rest import MAX_QUERY_MEMBERS, ROUTE

POLICY = """
[agents.alice]
tasks = ["read", "write"]
default_task = "read"

[tasks.read]
[tasks.read.routes]
allow = ["orders: GET /v1/**", "gone: GET /v1/**"]

[tasks.write]
[[tasks.write.grant]]
tools = ["route:orders/POST /v1/orders"]
when = 'args.body.amount < 100 && args.query.dry == "1"'
"""


@asynccontextmanager
async def passing(folder: Path, more: str = "") -> AsyncIterator[tuple[PlainApi, ModelGateway]]:
    api = PlainApi()
    async with serving(api) as origin:
        server = f'[servers.orders]\nrest = "{origin}"\ninclude = ["* /v1/**"]\n'
        async with model_gateway(folder, policy=POLICY, models="", more=server + more) as gateway:
            yield api, gateway


async def ask(gateway: ModelGateway, path: str, method: str = "GET", **more: Any) -> httpx2.Response:
    headers = {"authorization": f"Bearer {gateway.token()}"} | more.pop("headers", {})
    return await gateway.http.request(method, f"{gateway.origin}{path}", headers=headers, **more)


def malformed(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "audit.db")) as db:
        return [name for (name,) in db.execute("SELECT name FROM entries WHERE kind = 'malformed' ORDER BY seq")]


@pytest.mark.parametrize(
    ("path", "task", "rest"),
    [
        (b"/rest/orders/v1/orders/7", None, b"/v1/orders/7"),
        (b"/task/answer-ticket/rest/orders/v1", b"answer-ticket", b"/v1"),
        (b"/rest/orders/", None, b"/"),
        (b"/rest/orders/task/x/rest/other/v1", None, b"/task/x/rest/other/v1"),
    ],
)
def test_paths_that_are_ours(path: bytes, task: bytes | None, rest: bytes) -> None:
    found = ROUTE.fullmatch(path)
    assert found is not None
    assert (found["task"], found["server"], found["path"]) == (task, b"orders", rest)


@pytest.mark.parametrize(
    "path", [b"/rest/orders", b"/rest//v1", b"/rest/Orders/v1", b"/x/rest/orders/v1", b"/task//rest/orders/v1"]
)
def test_paths_that_are_not(path: bytes) -> None:
    assert ROUTE.fullmatch(path) is None


async def test_without_apis_none_of_it_exists(tmp_path: Path) -> None:
    async with model_gateway(tmp_path, policy=POLICY, models="") as gateway:
        answer = await ask(gateway, "/rest/orders/v1/orders/7")
        assert (answer.status_code, answer.json()) == (404, {"error": "not found"})


async def test_an_error_of_the_gateways_is_told_from_the_apis(tmp_path: Path) -> None:
    async with passing(tmp_path) as (_, gateway):
        ours = await ask(gateway, "/rest/orders/v1/orders/7", "DELETE")
        theirs = await ask(gateway, "/rest/orders/v1/status/404")
        ids = [row["request_id"] for row in gateway.rows("route")]
    assert (ours.status_code, ours.headers["content-type"]) == (404, "application/problem+json")
    assert ours.headers["x-gateway-error"] == "1"
    assert ours.json() == {"title": "not found", "status": 404, "request_id": ids[0]}
    assert (theirs.status_code, theirs.json()["detail"]) == (404, "it says so")
    assert "x-gateway-error" not in theirs.headers
    assert [ours.headers["x-gateway-request-id"], theirs.headers["x-gateway-request-id"]] == ids


async def test_an_api_that_dies_before_anything_has_left_is_an_error_in_words(tmp_path: Path) -> None:
    async with passing(tmp_path) as (_, gateway):
        answer = await ask(gateway, "/rest/orders/v1/broken/0")
        [row] = gateway.rows("route")
    assert (answer.status_code, answer.headers["x-gateway-error"]) == (502, "1")
    assert "'orders' broke the connection" in answer.json()["title"]
    assert row["ended"] == "unreachable"


async def test_an_api_that_dies_in_the_middle_breaks_the_answer_off_and_is_no_bug_of_ours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with passing(tmp_path) as (_, gateway):
        with pytest.raises(httpx2.RemoteProtocolError):
            await ask(gateway, "/rest/orders/v1/broken/64")
        [row] = gateway.rows("route")
    assert row["ended"] == "unreachable"
    assert "a bug of ours" not in caplog.text


async def test_an_api_nobody_has_looks_like_a_path_nobody_may_use(tmp_path: Path) -> None:
    async with passing(tmp_path, '[servers.spare]\ncommand = ["true"]\nenabled = false\n') as (api, gateway):
        paths = ["/rest/orders/v2/x", "/rest/nobody/v1/x", "/rest/spare/v1/x", "/task/write/rest/orders/v1/x"]
        answers = [await ask(gateway, path) for path in paths]
    assert api.seen == []
    assert {(each.status_code, each.json()["title"]) for each in answers} == {(404, "not found")}


async def test_policy_sees_the_query_and_the_body(tmp_path: Path) -> None:
    async with passing(tmp_path) as (api, gateway):
        path = "/task/write/rest/orders/v1/orders"
        good = await ask(gateway, f"{path}?dry=1", "POST", json={"amount": 7})
        dear = await ask(gateway, f"{path}?dry=1", "POST", json={"amount": 700})
        twice = await ask(gateway, f"{path}?dry=0&dry=1", "POST", json={"amount": 7})
        as_text = await ask(gateway, f"{path}?dry=1", "POST", content=b'{"amount":7}')
    assert [each.status_code for each in (good, dear, twice, as_text)] == [200, 404, 404, 404]
    assert [seen.query for seen in api.seen] == ["dry=1"]


async def test_what_can_be_read_in_two_ways_is_refused_and_written_down(tmp_path: Path) -> None:
    many = "&".join(["a=1"] * (MAX_QUERY_MEMBERS + 1))
    paths = ("/v1//orders", "/v1/%2e%2e/admin", "/v1/a%2fb", "/v1/orders?q=%zz", f"/v1/orders?{many}")
    async with passing(tmp_path) as (api, gateway):
        answers = [await ask(gateway, f"/rest/orders{path}") for path in paths]
    assert [(each.status_code, each.headers["x-gateway-error"]) for each in answers] == [(400, "1")] * len(paths)
    assert api.seen == []
    assert malformed(tmp_path) == ["GET /rest/orders"] * len(paths)


async def test_bodies_that_policy_could_not_see_into_are_refused(tmp_path: Path) -> None:
    async with passing(tmp_path) as (api, gateway):
        path, as_json = "/task/write/rest/orders/v1/orders?dry=1", {"content-type": "application/json"}
        zipped = await ask(gateway, path, "POST", content=b"{}", headers={**as_json, "content-encoding": "gzip"})
        broken = await ask(gateway, path, "POST", content=b'{"amount":', headers=as_json)
        large = await ask(gateway, path, "POST", content=b'"' + b"x" * 5_000_000 + b'"', headers=as_json)
    assert [each.status_code for each in (zipped, broken, large)] == [415, 400, 413]
    assert api.seen == []


async def test_a_key_comes_as_bearer_or_as_api_key_and_goes_no_further(tmp_path: Path) -> None:
    async with passing(tmp_path) as (api, gateway):
        url, key = f"{gateway.origin}/rest/orders/v1/orders/7", gateway.token()
        as_api_key = await gateway.http.get(url, headers={"x-api-key": key})
        wrong = await gateway.http.get(url, headers={"x-api-key": "wrong"})
        both = await gateway.http.get(url, headers={"x-api-key": key, "authorization": "Bearer wrong"})
        none = await gateway.http.get(url)
    assert [each.status_code for each in (as_api_key, wrong, both, none)] == [200, 401, 401, 401]
    assert none.headers["www-authenticate"].startswith("Bearer")
    assert len(api.seen) == 1
    assert key not in str(api.seen[0].headers)


async def test_an_api_that_cannot_be_reached_is_a_bad_gateway_and_one_too_slow_a_timeout(tmp_path: Path) -> None:
    gone = f'[servers.gone]\nrest = "http://127.0.0.1:{free_port()}"\ninclude = ["* /v1/**"]\n'
    async with passing(tmp_path, "timeout_s = 0.2\n" + gone) as (_, gateway):
        answers = [await ask(gateway, path) for path in ("/rest/orders/v1/slow", "/rest/gone/v1/orders/7")]
    assert [(each.status_code, each.headers["x-gateway-error"]) for each in answers] == [(504, "1"), (502, "1")]


async def test_a_browser_is_kept_out(tmp_path: Path) -> None:
    async with passing(tmp_path) as (api, gateway):
        answer = await ask(gateway, "/rest/orders/v1/orders/7", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert api.seen == []
