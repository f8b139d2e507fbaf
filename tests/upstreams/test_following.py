"""A wire task is followed to its end for an agent that knows of none, asks it, and is given up with it."""

import asyncio
from typing import Any

import anyio
import pytest

from fakes.replies import RecordingReply
from mcp_gateway.domain import Json, Outcome, OutcomeStatus, RpcError, UpstreamRequest
from mcp_gateway.errors import Misbehaved, TimedOut
from mcp_gateway.upstreams.bridge import until_complete
from mcp_gateway.upstreams.dialect import HANDSHAKE, MODERN, Dialect
from mcp_gateway.upstreams.managed import outcome_of

TASKS = "io.modelcontextprotocol/tasks"
CALL = UpstreamRequest("tools/call", {"name": "t", "arguments": {}}, {"authorization": "Bearer x"})
CREATED: Json = {"resultType": "task", "taskId": "t1", "status": "working", "pollIntervalMs": 1}
FORM: Json = {"method": "elicitation/create", "params": {"message": "?"}}


class Tasked:
    """An upstream whose task is in these states, one after the other; the last one stays."""

    def __init__(self, *states: Json) -> None:
        self.states = [CREATED, *({"taskId": "t1", "pollIntervalMs": 1, **state} for state in states)]
        self.sent: list[UpstreamRequest] = []

    async def __call__(self, request: UpstreamRequest) -> Outcome:
        self.sent.append(request)
        if request.method in ("tasks/update", "tasks/cancel"):
            return outcome_of(request.method, {}, 1.0)
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return outcome_of(request.method, state, 1.0)

    @property
    def methods(self) -> list[str]:
        return [request.method for request in self.sent]


class Person(RecordingReply):
    """An agent of the handshake era whose person answers."""

    def can_be_asked(self, method: str, params: Json) -> bool:
        return True

    async def ask(self, method: str, params: Json) -> Json:
        self.logged.append(params)
        return {"action": "accept"}


async def ended(*states: Json, within_s: float = 5, reply: RecordingReply | None = None) -> tuple[Outcome, Tasked]:
    upstream = Tasked(*states)
    return await until_complete("up", upstream, CALL, reply or RecordingReply(), follow_s=within_s), upstream


async def test_a_task_that_ends_is_the_answer_of_the_call() -> None:
    result = {"content": [{"type": "text", "text": "done"}]}
    reply = RecordingReply()
    outcome, upstream = await ended(
        {"status": "working", "statusMessage": "half"}, {"status": "completed", "result": result}, reply=reply
    )
    assert (outcome.status, outcome.result) == (OutcomeStatus.OK, result)
    assert upstream.methods == ["tools/call", "tasks/get", "tasks/get"]
    assert upstream.sent[1] == UpstreamRequest("tasks/get", {"taskId": "t1"}, CALL.headers)
    assert reply.progressed == [{"progress": 1}, {"progress": 2, "message": "half"}]


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ({"status": "completed", "result": {"content": [], "isError": True}}, OutcomeStatus.TOOL_ERROR),
        ({"status": "failed", "error": {"code": -32603, "message": "broke", "data": 1}}, OutcomeStatus.RPC_ERROR),
        ({"status": "cancelled"}, OutcomeStatus.RPC_ERROR),
    ],
)
async def test_a_task_ends_as_its_call_would_have(state: Json, status: OutcomeStatus) -> None:
    outcome, _ = await ended(state)
    assert outcome.status is status
    if state["status"] == "failed":
        assert outcome.error == RpcError(-32603, "broke", 1)


@pytest.mark.parametrize("state", [{"status": "completed"}, {"status": "failed", "error": {}}, {"status": 7}, {}])
async def test_what_is_no_end_is_not_taken_for_one(state: Json) -> None:
    with pytest.raises(Misbehaved):
        await ended(state)


async def test_what_a_task_asks_is_asked_once_however_long_it_takes_to_hear_the_answer() -> None:
    asking = {"status": "input_required", "inputRequests": {"a": FORM}}
    person = Person()
    _, upstream = await ended(asking, asking, {"status": "completed", "result": {"content": []}}, reply=person)
    updates = [request.params for request in upstream.sent if request.method == "tasks/update"]
    assert updates == [{"taskId": "t1", "inputResponses": {"a": {"action": "accept"}}}]
    assert person.logged == [{"message": "[up] ?"}]


async def test_a_task_that_does_not_end_is_given_up_and_cancelled() -> None:
    upstream = Tasked({"status": "working"})
    with pytest.raises(TimedOut, match="made a task of this call"):
        await until_complete("up", upstream, CALL, RecordingReply(), follow_s=0.05)
    assert upstream.methods[-1] == "tasks/cancel"


async def test_an_agent_that_cancels_its_call_cancels_the_task() -> None:
    upstream = Tasked({"status": "working"})
    call = asyncio.ensure_future(until_complete("up", upstream, CALL, RecordingReply()))
    while "tasks/get" not in upstream.methods:
        await anyio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert upstream.methods[-1] == "tasks/cancel"


@pytest.mark.parametrize(
    ("dialect", "method", "takes_input_required", "declared"),
    [
        (Dialect(MODERN.era, MODERN.version, frozenset({TASKS})), "tools/call", False, True),
        (Dialect(MODERN.era, MODERN.version, frozenset({TASKS})), "tasks/get", False, True),
        (Dialect(MODERN.era, MODERN.version, frozenset({TASKS})), "tools/call", True, False),
        (Dialect(MODERN.era, MODERN.version, frozenset({TASKS})), "prompts/get", False, False),
        (MODERN, "tools/call", False, False),
        (HANDSHAKE, "tools/call", False, False),
    ],
)
def test_the_extension_is_declared_where_a_task_would_be_followed(
    dialect: Dialect, method: str, takes_input_required: bool, declared: bool
) -> None:
    reply: Any = RecordingReply(wants_progress=False, takes_input_required=takes_input_required)
    sent = dialect.request(1, method, {}, reply)["params"].get("_meta", {})
    can = sent.get("io.modelcontextprotocol/clientCapabilities", {})
    assert (TASKS in can.get("extensions", {})) is declared
