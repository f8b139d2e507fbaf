"""What is odd in a valid policy is named with its place; what is in order is not."""

from typing import Any

import pytest

from mcp_gateway.domain import Json, Kind, Target
from mcp_gateway.policy.compile import compile_policy
from mcp_gateway.policy.document import from_sources
from mcp_gateway.policy.lint import lint

SCHEMA = {
    "type": "object",
    "properties": {
        "amount": {"type": "integer", "minimum": 1, "maximum": 500},
        "currency": {"type": "string", "enum": ["EUR", "USD"]},
        "note": {"type": "string"},
        "any": {},
    },
    "required": ["amount", "currency"],
    "additionalProperties": False,
}


def target(name: str, kind: Kind = Kind.TOOL, **raw: Any) -> Target:
    return Target(kind, "bank", name, name, raw, "", raw=raw)


THERE = [
    target("refund", inputSchema=SCHEMA),
    target("read", inputSchema={"type": "object"}),
    target("greet", Kind.PROMPT),
]


def found(lines: str, there: list[Target] = THERE) -> list[tuple[str, int]]:
    text = '[agents.bot]\ntasks = ["t"]\n[tasks.t]\n' + lines
    policy = compile_policy(from_sources({"a.toml": text}))
    return [(each.code.removeprefix("GW-LINT-"), each.line) for each in lint(policy, there, ["bank"]) if each.line]


def grant(when: str) -> str:
    return f"[[tasks.t.grant]]\ntools = ['bank/refund']\nwhen = '''{when}'''\n"


def deny(when: str) -> str:
    return f"allow = ['bank/*']\n[[tasks.t.deny]]\ntools = ['bank/refund']\nwhen = '''{when}'''\n"


def test_a_policy_in_order_has_no_findings() -> None:
    assert found("allow = ['bank/re*', 'prompt:bank/greet']\n") == []


@pytest.mark.parametrize("pattern", ["bank/refnud", "bank/delete_*", "prompt:bank/bye"])
def test_a_pattern_that_matches_nothing_is_named(pattern: str) -> None:
    assert found(f"allow = ['bank/refund', '{pattern}']\n") == [("NO-MATCH", 4)]


def test_nothing_is_said_of_upstreams_that_were_not_asked_and_of_uris_that_templates_may_stand_for() -> None:
    assert found("allow = ['other/x']\n") == []
    assert found("routes = { allow = ['bank: GET /v1/**'] }\n") == []
    assert found("allow = ['resource:bank/f:///a']\n", [*THERE, target("f:///{x}", Kind.TEMPLATE)]) == []
    assert found("allow = ['resource:bank/f:///a']\n") == [("NO-MATCH", 4)]


def test_a_grant_that_a_deny_covers_is_named() -> None:
    lines = "allow = ['bank/refund', 'bank/read']\n[[tasks.t.deny]]\ntools = ['bank/ref*']\n"
    assert found(lines) == [("SHADOWED", 4)]
    assert found(lines.replace("ref*']", "ref*']\nwhen = 'args.amount > 5'")) == []


@pytest.mark.parametrize(
    "when",
    [
        'args.amount == "50"',
        '"50" == args.amount',
        "args.currency == 5",
        'args.currency == "GBP"',
        'args.currency in ["GBP", "CHF"]',
        "args.amount > 500",
        "args.amount < 1",
        "0 > args.amount",
        "args.amonut < 50",
        "args.note == true",
        'args.amount <= 50 && args.currency == "GBP"',
    ],
)
def test_a_condition_that_no_arguments_can_meet_is_named(when: str) -> None:
    assert found(grant(when)) == [("NEVER", 4)]


@pytest.mark.parametrize(
    "when",
    [
        "args.amount <= 50",
        'args.currency == "EUR"',
        'args.currency in ["GBP", "EUR"]',
        "args.amount <= 50.5",
        "args.any == 5",
        "args.amount >= 500",
        'args.note.startsWith("x")',
        'claims.level == "high"',
    ],
)
def test_a_condition_that_some_arguments_meet_is_not(when: str) -> None:
    assert found(grant(when)) == []


def test_a_condition_over_several_tools_is_named_only_if_it_fits_none() -> None:
    lines = grant("args.amonut < 50").replace("bank/refund", "bank/re*")
    assert found(lines) == []


@pytest.mark.parametrize("when", ["claims.blocked == true", 'args.note == "x"', "args.note.size() > 5"])
def test_a_deny_that_falls_upon_whoever_lacks_a_field_is_named(when: str) -> None:
    assert found(deny(when)) == [("MISSING", 5)]


@pytest.mark.parametrize(
    "when", ["has(claims.blocked) && claims.blocked == true", 'has(args.note) && args.note == "x"', "args.amount > 5"]
)
def test_a_deny_that_asks_first_is_not(when: str) -> None:
    assert found(deny(when)) == []


def test_a_grant_that_forbids_by_a_claim_is_named() -> None:
    assert found(grant('claims.team != "guest"')) == [("MISSING", 4)]
    assert found(grant('!has(claims.team) || claims.team != "guest"')) == []


def test_a_task_that_nobody_is_on_is_named() -> None:
    assert found("allow = ['bank/refund']\n[tasks.unused]\n") == [("NOBODY", 5)]


def test_tools_that_no_task_can_use_are_named_together() -> None:
    policy = compile_policy(from_sources({"a.toml": '[agents.b]\ntasks=["t"]\n[tasks.t]\nallow = ["bank/read"]\n'}))
    more: list[Target] = [target(f"x{n}") for n in range(9)]
    [finding] = [each for each in lint(policy, [*THERE, *more], ["bank"]) if each.code == "GW-LINT-UNREACHABLE"]
    assert finding.message == "no task can use refund, x0, x1, x2, x3 and 5 more of 'bank'"


def test_a_schema_of_another_shape_stops_nothing() -> None:
    odd: Json = {"type": "object", "properties": {"amount": True, "currency": {"type": 5, "enum": 5}}}
    assert found(grant('args.amount == 5 && args.currency == "x"'), [target("refund", inputSchema=odd)]) == []
