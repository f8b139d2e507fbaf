"""One era spoken to the other: questions that an upstream asks the agent's side, whichever era either speaks.

| upstream | agent takes `input_required` | agent is asked live |
|---|---|---|
| modern: answers `input_required` | passed on as it is | asked here, then the upstream is asked again |
| legacy: asks in the middle of a call | `Reply.ask` parks the call | `Reply.ask` asks at once |

An upstream is only ever given what this agent declared: modern ones are told with each request, legacy ones were told
at the handshake what any agent might do, and get a refusal where this one cannot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import NoneType
from typing import Any, Final

from mcp_gateway.domain import Json, Outcome, OutcomeStatus, Reply, UpstreamRequest
from mcp_gateway.errors import Misbehaved, TimedOut
from mcp_gateway.revisions import WIRE_TASKS
from mcp_gateway.upstreams.dialect import declares

MAX_ROUNDS: Final = 10
"""How often one call may ask again; the SDKs' own drivers stop there too."""

MAX_INPUTS: Final = 16
"""Questions in one round."""

MAX_TASK_ID_CHARS: Final = 512
"""A wire task's id is sent in a header, inside ours; real ones are UUIDs."""

LEGACY_CAPABILITIES: Final[Mapping[str, Any]] = {
    "elicitation": {"form": {}, "url": {}},
    "roots": {},
    "sampling": {"tools": {}},
}
"""What a legacy upstream is told at the handshake: what any agent might be able to do."""

_ENDS: Final = (OutcomeStatus.OK, OutcomeStatus.TOOL_ERROR, OutcomeStatus.RPC_ERROR)

Send = Callable[[UpstreamRequest], Awaitable[Outcome]]


async def put_question(method: str, params: Json, reply: Reply | None) -> Json:
    """Ask the agent of the call a legacy upstream's question belongs to (see `connection.Question`)."""
    if reply is None:
        raise LookupError("it cannot be told which call this question belongs to")
    return await reply.ask(method, params)


def is_complete(outcome: Outcome, method: str) -> bool:
    """Whether nothing about an answer needs `until_complete`: it asks nothing and is no wire task."""
    return outcome.status in _ENDS and method != "tasks/get"


async def until_complete(
    name: str, send: Send, request: UpstreamRequest, reply: Reply, first: Outcome | None = None
) -> Outcome:
    """Send a request, and again with the agent's answers, until the upstream asks nothing more.

    `first`: what came back already when it was sent for the first time.

    An agent that takes `input_required` gets it as the outcome instead. Raises `Misbehaved` for questions that this
    agent had not said it can answer, for too many of them, for too many rounds, and for a wire task that this agent
    had not said it can follow; `TimedOut` where the agent's side gives no answer; `AgentRefused` where its answer is an
    error.
    """
    outcome = first or await send(request)
    rounds = 0
    while outcome.status is OutcomeStatus.INPUT_REQUIRED:
        questions = questions_in(name, outcome)
        _check_answerable(name, questions, reply)
        if reply.takes_input_required:
            return outcome
        if rounds == MAX_ROUNDS:
            raise Misbehaved(name, f"upstream {name!r} asked for input more than {MAX_ROUNDS} times")
        rounds += 1
        answers = {key: await _ask(name, reply, *question) for key, question in questions.items()}
        outcome = await send(replace(request, params=_retried(request, outcome, answers)))
    return _checked(name, request.method, outcome, reply)


def _checked(name: str, method: str, outcome: Outcome, reply: Reply) -> Outcome:
    """An answer that ends the asking; one that goes on as a wire task only for an agent that can follow it."""
    if outcome.status is OutcomeStatus.WIRE_TASK:
        task_id = (outcome.result or {}).get("taskId")
        if not declares(reply.capabilities, WIRE_TASKS):
            raise Misbehaved(name, f"upstream {name!r} made a task of a call whose agent cannot follow one")
        if not isinstance(task_id, str) or not 0 < len(task_id) <= MAX_TASK_ID_CHARS:
            raise Misbehaved(name, f"upstream {name!r} made a task without a usable id")
    elif method == "tasks/get":
        _check_answerable(name, questions_in(name, outcome), reply)
    return outcome


def questions_in(name: str, outcome: Outcome) -> dict[str, tuple[str, Json]]:
    """Method and params by key; null counts as absent. Raises `Misbehaved` for anything that is no map of questions."""
    asked = (outcome.result or {}).get("inputRequests")
    asked = {} if asked is None else asked
    if not isinstance(asked, dict) or len(asked) > MAX_INPUTS or not all(_is_question(q) for q in asked.values()):
        raise Misbehaved(name, f"upstream {name!r} asked for input in a way that breaks the protocol")
    return {key: (question["method"], question.get("params") or {}) for key, question in asked.items()}


def _check_answerable(name: str, questions: Mapping[str, tuple[str, Json]], reply: Reply) -> None:
    """An upstream may only ask what it was told this agent can answer (patterns/mrtr). Raises `Misbehaved`."""
    for method, params in questions.values():
        if not reply.can_be_asked(method, params):
            raise Misbehaved(name, f"upstream {name!r} asked for {method:.60}, which this agent cannot answer")


async def _ask(name: str, reply: Reply, method: str, params: Json) -> Json:
    try:
        return await reply.ask(method, params)
    except LookupError as e:
        raise TimedOut(name, f"upstream {name!r} asked for {method:.60} and got no answer: {e}") from e


def _retried(request: UpstreamRequest, outcome: Outcome, answers: Mapping[str, Json]) -> Json:
    """The same params with the answers and the upstream's state, both as of this round (patterns/mrtr)."""
    params = {key: value for key, value in request.params.items() if key not in ("inputResponses", "requestState")}
    if answers:
        params["inputResponses"] = dict(answers)
    state = (outcome.result or {}).get("requestState")
    return params if state is None else {**params, "requestState": state}


def _is_question(question: object) -> bool:
    return (
        isinstance(question, dict)
        and isinstance(question.get("method"), str)
        and isinstance(question.get("params"), (dict, NoneType))
    )
