"""Which model answers an upstream, under which bounds; the walks themselves are in walk/test_model_sampling.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from fakes.replies import RecordingReply
from mcp_gateway.config.models import Models
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Caller, Decision, Effect, Kind, Outcome, OutcomeStatus, Reason, Request, Target, Verb
from mcp_gateway.errors import AgentRefused, GatewayError, NotAvailable, OverLimit, Unreachable
from mcp_gateway.models.sampling import SAMPLING, Answerer, Sampling
from mcp_gateway.models.sender import model_target

CALLER = Caller("alice", "work")
TOOL_CALL = Request("r-1", Verb.CALL, "tools/call", Kind.TOOL, "u__t", {"_meta": {"traceparent": "00-1"}})
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}], "maxTokens": 50}
ANSWER = {"model": "real", "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}


def target(name: str, *wires: str) -> Target:
    return model_target(name, {"wires": list(wires) or ["openai"]})


class Asked:
    """Stands for the walk, and remembers what went in."""

    def __init__(
        self, *visible: Target, answer: Any = ANSWER, status: int = 200, error: Exception | None = None
    ) -> None:
        self.requests: list[Request] = []
        self.visible = visible
        self._answer = answer
        self._status = status
        self._error = error

    async def __call__(self, caller: Caller, request: Request) -> Outcome:
        self.requests.append(request)
        if self._error is not None:
            raise self._error
        assert request.http is not None
        await request.http.relay.begin(self._status, {})
        request.http.relay.hold(orjson.dumps(self._answer))
        return Outcome(OutcomeStatus.OK)

    @property
    def body(self) -> dict[str, Any]:
        assert self.requests[-1].http is not None
        return dict(orjson.loads(self.requests[-1].http.body))


def answering(asked: Asked, **keys: Any) -> Callable[..., Any]:
    answerer = Answerer(asked, lambda caller: asked.visible, Models, lambda: "r-2")
    server = replace(ServerConfig("u"), sampling="answer", sampling_model="default", **keys)
    return Sampling(server, answerer).reply(CALLER, TOOL_CALL, RecordingReply()).ask


async def test_the_answer_is_a_model_call_of_the_caller_s_own() -> None:
    asked = Asked(target("default"))
    result = await answering(asked)(SAMPLING, QUESTION)
    assert result == {
        "role": "assistant",
        "content": {"type": "text", "text": "yes"},
        "model": "real",
        "stopReason": "endTurn",
    }
    [request] = asked.requests
    assert (request.verb, request.kind, request.name, request.parent) == (Verb.SAMPLE, Kind.MODEL, "default", "r-1")
    assert request.params["_meta"] == {"traceparent": "00-1"}
    assert request.expects is not None
    assert request.expects.output == 50


@pytest.mark.parametrize(
    ("hints", "expected"),
    [
        ([], "default"),
        ([{"name": "claude-opus"}], "claude-opus"),
        ([{"name": "nobody"}, {"name": "gpt"}], "gpt-5"),
        ([{"name": "CLAUDE"}], "claude-opus"),
        ([{"name": ""}, "odd", {}], "default"),
    ],
)
async def test_hints_choose_among_what_the_caller_may_use(hints: list[Any], expected: str) -> None:
    asked = Asked(target("default"), target("gpt-5"), target("claude-opus"))
    await answering(asked)(SAMPLING, {**QUESTION, "modelPreferences": {"hints": hints, "costPriority": 1}})
    assert asked.requests[-1].name == expected


async def test_a_model_of_the_other_wire_is_asked_in_its_own_words() -> None:
    said = {"model": "c", "content": [{"type": "text", "text": "oui"}], "stop_reason": "end_turn"}
    asked = Asked(target("default", "anthropic"), answer=said)
    assert (await answering(asked)(SAMPLING, QUESTION))["content"]["text"] == "oui"
    assert asked.requests[-1].http is not None
    assert asked.requests[-1].http.path == "/v1/messages"


async def test_tokens_and_calls_are_bounded() -> None:
    asked = Asked(target("default"))
    ask = answering(asked, sampling_max_tokens=10, sampling_max_calls=2)
    for _ in range(2):
        await ask(SAMPLING, QUESTION)
    assert asked.body["max_completion_tokens"] == 10
    with pytest.raises(AgentRefused):
        await ask(SAMPLING, QUESTION)
    assert len(asked.requests) == 2


@pytest.mark.parametrize("wanted", [None, 0, -1, "many", True])
async def test_a_question_says_how_much_it_wants(wanted: Any) -> None:
    with pytest.raises(AgentRefused):
        await answering(Asked(target("default")))(SAMPLING, {**QUESTION, "maxTokens": wanted})


DENIED = NotAvailable("default", Decision(Effect.DENIED, Reason.NO_GRANT))


@pytest.mark.parametrize(
    ("error", "code"), [(DENIED, -1), (OverLimit("out of tokens"), -1), (Unreachable("p", "down"), -32603)]
)
async def test_what_stops_a_model_call_stops_this_one(error: GatewayError, code: int) -> None:
    with pytest.raises(AgentRefused) as refused:
        await answering(Asked(target("default"), error=error))(SAMPLING, QUESTION)
    assert refused.value.rpc_code == code


async def test_nothing_is_asked_where_the_caller_has_no_model() -> None:
    asked = Asked()
    with pytest.raises(AgentRefused):
        await answering(asked)(SAMPLING, QUESTION)
    assert asked.requests == []


async def test_a_provider_s_refusal_is_none_of_the_upstream_s_business() -> None:
    asked = Asked(target("default"), status=400, answer={"error": {"message": "key sk-1 is odd"}})
    with pytest.raises(AgentRefused) as refused:
        await answering(asked)(SAMPLING, QUESTION)
    assert "sk-1" not in str(refused.value)


async def test_where_sampling_is_refused_nobody_is_asked() -> None:
    reply = Sampling(ServerConfig("u"), None).reply(
        CALLER, TOOL_CALL, RecordingReply(capabilities={"sampling": {}, "roots": {}})
    )
    assert reply.capabilities == {"roots": {}}
    assert not reply.can_be_asked(SAMPLING, QUESTION)
    with pytest.raises(LookupError):
        await reply.ask(SAMPLING, QUESTION)


async def test_the_agent_s_own_channel_stays_open_for_everything_else() -> None:
    inner = RecordingReply(takes_input_required=True)
    answerer = Answerer(Asked(), lambda caller: (), Models, lambda: "r-2")
    reply = Sampling(ServerConfig("u"), answerer).reply(CALLER, TOOL_CALL, inner)
    await reply.progress({"progress": 1})
    await reply.log({"level": "info"})
    assert (inner.progressed, inner.logged) == ([{"progress": 1}], [{"level": "info"}])
    assert "sampling" in reply.capabilities
    assert not reply.takes_input_required
    assert not reply.can_be_asked("elicitation/create", {})
