"""The parts put together: what a configuration becomes, and what start-up waits for."""

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import anyio
import pytest

from fakes.gateway_process import write_files
from fakes.in_process import FILES, POLICY, caller, running_in, server_table, tools_of
from fakes.leftovers import child_processes
from fakes.replies import RecordingReply
from mcp_gateway import wiring
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.domain import Kind, OutcomeStatus, Request, Verb
from mcp_gateway.errors import ConfigInvalid, PolicyInvalid, StoreUnavailable, TimedOut, Unreachable
from mcp_gateway.upstreams.connection import Limits
from mcp_gateway.wiring import (
    audit_reader,
    bounded,
    catalog_of,
    new_request_id,
    policy_of,
    running,
    upstream_limits,
)

MIB = 1024 * 1024


def configured(folder: Path, text: str = FILES["servers.toml"]) -> Configuration:
    write_files(folder, {**FILES, "servers.toml": text})
    return load(folder / "servers.toml", os.environ)


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


async def test_nothing_is_left_running_or_locked(tmp_path: Path) -> None:
    before = child_processes()
    async with running_in(tmp_path):
        assert child_processes() > before
    assert child_processes() == before
    with closing(sqlite3.connect(tmp_path / "audit.db")) as db:
        db.execute("BEGIN EXCLUSIVE")


async def test_the_first_list_waits_for_upstreams_that_are_starting(tmp_path: Path) -> None:
    """An agent may list only once."""
    configuration = configured(tmp_path)
    async with running(lambda: configuration) as parts:
        request = Request("r", Verb.LIST, "tools/list", Kind.TOOL, "", {})
        assert parts.gateway.visible(caller("reader"), Kind.TOOL) == ()
        page = await parts.gateway.list(caller("reader"), request)
    assert [target.public_name for target in page.targets] == ["one__echo"]


async def test_an_upstream_that_hangs_delays_the_first_list_no_longer_than_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "FIRST_LIST_S", 0.5)
    hanging = '\n[servers.hangs]\ncommand = ["sh", "-c", "cat > /dev/null"]\n'
    configuration = configured(tmp_path, FILES["servers.toml"] + hanging)
    async with running(lambda: configuration) as parts:
        started_at = perf_counter()
        page = await parts.gateway.list(caller("reader"), Request("r", Verb.LIST, "tools/list", Kind.TOOL, "", {}))
        assert perf_counter() - started_at < 2
        assert [target.public_name for target in page.targets] == ["one__echo"]
        assert parts.health()["ready"] is False


async def test_a_configuration_that_cannot_be_used_starts_nothing(tmp_path: Path) -> None:
    write_files(tmp_path, {**FILES, "policies/agents.toml": "x"})
    before = child_processes()
    with pytest.raises(PolicyInvalid):
        async with running(lambda: load(tmp_path / "servers.toml", os.environ)):
            raise AssertionError
    assert child_processes() == before
    assert not (tmp_path / "audit.db").exists()


async def test_an_audit_that_cannot_be_opened_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "audit.db").mkdir()
    before = child_processes()
    with pytest.raises(StoreUnavailable):
        async with running_in(tmp_path):
            raise AssertionError
    assert child_processes() == before


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


async def test_what_one_upstream_offers_can_be_asked_without_a_gateway(tmp_path: Path) -> None:
    before = child_processes()
    catalog, held = await catalog_of(configured(tmp_path), "one", 10)
    assert held == ()
    assert [target.key for target in catalog.targets(Kind.TOOL)] == ["one/echo"]
    assert child_processes() == before


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (server_table("one", "exits"), "exited with status 5"),
        ('[servers.one]\ncommand = ["sh", "-c", "cat > /dev/null"]\n', "has not answered within 0 s"),
    ],
)
async def test_an_upstream_that_cannot_say_what_it_offers_is_unreachable(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(Unreachable, match=said):
        await catalog_of(configured(tmp_path, table), "one", 0.4)


def test_no_server_may_take_longer_for_a_call_than_the_gateway_allows(tmp_path: Path) -> None:
    text = "[gateway]\ncall_timeout_s = 5\n" + server_table("one", timeout_s="60") + server_table("two", timeout_s="2")
    assert [server.timeout_s for server in bounded(configured(tmp_path, text))] == [5, 2]


async def test_a_call_is_over_when_the_gateway_says_so(tmp_path: Path) -> None:
    text = "[gateway]\ncall_timeout_s = 0.3\n" + server_table("one", "lists-all")
    policy = POLICY.replace("one/echo", "one/*")
    async with running_in(tmp_path, {"servers.toml": text, "policies/agents.toml": policy}) as parts:
        with anyio.fail_after(5):
            with pytest.raises(TimedOut):
                await parts.gateway.ask(caller("reader"), call("one__never"), RecordingReply())


def test_an_upstream_may_send_what_the_gateway_lets_through(tmp_path: Path) -> None:
    settings = configured(tmp_path).settings
    usual = upstream_limits(settings)
    large = upstream_limits(replace(settings, max_result_bytes=100 * MIB))
    small = upstream_limits(replace(settings, max_result_bytes=1024))
    assert usual.max_message_bytes > 16 * MIB
    assert large.max_message_bytes > 100 * MIB
    assert large.max_answer_bytes >= large.max_message_bytes
    assert small == Limits()


def test_an_audit_that_is_not_there_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="does not exist"):
        audit_reader(configured(tmp_path))


def test_without_policies_nothing_is_allowed_and_that_is_said(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    (tmp_path / "policies/agents.toml").unlink()
    (tmp_path / "policies").rmdir()
    policy = policy_of(configuration)
    assert not policy.assignments
    assert "everything is denied" in policy.warnings[0].message


def test_request_ids_sort_by_time() -> None:
    ids = [new_request_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert [each[:11] for each in ids] == sorted(each[:11] for each in ids)


async def test_what_a_list_costs_each_agent_is_told_the_longest_first(tmp_path: Path) -> None:
    async with running_in(tmp_path) as parts:
        costs = parts.list_costs()
        told = {(each["agent"], each["task"], each["tools"], each["searched"]) for each in costs}
        assert told == {("reader", "read", 1, False), ("writer", "write", 1, False)}
        assert costs[0]["tokens"] >= costs[-1]["tokens"] > 0
