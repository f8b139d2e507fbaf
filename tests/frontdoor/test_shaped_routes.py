"""Routes of a plain API through the whole gateway: what is edited, where it goes, what is over, what a draft needs."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2

from fakes.model_gateway import ModelGateway, model_gateway
from fakes.plain_api import OPENAPI, PlainApi
from fakes.served import serving

POLICY = """
[agents.alice]
tasks = ["use", "test"]
default_task = "use"

[tasks.use]
[tasks.use.routes]
allow = ["orders: * /v1/**", "orders: GET /v2/**", "orders: GET /v3/**"]

[[tasks.use.deny]]
tools = ["route:orders/* /v1/admin/**"]

[[tasks.use.deny]]
tools = ["route:orders/**"]
when = 'has(args.body) && has(args.body.total) && args.body.total > 100'

[tasks.test]
[tasks.test.routes]
allow = ["orders: GET /v3/**"]
drafts = ["orders/v3"]
"""


@asynccontextmanager
async def passing(folder: Path, routes: str, more: str = "") -> AsyncIterator[tuple[PlainApi, ModelGateway]]:
    api = PlainApi()
    (folder / "orders.yaml").write_text(OPENAPI)
    async with serving(api) as origin:
        server = f'[servers.orders]\nrest = "{origin}"\ninclude = ["* /v1/**", "* /v2/**", "* /v3/**"]\n{more}\n'
        routes = routes.replace("ORIGIN", origin)
        async with model_gateway(folder, policy=POLICY, models="", more=server + routes) as gateway:
            yield api, gateway


async def ask(gateway: ModelGateway, path: str, method: str = "GET", **more: Any) -> httpx2.Response:
    headers = {"authorization": f"Bearer {gateway.token()}"} | more.pop("headers", {})
    return await gateway.http.request(method, f"{gateway.origin}{path}", headers=headers, **more)


async def test_policy_and_audit_see_what_is_sent_and_not_what_was_asked(tmp_path: Path) -> None:
    route = """
    [servers.orders.route.old]
    match = ["* /v1/old/**", "GET /v1/hidden"]
    rewrite = { from = "/v1/old", to = "/v1" }
    [servers.orders.route.old.request]
    set_query = { limit = "10" }
    remove_query = ["debug"]
    set_headers = { X-Tenant = "seven" }
    body = [{ op = "move", from = "/sum", path = "/total", optional = true }]
    """
    async with passing(tmp_path, route) as (api, gateway):
        asked = "/rest/orders/v1/old/orders/7?debug=1&limit=9999"
        good = await ask(gateway, asked, "POST", json={"sum": 7})
        dear = await ask(gateway, asked, "POST", json={"sum": 700})
        admin = await ask(gateway, "/rest/orders/v1/old/admin/x")
        rows = gateway.rows("route")
    assert [good.status_code, dear.status_code, admin.status_code] == [200, 404, 404]
    [seen] = api.seen
    assert (seen.path, seen.query, seen.body) == ("/v1/orders/7", "limit=10", b'{"total":7}')
    assert seen.headers["x-tenant"] == "seven"
    assert [row["name"] for row in rows] == ["POST /v1/orders/7", "POST /v1/orders/7", "GET /v1/admin/x"]
    assert json.loads(rows[0]["args"])["asked"] == "/v1/old/orders/7"


async def test_however_a_path_is_spelt_what_is_judged_and_kept_is_what_is_sent(tmp_path: Path) -> None:
    route = """
    [servers.orders.route.old]
    match = ["GET /v1/old/**"]
    rewrite = { from = "/v1/old/{id}", to = "/v1/orders/{id}" }
    """
    spellings = ("7", "%37", "a%20b", "%61%2Cb", "%C3%A4", "%c3%a4", "~%7e", "7/", "7/%6Cines", "a;b", "x%3Fy=1")
    async with passing(tmp_path, route) as (api, gateway):
        answers = [await ask(gateway, f"/rest/orders/v1/old/{spelling}?q=%31") for spelling in spellings]
        two_ways = ("..%2f", "%2e%2e/admin", "a//b")
        refused = [await ask(gateway, f"/rest/orders/v1/old/{spelling}") for spelling in two_ways]
        names = [row["name"] for row in gateway.rows("route")]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.status_code for answer in refused} == {400}
    assert names == [f"GET {seen.path}" for seen in api.seen]
    assert len({seen.path for seen in api.seen}) == 9
    assert all(seen.path.startswith("/v1/orders/") for seen in api.seen)


async def test_a_body_that_cannot_be_edited_is_not_sent_and_only_whom_it_concerns_is_told(tmp_path: Path) -> None:
    route = """
    [servers.orders.route.all]
    match = ["POST **"]
    [servers.orders.route.all.request]
    body = [{ op = "add", path = "/customer/tenant", value = "seven" }]
    """
    async with passing(tmp_path, route) as (api, gateway):
        missing = await ask(gateway, "/rest/orders/v1/orders", "POST", json={"a": 1})
        opaque = await ask(gateway, "/rest/orders/v1/orders", "POST", content=b"a=1")
        forbidden = await ask(gateway, "/rest/orders/v2/orders", "POST", json={"a": 1})
        good = await ask(gateway, "/rest/orders/v1/orders", "POST", json={"customer": {"tenant": "mine"}})
        rows = gateway.rows("route")
    assert [each.status_code for each in (missing, opaque, forbidden, good)] == [400, 400, 404, 200]
    assert missing.json()["title"] == "there is no place /customer/tenant in the body"
    assert opaque.json()["title"] == "the body has to be JSON"
    assert [seen.body for seen in api.seen] == [b'{"customer":{"tenant":"seven"}}']
    assert [row["ended"] for row in rows] == ["bad_arguments", "bad_arguments", "refused", "ok"]


async def test_what_is_deprecated_says_so_and_what_has_ended_is_gone(tmp_path: Path) -> None:
    routes = """
    [servers.orders.route.v1]
    match = ["* /v1/**"]
    deprecated = 2026-01-01
    sunset = 2126-12-31T12:00:00Z
    link = "https://orders.example/why"
    successor = "/v2"
    [servers.orders.route.v2]
    match = ["* /v2/**"]
    sunset = 2020-01-01
    [servers.orders.route.v3]
    match = ["* /v3/**"]
    state = "retired"
    """
    async with passing(tmp_path, routes) as (api, gateway):
        old = await ask(gateway, "/rest/orders/v1/orders/7")
        over, retired = await ask(gateway, "/rest/orders/v2/x"), await ask(gateway, "/rest/orders/v3/x")
        not_theirs = await ask(gateway, "/rest/orders/v3/x", "DELETE")
        ended = [row["ended"] for row in gateway.rows("route")]
    assert old.headers["deprecation"] == "@1767225600"
    assert old.headers["sunset"] == "Tue, 31 Dec 2126 12:00:00 GMT"
    page = "<https://orders.example/why>"
    assert old.headers["link"] == f'{page}; rel="deprecation", {page}; rel="sunset", </v2>; rel="successor-version"'
    assert (over.status_code, over.headers["sunset"]) == (410, "Wed, 01 Jan 2020 00:00:00 GMT")
    assert (over.headers["x-gateway-error"], over.json()["title"]) == ("1", "this part of the API has been retired")
    assert (retired.status_code, not_theirs.status_code) == (410, 404)
    assert [seen.path for seen in api.seen] == ["/v1/orders/7"]
    assert ended == ["ok", "gone", "gone", "refused"]


async def test_a_draft_is_there_only_for_a_task_that_names_it(tmp_path: Path) -> None:
    routes = '[servers.orders.route.v3]\nmatch = ["* /v3/**"]\nstate = "draft"\n'
    async with passing(tmp_path, routes) as (_, gateway):
        wide = await ask(gateway, "/rest/orders/v3/x")
        named = await ask(gateway, "/task/test/rest/orders/v3/x")
        reasons = [row["reason"] for row in gateway.rows("route")]
    assert (wide.status_code, named.status_code) == (404, 200)
    assert wide.json()["title"] == "not found"
    assert reasons == ["no_grant", "grant"]


async def test_versions_are_told_by_header_and_by_host(tmp_path: Path) -> None:
    routes = """
    [servers.orders.route.by-header]
    match = ["GET /v1/**"]
    headers = { accept-version = ["2", "2.1"] }
    rewrite = { from = "/v1", to = "/v2" }
    [servers.orders.route.by-host]
    match = ["GET /v1/**"]
    hosts = ["localhost"]
    rewrite = { from = "/v1", to = "/v3" }
    """
    async with passing(tmp_path, routes) as (api, gateway):
        await ask(gateway, "/rest/orders/v1/a")
        await ask(gateway, "/rest/orders/v1/a", headers={"Accept-Version": "2.1"})
        await ask(gateway, "/rest/orders/v1/a", headers={"Accept-Version": "3"})
        await ask(gateway, "/rest/orders/v1/a", headers={"Host": f"LOCALHOST:{gateway.port}"})
    assert [seen.path for seen in api.seen] == ["/v1/a", "/v2/a", "/v1/a", "/v3/a"]


async def test_a_canary_gets_its_share(tmp_path: Path) -> None:
    routes = """
    [servers.orders.route.canary]
    match = ["GET /v1/**"]
    targets = [{ url = "ORIGIN/stable", weight = 3 }, { url = "ORIGIN/canary" }]
    """
    async with passing(tmp_path, routes) as (api, gateway):
        for _ in range(8):
            await ask(gateway, "/rest/orders/v1/a")
    assert [seen.path for seen in api.seen].count("/canary/v1/a") == 2
    assert {seen.path for seen in api.seen} == {"/canary/v1/a", "/stable/v1/a"}


async def test_an_answer_is_edited_and_what_cannot_be_edited_does_not_pass(tmp_path: Path) -> None:
    routes = """
    [servers.orders.route.all]
    match = ["GET **"]
    [servers.orders.route.all.answer]
    set_headers = { Cache-Control = "no-store" }
    body = [{ op = "remove", path = "/path" }, { op = "add", path = "/from", value = "gateway" }]
    """
    async with passing(tmp_path, routes) as (api, gateway):
        edited = await ask(gateway, "/rest/orders/v1/orders/7", headers={"range": "bytes=0-1"})
        stream = await ask(gateway, "/rest/orders/v1/stream")
        failed = await ask(gateway, "/rest/orders/v1/status/404")
        ended = [row["ended"] for row in gateway.rows("route")]
    assert (edited.json(), edited.headers["cache-control"]) == ({"from": "gateway"}, "no-store")
    assert "etag" not in edited.headers
    assert "range" not in api.seen[0].headers
    assert (stream.status_code, "cannot be edited" in stream.json()["title"]) == (502, True)
    assert (failed.status_code, failed.json()["detail"]) == (404, "it says so")
    assert ended == ["ok", "misbehaved", "http_error"]


async def test_headers_of_an_answer_are_edited_on_the_way(tmp_path: Path) -> None:
    route = """
    [servers.orders.route.all]
    match = ["GET **"]
    [servers.orders.route.all.answer]
    remove_headers = ["ETag"]
    add_headers = { Vary = "accept-version" }
    """
    async with passing(tmp_path, route) as (_, gateway):
        answer = await ask(gateway, "/rest/orders/v1/orders/7")
        stream = await ask(gateway, "/rest/orders/v1/stream")
    assert ("etag" in answer.headers, answer.headers["vary"]) == (False, "accept-version")
    assert (answer.json(), stream.text) == ({"path": "/v1/orders/7"}, "0\n1\n2\n")


async def test_a_route_takes_only_so_many_requests_at_once(tmp_path: Path) -> None:
    routes = '[servers.orders.route.slow]\nmatch = ["GET /v1/slow"]\nmax_concurrent = 1\n'
    async with passing(tmp_path, routes) as (api, gateway), anyio.create_task_group() as group:
        group.start_soon(ask, gateway, "/rest/orders/v1/slow")
        with anyio.fail_after(5):
            await api.slow.wait()
        full = await ask(gateway, "/rest/orders/v1/slow")
        other = await ask(gateway, "/rest/orders/v1/orders/7")
        ended = [row["ended"] for row in gateway.rows("route")]
        group.cancel_scope.cancel()
    assert (full.status_code, full.headers["retry-after"], other.status_code) == (429, "1", 200)
    assert full.json()["title"] == "the route 'slow' of 'orders' takes at most 1 requests at once"
    assert ended == [None, "over_limit", "ok"]


async def test_a_request_that_no_route_speaks_of_passes_as_it_is(tmp_path: Path) -> None:
    async with passing(tmp_path, '[servers.orders.route.v2]\nmatch = ["* /v2/**"]\nstate = "retired"\n') as (api, gw):
        answer = await ask(gw, "/rest/orders/v1/orders/7?a=%31")
    assert (answer.status_code, api.seen[0].query) == (200, "a=%31")
    assert "deprecation" not in answer.headers


async def test_requests_that_do_not_fit_the_document_are_refused_and_written_down(tmp_path: Path) -> None:
    more = 'openapi = "orders.yaml"\ncheck_requests = "all"'
    async with passing(tmp_path, "", more) as (api, gateway):
        fits = await ask(gateway, "/rest/orders/v1/orders", "POST", json={"amount": 7})
        wrong = await ask(gateway, "/rest/orders/v1/orders", "POST", json={"amount": "x"})
        unknown = await ask(gateway, "/rest/orders/v1/status/200")
        denied = await ask(gateway, "/rest/orders/v2/orders", "POST", json={"amount": "x"})
        ended = [row["ended"] for row in gateway.rows("route")]
    assert [each.status_code for each in (fits, wrong, unknown, denied)] == [200, 400, 400, 404]
    assert wrong.json()["title"].startswith("the request does not fit the document of 'orders': $.body.amount: ")
    assert len(api.seen) == 1
    assert ended == ["ok", "bad_arguments", "bad_arguments", "refused"]
