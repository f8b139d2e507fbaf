"""Questions at the doors: live ones of the handshake era on both transports, and rounds on the standard streams."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from fakes.front import META, Front, initialize, parts, request
from fakes.upstream import text
from fakes.waiting import until
from mcp_gateway.domain import Caller, Json, Outcome, Reply, Strength, UpstreamRequest
from mcp_gateway.frontdoor import stdio
from mcp_gateway.frontdoor.stdio import StdioDoor

FORM: Json = {"mode": "form", "message": "Name?"}


def notice(method: str, params: Json | None = None) -> Json:
    return {"jsonrpc": "2.0", "method": method, "params": params or {}}


async def asking(request: UpstreamRequest, reply: Reply) -> Outcome:
    """An upstream that asks, and says what it was answered."""
    try:
        return text(str(await reply.ask("elicitation/create", FORM)))
    except LookupError as e:
        return text(f"refused: {e}")


class Asked:
    """A call that asks, the stream it was made on read line by line, and the question on it."""

    def __init__(self, door: Front) -> None:
        self.door = door
        self.session = ""
        self.messages: list[Json] = []
        self.status = 0

    async def begin(self, tasks: TaskGroup) -> Json:
        """Open a session that can be asked and begin the call; returns the question."""
        hello = initialize()
        hello["params"]["capabilities"] = {"elicitation": {}}
        self.session = (await self.door.post(hello)).headers["mcp-session-id"]
        tasks.start_soon(self._call)
        return await self.until_told("elicitation/create")

    async def until_told(self, method: str) -> Json:
        def told() -> Json | None:
            return next((message for message in self.messages if message.get("method") == method), None)

        return await until(told)  # type: ignore[return-value]

    async def answer(self, question: Json, agent: str = "alice", session: str = "", **member: Any) -> int:
        message = {"jsonrpc": "2.0", "id": question["id"], **(member or {"result": {"action": "accept"}})}
        response = await self.door.post(message, agent, mcp_session_id=session or self.session)
        return response.status_code

    async def _call(self) -> None:
        body = json.dumps(request("tools/call", {"name": "u__echo"}, 5))
        headers = self.door.headers(mcp_session_id=self.session)
        async with self.door.http.stream("POST", self.door.url, content=body, headers=headers) as response:
            self.status = response.status_code
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    self.messages.append(json.loads(line[6:]))


@pytest.fixture
async def asked(door: Front) -> AsyncIterator[Asked]:
    door.u.script["echo"] = asking
    yield Asked(door)
    await until(lambda: not any(one.is_stream for one in door.closers._open.values()))
    assert all(not session._questions for session in door.legacy._sessions.values())


async def test_a_question_comes_on_the_stream_of_its_call_and_its_answer_goes_to_that_call(asked: Asked) -> None:
    async with anyio.create_task_group() as tasks:
        question = await asked.begin(tasks)
        assert question["params"] == FORM
        assert question["id"] != 5
        assert await asked.answer(question) == 202
    assert asked.messages[-1]["result"]["content"][0]["text"] == "{'action': 'accept'}"


async def test_nobody_else_can_answer_a_question(asked: Asked) -> None:
    async with anyio.create_task_group() as tasks:
        question = await asked.begin(tasks)
        assert await asked.answer(question, agent="bob") == 404
        bobs, others = await asked.door.handshake("bob"), await asked.door.handshake()
        assert await asked.answer(question, agent="bob", session=bobs) == 202
        assert await asked.answer(question, session=others) == 202
        assert len(asked.messages) == 1
        await asked.answer(question, result={"action": "decline"})
    assert "decline" in asked.messages[-1]["result"]["content"][0]["text"]


async def test_an_error_in_answer_ends_a_call_that_needed_it(asked: Asked) -> None:
    async with anyio.create_task_group() as tasks:
        question = await asked.begin(tasks)
        await asked.answer(question, error={"code": -1, "message": "User rejected"})
    result = asked.messages[-1]["result"]
    assert (result["isError"], result["content"][0]["text"]) == (True, "User rejected")
    assert asked.door.rows("outcome") == [("cancelled",)]


@pytest.mark.parametrize("how", ["cancel", "delete", "revoke", "stop"])
async def test_a_question_ends_with_what_it_hangs_on(asked: Asked, how: str) -> None:
    door = asked.door
    async with anyio.create_task_group() as tasks:
        question = await asked.begin(tasks)
        if how == "cancel":
            await door.post(notice("notifications/cancelled", {"requestId": 5}), mcp_session_id=asked.session)
        elif how == "delete":
            await door.http.delete(door.url, headers=door.headers(mcp_session_id=asked.session))
        elif how == "revoke":
            door.revoke()
        else:
            door.closers.close_streams()
    told = await asked.until_told("notifications/cancelled")
    assert told["params"]["requestId"] == question["id"]
    if how == "stop":
        assert "nobody answered" in asked.messages[-1]["result"]["content"][0]["text"]
    else:
        assert len(door.u.cancelled) == 1


async def test_an_agent_that_did_not_say_it_can_answer_is_not_asked(door: Front) -> None:
    door.u.script["echo"] = asking
    session = await door.handshake()
    answer = await door.old(session, "tools/call", {"name": "u__echo"})
    assert answer.json()["result"]["content"][0]["text"] == "refused: this agent cannot be asked elicitation/create"


async def test_what_a_handshake_era_agent_sends_of_rounds_reaches_no_upstream(door: Front) -> None:
    session = await door.handshake()
    params = {"name": "u__echo", "inputResponses": {"a": {}}, "requestState": "s"}
    assert (await door.old(session, "tools/call", params)).json()["result"]
    assert door.u.asked[0].params.keys() == {"name"}


# The standard streams


class Streams:
    """The other end of the standard streams."""

    def __init__(self, door: Front) -> None:
        self.door = door
        self.stdin = asyncio.StreamReader()
        self.told: list[Json] = []
        self.has_ended = asyncio.Event()

    def say(self, *messages: Json) -> None:
        for message in messages:
            self.stdin.feed_data(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes) -> None:
        self.told += [json.loads(line) for line in data.splitlines()]

    async def drain(self) -> None:
        """Everything is read at once."""

    async def found(self, **members: Any) -> Json:
        """The first message with these members."""

        def first() -> Json | None:
            return next((m for m in self.told if all(m.get(k) == v for k, v in members.items())), None)

        return await until(first)  # type: ignore[return-value]

    def call(self, id_: int, *, modern: bool, **more: Any) -> None:
        """Call the tool that asks."""
        meta = {**META, "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
        params = {"name": "u__echo", "arguments": {"a": 1}, **({"_meta": meta} if modern else {}), **more}
        self.say(request("tools/call", params, id_))

    def shake_hands(self) -> None:
        hello = initialize()
        hello["params"]["capabilities"] = {"elicitation": {}}
        self.say(hello)

    async def serve(self, agent: str = "alice") -> None:
        caller = Caller(agent, "work", strength=Strength.STDIO, credential_id=f"stdio:{agent}")
        door = StdioDoor(self.door.answers, self.door.rounds, self.door.bulletin, lambda: caller, 100_000)
        await door.serve(self.stdin, self)
        self.has_ended.set()


@pytest.fixture
async def streams(tmp_path: Path) -> AsyncIterator[Streams]:
    async with parts(tmp_path) as made, anyio.create_task_group() as tasks:
        made.u.script["echo"] = asking
        opened = Streams(made)
        tasks.start_soon(opened.serve)
        yield opened
        opened.stdin.feed_eof()
        with anyio.fail_after(stdio.DRAIN_S - 1):
            await opened.has_ended.wait()
        assert len(made.rounds._lot) == 0
        assert made.closers._open == {}


async def test_a_question_on_the_standard_streams_is_answered_on_them(streams: Streams) -> None:
    streams.shake_hands()
    streams.call(1, modern=False)
    question = await streams.found(method="elicitation/create")
    streams.say({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}})
    answer = await streams.found(id=1, method=None)
    assert answer["result"]["content"][0]["text"] == "{'action': 'accept'}"


async def test_rounds_on_the_standard_streams(streams: Streams) -> None:
    streams.call(1, modern=True)
    asked = (await streams.found(id=1))["result"]
    again = {"requestState": asked["requestState"], "inputResponses": {"q1": {"action": "accept"}}}
    streams.call(1, modern=True, **again)  # the id is free again
    await until(lambda: len(streams.told) == 2)
    assert streams.told[1]["result"]["content"][0]["text"] == "{'action': 'accept'}"
    streams.call(3, modern=True, **again)
    assert (await streams.found(id=3))["error"]["code"] == -32602
    assert len(streams.door.u.asked) == 1


async def test_cancelling_a_later_round_cancels_the_call(streams: Streams) -> None:
    async def answering(upstream_request: UpstreamRequest, reply: Reply) -> Outcome:
        await reply.ask("elicitation/create", FORM)
        await anyio.sleep_forever()
        raise AssertionError

    streams.door.u.script["echo"] = answering
    streams.call(1, modern=True)
    asked = (await streams.found(id=1))["result"]
    streams.call(2, modern=True, requestState=asked["requestState"], inputResponses={"q1": {}})
    await until(lambda: len(streams.door.rounds._lot) == 0)
    streams.say(notice("notifications/cancelled", {"requestId": 2}))
    await until(lambda: streams.door.u.cancelled)
    assert len(streams.told) == 1


@pytest.mark.parametrize("modern", [True, False])
async def test_an_agent_that_leaves_takes_its_unanswered_questions_along(streams: Streams, modern: bool) -> None:
    if not modern:
        streams.shake_hands()
    streams.call(1, modern=modern)
    await streams.found(**({"id": 1} if modern else {"method": "elicitation/create"}))
    streams.stdin.feed_eof()
    with anyio.fail_after(stdio.DRAIN_S - 1):
        await streams.has_ended.wait()


async def test_a_question_that_comes_after_the_agent_has_left_is_refused(streams: Streams) -> None:
    goes_on = asyncio.Event()

    async def answering(upstream_request: UpstreamRequest, reply: Reply) -> Outcome:
        await goes_on.wait()
        return await asking(upstream_request, reply)

    streams.door.u.script["echo"] = answering
    streams.shake_hands()
    streams.call(1, modern=True)
    streams.call(2, modern=False)
    await until(lambda: len(streams.door.u.asked) == 2)
    streams.stdin.feed_eof()
    await anyio.wait_all_tasks_blocked()
    goes_on.set()
    for id_ in (1, 2):
        answer = await streams.found(id=id_)
        assert answer["result"]["content"][0]["text"] == "refused: nobody will answer any more"
