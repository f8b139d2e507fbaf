"""A tool call that its upstream made a wire task of, followed to its end for an agent that knows of no such thing.

The handshake era has no tasks extension (SEP-2663). So the gateway declares it in the agent's place, asks how the task
is doing, puts what it asks to the agent's side, and answers the call with what the task ended with. An agent that
cancels, or has waited long enough, cancels the task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any, Final

import anyio

from mcp_gateway.domain import NOTHING, Json, Outcome, OutcomeStatus, Reply, RpcError, UpstreamRequest
from mcp_gateway.errors import Misbehaved, TimedOut, UpstreamError
from mcp_gateway.jsonrpc import Code
from mcp_gateway.upstreams.patience import patience

USUAL_POLL_S: Final = 1.0
LEAST_POLL_S: Final = 0.05
MOST_POLL_S: Final = 10.0
GIVE_UP_S: Final = 2.0
"""How long an upstream may take to hear that nobody waits for its task any more."""

Send = Callable[[UpstreamRequest], Awaitable[Outcome]]
Answers = Callable[[Outcome], Awaitable[Json]]
"""Puts what a task asks to the agent's side; the answers by key."""


async def followed(
    name: str, send: Send, request: UpstreamRequest, task: Outcome, reply: Reply, answers: Answers, within_s: float
) -> Outcome:
    """What the task of a call ended with, as the call's outcome.

    Raises `TimedOut` after `within_s`, the agent's side's time not counted, and whatever `send` and `answers` raise.
    """
    about = replace(request, params={"taskId": (task.result or {})["taskId"]}, definition=NOTHING)

    async def ask(method: str, **params: Any) -> Outcome:
        return await send(replace(about, method=method, params={**about.params, **params}))

    try:
        with patience(within_s, reply):
            ended = await _end_of(name, ask, task, reply, answers)
            return replace(ended, upstream_ms=task.upstream_ms + ended.upstream_ms)
    except BaseException:
        await _give_up(ask)
        raise
    await _give_up(ask)
    raise TimedOut(name, f"upstream {name!r} made a task of this call and did not end it within {within_s:.3g} s")


async def _end_of(
    name: str, ask: Callable[..., Awaitable[Outcome]], task: Outcome, reply: Reply, answers: Answers
) -> Outcome:
    now, answered = task, set[str]()
    for looks in count(1):
        state = now.result or {}
        if now.error is not None:
            return now
        if state.get("status") not in ("working", "input_required"):
            return _ending(name, state)
        answered &= set(state.get("inputRequests") or ())
        if given := await _given(now, answered, answers):
            await ask("tasks/update", inputResponses=given)
            answered |= given.keys()
        await reply.progress({"progress": looks, **_said(state)})
        await anyio.sleep(_poll_s(state))
        now = await ask("tasks/get")
    raise AssertionError("unreachable")


async def _given(now: Outcome, answered: set[str], answers: Answers) -> Json:
    """Answers to what the task asks and has not been answered yet."""
    asked: Mapping[str, Any] = (now.result or {}).get("inputRequests") or {}
    new = {key: question for key, question in asked.items() if key not in answered}
    return await answers(replace(now, result={"inputRequests": new})) if new else {}


def _ending(name: str, state: Json) -> Outcome:
    """What a task ended with. Raises `Misbehaved` for what is no end."""
    status, result, error = state.get("status"), state.get("result"), state.get("error")
    if status == "completed" and isinstance(result, dict):
        return Outcome(OutcomeStatus.TOOL_ERROR if result.get("isError") is True else OutcomeStatus.OK, result)
    if status == "failed" and isinstance(error, dict) and type(error.get("code")) is int:
        said = RpcError(error["code"], str(error.get("message", "")), error.get("data"))
        return Outcome(OutcomeStatus.RPC_ERROR, error=said)
    if status == "cancelled":
        return Outcome(OutcomeStatus.RPC_ERROR, error=RpcError(Code.INTERNAL_ERROR, "the upstream cancelled its task"))
    raise Misbehaved(name, f"upstream {name!r} ended a task in a way that breaks the protocol")


async def _give_up(ask: Callable[..., Awaitable[Outcome]]) -> None:
    """Tell the upstream that nobody waits; it may have ended the task itself by now, or be gone."""
    with anyio.move_on_after(GIVE_UP_S, shield=True):
        try:
            await ask("tasks/cancel")
        except UpstreamError:
            return


def _said(state: Json) -> Json:
    message = state.get("statusMessage")
    return {"message": message} if isinstance(message, str) else {}


def _poll_s(state: Json) -> float:
    """As often as the upstream says, within bounds."""
    said = state.get("pollIntervalMs")
    wanted = said / 1000 if isinstance(said, (int, float)) and not isinstance(said, bool) else USUAL_POLL_S
    return min(max(wanted, LEAST_POLL_S), MOST_POLL_S)
