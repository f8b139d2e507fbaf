"""`log`: readable on a narrow terminal, filtered, followed, for machines, and safe to look at."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from written import ALLOWED, DENIED, REFUSED, Writer, some_work, write

from fakes.gateway_process import MCP_GATEWAY
from mcp_gateway.cli import output
from mcp_gateway.domain import Outcome, OutcomeStatus


@pytest.fixture
def worked(operator: Any) -> Any:
    write(operator.folder, some_work)
    return operator


def names(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["name"], row["outcome"]) for row in rows]


def test_each_entry_is_one_line_oldest_first(worked: Any) -> None:
    head, *lines = worked.run("log").stdout.splitlines()
    assert head.split() == ["entry", "time", "agent", "task", "target", "result", "why", "ms"]
    cells = [line.split() for line in lines]
    assert [each[2:] for each in cells] == [
        ["reader", "read", "tools/list", "ok"],
        ["reader", "read", "files/echo", "ok", "agents.toml:11", "12"],
        ["reader", "read", "files/write", "denied", "no_grant"],
        ["writer", "read", "files/echo", "timed_out", "agents.toml:11"],
    ]
    seqs = [int(each[0]) for each in cells]
    assert seqs == sorted(seqs)


def test_an_audit_without_entries_says_so(operator: Any) -> None:
    operator.run("key", "create", "reader")
    assert operator.run("log").stdout == "no entries\n"
    assert operator.run("log", "--json").stdout == ""


def test_an_audit_that_does_not_exist_is_no_empty_one(operator: Any) -> None:
    said = operator.run("log", exits=3).stderr
    assert said.startswith("GW-STORE-UNAVAILABLE ")
    assert "audit.db does not exist: the gateway makes it when it starts" in said


def test_what_is_no_audit_is_said(operator: Any) -> None:
    (operator.folder / "audit.db").write_text("not a database, but long enough to look at\n" * 50)
    assert "GW-STORE-UNAVAILABLE" in operator.run("log", exits=3).stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--agent", "writer"], [("echo", "timed_out")]),
        (["--task", "read", "--tool", "files/wr*"], [("write", "refused")]),
        (["--tool", "echo"], [("echo", "ok"), ("echo", "timed_out")]),
        (["--decision", "denied"], [("write", "refused")]),
        (["--outcome", "timed_out"], [("echo", "timed_out")]),
        (["--search", "hello"], [("echo", "ok")]),
        (["--since", "1h", "--limit", "1"], [("echo", "timed_out")]),
        (["--agent", "nobody"], []),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else "",
)
def test_filters_choose(worked: Any, words: list[str], expected: list[tuple[str, str]]) -> None:
    assert names(worked.json_lines("log", *words)) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--decision", "maybe"], "'allowed', 'denied'"),
        (["--outcome", "fine"], "'tool_error'"),
        (["--since", "yesterday"], "such as 30d"),
        (["--limit", "0"], "greater than or equal to 1"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(worked: Any, words: list[str], said: str) -> None:
    assert said in " ".join(worked.run("log", *words, exits=2).stderr.split())


def test_events_are_what_is_no_call(worked: Any) -> None:
    async def reload(to: Writer) -> None:
        await to.note("policy", "reload", "refused: policies/agents.toml:2: unknown key 'taks'")

    write(worked.folder, reload)
    rows = worked.json_lines("log", "--events")
    assert ("policy", "reload") in [(row["kind"], row["name"]) for row in rows]
    assert "refused: policies/agents.toml:2: unknown key 'taks'" in worked.run("log", "--events").stdout


async def _long_names(to: Writer) -> None:
    long = {"agent": "customer-support-agent-eu-west", "task": "answer-ticket-with-refund"}
    await to.call("find_customer_by_email_address_v2", upstream="customer-relations", **long)
    await to.call("delete_everything_in_the_warehouse", {}, DENIED, REFUSED, upstream="warehouse", **long)


@pytest.mark.parametrize("width", [80, 100])
def test_a_narrow_terminal_loses_nothing(operator: Any, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    write(operator.folder, _long_names)
    monkeypatch.setattr(output.out, "width", width)
    lines = operator.run("log").stdout.splitlines()
    assert max(map(len, lines)) <= width
    joined = "".join("".join(line.split()) for line in lines)
    for word in ("denied", "no_grant"):
        assert word in joined
    column = lines[0].index("target"), lines[0].index("result")
    target = "".join(line[slice(*column)].strip() for line in lines[1:])
    assert target == (
        "customer-relations/find_customer_by_email_address_v2warehouse/delete_everything_in_the_warehouse"
    )


async def _hostile_names(to: Writer) -> None:
    await to.call("[red]x[/]\x1b[31m\u202e", {"a": "\x1b]0;owned\x07"}, agent="a[b]", task=":smile:")


def test_names_cannot_colour_or_turn_the_terminal(operator: Any) -> None:
    write(operator.folder, _hostile_names)
    text = operator.run("log").stdout
    assert "files/[red]x[/]\\x1b[31m\\u202e" in text
    assert "a[b]" in text
    assert ":smile:" in text
    assert text.replace("\n", "").isprintable()
    assert operator.run("log", "--json").stdout.isascii()


def test_a_call_under_way_is_shown_as_such(operator: Any) -> None:
    seen = []

    async def begin(to: Writer) -> None:
        await to.call("slow", outcome=None)
        seen.append(operator.run("log").stdout)

    write(operator.folder, begin)
    assert "files/slow  under way  agents.toml:11" in seen[0]
    assert names(operator.json_lines("log")) == [("slow", "unknown")]  # the run ended without its end


@contextmanager
def _following(folder: Path, *words: str) -> Iterator[Iterator[Any]]:
    """`log --follow` as a process, what it prints as it comes."""
    write(folder, _first)
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "100"}
    command = [*MCP_GATEWAY, "log", "--follow", *words]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environ)
    assert process.stdout is not None
    try:
        assert "first" in process.stdout.readline() + ("" if "--json" in words else process.stdout.readline())
        yield map(json.loads, process.stdout) if "--json" in words else iter(process.stdout)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def _first(to: Writer) -> None:
    await to.call("first", {}, ALLOWED, Outcome(OutcomeStatus.TIMED_OUT, {}), agent="writer")


async def _more(to: Writer) -> None:
    await to.call("second")
    await to.note("policy", "reload", "one -> two")
    await to.call("third", {}, DENIED, REFUSED, agent="writer")
    await to.call("fourth", {}, ALLOWED, Outcome(OutcomeStatus.TIMED_OUT, {}), agent="writer")


def test_following_shows_decision_and_outcome_of_each_call_as_it_ends(operator: Any) -> None:
    with _following(operator.folder) as lines:
        write(operator.folder, _more)
        found = [next(lines).split() for _ in range(3)]
    assert [line[2:] for line in found] == [
        ["reader", "read", "files/second", "ok", "agents.toml:11", "12"],
        ["writer", "read", "files/third", "denied", "no_grant"],
        ["writer", "read", "files/fourth", "timed_out", "agents.toml:11"],
    ]


def test_following_filters_by_decision_and_outcome_too(operator: Any) -> None:
    with _following(operator.folder, "--json", "--agent", "writer", "--outcome", "timed_out") as lines:
        write(operator.folder, _more)
        found = next(lines)
    assert (found["name"], found["decision"], found["outcome"]) == ("fourth", "allowed", "timed_out")
