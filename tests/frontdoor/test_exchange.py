"""The answer to one POST, whoever reads it and however slowly."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from fakes.front import events
from fakes.waiting import until
from mcp_gateway.domain import Caller, Json
from mcp_gateway.frontdoor import exchange
from mcp_gateway.frontdoor.exchange import Closers, EventStream, Exchange, over_or_hung_up, sse_event

ALICE, BOB = Caller("alice", "work", credential_id="a"), Caller("bob", "work", credential_id="b")
NOTE = {"jsonrpc": "2.0", "method": "note"}
ANSWER = {"jsonrpc": "2.0", "id": 1, "result": {}}


class Wire:
    """The ASGI side: takes messages while it `reads`, and hangs up when told."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.hung_up = asyncio.Event()

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        self.sent.append(message)

    async def receive(self) -> Any:
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def body(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    @property
    def is_stream(self) -> bool:
        return (b"content-type", b"text/event-stream") in self.sent[0]["headers"]

    @property
    def is_complete(self) -> bool:
        return bool(self.sent) and self.sent[-1]["type"].endswith("body") and not self.sent[-1].get("more_body")


async def answering() -> tuple[int, Json]:
    return 200, ANSWER


@asynccontextmanager
async def running(
    made: Exchange, work: Any, closers: Closers | None = None, *, hang_up_cancels: bool = True
) -> AsyncIterator[Callable[[], bool]]:
    """`made.run` in a task of its own; yields whether it has ended."""
    ended = asyncio.Event()

    async def run() -> None:
        await made.run(work, closers or Closers(), ALICE, hang_up_cancels=hang_up_cancels)
        ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        yield ended.is_set
        tasks.cancel_scope.cancel()


async def test_an_answer_that_comes_alone_is_plain_json() -> None:
    wire = Wire()
    await Exchange(wire.receive, wire.send, [(b"x", b"y")]).run(answering, Closers(), ALICE, hang_up_cancels=True)
    assert (wire.status, json.loads(wire.body), wire.is_stream) == (200, ANSWER, False)
    assert (b"x", b"y") in wire.sent[0]["headers"]
    assert len(wire.sent) == 2


async def test_an_answer_after_a_notification_is_the_last_event() -> None:
    wire = Wire()
    made = Exchange(wire.receive, wire.send)

    async def work() -> tuple[int, Json]:
        made.put(NOTE)
        made.put(NOTE)
        return 200, ANSWER

    await made.run(work, Closers(), ALICE, hang_up_cancels=True)
    assert wire.is_stream
    assert events(wire.body) == [NOTE, NOTE, ANSWER]
    assert wire.is_complete


async def test_a_long_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "PING_EVERY_S", 0.01)
    wire = Wire()

    async def work() -> tuple[int, Json]:
        await until(lambda: wire.body.count(": ping\n\n") >= 2)
        return 200, ANSWER

    await Exchange(wire.receive, wire.send).run(work, Closers(), ALICE, hang_up_cancels=True)
    assert events(wire.body) == [ANSWER]


async def test_hanging_up_cancels_where_it_is_meant_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "WATCH_AFTER_S", 0)
    wire = Wire()
    async with running(Exchange(wire.receive, wire.send), anyio.sleep_forever) as ended:
        wire.hung_up.set()
        await until(ended)


async def test_hanging_up_cancels_nothing_where_it_is_not_meant_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "WATCH_AFTER_S", 0)
    wire, go_on = Wire(), asyncio.Event()

    async def work() -> tuple[int, Json]:
        await go_on.wait()
        return await answering()

    wire.hung_up.set()
    async with running(Exchange(wire.receive, wire.send), work, hang_up_cancels=False) as ended:
        go_on.set()
        await until(ended)
    assert events("data: " + wire.body) == [ANSWER]


async def test_a_cancelled_request_gets_an_empty_response_and_no_answer() -> None:
    wire = Wire()
    made = Exchange(wire.receive, wire.send)
    async with running(made, anyio.sleep_forever) as ended:
        made.cancel()
        await until(ended)
    assert (wire.status, wire.body) == (202, "")


async def test_a_request_whose_credential_is_revoked_gets_401() -> None:
    wire, closers = Wire(), Closers()
    async with running(Exchange(wire.receive, wire.send), anyio.sleep_forever, closers) as ended:
        await until(lambda: closers._open)
        closers.close_where(lambda caller: caller.agent == "alice")
        await until(ended)
    assert wire.status == 401
    assert b"www-authenticate" in dict(wire.sent[0]["headers"])


async def test_a_stream_whose_credential_is_revoked_ends_without_an_answer() -> None:
    wire, closers = Wire(), Closers()
    made = Exchange(wire.receive, wire.send)
    async with running(made, anyio.sleep_forever, closers) as ended:
        made.put(NOTE)
        await until(lambda: wire.body)
        closers.close_where(lambda _: True)
        await until(ended)
    assert events(wire.body) == [NOTE]
    assert wire.is_complete


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_bug_is_no_answer(is_stream: bool) -> None:
    wire = Wire()
    made = Exchange(wire.receive, wire.send)

    async def work() -> tuple[int, Json]:
        if is_stream:
            made.put(NOTE)
            await until(lambda: wire.sent)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await made.run(work, Closers(), ALICE, hang_up_cancels=True)
    assert not wire.is_complete


async def test_a_reader_that_does_not_read_loses_notifications_and_gets_the_answer() -> None:
    wire = Wire()
    made = Exchange(wire.receive, wire.send)

    async def work() -> tuple[int, Json]:
        for number in range(10_000):
            made.put({"n": number})
        wire.reads.clear()
        await until(lambda: made._stream.started)
        for number in range(10_000, 20_000):
            made.put({"n": number})
        wire.reads.set()
        return 200, ANSWER

    await made.run(work, Closers(), ALICE, hang_up_cancels=True)
    *told, last = events(wire.body)
    assert last == ANSWER
    assert len(told) <= 2 * exchange.MAX_UNSENT
    assert told[-1] == {"n": 19_999}
    assert told == sorted(told, key=lambda message: message["n"])


async def test_large_notifications_are_bounded_by_their_bytes() -> None:
    wire = Wire()
    stream = EventStream(wire.send)
    wire.reads.clear()
    for number in range(20):
        stream.put({"n": number, "blob": "x" * 200_000})
    assert stream._unsent_bytes <= exchange.MAX_UNSENT_BYTES
    wire.reads.set()
    await stream.end()
    assert [message["n"] for message in events(wire.body)] == [15, 16, 17, 18, 19]


async def test_a_reader_that_never_takes_its_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SEND_TIMEOUT_S", 0.01)
    wire = Wire()
    stream = EventStream(wire.send)
    wire.reads.clear()
    stream.put(NOTE)
    await stream.end(ANSWER)
    assert wire.sent == []


async def test_a_stream_that_never_began_ends_without_a_word() -> None:
    wire = Wire()
    await EventStream(wire.send).end(ANSWER)
    assert wire.sent == []


async def test_waiting_tells_who_ended_it() -> None:
    wire, over = Wire(), asyncio.Event()
    over.set()
    assert await over_or_hung_up(over, wire.receive) is False
    wire.hung_up.set()
    assert await over_or_hung_up(asyncio.Event(), wire.receive) is True


def test_an_event_is_one_line_whatever_its_text() -> None:
    assert sse_event({"a": "1\r\n\u2028data: x"}).count(b"\n") == 3


def test_each_credential_is_asked_about_once() -> None:
    closers, closed, asked = Closers(), [], []
    for number in range(3):
        closers.add(ALICE, lambda number=number: closed.append(number))  # type: ignore[misc]
    closers.add(BOB, lambda: closed.append("bob"))

    def ends(caller: Caller) -> bool:
        asked.append(caller.agent)
        return caller.agent == "alice"

    closers.close_where(ends)
    assert (sorted(asked), closed) == (["alice", "bob"], [0, 1, 2])


def test_what_was_discarded_is_not_closed() -> None:
    closers = Closers()
    key = closers.add(ALICE, lambda: pytest.fail("closed"))
    closers.discard(key)
    closers.discard(key)
    closers.close_where(lambda _: True)


def test_a_gateway_that_stops_ends_streams_and_lets_calls_finish() -> None:
    closers, closed = Closers(), []
    closers.add(ALICE, lambda: closed.append("stream"))
    closers.add(ALICE, lambda: closed.append("call"), is_stream=False)
    closers.close_streams()
    assert closed == ["stream"]


async def test_an_answer_given_early_is_all_that_is_sent_and_the_work_goes_on() -> None:
    wire, made, goes_on = Wire(), None, asyncio.Event()
    made = Exchange(wire.receive, wire.send)
    closers = Closers()

    async def work() -> None:
        made.answer_early(200, ANSWER)
        await goes_on.wait()

    async with running(made, work, closers) as ended:
        await until(lambda: wire.is_complete)
        wire.hung_up.set()  # uvicorn says so of every answered request; it is no hanging up
        await anyio.wait_all_tasks_blocked()
        assert not ended()
        assert len(closers._open) == 1
        goes_on.set()
        await until(ended)
    assert json.loads(wire.body) == ANSWER
    assert len(wire.sent) == 2
    assert closers._open == {}


async def test_an_answer_given_early_ends_a_stream_that_had_begun() -> None:
    wire = Wire()
    made = Exchange(wire.receive, wire.send)

    async def work() -> None:
        made.put(NOTE)
        made.answer_early(200, ANSWER)
        await anyio.sleep_forever()

    async with running(made, work) as ended:
        await until(lambda: wire.is_complete)
        assert not ended()
        made.cancel()
        await until(ended)
    assert events(wire.body) == [NOTE, ANSWER]


async def test_a_revoked_call_that_was_answered_early_ends_without_a_second_answer() -> None:
    wire, closers = Wire(), Closers()
    made = Exchange(wire.receive, wire.send)

    async def work() -> None:
        made.answer_early(200, ANSWER)
        await anyio.sleep_forever()

    async with running(made, work, closers) as ended:
        await until(lambda: wire.is_complete)
        closers.close_where(lambda caller: True)
        await until(ended)
    assert len(wire.sent) == 2


async def test_questions_are_not_dropped_and_a_reader_too_far_behind_is_asked_nothing_more() -> None:
    wire = Wire()
    wire.reads.clear()
    stream = EventStream(wire.send)
    big = {"jsonrpc": "2.0", "id": "q", "params": "x" * exchange.MAX_UNSENT_BYTES}
    stream.keep(NOTE)
    stream.keep(big)
    for _ in range(exchange.MAX_UNSENT * 2):
        stream.put({"jsonrpc": "2.0", "method": "chatter"})
    with pytest.raises(LookupError):
        stream.keep(NOTE)
    wire.reads.set()
    await stream.end(ANSWER)
    told = events(wire.body)
    assert [message for message in told if message in (NOTE, big)] == [NOTE, big]
    assert told[-1] == ANSWER


async def test_a_stream_that_begins_once_the_gateway_stops_ends_at_once() -> None:
    closers, closed = Closers(), []
    closers.close_streams()
    closers.add(ALICE, lambda: closed.append("stream"))
    closers.add(ALICE, lambda: closed.append("call"), is_stream=False)
    await anyio.wait_all_tasks_blocked()
    assert closed == ["stream"]


async def test_the_same_news_is_sent_once_while_it_is_unsent_and_crowds_nothing_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exchange, "MAX_UNSENT", 2)
    monkeypatch.setattr(exchange, "MAX_NEWS", 3)
    wire = Wire()
    stream = EventStream(wire.send)
    stream.put({"first": 1})
    for _ in range(10):
        for number in range(4):
            stream.put_once({"news": number})
    await stream.end({"last": 1})
    assert events(wire.body) == [{"first": 1}, {"news": 0}, {"news": 1}, {"news": 2}, {"last": 1}]
    assert wire.is_complete


async def test_news_alone_makes_a_stream_of_an_answer() -> None:
    wire = Wire()
    stream = EventStream(wire.send)
    stream.put_once(NOTE)
    await until(lambda: "note" in wire.body)
    await stream.end()
    assert wire.is_stream
