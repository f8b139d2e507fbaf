"""Requests of MCP 2026-07-28 over HTTP, from outside."""

import base64
import json
from typing import Any

import anyio
import httpx2
import pytest

from fakes.front import META, POLICY, Front, events, modern_request, raw, raw_post
from fakes.upstream import Hanging, progressing, text
from fakes.waiting import until
from mcp_gateway.domain import Json, Outcome, Reply, UpstreamRequest
from mcp_gateway.frontdoor import exchange

VERSION = "io.modelcontextprotocol/protocolVersion"
MISMATCH = -32020
TOKEN = {"_meta": {"progressToken": "mine"}}


def sentinel(name: str) -> str:
    return f"=?base64?{base64.b64encode(name.encode()).decode()}?="


# Headers against the body


@pytest.mark.parametrize(
    "headers",
    [
        {"mcp_protocol_version": "2025-11-25"},
        {"mcp_protocol_version": ""},
        {"mcp_method": ""},
        {"mcp_method": "tools/list"},
        {"mcp_method": "Tools/Call"},
        {"mcp_name": ""},
        {"mcp_name": "u__second"},
        {"mcp_name": "U__ECHO"},
        {"mcp_name": "u__echo,u__echo"},
        {"mcp_name": sentinel("u__second")},
        {"mcp_name": sentinel("u__echo").replace("?=", "=?=")},
        {"mcp_name": "=?base64?!?="},
        {"mcp_name": sentinel(sentinel("u__echo"))},
    ],
)
async def test_a_header_that_does_not_match_the_body_stops_the_call(door: Front, headers: dict[str, str]) -> None:
    response = await door.call("u__echo", **headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, MISMATCH)
    assert response.json()["id"] == 1
    assert door.u.asked == []
    assert door.rows() == []


@pytest.mark.parametrize("name", ["u__echo", sentinel("u__echo")])
async def test_a_header_that_means_the_same_is_a_match(door: Front, name: str) -> None:
    assert (await door.call("u__echo", mcp_name=name)).status_code == 200


@pytest.mark.parametrize("names", [("u__echo", "u__hang"), ("u__hang", "u__echo"), ("u__echo", "u__echo")])
@pytest.mark.parametrize("spelling", ["mcp-name", "Mcp-Name"])
async def test_a_header_that_comes_twice_is_refused(door: Front, names: tuple[str, str], spelling: str) -> None:
    body, _ = modern_request("tools/call", {"name": "u__echo"})
    lines = [f"mcp-name: {names[0]}", f"{spelling}: {names[1]}", "mcp-method: tools/call"]
    lines.append("mcp-protocol-version: 2026-07-28")
    answer = await raw(door.port, raw_post(door, json.dumps(body).encode(), *lines))
    assert answer.statuses == [400]
    assert b"-32020" in answer.data
    assert door.u.asked == []


@pytest.mark.parametrize("name", ["caf\xe9", "\xff", "u__echo\xa0"])
async def test_a_header_outside_ascii_matches_nothing(door: Front, name: str) -> None:
    body, _ = modern_request("prompts/get", {"name": name})
    lines = [f"mcp-name: {name}", "mcp-method: prompts/get", "mcp-protocol-version: 2026-07-28"]
    answer = await raw(door.port, raw_post(door, json.dumps(body).encode(), *lines))
    assert b"-32020" in answer.data


@pytest.mark.parametrize("meta", [
    {}, {VERSION: "2026-07-28"}, {**META, VERSION: None}, {**META, VERSION: 20260728},
    {**META, VERSION: ["2026-07-28"]},
])  # fmt: skip
async def test_an_envelope_that_is_not_whole_is_refused(door: Front, meta: Any) -> None:
    _, headers = modern_request("tools/call", {"name": "u__echo"})
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "u__echo", "_meta": meta}}
    response = await door.post(body, **headers)
    assert (response.status_code, response.json()["error"]["code"]) in [(400, -32602), (400, MISMATCH)]
    assert door.u.asked == []


async def test_a_version_of_the_future_is_told_what_is_spoken_here(door: Front) -> None:
    future = {"_meta": {VERSION: "2099-01-01"}}
    response = await door.modern("tools/list", future, mcp_protocol_version="2099-01-01")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == -32022
    assert response.json()["error"]["data"] == {"supported": ["2026-07-28"], "requested": "2099-01-01"}


@pytest.mark.parametrize(
    ("argument", "header", "status"),
    [
        ({"region": "eu"}, "eu", 200),
        ({"region": "eu"}, sentinel("eu"), 200),
        ({"region": "eu"}, "us", 400),
        ({"region": "eu"}, None, 400),
        ({"region": "é"}, sentinel("é"), 200),
        ({}, None, 200),
        ({}, "eu", 400),
        ({"region": None}, "eu", 400),
    ],
)
async def test_a_mirrored_argument_matches_its_header(
    door: Front, argument: Json, header: str | None, status: int
) -> None:
    more = {} if header is None else {"mcp_param_region": header}
    response = await door.call("u__routed", argument, **more)
    assert response.status_code == status
    if status == 400:
        assert response.json()["error"]["code"] == MISMATCH
        assert door.u.asked == []


async def test_a_mirrored_argument_that_comes_twice_is_refused(door: Front) -> None:
    body, headers = modern_request("tools/call", {"name": "u__routed", "arguments": {"region": "eu"}})
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += ["mcp-param-region: eu", "Mcp-Param-Region: us"]
    answer = await raw(door.port, raw_post(door, json.dumps(body).encode(), *lines))
    assert b"-32020" in answer.data
    assert door.u.asked == []


async def test_a_tool_that_comes_up_late_has_its_headers_checked_too(door: Front) -> None:
    door.gateway.hold()
    async with anyio.create_task_group() as tasks:
        answers: list[httpx2.Response] = []

        async def call() -> None:
            answers.append(await door.call("u__routed", {"region": "eu"}, mcp_param_region="us"))

        tasks.start_soon(call)
        await until(lambda: door.gateway._is_open._waiters)  # type: ignore[attr-defined]
        door.gateway.open()
    assert answers[0].json()["error"]["code"] == MISMATCH


# Methods


@pytest.mark.parametrize("method", [
    "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/list", "tasks/result", "tools",
    "tools/Call", "TOOLS/CALL", "rpc.discover", "sampling/createMessage", "__proto__",
])  # fmt: skip
async def test_a_method_that_does_not_exist_or_was_removed_is_404(door: Front, method: str) -> None:
    response = await door.modern(method, id_="x")
    assert (response.status_code, response.json()["error"]["code"], response.json()["id"]) == (404, -32601, "x")
    assert door.u.asked == []


async def test_a_notification_is_accepted_and_means_nothing(door: Front) -> None:
    for method in ("notifications/cancelled", "notifications/initialized", "notifications/nonsense"):
        message = {"jsonrpc": "2.0", "method": method, "params": {"requestId": 1}}
        response = await door.post(message, mcp_protocol_version="2026-07-28")
        assert (response.status_code, response.content) == (202, b"")


async def test_an_answer_to_nothing_is_refused(door: Front) -> None:
    response = await door.post({"jsonrpc": "2.0", "id": 1, "result": {}}, mcp_protocol_version="2026-07-28")
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32600)


async def test_a_modern_answer_opens_no_session(door: Front) -> None:
    response = await door.modern("tools/list", mcp_session_id="chosen")
    assert response.status_code == 200
    assert "mcp-session-id" not in response.headers


# What is denied


async def test_denied_and_unknown_are_the_same_bytes(door: Front) -> None:
    """On every method, with and without the headers that a tool's own schema would ask for."""

    def swapped(params: Json, to: str) -> Json:
        return json.loads(json.dumps(params).replace("HERE", to))  # type: ignore[no-any-return]

    cases: list[tuple[str, Json, str, dict[str, str]]] = [
        ("tools/call", {"name": "HERE"}, "u__secret", {}),
        ("tools/call", {"name": "HERE", "arguments": {"a": 1}}, "u__secret", {}),
        ("tools/call", {"name": "HERE", "arguments": {"region": "eu"}}, "u__secret_routed", {}),
        ("tools/call", {"name": "HERE", "arguments": {}}, "u__secret_routed", {"mcp_param_region": "eu"}),
        ("tools/call", {"name": "HERE"}, "secret", {}),
        ("prompts/get", {"name": "HERE"}, "u__hush", {}),
        ("resources/read", {"uri": "HERE"}, "note:///shut", {}),
        ("resources/read", {"uri": "HERE"}, "shelf:///shut/1", {}),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "HERE"}, "argument": {}}, "u__hush", {}),
        (
            "completion/complete",
            {"ref": {"type": "ref/resource", "uri": "HERE"}, "argument": {}},
            "shelf:///shut/{id}",
            {},
        ),
    ]
    for method, params, denied, headers in cases:
        unknown = denied[:-1] + "\u007e"
        seen = [await door.modern(method, swapped(params, name), **headers) for name in (denied, unknown)]
        bodies = [response.text.replace(name, "HERE") for response, name in zip(seen, (denied, unknown), strict=True)]
        assert bodies[0] == bodies[1], (method, params)
        assert seen[0].status_code == seen[1].status_code == 400
        assert sorted(seen[0].headers.items()) == sorted(seen[1].headers.items())
    assert door.u.asked == []
    assert {decision for decision, _, _ in door.rows()} == {"denied"}


async def test_what_depends_on_its_arguments_is_listed_and_denied_like_the_unknown(door: Front) -> None:
    assert (await door.call("u__careful", {"path": "safe"})).status_code == 200
    denied = await door.call("u__careful", {"path": "other"})
    assert denied.json()["error"] == {"code": -32602, "message": "Unknown tool: u__careful"}


# Progress and log lines


async def test_progress_comes_before_the_answer_under_the_agents_token(door: Front) -> None:
    door.u.script["echo"] = progressing({"progress": 1, "progressToken": "theirs"}, {"progress": 1}, {"progress": 2})
    response = await door.modern("tools/call", {"name": "u__echo", **TOKEN}, id_=7)
    *told, answer = events(response.text)
    assert [(m["params"]["progress"], m["params"]["progressToken"]) for m in told] == [(1, "mine"), (2, "mine")]
    assert (answer["id"], answer["result"]["resultType"]) == (7, "complete")
    assert response.headers["x-accel-buffering"] == "no"


async def test_without_a_token_the_answer_is_plain_json(door: Front) -> None:
    door.u.script["echo"] = progressing({"progress": 1})
    response = await door.call("u__echo")
    assert response.headers["content-type"] == "application/json"


async def test_log_lines_come_only_to_those_who_asked(door: Front) -> None:
    async def logging(request: UpstreamRequest, reply: Reply) -> Outcome:
        await reply.log({"level": "info", "data": "low"})
        await reply.log({"level": "error", "data": "high"})
        return text("done")

    door.u.script["echo"] = logging
    level = {"_meta": {"io.modelcontextprotocol/logLevel": "warning"}}
    *told, _ = events((await door.modern("tools/call", {"name": "u__echo", **level})).text)
    assert [message["params"]["data"] for message in told] == ["high"]
    assert "low" not in (await door.call("u__echo")).text


async def test_progress_after_the_answer_goes_nowhere(door: Front) -> None:
    kept: list[Reply] = []

    async def keeping(request: UpstreamRequest, reply: Reply) -> Outcome:
        kept.append(reply)
        await reply.progress({"progress": 1})
        return text("done")

    door.u.script["echo"] = keeping
    response = await door.modern("tools/call", {"name": "u__echo", **TOKEN})
    await kept[0].progress({"progress": 2})
    assert [m.get("id") for m in events(response.text)] == [None, 1]


async def test_equal_ids_and_tokens_of_two_agents_never_meet(door: Front) -> None:
    async def marked(request: UpstreamRequest, reply: Reply) -> Outcome:
        marker = request.params["arguments"]["marker"]
        await reply.progress({"progress": 1, "message": marker})
        return text(marker)

    door.u.script["echo"] = marked
    crossed: list[str] = []

    async def ask(agent: str, number: int) -> None:
        marker = f"{agent}-{number}"
        params = {"name": "u__echo", "arguments": {"marker": marker}, "_meta": {"progressToken": number}}
        response = await door.modern("tools/call", params, agent=agent, id_=number)
        told, answer = events(response.text)
        if (told["params"]["message"], answer["result"]["content"][0]["text"]) != (marker, marker):
            crossed.append(response.text)

    async with anyio.create_task_group() as tasks:
        for number in range(40):
            for agent in ("alice", "bob"):
                tasks.start_soon(ask, agent, number)
    assert crossed == []
    assert len(door.u.asked) == 80


# Going away


@pytest.mark.parametrize("is_streaming", [True, False])
async def test_hanging_up_cancels_the_call(door: Front, is_streaming: bool) -> None:
    door.u.script["hang"] = hanging = Hanging()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door.modern, "tools/call", {"name": "u__hang", **TOKEN})
        await until(lambda: hanging.replies)
        if is_streaming:
            await hanging.replies[0].progress({"progress": 1})
        tasks.cancel_scope.cancel()
    await until(lambda: door.u.cancelled)
    await until(lambda: door.rows("outcome") == [("cancelled",)])


async def test_a_revoked_key_ends_a_long_call(door: Front) -> None:
    door.u.script["hang"] = hanging = Hanging()
    answers: list[httpx2.Response] = []

    async def call() -> None:
        answers.append(await door.call("u__hang"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await until(lambda: hanging.replies)
        door.revoke()
    assert answers[0].status_code == 401
    assert "www-authenticate" in answers[0].headers
    assert door.rows("outcome") == [("cancelled",)]
    assert (await door.call("u__echo")).status_code == 401


async def test_a_key_of_another_agent_that_is_revoked_ends_nothing(door: Front) -> None:
    door.u.script["hang"] = hanging = Hanging()
    door.token("bob")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door.call, "u__hang")
        await until(lambda: hanging.replies)
        door.revoke("bob")
        hanging.released.set()
    assert door.rows("outcome") == [("ok",)]


async def test_a_slow_reader_loses_progress_and_never_the_answer(door: Front) -> None:
    big = "x" * 60_000

    async def chatty(request: UpstreamRequest, reply: Reply) -> Outcome:
        for number in range(1, 1001):
            await reply.progress({"progress": number, "message": big})
            await anyio.lowlevel.checkpoint()
        return text("done")

    door.u.script["echo"] = chatty
    body, headers = modern_request("tools/call", {"name": "u__echo", **TOKEN})
    message = json.dumps(body).encode()
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    stream = await anyio.connect_tcp("127.0.0.1", door.port)
    async with stream:
        await stream.send(raw_post(door, message, *lines))
        await until(lambda: door.rows("outcome") == [("ok",)])  # answered although nobody reads
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += await stream.receive()
    assert len(data) < 20_000_000 < 1000 * len(big)
    assert data.count(b'"result"') == 1
    assert data.rindex(b'"result"') > data.rindex(b"notifications/progress")


# subscriptions/listen


async def test_listening_acknowledges_then_tells_then_ends_with_a_result(door: Front) -> None:
    body, headers = modern_request(
        "subscriptions/listen", {"notifications": {"toolsListChanged": True, "x": True}}, "sub"
    )
    seen: list[Json] = []
    async with door.http.stream("POST", door.url, json=body, headers=door.headers(**headers)) as response:
        assert response.headers["content-type"] == "text/event-stream"
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            seen.append(json.loads(line[6:]))
            if len(seen) == 1:
                door.offer("nobody_may_see_it")
                door.offer(policy=POLICY.replace('"u/second", ', ""))
            elif len(seen) == 2:
                door.revoke()
    first, told, last = seen
    assert first["params"]["notifications"] == {"toolsListChanged": True}
    assert told["method"] == "notifications/tools/list_changed"
    assert last["id"] == "sub"
    assert {m.get("params", m.get("result"))["_meta"]["io.modelcontextprotocol/subscriptionId"] for m in seen} == {
        "sub"
    }
    assert door.bulletin._subscribers == set()


async def test_listening_to_resources_tells_of_those_that_may_be_read(door: Front) -> None:
    wanted = ["note:///shut", "note:///open", "note:///none", 7]
    body, headers = modern_request("subscriptions/listen", {"notifications": {"resourceSubscriptions": wanted}}, 9)
    seen: list[Json] = []
    async with door.http.stream("POST", door.url, json=body, headers=door.headers(**headers)) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            seen.append(json.loads(line[6:]))
            if len(seen) == 1:
                assert door.u.watched == {"note:///open"}
                door.updates.note("u", "note:///shut")
                door.updates.note("u", "note:///open")
            elif len(seen) == 2:
                door.revoke()
    meta = {"io.modelcontextprotocol/subscriptionId": 9}
    assert seen[0]["params"] == {"notifications": {"resourceSubscriptions": ["note:///open"]}, "_meta": meta}
    assert seen[1]["method"] == "notifications/resources/updated"
    assert seen[1]["params"] == {"uri": "note:///open", "_meta": meta}
    assert seen[2]["id"] == 9
    assert (door.u.watched, door.updates.count) == (frozenset(), 0)


async def test_what_changes_before_the_acknowledgement_is_told_after_it(door: Front) -> None:
    async def declined(uris: frozenset[str]) -> frozenset[str]:
        door.updates.note("u", "note:///open")
        await until(lambda: door.updates._timer is None)
        return frozenset()

    door.u.declined = declined  # type: ignore[method-assign]
    body, headers = modern_request(
        "subscriptions/listen", {"notifications": {"resourceSubscriptions": ["note:///open"]}}
    )
    seen: list[str] = []
    async with door.http.stream("POST", door.url, json=body, headers=door.headers(**headers)) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line[6:])["method"])
            if len(seen) == 2:
                break
    assert seen == ["notifications/subscriptions/acknowledged", "notifications/resources/updated"]


async def test_a_listener_that_hangs_up_is_forgotten(door: Front) -> None:
    body, headers = modern_request("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    async with door.http.stream("POST", door.url, json=body, headers=door.headers(**headers)):
        await until(lambda: door.bulletin._subscribers)
    await until(lambda: not door.bulletin._subscribers)
    assert door.closers._open == {}


async def test_too_many_listeners_are_refused_with_an_answer(door: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_gateway.frontdoor.listen.MAX_SUBSCRIBERS", 0)
    response = await door.modern("subscriptions/listen", {"notifications": {}})
    assert (response.status_code, response.json()["error"]["code"]) == (429, 429)


async def test_listening_checks_its_headers_too(door: Front) -> None:
    response = await door.modern("subscriptions/listen", mcp_method="tools/list")
    assert (response.status_code, response.json()["error"]["code"]) == (400, MISMATCH)


def test_the_watch_for_hanging_up_begins_soon() -> None:
    assert exchange.WATCH_AFTER_S < 0.5
