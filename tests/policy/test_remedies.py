"""What would have to change: the places that decide, and nothing for what is allowed."""

from typing import Any

from asking import NOON, caller, policy_of, request, target

from mcp_gateway.domain import Caller, Verb
from mcp_gateway.policy.explain import explain

MORE = {"more.toml": '[agents.two]\ntasks = ["work", "pay"]\n[tasks.pay]\nallow = ["bank/*"]\n'}
LINES = """
allow = ["crm/*"]
[[tasks.work.grant]]
tools = ["bank/refund"]
when = "args.amount <= 50 && claims.level == 'high'"
[[tasks.work.deny]]
tools = ["crm/drop"]
[[tasks.work.deny]]
tools = ["crm/*"]
when = "args.all == true"
"""


def told(key: str, args: Any = None, who: Caller | None = None) -> tuple[str, ...]:
    asked = request(Verb.CALL, args or {})
    return explain(policy_of(LINES, **MORE), who or caller(), asked, target(key), NOON).remedies


def test_nothing_has_to_change_for_what_is_allowed_or_does_not_exist() -> None:
    assert told("crm/get", {"all": False}) == ()
    assert explain(policy_of(LINES), caller(), request(Verb.CALL, {}), None, NOON).remedies == ()


def test_a_false_condition_names_the_parts_that_made_it_so() -> None:
    assert told("bank/refund", {"amount": 90}, caller(level="high")) == (
        "the grant at policy.toml:6 would have to be true: `args.amount <= 50` is false",
    )


def test_a_condition_that_cannot_be_evaluated_names_what_is_missing() -> None:
    [remedy] = told("bank/refund", {"amount": 5})
    assert "`claims.level == 'high'` cannot be evaluated ('level' is not there)" in remedy


def test_a_missing_scope_is_named_and_a_condition_that_holds_is_not_in_the_way() -> None:
    lines = """
[[tasks.work.grant]]
tools = ["bank/*"]
when = "args.amount <= 50"
[[tasks.work.grant]]
tools = ["bank/refund"]
scopes = ["refund", "read", "write"]
when = "!(args.amount > 90)"
[[tasks.work.grant]]
tools = ["bank/refund"]
scopes = ["admin"]
when = "args.amount > 99"
"""

    def why(who: Caller, amount: int) -> tuple[str, ...]:
        asked = request(Verb.CALL, {"amount": amount})
        return explain(policy_of(lines), who, asked, target("bank/refund"), NOON).remedies

    small = "the grant at policy.toml:5 would have to be true: `args.amount <= 50` is false"
    huge = "the grant at policy.toml:12 would have to be true: `args.amount > 99` is false"
    assert why(caller(scope="read"), 70) == (
        "the token would need the scopes refund write, for the grant at policy.toml:8",
        small,
        f"the token would need the scope admin, and {huge}",
    )
    assert why(caller(scope="admin read refund write"), 95)[2] == huge
    assert why(caller(scope="read"), 20) == ()


def test_a_deny_names_what_would_have_to_be_false_and_only_then_the_grants() -> None:
    assert told("crm/get", {"all": True}) == (
        "the deny at policy.toml:11 would have to be false: `args.all == true` is true",
    )
    assert told("crm/drop", {"all": False}) == ("the deny at policy.toml:9 would have to go: it has no condition",)


def test_what_no_line_allows_names_the_task_and_other_tasks_that_do() -> None:
    assert told("bank/pay") == ("a line of [tasks.work] would have to allow 'bank/pay'",)
    assert told("bank/pay", who=Caller("two", "work")) == (
        "a line of [tasks.work] would have to allow 'bank/pay'",
        "the agent would have to be on its task 'pay', which has a grant for it",
    )


def test_strangers_and_tasks_of_others_are_told_where_they_would_be_named() -> None:
    assert told("bank/pay", who=Caller("nobody", "work")) == ("a policy would have to name the agent: [agents.nobody]",)
    assert told("bank/pay", who=Caller("bot", "pay")) == ("'pay' would have to be among the tasks of [agents.bot]",)
    assert told("bank/pay", who=Caller("two", None)) == (
        "the agent would have to be on its task 'pay', which has a grant for it",
    )


def test_lines_in_shadow_are_shown_apart() -> None:
    policy = policy_of("allow = ['crm/get']\n[[tasks.work.deny]]\ntools = ['crm/*']\nmode = 'shadow'\n")
    explanation = explain(policy, caller(), request(Verb.CALL, {}), target("crm/get"), NOON)
    assert [line.at for line in explanation.lines] == ["policy.toml:4"]
    [line] = explanation.in_shadow
    assert (line.at, line.effect, line.decided) == ("policy.toml:5", "deny (in shadow)", True)
    assert "in shadow: denied by policy.toml:5" in explanation.to_lines()
