"""A modern agent's call in rounds: who may come back, with what, how often, and what becomes of a call nobody wants."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from fakes.front import Front, answer_of, front, modern_request, utc_now
from fakes.upstream import Answering, text
from fakes.waiting import until
from mcp_gateway.domain import Json, Outcome, OutcomeStatus, Reply, RpcError, UpstreamRequest
from mcp_gateway.errors import Unreachable
from mcp_gateway.frontdoor import parking
from mcp_gateway.frontdoor.rounds import MAX_ROUNDS

CAN: Json = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
FORM: Json = {"method": "elicitation/create", "params": {"mode": "form", "message": "Name?"}}
ANSWER: Json = {"action": "accept", "content": {"name": "Ada"}}
MISUSED = ("denied", "misuse", "refused")
COLUMNS = "decision, reason, outcome"


def asking(*messages: str, then: str = "done") -> Answering:
    """An upstream of the handshake era: asks in the middle of the call, one question after the other."""

    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        answers = [await reply.ask(FORM["method"], {**FORM["params"], "message": each}) for each in messages]
        return text(f"{then}: {[answer['content']['name'] for answer in answers]}")

    return answering


def requiring(state: Any = "s1", **extra: Any) -> Answering:
    """A modern upstream: answers `input_required` until it gets what it asked for."""

    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        if "inputResponses" in request.params:
            return text(f"{request.params['inputResponses']} {request.params.get('requestState')}")
        asked = {"resultType": "input_required", "inputRequests": {"name": FORM}, "requestState": state, **extra}
        return Outcome(OutcomeStatus.INPUT_REQUIRED, asked)

    return answering


KINDS: dict[str, Callable[[], Answering]] = {"parked": lambda: asking("Name?"), "sealed": lambda: requiring()}


async def begin(door: Front, name: str = "u__echo", can: Json = CAN, **more: Any) -> httpx2.Response:
    params = {"name": name, "arguments": {"a": 1}, "_meta": {CAPABILITIES: can}}
    return await door.modern("tools/call", params, **more)


async def question(door: Front, **more: Any) -> Json:
    """Begin a call that asks; returns the `input_required` result."""
    response = await begin(door, **more)
    result: Json = answer_of(response)["result"]
    assert (response.status_code, result["resultType"]) == (200, "input_required")
    return result


def retry(result: Json, answers: Json | None = None, **more: Any) -> Json:
    """The params of the next round."""
    responses = dict.fromkeys(result.get("inputRequests", {}), ANSWER) if answers is None else answers
    again = {"requestState": result["requestState"], "inputResponses": responses}
    return {"name": "u__echo", "arguments": {"a": 1}, "_meta": {CAPABILITIES: CAN}, **again, **more}


def said(response: httpx2.Response) -> str:
    return str(answer_of(response)["result"]["content"][0]["text"])


def at_rest(door: Front) -> bool:
    """Whether nothing is left of any call."""
    return len(door.rounds._lot) == 0 and not door.rounds._lot._count_of and not door.closers._open


# The way there and back


async def test_a_question_in_the_middle_of_a_call_reaches_the_agent_and_its_answer_the_call(door: Front) -> None:
    door.u.script["echo"] = asking("Name?")
    asked = await question(door)
    assert list(asked["inputRequests"].values()) == [FORM]
    response = await door.modern("tools/call", retry(asked), id_=2)
    assert said(response) == "done: ['Ada']"
    assert len(door.u.asked) == 1
    assert await until(lambda: at_rest(door))
    assert door.rows(COLUMNS) == [("allowed", "grant", "ok"), ("allowed", "grant", "resumed")]


async def test_as_many_rounds_as_it_takes(door: Front) -> None:
    door.u.script["echo"] = asking("First?", "Second?", "Third?")
    asked, states = await question(door), set()
    for id_, message in ((2, "Second?"), (3, "Third?")):
        states.add(asked["requestState"])
        asked = answer_of(await door.modern("tools/call", retry(asked), id_=id_))["result"]
        assert [request["params"]["message"] for request in asked["inputRequests"].values()] == [message]
    assert said(await door.modern("tools/call", retry(asked), id_=4)) == "done: ['Ada', 'Ada', 'Ada']"
    assert len(states | {asked["requestState"]}) == 3


async def test_a_modern_upstreams_question_and_state_travel_inside_ours(door: Front) -> None:
    door.u.script["echo"] = requiring("the upstream's own", hint=7)
    asked = await question(door)
    assert (asked["inputRequests"], asked["hint"]) == ({"name": FORM}, 7)
    assert "the upstream's own" not in asked["requestState"]
    response = await door.modern("tools/call", retry(asked))
    assert said(response) == f"{ {'name': ANSWER} } the upstream's own"
    assert door.rows(COLUMNS) == [("allowed", "grant", "input_required"), ("allowed", "grant", "ok")]
    assert at_rest(door)


@pytest.mark.parametrize("state", [None, "", 7, {"a": [1]}])
async def test_an_upstreams_state_comes_back_to_it_as_it_was(door: Front, state: Any) -> None:
    door.u.script["echo"] = requiring(state)
    await door.modern("tools/call", retry(await question(door)))
    sent = door.u.asked[-1].params
    assert sent.get("requestState") == state
    assert ("requestState" in sent) is (state is not None)


async def test_an_upstream_may_ask_for_nothing_but_another_round_of_any_agent(door: Front) -> None:
    door.u.script["echo"] = requiring(inputRequests=None)
    asked = await question(door, can={})
    assert "inputRequests" not in asked
    assert said(await door.modern("tools/call", retry(asked, {}))) == "{} s1"


async def test_answers_without_a_state_begin_a_call_of_their_own(door: Front) -> None:
    door.u.script["echo"] = requiring("theirs")
    params = retry(await question(door))
    del params["requestState"]
    await door.modern("tools/call", params)
    sent = door.u.asked[-1].params
    assert sent["inputResponses"] == params["inputResponses"]
    assert "requestState" not in sent
    assert door.rows("kind, outcome") == [("call", "input_required"), ("call", "ok")]


async def test_a_parked_call_speaks_to_the_request_at_hand(door: Front) -> None:
    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        await reply.progress({"progress": 1})
        await reply.ask(FORM["method"], FORM["params"])
        await reply.progress({"progress": 2})
        return text("done")

    door.u.script["echo"] = answering
    meta = {CAPABILITIES: CAN, "progressToken": "first"}
    first = await door.modern("tools/call", {"name": "u__echo", "arguments": {"a": 1}, "_meta": meta})
    asked = answer_of(first)["result"]
    second = await door.modern("tools/call", retry(asked, _meta={CAPABILITIES: CAN, "progressToken": "second"}))
    assert '"progressToken":"first"' in first.text
    assert '"progressToken":"second"' in second.text
    assert '"progressToken":"first"' not in second.text


# What an agent cannot answer


@pytest.mark.parametrize("can", [{}, {"elicitation": {"url": {}}}, {"sampling": {}}])
async def test_an_agent_is_never_asked_what_it_cannot_answer(door: Front, can: Json) -> None:
    refused: list[str] = []

    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        try:
            await reply.ask(FORM["method"], FORM["params"])
        except LookupError as e:
            refused.append(str(e))
        return text("without")

    door.u.script["echo"] = answering
    assert said(await begin(door, can=can)) == "without"
    assert refused == ["this agent cannot be asked elicitation/create"]
    assert at_rest(door)


async def test_a_link_that_must_be_opened_first_becomes_a_question(door: Front) -> None:
    links = [
        {"mode": "url", "url": "https://u.example/consent", "message": "Consent", "elicitationId": "e"},
        {"mode": "url", "url": "javascript:alert(1)", "message": "Consent", "elicitationId": "f"},
        "nonsense",
    ]

    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        if len(door.u.asked) > 1:
            return text("opened")
        error = RpcError(-32042, "open it first", {"elicitations": links})
        return Outcome(OutcomeStatus.RPC_ERROR, error=error)

    door.u.script["echo"] = answering
    asked = await question(door)
    params = {"mode": "url", "url": "https://u.example/consent", "message": "Consent"}
    assert asked["inputRequests"] == {"link1": {"method": "elicitation/create", "params": params}}
    assert said(await door.modern("tools/call", retry(asked))) == "opened"


@pytest.mark.parametrize(
    ("can", "links", "code"),
    [
        ({}, [{"url": "https://u.example/"}], -32021),
        ({"elicitation": {}}, [{"url": "https://u.example/"}], -32021),
        (CAN, [{"url": "http://u.example/"}], None),
        (CAN, "nonsense", None),
    ],
)
async def test_the_handshake_eras_code_for_links_never_reaches_a_modern_agent(
    door: Front, can: Json, links: Any, code: int | None
) -> None:
    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        return Outcome(OutcomeStatus.RPC_ERROR, error=RpcError(-32042, "open it", {"elicitations": links}))

    door.u.script["echo"] = answering
    answer = answer_of(await begin(door, can=can))
    if code is None:
        assert answer["result"]["isError"] is True
    else:
        needed = {"requiredCapabilities": {"elicitation": {"url": {}}}}
        assert answer["error"] == {"code": code, "message": "open it", "data": needed}


async def test_an_upstream_that_never_stops_asking_is_stopped(door: Front) -> None:
    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        asked = {"resultType": "input_required", "inputRequests": {"name": FORM}, "requestState": "again"}
        return Outcome(OutcomeStatus.INPUT_REQUIRED, asked)

    door.u.script["echo"] = answering
    asked = await question(door)
    for _ in range(MAX_ROUNDS - 1):
        asked = answer_of(await door.modern("tools/call", retry(asked)))["result"]
        assert asked["resultType"] == "input_required"
    last = answer_of(await door.modern("tools/call", retry(asked)))["result"]
    assert last["isError"] is True
    assert len(door.u.asked) == MAX_ROUNDS + 1


async def test_a_state_that_no_retry_could_carry_is_not_handed_out(door: Front) -> None:
    door.u.script["echo"] = requiring("x" * 200_000)
    assert answer_of(await begin(door))["result"]["isError"] is True


# States that do not hold


async def _altered(door: Front, params: Json) -> httpx2.Response:
    state = params["requestState"]
    swapped = state[:40] + ("A" if state[40] != "A" else "B") + state[41:]
    return await door.modern("tools/call", {**params, "requestState": swapped})


async def _foreign_spelling(door: Front, params: Json) -> httpx2.Response:
    return await door.modern("tools/call", {**params, "requestState": params["requestState"] + "\n"})


async def _expired(door: Front, params: Json) -> httpx2.Response:
    door.rounds._now_s = lambda: time.time() + 601
    return await door.modern("tools/call", params)


async def _another_agent(door: Front, params: Json) -> httpx2.Response:
    return await door.modern("tools/call", params, agent="bob")


async def _another_key(door: Front, params: Json) -> httpx2.Response:
    token, _ = door.keys.create("alice", None, utc_now())
    return await door.modern("tools/call", params, authorization=f"Bearer {token}")


async def _another_task(door: Front, params: Json) -> httpx2.Response:
    return await door.modern("tools/call", params, path="/rest")


async def _other_arguments(door: Front, params: Json) -> httpx2.Response:
    return await door.modern("tools/call", {**params, "arguments": {"a": 2}})


async def _no_arguments(door: Front, params: Json) -> httpx2.Response:
    return await door.modern("tools/call", {k: v for k, v in params.items() if k != "arguments"})


async def _another_tool(door: Front, params: Json) -> httpx2.Response:
    return await door.modern("tools/call", {**params, "name": "u__second"})


async def _another_method(door: Front, params: Json) -> httpx2.Response:
    return await door.modern("prompts/get", {**params, "name": "u__echo"})


async def _a_resource(door: Front, params: Json) -> httpx2.Response:
    return await door.modern("resources/read", {**params, "uri": "u__echo"})


ATTACKS = [_altered, _foreign_spelling, _expired, _another_agent, _another_key, _another_task, _other_arguments,
           _no_arguments, _another_tool, _another_method, _a_resource]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__.strip("_"))
@pytest.mark.parametrize("kind", KINDS)
async def test_a_state_that_does_not_hold_gets_nothing_and_is_in_the_audit(
    door: Front, kind: str, attack: Callable[[Front, Json], Any]
) -> None:
    door.u.script["echo"] = KINDS[kind]()
    params = retry(await question(door))
    response = await attack(door, params)
    error = answer_of(response)["error"]
    assert (response.status_code, error["code"]) == (400, -32602)
    assert error["message"] == "requestState is not valid (any more) for this request"
    assert len(door.u.asked) == 1
    assert [row for row in door.rows(COLUMNS) if row[1] == "misuse"] == [MISUSED]
    door.rounds._now_s = time.time
    assert said(await door.modern("tools/call", params)), "who it belongs to can still use it"


async def test_what_never_was_a_state_gets_nothing_and_is_in_the_audit(door: Front) -> None:
    params = retry({"requestState": ""})
    states: list[Any] = ["", "AAAA", "A" * 300_000, 7, {}, [], True]
    for state in states:
        response = await door.modern("tools/call", {**params, "requestState": state})
        assert (response.status_code, answer_of(response)["error"]["code"]) == (400, -32602)
    assert door.u.asked == []
    assert door.rows(COLUMNS) == [MISUSED] * len(states)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_state_works_once(door: Front, kind: str) -> None:
    door.u.script["echo"] = KINDS[kind]()
    params = retry(await question(door))
    answers = await asyncio.gather(*(door.modern("tools/call", params, id_=n) for n in range(2, 7)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400, 400]
    assert len(door.u.asked) == (1 if kind == "parked" else 2)
    assert [row for row in door.rows(COLUMNS) if row[1] == "misuse"] == [MISUSED] * 4


async def test_an_earlier_rounds_state_is_worth_nothing_in_a_later_one(door: Front) -> None:
    door.u.script["echo"] = asking("First?", "Second?")
    first = await question(door)
    second = answer_of(await door.modern("tools/call", retry(first)))["result"]
    assert (await door.modern("tools/call", retry(first))).status_code == 400
    assert said(await door.modern("tools/call", retry(second)))


async def test_where_nobody_can_tell_whether_a_state_was_used_nothing_is_resumed(door: Front) -> None:
    door.u.script["echo"] = requiring()
    asked = await question(door)
    door.rounds._take = lambda digest, expires_at, now: None
    assert "too many calls" in said(await door.modern("tools/call", retry(asked)))
    assert len(door.u.asked) == 1


async def test_a_used_state_is_kept_for_as_long_as_it_could_be_opened(door: Front) -> None:
    taken: list[tuple[int, int]] = []
    door.rounds._take = lambda digest, expires_at, now: not taken.append((expires_at, now))
    door.rounds._now_s = lambda: 1_000_000.5
    door.u.script["echo"] = requiring()
    await door.modern("tools/call", retry(await question(door)))
    assert taken == [(1_000_600, 1_000_000)]


async def test_a_good_state_of_a_call_that_was_given_up_is_refused_and_in_the_audit(door: Front) -> None:
    door.u.script["echo"] = asking("Name?")
    asked = await question(door)
    door.rounds._lot._ttl_s = 0.0
    [place] = door.rounds._lot._parked.values()
    place.call.give_up()
    response = await door.modern("tools/call", retry(asked))
    assert (response.status_code, answer_of(response)["error"]["code"]) == (400, -32602)
    await until(lambda: len(door.rows(COLUMNS)) == 2)
    assert sorted(door.rows(COLUMNS)) == [("allowed", "grant", "cancelled"), MISUSED]


# Calls that nobody wants any more


async def test_a_parked_call_whose_agent_never_returns_is_cancelled(tmp_path: Path) -> None:
    async with front(tmp_path) as door:
        door.rounds._lot._ttl_s = 0.05
        door.u.script["echo"] = asking("Name?")
        await question(door)
        await until(lambda: door.u.cancelled)
        await until(lambda: at_rest(door))
        assert door.rows(COLUMNS) == [("allowed", "grant", "cancelled")]


async def test_revoking_the_key_cancels_its_parked_calls(door: Front) -> None:
    door.u.script["echo"] = asking("Name?")
    await question(door)
    bobs = await question(door, agent="bob")
    door.revoke("alice")
    await until(lambda: door.u.cancelled)
    assert len(door.u.cancelled) == 1
    bob_again = await door.modern("tools/call", retry(bobs), agent="bob")
    assert said(bob_again) == "done: ['Ada']"
    await until(lambda: at_rest(door))


async def test_revoking_the_key_cancels_a_resumed_call(door: Front) -> None:
    resumed = asyncio.Event()

    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        await reply.ask(FORM["method"], FORM["params"])
        resumed.set()
        await anyio.sleep_forever()
        raise AssertionError

    door.u.script["echo"] = answering
    asked = await question(door)
    async with anyio.create_task_group() as tasks:
        statuses: list[int] = []

        async def come_back() -> None:
            statuses.append((await door.modern("tools/call", retry(asked))).status_code)

        tasks.start_soon(come_back)
        await resumed.wait()
        door.revoke("alice")
    assert statuses == [401]
    await until(lambda: door.u.cancelled and at_rest(door))


async def test_an_agent_that_hangs_up_in_a_later_round_cancels_the_call(door: Front) -> None:
    resumed = asyncio.Event()

    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        await reply.ask(FORM["method"], FORM["params"])
        resumed.set()
        await anyio.sleep_forever()
        raise AssertionError

    door.u.script["echo"] = answering
    asked = await question(door)
    message, headers = modern_request("tools/call", retry(asked))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: door.post(message, **headers))
        await resumed.wait()
        tasks.cancel_scope.cancel()
    await until(lambda: door.u.cancelled and at_rest(door))
    assert sorted(door.rows(COLUMNS)) == [("allowed", "grant", "cancelled"), ("allowed", "grant", "resumed")]


async def test_an_agent_that_hangs_up_after_the_question_may_still_answer(door: Front) -> None:
    door.u.script["echo"] = asking("Name?")
    asked = await question(door, connection="close")
    assert said(await door.modern("tools/call", retry(asked))) == "done: ['Ada']"


async def test_a_retry_that_the_policy_denies_by_now_ends_the_call(door: Front) -> None:
    door.u.script["echo"] = asking("Name?")
    asked = await question(door)
    door.offer(policy='[agents.alice]\ntasks = ["work"]\ndefault_task = "work"\n[tasks.work]\npurpose = "less"\n')
    response = await door.modern("tools/call", retry(asked))
    assert answer_of(response)["error"] == {"code": -32602, "message": "Unknown tool: u__echo"}
    await until(lambda: door.u.cancelled and at_rest(door))
    assert sorted(door.rows(COLUMNS)) == [("allowed", "grant", "cancelled"), ("denied", "no_grant", "refused")]


@pytest.mark.parametrize("kind", KINDS)
async def test_each_request_is_one_entry_of_the_audit(door: Front, kind: str) -> None:
    door.u.script["echo"] = KINDS[kind]()
    asked = await question(door)
    await door.modern("tools/call", retry(asked))
    await door.modern("tools/call", retry(asked))
    ids = [row[0] for row in door.rows("request_id")]
    assert len(ids) == len(set(ids)) == 3


async def test_an_upstream_that_dies_meanwhile_is_what_the_retry_is_told(door: Front) -> None:
    dies = asyncio.Event()

    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reply.ask, FORM["method"], FORM["params"])
            await dies.wait()
            tasks.cancel_scope.cancel()
        raise Unreachable("u", "upstream 'u' was ended by signal 9 before it answered")

    door.u.script["echo"] = answering
    asked = await question(door)
    dies.set()
    result = answer_of(await door.modern("tools/call", retry(asked)))["result"]
    assert result["isError"] is True
    assert "signal 9" in result["content"][0]["text"]
    await until(lambda: at_rest(door))


async def test_an_upstream_that_answers_without_waiting_for_the_answer_is_heard(door: Front) -> None:
    asked_already = asyncio.Event()

    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        unanswered = asyncio.ensure_future(reply.ask(FORM["method"], FORM["params"]))
        await asked_already.wait()
        unanswered.cancel()
        return text("never mind")

    door.u.script["echo"] = answering
    asked = await question(door)
    asked_already.set()
    assert said(await door.modern("tools/call", retry(asked))) == "never mind"


async def test_no_agent_holds_more_parked_calls_than_its_share(door: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "MAX_PARKED_PER_AGENT", 2)

    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        try:
            return text(str(await reply.ask(FORM["method"], FORM["params"])))
        except LookupError as e:
            return text(f"refused: {e}")

    door.u.script["echo"] = answering
    for _ in range(2):
        await question(door)
    assert said(await begin(door)) == "refused: too many calls are waiting for answers"
    await question(door, agent="bob")
    door.rounds.close()
    await until(lambda: at_rest(door))


async def test_a_gateway_that_stops_ends_what_waits_for_agents(door: Front) -> None:
    door.u.script["echo"] = asking("Name?")
    await question(door)
    door.closers.close_streams()
    await until(lambda: door.u.cancelled and at_rest(door))


@pytest.fixture
async def hundred(door: Front) -> AsyncIterator[list[Json]]:
    """A hundred calls that wait, each with arguments of its own."""

    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        answer = await reply.ask(FORM["method"], {**FORM["params"], "message": str(request.params["arguments"]["n"])})
        return text(f"{request.params['arguments']['n']} {answer['content']['name']}")

    door.u.script["echo"] = answering
    asked = []
    for n in range(100):
        params = {"name": "u__echo", "arguments": {"n": n}, "_meta": {CAPABILITIES: CAN}}
        asked.append(answer_of(await door.modern("tools/call", params))["result"])
    yield asked


async def test_many_waiting_calls_each_get_their_own_answer(door: Front, hundred: list[Json]) -> None:
    def answered(n: int) -> Json:
        assert hundred[n]["inputRequests"]["q1"]["params"]["message"] == str(n)
        return retry(hundred[n], {"q1": {"content": {"name": f"answer {n}"}}}, arguments={"n": n})

    answers = await asyncio.gather(*(door.modern("tools/call", answered(n), id_=1) for n in reversed(range(100))))
    assert [said(answer) for answer in reversed(answers)] == [f"{n} answer {n}" for n in range(100)]
    await until(lambda: at_rest(door))
