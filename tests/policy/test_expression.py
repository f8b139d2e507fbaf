"""The shape of a condition is read as CEL reads it."""

from __future__ import annotations

import pytest

from mcp_gateway.policy.expression import All, AnyOf, Choice, ConditionError, Expression, Leaf, Node, Not, plain_string


def shape(node: Node) -> str:
    match node:
        case Leaf(expression):
            return expression.text
        case Not(part):
            return f"not[{shape(part)}]"
        case All(parts):
            return "all[" + ", ".join(map(shape, parts)) + "]"
        case AnyOf(parts):
            return "any[" + ", ".join(map(shape, parts)) + "]"
        case Choice(test, yes, no):
            return f"if[{shape(test)}, {shape(yes)}, {shape(no)}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "a"),
        ("((a))", "a"),
        ("a && b || c && d", "any[all[a, b], all[c, d]]"),
        ("a && (b || c)", "all[a, any[b, c]]"),
        ("!a", "not[a]"),
        ("!!a", "a"),
        ("!(a && b)", "not[all[a, b]]"),
        ("!a == b", "!a == b"),
        ("!a.b(c == d)", "not[a.b(c == d)]"),
        ("(a || b) == c", "(a || b) == c"),
        ("a ? b : c ? d : e", "if[a, b, if[c, d, e]]"),
        ("(a ? b : c) && d", "all[if[a, b, c], d]"),
        ("l.all(x, x && y) && z", "all[l.all(x, x && y), z]"),
        ("a == '&& ) ||' && b", "all[a == '&& ) ||', b]"),
        ("a == r'\\' && b", "all[a == r'\\', b]"),
        ("a == '''x' && ''' && b", "all[a == '''x' && ''', b]"),
        ("a // && b\n&& c", "all[a, c]"),
        ("{'a': b ? c : d}.a && e", "all[{'a': b ? c : d}.a, e]"),
        ("a in [b] && -c < d", "all[a in [b], -c < d]"),
    ],
)
def test_the_booleans_are_found_as_cel_groups_them(text: str, expected: str) -> None:
    assert shape(Expression(text).tree()) == expected


@pytest.mark.parametrize("text", ["(a", "a)", "[a)", "'abc", "a # b", "a \x00"])
def test_text_that_is_not_an_expression_is_refused(text: str) -> None:
    with pytest.raises(ConditionError):
        Expression(text)


def chains(text: str) -> list[tuple[str, str | None, bool]]:
    return [(ref.text, ref.field, ref.is_lazy) for ref in Expression(text).references()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("args.amount <= claims.limit", [("args.amount", "amount", False), ("claims.limit", "limit", False)]),
        ("args['a-b'].c", [("args['a-b'].c", "a-b", False)]),
        ("args.x.size()", [("args.x", "x", False)]),
        ("args.size()", [("args", None, False)]),
        ("size(args)", [("args", None, False)]),
        ("claims.l[task.name]", [("claims.l[task.name]", "l", False), ("task.name", "name", False)]),
        ("claims.l[args.i]", [("claims.l", "l", False), ("args.i", "i", False)]),
        ("has(claims.x)", [("claims.x", "x", True)]),
        (
            "(a ? claims.x : b) == c",
            [("a", None, True), ("claims.x", "x", True), ("b", None, True), ("c", None, False)],
        ),
        ("claims.g.exists(x, x == args.a)", [("claims.g", "g", False), ("args.a", "a", True)]),
        ("x.args.y", [("x.args.y", "args", False)]),
        ("'args.a' == \"args\"", []),
    ],
)
def test_what_a_condition_reads_is_known(text: str, expected: list[tuple[str, str | None, bool]]) -> None:
    assert chains(text) == expected


@pytest.mark.parametrize(
    ("text", "power"),
    [
        ("args.l == args.m", 0),
        ("args.l.all(x, x > 0)", 1),
        ("args.l.map(x, x) == []", 2),
        ("args.l.all(x, x in args.m)", 2),
        ("args.l.all(x, args.m.all(y, x != y))", 2),
        ("claims.l.all(x, x in claims.m)", 1),
    ],
)
def test_the_cost_of_loops_is_counted(text: str, power: int) -> None:
    assert Expression(text).loops() == power


def test_string_literals_are_read_only_where_no_escape_is_in_the_way() -> None:
    assert plain_string('"a b"') == "a b"
    assert plain_string("'a\\n'") is None
    assert plain_string("r'a'") is None
    assert plain_string("'''a'''") is None
