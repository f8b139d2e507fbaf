"""What calls carry, kept because a policy says so: whose, of which calls, for how long.

    [[keep]]
    what = ["arguments"]
    tasks = ["support"]
    for = "30d"

Where several speak of a call, each part is kept for the shortest of their times. Pure, as `decide`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from mcp_gateway.config.toml_lines import did_you_mean
from mcp_gateway.domain import Caller, Keeping, Stage, Target
from mcp_gateway.policy.reach import Reach, read_reach
from mcp_gateway.policy.tables import Table

LONGEST_S: Final = 10 * 366 * 86_400.0

_KEEP: Final[Mapping[str, type]] = {
    "what": list,
    "for": str,
    "tools": list,
    "tasks": list,
    "agents": list,
    "reason": str,
}


@dataclass(frozen=True, slots=True)
class Keep:
    """One `[[keep]]` table."""

    reach: Reach
    stages: frozenset[Stage]
    for_s: float


def read_keep(table: Table) -> Keep:
    """A table as written; complaints go where the table's go."""
    table.check_keys(_KEEP, frozenset())
    table.require("for", 'write for = "30d": what is kept ends by itself')
    stages = []
    for index, text in table.texts("what"):
        if text in list(Stage):
            stages.append(Stage(text))
        else:
            table.complain(("what", index), f"{text!r} is none of: {', '.join(Stage)}", did_you_mean(text, list(Stage)))
    table.text("reason")
    return Keep(read_reach(table), frozenset(stages or Stage), table.seconds("for", LONGEST_S) or 0.0)


def keeping(keeps: Iterable[Keep], caller: Caller, target: Target) -> Keeping | None:
    """What of a call is kept; None: nothing."""
    for_s: dict[Stage, float] = {}
    for keep in keeps:
        if keep.reach.speaks_of(caller, target):
            for_s |= {stage: min(keep.for_s, for_s.get(stage, keep.for_s)) for stage in keep.stages}
    return Keeping(for_s) if for_s else None
