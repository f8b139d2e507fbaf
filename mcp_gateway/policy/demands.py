"""What lines ask for besides their condition: limits, order, approvals; a task's budget; what reading rules out.

Reads these parts of a policy file and turns them into values; what they come to for one call is `terms`' business.
Nothing here knows what has happened so far.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Final

from mcp_gateway.domain import Budget
from mcp_gateway.policy.conditions import Amount, compile_amount, millionths
from mcp_gateway.policy.expression import ConditionError
from mcp_gateway.policy.patterns import Pattern, PatternError, parse_pattern
from mcp_gateway.policy.tables import Place, Table

LONGEST_WINDOW_S: Final = 31 * 86_400.0
LONGEST_TASK_S: Final = 31 * 86_400.0

LIMIT_KEYS: Final[Mapping[str, type]] = {"calls": int, "per": str, "sum": str, "at_most": object}
AFTER_KEYS: Final[Mapping[str, type]] = {"tool": str, "within": str, "same": object}
BUDGET_KEYS: Final[Mapping[str, type]] = {"calls": int, "concurrent": int, "bytes": int, "tokens": int, "cost": str}
FLOW_KEYS: Final[Mapping[str, type]] = {"once": list, "no_more": list, "approval": str, "reason": str}

_COST: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ([A-Z]{3})")
_CONTEXT_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
OWN_FIELDS: Final = frozenset({"name", "id"})
"""What `task` always has; the context cannot have it too."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How often a grant may be used, or for how much in all, within a time that ends at each call."""

    per_s: float
    calls: int | None
    amount: Amount | None
    at_most: int | None
    """Millionths."""


@dataclass(frozen=True, slots=True)
class FirstCall:
    """Another call that has to have succeeded before, with the same values."""

    pattern: Pattern
    within_s: float
    same: tuple[tuple[str, str], ...]
    """Pairs (this call's argument, that call's argument), sorted by the latter."""


@dataclass(frozen=True, slots=True)
class Demands:
    """What one grant asks for besides its condition."""

    limit: Limit | None = None
    after: FirstCall | None = None
    approval: str = ""
    """`person`, or `agent-side`; empty: none is asked."""


@dataclass(frozen=True, slots=True)
class FlowRule:
    """What a task may no longer do once it has read what all tags of `once` are on."""

    at: Place
    once: frozenset[str]
    no_more: frozenset[str]
    """Targets with any of these tags."""
    approval: str
    """Who may let it through all the same: `person`, or `agent-side`; empty: nobody."""
    reason: str


def read_demands(table: Table) -> Demands | None:
    """The demands of a `[[tasks.NAME.grant]]`; None where it has none."""
    limit, after = table.table("limit"), table.table("after")
    demands = Demands(
        limit=None if limit is None else _limit(limit),
        after=None if after is None else _after(after),
        approval=_approval(table),
    )
    return None if demands == Demands() else demands


def read_budget(table: Table) -> Budget:
    """`[tasks.NAME] limit`."""
    table.check_keys(BUDGET_KEYS, frozenset())
    cost, currency = read_cost(table)
    counts = {key: table.count(key) for key in ("calls", "concurrent", "bytes", "tokens")}
    return Budget(**counts, cost=cost, currency=currency)


def read_flow(table: Table) -> FlowRule:
    """A `[[flow]]` or `[[tasks.NAME.flow]]`."""
    table.check_keys(FLOW_KEYS, frozenset())
    table.require_some("once", 'write once = ["reads-private"]')
    table.require_some("no_more", 'write no_more = ["sends-outside"]')
    once, no_more = (frozenset(text for _, text in table.texts(key)) for key in ("once", "no_more"))
    return FlowRule(table.place(), once, no_more, _approval(table), table.text("reason") or "")


def read_context(table: Table) -> frozenset[str]:
    """`[tasks.NAME] context`: the names that whoever starts the task has to set."""
    names = set()
    for index, name in table.texts("context"):
        if _CONTEXT_NAME.fullmatch(name) and name not in OWN_FIELDS:
            names.add(name)
        else:
            fix = f"letters, digits and _, a letter first, and neither of {', '.join(sorted(OWN_FIELDS))}"
            table.complain(("context", index), f"{name!r} cannot be the name of something in 'context'", fix)
    return frozenset(names)


def told(demands: Demands) -> tuple[str, ...]:
    """What a grant demands, in words for operators."""
    found = []
    limit, after = demands.limit, demands.after
    if limit is not None and limit.calls is not None:
        found.append(f"at most {limit.calls} calls within {limit.per_s:g} s")
    if limit is not None and limit.amount is not None and limit.at_most is not None:
        found.append(f"at most {limit.at_most / 1_000_000:g} of {limit.amount.text} within {limit.per_s:g} s")
    if after is not None:
        same = f" with the same {', '.join(mine for mine, _ in after.same)}" if after.same else ""
        found.append(f"{after.pattern.text}{same} within {after.within_s:g} s before")
    if demands.approval:
        found.append("a person's approval" if demands.approval == "person" else "approval at the agent's side")
    return tuple(found)


def tightest(one: Budget, other: Budget) -> Budget:
    """The smaller of each pair of bounds. Of costs in two currencies nothing is left: they cannot be compared."""

    def least(key: str) -> int | None:
        given = [bound for bound in (getattr(one, key), getattr(other, key)) if bound is not None]
        return min(given, default=None)

    currencies = {budget.currency for budget in (one, other) if budget.cost is not None}
    bounds = {item.name: least(item.name) for item in fields(Budget) if item.name not in ("cost", "currency")}
    cost = least("cost") if len(currencies) == 1 else (0 if currencies else None)
    return Budget(**bounds, cost=cost, currency=min(currencies, default=""))


def _limit(table: Table) -> Limit | None:
    table.check_keys(LIMIT_KEYS, frozenset())
    table.require("per", 'write per = "1h"')
    calls, per_s, amount = table.count("calls"), table.seconds("per", LONGEST_WINDOW_S), _amount(table)
    at_most = _at_most(table)
    if table.raw("calls") is None and table.raw("sum") is None:
        table.complain((), "'limit' bounds nothing", 'write calls = 5, or sum = "args.amount" with at_most = 500')
    if (table.raw("sum") is None) != (table.raw("at_most") is None):
        table.complain((), "'sum' and 'at_most' need each other", 'write sum = "args.amount", at_most = 500')
    return None if per_s is None else Limit(per_s, calls, amount, at_most)


def _amount(table: Table) -> Amount | None:
    text = table.text("sum")
    try:
        return None if text is None else compile_amount(text)
    except ConditionError as e:
        for problem in e.problems:
            table.complain(("sum",), problem.message, problem.fix)
        return None


def _at_most(table: Table) -> int | None:
    value = table.raw("at_most")
    found = millionths(value)
    if value is not None and found is None:
        table.complain(("at_most",), "'at_most' must be a number, not below 0", "write at_most = 500")
    return found


def _after(table: Table) -> FirstCall | None:
    table.check_keys(AFTER_KEYS, frozenset())
    table.require("tool", 'write tool = "upstream/name"')
    table.require("within", 'write within = "30m"')
    within_s, same = table.seconds("within", LONGEST_WINDOW_S), _same(table)
    try:
        pattern = parse_pattern(table.text("tool") or "", any_upstream=False)
    except PatternError as e:
        table.complain(("tool",), str(e), e.fix)
        return None
    return None if within_s is None else FirstCall(pattern, within_s, same)


def _same(table: Table) -> tuple[tuple[str, str], ...]:
    """A list of arguments that both calls have, or a table from this call's names to that call's."""
    written = table.raw("same")
    if isinstance(written, list) and all(isinstance(name, str) for name in written):
        written = {name: name for name in written}
    if written is None:
        return ()
    if not isinstance(written, dict) or not all(isinstance(theirs, str) for theirs in written.values()):
        table.complain(("same",), "'same' must be names of arguments", 'write same = ["order_id"]')
        return ()
    return tuple(sorted(written.items(), key=lambda pair: (pair[1], pair[0])))


def _approval(table: Table) -> str:
    text = table.text("approval")
    if text not in (None, "person", "agent-side"):
        fix = 'write approval = "person" (or "agent-side"), or leave it out'
        table.complain(("approval",), f"'approval' cannot be {text!r}", fix)
    return text or ""


def read_cost(table: Table) -> tuple[int | None, str]:
    """`cost`: millionths, and the currency."""
    text = table.text("cost")
    match = _COST.fullmatch(text or "")
    if text is not None and (match is None or not float(match[1])):
        table.complain(("cost",), f"{text!r} is no cost", 'write an amount and a currency, such as "1.50 USD"')
    return (int(Decimal(match[1]) * 1_000_000), match[2]) if match else (None, "")
