"""Conditions have three values, sets of them where arguments are not known, and end in bounded time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

import pytest
from asking import scope
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.policy.conditions import (
    ANYTHING,
    ERROR,
    FALSE,
    TRUE,
    LeafTrace,
    Values,
    _combine,
    compile_condition,
    describe,
)


def value(text: str, args: Mapping[str, Any] | None, **claims: Any) -> Values:
    return compile_condition(text).values(scope(args, **claims))


@pytest.mark.parametrize("amount", [99, 99.0, 99.5, -1, 0, 1e-9])
@pytest.mark.parametrize("limit", ["100", "100.0", "100u"])
def test_numbers_compare_as_numbers(amount: float, limit: str) -> None:
    assert value(f"args.amount < {limit}", {"amount": amount}) == TRUE
    assert value(f"args.amount >= {limit}", {"amount": amount}) == FALSE


@pytest.mark.parametrize(
    "text", ["args.n == 100", "args.n == 100.0", "args.n in [100]", "args.n + 1 == 101", "args.n % 3 == 1"]
)
def test_a_whole_number_is_the_same_number_however_it_is_written(text: str) -> None:
    assert value(text, {"n": 100}) == value(text, {"n": 100.0}) == TRUE
    assert value(f"args.l.all(x, {text.replace('args.n', 'x')})", {"l": [100.0]}) == TRUE


def test_a_large_id_is_not_confused_with_its_neighbours() -> None:
    assert value("args.id == 1234567890123456789", {"id": 1234567890123456789}) == TRUE
    assert value("args.id == 1234567890123456789", {"id": 1234567890123456800.0}) == FALSE


@pytest.mark.parametrize("odd", ["5", None, [], {}, True, float("nan"), 10**400])
def test_a_wrong_type_is_never_a_small_number(odd: Any) -> None:
    assert value("args.amount < 100", {"amount": odd}) in (ERROR, FALSE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("args.missing == 1", ERROR),
        ("args.missing == 1 || true", TRUE),
        ("false && args.missing == 1", FALSE),
        ("args.missing == 1 && false", FALSE),
        ("true && args.missing == 1", ERROR),
        ("!(args.missing == 1)", ERROR),
        ("args.missing ? true : true", ERROR),
        ("args.text", ERROR),
        ("args.text || true", TRUE),
        ("1 / 0 == 1", ERROR),
        ("9223372036854775807 + 1 > 0", ERROR),
        ("has(args.missing)", FALSE),
        ("person == null", TRUE),
        ("tool.tags == ['a', 'b']", TRUE),
        ("now == timestamp('2026-03-02T12:00:00Z')", TRUE),
        ("args.deep.all(k, k == 'x')", TRUE),
    ],
)
def test_what_cannot_be_evaluated_is_neither_true_nor_false(text: str, expected: Values) -> None:
    assert value(text, {"text": "x", "deep": {"x": [1]}}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("args.a < 100", ANYTHING),
        ("agent.name == 'ops' && args.a < 100", FALSE),
        ("agent.name == 'bot' && args.a < 100", ANYTHING),
        ("agent.name == 'bot' || args.a < 100", TRUE),
        ("agent.name == 'ops' || args.a < 100", ANYTHING),
        ("claims.missing == 1 && args.a < 100", FALSE | ERROR),
        ("claims.missing == 1 || args.a < 100", TRUE | ERROR),
        ("args.a <= claims.missing", ERROR),
        ("args.a <= claims.limit", ANYTHING),
        ("args.a <= claims.limits[task.name]", ERROR),
        ("has(claims.missing) && args.a <= claims.missing", FALSE),
        ("(has(claims.missing) ? claims.missing : 5) > args.a", ANYTHING),
        ("claims.missing.exists(x, x == args.a)", ERROR),
        ("args.l.exists(x, x == claims.missing)", ANYTHING),
        ("args.a ? agent.name == 'bot' : claims.limit == 10", TRUE | ERROR),
        ("args.a ? agent.name == 'ops' : claims.limit == 10", ANYTHING),
        ("agent.name == 'bot' ? args.a == 1 : true", ANYTHING),
        ("!(agent.name == 'ops' && args.a == 1)", TRUE),
    ],
)
def test_without_arguments_a_condition_is_every_value_some_arguments_give(text: str, expected: Values) -> None:
    assert value(text, None, limit=10) == expected


LEAVES = ["args.a == 1", "args.b == 1", "claims.t", "claims.f", "claims.missing", "args.a <= claims.missing"]
expressions = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} ? {p[1]} : {p[2]})"),
        inner.map(lambda text: f"!({text})"),
    ),
    max_leaves=6,
)
ARGS = [dict(zip("ab", pair, strict=True)) for pair in itertools.product([1, 2, "x"], repeat=2)] + [{}, {"a": 1}]


@given(expressions)
def test_the_parts_put_together_are_what_cel_says_of_the_whole(text: str) -> None:
    condition = compile_condition(text)
    for args in ARGS:
        seen = scope(args, t=True, f=False)
        leaves = {part: leaf.values(seen)[0] for part, leaf in condition._leaves.items()}
        assert _combine(condition._tree, leaves) == condition.values(seen)


@given(expressions)
def test_a_set_is_never_too_small(text: str) -> None:
    condition = compile_condition(text)
    possible = condition.values(scope(None, t=True, f=False))
    for args in ARGS:
        assert condition.values(scope(args, t=True, f=False)) & possible


def test_an_agent_cannot_make_a_condition_slow() -> None:
    started = time.perf_counter()
    for text in (
        "args.l.map(x, x).size() > 0",
        "args.l.all(x, x in args.l)",
        "args.l.all(x, args.l.all(y, x == y || x != y))",
        "args.s.all(x, x.matches('^a+$'))",
    ):
        assert value(text, {"l": list(range(20_000)), "s": ["a"] * 20_000}) == ERROR
    assert value("args.s.matches('^(a+)+$')", {"s": "a" * 100_000 + "b"}) == FALSE
    assert time.perf_counter() - started < 5


def test_what_is_not_read_is_not_converted() -> None:
    assert value("args.a == 1", {"a": 1, "huge": 10**400, "odd": object()}) == TRUE


def test_a_trace_tells_which_part_decided() -> None:
    condition = compile_condition("agent.name == 'ops' && args.a < 100 || claims.limit > 5")
    assert condition.trace(scope({"a": 1})) == (
        LeafTrace("agent.name == 'ops'", FALSE, "", False),
        LeafTrace("args.a < 100", TRUE, "", False),
        LeafTrace("claims.limit > 5", ERROR, "'limit' is not there", True),
    )
    decided = {leaf.text for leaf in condition.trace(scope({"a": 1}, limit=3)) if leaf.decided}
    assert decided == {"agent.name == 'ops'", "claims.limit > 5"}


def test_a_trace_follows_the_branch_that_was_taken() -> None:
    traced = compile_condition("args.a ? args.b : args.c").trace(scope({"a": True, "b": False, "c": True}))
    assert [leaf.text for leaf in traced if leaf.decided] == ["args.a", "args.b"]


def test_sets_are_described_in_words() -> None:
    assert describe(TRUE) == "true"
    assert describe(ERROR) == "cannot be evaluated"
    assert describe(TRUE | FALSE) == "depends on the arguments (true or false)"


def test_no_value_an_agent_sends_raises_out_of_a_condition() -> None:
    odd = {"m": -(2**63), "nan": float("nan"), "l": [1], "s": "é", "b": b"\xff", "big": 2**63, "deep": deep(500)}
    for text in (
        "args.m / -1 == 0",
        "-args.m > 0",
        "args.l[99] == 1",
        "args.l[args.m] == 1",
        "int(args.nan) > 0",
        "duration(args.s) > duration('1s')",
        "now + duration('9000000h') > now",
        "args.big * args.big > 0",
        "string(args.b) == 'x'",
        "args.deep == args.deep",
    ):
        assert value(text, odd) in (TRUE, FALSE, ERROR)


def deep(levels: int) -> Any:
    nested: Any = 1
    for _ in range(levels):
        nested = [nested]
    return nested
