"""Reserve, settle, refund: who is charged what, and for how long somebody has to wait."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.domain import Allowance, Kind, Outcome, OutcomeStatus, Target, Usage
from mcp_gateway.errors import OverLimit
from mcp_gateway.guards.budget import Budgets, Reservation

TARGET = Target(Kind.MODEL, "models", "m", "m", {}, "")
EXPECTS = Usage(input=100, output=50, cost=0.001)
NOW = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)


@pytest.fixture
async def budgets(tmp_path: Path) -> AsyncIterator[Budgets]:
    opened = Budgets(tmp_path / "state", lambda: NOW)
    yield opened
    opened.close()


def allowance(**most: Any) -> Allowance:
    return Allowance("daily", "agent=a", 86_400, **most)


async def reserve(
    budgets: Budgets, allowances: list[Allowance], target: Target, expects: Usage | None
) -> Reservation | None:
    begun = budgets.begin(allowances, target, expects)
    if begun is not None:
        await begun.granted()
    return begun


def spent(budgets: Budgets) -> list[tuple[int, int, int]]:
    budgets.flush().result()
    return [(each.calls, each.tokens, each.cost) for each in budgets.store.spent(0)]


async def test_what_no_budget_counts_costs_nothing(budgets: Budgets) -> None:
    assert await reserve(budgets, [], TARGET, EXPECTS) is None
    assert budgets._opened is None


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome(OutcomeStatus.OK, usage=Usage(input=10, output=5, cost=0.0000005)), [(1, 15, 1)]),
        (Outcome(OutcomeStatus.OK, usage=Usage(input=10, output=5)), [(1, 15, 1000)]),
        (Outcome(OutcomeStatus.CANCELLED, usage=Usage(input=10, cost=0.0)), [(1, 10, 0)]),
        (Outcome(OutcomeStatus.CANCELLED), [(1, 150, 1000)]),
        (Outcome(OutcomeStatus.TIMED_OUT), [(1, 150, 1000)]),
        (Outcome(OutcomeStatus.FAILED), [(1, 150, 1000)]),
        (Outcome(OutcomeStatus.HTTP_ERROR), [(1, 0, 0)]),
        (Outcome(OutcomeStatus.UNREACHABLE), [(1, 0, 0)]),
        (Outcome(OutcomeStatus.BAD_ARGUMENTS), []),
    ],
)
async def test_each_end_is_charged_for_what_it_took(
    budgets: Budgets, outcome: Outcome, expected: list[tuple[int, int, int]]
) -> None:
    reservation = await reserve(budgets, [allowance(tokens=1000)], TARGET, EXPECTS)
    assert reservation is not None
    reservation.settle(outcome)
    assert spent(budgets) == expected


async def test_the_wait_is_until_the_next_window(budgets: Budgets) -> None:
    await reserve(budgets, [allowance(calls=1)], TARGET, EXPECTS)
    with pytest.raises(OverLimit, match="'daily' is out of calls") as over:
        await reserve(budgets, [allowance(calls=1)], TARGET, EXPECTS)
    assert over.value.retry_after_s == 3600
    assert over.value.is_budget
    with pytest.raises(OverLimit) as busy:
        await reserve(budgets, [allowance(concurrent=1)], TARGET, EXPECTS)
    assert busy.value.retry_after_s is None


async def test_money_is_not_counted_without_a_price(budgets: Budgets) -> None:
    with pytest.raises(OverLimit, match="price"):
        await reserve(budgets, [allowance(cost=1_000_000)], TARGET, Usage(input=1))
    assert await reserve(budgets, [allowance(tokens=10)], TARGET, Usage(input=1))


async def test_calls_without_tokens_are_counted_as_calls(budgets: Budgets) -> None:
    reservation = await reserve(budgets, [allowance(calls=5, cost=5)], TARGET, None)
    assert reservation is not None
    reservation.settle(Outcome(OutcomeStatus.OK, {}))
    assert spent(budgets) == [(1, 0, 0)]
