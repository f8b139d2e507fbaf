"""A tool call that became a wire task can be followed by the agent that made it, and by nobody else."""

import json
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from fakes.front import META, Front, answer_of, listing, snapshot
from fakes.upstream import answering_with, raising
from mcp_gateway.catalog.catalog import build
from mcp_gateway.catalog.naming import NamingRule
from mcp_gateway.domain import (
    Caller,
    Json,
    Kind,
    Outcome,
    OutcomeStatus,
    RpcError,
    Target,
    UpstreamState,
    UpstreamStatus,
)
from mcp_gateway.errors import Unreachable
from mcp_gateway.frontdoor.seals import SealBrokenError, Seals
from mcp_gateway.frontdoor.wire_tasks import MAX_TTL_MS, WIRE_TASK_TTL_S, WireTask, WireTasks, declared, told

EXTENSION = "io.modelcontextprotocol/tasks"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
THEIRS = "786512e2-9e0d"
WORKING: Json = {"taskId": THEIRS, "status": "working", "createdAt": "t", "lastUpdatedAt": "t", "ttlMs": 60_000}
METHODS = ["tasks/get", "tasks/update", "tasks/cancel"]
ALICE = Caller("alice", "work")
TARGET = Target(Kind.TOOL, "u", "echo", "u__echo", {}, "0")


def meta(*extensions: str, **capabilities: Any) -> Json:
    declared_ones: Json = {"extensions": {name: {} for name in extensions}} if extensions else {}
    return {**META, CAPABILITIES: {**capabilities, **declared_ones}}


async def began(door: Front, tool: str = "echo", arguments: Json | None = None, **more: Any) -> str:
    """The id that an agent gets for a call that became a task."""
    created = {"resultType": "task", **WORKING, **more}
    door.u.script[tool] = answering_with(Outcome(OutcomeStatus.WIRE_TASK, created))
    params = {"name": f"u__{tool}", "arguments": arguments or {}, "_meta": meta(EXTENSION)}
    return str(answer_of(await door.modern("tools/call", params))["result"]["taskId"])


async def asked_about(
    door: Front, task_id: Any, method: str = "tasks/get", capabilities: Json | None = None, **kwargs: Any
) -> httpx2.Response:
    params = {"taskId": task_id, "_meta": capabilities or meta(EXTENSION)}
    if method == "tasks/update":
        params["inputResponses"] = {"q": {"action": "decline"}}
    return await door.modern(method, params, **{"mcp_name": str(task_id), **kwargs})


def says(door: Front, result: Json) -> None:
    door.u.script[THEIRS] = answering_with(Outcome(OutcomeStatus.OK, {"resultType": "complete", **result}))


async def test_an_agent_gets_an_id_of_ours_and_never_sees_the_upstreams(door: Front) -> None:
    task_id = await began(door)
    assert task_id.isascii()
    assert " " not in task_id
    says(door, {**WORKING, "status": "completed", "result": {"content": []}})
    answer = answer_of(await asked_about(door, task_id))
    assert answer["result"]["taskId"] == task_id
    assert answer["result"]["result"] == {"content": []}
    assert answer["result"]["resultType"] == "complete"
    assert THEIRS not in json.dumps(answer) + task_id


@pytest.mark.parametrize("method", METHODS)
async def test_the_upstream_is_asked_by_its_own_id(door: Front, method: str) -> None:
    task_id = await began(door)
    says(door, WORKING if method == "tasks/get" else {})
    assert (await asked_about(door, task_id, method)).status_code == 200
    sent = door.u.asked[-1]
    assert (sent.method, sent.params["taskId"]) == (method, THEIRS)
    assert ("inputResponses" in sent.params) == (method == "tasks/update")


async def test_an_acknowledgement_stays_empty(door: Front) -> None:
    task_id = await began(door)
    says(door, {})
    result = answer_of(await asked_about(door, task_id, "tasks/cancel"))["result"]
    assert result.keys() == {"resultType", "_meta"}


async def test_each_request_is_in_the_audit_as_what_it_was_about(door: Front) -> None:
    task_id = await began(door)
    says(door, {})
    for method in METHODS:
        await asked_about(door, task_id, method)
    rows = door.rows("kind, upstream, name, outcome, args")
    assert rows[0][:4] == ("call", "u", "echo", "wire_task")
    assert [row[:4] for row in rows[1:]] == [
        (kind, "u", "echo", "ok") for kind in ("task_get", "task_update", "task_cancel")
    ]
    assert json.loads(rows[1][4]) == {"taskId": THEIRS}
    assert json.loads(rows[2][4])["inputResponses"] == {"q": {"action": "decline"}}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["altered", "shortened", "another agent", "another task", "nonsense", "the upstream's"])
async def test_an_id_that_is_not_the_callers_reads_as_unknown_and_is_in_the_audit(
    door: Front, method: str, how: str
) -> None:
    task_id = await began(door)
    calls = len(door.u.asked)
    presented = {
        "altered": task_id[:40] + ("A" if task_id[40] != "A" else "B") + task_id[41:],
        "shortened": task_id[:-8],
        "nonsense": "tasks-conformance-nonexistent-12345",
        "the upstream's": THEIRS,
    }.get(how, task_id)
    agent, path = ("bob", "") if how == "another agent" else ("alice", "/rest" if how == "another task" else "")
    response = await asked_about(door, presented, method, agent=agent, path=path)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["message"]) == (-32602, "Unknown task")
    assert door.rows("kind, agent, decision, reason, outcome")[-1] == (
        method.replace("tasks/", "task_"),
        agent,
        "denied",
        "misuse",
        "refused",
    )
    assert len(door.u.asked) == calls


@pytest.mark.parametrize("method", METHODS)
async def test_who_has_not_declared_the_extension_is_told_to(door: Front, method: str) -> None:
    task_id = await began(door)
    calls = len(door.u.asked)
    for capabilities in (meta(), meta("io.example/other"), {**META, CAPABILITIES: {"extensions": {EXTENSION: None}}}):
        response = await asked_about(door, task_id, method, capabilities)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["code"] == -32021
        assert error["data"] == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
    assert len(door.u.asked) == calls


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("named", ["", "another"])
async def test_the_name_header_must_be_the_tasks_id(door: Front, method: str, named: str) -> None:
    task_id = await began(door)
    calls = len(door.u.asked)
    response = await asked_about(door, task_id, method, mcp_name=named)
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32020)
    assert len(door.u.asked) == calls


@pytest.mark.parametrize("task_id", [None, 7, ["x"], {}])
async def test_an_id_is_a_string(door: Front, task_id: Any) -> None:
    response = await asked_about(door, task_id, mcp_name="x")
    assert response.status_code == 400
    assert response.json()["error"]["code"] in (-32602, -32020)


async def test_answers_to_a_task_are_an_object(door: Front) -> None:
    task_id = await began(door)
    params = {"taskId": task_id, "inputResponses": ["x"], "_meta": meta(EXTENSION)}
    response = await door.modern("tasks/update", params, mcp_name=task_id)
    assert response.json()["error"]["code"] == -32602
    assert door.u.asked[-1].method == "tools/call"


@pytest.mark.parametrize("method", METHODS)
async def test_a_tool_that_may_not_be_used_any_more_has_no_tasks_either(door: Front, method: str) -> None:
    task_id = await began(door)
    calls = len(door.u.asked)
    door.offer(policy='[agents.alice]\ntasks = ["work"]\ndefault_task = "work"\n[tasks.work]\nallow = ["u/second"]\n')
    response = await asked_about(door, task_id, method)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["message"]) == (400, -32602, "Unknown task")
    assert door.rows("decision, reason, name")[-1] == ("denied", "no_grant", "echo")
    assert len(door.u.asked) == calls


async def test_a_condition_on_arguments_was_judged_when_the_call_was_made(door: Front) -> None:
    task_id = await began(door, "careful", {"path": "safe"})
    says(door, WORKING)
    assert (await asked_about(door, task_id)).status_code == 200
    assert door.rows("decision, reason")[-1] == ("allowed", "grant_depends")


async def test_a_task_is_found_by_its_upstreams_names_whatever_agents_call_them_now(door: Front) -> None:
    task_id = await began(door)
    says(door, WORKING)
    renamed = build([listing()], {"u": NamingRule(prefix="renamed")})
    door.gateway.swap(replace(snapshot(door.u, listing()), catalog=renamed))
    assert (await asked_about(door, task_id)).status_code == 200


async def test_the_upstreams_own_errors_are_relayed(door: Front) -> None:
    task_id = await began(door)
    error = RpcError(-32602, "Failed to retrieve task: Task has expired")
    door.u.script[THEIRS] = answering_with(Outcome(OutcomeStatus.RPC_ERROR, error=error))
    response = await asked_about(door, task_id)
    assert response.status_code == 400
    assert response.json()["error"] == {"code": -32602, "message": "Failed to retrieve task: Task has expired"}


async def test_a_task_whose_upstream_is_away_is_not_called_unknown(
    door: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await began(door)
    door.u.script[THEIRS] = raising(Unreachable("u", "upstream 'u' is down"))
    assert answer_of(await asked_about(door, task_id))["error"]["code"] == -32603
    # Not listed yet: the gateway has just been started, and the upstream has not.
    monkeypatch.setattr(type(door.u), "status", UpstreamStatus("u", UpstreamState.STARTING))
    door.gateway.swap(replace(door.gateway.snapshot, catalog=build([], {})))
    error = answer_of(await asked_about(door, task_id))["error"]
    assert (error["code"], error["message"]) == (-32603, "upstream 'u' is not up")


async def test_a_task_may_only_ask_what_its_agent_can_answer(door: Front) -> None:
    task_id = await began(door)
    question = {"method": "elicitation/create", "params": {"mode": "form", "message": "?", "requestedSchema": {}}}
    says(door, {**WORKING, "status": "input_required", "inputRequests": {"q": question}})
    told_it = answer_of(await asked_about(door, task_id, capabilities=meta(EXTENSION, elicitation={})))
    assert told_it["result"]["inputRequests"] == {"q": question}
    kept = answer_of(await asked_about(door, task_id, capabilities=meta(EXTENSION, sampling={})))
    assert kept["error"]["code"] == -32603


async def test_the_older_era_has_none_of_it(door: Front) -> None:
    task_id = await began(door)
    session = await door.handshake()
    for method in METHODS:
        answer = answer_of(await door.old(session, method, {"taskId": task_id}))
        assert answer["error"]["code"] == -32601


@pytest.mark.parametrize("method", ["tasks/list", "tasks/result", "io.example/thing", "ui/open", "tasks/"])
async def test_methods_of_extensions_nobody_knows_are_not_found(door: Front, method: str) -> None:
    response = await door.modern(method, {"taskId": "x", "_meta": meta("io.example/thing")}, mcp_name="x")
    assert (response.status_code, response.json()["error"]["code"]) == (404, -32601)
    assert door.u.asked == []


@pytest.mark.parametrize(
    ("offered", "modern", "legacy"),
    [
        (set(), None, None),
        ({EXTENSION}, {EXTENSION: {}}, None),
        (
            {EXTENSION, "io.modelcontextprotocol/ui"},
            {EXTENSION: {}, "io.modelcontextprotocol/ui": {}},
            {"io.modelcontextprotocol/ui": {}},
        ),
    ],
)
async def test_an_extension_is_offered_while_some_upstream_offers_it(
    door: Front, offered: set[str], modern: Json | None, legacy: Json | None
) -> None:
    door.gateway.swap(replace(door.gateway.snapshot, extensions=frozenset(offered)))
    found = answer_of(await door.modern("server/discover"))["result"]["capabilities"]
    assert found.get("extensions") == modern
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    assert answer_of(await door.post(message))["result"]["capabilities"].get("extensions") == legacy


def tasks_at(now_s: float, key: bytes = b"k" * 32, purpose: str = "wire task") -> WireTasks:
    return WireTasks(Seals(key, purpose, WIRE_TASK_TTL_S), lambda: now_s)


def test_an_id_holds_its_task_in_every_process_that_shares_the_key_until_its_ttl_is_over() -> None:
    start_s = 1_800_000_000.0
    task_id = tasks_at(start_s).given(ALICE, TARGET, {"taskId": THEIRS})["taskId"]
    for later_s in (0, MAX_TTL_MS // 1000):
        assert tasks_at(start_s + later_s).opened(ALICE, task_id) == WireTask("u", "echo", THEIRS)
    with pytest.raises(SealBrokenError):
        tasks_at(start_s + WIRE_TASK_TTL_S + 1).opened(ALICE, task_id)


@pytest.mark.parametrize("other", [{"agent": "bob"}, {"task": "rest"}, {"task": None}, {"person": "carol"}])
def test_an_id_is_bound_to_agent_person_and_task_and_outlives_a_key(other: Json) -> None:
    task_id = tasks_at(0).given(ALICE, TARGET, {"taskId": THEIRS})["taskId"]
    assert tasks_at(0).opened(replace(ALICE, credential_id="a newer key"), task_id).id == THEIRS
    with pytest.raises(SealBrokenError):
        tasks_at(0).opened(replace(ALICE, **other), task_id)


def test_a_seal_made_for_something_else_is_no_id() -> None:
    made = tasks_at(0, purpose="request state").given(ALICE, TARGET, {"taskId": THEIRS})["taskId"]
    for tasks in (tasks_at(0), tasks_at(0, key=b"o" * 32)):
        with pytest.raises(SealBrokenError):
            tasks.opened(ALICE, made)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(60_000, 60_000), (MAX_TTL_MS, MAX_TTL_MS), (MAX_TTL_MS + 1, MAX_TTL_MS), (None, MAX_TTL_MS), ("x", MAX_TTL_MS)],
)
def test_no_task_is_promised_longer_than_its_id_lives(theirs: Any, ours: int) -> None:
    assert told({"taskId": THEIRS, "ttlMs": theirs}, "id") == {"taskId": "id", "ttlMs": ours}


async def test_news_of_tasks_are_for_those_who_declared_the_extension(door: Front) -> None:
    params = {"notifications": {"taskIds": ["x"]}, "_meta": meta()}
    response = await door.modern("subscriptions/listen", params)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, -32021)
    assert error["data"] == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}


@pytest.mark.parametrize("capabilities", [{}, None, [], {"extensions": None}, {"extensions": [EXTENSION]}])
def test_what_is_not_declared_as_the_extension_is_none(capabilities: Json) -> None:
    assert not declared(capabilities)
    assert declared({"extensions": {EXTENSION: {}}})
