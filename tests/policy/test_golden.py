"""Policy tests run as written, and malformed ones are named with their line."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import NOON, policy_of

from mcp_gateway.domain import Effect
from mcp_gateway.errors import PolicyInvalid
from mcp_gateway.policy.compile import compile_policy
from mcp_gateway.policy.document import case_files, from_sources, load
from mcp_gateway.policy.golden import CaseResult, run_cases

POLICIES = Path(__file__).parents[2] / "policies"
TASK = '''\
allow = ["crm/get", "prompt:crm/hello", "resource:docs/file:///a/**"]
[[tasks.work.grant]]
tools = ["billing/refund"]
when = """args.amount <= claims.limit && person == 'ann' && 'x' in tool.tags
    && tool.annotations.ok && now.getHours() < 18"""
'''


def run(tmp_path: Path, cases: str) -> list[CaseResult]:
    file = tmp_path / "a.test.toml"
    file.write_text(cases)
    return run_cases(policy_of(TASK), [file], NOON)


def test_cases_are_judged_as_calls_and_as_lists(tmp_path: Path) -> None:
    refund = (
        '[[case]]\nagent = "bot"\ntask = "work"\ntool = "billing/refund"\nclaims = { limit = 5 }\nperson = "ann"\n'
        'tags = ["x"]\nannotations = { ok = true }\n'
    )
    results = run(
        tmp_path,
        f'{refund}args = {{ amount = 5.0 }}\nexpect = "allow"\nname = "small"\n'
        f'{refund}args = {{ amount = 6 }}\nexpect = "deny"\n'
        f'{refund}expect = "depends"\n'
        f'{refund}args = {{ amount = 5 }}\nnow = 2026-01-01T19:00:00Z\nexpect = "deny"\n'
        f'{refund}expect = "allow"\n',
    )
    assert [result.passed for result in results] == [True, True, True, True, False]
    assert [result.line for result in results] == [1, 12, 22, 31, 42]
    assert results[0].name == "small"
    assert results[1].name == "bot billing/refund deny"
    assert results[4].actual.effect is Effect.DEPENDS


@pytest.mark.parametrize("tool", ["crm/get", "prompt:crm/hello", "resource:docs/file:///a/b.md", "tool:crm/get"])
def test_every_kind_of_target_can_be_asked_for(tmp_path: Path, tool: str) -> None:
    for args in ("", "args = {}\n"):
        case = f'[[case]]\nagent = "bot"\ntask = "work"\ntool = "{tool}"\nexpect = "allow"\n{args}'
        assert [result.passed for result in run(tmp_path, case)] == [True]


def test_a_case_without_a_task_is_on_the_default_one(tmp_path: Path) -> None:
    case = '[[case]]\nagent = "bot"\ntool = "crm/get"\nexpect = "deny"\n'
    assert [result.actual.reason for result in run(tmp_path, case)] == ["no_task"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[case]]\nagent = "b"\ntool = "a/b"\n', "a.test.toml:1: 'expect' is missing"),
        ('[[case]]\nagnt = "b"\n', "a.test.toml:2: unknown key 'agnt' (did you mean 'agent'?)"),
        ('[[case]]\nexpect = "yes"\n', "a.test.toml:2: 'expect' must be one of allow, deny, depends"),
        ('[[case]]\ntool = "a"\n', "a.test.toml:2: 'a' is not upstream/name"),
        ('[[case]]\ntool = "a/*"\n', "a.test.toml:2: 'a/*' is a pattern"),
        ("[[case]]\nargs = 1\n", "a.test.toml:2: 'args' must be a table"),
        ("[[case]]\ntags = [1]\n", "a.test.toml:2: 'tags' must be a list of texts"),
        ("[[case]]\nargs = { d = [2020-01-01] }\n", "a.test.toml:2: 'args' holds a date"),
        ("[[case]]\nnow = 2020-01-01T00:00:00\n", "a.test.toml:2: 'now' must be a date and time with an offset"),
        ("[case]\n", "a.test.toml:1: 'case' must be tables (write [[case]])"),
        ("[[cases]]\n", "a.test.toml:1: unknown key 'cases' (did you mean 'case'?)"),
        ("x = = 1\n", "a.test.toml:1: not valid TOML"),
    ],
)
def test_a_malformed_case_is_named_where_it_stands(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(PolicyInvalid) as caught:
        run(tmp_path, text)
    found = [str(complaint).removeprefix(f"{tmp_path}/") for complaint in caught.value.complaints]
    assert any(complaint.startswith(expected) for complaint in found), found


def test_a_file_that_cannot_be_read_is_a_complaint(tmp_path: Path) -> None:
    with pytest.raises(PolicyInvalid, match="cannot be read"):
        run_cases(policy_of(TASK), [tmp_path / "missing.test.toml"])


def test_the_repositorys_own_policies_are_what_their_tests_say() -> None:
    document = load(POLICIES)
    assert document.warnings == ()
    results = run_cases(compile_policy(document), case_files(POLICIES))
    assert [result.name for result in results if not result.passed] == []
    assert len(results) > 10


def test_a_case_can_be_about_a_task_that_was_started(tmp_path: Path) -> None:
    policy = compile_policy(
        from_sources(
            {
                "a.toml": "[agents.bot]\ntasks = ['t']\n[tasks.t]\ncontext = ['customer']\n[[tasks.t.grant]]\n"
                "tools = ['a/b']\nwhen = 'task.customer == args.customer'\n"
            }
        )
    )
    case = "[[case]]\nagent = 'bot'\ntask = 't'\ntool = 'a/b'\nargs = { customer = 1 }\n"
    path = tmp_path / "a.test.toml"
    path.write_text(
        f"{case}context = {{ customer = 1 }}\nexpect = 'allow'\n{case}context = {{ customer = 2 }}\nexpect = 'deny'\n"
        f"{case}expect = 'deny'\n"
    )
    assert [result.passed for result in run_cases(policy, [path])] == [True, True, True]


def test_a_case_can_be_about_a_model(tmp_path: Path) -> None:
    policy = compile_policy(
        from_sources({"a.toml": '[agents.a]\ntasks = ["t"]\ndefault_task = "t"\n[tasks.t.models]\nallow = ["gpt-*"]\n'})
    )
    path = tmp_path / "a.test.toml"
    cases = [("gpt-5", "allow"), ("claude-5", "deny")]
    path.write_text(
        "".join(f'[[case]]\nagent = "a"\ntool = "model:models/{name}"\nexpect = "{word}"\n' for name, word in cases)
    )
    assert [result.passed for result in run_cases(policy, [path])] == [True, True]
