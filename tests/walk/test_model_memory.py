"""What providers keep for agents: each its own, at the one provider that has it, paid for once; nobody else's."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fakes.model_gateway import HELLO, MODELS, OPENAI_KEY, POLICY, ModelGateway, model_gateway
from fakes.providers import INPUT_TOKENS, OUTPUT_TOKENS, complete, events_of, provider
from fakes.waiting import until

STATEFUL = MODELS.replace("idle_timeout_s = 5", "idle_timeout_s = 5\nstateful = true").replace(
    'models = ["claude-sonnet-5"]', 'models = ["claude-sonnet-5"]\nstateful = true'
)
BOTH = POLICY.replace('tasks = ["rest"]\ndefault_task = "rest"', 'tasks = ["work", "rest"]\ndefault_task = "work"')
OTHER_TASK = BOTH + '\n[tasks.rest.models]\nallow = ["gpt-5-mini", "claude-sonnet-5"]\nprovider_tools = ["*"]\n'
RUNS_CODE = OTHER_TASK.replace("[tasks.rest]", 'provider_tools = ["code_execution*"]\n\n[tasks.rest]', 1)
TOKENS = INPUT_TOKENS + OUTPUT_TOKENS
ASKED = {"model": "gpt-5-mini", "input": "hello"}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[ModelGateway]:
    async with model_gateway(tmp_path, models=STATEFUL, policy=RUNS_CODE) as running:
        yield running


async def send(gateway: ModelGateway, method: str, path: str, agent: str = "alice", **more: Any) -> httpx2.Response:
    headers = {"authorization": f"Bearer {gateway.token(agent)}", **more.pop("headers", {})}
    return await gateway.http.request(method, f"{gateway.origin}{path}", headers=headers, **more)


async def made(gateway: ModelGateway, agent: str = "alice", **more: Any) -> str:
    """The id of a new response."""
    answer = await gateway.post("/v1/responses", {**ASKED, **more}, agent)
    assert answer.status_code == 200, answer.text
    id_ = answer.json()["id"]
    assert isinstance(id_, str)
    return id_


OF_RESPONSES = [
    ("GET", "/v1/responses/ID"),
    ("GET", "/v1/responses/ID?include[]=file_search_call.results"),
    ("GET", "/v1/responses/ID/input_items?limit=5&order=asc"),
    ("POST", "/v1/responses/ID/cancel"),
    ("DELETE", "/v1/responses/ID"),
]


@pytest.mark.parametrize(("method", "path"), OF_RESPONSES)
async def test_an_agent_has_its_own_answers_at_hand(gateway: ModelGateway, method: str, path: str) -> None:
    path = path.replace("ID", await made(gateway))
    answer = await send(gateway, method, path)
    assert answer.status_code == 200
    seen = gateway.first.seen[-1]
    assert (seen.method, seen.path, seen.body) == (method, path, b"")
    assert seen.header("authorization") == f"Bearer {OPENAI_KEY}"
    row = (await gateway.ended(2))[-1]
    assert (row["decision"], row["ended"], row["t_in"], row["usd"]) == ("allowed", "ok", None, None)


@pytest.mark.parametrize(("method", "path"), OF_RESPONSES)
async def test_what_is_somebody_else_s_is_as_unknown_as_what_never_was(
    gateway: ModelGateway, method: str, path: str
) -> None:
    """Another agent's, the same agent's on another task, and an id from nowhere: one answer, and nothing is sent."""
    mine = await made(gateway)
    before = len(gateway.first.seen)
    texts = []
    for agent, prefix, id_ in (("bob", "", mine), ("alice", "/task/rest", mine), ("alice", "", "resp_nowhere")):
        answer = await send(gateway, method, prefix + path.replace("ID", id_), agent)
        assert answer.headers["x-gateway-error"] == "1"
        texts.append((answer.status_code, answer.text.replace(id_, "ID")))
    assert texts == [texts[0]] * 3
    assert texts[0][0] == 404
    assert len(gateway.first.seen) == before
    assert [row["reason"] for row in gateway.rows()] == ["grant", "misuse", "misuse", "misuse"]


async def test_an_agent_goes_on_from_its_own_answer_only(gateway: ModelGateway) -> None:
    mine = await made(gateway)
    assert (await gateway.post("/v1/responses", {**ASKED, "previous_response_id": mine})).status_code == 200
    before = len(gateway.first.seen)
    stolen = await gateway.post("/v1/responses", {**ASKED, "previous_response_id": mine}, "bob")
    unknown = await gateway.post("/v1/responses", {**ASKED, "previous_response_id": "resp_x"}, "bob")
    assert stolen.text.replace(mine, "resp_x") == unknown.text
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "previous_response_not_found")
    assert len(gateway.first.seen) == before
    assert gateway.rows()[-1]["reason"] == "misuse"


async def test_a_call_with_an_id_goes_to_the_provider_that_has_it_and_nowhere_else(gateway: ModelGateway) -> None:
    """Whatever else the name leads to, and even where that provider fails."""
    mine = await made(gateway, model="smart")
    gateway.first.habit = "status:503"
    answer = await gateway.post("/v1/responses", {**ASKED, "model": "smart", "previous_response_id": mine})
    assert answer.status_code == 503
    assert (await gateway.post("/v1/responses", {**ASKED, "model": "smart", "store": True})).status_code == 503
    assert gateway.spare.seen == []
    elsewhere = {**ASKED, "model": "secondhand", "previous_response_id": mine}
    assert (await gateway.post("/v1/responses", elsewhere)).status_code == 400
    assert gateway.spare.seen == []


async def test_where_a_provider_may_keep_things_bodies_and_answers_pass_byte_for_byte(gateway: ModelGateway) -> None:
    written = json.dumps({**ASKED, "metadata": {"a": " b"}}, indent=1).encode()
    answer = await gateway.post("/v1/responses", written)
    assert gateway.first.seen[-1].body == written
    assert answer.content == json.dumps(gateway.first.kept[answer.json()["id"]]).encode()
    streamed = await gateway.post("/v1/responses", {**ASKED, "stream": True})
    assert streamed.content == b"".join(events_of(gateway.first, "", gateway.first.seen[-1]))
    fetched = await send(gateway, "GET", "/v1/responses/resp_1?stream=true")
    assert fetched.content == b"".join(events_of(gateway.first, "", gateway.first.seen[-1]))


async def test_what_a_stream_named_is_owned_though_it_broke_off(gateway: ModelGateway) -> None:
    gateway.first.next.append("break")
    await gateway.post("/v1/responses", {**ASKED, "stream": True})
    assert (await send(gateway, "GET", "/v1/responses/resp_1")).status_code == 200
    assert (await send(gateway, "GET", "/v1/responses/resp_1", "bob")).status_code == 404


@pytest.mark.parametrize(
    "more", [{"store": True}, {"background": True}, {"previous_response_id": "resp_1"}, {"conversation": "conv_1"}]
)
async def test_a_provider_that_was_not_opted_in_keeps_nothing(tmp_path: Path, more: dict[str, Any]) -> None:
    async with model_gateway(tmp_path, models=STATEFUL.replace("stateful = true", "stateful = false")) as gateway:
        answer = await gateway.post("/v1/responses", {**ASKED, **more})
        assert (answer.status_code, gateway.first.seen) == (400, [])
        assert "state kept at the provider" in answer.text
        assert (await gateway.post("/v1/responses", ASKED)).status_code == 200
        assert gateway.first.seen[-1].json["store"] is False
        assert (await send(gateway, "GET", "/v1/responses/resp_1")).status_code == 404
        assert len(gateway.first.seen) == 1


async def test_who_asked_that_nothing_be_kept_owns_nothing(gateway: ModelGateway) -> None:
    answer = await gateway.post("/v1/responses", {**ASKED, "store": False})
    assert (await send(gateway, "GET", f"/v1/responses/{answer.json()['id']}")).status_code == 404


async def test_a_policy_can_speak_of_what_is_kept(tmp_path: Path) -> None:
    no_background = """
[[tasks.work.deny]]
tools = ["model:models/*"]
when = '"background" in args.state || args.op == "delete_response"'
"""
    async with model_gateway(tmp_path, models=STATEFUL, policy=RUNS_CODE + no_background) as gateway:
        mine = await made(gateway, store=True)
        assert (await gateway.post("/v1/responses", {**ASKED, "background": True})).status_code == 404
        assert (await send(gateway, "DELETE", f"/v1/responses/{mine}")).status_code == 404
        assert (await send(gateway, "GET", f"/v1/responses/{mine}")).status_code == 200


async def test_what_is_kept_because_nothing_was_said_is_seen_by_policies_too(tmp_path: Path) -> None:
    nothing_kept = """
[[tasks.work.deny]]
tools = ["model:models/*"]
when = '"store" in args.state'
"""
    async with model_gateway(tmp_path, models=STATEFUL, policy=RUNS_CODE + nothing_kept) as gateway:
        for store, status in ((None, 404), (True, 404), (False, 200)):
            assert (await gateway.post("/v1/responses", {**ASKED, "store": store})).status_code == status
        assert (await gateway.chat()).status_code == 200


async def test_a_provider_that_keeps_nothing_takes_over_where_nothing_was_said(gateway: ModelGateway) -> None:
    gateway.first.habit = "status:503"
    answer = await gateway.post("/v1/responses", {**ASKED, "model": "smart"})
    assert (answer.status_code, gateway.spare.seen[-1].json["store"]) == (200, False)
    assert (await send(gateway, "GET", f"/v1/responses/{answer.json()['id']}")).status_code == 404


async def test_ids_outlive_the_gateway_and_end_with_the_provider_s_key(tmp_path: Path) -> None:
    async with provider() as first:
        async with model_gateway(tmp_path, models=STATEFUL, policy=RUNS_CODE, first=first) as gateway:
            mine = await made(gateway)
        async with model_gateway(tmp_path, models=STATEFUL, policy=RUNS_CODE, first=first) as gateway:
            assert (await send(gateway, "GET", f"/v1/responses/{mine}")).status_code == 200
        other = STATEFUL.replace("{OPENAI_KEY}", "sk-of-another-account-0123")
        async with model_gateway(tmp_path, models=other, policy=RUNS_CODE, first=first) as gateway:
            assert (await send(gateway, "GET", f"/v1/responses/{mine}")).status_code == 404


async def test_an_id_that_a_provider_gives_twice_stays_the_first_one_s(gateway: ModelGateway) -> None:
    await gateway.post("/v1/responses", {**ASKED, "stream": True})
    second = await gateway.post("/v1/responses", {**ASKED, "stream": True}, "bob")
    assert second.status_code == 502
    assert (await send(gateway, "GET", "/v1/responses/resp_1", "bob")).status_code == 404


async def spent(gateway: ModelGateway) -> tuple[int, int]:
    await asyncio.wrap_future(gateway.parts.budgets.flush())
    found = gateway.parts.budgets.store.spent(0)
    return sum(each.tokens for each in found), sum(each.under_way for each in found)


BUDGET = '\n[budgets.one]\nper = "31d"\ntokens = 6000\nby = ["agent"]\n'


async def test_a_response_in_the_background_is_set_aside_for_and_paid_when_it_is_first_found_ended(
    tmp_path: Path,
) -> None:
    """Over a restart too, and once, however often it is asked for."""
    policy = RUNS_CODE + BUDGET
    async with provider() as first:
        async with model_gateway(tmp_path, models=STATEFUL, policy=policy, first=first) as gateway:
            mine = await made(gateway, background=True)
            set_aside, under_way = await spent(gateway)
            assert (set_aside > 4096, under_way) == (True, 1)
        async with model_gateway(tmp_path, models=STATEFUL, policy=policy, first=first) as gateway:
            assert (await send(gateway, "GET", f"/v1/responses/{mine}")).json()["status"] == "queued"
            assert await spent(gateway) == (set_aside, 1)
            assert (await gateway.post("/v1/responses", ASKED)).status_code == 200
            assert (await gateway.post("/v1/responses", {**ASKED, "max_output_tokens": 5000})).status_code == 200
            complete(first, mine)
            for _ in range(3):
                assert (await send(gateway, "GET", f"/v1/responses/{mine}")).json()["status"] == "completed"
            assert await spent(gateway) == (3 * TOKENS, 0)
            rows = await gateway.ended(7)
    assert [row["t_in"] for row in rows] == [None, None, INPUT_TOKENS, INPUT_TOKENS, INPUT_TOKENS, None, None]
    assert rows[4]["usd"] > 0


async def test_responses_in_the_background_use_a_budget_up_before_they_end(tmp_path: Path) -> None:
    async with model_gateway(tmp_path, models=STATEFUL, policy=RUNS_CODE + BUDGET) as gateway:
        ids = [await made(gateway, background=True) for _ in range(2)]
        assert (await gateway.post("/v1/responses", {**ASKED, "background": True})).status_code == 429
        assert (await send(gateway, "GET", f"/v1/responses/{ids[0]}")).status_code == 200
        assert (await send(gateway, "DELETE", f"/v1/responses/{ids[0]}")).status_code == 200
        assert (await gateway.post("/v1/responses", ASKED)).status_code == 429, "what was deleted counts in full"


async def test_a_background_stream_that_was_left_is_paid_when_it_is_fetched(tmp_path: Path) -> None:
    async with model_gateway(tmp_path, models=STATEFUL, policy=RUNS_CODE + BUDGET) as gateway:
        gateway.first.next.append("break")
        await gateway.post("/v1/responses", {**ASKED, "stream": True, "background": True})
        assert (await spent(gateway))[1] == 1
        await send(gateway, "GET", "/v1/responses/resp_1?stream=true&starting_after=3")
        assert await spent(gateway) == (TOKENS, 0)


async def test_going_on_from_a_long_answer_sets_its_length_aside(tmp_path: Path) -> None:
    async with model_gateway(tmp_path, models=STATEFUL, policy=RUNS_CODE + BUDGET) as gateway:
        gateway.first.usage_scale = 100
        mine = await made(gateway)
        gateway.first.habit = "hang"
        more = {**ASKED, "previous_response_id": mine, "max_output_tokens": 10}
        asking = asyncio.ensure_future(gateway.post("/v1/responses", more))
        await until(lambda: len(gateway.first.seen) == 2)
        assert (await spent(gateway))[0] > 2 * 100 * TOKENS
        gateway.first.release.set()
        await asking


async def test_a_conversation_is_kept_used_and_ended_by_who_began_it(gateway: ModelGateway) -> None:
    begun = await gateway.post("/v1/conversations", {"metadata": {}})
    id_ = begun.json()["id"]
    assert (await gateway.post("/v1/responses", {**ASKED, "conversation": id_})).status_code == 200
    assert (await gateway.post("/v1/responses", {**ASKED, "conversation": {"id": id_}})).status_code == 200
    items = {"items": [{"type": "message", "role": "user", "content": "more"}]}
    assert (await gateway.post(f"/v1/conversations/{id_}/items", items)).status_code == 200
    assert gateway.first.seen[-1].json == items
    assert (await send(gateway, "GET", f"/v1/conversations/{id_}/items/msg_1")).status_code == 200
    before = len(gateway.first.seen)
    theirs = await gateway.post("/v1/responses", {**ASKED, "conversation": id_}, "bob")
    assert (theirs.status_code, theirs.json()["error"]["code"]) == (404, "conversation_not_found")
    for method in ("GET", "DELETE"):
        assert (await send(gateway, method, f"/v1/conversations/{id_}", "bob")).status_code == 404
    stolen = {"items": [{"type": "item_reference", "id": "msg_of_somebody"}]}
    assert (await gateway.post(f"/v1/conversations/{id_}/items", stolen)).status_code == 400
    assert len(gateway.first.seen) == before
    assert (await send(gateway, "DELETE", f"/v1/conversations/{id_}")).status_code == 200
    assert (await gateway.post("/v1/responses", {**ASKED, "conversation": id_})).status_code == 404


async def test_items_of_answers_can_be_named_by_whose_answer_it_was(gateway: ModelGateway) -> None:
    answer = await gateway.post("/v1/responses", ASKED)
    item = answer.json()["output"][0]["id"]
    for named in ({"type": "item_reference", "id": item}, {"id": item}, {"type": "reasoning", "id": item}):
        body = {**ASKED, "input": [named]}
        assert (await gateway.post("/v1/responses", body)).status_code == 200
        assert (await gateway.post("/v1/responses", body, "bob")).status_code == 404
    whole = {"type": "reasoning", "id": item, "encrypted_content": "x", "summary": []}
    assert (await gateway.post("/v1/responses", {**ASKED, "input": [whole]}, "bob")).status_code == 200


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_container_is_used_again_by_its_own_agent_only(gateway: ModelGateway, is_stream: bool) -> None:
    body = {"model": "claude-sonnet-5", "max_tokens": 50, "messages": HELLO, "stream": is_stream}
    runs = {**body, "tools": [{"type": "code_execution_20260120", "name": "code_execution"}]}
    assert b"container_1" in (await gateway.post("/v1/messages", runs)).content
    assert (await gateway.post("/v1/messages", {**runs, "container": "container_1"})).status_code == 200
    before = len(gateway.first.seen)
    theirs = await gateway.post("/v1/messages", {**body, "container": "container_1"}, "bob")
    assert (theirs.status_code, theirs.json()["error"]["type"]) == (404, "not_found_error")
    skills = {**runs, "container": {"id": "container_1", "skills": [{"type": "custom", "skill_id": "s"}]}}
    assert (await gateway.post("/v1/messages", skills)).status_code == 400
    assert len(gateway.first.seen) == before


async def test_counting_tokens_is_free_and_goes_on_from_nobody_else_s(gateway: ModelGateway) -> None:
    mine = await made(gateway)
    for agent, status in (("alice", 200), ("bob", 400)):
        answer = await gateway.post("/v1/responses/input_tokens", {**ASKED, "previous_response_id": mine}, agent)
        assert answer.status_code == status
    assert gateway.rows()[1]["usd"] == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/responses/ID?evil=1", 400),
        ("GET", "/v1/responses/ID?limit=%2e%2e", 400),
        ("GET", "/v1/responses/ID/input_items/x", 404),
        ("GET", "/v1/responses/%2e%2e", 404),
        ("GET", "/v1/responses/ID%2f..%2f..%2fmodels", 404),
        ("PUT", "/v1/responses/ID", 405),
        ("GET", "/v1/conversations", 405),
    ],
)
async def test_other_spellings_lead_nowhere(gateway: ModelGateway, method: str, path: str, status: int) -> None:
    mine = await made(gateway)
    raw = f"{gateway.origin}{path}".replace("ID", mine)
    answer = await gateway.http.request(method, httpx2.URL(raw), headers={"authorization": f"Bearer {gateway.token()}"})
    assert (answer.status_code, len(gateway.first.seen)) == (status, 1)


async def test_guards_look_at_what_is_fetched(tmp_path: Path) -> None:
    guard = '\n[[guard]]\nfind = ["personal-data"]\nin = ["results"]\nthen = "block"\n'
    async with model_gateway(tmp_path, models=STATEFUL, policy=RUNS_CODE + guard) as gateway:
        mine = await made(gateway)
        gateway.first.kept[mine]["output"][0]["content"][0]["text"] = "write to jane.doe@example.com"
        assert (await send(gateway, "GET", f"/v1/responses/{mine}")).status_code == 403
