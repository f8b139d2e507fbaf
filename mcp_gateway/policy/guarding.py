"""Guards as a policy writes them: what is looked for in which calls, and what becomes of a call that holds it.

    [[guard]]
    find = ["secrets", "personal-data/email"]
    then = "mask"

A guard whose condition cannot be evaluated applies: it fails closed, as a deny does. Pure, as `decide`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from mcp_gateway.config.toml_lines import did_you_mean
from mcp_gateway.domain import Action, Caller, Holding, Inspection, Stage, Target
from mcp_gateway.policy.conditions import FALSE, Condition, Scope, compile_condition
from mcp_gateway.policy.expression import ConditionError
from mcp_gateway.policy.reach import Reach, read_reach
from mcp_gateway.policy.tables import Table

_GUARD: Final[Mapping[str, type]] = {
    "find": list,
    "in": list,
    "tools": list,
    "tasks": list,
    "agents": list,
    "when": str,
    "then": str,
    "min_score": object,
    "held": str,
    "reason": str,
}
_USUAL_SCORE: Final = 0.5

_Word = TypeVar("_Word", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Guard:
    """One `[[guard]]` table."""

    inspection: Inspection
    reach: Reach
    condition: Condition | None = None
    reason: str = ""
    """Its own words, for operators."""

    def speaks_of(self, caller: Caller, target: Target) -> bool:
        """Whether it is about such calls at all, whatever they hold."""
        return self.reach.speaks_of(caller, target)

    def applies(self, scope: Scope) -> bool:
        """Whether its condition holds, or cannot be evaluated."""
        return self.condition is None or self.condition.values(scope) != FALSE


def read_guard(table: Table, *, is_shadow: bool = False) -> Guard:
    """A guard as written; complaints go where the table's go. In shadow it only alerts."""
    table.check_keys(_GUARD, frozenset())
    table.require_some("find", 'write find = ["secrets", "personal-data"]')
    table.require("then", 'write then = "alert", "mask" or "block"')
    actions = [] if table.text("then") is None else _words(table, ("then",), [((), table.text("then") or "")], Action)
    stages = _words(table, ("in",), [((index,), text) for index, text in table.texts("in")], Stage)
    action = actions[0] if actions else Action.BLOCK
    held = _words(table, ("held",), [((), table.text("held") or Holding.WHOLE)], Holding)
    inspection = Inspection(
        at=str(table.place()),
        find=tuple(text for _, text in table.texts("find")),
        stages=frozenset(stages or Stage),
        action=Action.ALERT if is_shadow else action,
        min_score=_score(table),
        held=held[0] if held else Holding.WHOLE,
    )
    return Guard(inspection, read_reach(table), _condition(table), table.text("reason") or "")


def _words(table: Table, key: tuple[str], found: list[tuple[Any, str]], words: type[_Word]) -> list[_Word]:
    known = list(words)
    for path, text in found:
        if text not in known:
            table.complain((*key, *path), f"{text!r} is none of: {', '.join(known)}", did_you_mean(text, known))
    return [words(text) for _, text in found if text in known]


def _score(table: Table) -> float:
    value = table.raw("min_score")
    if value is None:
        return _USUAL_SCORE
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
        return float(value)
    table.complain(("min_score",), "'min_score' must be a number between 0 and 1")
    return 0.0


def _condition(table: Table) -> Condition | None:
    text = table.text("when")
    try:
        return None if text is None else compile_condition(text)
    except ConditionError as e:
        for problem in e.problems:
            table.complain(("when",), problem.message, problem.fix)
        return None
