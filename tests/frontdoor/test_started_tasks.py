"""Started tasks at the front door: who may use a token, which task counts, and that the end is the end at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import anyio
import pytest

from fakes.front import Front, answer_of, request, utc_now
from fakes.upstream import Hanging
from fakes.waiting import until
from mcp_gateway.frontdoor import head
from mcp_gateway.frontdoor.housekeeping import close_revoked

POLICY = """
[agents.alice]
tasks = ["work", "ticket", "rest"]
default_task = "work"

[agents.bob]
tasks = ["ticket"]
default_task = "ticket"

[tasks.work]
allow = ["u/echo"]

[tasks.rest]

[tasks.ticket]
ttl = "2h"
context = ["customer"]
allow = ["u/hang", "resource:u/**"]

[[tasks.ticket.grant]]
tools = ["u/second"]
when = "task.customer == args.customer"
"""


@pytest.fixture
def ready(door: Front) -> Front:
    door.offer(policy=POLICY)
    return door


async def listed(door: Front, **headers: Any) -> set[str]:
    answer = answer_of(await door.modern("tools/list", **headers))
    return {tool["name"] for tool in answer["result"]["tools"]}


async def test_a_task_that_has_to_be_started_gives_nothing_until_it_is(ready: Front) -> None:
    assert await listed(ready, path="/ticket") == set()
    token = ready.start("alice", "ticket", customer=42)
    assert await listed(ready, mcp_gateway_task=token) == {"u__second", "u__hang"}
    assert ready.rows("reason, outcome, task") == [("list", "ok", "ticket"), ("list", "ok", "ticket")]
    response = await ready.call("u__second", {"customer": 42}, path="/ticket")
    assert "error" in answer_of(response)
    assert ready.rows("reason")[-1] == ("task_not_started",)


async def test_conditions_see_what_the_task_is_about(ready: Front) -> None:
    token = ready.start("alice", "ticket", customer=42)
    right = answer_of(await ready.call("u__second", {"customer": 42}, mcp_gateway_task=token))
    wrong = answer_of(await ready.call("u__second", {"customer": 43}, mcp_gateway_task=token))
    assert "result" in right
    assert wrong["error"]["message"] == "Unknown tool: u__second"
    task_id = token.split("_")[1]
    assert ready.rows("task, reason, started") == [
        ("ticket", "grant", task_id),
        ("ticket", "condition_false", task_id),
    ]


async def test_the_task_token_says_which_task_it_is_before_the_endpoint_and_the_default(ready: Front) -> None:
    token = ready.start("alice", "ticket", customer=1)
    assert await listed(ready) == {"u__echo"}
    assert await listed(ready, path="/rest") == set()
    assert "u__hang" in await listed(ready, path="/rest", mcp_gateway_task=token)


async def test_the_token_can_be_the_credential_itself(ready: Front) -> None:
    token = ready.start("alice", "ticket", customer=1)
    assert "u__hang" in await listed(ready, authorization=f"Bearer {token}")
    assert ready.rows("agent, identity_strength") == [("alice", "task-token")]


@pytest.mark.parametrize("form", ["bobs", "unknown", "changed", "cut", "empty", "a key", "twice"])
async def test_any_other_token_is_refused_and_nobody_falls_back_to_another_task(ready: Front, form: str) -> None:
    token, bobs = ready.start("alice", "ticket", customer=1), ready.start("bob", "ticket", customer=1)
    given = {
        "bobs": bobs,
        "unknown": "mgt_000000000000_" + token.split("_")[2],
        "changed": token[:-1] + ("A" if token[-1] != "A" else "B"),
        "cut": token[:-7],
        "empty": "-",
        "a key": ready.token(),
        "twice": f"{token}, {token}",
    }[form]
    assert (await ready.modern("tools/list", mcp_gateway_task=given)).status_code == 401
    assert ready.rows("task") == []


async def test_a_token_is_never_kept_with_the_headers(ready: Front) -> None:
    token = ready.start("alice", "ticket", customer=1)
    await listed(ready, mcp_gateway_task=token)
    assert token.encode() not in repr(list(head._kept)).encode()


@pytest.mark.parametrize("how", ["end", "revoke", "expire"])
async def test_the_next_request_of_a_task_that_is_over_is_refused(ready: Front, how: str) -> None:
    token = ready.start("alice", "ticket", minutes=0.002 if how == "expire" else 30, customer=1)
    task_id = token.split("_")[1]
    if how == "expire":
        await until(lambda: not ready.tasks.holds(task_id, utc_now()))
    else:
        assert getattr(ready.tasks, how)(task_id, utc_now())
    for headers in ({"mcp_gateway_task": token}, {"authorization": f"Bearer {token}"}):
        assert (await ready.modern("tools/list", **headers)).status_code == 401
    assert await listed(ready) == {"u__echo"}  # the agent's own key is as good as before


async def test_calls_and_streams_of_a_task_end_with_it_and_no_others(ready: Front) -> None:
    ready.u.script["hang"] = Hanging()
    one, other = (ready.start("alice", "ticket", customer=number) for number in (1, 2))
    statuses: dict[str, int] = {}

    async def hang(name: str, token: str) -> None:
        statuses[name] = (await ready.call("u__hang", mcp_gateway_task=token)).status_code

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hang, "one", one)
        tasks.start_soon(hang, "other", other)
        await until(lambda: len(ready.u.asked) == 2)
        ready.end(one)
        await until(lambda: "one" in statuses)
        assert (statuses, len(ready.u.cancelled)) == ({"one": 401}, 1)
        ready.end(other)
    assert statuses == {"one": 401, "other": 401}


async def test_an_extended_task_goes_on(ready: Front) -> None:
    token = ready.start("alice", "ticket", customer=1)
    closed = asyncio.Event()
    caller = await ready.door._caller({"headers": [(b"authorization", f"Bearer {token}".encode())]}, None)
    ready.closers.add(caller, closed.set)
    ready.tasks.extend(token.split("_")[1], utc_now() + timedelta(hours=2), utc_now())
    close_revoked(ready.closers, ready.verifier, lambda: utc_now() + timedelta(hours=1))
    assert not closed.is_set()


async def test_a_session_belongs_to_the_task_it_was_opened_for(ready: Front) -> None:
    one, other = (ready.start("alice", "ticket", customer=number) for number in (1, 2))
    opened = await ready.post(
        request("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x"}}),
        mcp_gateway_task=one,
    )
    session = opened.headers["mcp-session-id"]
    assert (await ready.old(session, "tools/list", mcp_gateway_task=one)).status_code == 200
    assert (await ready.old(session, "tools/list", mcp_gateway_task=other)).status_code == 404
    assert (await ready.old(session, "tools/list")).status_code == 404
    ready.end(one)
    assert (await ready.old(session, "tools/list", mcp_gateway_task=one)).status_code == 401


async def test_what_a_call_is_refused_for_now_is_a_result_the_model_can_act_on(ready: Front) -> None:
    ready.offer(policy=POLICY.replace('allow = ["u/echo"]', LIMITED))
    first = answer_of(await ready.call("u__echo"))
    second = answer_of(await ready.call("u__echo"))
    assert not first["result"].get("isError")
    assert second["result"]["isError"]
    assert "try again in 60 min" in second["result"]["content"][0]["text"]
    assert await listed(ready) == {"u__echo"}  # a list never varies by earlier calls


LIMITED = """
[[tasks.work.grant]]
tools = ["u/echo"]
limit = { calls = 1, per = "1h" }
"""


async def test_a_resource_that_has_to_wait_is_an_error_with_a_status_of_its_own(ready: Front) -> None:
    grant = "[[tasks.work.grant]]\ntools = ['resource:u/note:///open']\napproval = 'person'\n"
    ready.offer(policy=POLICY.replace('allow = ["u/echo"]', grant))
    response = await ready.modern("resources/read", {"uri": "note:///open"})
    assert (response.status_code, answer_of(response)["error"]["code"]) == (409, 409)
