"""Room set aside ahead: never more in use than is on disk, given back when it is idle, none where little is left."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fakes.waiting import until
from mcp_gateway.domain import Allowance, Kind, Outcome, OutcomeStatus, Target, Usage
from mcp_gateway.errors import OverLimit
from mcp_gateway.guards import leases as leases_file
from mcp_gateway.guards.budget import Budgets, Leased, Reservation
from mcp_gateway.guards.leases import CALLS, IDLE_S, Lease, Leases
from mcp_gateway.storage.budgets import BudgetStore, Draw, Took

TARGET = Target(Kind.MODEL, "models", "m", "m", {}, "")
EXPECTS = Usage(input=60, output=40, cost=0.0)
TOOK = Outcome(OutcomeStatus.OK, usage=Usage(input=6, output=4, cost=0.0))
NOW = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)
DRAW = Draw("b", "agent=a", 0, 100, 0, most_tokens=1_000_000)


@pytest.fixture
async def budgets(tmp_path: Path) -> AsyncIterator[Budgets]:
    opened = Budgets(tmp_path, lambda: NOW)
    yield opened
    opened.close()


def allowance(tokens: int) -> Allowance:
    return Allowance("daily", "agent=a", 86_400, tokens=tokens)


async def one(budgets: Budgets, tokens: int, outcome: Outcome = TOOK) -> Reservation:
    reservation = budgets.begin([allowance(tokens)], TARGET, EXPECTS)
    assert reservation is not None
    await reservation.granted()
    reservation.settle(outcome)
    await asyncio.sleep(0)
    return reservation


def on_disk(budgets: Budgets) -> tuple[int, int]:
    """Calls, and tokens with all that is set aside."""
    budgets.flush().result()
    found = budgets.store.spent(0)
    return sum(each.calls for each in found), sum(each.tokens for each in found)


async def leased(budgets: Budgets, tokens: int = 1_000_000) -> Lease:
    """A lease with room."""
    for _ in range(2):
        await one(budgets, tokens)
    [lease] = budgets._leases._leases.values()
    await until(lambda: not lease.is_renewing)
    return lease


async def test_calls_that_come_often_wait_for_no_database(budgets: Budgets) -> None:
    lease = await leased(budgets)
    kinds = [type(await one(budgets, 1_000_000)) for _ in range(5)]
    assert kinds == [Leased] * 5
    assert on_disk(budgets)[1] >= 2 * 10 + 5 * 10, "what is on disk is never less than what was taken"
    lease.is_over = True
    budgets._leases.sweep(asyncio.get_running_loop().time() + IDLE_S + 1)
    assert on_disk(budgets) == (7, 70)


async def test_what_is_idle_is_given_back(budgets: Budgets) -> None:
    await leased(budgets)
    assert on_disk(budgets)[1] > CALLS * 100
    assert budgets._leases.sweep(asyncio.get_running_loop().time() + IDLE_S + 1) is False
    assert on_disk(budgets) == (2, 20)


async def test_closing_leaves_what_was_taken_and_nothing_more(tmp_path: Path) -> None:
    budgets = Budgets(tmp_path, lambda: NOW)
    await leased(budgets)
    await one(budgets, 1_000_000)
    budgets.close()
    store = BudgetStore(tmp_path)
    assert [(each.calls, each.tokens, each.under_way) for each in store.spent(0)] == [(3, 30, 0)]
    store.close()


async def test_where_little_is_left_each_call_asks(budgets: Budgets) -> None:
    """And the budget holds to the last of it: at most one reservation goes beyond."""
    most, calls = 3000, 0
    with pytest.raises(OverLimit, match="out of tokens"):
        while calls < 1000:
            await one(budgets, most)
            calls += 1
            assert on_disk(budgets)[1] <= most + 100
    await until(lambda: budgets._leases.sweep(1e12) is False)
    assert on_disk(budgets) == (calls, calls * 10)
    assert calls * 10 <= most


async def test_many_at_once_never_take_more_than_there_is(budgets: Budgets) -> None:
    most = 20_000

    async def call() -> int:
        reservation = budgets.begin([allowance(most)], TARGET, EXPECTS)
        assert reservation is not None
        try:
            await reservation.granted()
        except OverLimit:
            reservation.settle(Outcome(OutcomeStatus.OVER_LIMIT))
            return 0
        await asyncio.sleep(0)
        reservation.settle(Outcome(OutcomeStatus.OK, usage=EXPECTS))
        return 1

    went = sum([sum(await asyncio.gather(*(call() for _ in range(20)))) for _ in range(20)])
    assert most // 100 - 2 * CALLS <= went <= most // 100 + 1
    budgets._leases.sweep(1e12)
    assert on_disk(budgets) == (went, went * 100)


async def test_a_budget_of_calls_is_asked_each_time(budgets: Budgets) -> None:
    for _ in range(4):
        reservation = budgets.begin([Allowance("daily", "", 86_400, calls=100)], TARGET, EXPECTS)
        assert reservation is not None
        await reservation.granted()
        assert not isinstance(reservation, Leased)
        reservation.settle(TOOK)


async def test_what_takes_nothing_is_refused_all_the_same_when_a_budget_is_used_up(budgets: Budgets) -> None:
    """Tools, and models that are free, under a budget that others use up."""
    await one(budgets, 1_000_000, Outcome(OutcomeStatus.OK, usage=Usage(input=1_000_000, cost=0.0)))
    for _ in range(4):
        reservation = budgets.begin([allowance(1_000_000)], TARGET, None)
        assert reservation is not None
        with pytest.raises(OverLimit):
            await reservation.granted()
        reservation.settle(Outcome(OutcomeStatus.OVER_LIMIT))


async def test_what_goes_on_stays_set_aside_out_of_a_lease_too(budgets: Budgets) -> None:
    await leased(budgets)
    reservation = await one(budgets, 1_000_000, Outcome(OutcomeStatus.OK, bill="p/resp_1"))
    assert isinstance(reservation, Leased)
    budgets._leases.sweep(1e12)
    assert on_disk(budgets) == (3, 20 + 100)
    budgets.settle_bill("p/resp_1", Usage(input=30, cost=0.0))
    assert on_disk(budgets) == (3, 20 + 30)


async def test_a_process_that_dies_leaves_its_spare_room_spent(tmp_path: Path) -> None:
    first = BudgetStore(tmp_path)
    assert first.renew("lease-1", Took(2, 20), [DRAW], [DRAW])
    first.close()
    second = BudgetStore(tmp_path)
    assert second.take([Draw("b", "agent=a", 0, 1, 0, most_tokens=220)]).out_of == "tokens"
    second.close()


def test_leases_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_file, "MAX_LEASES", 2)
    renewed: list[Lease] = []
    leases = Leases(renewed.append)
    for _ in range(3):
        for subject in ("a", "b", "c"):
            leases.take([Draw("b", subject, 0, 1, 0, most_tokens=10)], 1.0)
    assert len(set(renewed)) == 2
