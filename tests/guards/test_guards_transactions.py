"""Calls under terms: what they may use is exact, whatever happens at once and whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from fakes.front import Front, parts, utc_now
from fakes.replies import RecordingReply
from fakes.upstream import Hanging, raising
from fakes.waiting import until
from mcp_gateway.domain import Budget, Caller, Kind, Outcome, OutcomeStatus, Request, Verb
from mcp_gateway.errors import BadArguments, NotAvailable, NotNow, OverLimit, StoreUnavailable, Unreachable
from mcp_gateway.guards.transactions import Transactions
from mcp_gateway.policy.decide import decide
from mcp_gateway.storage.transactions import Spending, TransactionStore

HEAD = """
[agents.alice]
tasks = ["work"]
default_task = "work"

[agents.bob]
tasks = ["work"]
default_task = "work"
"""
TEN = "[[tasks.work.grant]]\ntools = ['u/echo', 'u/routed', 'u/hang']\nlimit = { calls = 10, per = '1h' }\n"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Front]:
    async with parts(tmp_path) as opened:
        yield opened


def under(made: Front, task: str, head: str = HEAD) -> None:
    """Let `task` be what alice may do."""
    made.offer(policy=f"{head}\n[tasks.work]\n{task}")


async def ask(made: Front, name: str = "echo", arguments: Any = None, caller: Caller | None = None) -> Outcome:
    params = {"name": f"u__{name}", "arguments": arguments or {}}
    request = Request("r-1", Verb.CALL, "tools/call", Kind.TOOL, f"u__{name}", params)
    return await made.gateway.ask(caller or made.caller(), request, RecordingReply())


async def how_many(made: Front, count: int, **kwargs: Any) -> int:
    """How many of so many calls at once go ahead; the others are over their limit."""
    answers = await asyncio.gather(*(ask(made, **kwargs) for _ in range(count)), return_exceptions=True)
    assert all(isinstance(each, (Outcome, OverLimit)) for each in answers), answers
    return sum(isinstance(each, Outcome) for each in answers)


async def test_64_calls_at_once_against_a_limit_of_10_are_exactly_10(made: Front) -> None:
    under(made, TEN)
    assert await how_many(made, 64) == 10
    assert len(made.u.asked) == 10
    rows = made.rows("decision, reason")
    assert (rows.count(("allowed", "grant")), rows.count(("denied", "limit_reached"))) == (10, 54)


async def test_calls_in_flight_count(made: Front) -> None:
    under(made, TEN)
    made.u.script["hang"] = Hanging()
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask, made, "hang")
        await until(lambda: len(made.u.asked) == 10)
        with pytest.raises(OverLimit, match="used up for now; try again in 60 min"):
            await ask(made)
        tasks.cancel_scope.cancel()
    assert await how_many(made, 3) == 0  # they had been sent: that they were cancelled gives nothing back


async def test_a_limit_is_each_agents_own(made: Front) -> None:
    under(made, TEN)
    assert await how_many(made, 12) == 10
    assert await how_many(made, 12, caller=Caller("bob", "work")) == 10
    assert await how_many(made, 12, caller=Caller("alice", "work", person="carol")) == 10


async def test_a_limit_holds_over_a_restart_and_over_an_edit_elsewhere(made: Front, tmp_path: Path) -> None:
    under(made, TEN)
    assert await how_many(made, 7) == 7
    made.gateway._transactions = Transactions(tmp_path / "state", utc_now, 0.05)
    under(made, f"purpose = 'another line'\nallow = ['u/second']\n{TEN}")
    assert await how_many(made, 7) == 3
    made.gateway._transactions.close()


async def test_what_was_never_sent_is_given_back(made: Front) -> None:
    under(made, TEN)
    for _ in range(11):
        with pytest.raises(BadArguments):
            await ask(made, "routed", {"region": 5})
    assert await how_many(made, 64) == 10


async def test_what_failed_behind_us_is_not(made: Front) -> None:
    under(made, TEN)
    made.u.script["echo"] = raising(Unreachable("u", "it broke"))
    for _ in range(10):
        with pytest.raises(Unreachable):
            await ask(made)
    assert await how_many(made, 1) == 0


async def test_without_an_audit_nothing_is_taken(made: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    under(made, TEN)

    async def broken(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(made.audit, "open", broken)
        for _ in range(11):
            with pytest.raises(StoreUnavailable):
                await ask(made)
    assert await how_many(made, 64) == 10


async def test_calls_cancelled_at_any_moment_take_no_more_than_they_were_sent(made: Front) -> None:
    under(made, TEN)
    for ticks in range(40):
        task = asyncio.create_task(ask(made))
        for _ in range(ticks % 8):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    before = len(made.u.asked)
    await made.transactions.in_thread(lambda store: None)  # what was cancelled is given back in turn
    await made.transactions.in_thread(lambda store: None)
    assert before + await how_many(made, 64) == 10


async def test_amounts_are_summed_exactly(made: Front) -> None:
    under(made, "[[tasks.work.grant]]\ntools = ['u/echo']\nlimit = { sum = 'args.n', at_most = 0.3, per = '1h' }\n")
    for _ in range(3):
        await ask(made, arguments={"n": 0.1})
    with pytest.raises(OverLimit):
        await ask(made, arguments={"n": 0.000001})
    await ask(made, arguments={"n": 0})


@pytest.mark.parametrize("n", [-1, "5", None, True, [1], 1e300])
async def test_an_amount_that_is_none_allows_nothing(made: Front, n: Any) -> None:
    under(made, "[[tasks.work.grant]]\ntools = ['u/echo']\nlimit = { sum = 'args.n', at_most = 9, per = '1h' }\n")
    with pytest.raises(NotAvailable):
        await ask(made, arguments={"n": n})
    with pytest.raises(NotAvailable):
        await ask(made)
    assert made.u.asked == []


AFTER = """
[[tasks.work.grant]]
tools = ['u/second']

[[tasks.work.grant]]
tools = ['u/echo']
after = { tool = 'u/second', within = '30m', same = { order = "id" } }
"""


async def test_a_call_comes_after_the_one_it_has_to_come_after(made: Front) -> None:
    under(made, AFTER)
    with pytest.raises(NotNow, match="not yet: second has to come first, with the same values"):
        await ask(made, "echo", {"order": 7})
    await ask(made, "second", {"id": 8})
    with pytest.raises(NotNow):
        await ask(made, "echo", {"order": 7})
    await ask(made, "second", {"id": 7.0})
    await ask(made, "echo", {"order": 7})
    assert made.rows("reason")[0] == ("out_of_order",)


async def test_a_call_that_failed_is_none_to_come_after(made: Front) -> None:
    under(made, AFTER)
    made.u.script["second"] = raising(Unreachable("u", "it broke"))
    with pytest.raises(Unreachable):
        await ask(made, "second", {"id": 7})
    with pytest.raises(NotNow):
        await ask(made, "echo", {"order": 7})


async def test_nobody_comes_after_somebody_elses_call(made: Front) -> None:
    under(made, AFTER)
    await ask(made, "second", {"id": 7}, Caller("bob", "work"))
    with pytest.raises(NotNow):
        await ask(made, "echo", {"order": 7})


async def test_an_argument_that_has_to_be_the_same_and_is_missing_allows_nothing(made: Front) -> None:
    under(made, AFTER)
    await ask(made, "second", {})
    with pytest.raises(NotAvailable):
        await ask(made, "echo", {})


PERSON = "[[tasks.work.grant]]\ntools = ['u/echo']\napproval = 'person'\n"


async def waiting(made: Front) -> str:
    """The id of the one approval that is waited for."""
    now = made.transactions.now()
    [found] = await made.transactions.in_thread(lambda store: store.approvals(now))
    return found.id


async def answer(made: Front, approval_id: str, *, yes: bool = True) -> None:
    now = made.transactions.now()
    assert await made.transactions.in_thread(lambda s: s.answer(approval_id, yes=yes, by="carol", now=now))


async def test_an_approved_call_goes_through_once_and_only_as_it_was_approved(made: Front) -> None:
    under(made, PERSON)
    with pytest.raises(NotNow, match="waiting for a person's approval"):
        await ask(made, arguments={"a": 1, "b": 2})
    approval_id = await waiting(made)
    await answer(made, approval_id)
    for arguments, caller in (
        ({"a": 1, "b": 3}, None),
        ({"a": 1}, None),
        ({"a": 1, "b": 2, "c": None}, None),
        ({"a": 1, "b": 2}, Caller("bob", "work")),
        ({"a": 1, "b": 2}, Caller("alice", "work", person="mallory")),
    ):
        with pytest.raises(NotNow):
            await ask(made, arguments=arguments, caller=caller)
    assert made.u.asked == []
    await ask(made, arguments={"b": 2, "a": 1})
    with pytest.raises(NotNow):
        await ask(made, arguments={"a": 1, "b": 2})
    assert len(made.u.asked) == 1
    assert made.rows("decision, reason, approval")[0] == ("denied", "approval_pending", approval_id)
    assert ("allowed", "grant", approval_id) in made.rows("decision, reason, approval")


async def test_of_many_calls_at_once_one_uses_an_approval_up(made: Front) -> None:
    under(made, PERSON)
    with pytest.raises(NotNow):
        await ask(made)
    await answer(made, await waiting(made))
    answers = await asyncio.gather(*(ask(made) for _ in range(16)), return_exceptions=True)
    assert sum(isinstance(each, Outcome) for each in answers) == 1


async def test_a_held_call_goes_through_when_it_is_approved_meanwhile(made: Front, tmp_path: Path) -> None:
    under(made, PERSON)
    made.gateway._transactions = made.transactions = Transactions(tmp_path / "state", utc_now, 10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, made)

        async def is_waiting() -> bool:
            now = made.transactions.now()
            return bool(await made.transactions.in_thread(lambda store: store.approvals(now)))

        await until(is_waiting)
        assert made.u.asked == []
        await answer(made, await waiting(made))
    assert len(made.u.asked) == 1
    made.transactions.close()


async def test_a_held_call_that_is_given_up_is_written_down_and_sends_nothing(made: Front, tmp_path: Path) -> None:
    under(made, PERSON)
    made.gateway._transactions = made.transactions = Transactions(tmp_path / "state", utc_now, 10)
    holding = asyncio.create_task(ask(made))

    async def is_waiting() -> bool:
        now = made.transactions.now()
        return bool(await made.transactions.in_thread(lambda store: store.approvals(now)))

    await until(is_waiting)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    assert made.rows("decision, outcome") == [("allowed", "cancelled")]
    assert made.u.asked == []
    made.transactions.close()


async def test_a_call_a_person_declined_stays_declined(made: Front) -> None:
    under(made, PERSON)
    with pytest.raises(NotNow):
        await ask(made)
    await answer(made, await waiting(made), yes=False)
    for _ in range(2):
        with pytest.raises(NotNow, match="declined"):
            await ask(made)
    assert made.rows("reason")[-1] == ("approval_denied",)


async def test_an_approval_that_was_not_used_for_anything_sent_can_still_be_used(made: Front) -> None:
    under(made, "[[tasks.work.grant]]\ntools = ['u/routed']\napproval = 'person'\n")
    with pytest.raises(NotNow):
        await ask(made, "routed", {"region": 5})
    await answer(made, await waiting(made))
    for _ in range(2):
        with pytest.raises(BadArguments):
            await ask(made, "routed", {"region": 5})


async def test_what_nobody_can_read_whole_is_not_asked_about(made: Front) -> None:
    under(made, PERSON)
    with pytest.raises(NotNow, match="too large"):
        await ask(made, arguments={"text": "x" * 70_000})
    assert made.rows("reason") == [("approval_pending",)]


async def test_beyond_a_limit_another_grant_may_ask_a_person(made: Front) -> None:
    under(made, TEN + PERSON)
    for _ in range(10):
        await ask(made)
    with pytest.raises(NotNow, match="waiting"):
        await ask(made)
    assert len(made.u.asked) == 10


async def test_a_grant_that_demands_nothing_makes_all_demands_idle(made: Front) -> None:
    under(made, f"allow = ['u/echo']\n{TEN}")
    assert await how_many(made, 20) == 20


async def started(made: Front, **bounds: int) -> Caller:
    lasts, budget = timedelta(hours=1), Budget(**bounds)
    token, _ = made.tasks.start("alice", "work", lasts, utc_now(), budget=budget)
    task = made.tasks.verify(token, utc_now())
    assert task is not None
    return replace(made.caller(), started=task)


async def test_a_started_task_has_a_budget_of_calls(made: Front) -> None:
    under(made, "allow = ['u/echo']\nlimit = { calls = 5 }\n")
    caller, other = await started(made), await started(made, calls=2)
    assert await how_many(made, 20, caller=caller) == 5
    assert await how_many(made, 20, caller=other) == 2
    with pytest.raises(OverLimit, match="this task has used up its calls"):
        await ask(made, caller=caller)
    assert made.rows("reason")[-1] == ("budget_spent",)


async def test_a_started_task_has_a_budget_of_bytes_and_of_calls_at_once(made: Front) -> None:
    under(made, "allow = ['u/echo', 'u/hang']\nlimit = { bytes = 500, concurrent = 2 }\n")
    caller = await started(made)
    made.u.script["hang"] = Hanging()
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(ask, made, "hang", None, caller)
        await until(lambda: len(made.u.asked) == 2)
        with pytest.raises(OverLimit, match="calls at once"):
            await ask(made, caller=caller)
        tasks.cancel_scope.cancel()
    await ask(made, "echo", {"text": "x" * 300}, caller)
    with pytest.raises(OverLimit, match="bytes"):
        await ask(made, "echo", {"text": "x" * 300}, caller)


async def test_a_store_that_cannot_be_written_lets_nothing_through(made: Front, tmp_path: Path) -> None:
    under(made, TEN)
    (tmp_path / "state" / "transactions.db").write_bytes(b"no database at all, whoever reads it")
    (tmp_path / "state" / "transactions.db").chmod(0o600)
    with pytest.raises(StoreUnavailable):
        await ask(made)
    assert made.u.asked == []
    assert made.rows("outcome") == [("failed",)]


async def test_calls_without_terms_open_no_store(made: Front, tmp_path: Path) -> None:
    await ask(made)
    assert not (tmp_path / "state" / "transactions.db").exists()


async def test_model_calls_settle_what_they_really_took(made: Front) -> None:
    """The contract with other kinds of traffic: reserve an estimate, spend what it was, or give it back."""
    under(made, "allow = ['u/echo']\nlimit = { tokens = 100 }\n")
    caller = await started(made)
    now = made.gateway.snapshot
    request = Request("r", Verb.CALL, "tools/call", Kind.TOOL, "u__echo", {"name": "u__echo", "arguments": {}})
    target = now.catalog.find(Kind.TOOL, "u__echo")
    decision = decide(now.policy, caller, request, target, utc_now())
    held = await made.transactions.reserve(caller, request, target, decision, spending=Spending(tokens=90))
    refused = await made.transactions.reserve(caller, request, target, decision, spending=Spending(tokens=20))
    assert (held.decision.allowed, refused.decision.reason.value) == (True, "budget_spent")
    held.is_sent = True
    held.spend(tokens=30)
    await held.settle(Outcome(OutcomeStatus.OK))
    second = await made.transactions.reserve(caller, request, target, decision, spending=Spending(tokens=70))
    assert second.decision.allowed
    await second.settle(Outcome(OutcomeStatus.FAILED))  # never sent: given back
    third = await made.transactions.reserve(caller, request, target, decision, spending=Spending(tokens=71))
    assert not third.decision.allowed
    scope = decision.terms.scope if decision.terms else ""
    with_store: TransactionStore = made.transactions.store
    assert with_store.state(scope, made.transactions.now()).tokens == 30
