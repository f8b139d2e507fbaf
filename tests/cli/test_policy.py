"""`policy test`: the operator's own cases, run."""

from typing import Any

CASE = """
[[case]]
name = "a reader reads"
agent = "reader"
tool = "files/echo"
expect = "allow"
"""

WRONG = """
[[case]]
name = "a reader [red]writes[/]"
agent = "reader"
tool = "files/write"
expect = "allow"
"""


def test_cases_that_hold_are_counted(operator: Any) -> None:
    operator.write({"policies/a.test.toml": CASE})
    assert operator.run("policy", "test").stdout == "1 passed, 0 failed\n"
    assert operator.json("policy", "test") == {"passed": 1, "failed": []}


def test_a_case_that_fails_names_its_line_and_what_the_policy_says(operator: Any) -> None:
    operator.write({"policies/a.test.toml": CASE + WRONG})
    assert operator.run("policy", "test", exits=1).stdout == (
        "failed policies/a.test.toml:8: a reader [red]writes[/]\n"
        "       expected allow, the policy says denied (no_grant)\n"
        "1 passed, 1 failed\n"
    )
    [failed] = operator.json("policy", "test", exits=1)["failed"]
    assert (failed["line"], failed["effect"], failed["reason"]) == (8, "denied", "no_grant")


def test_no_cases_at_all_is_said(operator: Any) -> None:
    result = operator.run("policy", "test")
    assert "there are no cases in" in result.stderr
    assert result.stdout == "0 passed, 0 failed\n"


def test_a_case_that_cannot_be_run_is_a_complaint(operator: Any) -> None:
    operator.write({"policies/a.test.toml": CASE.replace('"allow"', '"maybe"')})
    assert "policies/a.test.toml:6: " in operator.run("policy", "test", exits=2).stderr


def test_a_broken_policy_is_a_complaint(operator: Any) -> None:
    operator.write({"policies/agents.toml": '[tasks.read]\nallow = ["no slash"]\n'})
    assert "policies/agents.toml:2: " in operator.run("policy", "test", exits=2).stderr
