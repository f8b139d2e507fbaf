"""`[budgets.NAME]`: how much all calls together may take within a time, for each agent, person, task or model.

A budget says what it counts (`targets`, every model if it says nothing), how much of it there is, for how long, and
what has one of its own (`by`). Windows are fixed: a day begins at midnight UTC. Pure values; what has been spent is
`guards/budget`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mcp_gateway.domain import MODELS, Allowance, Caller, Target
from mcp_gateway.policy.demands import LONGEST_WINDOW_S, read_cost
from mcp_gateway.policy.patterns import Match, Pattern, PatternError, parse_pattern
from mcp_gateway.policy.tables import Place, Table

BUDGET_KEYS: Final[Mapping[str, type]] = {
    "targets": list,
    "by": list,
    "per": str,
    "calls": int,
    "concurrent": int,
    "tokens": int,
    "cost": str,
    "alert_at": float,
}
BY: Final = ("agent", "person", "task", "model")
"""What can have a budget of its own; `model` is any target."""

CURRENCY: Final = "USD"
"""What providers' prices are in."""

_EVERY_MODEL: Final = f"model:{MODELS}/**"


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """One `[budgets.NAME]` table."""

    name: str
    at: Place
    patterns: tuple[Pattern, ...]
    by: tuple[str, ...]
    per_s: float
    calls: int | None = None
    concurrent: int | None = None
    tokens: int | None = None
    cost: int | None = None
    """Millionths of a US dollar."""
    alert_at: float | None = None
    """Which part has to be used up for operators to be told."""

    def counts(self, target: Target) -> bool:
        """Whether calls of this target are counted."""
        return any(p.denies(target.kind, target.upstream, target.name) is not Match.NONE for p in self.patterns)

    def allowance(self, caller: Caller, target: Target) -> Allowance:
        """What a call is paid from."""
        subject = self._subject(caller, target)
        most = (self.calls, self.concurrent, self.tokens, self.cost)
        return Allowance(self.name, subject, self.per_s, *most, self.alert_at)

    def _subject(self, caller: Caller, target: Target) -> str:
        who = {"agent": caller.agent, "person": caller.person or "", "task": caller.task or "", "model": target.key}
        return "\n".join(f"{name}={who[name]}" for name in self.by)


def read_budget_rule(name: str, table: Table) -> BudgetRule:
    """One table; what is wrong is complained about."""
    table.check_keys(BUDGET_KEYS, frozenset())
    table.require("per", 'write per = "1d"')
    rule = BudgetRule(
        name=name,
        at=table.place(),
        patterns=_patterns(table),
        by=_by(table),
        per_s=table.seconds("per", LONGEST_WINDOW_S) or LONGEST_WINDOW_S,
        calls=table.count("calls"),
        concurrent=table.count("concurrent"),
        tokens=table.count("tokens"),
        cost=_cost(table),
        alert_at=_alert_at(table),
    )
    if all(table.raw(key) is None for key in ("calls", "concurrent", "tokens", "cost")):
        table.complain((), f"the budget {name!r} bounds nothing", 'write tokens = 100_000, or cost = "5.00 USD"')
    return rule


def _alert_at(table: Table) -> float | None:
    value = table.raw("alert_at")
    if isinstance(value, float) and not 0 < value < 1:
        table.complain(("alert_at",), "'alert_at' must be between 0 and 1", "write alert_at = 0.8")
    return value if isinstance(value, float) else None


def _patterns(table: Table) -> tuple[Pattern, ...]:
    patterns = []
    texts = list(table.texts("targets")) or [(0, _EVERY_MODEL)]
    for index, text in texts:
        try:
            patterns.append(parse_pattern(text, any_upstream=True))
        except PatternError as e:
            table.complain(("targets", index), str(e), e.fix)
    return tuple(patterns)


def _by(table: Table) -> tuple[str, ...]:
    words = []
    for index, word in table.texts("by"):
        if word in BY:
            words.append(word)
        else:
            table.complain(("by", index), f"'by' cannot be {word!r}", f"any of {', '.join(BY)}")
    return tuple(words)


def _cost(table: Table) -> int | None:
    amount, currency = read_cost(table)
    if amount is not None and currency != CURRENCY:
        table.complain(
            ("cost",), f"a budget is in {CURRENCY}, as providers' prices are", f'write cost = "5.00 {CURRENCY}"'
        )
    return amount
