"""The channel back to one agent's request."""

import asyncio
from typing import Any

import anyio
import pytest

from fakes.waiting import until
from mcp_gateway.domain import Json
from mcp_gateway.frontdoor.replies import MAX_ASKED, AgentReply

LOG_LEVEL = "io.modelcontextprotocol/logLevel"


def replying(meta: Any, level: str | None = None) -> tuple[AgentReply, list[Json]]:
    said: list[Json] = []
    return AgentReply(said.append, {"_meta": meta}, level), said


@pytest.mark.parametrize("token", ["t", "", 0, 7])
async def test_progress_comes_under_the_agents_own_token_and_type(token: Any) -> None:
    reply, said = replying({"progressToken": token})
    await reply.progress({"progressToken": "upstream's", "progress": 1, "total": 2, "message": "m", "new": None})
    params = {"progressToken": token, "progress": 1, "total": 2, "message": "m", "new": None}
    assert said == [{"jsonrpc": "2.0", "method": "notifications/progress", "params": params}]
    assert type(said[0]["params"]["progressToken"]) is type(token)


@pytest.mark.parametrize("meta", [{}, None, [], "x", {"progressToken": None}, {"progressToken": True},
                                  {"progressToken": 1.5}, {"progressToken": {}}])  # fmt: skip
async def test_no_progress_without_a_token_that_can_be_one(meta: Any) -> None:
    reply, said = replying(meta)
    assert not reply.wants_progress
    await reply.progress({"progress": 1})
    assert said == []


async def test_progress_only_increases() -> None:
    reply, said = replying({"progressToken": 1})
    for value in (1, 1, 0.5, 2, "3", None, True, 2.5):
        await reply.progress({"progress": value})
    assert [message["params"]["progress"] for message in said] == [1, 2, 2.5]


async def test_nothing_follows_the_answer() -> None:
    reply, said = replying({"progressToken": 1}, "debug")
    reply.finish()
    await reply.progress({"progress": 1})
    await reply.log({"level": "error", "data": "x"})
    assert said == []


@pytest.mark.parametrize(("wanted", "passed"), [("debug", 8), ("info", 7), ("error", 4), ("emergency", 1)])
async def test_log_lines_pass_from_the_level_the_agent_asked_for(wanted: str, passed: int) -> None:
    reply, said = replying({LOG_LEVEL: wanted})
    assert reply.log_level == wanted
    for level in ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"):
        await reply.log({"level": level, "logger": "l", "data": {"a": None}})
    assert len(said) == passed
    assert said[-1]["params"] == {"level": "emergency", "logger": "l", "data": {"a": None}}


@pytest.mark.parametrize("asked", [None, "loud", 3, {}])
async def test_a_request_that_asks_for_no_known_level_gets_no_log_lines(asked: Any) -> None:
    reply, said = replying({LOG_LEVEL: asked})
    await reply.log({"level": "emergency", "data": "x"})
    assert said == []


@pytest.mark.parametrize("level", [None, "loud", 3, []])
async def test_a_log_line_of_no_known_level_is_dropped(level: Any) -> None:
    reply, said = replying({}, "debug")
    await reply.log({"level": level, "data": "x"})
    assert said == []


async def test_an_agent_that_cannot_be_asked_is_not() -> None:
    reply, _ = replying({})
    assert dict(reply.capabilities) == {}
    with pytest.raises(LookupError):
        await reply.ask("elicitation/create", {})


CAN: Json = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}


class Side:
    """The agent's side of questions: keeps the futures that its answers go into."""

    def __init__(self, capabilities: Json = CAN, **more: Any) -> None:
        self.futures: list[asyncio.Future[Json]] = []
        self.reply = AgentReply(lambda message: None, {}, capabilities=capabilities, asker=self.begin, **more)

    def begin(self, method: str, params: Json) -> asyncio.Future[Json]:
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]

    async def ask(self, method: str = "elicitation/create", **params: Any) -> asyncio.Task[Json]:
        task = asyncio.ensure_future(self.reply.ask(method, params))
        await asyncio.sleep(0)
        return task


async def test_a_question_waits_for_its_answer() -> None:
    side = Side()
    task = await side.ask(message="?")
    side.futures[0].set_result({"action": "accept"})
    assert await task == {"action": "accept"}


@pytest.mark.parametrize(
    ("capabilities", "method", "params"),
    [
        ({}, "elicitation/create", {}),
        ({"elicitation": {"url": {}}}, "elicitation/create", {}),
        ({"elicitation": {}}, "elicitation/create", {"mode": "url", "url": "https://u.example/"}),
        (CAN, "elicitation/create", {"mode": "url", "url": "http://u.example/"}),
        (CAN, "elicitation/create", {"mode": "url", "url": "javascript:alert(1)"}),
        (CAN, "elicitation/create", {"mode": "url", "url": "file:///etc/passwd"}),
        (CAN, "elicitation/create", {"mode": "url", "url": "http://localhost.evil.example/"}),
        (CAN, "elicitation/create", {"mode": "url", "url": ["https://u.example/"]}),
        (CAN, "elicitation/create", {"mode": "url"}),
        (CAN, "elicitation/create", {"mode": "telepathy"}),
        (CAN, "elicitation/create", {"mode": ["form"]}),
        (CAN, "elicitation/create", {"mode": {"form": 1}}),
        (CAN, "elicitation/create", {"mode": None}),
        (CAN, "sampling/createMessage", {"tools": []}),
        ({"sampling": True}, "sampling/createMessage", {}),
        (CAN, "tools/call", {}),
        (CAN, "", {}),
    ],
)
async def test_what_an_agent_did_not_say_it_can_answer_is_not_asked(
    capabilities: Json, method: str, params: Json
) -> None:
    side = Side(capabilities)
    assert not side.reply.can_be_asked(method, params)
    with pytest.raises(LookupError):
        await side.reply.ask(method, params)
    assert side.futures == []


async def test_what_would_have_had_to_be_declared_is_remembered() -> None:
    side = Side({"elicitation": {}, "sampling": {}})
    for method, params in [
        ("roots/list", {}),
        ("sampling/createMessage", {"tools": []}),
        ("elicitation/create", {"mode": "url", "url": "https://u.example/"}),
        ("what/ever", {}),
    ]:
        with pytest.raises(LookupError):
            await side.reply.ask(method, params)
    assert side.reply.lacking == {"roots": {}, "sampling": {"tools": {}}, "elicitation": {"url": {}}}


async def test_nothing_is_lacking_where_declaring_would_not_help() -> None:
    side = Side({"elicitation": {"url": {}}})
    with pytest.raises(LookupError):
        await side.reply.ask("elicitation/create", {"mode": "url", "url": "javascript:alert(1)"})
    assert side.reply.lacking == {}


@pytest.mark.parametrize("url", ["https://u.example/", "http://localhost:8/x", "http://127.0.0.1/", "http://[::1]:9/"])
def test_a_person_may_be_sent_to_what_is_encrypted_or_stays_on_the_machine(url: str) -> None:
    assert Side().reply.can_be_asked("elicitation/create", {"mode": "url", "url": url})


async def test_time_spent_by_the_agents_side_is_counted_once_however_many_questions() -> None:
    side = Side()
    assert side.reply.waited_s == 0
    tasks = [await side.ask(), await side.ask()]
    await until(lambda: side.reply.waited_s > 0.02)
    side.futures[0].set_result({})
    await tasks[0]
    before = side.reply.waited_s
    await until(lambda: side.reply.waited_s > before)
    side.futures[1].set_result({})
    await tasks[1]
    done = side.reply.waited_s
    await asyncio.sleep(0.01)
    assert side.reply.waited_s == done < 0.2


async def test_a_question_nobody_answers_ends_by_itself() -> None:
    side = Side(question_ttl_s=0.01)
    with pytest.raises(LookupError, match="nobody answered"):
        await side.reply.ask("roots/list", {})
    assert side.futures[0].cancelled()
    assert side.reply._asking == set()


async def test_questions_end_with_their_call() -> None:
    side = Side()
    task = await side.ask()
    side.reply.finish()
    with pytest.raises(LookupError, match="is over"):
        await task
    with pytest.raises(LookupError):
        await side.reply.ask("roots/list", {})
    assert len(side.futures) == 1


async def test_a_cancelled_call_takes_its_question_back() -> None:
    side = Side()
    with anyio.move_on_after(0.01) as scope:
        await side.reply.ask("roots/list", {})
    assert scope.cancelled_caught
    assert side.futures[0].cancelled()
    task = await side.ask()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert side.reply._asking == set()


async def test_one_call_does_not_ask_for_ever() -> None:
    side = Side()
    for _ in range(MAX_ASKED):
        task = await side.ask()
        side.futures[-1].set_result({})
        await task
    with pytest.raises(LookupError, match="at most"):
        await side.reply.ask("roots/list", {})
    assert len(side.futures) == MAX_ASKED
