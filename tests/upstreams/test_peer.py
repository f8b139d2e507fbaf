"""Answers, progress and questions reach whoever they belong to; everything else is dropped and counted."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import orjson
import pytest
from anyio.abc import TaskGroup

from fakes.replies import RecordingReply
from fakes.waiting import until
from mcp_gateway.domain import Json, Reply, RpcError
from mcp_gateway.errors import Misbehaved, TimedOut, Unreachable, UpstreamError
from mcp_gateway.upstreams import peer as peer_module
from mcp_gateway.upstreams.channels import Channels
from mcp_gateway.upstreams.connection import SILENT, Answer, Limits, Listener
from mcp_gateway.upstreams.dialect import HANDSHAKE
from mcp_gateway.upstreams.peer import MAX_UNRELAYED, Peer


class Wire:
    """The far end of a peer: what it was sent, and a way to answer."""

    def __init__(self, tasks: TaskGroup, limits: Limits, on_question: Any = None) -> None:
        self.sent: list[Json] = []
        self.changed: list[str] = []
        self.listener = Listener(self.changed.append, on_question)
        self.tasks = tasks
        send = lambda data: self.sent.append(orjson.loads(data))  # noqa: E731
        self.peer = Peer("up", send, tasks, self.listener, limits, lambda: self.channels.turns.look_again())
        self.channels = Channels("up", self.peer, self.listener, limits)
        self.outcomes: list[Answer | UpstreamError] = []

    def ask(self, reply: Reply = SILENT, timeout_s: float | None = 5, method: str = "x") -> None:
        async def asked() -> None:
            try:
                if reply is SILENT:
                    self.outcomes.append(await self.peer.ask(HANDSHAKE, method, {}, reply, timeout_s))
                else:
                    self.outcomes.append(await self.channels.ask(reply, timeout_s or 5, self.go(reply, method)))
            except UpstreamError as e:
                self.outcomes.append(e)

        self.tasks.start_soon(asked)

    def go(self, reply: Reply, method: str) -> Callable[[Peer, float], Awaitable[Answer]]:
        return lambda peer, left_s: peer.ask(HANDSHAKE, method, {}, reply, left_s)

    def says(self, **message: Any) -> bool:
        return self.peer.receive(orjson.dumps({"jsonrpc": "2.0", **message}))

    async def outcome(self) -> Answer | UpstreamError:
        await until(lambda: self.outcomes)
        return self.outcomes.pop(0)

    async def has_sent(self, count: int) -> list[Json]:
        return await until(lambda: self.sent if len(self.sent) >= count else None) or []


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with anyio.create_task_group() as tasks:
        yield Wire(tasks, Limits(max_in_flight=3))
        tasks.cancel_scope.cancel()


async def test_each_request_gets_its_own_answer(wire: Wire) -> None:
    wire.ask()
    wire.ask()
    first, second = await wire.has_sent(2)
    wire.says(id=second["id"], result={"n": 2})
    wire.says(id=first["id"], result={"n": 1})
    assert [await wire.outcome(), await wire.outcome()] == [{"n": 2}, {"n": 1}]


async def test_an_empty_result_is_an_answer(wire: Wire) -> None:
    wire.ask()
    [asked] = await wire.has_sent(1)
    wire.says(id=asked["id"], result={})
    assert await wire.outcome() == {}
    assert len(wire.sent) == 1


async def test_an_error_is_an_answer(wire: Wire) -> None:
    wire.ask()
    [asked] = await wire.has_sent(1)
    wire.says(id=asked["id"], error={"code": -32602, "message": "no"})
    assert await wire.outcome() == RpcError(-32602, "no")


@pytest.mark.parametrize("wrong", [99, "1", True, None, 1.0, [1]])
async def test_an_answer_with_another_id_is_dropped(wire: Wire, wrong: object) -> None:
    wire.ask()
    await wire.has_sent(1)
    wire.says(id=wrong, result={"wrong": True})
    wire.says(id=1, result={"right": True})
    assert await wire.outcome() == {"right": True}
    assert wire.listener.dropped["unknown id"] == 1


async def test_a_second_answer_is_dropped(wire: Wire) -> None:
    wire.ask()
    await wire.has_sent(1)
    wire.says(id=1, result={"n": 1})
    wire.says(id=1, result={"n": 2})
    assert await wire.outcome() == {"n": 1}


async def test_an_answer_that_breaks_the_protocol_fails_its_call_at_once(wire: Wire) -> None:
    for answer in (b'"result":[]', b'"error":7', b'"result":{"a":1,"a":2}', b'"result":{"a":"\xff"}'):
        wire.ask()
        sent = (await wire.has_sent(1)).pop()
        wire.peer.receive(b'{"jsonrpc":"2.0","id":%d,%s}' % (sent["id"], answer))
        assert isinstance(await wire.outcome(), Misbehaved)


async def test_no_answer_in_time_is_a_timeout_and_cancels_upstream(wire: Wire) -> None:
    wire.ask(timeout_s=0.02)
    error = await wire.outcome()
    assert isinstance(error, TimedOut)
    assert wire.sent[1]["method"] == "notifications/cancelled"
    assert wire.sent[1]["params"]["requestId"] == wire.sent[0]["id"]


async def test_progress_does_not_postpone_the_timeout(wire: Wire) -> None:
    async def chatter() -> None:
        for step in range(10_000):
            wire.says(method="notifications/progress", params={"progressToken": 1, "progress": step})
            await anyio.sleep(0.001)

    wire.ask(RecordingReply(), timeout_s=0.05)
    wire.tasks.start_soon(chatter)
    assert isinstance(await wire.outcome(), TimedOut)


async def test_cancelling_the_caller_cancels_upstream(wire: Wire) -> None:
    with anyio.move_on_after(0.02):
        await wire.peer.ask(HANDSHAKE, "x", {}, SILENT, 5)
    assert [message["method"] for message in wire.sent] == ["x", "notifications/cancelled"]


async def test_what_must_not_be_cancelled_is_not(wire: Wire) -> None:
    with anyio.move_on_after(0.02):
        await wire.peer.ask(HANDSHAKE, "initialize", {}, SILENT, 5, cancellable=False)
    assert [message["method"] for message in wire.sent] == ["initialize"]


async def test_progress_comes_in_order_before_the_answer_and_never_after(wire: Wire) -> None:
    reply = RecordingReply()
    wire.ask(reply)
    await wire.has_sent(1)
    for value in (1, 2, 2, 1, 3):
        wire.says(method="notifications/progress", params={"progressToken": 1, "progress": value})
    wire.says(id=1, result={})
    wire.says(method="notifications/progress", params={"progressToken": 1, "progress": 4})
    await wire.outcome()
    wire.says(method="notifications/progress", params={"progressToken": 1, "progress": 5})
    assert [params["progress"] for params in reply.progressed] == [1, 2, 3]


@pytest.mark.parametrize("token", [True, "1", 1.0, None, 7])
async def test_progress_with_a_strange_token_reaches_nobody(wire: Wire, token: object) -> None:
    reply = RecordingReply()
    wire.ask(reply)
    await wire.has_sent(1)
    wire.says(method="notifications/progress", params={"progressToken": token, "progress": 1})
    wire.says(id=1, result={})
    await wire.outcome()
    assert reply.progressed == []
    assert wire.listener.dropped["unattributed"] == 1


async def test_a_flood_of_progress_holds_bounded_memory(wire: Wire) -> None:
    reply = RecordingReply()
    wire.ask(reply)
    await wire.has_sent(1)
    for value in range(MAX_UNRELAYED * 3):
        wire.says(method="notifications/progress", params={"progressToken": 1, "progress": value})
    wire.says(id=1, result={})
    await wire.outcome()
    assert len(reply.progressed) == MAX_UNRELAYED
    assert reply.progressed[-1]["progress"] == MAX_UNRELAYED * 3 - 1


async def test_a_log_line_goes_to_the_one_call_there_is_and_else_to_nobody(wire: Wire) -> None:
    alone, other = RecordingReply(log_level="debug"), RecordingReply(log_level="debug")
    wire.ask(alone)
    wire.ask()  # our own request does not count
    await wire.has_sent(2)
    wire.says(method="notifications/message", params={"level": "info", "data": 1})
    wire.ask(other)
    await wire.has_sent(3)
    wire.says(method="notifications/message", params={"level": "info", "data": 2})
    for request_id in (1, 2, 3):
        wire.says(id=request_id, result={})
    for _ in range(3):
        await wire.outcome()
    assert [params["data"] for params in alone.logged] == [1]
    assert other.logged == []


async def test_changed_lists_are_told(wire: Wire) -> None:
    wire.says(method="notifications/tools/list_changed")
    wire.says(method="notifications/unheard_of", params=[1])
    wire.says(method=7)
    assert wire.changed == ["notifications/tools/list_changed"]


async def test_a_ping_is_answered(wire: Wire) -> None:
    wire.says(id="p", method="ping")
    assert wire.sent == [{"jsonrpc": "2.0", "id": "p", "result": {}}]


@pytest.mark.parametrize("method", ["sampling/createMessage", "roots/list", "tools/call", None, 7])
async def test_other_questions_are_refused(wire: Wire, method: object) -> None:
    wire.says(id=5, method=method)
    assert wire.sent[0]["error"]["code"] == -32601


async def test_a_question_is_handed_to_whoever_is_plugged_in() -> None:
    async def answer(method: str, params: Json, reply: Reply | None) -> Json:
        if reply is None:
            raise LookupError(method)
        return {"method": method, **params}

    async with anyio.create_task_group() as tasks:
        wire = Wire(tasks, Limits(), answer)
        wire.says(id=1, method="roots/list", params={"a": 1})
        assert (await wire.has_sent(1))[0]["error"]["code"] == -32601
        wire.ask(RecordingReply())
        await wire.has_sent(2)
        wire.says(id=2, method="roots/list", params={"a": 1})
        assert (await wire.has_sent(3))[2] == {"jsonrpc": "2.0", "id": 2, "result": {"method": "roots/list", "a": 1}}
        tasks.cancel_scope.cancel()


async def test_calls_in_flight_are_bounded(wire: Wire) -> None:
    for _ in range(4):
        wire.ask()
    assert isinstance(await wire.outcome(), Unreachable)
    assert len(wire.sent) == 3


async def test_closing_ends_every_call_and_refuses_new_ones(wire: Wire) -> None:
    wire.ask()
    wire.ask()
    await wire.has_sent(2)
    wire.peer.close(Unreachable("up", "gone"))
    wire.ask()
    assert [str(await wire.outcome()) for _ in range(3)] == ["gone"] * 3
    assert len(wire.sent) == 2


async def test_a_channel_that_takes_no_more_fails_the_call() -> None:
    def full(data: bytes) -> None:
        raise Unreachable("up", "full")

    async with anyio.create_task_group() as tasks:
        peer = Peer("up", full, tasks, Listener(), Limits())
        with pytest.raises(Unreachable, match="full"):
            await peer.ask(HANDSHAKE, "x", {}, SILENT, 5)
        peer.receive(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')


async def test_noise_is_counted(wire: Wire) -> None:
    sayings: list[Callable[[], bool]] = [lambda: wire.peer.receive(b"Welcome!"), lambda: wire.peer.receive(b"[1]")]
    assert [say() for say in sayings] == [False, False]
    assert wire.listener.dropped["noise"] == 2


CAN: Json = {"elicitation": {}}


@pytest.fixture
async def asking() -> AsyncIterator[Wire]:
    """A peer whose questions are answered with the name of whoever was asked."""

    async def answer(method: str, params: Json, reply: Reply | None) -> Json:
        if reply is None:
            raise LookupError("it cannot be told which call this question belongs to")
        return await reply.ask(method, params)

    async with anyio.create_task_group() as tasks:
        yield Wire(tasks, Limits(), answer)
        tasks.cancel_scope.cancel()


class Named(RecordingReply):
    """An agent that answers questions with its name, once it `may`."""

    def __init__(self, name: str, capabilities: Json = CAN) -> None:
        super().__init__(capabilities=capabilities, side=name)
        self.name = name
        self.may = anyio.Event()

    async def ask(self, method: str, params: Json) -> Json:
        if not self.capabilities:
            raise LookupError("this agent cannot be asked")
        await self.may.wait()
        return {"name": self.name}


def calls_sent(wire: Wire) -> list[int]:
    return [message["id"] for message in wire.sent if message.get("method") == "x"]


def answers_sent(wire: Wire) -> list[Any]:
    return [message.get("result", "refused") for message in wire.sent if "method" not in message]


async def test_a_question_that_could_be_of_several_calls_is_refused_and_not_guessed(asking: Wire) -> None:
    asking.ask(Named("alice"))
    asking.ask(Named("bob"))
    await asking.has_sent(2)
    asking.says(id="q", method="elicitation/create")
    assert (await asking.has_sent(3))[2]["error"]["message"] == "it cannot be told which call this question belongs to"


async def test_an_upstream_that_asks_gets_calls_of_agents_with_a_side_one_at_a_time_from_then_on(asking: Wire) -> None:
    asking.ask(Named("before"))
    await asking.has_sent(1)
    asking.says(id="q0", method="elicitation/create")
    agents = [Named("alice"), Named("bob")]
    for agent in agents:
        asking.ask(agent)
    await anyio.wait_all_tasks_blocked()
    assert calls_sent(asking) == [1]
    asking.says(id=1, result={})
    for request_id, agent in enumerate(agents, 2):
        await until(lambda expected=request_id: calls_sent(asking)[-1] == expected)  # type: ignore[misc]
        agent.may.set()
        asking.says(id=f"q{request_id}", method="elicitation/create")
        await until(lambda agent=agent: {"name": agent.name} in answers_sent(asking))  # type: ignore[misc]
        asking.says(id=request_id, result={"n": request_id})
    assert [await asking.outcome() for _ in range(3)] == [{}, {"n": 2}, {"n": 3}]
    assert asking.channels.turns.waiting == 0


async def test_calls_that_could_not_be_asked_anything_stay_together_but_never_beside_one_that_could(
    asking: Wire,
) -> None:
    asking.listener.asks = True
    for _ in range(2):
        asking.ask(Named("mute", {}))
    asking.ask(Named("alice"))
    asking.ask(Named("mute", {}))
    await anyio.wait_all_tasks_blocked()
    assert calls_sent(asking) == [1, 2]
    asking.says(id=1, result={})
    asking.says(id=2, result={})
    await until(lambda: calls_sent(asking) == [1, 2, 3])
    await anyio.wait_all_tasks_blocked()
    assert calls_sent(asking) == [1, 2, 3]
    asking.says(id=3, result={})
    await until(lambda: calls_sent(asking) == [1, 2, 3, 4])


async def test_a_call_that_waits_for_its_turn_in_vain_is_told_why(asking: Wire) -> None:
    asking.listener.asks = True
    asking.ask(Named("alice"))
    await asking.has_sent(1)
    asking.ask(Named("bob"), timeout_s=0.02)
    error = await asking.outcome()
    assert isinstance(error, TimedOut)
    assert "is taken" in str(error)
    assert len(asking.sent) == 1


async def test_the_gateways_own_requests_never_wait_for_a_turn(asking: Wire) -> None:
    asking.listener.asks = True
    asking.ask(Named("alice"))
    asking.ask(SILENT, method="ping")
    assert [message["method"] for message in await asking.has_sent(2)] == ["x", "ping"]


async def test_a_question_outside_any_call_changes_nothing(asking: Wire) -> None:
    asking.says(id="q", method="roots/list")
    await asking.has_sent(1)
    assert not asking.listener.asks
    for name in ("alice", "bob"):
        asking.ask(Named(name))
    await until(lambda: len(calls_sent(asking)) == 2)


async def test_calls_that_wait_for_their_turn_end_when_the_channel_closes(asking: Wire) -> None:
    asking.listener.asks = True
    for _ in range(3):
        asking.ask(Named("alice"))
    await asking.has_sent(1)
    asking.peer.close(Unreachable("up", "gone"))
    assert [str(await asking.outcome()) for _ in range(3)] == ["gone"] * 3


async def test_a_question_of_a_call_that_was_given_up_is_never_put_to_the_next_agent(asking: Wire) -> None:
    asking.ask(Named("alice"), timeout_s=0.01)
    await asking.outcome()
    asking.ask(Named("bob"))
    await until(lambda: calls_sent(asking) == [1, 2])
    asking.says(id="q", method="elicitation/create")
    await until(lambda: "refused" in answers_sent(asking))
    asking.ask(Named("carol"))  # from now on it is known to ask, and the first call may still be at work
    asking.says(id=2, result={})
    await anyio.wait_all_tasks_blocked()
    assert calls_sent(asking) == [1, 2]
    asking.says(id=1, result={})  # too late for alice, but now nothing of hers can come any more
    await until(lambda: calls_sent(asking) == [1, 2, 3])


async def test_a_call_that_was_given_up_is_thought_of_for_a_bounded_time(
    asking: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "STRAY_S", 0.05)
    asking.listener.asks = True
    asking.ask(Named("alice"), timeout_s=0.01)
    asking.ask(Named("bob"))
    await until(lambda: calls_sent(asking) == [1, 2])
    assert not asking.peer.has_strays_besides("bob")


def answered(wire: Wire) -> list[str]:
    """The questions that were answered, in this order."""
    return [message["id"] for message in wire.sent if "method" not in message and "result" in message]


async def begun_beside(asking: Wire, *names: str) -> list["Named"]:
    """Calls of one side, each of which is asked before the next one begins."""
    agents = [Named(name) for name in names]
    for number, agent in enumerate(agents, 1):
        agent.side = "alice's"
        asking.ask(agent)
        await until(lambda expected=number: len(calls_sent(asking)) == expected)  # type: ignore[misc]
        asking.says(id=f"q{number}", method="elicitation/create")
    return agents


async def test_a_call_goes_on_beside_one_of_its_side_that_waits_and_each_is_asked_its_own(asking: Wire) -> None:
    first, second = await begun_beside(asking, "first", "second")
    second.may.set()
    await until(lambda: answered(asking) == ["q2"])
    first.may.set()
    await anyio.wait_all_tasks_blocked()
    assert answered(asking) == ["q2"], "the second call is at work: what is asked now is asked by it"
    asking.says(id="q3", method="elicitation/create")
    await until(lambda: answered(asking) == ["q2", "q1"])
    asking.says(id="q4", method="elicitation/create")
    await until(lambda: answered(asking) == ["q2", "q1", "q3"])
    asking.says(id=2, result={})
    await until(lambda: answered(asking) == ["q2", "q1", "q3", "q4"])
    assert [answer["name"] for answer in answers_sent(asking)] == ["second", "first", "second", "first"]


async def test_what_is_asked_while_every_call_waits_is_of_the_one_that_asked_last(asking: Wire) -> None:
    first, second = await begun_beside(asking, "first", "second")
    asking.says(id="more", method="elicitation/create")
    second.may.set()
    await until(lambda: answered(asking) == ["q2", "more"])
    assert answers_sent(asking) == [{"name": "second"}] * 2
    first.may.set()


async def test_while_two_calls_of_one_side_are_at_work_a_question_is_refused(asking: Wire) -> None:
    for _ in range(2):
        agent = Named("alice")
        agent.side = "alice's"
        asking.ask(agent)
    await asking.has_sent(2)
    asking.says(id="q", method="elicitation/create")
    await until(lambda: answers_sent(asking) == ["refused"])


async def test_a_call_that_was_answered_in_part_still_waits(asking: Wire) -> None:
    [alice] = await begun_beside(asking, "alice")
    await anyio.wait_all_tasks_blocked()
    alice.capabilities = {}
    asking.says(id="refused", method="elicitation/create")
    await until(lambda: answers_sent(asking) == ["refused"])
    late = Named("late")
    late.side = alice.side
    asking.ask(late)
    await until(lambda: calls_sent(asking) == [1, 2])
    alice.may.set()


async def test_an_answer_to_a_call_that_has_ended_waits_for_nobody(asking: Wire) -> None:
    first, second = await begun_beside(asking, "first", "second")
    second.may.set()
    await until(lambda: answered(asking) == ["q2"])
    asking.says(id=1, result={})
    first.may.set()
    await until(lambda: answered(asking) == ["q2", "q1"])
