"""An explanation says the decision, every line's part in it, and who else could."""

from __future__ import annotations

import json

from asking import NOON, call, caller, policy_of, request, target

from mcp_gateway.domain import Effect, Verb
from mcp_gateway.policy.compile import Policy
from mcp_gateway.policy.explain import Explanation, explain

TASK = """\
allow = ["crm/get"]
[[tasks.work.grant]]
tools = ["billing/refund"]
when = "args.amount <= claims.limit && agent.name == 'bot'"
[[tasks.work.deny]]
tools = ["*"]
when = "claims.suspended == true"
reason = "suspended"
"""
OTHERS = "[agents.chief]\ntasks = ['all', 'none']\n[tasks.all]\nallow = ['billing/*']\n[tasks.none]\n"


def policy() -> Policy:
    return policy_of(TASK, **{"z.toml": OTHERS})


def explained(args: dict[str, object], **claims: object) -> Explanation:
    return explain(policy(), caller(**claims), request(Verb.CALL, args), target("billing/refund"), NOON)


def test_each_line_is_told_with_its_part() -> None:
    told = explained({"amount": 9}, limit=5, suspended=False)
    assert [(line.effect, line.at, line.matched, line.value, line.decided) for line in told.lines] == [
        ("deny", "policy.toml:8", "*", "false", False),
        ("grant", "policy.toml:4", "", "", False),
        ("grant", "policy.toml:5", "billing/refund", "false", True),
    ]
    assert [(part.text, part.value, part.decided) for part in told.lines[2].parts] == [
        ("args.amount <= claims.limit", "false", True),
        ("agent.name == 'bot'", "true", False),
    ]


def test_the_decision_is_the_one_that_decide_makes() -> None:
    told = explained({"amount": 4}, limit=5, suspended=False)
    assert told.decision == call(policy(), "billing/refund", {"amount": 4}, caller(limit=5, suspended=False))


def test_what_could_not_be_evaluated_says_why() -> None:
    told = explained({"amount": 4}, limit=5)
    text = "\n".join(told.to_lines())
    assert "denied (deny_unevaluable) by policy.toml:8" in text
    assert "because: suspended" in text
    assert "claims.suspended == true  ->  cannot be evaluated: 'suspended' is not there" in text


def test_it_says_who_else_could() -> None:
    told = explained({"amount": 9}, limit=5, suspended=False)
    assert [(other.agent, other.task, other.effect) for other in told.others] == [("chief", "all", Effect.ALLOWED)]
    assert "could: chief on task all (allowed)" in told.to_lines()


def test_a_list_is_told_with_what_it_depends_on() -> None:
    told = explain(policy(), caller(limit=5, suspended=False), request(Verb.LIST), target("billing/refund"), NOON)
    assert told.decision.effect is Effect.DEPENDS
    assert told.lines[2].parts[0].value.startswith("depends on the arguments")


def test_machines_can_read_it() -> None:
    told = explained({"amount": 9}, limit=5, suspended=False).to_dict()
    assert json.loads(json.dumps(told)) == told | {"lines": json.loads(json.dumps(told["lines"]))}
    assert told["decision"]["reason"] == "condition_false"
    assert told["lines"][2]["parts"][0]["decided"] is True


def test_an_unknown_target_and_an_unknown_agent_are_told_too() -> None:
    unknown = explain(policy(), caller(), request(Verb.CALL), None, NOON)
    assert (unknown.target, unknown.lines, unknown.others) == ("", (), ())
    assert "a target that nobody offers" in unknown.to_lines()[0]
    stranger = explain(policy(), caller("stranger"), request(Verb.CALL), target("crm/get"), NOON)
    assert stranger.lines == ()
    assert [(other.agent, other.task) for other in stranger.others] == []
