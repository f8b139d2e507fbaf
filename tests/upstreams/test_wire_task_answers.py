"""An upstream may only make a task of a call whose agent can follow one, and under an id that can be carried."""

from typing import Any

import pytest

from fakes.replies import RecordingReply
from mcp_gateway.domain import Json, Outcome, OutcomeStatus, UpstreamRequest
from mcp_gateway.errors import Misbehaved
from mcp_gateway.upstreams.bridge import MAX_TASK_ID_CHARS, until_complete
from mcp_gateway.upstreams.managed import outcome_of

TASKS = "io.modelcontextprotocol/tasks"
FOLLOWS: Json = {"extensions": {TASKS: {}}}


async def asked(answer: Json, capabilities: Json, method: str = "tools/call") -> Outcome:
    async def send(request: UpstreamRequest) -> Outcome:
        return outcome_of(request.method, answer, 1.0)

    reply = RecordingReply(capabilities=capabilities, takes_input_required=True)
    return await until_complete("u", send, UpstreamRequest(method, {}), reply)


async def test_a_task_is_an_answer_to_who_can_follow_it() -> None:
    answer = {"resultType": "task", "taskId": "t", "x": None}
    assert await asked(answer, FOLLOWS) == Outcome(OutcomeStatus.WIRE_TASK, answer, None, 1.0)


@pytest.mark.parametrize("capabilities", [{}, {"extensions": {}}, {"extensions": {TASKS: None}}, {"elicitation": {}}])
async def test_a_task_is_no_answer_to_who_cannot(capabilities: Json) -> None:
    with pytest.raises(Misbehaved):
        await asked({"resultType": "task", "taskId": "t"}, capabilities)


@pytest.mark.parametrize("task_id", [None, 7, "", ["t"], "x" * (MAX_TASK_ID_CHARS + 1)])
async def test_an_id_has_to_be_usable(task_id: Any) -> None:
    with pytest.raises(Misbehaved):
        await asked({"resultType": "task", "taskId": task_id}, FOLLOWS)


def test_only_a_tool_call_becomes_a_task() -> None:
    assert outcome_of("prompts/get", {"resultType": "task", "taskId": "t"}, 1.0).status is OutcomeStatus.OK


@pytest.mark.parametrize("questions", [[], "x", {"q": "x"}, {"q": {"params": {}}}, {"q": {"method": "m", "params": 1}}])
async def test_what_a_task_asks_has_the_shape_of_questions(questions: Any) -> None:
    state = {"taskId": "t", "status": "input_required", "inputRequests": questions}
    with pytest.raises(Misbehaved):
        await asked(state, FOLLOWS, "tasks/get")
