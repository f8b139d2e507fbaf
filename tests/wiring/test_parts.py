"""The parts put together: one catalog judged by one policy, replaced while it runs."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from fakes.in_process import POLICY, caller, running_in, server_table, tools_of
from fakes.replies import RecordingReply
from mcp_gateway.domain import Kind, OutcomeStatus, Request, Verb
from mcp_gateway.errors import ConfigInvalid, TimedOut
from mcp_gateway.wiring.clock import new_request_id


def call(name: str, tool: str = "echo") -> Request:
    params = {"name": name, "arguments": {}}
    return Request(new_request_id(), Verb.CALL, "tools/call", Kind.TOOL, name, params)


async def test_everything_configured_is_one_catalog_judged_by_one_policy(tmp_path: Path) -> None:
    async with running_in(tmp_path) as parts:
        assert tools_of(parts, "reader") == {"one__echo"}
        assert tools_of(parts, "writer") == {"two__echo"}
        outcome = await parts.gateway.ask(caller("reader"), call("one__echo"), RecordingReply())
        assert outcome.status is OutcomeStatus.OK
        assert parts.health() | {"version": ""} == {
            "ok": True,
            "ready": True,
            "version": "",
            "upstreams": {"ready": 2},
            "audit": "ok",
            "complaints": [],
        }


async def test_the_catalog_is_built_again_only_when_somebody_offers_something_else(tmp_path: Path) -> None:
    async with running_in(tmp_path) as parts:
        before = parts.gateway.snapshot
        parts.refresh()
        assert parts.gateway.snapshot is not before
        assert parts.gateway.snapshot.catalog is before.catalog
        [upstream] = [found for found in parts.pool._upstreams.values() if found.name == "one"]
        upstream.listing = replace(parts.pool.listings["one"], tools=())
        parts.refresh()
        assert parts.gateway.snapshot.catalog.find(Kind.TOOL, "one__echo") is None


async def test_a_denied_call_never_reaches_the_upstream_and_an_unknown_one_neither(tmp_path: Path) -> None:
    async with running_in(tmp_path) as parts:
        for name in ("two__echo", "one__nothing"):
            with pytest.raises(Exception, match=name):
                await parts.gateway.ask(caller("reader"), call(name), RecordingReply())
    with closing(sqlite3.connect(tmp_path / "audit.db")) as db:
        found = db.execute("SELECT reason, outcome FROM calls ORDER BY seq").fetchall()
    assert found == [("no_grant", "refused"), ("unknown_target", "refused")]


async def test_a_stdio_agent_must_be_in_the_policy_and_have_its_task(tmp_path: Path) -> None:
    async with running_in(tmp_path) as parts:
        parts.stdio_door("reader", None)
        parts.stdio_door("reader", "read")
        for agent, task, said in [("nobody", None, "known: reader, writer"), ("reader", "write", "it has: read")]:
            with pytest.raises(ConfigInvalid, match=said):
                parts.stdio_door(agent, task)


async def test_a_call_is_over_when_the_gateway_says_so(tmp_path: Path) -> None:
    text = "[gateway]\ncall_timeout_s = 0.3\n" + server_table("one", "lists-all")
    policy = POLICY.replace("one/echo", "one/*")
    async with running_in(tmp_path, {"servers.toml": text, "policies/agents.toml": policy}) as parts:
        with anyio.fail_after(5):
            with pytest.raises(TimedOut):
                await parts.gateway.ask(caller("reader"), call("one__never"), RecordingReply())


async def test_what_a_list_costs_each_agent_is_told_the_longest_first(tmp_path: Path) -> None:
    async with running_in(tmp_path) as parts:
        costs = parts.list_costs()
        told = {(each["agent"], each["task"], each["tools"], each["searched"]) for each in costs}
        assert told == {("reader", "read", 1, False), ("writer", "write", 1, False)}
        assert costs[0]["tokens"] >= costs[-1]["tokens"] > 0
