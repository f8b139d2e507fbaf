"""`task`: started, listed, shown, extended, ended; the token is shown once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mcp_gateway.identity.started import StartedTasks

POLICY = """
[agents.bot]
tasks = ["ticket"]

[tasks.ticket]
ttl = "2h"
context = ["customer", "vip", "name_of_it"]
allow = ["files/echo"]
"""
ABOUT = ("--set", "customer=42", "--set", "vip=true", "--set", "name_of_it=a=b")


@pytest.fixture
def started(operator: Any) -> Any:
    operator.write({"policies/agents.toml": POLICY})
    return operator


def test_the_token_alone_is_on_stdout_and_values_are_what_they_look_like(started: Any) -> None:
    result = started.run("task", "start", "bot", "ticket", *ABOUT, "--for", "30m", "--person", "carol", "--calls", "5")
    tasks = StartedTasks(started.folder / ".mcp-gateway")
    found = tasks.verify(result.stdout.strip(), datetime.now(UTC))
    assert found is not None
    assert (found.context, found.person, found.budget.calls) == (
        {"customer": 42, "vip": True, "name_of_it": "a=b"},
        "carol",
        5,
    )
    assert timedelta(minutes=29) < found.expires - datetime.now(UTC) <= timedelta(minutes=30)
    assert f"the task's id is {found.id}." in result.stderr
    tasks.close()


def test_a_task_goes_through_its_life(started: Any) -> None:
    assert started.run("task", "list").stdout == "no task is under way: mcp-gateway task start AGENT TASK\n"
    made = started.json("task", "start", "bot", "ticket", *ABOUT)
    task_id = made["id"]
    assert made["token"].split("_")[1] == task_id
    lines = started.run("task", "list").stdout
    assert made["token"] not in lines
    assert f"{task_id}  bot" in lines
    assert "customer=42 vip=True" in lines
    assert started.json("task", "show", task_id)["used"]["calls"] == 0
    assert "customer=42" in started.run("task", "show", task_id).stdout
    assert started.json("task", "extend", task_id, "--for", "2h")["expires"] > made["expires"]
    assert started.run("task", "end", task_id).stdout == f"ended {task_id}\n"
    started.run("task", "end", task_id, exits=1)
    started.run("task", "extend", task_id, "--for", "1h", exits=1)
    started.run("task", "revoke", task_id, exits=1)
    other = started.json("task", "start", "bot", "ticket", *ABOUT)["id"]
    assert started.json("task", "revoke", other)["state"] == "revoked"
    assert [task["state"] for task in started.json("task", "list", "--all")] == ["ended", "revoked"]
    told = [row["reason"] for row in started.json_lines("log", "--events") if row["kind"] == "task"]
    assert told == ["started", "extended", "ended", "started", "revoked"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("stranger", "ticket"), "no policy names the agent 'stranger'"),
        (("bot", "other"), "agent 'bot' has no task 'other'"),
        (("bot", "ticket", "--set", "customer=1"), "is about some"),
        (("bot", "ticket", *ABOUT, "--for", "3h"), "at most"),
        (("bot", "ticket", *ABOUT, "--set", "x"), "'x' is not NAME=VALUE"),
        (("bot", "ticket", *ABOUT, "--calls", "0"), "must be more than 0"),
    ],
)
def test_what_cannot_be_started_says_why(started: Any, words: tuple[str, ...], said: str) -> None:
    result = started.run("task", "start", *words, exits=2)
    assert said in result.stderr
    assert result.stdout == ""
