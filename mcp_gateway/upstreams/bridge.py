"""One era spoken to the other: questions that an upstream asks the agent's side, whichever era either speaks.

| upstream | agent takes `input_required` | agent is asked live |
|---|---|---|
| modern: answers `input_required` | passed on as it is | asked here, then the upstream is asked again |
| legacy: asks in the middle of a call | `Reply.ask` parks the call | `Reply.ask` asks at once |
| modern: goes on as a wire task | an id of ours, if declared | followed to its end (`following`) |

Whatever a person is asked begins with the upstream's name: one that wants a password should not look like another, or
like us.

An upstream is only ever given what this agent declared: modern ones are told with each request, legacy ones were told
at the handshake what any agent might do, and get a refusal where this one cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import NoneType
from typing import Any, Final

from mcp_gateway.domain import Json, Outcome, OutcomeStatus, Reply, UpstreamRequest
from mcp_gateway.errors import Misbehaved, TimedOut
from mcp_gateway.revisions import WIRE_TASKS
from mcp_gateway.upstreams.connection import Question
from mcp_gateway.upstreams.dialect import declares
from mcp_gateway.upstreams.following import Send, followed

MAX_ROUNDS: Final = 10
"""How often one call may ask again; the SDKs' own drivers stop there too."""

FOLLOW_S: Final = 300.0
"""How long a wire task is followed for an agent of the handshake era; the usual limit on one call."""

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

_ENDS: Final = (OutcomeStatus.OK, OutcomeStatus.TOOL_ERROR)


async def put_question(method: str, params: Json, reply: Reply | None) -> Json:
    """Ask the agent of the call a legacy upstream's question belongs to (see `connection.Question`)."""
    if reply is None:
        raise LookupError("it cannot be told which call this question belongs to")
    return await reply.ask(method, params)


def is_complete(outcome: Outcome, method: str) -> bool:
    """Whether nothing about an answer needs `until_complete`: it asks nothing, is no wire task and no error."""
    return outcome.status in _ENDS and method != "tasks/get"


async def nobody(method: str, params: Json, reply: Reply | None) -> Json:
    """Answers no question."""
    raise LookupError("nobody answers questions here")


def named(name: str, on_question: Question) -> Question:
    """The same with the upstream's name put to what people are asked."""

    async def asked(method: str, params: Json, reply: Reply | None) -> Json:
        return await on_question(method, with_name(name, method, params), reply)

    return asked


def with_name(name: str, method: str, params: Json) -> Json:
    """The params of a question, its text for a person beginning with who asks."""
    message = params.get("message")
    is_for_a_person = method == "elicitation/create" and isinstance(message, str)
    return {**params, "message": f"[{name}] {message}"} if is_for_a_person else params


async def until_complete(
    name: str,
    send: Send,
    request: UpstreamRequest,
    reply: Reply,
    first: Outcome | None = None,
    follow_s: float = FOLLOW_S,
) -> Outcome:
    """Send a request, and again with the agent's answers, until the upstream asks nothing more.

    `first`: what came back already when it was sent for the first time.

    An agent that takes `input_required` gets it as the outcome instead; for another one a call that became a wire task
    is followed to its end, for `follow_s` at most. Raises `Misbehaved` for questions that this
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
            return _with_questions(outcome, questions)
        if rounds == MAX_ROUNDS:
            raise Misbehaved(name, f"upstream {name!r} asked for input more than {MAX_ROUNDS} times")
        rounds += 1
        outcome = await send(replace(request, params=_retried(request, outcome, await _answers(name, outcome, reply))))
    outcome = _checked(name, request.method, outcome, reply)
    if outcome.status is not OutcomeStatus.WIRE_TASK or reply.takes_input_required:
        return outcome
    return await followed(
        name, send, request, outcome, reply, lambda asked: _answers(name, asked, reply), within_s=follow_s
    )


async def _answers(name: str, asked: Outcome, reply: Reply) -> Json:
    """Put what an outcome asks to the agent's side, one by one; the answers by key."""
    questions = questions_in(name, asked)
    _check_answerable(name, questions, reply)
    return {key: await _ask(name, reply, *question) for key, question in questions.items()}


def _checked(name: str, method: str, outcome: Outcome, reply: Reply) -> Outcome:
    """An answer that ends the asking; one that goes on as a wire task only for an agent that can follow it."""
    if outcome.status is OutcomeStatus.WIRE_TASK:
        task_id = (outcome.result or {}).get("taskId")
        if reply.takes_input_required and not declares(reply.capabilities, WIRE_TASKS):
            raise Misbehaved(name, f"upstream {name!r} made a task of a call whose agent cannot follow one")
        if not isinstance(task_id, str) or not 0 < len(task_id) <= MAX_TASK_ID_CHARS:
            raise Misbehaved(name, f"upstream {name!r} made a task without a usable id")
    elif method == "tasks/get" and declares(reply.capabilities, WIRE_TASKS):
        questions = questions_in(name, outcome)
        _check_answerable(name, questions, reply)
        return _with_questions(outcome, questions)
    return _with_named_links(name, outcome)


def _with_questions(outcome: Outcome, questions: Mapping[str, tuple[str, Json]]) -> Outcome:
    if not questions or outcome.result is None:
        return outcome
    as_it_came = outcome.result["inputRequests"]
    asked = {key: {**as_it_came[key], "params": params} for key, (_, params) in questions.items() if params}
    return replace(outcome, result={**outcome.result, "inputRequests": {**as_it_came, **asked}})


def _with_named_links(name: str, outcome: Outcome) -> Outcome:
    """A legacy upstream's "open these links first" (-32042) asks people, too."""
    error = outcome.error
    links = error.data.get("elicitations") if error is not None and isinstance(error.data, dict) else None
    if error is None or not isinstance(links, list):
        return outcome
    asked = [with_name(name, "elicitation/create", link) if isinstance(link, dict) else link for link in links]
    return replace(outcome, error=replace(error, data={**error.data, "elicitations": asked}))


def questions_in(name: str, outcome: Outcome) -> dict[str, tuple[str, Json]]:
    """Method and params by key, the upstream's name put to what people are asked; null counts as absent.

    Raises `Misbehaved` for anything that is no map of questions.
    """
    asked = (outcome.result or {}).get("inputRequests")
    asked = {} if asked is None else asked
    if not isinstance(asked, dict) or len(asked) > MAX_INPUTS or not all(_is_question(q) for q in asked.values()):
        raise Misbehaved(name, f"upstream {name!r} asked for input in a way that breaks the protocol")
    each = ((key, question["method"], question.get("params") or {}) for key, question in asked.items())
    return {key: (method, with_name(name, method, params)) for key, method, params in each}


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
