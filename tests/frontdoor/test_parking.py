"""Calls that wait for their agent: whose they are, how long, how many, and that nothing of them is left."""

import asyncio
from dataclasses import replace
from typing import Any

import anyio
import pytest

from fakes.waiting import until
from mcp_gateway.domain import Caller, Json
from mcp_gateway.frontdoor import parking
from mcp_gateway.frontdoor.exchange import Closers
from mcp_gateway.frontdoor.parking import MAX_QUESTIONS, ParkedCall, ParkingLot, Questions
from mcp_gateway.frontdoor.replies import AgentReply

ALICE = Caller("alice", "work", person="ann", credential_id="k1")
CAN: Json = {"elicitation": {}, "sampling": {}, "roots": {}}
FORM = "elicitation/create"
DONE: Json = {"result": {"content": []}}
PROGRESS = "notifications/progress"


class Made:
    """One call that can be parked, and what became of it."""

    def __init__(self, lot: ParkingLot, caller: Caller = ALICE) -> None:
        self.said: list[Json] = []
        self.asked: list[Questions] = []
        self.cancelled = 0
        self.reply = AgentReply(self.said.append, {"_meta": {"progressToken": "first"}}, capabilities=CAN)
        self.call = ParkedCall(lot, caller, self.reply, self.asked.append, self.cancel)

    def cancel(self) -> None:
        self.cancelled += 1

    def ask(self, message: str = "?", method: str = FORM, **more: Any) -> asyncio.Task[Json]:
        return asyncio.ensure_future(self.reply.ask(method, {"message": message, **more}))

    async def parked(self, count: int = 1) -> Questions:
        await until(lambda: len(self.asked) == count)
        return self.asked[-1]


@pytest.fixture
def closers() -> Closers:
    return Closers()


@pytest.fixture
def lot(closers: Closers) -> ParkingLot:
    return ParkingLot(closers)


async def test_what_is_asked_together_travels_together_and_the_answers_find_their_way(lot: ParkingLot) -> None:
    made = Made(lot)
    tasks = [made.ask("one"), made.ask("two"), made.ask(method="roots/list")]
    asked = await made.parked()
    assert [request["method"] for request in asked.requests.values()] == [FORM, FORM, "roots/list"]
    call = lot.take(asked.handle, ALICE)
    assert call is made.call
    call.resume({key: {"n": n} for n, key in enumerate(asked.requests)} | {"other": {"x": 1}})
    assert [await task for task in tasks] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert made.call._questions == {}
    assert len(lot) == 0


async def test_what_was_not_answered_is_asked_again_at_once(lot: ParkingLot) -> None:
    made = Made(lot)
    first, second = made.ask("one"), made.ask("two")
    asked = await made.parked()
    keys = list(asked.requests)
    call = lot.take(asked.handle, ALICE)
    assert call is not None
    call.resume({keys[0]: {"a": 1}, keys[1]: "no object"})
    again = await call.turn(made.said.append, {})
    assert isinstance(again, Questions)
    assert list(again.requests) == [keys[1]]
    assert again.handle != asked.handle
    assert await first == {"a": 1}
    call.give_up()
    with pytest.raises(LookupError):
        await second


async def test_a_handle_works_once_and_only_for_its_caller(lot: ParkingLot) -> None:
    made = Made(lot)
    task = made.ask()
    handle = (await made.parked()).handle
    others = {"agent": "bob", "person": "bill", "task": "rest", "credential_id": "k2"}
    assert [lot.take(handle, replace(ALICE, **{name: value})) for name, value in others.items()] == [None] * 4
    assert lot.take("nothing", ALICE) is None
    assert lot.take("", ALICE) is None
    assert lot.take(handle, replace(ALICE, claims={"iat": 2})) is made.call
    assert lot.take(handle, ALICE) is None
    task.cancel()


async def test_a_question_asked_while_nobody_is_there_waits_for_the_next_request(lot: ParkingLot) -> None:
    made = Made(lot)
    first = made.ask("one")
    asked = await made.parked()
    call = lot.take(asked.handle, ALICE)
    assert call is not None
    second = made.ask("two")
    await anyio.wait_all_tasks_blocked()
    assert len(made.asked) == 1
    call.resume({"q1": {}})
    said = await call.turn(made.said.append, {})
    assert isinstance(said, Questions)
    assert list(said.requests) == ["q2"]
    assert await first == {}
    second.cancel()


async def test_the_answer_waits_for_whoever_comes(lot: ParkingLot) -> None:
    made = Made(lot)
    made.ask()
    handle = (await made.parked()).handle
    made.reply.finish()
    made.call.finish(DONE)
    call = lot.take(handle, ALICE)
    assert call is not None
    assert await call.turn(made.said.append, {}) == DONE
    assert len(lot) == 0


async def test_the_answer_goes_to_whoever_waits(lot: ParkingLot) -> None:
    made = Made(lot)
    made.ask()
    call = lot.take((await made.parked()).handle, ALICE)
    assert call is not None
    call.resume({"q1": {}})
    waiting = asyncio.ensure_future(call.turn(made.said.append, {}))
    await anyio.wait_all_tasks_blocked()
    call.finish(DONE)
    assert await waiting == DONE


async def test_each_request_hears_progress_under_its_own_token_and_nobody_in_between(lot: ParkingLot) -> None:
    made = Made(lot)
    later: list[Json] = []
    await made.reply.progress({"progress": 1})
    made.ask()
    call = lot.take((await made.parked()).handle, ALICE)
    assert call is not None
    await made.reply.progress({"progress": 2})
    call.resume({"q1": {}})
    waiting = asyncio.ensure_future(call.turn(later.append, {"_meta": {"progressToken": "second"}}))
    await anyio.wait_all_tasks_blocked()
    await made.reply.progress({"progress": 3})
    call.finish(DONE)
    await waiting
    assert [message["params"] for message in made.said] == [{"progress": 1, "progressToken": "first"}]
    assert [message["params"] for message in later] == [{"progress": 3, "progressToken": "second"}]


async def test_a_call_nobody_comes_back_to_is_cancelled_when_its_time_is_over(closers: Closers) -> None:
    lot = ParkingLot(closers, ttl_s=0.02)
    made = Made(lot)
    task = made.ask()
    handle = (await made.parked()).handle
    await until(lambda: made.cancelled)
    with pytest.raises(LookupError):
        await task
    assert lot.take(handle, ALICE) is None
    assert (len(lot), lot._count_of, closers._open) == (0, {}, {})


@pytest.mark.parametrize("how", ["revoke", "stop", "close"])
async def test_a_parked_call_ends_with_what_it_hangs_on(lot: ParkingLot, closers: Closers, how: str) -> None:
    made, others = Made(lot), Made(lot, replace(ALICE, agent="bob", credential_id="k2"))
    tasks = [made.ask(), others.ask()]
    await made.parked()
    await others.parked()
    if how == "revoke":
        closers.close_where(lambda caller: caller.credential_id == "k1")
    elif how == "stop":
        closers.close_streams()
    else:
        lot.close()
    assert (made.cancelled, others.cancelled) == (1, 0 if how == "revoke" else 1)
    with pytest.raises(LookupError):
        await tasks[0]
    others.call.give_up()
    with pytest.raises(LookupError):
        await tasks[1]
    assert (len(lot), lot._count_of, closers._open) == (0, {}, {})


async def test_nothing_is_parked_once_the_gateway_stops(lot: ParkingLot, closers: Closers) -> None:
    closers.close_streams()
    made = Made(lot)
    with pytest.raises(LookupError):
        await made.ask()
    assert made.cancelled == 1
    lot.close()
    late = Made(lot)
    with pytest.raises(LookupError, match="nobody will answer"):
        await late.ask()
    assert late.asked == []


async def test_parked_calls_are_bounded_per_agent_and_overall(
    closers: Closers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "MAX_PARKED_PER_AGENT", 2)
    monkeypatch.setattr(parking, "MAX_PARKED", 3)
    lot = ParkingLot(closers)

    async def park(agent: str) -> Made:
        made = Made(lot, replace(ALICE, agent=agent))
        task = asyncio.ensure_future(made.reply.ask(FORM, {}))
        await until(lambda: made.asked or task.done())
        if task.done():
            await task
        return made

    alices = [await park("alice") for _ in range(2)]
    with pytest.raises(LookupError, match="too many calls"):
        await park("alice")
    await park("bob")
    with pytest.raises(LookupError, match="too many calls"):
        await park("carol")
    taken = lot.take(alices[0].asked[0].handle, alices[0].call.caller)
    assert taken is alices[0].call
    await park("carol")
    with pytest.raises(LookupError, match="too many calls"):
        await alices[0].reply.ask(FORM, {})  # it left its place
    for place in list(lot._parked.values()):
        place.call.give_up()


async def test_a_call_that_has_its_place_may_ask_more_up_to_a_bound(lot: ParkingLot) -> None:
    made = Made(lot)
    tasks = [made.ask(str(n)) for n in range(MAX_QUESTIONS)]
    await made.parked()
    with pytest.raises(LookupError, match="too many unanswered"):
        await made.ask("one more")
    made.call.give_up()
    assert len(await asyncio.gather(*tasks, return_exceptions=True)) == MAX_QUESTIONS
    assert made.call._questions == {}


async def test_a_call_that_ends_before_its_question_left_is_answered_as_if_it_had_not_asked(lot: ParkingLot) -> None:
    made = Made(lot)
    task = made.ask()
    await asyncio.sleep(0)
    made.reply.finish()
    with pytest.raises(LookupError):
        await task
    await anyio.wait_all_tasks_blocked()
    assert (made.asked, made.call.has_left, len(lot)) == ([], False, 0)


async def test_an_agent_that_goes_while_it_waits_is_asked_nothing_more(lot: ParkingLot) -> None:
    made = Made(lot)
    made.ask()
    call = lot.take((await made.parked()).handle, ALICE)
    assert call is not None
    waiting = asyncio.ensure_future(call.turn(made.said.append, {}))
    await asyncio.sleep(0)
    waiting.cancel()
    made.ask("more")
    await anyio.wait_all_tasks_blocked()
    assert len(lot) == 0
    call.give_up()
    assert made.cancelled == 1


async def test_a_modern_agent_gets_nothing_that_only_the_handshake_era_has(lot: ParkingLot) -> None:
    made = Made(lot)
    made.reply.capabilities = {"elicitation": {"url": {}}}
    task = made.ask(mode="url", url="https://u.example/", elicitationId="e")
    [request] = (await made.parked()).requests.values()
    assert request["params"] == {"message": "?", "mode": "url", "url": "https://u.example/"}
    task.cancel()
