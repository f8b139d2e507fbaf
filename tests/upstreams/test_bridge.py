"""Questions of a modern upstream: passed on to agents that take them so, asked live for those that do not."""

from dataclasses import replace
from typing import Any

import pytest

from fakes.replies import RecordingReply
from mcp_gateway.domain import Json, Outcome, OutcomeStatus, Reply, RpcError, UpstreamRequest
from mcp_gateway.errors import AgentRefused, Misbehaved, TimedOut
from mcp_gateway.revisions import WIRE_TASKS
from mcp_gateway.upstreams.bridge import MAX_INPUTS, MAX_ROUNDS, named, put_question, until_complete

FORM = {"method": "elicitation/create", "params": {"message": "?"}}
NAMED = {"method": "elicitation/create", "params": {"message": "[up] ?"}}
ROOTS = {"method": "roots/list"}
REQUEST = UpstreamRequest("tools/call", {"name": "t", "arguments": {"a": 1}, "_meta": {"k": 1}})
DONE = Outcome(OutcomeStatus.OK, {"content": []})


class Side(RecordingReply):
    """An agent that answers each question with the method it was asked by, unless it cannot."""

    def __init__(self, *, cannot: str = "", fails: Exception | None = None, takes_input_required: bool = False) -> None:
        super().__init__(takes_input_required=takes_input_required)
        self.cannot, self.fails = cannot, fails
        self.asked: list[tuple[str, Json]] = []

    def can_be_asked(self, method: str, params: Json) -> bool:
        return method != self.cannot

    async def ask(self, method: str, params: Json) -> Json:
        self.asked.append((method, params))
        if self.fails is not None:
            raise self.fails
        return {"answers": method, "n": len(self.asked)}


class Server:
    """A modern upstream that answers from a list, and remembers what it was sent."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent: list[UpstreamRequest] = []

    async def __call__(self, request: UpstreamRequest) -> Outcome:
        self.sent.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer if isinstance(answer, Outcome) else asking(**answer)


def asking(**result: Any) -> Outcome:
    return Outcome(OutcomeStatus.INPUT_REQUIRED, {"resultType": "input_required", **result})


async def test_an_agent_that_takes_the_question_as_it_is_gets_it() -> None:
    question = asking(inputRequests={"a": FORM}, requestState="s", unknown=1)
    side = Side(takes_input_required=True)
    outcome = await until_complete("up", Server(question), REQUEST, side)
    assert outcome == asking(inputRequests={"a": NAMED}, requestState="s", unknown=1)
    assert side.asked == []


async def test_another_agent_is_asked_live_and_the_upstream_again_with_the_answers() -> None:
    server = Server(
        {"inputRequests": {"a": FORM, "b": ROOTS}, "requestState": "one"},
        {"inputRequests": {"c": ROOTS}, "requestState": None},
        {"requestState": "three"},
        DONE,
    )
    side = Side()
    assert await until_complete("up", server, REQUEST, side) is DONE
    assert side.asked == [("elicitation/create", {"message": "[up] ?"}), ("roots/list", {}), ("roots/list", {})]
    added = [{k: v for k, v in sent.params.items() if k not in REQUEST.params} for sent in server.sent]
    assert added == [
        {},
        {
            "inputResponses": {
                "a": {"answers": "elicitation/create", "n": 1},
                "b": {"answers": "roots/list", "n": 2},
            },
            "requestState": "one",
        },
        {"inputResponses": {"c": {"answers": "roots/list", "n": 3}}},
        {"requestState": "three"},
    ]
    assert all(sent.params["arguments"] == {"a": 1} and sent.params["_meta"] == {"k": 1} for sent in server.sent)


@pytest.mark.parametrize("takes_input_required", [True, False])
async def test_what_the_agent_had_not_said_it_can_answer_is_not_asked(takes_input_required: bool) -> None:
    side = Side(cannot="roots/list", takes_input_required=takes_input_required)
    with pytest.raises(Misbehaved, match="'up' asked for roots/list"):
        await until_complete("up", Server({"inputRequests": {"a": FORM, "b": ROOTS}}), REQUEST, side)
    assert side.asked == []


@pytest.mark.parametrize("takes_input_required", [True, False])
@pytest.mark.parametrize(
    "questions",
    [[], "x", 7, {"a": None}, {"a": {}}, {"a": {"method": 7}}, {"a": {"method": "m", "params": []}},
     {str(n): ROOTS for n in range(MAX_INPUTS + 1)}],
)  # fmt: skip
async def test_questions_that_break_the_protocol_reach_nobody(questions: Any, takes_input_required: bool) -> None:
    side = Side(takes_input_required=takes_input_required)
    with pytest.raises(Misbehaved):
        await until_complete("up", Server({"inputRequests": questions}), REQUEST, side)
    assert side.asked == []


async def test_null_stands_for_no_questions() -> None:
    server = Server(
        {"inputRequests": None, "requestState": "s"}, {"inputRequests": {"a": {**ROOTS, "params": None}}}, DONE
    )
    assert await until_complete("up", server, REQUEST, Side()) is DONE


async def test_rounds_are_bounded_and_the_last_one_counts() -> None:
    question = {"inputRequests": {"a": ROOTS}}
    enough = Server(*[question] * MAX_ROUNDS, DONE)
    assert await until_complete("up", enough, REQUEST, Side()) is DONE
    side, endless = Side(), Server(question)
    with pytest.raises(Misbehaved, match="more than"):
        await until_complete("up", endless, REQUEST, side)
    assert (len(endless.sent), len(side.asked)) == (MAX_ROUNDS + 1, MAX_ROUNDS)


@pytest.mark.parametrize(
    ("fails", "raised", "words"),
    [
        (LookupError("nobody answered"), TimedOut, "'up' asked for roots/list and got no answer: nobody answered"),
        (AgentRefused(-1, "User rejected"), AgentRefused, "User rejected"),
    ],
)
async def test_a_question_without_an_answer_ends_the_call(
    fails: Exception, raised: type[Exception], words: str
) -> None:
    server = Server({"inputRequests": {"a": ROOTS}})
    with pytest.raises(raised, match=words):
        await until_complete("up", server, REQUEST, Side(fails=fails))
    assert len(server.sent) == 1


async def test_a_legacy_upstreams_question_goes_to_the_agent_of_its_call_or_to_nobody() -> None:
    side = Side()
    assert await put_question("roots/list", {}, side) == {"answers": "roots/list", "n": 1}
    with pytest.raises(LookupError, match="which call"):
        await put_question("roots/list", {}, None)


async def test_whatever_a_person_is_asked_begins_with_who_asks() -> None:
    asked: list[Json] = []

    async def answer(method: str, params: Json, reply: Reply | None) -> Json:
        asked.append(params)
        return {}

    for method in ("elicitation/create", "sampling/createMessage"):
        await named("up", answer)(method, {"message": "Your password?", "x": 1}, None)
    assert asked == [{"message": "[up] Your password?", "x": 1}, {"message": "Your password?", "x": 1}]
    link = {"mode": "url", "message": "Go there", "url": "https://u.example/"}
    refused = Outcome(OutcomeStatus.RPC_ERROR, error=RpcError(-32042, "m", {"elicitations": [link, 7], "x": 1}))
    outcome = await until_complete("up", Server(refused), REQUEST, Side())
    assert outcome.error is not None
    assert outcome.error.data == {"elicitations": [{**link, "message": "[up] Go there"}, 7], "x": 1}
    task = Outcome(OutcomeStatus.OK, {"taskId": "t", "status": "input_required", "inputRequests": {"a": FORM}})
    follows = Side()
    follows.capabilities = {"extensions": {WIRE_TASKS: {}}}
    outcome = await until_complete("up", Server(task), replace(REQUEST, method="tasks/get"), follows)
    assert outcome.result == {"taskId": "t", "status": "input_required", "inputRequests": {"a": NAMED}}
