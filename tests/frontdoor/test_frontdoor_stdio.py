"""One agent on the standard streams: both eras, odd lines, and every way to end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from fakes.front import META, POLICY, Front, initialize, parts, request
from fakes.upstream import Hanging, progressing, raising, text
from fakes.waiting import until
from mcp_gateway.domain import Caller, Json, Outcome, OutcomeStatus, Reply, RpcError, Strength, UpstreamRequest
from mcp_gateway.frontdoor import stdio
from mcp_gateway.frontdoor.stdio import StdioDoor

MAX_LINE = 100_000


class Agent:
    """The other end of the wire: sends lines or bytes, keeps what it is told while it `reads`."""

    def __init__(self) -> None:
        self.stdin = asyncio.StreamReader()
        self.told: list[Json] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.is_gone = False
        self.door: StdioDoor

    def say(self, *messages: Any) -> None:
        for message in messages:
            self.stdin.feed_data(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes) -> None:
        if self.is_gone:
            raise BrokenPipeError
        assert data.endswith(b"\n")
        self.told += [json.loads(line) for line in data.splitlines()]

    async def drain(self) -> None:
        await self.reads.wait()
        if self.is_gone:
            raise BrokenPipeError

    async def answer(self, id_: Any) -> Json:
        """The answer to the request with that id."""

        def found() -> Json | None:
            return next((m for m in self.told if m.get("id") == id_ and "method" not in m), None)

        return await until(found)  # type: ignore[return-value]


def modern(method: str, params: Json | None = None, id_: Any = 1) -> Json:
    given = params or {}
    return request(method, {**given, "_meta": {**META, **given.get("_meta", {})}}, id_)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Front]:
    async with parts(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def speaking(made: Front) -> AsyncIterator[Agent]:
    """An agent whose stdin ends with the block; then the door must end too."""

    def caller() -> Caller:
        assigned = made.gateway.assignment("alice")
        return Caller("alice", assigned.default_task if assigned else None, strength=Strength.STDIO)

    agent = Agent()
    agent.door = door = StdioDoor(made.answers, made.rounds, made.bulletin, caller, MAX_LINE)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(door.serve, agent.stdin, agent)
            yield agent
            agent.stdin.feed_eof()
    assert made.bulletin._subscribers == set()


# Eras


async def test_a_handshake_and_the_calls_after_it(made: Front) -> None:
    async with speaking(made) as agent:
        agent.say(initialize(), {"jsonrpc": "2.0", "method": "notifications/initialized"})
        agent.say(request("tools/list", id_=1), request("tools/call", {"name": "u__echo", "arguments": {"a": 1}}, 2))
        assert (await agent.answer(0))["result"]["protocolVersion"] == "2025-11-25"
        assert "resultType" not in (await agent.answer(1))["result"]
        assert (await agent.answer(2))["result"]["content"][0]["text"] == "{'a': 1}"
    assert [row[0] for row in made.rows("identity_strength")] == ["stdio", "stdio"]


async def test_modern_requests_need_no_handshake(made: Front) -> None:
    async with speaking(made) as agent:
        agent.say(modern("server/discover", id_=1), modern("tools/call", {"name": "u__echo"}, "2"))
        assert (await agent.answer(1))["result"]["resultType"] == "complete"
        assert (await agent.answer("2"))["result"]["resultType"] == "complete"


async def test_both_eras_share_one_connection(made: Front) -> None:
    async with speaking(made) as agent:
        agent.say(modern("tools/list", id_=1), initialize(id_=2), request("tools/list", id_=3))
        agent.say(modern("tools/list", id_=4), request("ping", id_=5), modern("ping", id_=6))
        for id_, era in ((1, "modern"), (3, "legacy"), (4, "modern")):
            assert ("resultType" in (await agent.answer(id_))["result"]) is (era == "modern")
        assert (await agent.answer(5))["result"] == {}
        assert (await agent.answer(6))["error"]["code"] == -32601


@pytest.mark.parametrize("method", ["tools/list", "tools/call", "server/discover", "nonsense"])
async def test_before_any_handshake_a_request_without_an_envelope_is_refused(made: Front, method: str) -> None:
    async with speaking(made) as agent:
        agent.say(request(method, {"name": "u__echo"}), request("ping", id_=2))
        assert (await agent.answer(1))["error"]["code"] == -32602
        assert (await agent.answer(2))["result"] == {}
    assert made.u.asked == []


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        ({"io.modelcontextprotocol/protocolVersion": "2099-01-01"}, -32022),
        ({"io.modelcontextprotocol/protocolVersion": 1}, -32602),
        ({"io.modelcontextprotocol/clientCapabilities": None}, None),
    ],
)
async def test_an_envelope_is_checked(made: Front, meta: Json, code: int | None) -> None:
    async with speaking(made) as agent:
        agent.say(modern("tools/list", {"_meta": meta}))
        assert (await agent.answer(1)).get("error", {}).get("code") == code


async def test_denied_and_unknown_are_the_same(made: Front) -> None:
    async with speaking(made) as agent:
        agent.say(initialize())
        for method, params, denied, unknown in (
            ("tools/call", "name", "u__secret", "u__secreu"),
            ("prompts/get", "name", "u__hush", "u__husi"),
            ("resources/read", "uri", "note:///shut", "note:///shuu"),
        ):
            for make in (request, modern):
                agent.say(make(method, {params: denied}, "a"), make(method, {params: unknown}, "b"))
                one, two = await agent.answer("a"), await agent.answer("b")
                assert json.dumps(one["error"]).replace(denied, "X") == json.dumps(two["error"]).replace(unknown, "X")
                agent.told.clear()
    assert made.u.asked == []


# Lines


async def test_odd_lines_are_answered_or_skipped_and_the_next_one_is_served(made: Front) -> None:
    async with speaking(made) as agent:
        for line in (b"", b"   ", b"\r", b"\t\r"):
            agent.stdin.feed_data(line + b"\n")
        for line in (b"{", b"nonsense", b"[]", b"null", b'{"jsonrpc":"2.0","id":7}', b"\xff\xfe", b"\x00", b"[" * 5000):
            agent.stdin.feed_data(line + b"\n")
        agent.stdin.feed_data(json.dumps(modern("tools/list", id_="last")).encode() + b"\r\n")
        await agent.answer("last")
    errors = [message["error"]["code"] for message in agent.told if "error" in message]
    assert len(errors) == 8
    assert set(errors) <= {-32700, -32600}


async def test_a_refusal_has_the_id_of_its_request(made: Front) -> None:
    async with speaking(made) as agent:
        agent.say({"jsonrpc": "1.0", "id": "mine", "method": "ping"})
        assert (await agent.answer("mine"))["error"]["code"] == -32600


@pytest.mark.parametrize("size", [1, 2, 7, 50])
async def test_a_message_may_come_in_pieces(made: Front, size: int) -> None:
    async with speaking(made) as agent:
        sent = b"".join(json.dumps(modern("tools/list", id_=n)).encode() + b"\n" for n in (1, 2))
        for start in range(0, len(sent), size):
            agent.stdin.feed_data(sent[start : start + size])
        await agent.answer(1)
        await agent.answer(2)


@pytest.mark.parametrize("in_pieces", [True, False])
async def test_a_line_that_is_too_long_is_skipped_whole(made: Front, in_pieces: bool) -> None:
    async with speaking(made) as agent:
        long = json.dumps(modern("tools/call", {"name": "u__echo", "arguments": {"x": "y" * 3 * MAX_LINE}})).encode()
        for piece in [long[i : i + 1000] for i in range(0, len(long), 1000)] if in_pieces else [long]:
            agent.stdin.feed_data(piece)
            await anyio.lowlevel.checkpoint()
        agent.stdin.feed_data(b"\n")
        agent.say(modern("tools/list", id_="next"))
        await agent.answer("next")
    assert [m["error"]["code"] for m in agent.told if "error" in m] == [-32600]
    assert made.u.asked == []


async def test_a_line_of_exactly_the_limit_is_read(made: Front) -> None:
    async with speaking(made) as agent:
        agent.stdin.feed_data(json.dumps(modern("tools/list")).encode().ljust(MAX_LINE) + b"\n")
        assert "result" in await agent.answer(1)


# Ending


async def test_what_was_asked_before_the_end_is_still_answered(made: Front) -> None:
    async with speaking(made) as agent:
        agent.say(initialize(), *(request("tools/call", {"name": "u__echo"}, n) for n in range(1, 10)))
    assert sorted(message["id"] for message in agent.told) == list(range(10))


async def test_the_last_line_needs_no_line_feed(made: Front) -> None:
    async with speaking(made) as agent:
        agent.stdin.feed_data(json.dumps(modern("tools/list")).encode())
    assert agent.told[0]["id"] == 1


async def test_half_a_message_at_the_end_is_a_parse_error(made: Front) -> None:
    async with speaking(made) as agent:
        agent.stdin.feed_data(json.dumps(modern("tools/call", {"name": "u__echo"})).encode()[:-1])
    assert agent.told[0]["error"]["code"] == -32700
    assert made.u.asked == []


async def test_a_call_that_takes_too_long_after_the_end_is_cancelled(
    made: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "DRAIN_S", 0.02)
    made.u.script["hang"] = hanging = Hanging()
    async with speaking(made) as agent:
        agent.say(modern("tools/call", {"name": "u__hang"}))
        await until(lambda: hanging.replies)
    assert agent.told == []
    assert made.rows("outcome") == [("cancelled",)]


async def test_an_agent_that_does_not_read_any_more_ends_everything(made: Front) -> None:
    made.u.script["hang"] = hanging = Hanging()
    async with speaking(made) as agent:
        agent.say(modern("tools/call", {"name": "u__hang"}, 1))
        await until(lambda: hanging.replies)
        agent.is_gone = True
        agent.say(modern("tools/list", id_=2))
        await until(lambda: made.u.cancelled)
    assert made.rows("outcome")[0] == ("cancelled",)


async def test_a_thousand_requests_at_once_are_all_answered(made: Front) -> None:
    async with speaking(made) as agent:
        agent.say(*(modern("tools/call", {"name": "u__echo"}, n) for n in range(1000)))
    assert sorted(message["id"] for message in agent.told) == list(range(1000))
    assert all("result" in message for message in agent.told)


async def test_an_agent_that_asks_and_never_reads_is_not_read_from_for_ever(
    made: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "MAX_UNSENT_BYTES", 100_000)
    async with speaking(made) as agent:
        agent.reads.clear()
        agent.say(*(modern("tools/list", id_=n) for n in range(2000)))
        await until(lambda: len(made.rows()) > 20 and not agent.door._session.has_in_flight)
        assert len(made.rows()) < 2000
        assert agent.stdin._buffer  # type: ignore[attr-defined]
        agent.reads.set()
    assert len(agent.told) == 2000


# What a request may do while it runs


async def test_progress_is_told_before_the_answer_and_never_after(made: Front) -> None:
    made.u.script["echo"] = progressing({"progress": 1}, {"progress": 1}, {"progress": 2})
    async with speaking(made) as agent:
        agent.say(modern("tools/call", {"name": "u__echo", "_meta": {"progressToken": "t"}}))
        await agent.answer(1)
    assert [message.get("params", {}).get("progress") for message in agent.told] == [1, 2, None]


@pytest.mark.parametrize("make", [request, modern])
async def test_a_cancelled_call_is_not_answered(made: Front, make: Any) -> None:
    made.u.script["hang"] = hanging = Hanging()
    async with speaking(made) as agent:
        agent.say(initialize(), make("tools/call", {"name": "u__hang"}, 5))
        await until(lambda: hanging.replies)
        agent.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "5"}})
        agent.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}})
        await until(lambda: made.u.cancelled)
        agent.say(make("tools/list", {}, 5))
        assert "tools" in (await agent.answer(5))["result"]
    assert [message["id"] for message in agent.told] == [0, 5]


async def test_an_id_in_flight_is_refused_and_its_first_call_goes_on(made: Front) -> None:
    made.u.script["hang"] = hanging = Hanging()
    async with speaking(made) as agent:
        agent.say(modern("tools/call", {"name": "u__hang"}, 5))
        await until(lambda: hanging.replies)
        agent.say(modern("tools/list", id_=5))
        await until(lambda: agent.told)
        hanging.released.set()
    assert [("error" in m, m["id"]) for m in agent.told] == [(True, 5), (False, 5)]
    assert agent.told[0]["error"]["code"] == -32600


async def test_too_many_requests_at_once_are_refused_in_the_words_of_their_era(
    made: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_gateway.frontdoor.session.MAX_IN_FLIGHT", 1)
    made.u.script["hang"] = hanging = Hanging()
    async with speaking(made) as agent:
        agent.say(modern("tools/call", {"name": "u__hang"}, 1))
        await until(lambda: hanging.replies)
        agent.say(modern("tools/call", {"name": "u__hang"}, 2), modern("prompts/get", {"name": "u__greet"}, 3))
        assert (await agent.answer(2))["result"]["resultType"] == "complete"
        assert (await agent.answer(3))["error"]["code"] == 429
        hanging.released.set()


async def test_a_bug_ends_one_request_and_not_the_process(made: Front) -> None:
    made.u.script["echo"] = raising(ZeroDivisionError("secret"))
    async with speaking(made) as agent:
        agent.say(modern("tools/call", {"name": "u__echo"}, 1), modern("tools/list", id_=2))
        assert (await agent.answer(1))["error"] == {"code": -32603, "message": "internal error"}
        assert "result" in await agent.answer(2)


async def test_an_error_that_json_cannot_carry_ends_one_request_only(made: Front) -> None:
    async def odd(request: UpstreamRequest, reply: Reply) -> Outcome:
        return Outcome(OutcomeStatus.RPC_ERROR, error=RpcError(1, "m", 2**70))

    made.u.script["echo"] = odd
    async with speaking(made) as agent:
        agent.say(modern("tools/call", {"name": "u__echo"}, 1), modern("tools/list", id_=2))
        assert (await agent.answer(1))["error"]["code"] == -32603
        assert "result" in await agent.answer(2)


# Changed lists


async def test_changed_lists_are_told_once_initialized(made: Front) -> None:
    async with speaking(made) as agent:
        made.offer(policy=POLICY.replace('"u/second", ', ""))
        agent.say(initialize())
        await agent.answer(0)
        made.offer(policy=POLICY)
        made.offer("nobody_may_see_it")
        await until(lambda: len(agent.told) == 2)
    assert agent.told[1] == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


async def test_a_default_task_that_changes_is_followed(made: Front) -> None:
    async with speaking(made) as agent:
        agent.say(initialize())
        await agent.answer(0)
        made.offer(policy=POLICY.replace('default_task = "work"', 'default_task = "rest"'))
        await until(lambda: len(agent.told) >= 2)
        agent.say(request("tools/list"))
        assert (await agent.answer(1))["result"]["tools"] == []


async def test_listening_is_acknowledged_and_ends_when_it_is_cancelled(made: Front) -> None:
    async with speaking(made) as agent:
        agent.say(modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, "s"))
        await until(lambda: agent.told)
        made.offer(policy=POLICY.replace('"u/second", ', ""))
        await until(lambda: len(agent.told) == 2)
        agent.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "s"}})
        await until(lambda: len(made.bulletin._subscribers) == 1)
        made.offer(policy=POLICY)
        agent.say(modern("tools/list", id_=9))
        await agent.answer(9)
    assert [m.get("method") for m in agent.told] == [
        "notifications/subscriptions/acknowledged",
        "notifications/tools/list_changed",
        None,
    ]


async def test_listening_does_not_keep_the_door_open(made: Front) -> None:
    async with speaking(made) as agent:
        agent.say(modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, "s"))
        await until(lambda: agent.told)


async def test_a_resource_is_told_of_in_either_era_until_the_agent_leaves(made: Front) -> None:
    updated = "notifications/resources/updated"
    async with speaking(made) as agent:
        agent.say(initialize(), request("resources/subscribe", {"uri": "note:///open"}, 1))
        assert (await agent.answer(1))["result"] == {}
        made.updates.note("u", "note:///open")
        await until(lambda: {"jsonrpc": "2.0", "method": updated, "params": {"uri": "note:///open"}} in agent.told)
        wanted = {"notifications": {"resourceSubscriptions": ["note:///open", "note:///shut"]}}
        agent.say(modern("subscriptions/listen", wanted, "s"))
        await until(lambda: any("acknowledged" in m.get("method", "") for m in agent.told))
        made.updates.note("u", "note:///open")
        await until(lambda: [m.get("method") for m in agent.told].count(updated) == 3)
        [of_listen] = [m for m in agent.told if m.get("method") == updated and "_meta" in m["params"]]
        assert of_listen["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": "s"}
        agent.say(request("resources/unsubscribe", {"uri": "note:///open"}, 2))
        assert (await agent.answer(2))["result"] == {}
        assert made.u.watched == {"note:///open"}
    assert (made.u.watched, made.updates.count) == (frozenset(), 0)


async def test_the_same_news_is_told_once_while_it_is_unread_and_after_what_came_first() -> None:
    class Slow:
        def __init__(self) -> None:
            self.written: list[bytes] = []
            self.reads = anyio.Event()

        def write(self, data: bytes, /) -> None:
            self.written.append(data)

        async def drain(self) -> None:
            await self.reads.wait()

    sink = Slow()
    outbox = stdio._Outbox(sink)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.drain)
        outbox.put({"first": 1})
        await until(lambda: sink.written)
        for _ in range(3):
            outbox.put_once({"news": 1})
            outbox.put_once({"news": 2})
        outbox.put_answer({"second": 2})
        sink.reads.set()
        await outbox.is_sent()
        tasks.cancel_scope.cancel()
    assert b"".join(sink.written) == b'{"first":1}\n{"second":2}\n{"news":1}\n{"news":2}\n'
    assert outbox._unsent_bytes == 0


async def test_too_many_listeners_are_refused(made: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    async with speaking(made) as agent:
        await until(lambda: made.bulletin._subscribers)
        monkeypatch.setattr("mcp_gateway.frontdoor.listen.MAX_SUBSCRIBERS", 1)
        agent.say(modern("subscriptions/listen", {"notifications": {}}, "s"))
        assert (await agent.answer("s"))["error"]["code"] == 429


async def test_an_agent_that_does_not_read_loses_notifications_only(
    made: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "MAX_UNSENT", 10)

    async def chatty(request: UpstreamRequest, reply: Reply) -> Outcome:
        for number in range(1, 101):
            await reply.progress({"progress": number})
        return text("done")

    made.u.script["echo"] = chatty
    async with speaking(made) as agent:
        agent.reads.clear()
        agent.say(modern("tools/call", {"name": "u__echo", "_meta": {"progressToken": 1}}))
        await until(lambda: made.rows("outcome") == [("ok",)])
        agent.reads.set()
        await agent.answer(1)
    assert len(agent.told) == 11


def lines_of(chunks: Iterable[bytes], limit: int = 100) -> list[bytes | None]:
    class Chunks:
        def __init__(self) -> None:
            self.rest = iter(chunks)

        async def read(self, n: int, /) -> bytes:
            return next(self.rest, b"")

    async def collect() -> list[bytes | None]:
        return [line async for line in stdio._lines(Chunks(), limit)]

    return asyncio.run(collect())


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb\n"], [b"a", b"b"]),
        ([b"a", b"\n", b"b"], [b"a", b"b"]),
        ([b"\n\r\n  \na\r\n"], [b"a"]),
        ([b"x" * 101 + b"\na\n"], [None, b"a"]),
        ([b"x" * 60, b"x" * 60, b"x" * 60, b"\na"], [None, b"a"]),
        ([b"x" * 100, b"\n"], [b"x" * 100]),
        ([b"x" * 101], [None]),
        ([], []),
    ],
)
def test_lines_are_what_stands_between_line_feeds(chunks: list[bytes], lines: list[bytes | None]) -> None:
    assert lines_of(chunks) == lines
