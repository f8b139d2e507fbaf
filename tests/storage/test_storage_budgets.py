"""What is taken out of budgets: never twice, never lost, not even when a process dies."""

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.budgets import DATABASE, MOST, BudgetStore, Draw


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BudgetStore]:
    opened = BudgetStore(tmp_path / "state")
    yield opened
    opened.close()


def draw(budget: str = "b", subject: str = "agent=a", tokens: int = 10, cost: int = 5, **most: Any) -> Draw:
    return Draw(budget, subject, 0, tokens, cost, **most)


def used(store: BudgetStore) -> list[tuple[int, int, int, int]]:
    return [(spent.calls, spent.tokens, spent.cost, spent.under_way) for spent in store.spent(0)]


def test_what_is_under_way_counts_with_all_it_may_take(store: BudgetStore) -> None:
    assert store.take([draw(most_tokens=10)]).hold
    refused = store.take([draw(most_tokens=10)])
    assert (refused.hold, refused.budget, refused.out_of) == ("", "b", "tokens")


def test_what_was_not_taken_comes_back(store: BudgetStore) -> None:
    taken = store.take([draw(most_tokens=10)])
    store.settle(taken.hold, 3, 1)
    assert used(store) == [(1, 3, 1, 0)]
    assert store.take([draw(most_tokens=10)]).hold


def test_a_call_that_was_never_sent_was_never_there(store: BudgetStore) -> None:
    store.give_back(store.take([draw()]).hold)
    assert used(store) == []


def test_what_nobody_knows_is_what_was_set_aside(store: BudgetStore) -> None:
    store.settle(store.take([draw()]).hold, None, None)
    assert used(store) == [(1, 10, 5, 0)]


@pytest.mark.parametrize(
    ("most", "out_of"),
    [({"most_calls": 1}, "calls"), ({"most_cost": 5}, "cost"), ({"most_at_once": 1}, "calls at once")],
)
def test_each_bound_holds_by_itself(store: BudgetStore, most: dict[str, int], out_of: str) -> None:
    assert store.take([draw(**most)]).hold
    assert store.take([draw(**most)]).out_of == out_of


def test_all_budgets_or_none(store: BudgetStore) -> None:
    store.take([draw("small", most_calls=1)])
    refused = store.take([draw("large"), draw("small", most_calls=1)])
    assert refused.budget == "small"
    assert [spent.budget for spent in store.spent(0)] == ["small"]


def test_subjects_and_windows_are_apart(store: BudgetStore) -> None:
    assert store.take([draw(most_calls=1)]).hold
    assert store.take([draw(subject="agent=b", most_calls=1)]).hold
    assert store.take([Draw("b", "agent=a", 60, 0, 0, most_calls=1)]).hold


def test_many_threads_never_take_the_same_room(store: BudgetStore) -> None:
    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(lambda _: store.take([draw(most_calls=10)]), range(64)))
    assert sum(bool(each.hold) for each in taken) == 10


def test_two_processes_share_one_budget(store: BudgetStore, tmp_path: Path) -> None:
    other = BudgetStore(tmp_path / "state")
    assert store.take([draw(most_calls=1)]).hold
    assert not other.take([draw(most_calls=1)]).hold
    other.close()


def test_what_a_dead_process_had_set_aside_counts_as_spent(store: BudgetStore, tmp_path: Path) -> None:
    dying = BudgetStore(tmp_path / "state")
    dying.take([draw(most_at_once=1, most_tokens=20)])
    dying.close()
    assert store.take([draw(most_at_once=1, most_tokens=20)]).hold
    assert sum(tokens for _, tokens, _, _ in used(store)) == 20
    assert store.take([draw(most_tokens=20)]).out_of == "tokens"


def test_sums_do_not_overflow(store: BudgetStore) -> None:
    for _ in range(3):
        store.settle(store.take([draw()]).hold, MOST, MOST)
    assert used(store) == [(3, MOST, MOST, 0)]


def test_only_our_own_user_can_read_it(store: BudgetStore, tmp_path: Path) -> None:
    store.take([draw()])
    files = list((tmp_path / "state").glob(f"{DATABASE}*"))
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_file_of_a_newer_program_is_left_alone(tmp_path: Path) -> None:
    opened = BudgetStore(tmp_path / "state")
    opened._db.execute("PRAGMA user_version = 99")
    opened.close()
    with pytest.raises(StoreUnavailable, match="newer"):
        BudgetStore(tmp_path / "state")


def test_what_is_told_later_counts_as_set_aside_until_then(tmp_path: Path) -> None:
    """Though the process that set it aside is gone; and it is no call at once."""
    first = BudgetStore(tmp_path)
    first.leave_open(first.take([draw(tokens=30)]).hold, "p/resp_1")
    first.close()
    later = BudgetStore(tmp_path)
    assert later.take([draw(most_tokens=30)]).out_of == "tokens"
    later.settle(later.take([draw(most_at_once=1)]).hold, 0, 0)
    later.settle("p/resp_1", 7, 2)
    later.settle("p/resp_1", 7, 2)
    assert used(later) == [(2, 7, 2, 0)]
    later.close()
