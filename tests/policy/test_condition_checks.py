"""What can only be a mistake in a condition is complained about before it runs."""

from __future__ import annotations

import pytest

from mcp_gateway.policy.condition_checks import FIELDS, check
from mcp_gateway.policy.expression import ConditionError


def problems(text: str) -> list[str]:
    with pytest.raises(ConditionError) as caught:
        check(text)
    return [f"{problem.message} ({problem.fix})" for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "not valid CEL"),
        ("args.a <", "mismatched input '<EOF>' (line 1, character 9)"),
        ("arg.a == 1", "unknown name 'arg' (did you mean 'args'?)"),
        ("agent == 'bot'", "write agent.name"),
        ("agent.nam == 'x'", "did you mean 'name'?"),
        ("tool.annotation.x", "did you mean 'annotations'?"),
        ("person.name == 'x'", "write person"),
        ("now.x == 1", "'now' has no fields"),
        ("args.a.startWith('x')", "did you mean 'startsWith'?"),
        ("foo(args.a)", "unknown function foo()"),
        ("args.l.all(x)", "all() needs a name and a condition"),
        ("args.l.all(args, true)", "'args' is taken"),
        ("[1].all(x, y > 0)", "unknown name 'y'"),
        ("args.a.matches(args.b)", "must be written out"),
        ("args.a.matches('a' + 'b')", "must be written out"),
        ("matches(args.a, args.b)", "must be written out"),
        ("args.a.matches('(')", "unclosed group"),
        ("args.a.matches('\\\\w{100}')", "too costly"),
        ("args.a.matches('" + "a" * 300 + "')", "256 characters"),
        ("args.a == 1 && " + " && ".join(["args.l.all(x, true)"] * 5), "4 loops"),
        (".args.a == 1", "selects from nothing"),
        ("Foo{a: 1} == 1", "messages do not exist"),
        ("x" * 3000, "2000 characters"),
        ("(" * 40 + "true" + ")" * 40, "nest deeper"),
    ],
)
def test_a_mistake_is_named_with_its_fix(text: str, part: str) -> None:
    found = problems(text)
    assert any(part in problem for problem in found), found


def test_every_problem_is_named_not_only_the_first() -> None:
    assert len(problems("arg.a == 1 && foo(agent)")) == 3


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "args.amount <= claims.approval_limit && args.currency == 'EUR'",
        "tool.annotations.destructiveHint == true && 'x' in tool.tags && tool.upstream == 'a' && tool.name == 'b'",
        "request.era == 'modern' && request.transport == 'http' && request.method == 'tools/call'",
        "person == null || person.endsWith('@example.com')",
        "now > timestamp('2026-01-01T00:00:00Z') && now.getHours() < 18 && now - duration('1h') < now",
        "args.l.filter(x, x > 1).map(y, y * 2).exists_one(z, z == 4)",
        "type(args.a) == string && args.a.matches('^[a-z]{1,64}$')",
        "args['a-b'] == \"c\" // why",
        "has(args.a) ? args.a : false",
    ],
)
def test_what_is_right_passes(text: str) -> None:
    assert check(text).text == text


def test_conditions_see_what_the_design_promises() -> None:
    assert set(FIELDS) == {"args", "agent", "person", "task", "claims", "tool", "request", "now"}
