"""`key`: shown once, listed, revoked; and written down."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mcp_gateway.identity.keys import Keys


def keys_of(operator: Any) -> Keys:
    return Keys(operator.folder / ".mcp-gateway")


def test_the_key_alone_is_on_stdout_and_the_rest_is_told_beside_it(operator: Any) -> None:
    result = operator.run("key", "create", "reader")
    token = result.stdout.strip()
    record = keys_of(operator).verify(token, datetime.now(UTC))
    assert record is not None
    assert record.agent == "reader"
    assert f"Shown once. It identifies the agent reader until it is revoked; its id is {record.public_id}." in (
        result.stderr
    )


def test_a_key_can_expire(operator: Any) -> None:
    made = operator.json("key", "create", "reader", "--expires", "30d")
    left = datetime.fromisoformat(made["expires"]) - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)
    assert made["state"] == "valid"
    assert made["key"].split("_")[1] == made["id"]


def test_the_list_shows_every_key_and_never_the_key(operator: Any) -> None:
    assert operator.run("key", "list").stdout == "no keys yet: mcp-gateway key create AGENT\n"
    first, second = (operator.json("key", "create", agent) for agent in ("reader", "writer"))
    operator.run("key", "revoke", first["id"])
    text = operator.run("key", "list").stdout
    assert first["key"] not in text
    lines = [line.split() for line in text.splitlines()]
    assert lines[1][0:2] == [first["id"], "reader"]
    assert lines[1][-1] == "revoked"
    assert lines[2][0] == second["id"]
    assert lines[2][-2:] == ["never", "valid"]
    assert [(key["id"], key["state"]) for key in operator.json("key", "list")] == [
        (first["id"], "revoked"),
        (second["id"], "valid"),
    ]


def test_a_key_for_an_agent_nobody_named_is_made_with_a_warning(operator: Any) -> None:
    said = operator.run("key", "create", "stranger").stderr
    assert "warning no policy names the agent 'stranger', so this key may do nothing yet" in said
    assert "fix: add [agents.stranger] to a file in policies" in said


def test_a_broken_policy_is_no_reason_to_doubt_a_name(operator: Any) -> None:
    operator.write({"policies/agents.toml": "x"})
    assert "warning" not in operator.run("key", "create", "reader").stderr


@pytest.mark.parametrize("words", [["not a name"], ["reader", "--expires", "soon"], ["reader", "--expires", "0d"]])
def test_what_cannot_be_is_refused_and_makes_no_key(operator: Any, words: list[str]) -> None:
    assert "Invalid value" in operator.run("key", "create", *words, exits=2).stderr
    assert operator.json("key", "list") == []


@pytest.mark.parametrize("form", ["id", "key"])
def test_a_key_is_revoked_by_its_id_or_by_itself(operator: Any, form: str) -> None:
    made = operator.json("key", "create", "reader")
    assert operator.run("key", "revoke", made[form]).stdout == f"revoked {made['id']}\n"
    assert keys_of(operator).verify(made["key"], datetime.now(UTC)) is None


def test_a_key_nobody_has_cannot_be_revoked(operator: Any) -> None:
    said = operator.run("key", "revoke", "no\x1b[31msuch", exits=1).stderr
    assert said == "no valid key has the id no\\x1b[31msuch; see mcp-gateway key list\n"
    assert operator.json("key", "revoke", "nosuch", exits=1) == {"id": "nosuch", "revoked": False}


def test_a_revoked_key_is_not_revoked_again(operator: Any) -> None:
    made = operator.json("key", "create", "reader")
    assert operator.json("key", "revoke", made["id"]) == {"id": made["id"], "revoked": True}
    operator.run("key", "revoke", made["id"], exits=1)


def test_keys_are_written_down(operator: Any) -> None:
    made = operator.json("key", "create", "reader")
    operator.run("key", "revoke", made["id"])
    events = [event for event in operator.json_lines("log", "--events") if event["kind"] == "key"]
    assert [(event["name"], event["agent"], event["reason"]) for event in events] == [
        (made["id"], "reader", "created"),
        (made["id"], None, "revoked"),
    ]


def test_no_key_is_made_while_the_audit_cannot_be_written(operator: Any) -> None:
    operator.json("key", "create", "reader")
    with closing(sqlite3.connect(operator.folder / "audit.db", isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        result = operator.run("key", "create", "reader", exits=3)
    assert "GW-STORE-UNAVAILABLE" in result.stderr
    assert result.stdout == ""
    assert len([key for key in operator.json("key", "list") if key["state"] == "valid"]) == 1


def test_a_state_folder_others_can_write_is_refused(operator: Any) -> None:
    (operator.folder / ".mcp-gateway").mkdir(mode=0o777)
    (operator.folder / ".mcp-gateway").chmod(0o777)
    assert "GW-STORE-UNAVAILABLE" in operator.run("key", "create", "reader", exits=3).stderr
