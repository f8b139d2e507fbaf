"""How large one call may be: arguments on the way in, results on the way out.

Everything after this may assume bounded input: what validates arguments runs in native code that nobody can interrupt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mcp_gateway import jsonrpc
from mcp_gateway.domain import Outcome, Target
from mcp_gateway.errors import BadRequest, Misbehaved, OverLimit

if TYPE_CHECKING:
    from dataclasses import dataclass as made_per_call
else:
    from mcp_gateway.domain import made_per_call

MAX_DEPTH: Final = 64
"""Deepest nesting of arguments. What real tools take stays below 30."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one call."""

    max_request_bytes: int = 4 * 1024 * 1024
    """Params as compact JSON. Files travel base64-encoded in arguments, so this is not small."""
    max_values: int = 100_000
    """Numbers, strings, objects, lists in params, in all."""
    max_result_bytes: int = 16 * 1024 * 1024


@made_per_call(frozen=True, slots=True)
class Size:
    """How large one JSON value is, as far as the cost of checking it goes."""

    values_at: tuple[int, ...]
    """How many values there are at each depth; the first is the value itself."""
    texts: tuple[int, ...]
    """The length of each string and member name, in characters."""


def measure(value: Mapping[str, Any]) -> Size:
    """How large a JSON object is. Takes time in proportion and never recurses.

    >>> measure({"a": [1, "two"]})
    Size(values_at=(1, 1, 2), texts=(1, 3))
    """
    texts = [len(name) for name in value]
    below: list[Any] = []
    for each in value.values():
        if type(each) is str:
            texts.append(len(each))
        elif type(each) is dict or type(each) is list:
            below.append(each)
    if not below:  # as most arguments are
        return Size((1, len(value)) if value else (1,), tuple(texts))
    return _measured([1, len(value)], texts, below)


def _measured(values_at: list[int], texts: list[int], level: list[Any]) -> Size:
    while level:
        below = list[Any]()
        count = 0
        for node in level:
            values = node
            if not isinstance(node, list):
                texts += map(len, node)
                values = node.values()
            count += len(values)
            texts += [len(each) for each in values if type(each) is str]
            below += [each for each in values if type(each) is dict or type(each) is list]
        if count:
            values_at.append(count)
        level = below
    return Size(tuple(values_at), tuple(texts))


def check_size(value: Mapping[str, Any], size: Size, limits: Limits) -> None:
    """Refuse params that are too large.

    Raises `OverLimit` beyond the limits, and `BadRequest` for what JSON cannot carry unchanged.
    """
    if len(size.values_at) > MAX_DEPTH:
        raise OverLimit(f"params are nested deeper than {MAX_DEPTH}")
    if sum(size.values_at) > limits.max_values:
        raise OverLimit(f"params hold more than {limits.max_values} values")
    try:
        length = len(jsonrpc.dump(value))
    except TypeError as e:
        raise BadRequest(f"params hold something that JSON has no exact form for: {e}") from e
    if length > limits.max_request_bytes:
        raise OverLimit(f"params are {length} bytes long; the limit is {limits.max_request_bytes}")


def check_result(target: Target, outcome: Outcome, limits: Limits) -> Outcome:
    """Refuse a result that is too large. Raises `Misbehaved`: the agent can do nothing about it but ask for less."""
    if outcome.result is None:
        return outcome
    try:
        length = len(jsonrpc.dump(outcome.result))
    except TypeError as e:
        raise Misbehaved(target.upstream, f"{target.public_name} answered with what JSON has no form for: {e}") from e
    if length > limits.max_result_bytes:
        message = f"{target.public_name} answered with {length} bytes; the limit is {limits.max_result_bytes}"
        raise Misbehaved(target.upstream, message)
    return outcome
