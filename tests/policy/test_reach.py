"""Which calls a guard or a keep speaks of."""

import pytest

from mcp_gateway.domain import Caller, Kind, Target
from mcp_gateway.policy.patterns import parse_pattern
from mcp_gateway.policy.reach import Reach

TOOL = Target(Kind.TOOL, "crm", "get", "crm__get", {}, "")
MODEL = Target(Kind.MODEL, "models", "m", "m", {}, "")


@pytest.mark.parametrize(
    ("reach", "tool", "model"),
    [
        (Reach(), True, True),
        (Reach(patterns=(parse_pattern("crm/*", any_upstream=True),)), True, False),
        (Reach(patterns=(parse_pattern("model:models/*", any_upstream=True),)), False, True),
        (Reach(tasks=frozenset({"work"})), True, True),
        (Reach(tasks=frozenset({"other"})), False, False),
        (Reach(agents=frozenset({"bot"})), True, True),
        (Reach(agents=frozenset({"else"})), False, False),
    ],
)
def test_what_is_left_out_is_all(reach: Reach, tool: bool, model: bool) -> None:
    caller = Caller("bot", "work")
    assert (reach.speaks_of(caller, TOOL), reach.speaks_of(caller, MODEL)) == (tool, model)
