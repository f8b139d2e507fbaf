"""Providers that misbehave: what an agent gets, what it is charged, and who takes over."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fakes.model_gateway import (
    ANTHROPIC_KEY,
    HELLO,
    MODELS,
    OPENAI_KEY,
    POLICY,
    SPARE_KEY,
    ModelGateway,
    model_gateway,
)
from fakes.providers import INPUT_TOKENS, OUTPUT_TOKENS, Seen, events_of
from fakes.waiting import until

CHAT = ("/v1/chat/completions", "gpt-5-mini", {"messages": HELLO})
RESPONSES = ("/v1/responses", "gpt-5-mini", {"input": "hello"})
MESSAGES = ("/v1/messages", "claude-sonnet-5", {"messages": HELLO, "max_tokens": 50})
WIRES = pytest.mark.parametrize("wire", [CHAT, RESPONSES, MESSAGES], ids=["chat", "responses", "messages"])
Wire = tuple[str, str, dict[str, Any]]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[ModelGateway]:
    async with model_gateway(tmp_path) as running:
        yield running


async def asked(gateway: ModelGateway, wire: Wire, **more: Any) -> httpx2.Response:
    path, model, body = wire
    return await gateway.post(path, {"model": model, **body, **more})


def sent_by_provider(gateway: ModelGateway, habit: str = "") -> bytes:
    """The stream that the provider wrote, byte for byte."""
    return b"".join(events_of(gateway.first, habit, gateway.first.seen[-1]))


@WIRES
@pytest.mark.parametrize("habit", ["", "bytes", "crlf"])
async def test_a_stream_is_passed_on_byte_for_byte_however_it_is_cut(
    gateway: ModelGateway, wire: Wire, habit: str
) -> None:
    gateway.first.habit = habit
    options = {"stream_options": {"include_usage": True}} if wire is CHAT else {}
    answer = await asked(gateway, wire, stream=True, **options)
    assert answer.content == sent_by_provider(gateway, habit)
    [row] = await gateway.ended()
    assert (row["ended"], row["t_in"], row["t_out"]) == ("ok", INPUT_TOKENS, OUTPUT_TOKENS)


@WIRES
async def test_a_body_goes_out_as_it_came_in(gateway: ModelGateway, wire: Wire) -> None:
    """White space, order of members, escapes: what a provider's prompt cache knows a conversation by."""
    path, model, body = wire
    more = {**body, "store": False} if wire is RESPONSES else body
    written = b'{ "model" :\t"' + model.encode() + b'",\n ' + json.dumps({**more, "metadata": {}}).encode()[1:]
    written = written.replace(b"hello", b"h\\u00e9llo \\ud83d\\ude00 \xc3\xa9")
    assert (await gateway.post(path, written)).status_code == 200
    assert gateway.first.seen[-1].body == written


async def test_an_alias_changes_the_name_of_the_model_and_nothing_else(gateway: ModelGateway) -> None:
    written = b'{"messages":[{"content":"smart \\u00e9", "role":"user"}],  "model": "smart" , "seed":1}'
    assert (await gateway.post("/v1/chat/completions", written)).status_code == 200
    assert gateway.first.seen[-1].body == written.replace(b'"model": "smart"', b'"model": "gpt-5-mini"')


@WIRES
async def test_an_answer_without_usage_is_estimated_never_free(gateway: ModelGateway, wire: Wire) -> None:
    gateway.first.habit = "no_usage"
    for is_stream in (False, True):
        assert (await asked(gateway, wire, stream=is_stream)).status_code == 200
    rows = await gateway.ended(2)
    assert all(row["t_in"] > 0 and row["t_out"] > 0 and row["usd"] > 0 for row in rows)


@WIRES
async def test_a_stream_that_breaks_off_says_so_and_is_charged(gateway: ModelGateway, wire: Wire) -> None:
    gateway.first.habit = "break"
    answer = await asked(gateway, wire, stream=True)
    assert answer.status_code == 200
    assert b"[DONE]" not in answer.content
    assert b"message_stop" not in answer.content
    assert b"gateway_provider_unreachable" in answer.content
    assert answer.content.endswith(b"\n\n")
    [row] = await gateway.ended()
    assert row["ended"] == "unreachable"
    assert row["t_in"] > 0


@WIRES
async def test_an_agent_that_hangs_up_is_charged_and_the_provider_is_let_go(gateway: ModelGateway, wire: Wire) -> None:
    gateway.first.habit = "pause"
    path, model, body = wire
    headers = {"authorization": f"Bearer {gateway.token()}", "content-type": "application/json"}
    content = json.dumps({"model": model, **body, "stream": True})
    async with gateway.http.stream("POST", f"{gateway.origin}{path}", content=content, headers=headers) as answer:
        async for _ in answer.aiter_raw():
            break
    [row] = await gateway.ended()
    assert row["ended"] == "cancelled"
    assert row["t_in"] > 0
    assert row["t_out"] > 0


@WIRES
async def test_a_provider_that_never_answers_is_given_up(gateway: ModelGateway, wire: Wire, tmp_path: Path) -> None:
    del gateway
    models = MODELS.replace("idle_timeout_s = 5", "idle_timeout_s = 0.2\ntimeout_s = 0.4").replace(
        'models = ["claude-sonnet-5"]', 'models = ["claude-sonnet-5"]\nidle_timeout_s = 0.2\ntimeout_s = 0.4'
    )
    async with model_gateway(tmp_path / "other", models=models) as impatient:
        impatient.first.habit = "hang"
        for is_stream in (False, True):
            answer = await asked(impatient, wire, stream=is_stream)
            assert answer.status_code == 504
            assert answer.headers["x-gateway-error"] == "1"
        assert [row["ended"] for row in await impatient.ended(2)] == ["timed_out"] * 2


@WIRES
async def test_a_stream_that_stands_still_is_ended(gateway: ModelGateway, wire: Wire, tmp_path: Path) -> None:
    del gateway
    models = MODELS.replace("idle_timeout_s = 5", "idle_timeout_s = 0.2").replace(
        'models = ["claude-sonnet-5"]', 'models = ["claude-sonnet-5"]\nidle_timeout_s = 0.2'
    )
    async with model_gateway(tmp_path / "other", models=models) as impatient:
        impatient.first.habit = "pause"
        answer = await asked(impatient, wire, stream=True)
        assert b"gateway_provider_timeout" in answer.content
        assert [row["ended"] for row in await impatient.ended()] == ["timed_out"]


@pytest.mark.parametrize(
    "habit", ["reset", "html", "status:500", "status:429:retry-after=9", "status:401", "status:529"]
)
async def test_another_provider_takes_over_before_anything_is_seen(gateway: ModelGateway, habit: str) -> None:
    gateway.first.habit = habit
    for is_stream in (False, True):
        if habit == "html" and is_stream:
            continue
        answer = await gateway.chat("smart", stream=is_stream)
        assert answer.status_code == 200
        assert b"stranger" in answer.content
    assert gateway.spare.seen[0].header("authorization") == f"Bearer {SPARE_KEY}"
    assert gateway.spare.seen[0].json["model"] == "gpt-5-mini"
    first = json.loads(gateway.rows()[0]["result"])
    assert first["answered_by"] == "spare/gpt-5-mini"
    assert [attempt["target"] for attempt in first["attempts"]][-1] == "spare/gpt-5-mini"
    assert len(first["attempts"]) >= 2


async def test_a_stream_that_begins_with_its_failure_is_taken_over(gateway: ModelGateway) -> None:
    gateway.first.habit = "error_first"
    answer = await gateway.chat("smart", stream=True)
    assert b"overloaded" not in answer.content
    assert b"stranger" in answer.content


async def test_behind_the_first_content_nobody_takes_over(gateway: ModelGateway) -> None:
    gateway.first.habit = "error_last"
    answer = await gateway.chat("smart", stream=True)
    assert b"overloaded" in answer.content
    assert gateway.spare.seen == []
    assert gateway.rows()[0]["ended"] == "http_error"


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
async def test_what_is_the_request_s_own_fault_is_asked_of_nobody_else(gateway: ModelGateway, status: int) -> None:
    gateway.first.habit = f"status:{status}"
    answer = await gateway.chat("smart")
    assert answer.status_code == status
    assert gateway.spare.seen == []


async def test_a_provider_that_asked_to_be_left_alone_is_left_alone(gateway: ModelGateway) -> None:
    gateway.first.next.append("status:429:retry-after=60")
    for _ in range(3):
        assert (await gateway.chat("smart")).status_code == 200
    assert (len(gateway.first.seen), len(gateway.spare.seen)) == (1, 3)


async def test_a_dead_provider_is_not_waited_for_again_and_again(gateway: ModelGateway) -> None:
    gateway.first.habit = "reset"
    answers = [await gateway.chat("gpt-5-mini") for _ in range(8)]
    assert {answer.status_code for answer in answers} == {502}
    assert len(gateway.first.seen) < 8 * 2
    assert "has not answered lately" in answers[-1].text


async def test_a_key_of_ours_that_is_refused_is_no_fault_of_the_agent(gateway: ModelGateway) -> None:
    gateway.first.habit = "status:401"
    answer = await gateway.chat()
    assert answer.status_code == 502
    assert answer.headers["x-should-retry"] == "false"
    assert OPENAI_KEY not in answer.text


async def test_a_redirect_is_not_followed(gateway: ModelGateway) -> None:
    gateway.first.raw = f"HTTP/1.1 307 Go\r\nlocation: {gateway.spare.url}/v1/x\r\ncontent-length: 0\r\n\r\n".encode()
    gateway.first.habit = "raw"
    assert (await gateway.chat()).status_code == 502
    assert gateway.spare.seen == []


async def test_an_event_without_end_is_cut_off(gateway: ModelGateway) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    gateway.first.raw = head + b"data: " + b"x" * (5 * 1024 * 1024)
    gateway.first.habit = "raw"
    answer = await gateway.chat(stream=True)
    assert answer.status_code == 502
    assert gateway.rows()[0]["ended"] == "misbehaved"


async def test_canaries_never_cross_in_either_direction(gateway: ModelGateway) -> None:
    """Headers, cookies and keys of the agent stay here; those of the provider stay there."""
    canaries = {
        "cookie": "canary-cookie",
        "x-forwarded-for": "canary-address",
        "openai-organization": "canary-org",
        "api-key": "canary-api-key",
        "x-goog-api-key": "canary-google",
        "x-stainless-os": "canary-os",
        "user-agent": "canary-agent",
        "proxy-authorization": "canary-proxy",
        "idempotency-key": "canary-key",
        "anthropic-beta": "some-beta-2026",
    }
    body = {"model": "gpt-5-mini", "messages": HELLO}
    gateway.first.next.extend(["", "status:400"])
    good = await gateway.post("/v1/chat/completions", body, **canaries)
    bad = await gateway.post("/v1/chat/completions", body, **canaries)
    for seen in gateway.first.seen:
        sent = str(seen.headers)
        assert "canary-" not in sent.replace(OPENAI_KEY, "")
        assert gateway.token() not in sent
        assert seen.header("authorization") == f"Bearer {OPENAI_KEY}"
        assert seen.header("anthropic-beta") == "some-beta-2026"
    for answer in (good, bad):
        assert "canary" not in str(answer.headers) + answer.text
        assert answer.headers["x-request-id"]
    assert "[redacted]" in bad.text
    audit = (gateway.folder / "audit.db").read_bytes() + (gateway.folder / "audit.db-wal").read_bytes()
    for secret in (OPENAI_KEY, ANTHROPIC_KEY, SPARE_KEY, gateway.token()):
        assert secret.encode() not in audit


async def test_the_key_of_an_agent_comes_in_one_header_only(gateway: ModelGateway) -> None:
    path, body = "/v1/messages", {"model": "claude-sonnet-5", "max_tokens": 5, "messages": HELLO}
    content, token = json.dumps(body), gateway.token()
    ways: list[tuple[int, dict[str, str]]] = [
        (200, {"x-api-key": token}),
        (200, {"authorization": f"Bearer {token}"}),
        (401, {"x-api-key": token, "authorization": f"Bearer {token}"}),
        (401, {"x-api-key": "mgw_wrong"}),
        (401, {"api-key": token}),
        (401, {}),
    ]
    for status, headers in ways:
        sent = {"content-type": "application/json", **headers}
        answer = await gateway.http.post(f"{gateway.origin}{path}?api_key={token}", content=content, headers=sent)
        assert answer.status_code == status, headers
    assert gateway.first.seen[0].header("x-api-key") == ANTHROPIC_KEY
    mcp = await gateway.http.post(f"{gateway.origin}/mcp", content=content, headers={"x-api-key": token})
    assert mcp.status_code == 401


async def test_nothing_is_sent_that_the_policy_denies(gateway: ModelGateway) -> None:
    denied = await gateway.chat("gpt-5")
    unknown = await gateway.chat("nobody-has-this")
    assert denied.text.replace("gpt-5", "X") == unknown.text.replace("nobody-has-this", "X")
    assert (await gateway.chat(agent="bob")).status_code == 404
    assert gateway.first.seen == []
    assert [row["reason"] for row in gateway.rows()] == ["no_grant", "unknown_target", "no_grant"]


async def test_a_deny_of_a_model_holds_for_every_alias_of_it(tmp_path: Path) -> None:
    policy = f'{POLICY}\n[[tasks.work.deny]]\ntools = ["model:models/gpt-5-mini"]\n'
    async with model_gateway(tmp_path, policy=policy) as gateway:
        assert (await gateway.chat("gpt-5-mini")).status_code == 404
        assert (await gateway.chat("smart")).status_code == 400
        assert gateway.first.seen + gateway.spare.seen == []


@pytest.mark.parametrize(
    ("wire", "more"),
    [
        (CHAT, {"tools": [{"type": "web_search"}]}),
        (CHAT, {"web_search_options": {}, "tools": [{"type": "mcp"}]}),
        (RESPONSES, {"tools": [{"type": "mcp", "server_url": "https://evil.example/mcp"}]}),
        (RESPONSES, {"tools": [{"type": "code_interpreter"}]}),
        (RESPONSES, {"tools": [{"type": "something_new"}]}),
        (MESSAGES, {"mcp_servers": [{"type": "url", "url": "https://evil.example/mcp"}]}),
        (MESSAGES, {"tools": [{"type": "web_search_20260209", "name": "web_search"}]}),
        (MESSAGES, {"tools": [{"type": "code_execution_20260120", "name": "x"}]}),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
async def test_what_a_provider_would_do_by_itself_needs_its_own_grant(
    gateway: ModelGateway, wire: Wire, more: dict[str, Any]
) -> None:
    answer = await asked(gateway, wire, **more)
    assert answer.status_code == 403
    assert "gateway_policy_denied" in answer.text
    assert gateway.first.seen == []
    assert gateway.rows()[0]["decision"] == "denied"


async def test_a_grant_lets_a_provider_side_tool_through(tmp_path: Path) -> None:
    policy = POLICY.replace("[tasks.rest]", 'provider_tools = ["web_search*"]\n\n[tasks.rest]')
    async with model_gateway(tmp_path, policy=policy) as gateway:
        assert (await asked(gateway, RESPONSES, tools=[{"type": "web_search"}])).status_code == 200
        assert (await asked(gateway, RESPONSES, tools=[{"type": "mcp"}])).status_code == 403


@pytest.mark.parametrize(
    ("wire", "more"),
    [
        (RESPONSES, {"previous_response_id": "resp_of_somebody"}),
        (RESPONSES, {"conversation": "conv_1"}),
        (RESPONSES, {"store": True}),
        (RESPONSES, {"background": True}),
        (RESPONSES, {"prompt": {"id": "pmpt_1"}}),
        (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        (CHAT, {"store": True}),
        (MESSAGES, {"container": "container_1"}),
        (
            MESSAGES,
            {
                "messages": [
                    {"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}
                ]
            },
        ),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
async def test_state_kept_at_the_provider_is_nobody_s_to_refer_to(
    gateway: ModelGateway, wire: Wire, more: dict[str, Any]
) -> None:
    answer = await asked(gateway, wire, **more)
    assert answer.status_code == 400
    assert "state kept at the provider" in answer.text
    assert gateway.first.seen == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"gpt-5","model":"gpt-5-mini","messages":[]}',
        b'{"model":"gpt-5-mini","m\\u006fdel":"gpt-5","messages":[]}',
        b'{"model":1,"messages":[]}',
        b"[]",
        b'{"model":"gpt-5-mini","temperature":NaN}',
        b'{"model":"gpt-5-mini","tools":"all"}',
        b"\xff\xfe",
    ],
)
async def test_a_body_that_can_be_read_in_two_ways_is_refused(gateway: ModelGateway, body: bytes) -> None:
    answer = await gateway.post("/v1/chat/completions", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "gateway_bad_request"
    assert gateway.first.seen == []


async def test_other_paths_and_methods_are_not_there(gateway: ModelGateway) -> None:
    body = {"model": "gpt-5-mini", "messages": HELLO}
    for path in (
        "/v1/files",
        "/v1/responses/resp_1",
        "/v1/chat/%2e%2e/chat/completions",
        "/v1//chat/completions",
        "/v2/x",
    ):
        assert (await gateway.post(path, body)).status_code == 404, path
    headers = {"authorization": f"Bearer {gateway.token()}"}
    for method in ("GET", "DELETE", "PUT"):
        answer = await gateway.http.request(method, f"{gateway.origin}/v1/chat/completions", headers=headers)
        assert answer.status_code == 405
    assert gateway.first.seen == []


async def test_many_streams_at_once_each_get_their_own(gateway: ModelGateway) -> None:
    answers = await asyncio.gather(*(gateway.chat(stream=True) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.content.endswith(b"data: [DONE]\n\n") for answer in answers)


async def test_a_revoked_key_ends_its_streams(gateway: ModelGateway) -> None:
    gateway.first.habit = "pause"
    asking = asyncio.ensure_future(gateway.chat(stream=True))
    await until(lambda: gateway.first.first_delta.is_set())
    gateway.parts.closers.close_where(lambda caller: caller.agent == "alice")
    assert b"[DONE]" not in (await asking).content
    assert [row["ended"] for row in await gateway.ended()] == ["cancelled"]


def test_the_provider_of_the_tests_writes_what_it_says() -> None:
    assert Seen("POST", "/v1/messages", [("X-Api-Key", "k")], b"{}").header("x-api-key") == "k"
