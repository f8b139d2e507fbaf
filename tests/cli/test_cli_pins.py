"""`pins`: what is approved and what waits, without and with a running gateway's word."""

import json
import sys
from pathlib import Path

import pytest

from cli.conftest import Operator
from mcp_gateway.config.lock import read_lock

SERVER = Path(__file__).parents[1] / "fakes" / "changing_stdio.py"


def tool(name: str, description: str = "does it") -> dict[str, object]:
    return {"name": name, "description": description, "inputSchema": {"type": "object"}}


@pytest.fixture
def asked(operator: Operator) -> Operator:
    """A folder with one server that asks for approval of everything."""
    offer(operator, tool("send"), tool("read", "line one\nline two \u202e"))
    command = [sys.executable, str(SERVER), str(operator.folder / "mail.json")]
    operator.write({"servers.toml": f'[servers.mail]\ncommand = {command!r}\ntrust = "ask"\n'})
    return operator


def offer(operator: Operator, *tools: dict[str, object]) -> None:
    (operator.folder / "mail.json").write_text(json.dumps({"tools": tools}))


def test_what_waits_can_be_asked_for_without_a_gateway_and_approved_into_the_file(asked: Operator) -> None:
    said = asked.run("pins", "list", "--ask", exits=1).stdout
    assert "servers.lock approves nothing yet" in said
    assert "held  mail/read@" in said
    assert "text direction changed" in said
    asked.run("pins", "approve", "--all", "--ask")
    assert sorted(read_lock(asked.folder / "servers.lock").upstreams["mail"].pins) == ["tool:read", "tool:send"]
    assert asked.json("pins", "list", "--ask")["held"] == []


def test_a_diff_shows_lines_and_spells_out_what_is_invisible(asked: Operator) -> None:
    asked.run("pins", "approve", "mail", "--ask")
    offer(asked, tool("send"), tool("read", "line one\nline three"))
    said = asked.run("pins", "diff", "--ask").stdout
    assert '-description = "line two \\u202e"' in said
    assert '+description = "line three"' in said
    assert "line one" in said  # what stands around it


def test_a_rejected_definition_is_not_asked_about_again(asked: Operator) -> None:
    asked.run("pins", "reject", "mail/read", "--ask")
    [waits] = asked.json("pins", "diff", "--ask")
    assert waits["target"] == "mail/send"
    asked.run("pins", "approve", "--all", "--ask")
    assert list(read_lock(asked.folder / "servers.lock").upstreams["mail"].pins) == ["tool:send"]
    assert asked.json("pins", "list", "--ask")["held"][0]["why"] == "rejected"  # and the exit code is 0


def test_an_approved_definition_can_be_taken_back(asked: Operator) -> None:
    asked.run("pins", "approve", "--all", "--ask")
    asked.run("pins", "reject", "mail/send")
    assert list(read_lock(asked.folder / "servers.lock").upstreams["mail"].pins) == ["tool:read"]


def test_a_rename_takes_the_place_of_the_old_name(asked: Operator) -> None:
    asked.run("pins", "approve", "--all", "--ask")
    offer(asked, tool("deliver"), tool("read", "line one\nline two \u202e"))
    assert "renamed from mail/send" in asked.run("pins", "list", "--ask", exits=1).stdout
    asked.run("pins", "approve", "mail/deliver", "--ask")
    assert sorted(read_lock(asked.folder / "servers.lock").upstreams["mail"].pins) == ["tool:deliver", "tool:read"]


@pytest.mark.parametrize(
    "words", [["approve"], ["approve", "mail/absent"], ["approve", "mail/send@00000000"], ["reject", "mail/absent"]]
)
def test_what_does_not_wait_cannot_be_decided(asked: Operator, words: list[str]) -> None:
    asked.run("pins", *words, "--ask", exits=2)
    assert not (asked.folder / "servers.lock").exists()


def test_without_a_gateway_s_word_nothing_waits(asked: Operator) -> None:
    asked.run("pins", "list")
    assert "nothing waits" in asked.run("pins", "diff").stdout


def test_an_upstream_that_cannot_be_asked_is_named(operator: Operator) -> None:
    operator.write({"servers.toml": '[servers.gone]\ncommand = ["/nowhere/at-all"]\n'})
    assert "upstream 'gone' cannot be asked" in operator.run("pins", "list", "--ask").stderr
