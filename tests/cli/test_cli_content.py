"""`content`: what is kept is listed, shown to whom the audit names, and purged."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from fakes.in_process import caller
from fakes.replies import RecordingReply
from mcp_gateway.config.servers import load
from mcp_gateway.domain import Kind, Request, Verb
from mcp_gateway.wiring import new_request_id, running

KEEP = '\n[[keep]]\nfor = "1d"\n'


@pytest.fixture
def called(operator: Any) -> str:
    """The request id of a call of which all is kept."""
    policy = operator.folder / "policies/agents.toml"
    policy.write_text(policy.read_text() + KEEP)

    async def call() -> str:
        async with running(lambda: load(Path("servers.toml"), os.environ)) as parts:
            await parts.settled(10)
            name = next(iter(parts.gateway.visible(caller("reader"), Kind.TOOL))).public_name
            params = {"name": name, "arguments": {"text": "the kept text"}}
            request = Request(new_request_id(), Verb.CALL, "tools/call", Kind.TOOL, name, params)
            await parts.gateway.ask(caller("reader"), request, RecordingReply())
            return request.request_id

    return asyncio.run(call())


def events(operator: Any) -> list[dict[str, Any]]:
    return [row for row in operator.json_lines("log", "--events") if row["kind"] == "content"]


def test_nothing_is_kept_where_nobody_asked_for_it(operator: Any) -> None:
    assert operator.run("content", "list").stdout == "nothing is kept\n"


def test_what_is_kept_is_listed_without_what_it_says(operator: Any, called: str) -> None:
    said = operator.run("content", "list").stdout
    assert called in said
    assert "kept text" not in said
    assert {row["part"] for row in operator.json("content", "list")} == {"arguments", "results"}
    assert operator.json("content", "list", "--agent", "writer") == []
    assert events(operator) == []


def test_whoever_looks_is_in_the_audit(operator: Any, called: str) -> None:
    said = operator.run("content", "show", called, "--by", "carol", "--reason", "complaint 7").stdout
    assert said.count("the kept text") >= 1
    [event] = events(operator)
    assert (event["name"], event["agent"]) == (called, "reader")
    assert event["reason"] == "arguments, results read by carol: complaint 7"
    assert operator.run("audit", "verify").exit_code == 0


def test_a_call_may_be_named_by_its_number(operator: Any, called: str) -> None:
    [call] = operator.json_lines("log")
    shown = operator.json("content", "show", str(call["seq"]))
    assert [each["request_id"] for each in shown] == [called, called]
    assert "the kept text" in shown[0]["content"]


def test_what_is_not_what_the_audit_says_is_told(operator: Any, called: str) -> None:
    """Somebody with the vault's key has put other words into the store: sealed well, and yet not what was said."""
    from mcp_gateway.wiring import kept_store

    store = kept_store(load(Path("servers.toml"), os.environ))
    [row, _] = store.table.of(called, 0)
    store.put([(row, b'{"text":"something else"}')], 0)
    store.table.close()
    result = operator.run("content", "show", called, exits=1)
    assert "NOT what the audit says it was: arguments" in result.stderr


def test_what_does_not_open_is_not_shown(operator: Any, called: str) -> None:
    with sqlite3.connect(operator.folder / ".mcp-gateway/kept.db") as db:
        db.execute("UPDATE kept SET agent = 'writer'")
    db.close()
    assert "cannot be opened" in operator.run("content", "show", called, exits=3).stderr


def test_what_is_purged_is_gone_and_the_audit_has_who_did_it(operator: Any, called: str) -> None:
    assert operator.run("content", "purge", "--older-than", "1h").stdout == "0 parts purged\n"
    assert operator.run("content", "purge", called, "--by", "dave").stdout == "2 parts purged\n"
    assert "nothing is kept of" in operator.run("content", "show", called, exits=1).stderr
    assert events(operator)[-1]["reason"] == "2 parts purged by dave"
    assert operator.run("audit", "verify").exit_code == 0


def test_all_can_be_purged_and_only_one_thing_at_once(operator: Any, called: str) -> None:
    operator.run("content", "purge", called, "--all", exits=2)
    assert operator.run("content", "purge", "--all").stdout == "2 parts purged\n"


def test_a_call_nobody_made_is_told(operator: Any, called: str) -> None:
    for name in ("999", "nothing"):
        assert "the audit has no call" in operator.run("content", "show", name, exits=1).stderr
