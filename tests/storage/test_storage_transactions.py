"""The store of calls under terms, asked with times and processes of the test's own."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_gateway.domain import After, Budget, Flow, Offer, Reason, Terms, Window
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.approvals import ASKED_FOR, GOOD_FOR, MAX_PENDING, Binding
from mcp_gateway.storage.transactions import DATABASE, DAY, KEPT, MICROS, Found, Spending, TransactionStore, Wanted

T = 1_800_000_000 * MICROS
HOUR = 3600 * MICROS
BINDING = Binding("digest", "bot", None, "work", "", "u/send", '{"a":1}', "sha")
FREE = Terms("scope")
PERSON = Terms("scope", offers=(Offer("p:1", needs_approval=True),))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TransactionStore]:
    found = TransactionStore(tmp_path)
    yield found
    found.close()


def ask(store: TransactionStore, terms: Terms, at: int = T, binding: Binding = BINDING, **spending: int) -> Found:
    return store.reserve(Wanted(terms, at, "u/send", binding, Spending(**spending)))


def settle(store: TransactionStore, found: Found, *marks: str, at: int = T, scope: str = "scope", **spent: int) -> None:
    store.settle(found.hold, scope, at, "u/send", marks=marks, spent=Spending(**spent))


def limited(calls: int | None = 2, key: str = "k", **more: int) -> Terms:
    return Terms("scope", offers=(Offer("p:1", Window(key, 3600, calls, **more)),))


def test_the_files_are_ours_alone(store: TransactionStore, tmp_path: Path) -> None:
    assert stat.S_IMODE((tmp_path / DATABASE).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "runs").stat().st_mode) == 0o700


def test_a_window_slides(store: TransactionStore) -> None:
    terms = limited()
    assert ask(store, terms, T).refused is None
    assert ask(store, terms, T + HOUR // 2).refused is None
    refused = ask(store, terms, T + HOUR - 1)
    assert (refused.refused, refused.grant) == (Reason.LIMIT_REACHED, "p:1")
    assert refused.retry_in_s == pytest.approx(0, abs=0.001)
    assert ask(store, terms, T + HOUR).refused is None
    assert ask(store, terms, T + HOUR + 1).refused is Reason.LIMIT_REACHED


def test_a_clock_that_goes_back_gives_nothing_back(store: TransactionStore) -> None:
    terms = limited()
    ask(store, terms, T)
    ask(store, terms, T)
    assert ask(store, terms, T - 10 * DAY).refused is Reason.LIMIT_REACHED


def test_amounts_and_calls_both_count(store: TransactionStore) -> None:
    terms = limited(None, at_most=10, amount=4)
    assert [ask(store, terms).refused for _ in range(3)] == [None, None, Reason.LIMIT_REACHED]
    assert ask(store, limited(None, at_most=10, amount=2)).refused is None
    assert store.used(Window("k", 3600), T) == (3, 10)


def test_a_refund_gives_back_exactly_what_the_call_took(store: TransactionStore) -> None:
    terms = limited()
    first = ask(store, terms)
    ask(store, terms)
    store.refund(first.hold)
    assert [ask(store, terms).refused for _ in range(2)] == [None, Reason.LIMIT_REACHED]


def test_a_call_comes_after_another_within_the_time(store: TransactionStore) -> None:
    terms = Terms("scope", offers=(Offer("p:1", after=After("m", 1800, "u/get")),))
    refused = ask(store, terms)
    assert (refused.refused, refused.wanted) == (Reason.OUT_OF_ORDER, "u/get")
    settle(store, ask(store, FREE), "m", at=T)
    assert ask(store, terms, T + HOUR // 4).refused is None
    assert ask(store, replace(terms, scope="other"), T).refused is Reason.OUT_OF_ORDER
    assert ask(store, terms, T + HOUR).refused is Reason.OUT_OF_ORDER


READS = Terms("scope", reads=frozenset({"private"}))


def sends(*once: str, approval: bool = False, scope: str = "scope") -> Terms:
    return Terms(scope, flows=(Flow("p:9", frozenset(once), approval),))


def test_what_was_read_rules_out_what_sends(store: TransactionStore) -> None:
    assert ask(store, sends("private")).refused is None
    found = ask(store, READS)
    assert ask(store, sends("private")).refused is Reason.FLOW  # the answer may be on its way
    settle(store, found)
    refused = ask(store, sends("private"))
    assert (refused.refused, refused.grant) == (Reason.FLOW, "p:9")
    assert ask(store, sends("private", "untrusted")).refused is None
    assert ask(store, sends("private", scope="other")).refused is None


def test_what_was_never_sent_has_read_nothing_unless_another_call_has(store: TransactionStore) -> None:
    first, second = ask(store, READS), ask(store, READS)
    store.refund(first.hold)
    assert ask(store, sends("private")).refused is Reason.FLOW
    store.refund(second.hold)
    assert ask(store, sends("private")).refused is None


def test_a_standing_task_forgets_after_a_day_and_a_started_one_does_not(store: TransactionStore) -> None:
    standing = "s" * 64
    for scope in (standing, "started"):
        settle(store, ask(store, replace(READS, scope=scope)), scope=scope)
    later = T + 2 * DAY
    assert ask(store, sends("private", scope=standing), later).refused is None
    assert ask(store, sends("private", scope="started"), later).refused is Reason.FLOW


def test_reading_again_keeps_a_standing_task_from_forgetting(store: TransactionStore) -> None:
    standing = "s" * 64
    settle(store, ask(store, replace(READS, scope=standing)), scope=standing)
    settle(store, ask(store, replace(READS, scope=standing), T + DAY // 2), scope=standing)
    assert ask(store, sends("private", scope=standing), T + DAY + HOUR).refused is Reason.FLOW


def test_a_flow_with_approval_waits_for_a_person_whatever_the_grant(store: TransactionStore) -> None:
    settle(store, ask(store, READS))
    terms = replace(sends("private", approval=True), offers=limited().offers)
    waiting = ask(store, terms)
    assert (waiting.refused, waiting.grant) == (Reason.APPROVAL_PENDING, "p:9")
    assert store.used(Window("k", 3600), T) == (0, 0)  # what waits has used nothing
    store.answer(waiting.approval, yes=True, by="carol", now=T)
    assert (ask(store, terms).refused, store.used(Window("k", 3600), T)) == (None, (1, 0))


def test_an_approval_expires_before_it_is_given_and_after(store: TransactionStore) -> None:
    first = ask(store, PERSON)
    assert not store.answer(first.approval, yes=True, by="carol", now=T + ASKED_FOR)
    late = store.approval(first.approval, T + ASKED_FOR)
    assert late is not None
    assert late.state == "expired"
    second = ask(store, PERSON, T + ASKED_FOR)
    assert second.approval != first.approval
    assert store.answer(second.approval, yes=True, by="carol", now=T + ASKED_FOR)
    after = T + ASKED_FOR + GOOD_FOR
    assert ask(store, PERSON, after).refused is Reason.APPROVAL_PENDING
    assert ask(store, PERSON, after - 1).refused is None
    assert ask(store, PERSON, after - 1).refused is Reason.APPROVAL_PENDING


def test_an_answer_is_given_once_and_a_refusal_wears_off(store: TransactionStore) -> None:
    waiting = ask(store, PERSON)
    assert ask(store, PERSON).approval == waiting.approval  # asked again, it is the same question
    assert store.answer(waiting.approval, yes=False, by="carol", now=T)
    assert not store.answer(waiting.approval, yes=True, by="mallory", now=T)
    assert ask(store, PERSON).refused is Reason.APPROVAL_DENIED
    assert ask(store, PERSON, T + GOOD_FOR).refused is Reason.APPROVAL_PENDING


def test_an_approval_is_given_back_with_the_call_that_was_not_sent(store: TransactionStore) -> None:
    waiting = ask(store, PERSON)
    store.answer(waiting.approval, yes=True, by="carol", now=T)
    found = ask(store, PERSON)
    assert (found.refused, found.approval) == (None, waiting.approval)
    store.refund(found.hold)
    assert ask(store, PERSON).approval == waiting.approval


def test_arguments_are_kept_no_longer_than_a_person_has_to_see_them(store: TransactionStore, tmp_path: Path) -> None:
    waiting = ask(store, PERSON)
    shown = store.approval(waiting.approval, T)
    assert shown is not None
    assert shown.args == '{"a":1}'
    store.answer(waiting.approval, yes=True, by="carol", now=T)
    ask(store, PERSON)
    used = store.approval(waiting.approval, T)
    assert used is not None
    assert (used.args, used.args_sha256, used.state) == (None, "sha", "used")


def test_one_agent_cannot_bury_what_another_asks(store: TransactionStore) -> None:
    for number in range(MAX_PENDING):
        assert ask(store, PERSON, binding=replace(BINDING, digest=str(number))).approval
    assert ask(store, PERSON, binding=replace(BINDING, digest="more")).approval == ""
    assert ask(store, PERSON, binding=replace(BINDING, digest="x", agent="other")).approval


def test_the_first_offer_that_is_met_carries_the_call(store: TransactionStore) -> None:
    both = Terms("scope", offers=(*limited(1).offers, Offer("p:2", needs_approval=True)))
    assert ask(store, both).grant == "p:1"
    waiting = ask(store, both)
    assert (waiting.refused, waiting.grant) == (Reason.APPROVAL_PENDING, "p:2")


def test_calls_of_a_process_that_died_are_over_and_count(tmp_path: Path) -> None:
    terms = Terms("scope", budget=Budget(concurrent=1, tokens=100))
    dead, living = TransactionStore(tmp_path), TransactionStore(tmp_path)
    ask(dead, terms, tokens=40)
    assert ask(living, terms).wanted == "calls at once"
    os.close(dead._runs._fd)  # as the end of its process does
    assert ask(living, terms, tokens=61).wanted == "tokens"
    assert ask(living, terms, tokens=60).refused is None
    assert living.state("scope", T).tokens == 40
    dead._runs._fd = -1
    for store in (dead, living):
        store.close()


def test_a_budget_counts_what_is_under_way_and_what_was_spent(store: TransactionStore) -> None:
    terms = Terms("scope", budget=Budget(cost=100))
    first = ask(store, terms, cost=60)
    assert ask(store, terms, cost=41).wanted == "cost"
    settle(store, first, cost=10)
    assert ask(store, terms, cost=90).refused is None
    found = store.state("scope", T)
    assert (found.calls, found.cost, found.under_way) == (1, 10, 1)


def test_old_rows_are_forgotten(store: TransactionStore, tmp_path: Path) -> None:
    ask(store, limited())
    settle(store, ask(store, READS))
    ask(store, PERSON)
    store._since_tidy = 10_000
    ask(store, FREE, T + 2 * KEPT)
    with sqlite3.connect(tmp_path / DATABASE) as db:
        counts = [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("uses", "marks", "approvals")]  # noqa: S608
    db.close()
    assert counts == [0, 0, 0]


def test_a_database_of_a_newer_program_is_not_touched(tmp_path: Path) -> None:
    TransactionStore(tmp_path).close()
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreUnavailable, match="newer"):
        TransactionStore(tmp_path)
