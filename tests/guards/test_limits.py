"""How large one call may be."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.domain import Kind, Outcome, OutcomeStatus, RpcError, Target
from mcp_gateway.errors import BadRequest, Misbehaved, OverLimit
from mcp_gateway.guards.limits import MAX_DEPTH, Limits, check_result, check_size, measure

TARGET = Target(Kind.TOOL, "u", "t", "u__t", {}, "")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def check(value: dict[str, Any], limits: Limits | None = None) -> None:
    check_size(value, measure(value), limits or Limits())


@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
def test_every_value_and_every_text_is_counted_once(value: dict[str, Any]) -> None:
    def count(node: Any) -> int:
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return 1 + sum(count(child) for child in children)

    def texts(node: Any) -> int:
        if isinstance(node, str):
            return len(node)
        if isinstance(node, dict):
            return sum(len(name) + texts(child) for name, child in node.items())
        return sum(texts(child) for child in node) if isinstance(node, list) else 0

    size = measure(value)
    assert sum(size.values_at) == count(value)
    assert sum(size.texts) == texts(value)


def test_nesting_is_bounded() -> None:
    check(nested(MAX_DEPTH))
    with pytest.raises(OverLimit, match="nested deeper"):
        check(nested(MAX_DEPTH + 1))


def test_measuring_never_recurses() -> None:
    assert len(measure(nested(50_000)).values_at) == 50_000


def test_the_number_of_values_is_bounded() -> None:
    with pytest.raises(OverLimit, match="more than 10 values"):
        check({"a": list(range(10))}, Limits(max_values=10))


def test_the_number_of_bytes_is_bounded() -> None:
    with pytest.raises(OverLimit, match="2008 bytes long; the limit is 1000"):
        check({"a": "é" * 1000}, Limits(max_request_bytes=1000))


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800"])
def test_what_json_would_change_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest):
        check({"a": value})


def test_a_result_beyond_the_limit_is_the_upstreams_fault() -> None:
    outcome = Outcome(OutcomeStatus.OK, {"content": [{"type": "text", "text": "x" * 1000}]})
    with pytest.raises(Misbehaved, match=r"u__t answered with 10.. bytes; the limit is 1000"):
        check_result(TARGET, outcome, Limits(max_result_bytes=1000))


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(OutcomeStatus.OK, {"content": []}),
        Outcome(OutcomeStatus.RPC_ERROR, error=RpcError(-32603, "x")),
        Outcome(OutcomeStatus.CANCELLED),
    ],
)
def test_everything_else_comes_back_as_it_was(outcome: Outcome) -> None:
    assert check_result(TARGET, outcome, Limits()) is outcome
