"""`policy replay` and `policy suggest` on an audit that a gateway wrote."""

import json
from typing import Any

import pytest

from cli.conftest import Operator
from cli.written import ALLOWED, DENIED, REFUSED, Writer, write
from fakes.operator_files import POLICY

NARROW = POLICY.replace('allow = ["files/echo"]', 'allow = ["files/other"]')


async def a_month(to: Writer) -> None:
    await to.list()
    for n in range(30):
        await to.call("echo", {"path": "a", "size": n})
    await to.call("write", {"path": "b"}, DENIED, REFUSED)
    await to.call("echo", {"path": "c"}, ALLOWED, agent="writer", task="write")


@pytest.fixture
def month(operator: Operator) -> Operator:
    write(operator.folder, a_month)
    return operator


def test_a_replay_of_the_policy_in_force_flips_nothing(month: Operator) -> None:
    said = month.run("policy", "replay").stdout
    assert "32 decisions, 32 the same, 0 newly allowed, 0 newly denied, 0 unknown" in said


def test_a_replay_names_what_flips_and_exits_with_one(month: Operator) -> None:
    month.write({"policies/agents.toml": NARROW})
    said = month.run("policy", "replay", "--since", "7d", exits=1).stdout
    assert "allowed -> denied  30x  reader/read  files/echo  no_grant" in said
    report = month.json("policy", "replay", exits=1)
    assert (report["judged"], report["newly_denied"]) == (32, 30)
    assert report["changes"][0]["first"] > 0


def test_a_candidate_can_stand_in_another_folder_and_the_audit_too(month: Operator) -> None:
    month.write({"candidate/agents.toml": NARROW})
    (month.folder / "audit.db").rename(month.folder / "old.db")
    month.run("policy", "replay", "--against", "old.db")
    month.run("policy", "replay", "--against", "old.db", "--policies", "candidate", exits=1)


def test_what_is_in_shadow_is_judged_as_if_it_were_enforced_where_asked_for(month: Operator) -> None:
    month.write({"policies/new.toml": ""})
    denied = POLICY + '[[tasks.read.deny]]\ntools = ["files/echo"]\nmode = "shadow"\n'
    month.write({"policies/agents.toml": denied})
    month.run("policy", "replay")
    assert month.json("policy", "replay", "--shadow", exits=1)["newly_denied"] == 30


def test_what_is_unknown_fails_only_where_that_is_asked_for(operator: Operator) -> None:
    async def one(to: Writer) -> None:
        await to.call("echo", {"path": "a"})

    write(operator.folder, one, record="digest")
    conditional = POLICY.replace('allow = ["files/echo"]', "") + (
        "[[tasks.read.grant]]\ntools = ['files/echo']\nwhen = 'args.path == \"a\"'\n"
    )
    operator.write({"policies/agents.toml": conditional})
    assert operator.json("policy", "replay")["unknown"] == 1
    operator.run("policy", "replay", "--strict", exits=1)


def test_without_an_audit_there_is_nothing_to_replay(operator: Operator) -> None:
    operator.run("policy", "replay", exits=3)


def test_a_suggestion_is_a_patch_on_stdout_and_its_proof_on_stderr(month: Operator) -> None:
    result = month.run("policy", "suggest", "--agent", "reader")
    assert result.stdout.startswith("--- a/policies/agents.toml")
    assert '+when = "args.path == \\"a\\" && args.size >= 0 && args.size <= 29"' in result.stdout
    assert "none flips" in result.stderr
    assert (month.folder / "policies/agents.toml").read_text() == POLICY


def test_a_suggestion_can_be_written_and_is_then_as_narrow_as_can_be(month: Operator) -> None:
    month.run("policy", "suggest", "--agent", "writer", "--task", "write", "--tools-only", "--write")
    assert 'allow = ["files/echo"]' in (month.folder / "policies/agents.toml").read_text()
    again = month.run("policy", "suggest", "--agent", "writer", "--task", "write", "--tools-only")
    assert (again.stdout, "as narrow" in again.stderr) == ("", True)


def test_a_suggestion_as_json(month: Operator) -> None:
    found: Any = month.json("policy", "suggest", "--agent", "writer")
    assert (found["flips"], found["replay"]["judged"]) == (0, 32)
    assert json.dumps(found["patch"])


@pytest.mark.parametrize("words", [["--agent", "stranger"], ["--agent", "reader", "--task", "write"]])
def test_who_is_not_there_cannot_be_narrowed(month: Operator, words: list[str]) -> None:
    month.run("policy", "suggest", *words, exits=2)
