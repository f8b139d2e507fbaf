"""The operators' own door: what it does, for whom, and that every bit of it is written down."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fakes.front import Front, answer_of, front, utc_now
from mcp_gateway.frontdoor.admin import AdminDoor
from mcp_gateway.frontdoor.desk import Desk

KEY = "0123456789abcdef" * 3
POLICY = """
[agents.alice]
tasks = ["ticket", "other"]

[tasks.ticket]
ttl = "2h"
context = ["customer"]

[[tasks.ticket.grant]]
tools = ["u/echo"]
approval = "person"

[tasks.other]
allow = ["u/echo"]
"""
ORDER = {"agent": "alice", "task": "ticket", "context": {"customer": 42}, "for": "30m"}


class Operator:
    """Somebody's program that has the admin key."""

    def __init__(self, door: Front) -> None:
        self.door = door
        desk = Desk(door.tasks, door.transactions, door.audit, lambda: door.gateway.snapshot.policy, utc_now)
        app = AdminDoor(desk, KEY, utc_now, door.audit.count_refusal)
        transport = httpx2.ASGITransport(app=app)
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8766", trust_env=False)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        lines = {"authorization": f"Bearer {KEY}", **headers}
        return await self.http.request(method, path, json=body, headers=lines)

    async def start(self, **more: Any) -> dict[str, Any]:
        response = await self.ask("POST", "/tasks", {**ORDER, **more})
        assert response.status_code == 201, response.text
        return dict(response.json())

    def events(self) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.door.folder / "audit.db")) as db:
            return db.execute(
                "SELECT kind, reason, agent FROM entries WHERE request_id IS NULL ORDER BY seq"
            ).fetchall()


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    async with front(tmp_path) as door:
        door.offer(policy=POLICY)
        found = Operator(door)
        async with found.http:
            yield found


async def test_a_task_is_started_and_its_token_works_at_the_agents_door(operator: Operator) -> None:
    made = await operator.start()
    assert (made["agent"], made["task"], made["context"], made["state"]) == (
        "alice",
        "ticket",
        {"customer": 42},
        "under way",
    )
    listed = answer_of(await operator.door.modern("tools/list", mcp_gateway_task=made["token"]))
    assert [tool["name"] for tool in listed["result"]["tools"]] == ["u__echo"]
    assert operator.events() == [("task", "started", "alice")]
    with closing(sqlite3.connect(operator.door.folder / "audit.db")) as db:
        rows = db.execute("SELECT name, args FROM entries WHERE kind = 'task'").fetchall()
    assert rows[0][0] == made["id"]
    assert json.loads(rows[0][1])["context"] == {"customer": 42}
    assert made["token"] not in str(rows)


async def test_tasks_are_listed_shown_extended_ended_and_revoked(operator: Operator) -> None:
    one, other = await operator.start(), await operator.start()
    assert [task["id"] for task in (await operator.ask("GET", "/tasks")).json()] == [one["id"], other["id"]]
    shown = (await operator.ask("GET", f"/tasks/{one['id']}")).json()
    assert shown["used"]["calls"] == 0
    assert "token" not in shown
    extended = (await operator.ask("POST", f"/tasks/{one['id']}/extend", {"for": "1h"})).json()
    assert extended["expires"] > one["expires"]
    assert (await operator.ask("POST", f"/tasks/{one['id']}/end")).json()["state"] == "ended"
    assert (await operator.ask("POST", f"/tasks/{other['id']}/revoke", {})).json()["state"] == "revoked"
    assert (await operator.ask("GET", "/tasks")).json() == []
    assert len((await operator.ask("GET", "/tasks?all=1")).json()) == 2
    for verb in ("end", "revoke", "extend"):
        again = await operator.ask("POST", f"/tasks/{one['id']}/{verb}", {"for": "1h"})
        assert again.status_code == 400
        assert "is over" in again.json()["error"]
    refused = await operator.door.modern("tools/list", mcp_gateway_task=one["token"])
    assert refused.status_code == 401
    assert [reason for _, reason, _ in operator.events()[:5]] == ["started", "started", "extended", "ended", "revoked"]


async def test_a_held_call_is_seen_whole_and_answered(operator: Operator) -> None:
    token = (await operator.start())["token"]
    await operator.door.call("u__echo", {"amount": 5}, mcp_gateway_task=token)
    [waiting] = (await operator.ask("GET", "/approvals")).json()
    assert (waiting["target"], waiting["args"], waiting["state"]) == ("u/echo", '{"amount":5}', "pending")
    assert (await operator.ask("GET", f"/approvals/{waiting['id']}")).json() == waiting
    nobody = await operator.ask("POST", f"/approvals/{waiting['id']}/approve", {})
    assert (nobody.status_code, nobody.json()["error"]) == (400, "'by' is missing: who answers")
    answered = await operator.ask("POST", f"/approvals/{waiting['id']}/approve", {"by": "carol"})
    assert (answered.json()["state"], answered.json()["answered_by"]) == ("approved", "carol")
    done = answer_of(await operator.door.call("u__echo", {"amount": 5}, mcp_gateway_task=token))
    assert not done["result"].get("isError")
    twice = await operator.ask("POST", f"/approvals/{waiting['id']}/deny", {"by": "carol"})
    assert twice.status_code == 400
    assert (await operator.ask("GET", "/approvals?all")).json()[0]["state"] == "used"
    assert ("approval", "approved", "alice") in operator.events()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({**ORDER, "agent": "alise"}, "no policy names the agent 'alise'"),
        ({**ORDER, "task": "work"}, "agent 'alice' has no task 'work'"),
        ({**ORDER, "context": {}}, "is about some 'customer', which is missing"),
        ({**ORDER, "context": {"customer": 1, "x": 2}}, "has no 'x' in its context"),
        ({**ORDER, "for": "3h"}, "lasts for 2:00:00 at most"),
        ({**ORDER, "for": 30}, "'for' must be a length of time"),
        ({**ORDER, "agent": 1}, "must be texts"),
        ({**ORDER, "context": 1}, "must be objects"),
        ({**ORDER, "budget": {"call": 1}}, "'call' cannot be 1 in a budget"),
        ({**ORDER, "budget": {"calls": 0}}, "'calls' must be more than 0"),
        ({**ORDER, "fro": "1h"}, "unknown member 'fro'"),
        ([], "the body must be a JSON object"),
    ],
)
async def test_what_cannot_be_started_is_refused_with_its_reason(operator: Operator, body: Any, error: str) -> None:
    response = await operator.ask("POST", "/tasks", body)
    assert response.status_code == 400
    assert error.replace("lasts for", "").strip() in response.json()["error"]
    assert operator.door.tasks.list(10) == []


@pytest.mark.parametrize("credential", ["", "Bearer ", "Bearer wrong", f"Basic {KEY}", "agent"])
async def test_nobody_else_comes_in_and_not_a_name_is_told(operator: Operator, credential: str) -> None:
    shown = f"Bearer {operator.door.token()}" if credential == "agent" else credential
    for method, path in (("GET", "/tasks"), ("POST", "/tasks"), ("GET", "/approvals/x"), ("GET", "/nothing")):
        response = await operator.ask(method, path, ORDER, authorization=shown)
        assert (response.status_code, response.json()) == (401, {"error": "the admin key is required"})


async def test_the_admin_key_opens_nothing_for_agents(operator: Operator) -> None:
    response = await operator.door.modern("tools/list", authorization=f"Bearer {KEY}")
    assert response.status_code == 401


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/tasks", {"host": "evil.example"}, 421),
        ("POST", "/tasks", {"origin": "https://evil.example"}, 403),
        ("POST", "/tasks", {"content-type": "text/plain"}, 415),
        ("PUT", "/tasks", {}, 405),
        ("GET", "/tasks/../approvals", {}, 404),
        ("POST", "/tasks/abc/pause", {}, 404),
        ("POST", "/approvals", {}, 404),
    ],
)
async def test_what_is_no_call_of_it_is_refused(
    operator: Operator, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    request = operator.http.build_request(
        method, "/", json=ORDER, headers={"authorization": f"Bearer {KEY}", **headers}
    )
    request.url = httpx2.URL(f"http://127.0.0.1:8766{path}")
    response = await operator.http.send(request)
    if path == "/tasks/../approvals":  # clients take the dots out themselves
        assert response.status_code in (200, 404)
    else:
        assert response.status_code == status, response.text
    assert operator.door.tasks.list(10) == []
