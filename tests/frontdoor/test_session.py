"""What a handshake-era agent and we remember of each other."""

import asyncio
from typing import Any

import pytest

from mcp_gateway.domain import Caller, Era, Json, Transport
from mcp_gateway.errors import AgentRefused, BadRequest, OverLimit
from mcp_gateway.frontdoor.protocol import Answer, Ask
from mcp_gateway.frontdoor.session import MAX_IN_FLIGHT, MAX_QUESTIONS, Session

ALICE = Caller(agent="alice", task="work", credential_id="k1")


@pytest.fixture
def session() -> Session:
    return Session("s", ALICE, Transport.HTTP)


@pytest.mark.parametrize(
    ("other", "belongs"),
    [
        (ALICE, True),
        (Caller(agent="alice", task="work", credential_id="k2"), False),
        (Caller(agent="alice", task="rest", credential_id="k1"), False),
        (Caller(agent="bob", task="work", credential_id="k1"), False),
        (Caller(agent="alice", task=None, credential_id="k1"), False),
    ],
)
def test_a_session_belongs_to_one_agent_credential_and_task(session: Session, other: Caller, belongs: bool) -> None:
    assert session.belongs_to(other) is belongs


def test_a_session_is_initialized_by_the_handshake(session: Session) -> None:
    assert not session.is_initialized
    session.initialize({"protocolVersion": "2025-06-18", "clientInfo": {"name": "a", "version": "1"}})
    assert session.is_initialized
    asked = session.asked(Ask(1, "ping", {}))
    assert (asked.version, asked.client, asked.session, asked.era) == ("2025-06-18", "a/1", "s", Era.LEGACY)


@pytest.mark.parametrize("level", ["loud", None, 1, [], {}])
def test_a_log_level_that_does_not_exist_is_refused(session: Session, level: Any) -> None:
    with pytest.raises(BadRequest):
        session.set_log_level({"level": level})
    assert session.log_level == "info"


def test_the_same_id_cannot_be_used_twice_at_once_but_again_later(session: Session) -> None:
    session.begin(1, lambda: None)
    with pytest.raises(BadRequest) as refused:
        session.begin(1, lambda: None)
    assert refused.value.rpc_code == -32600
    session.finish(1)
    session.begin(1, lambda: None)


def test_a_number_and_its_text_are_two_ids(session: Session) -> None:
    cancelled: list[Any] = []
    session.begin(1, lambda: cancelled.append(1))
    session.begin("1", lambda: cancelled.append("1"))
    session.cancel({"requestId": "1"})
    assert cancelled == ["1"]


@pytest.mark.parametrize("id_", [2, None, {}, [], 1.5])
def test_cancelling_what_is_not_there_does_nothing(session: Session, id_: Any) -> None:
    session.begin(1, lambda: pytest.fail("cancelled"))
    session.cancel({"requestId": id_})
    session.cancel({})


def test_what_is_in_flight_has_a_bound(session: Session) -> None:
    for id_ in range(MAX_IN_FLIGHT):
        session.begin(id_, lambda: None)
    with pytest.raises(OverLimit):
        session.begin("one more", lambda: None)
    assert session.has_in_flight


def test_a_session_that_ends_cancels_everything(session: Session) -> None:
    cancelled: list[int] = []
    for id_ in range(3):
        session.begin(id_, lambda id_=id_: (cancelled.append(id_), session.finish(id_)))  # type: ignore[misc]
    session.cancel_all()
    assert sorted(cancelled) == [0, 1, 2]


def test_wire_tasks_are_no_part_of_this_era(session: Session) -> None:
    tasks, ui = "io.modelcontextprotocol/tasks", "io.modelcontextprotocol/ui"
    session.initialize({"capabilities": {"roots": {}, "extensions": {tasks: {}, ui: {"mimeTypes": []}}}})
    assert session.capabilities == {"roots": {}, "extensions": {ui: {"mimeTypes": []}}}


async def test_a_question_has_an_id_of_ours_and_gets_its_own_answer(session: Session) -> None:
    sent: list[Json] = []
    answers = [session.ask(sent.append, "roots/list", {"n": n}) for n in range(2)]
    assert [message["method"] for message in sent] == ["roots/list"] * 2
    assert [message["params"] for message in sent] == [{"n": 0}, {"n": 1}]
    session.take_answer(Answer(sent[1]["id"], {"second": True}, None))
    session.take_answer(Answer(sent[0]["id"], {"first": True}, None))
    assert [await answer for answer in answers] == [{"first": True}, {"second": True}]
    await asyncio.sleep(0)
    assert session._questions == {}


@pytest.mark.parametrize("id_", ["nobody-1", 1, "1", "gateway-2", ""])
async def test_an_answer_to_nothing_that_was_asked_is_left_aside(session: Session, id_: Any) -> None:
    answer = session.ask(lambda message: None, "roots/list", {})
    session.take_answer(Answer(id_, {"wrong": True}, None))
    assert not answer.done()
    session.take_answer(Answer("gateway-1", {}, None))
    session.take_answer(Answer("gateway-1", {"again": True}, None))
    assert await answer == {}


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ({"code": -1, "message": "User rejected"}, -1, "User rejected"),
        ({"code": "x", "message": "m" * 9999}, -1, "m" * 500),
        ({}, -1, "None"),
    ],
)
async def test_an_error_in_answer_is_raised_where_the_question_was_asked(
    session: Session, error: Json, code: int, message: str
) -> None:
    answer = session.ask(lambda message: None, "sampling/createMessage", {})
    session.take_answer(Answer("gateway-1", None, error))
    with pytest.raises(AgentRefused) as refused:
        await answer
    assert (refused.value.rpc_code, str(refused.value)) == (code, message)


async def test_an_agent_is_told_that_nobody_waits_for_its_answer_any_more(session: Session) -> None:
    sent: list[Json] = []
    session.ask(sent.append, "roots/list", {}).cancel()
    await asyncio.sleep(0)
    assert (sent[1]["method"], sent[1]["params"]["requestId"]) == ("notifications/cancelled", sent[0]["id"])
    assert session._questions == {}


async def test_unanswered_questions_are_bounded(session: Session) -> None:
    answers = [session.ask(lambda message: None, "roots/list", {}) for _ in range(MAX_QUESTIONS)]
    with pytest.raises(LookupError, match="too many"):
        session.ask(lambda message: None, "roots/list", {})
    answers[0].cancel()
    await asyncio.sleep(0)
    session.ask(lambda message: None, "roots/list", {})


async def test_a_question_that_cannot_be_sent_was_never_asked(session: Session) -> None:
    def full(message: Json) -> None:
        raise LookupError("full")

    with pytest.raises(LookupError, match="full"):
        session.ask(full, "roots/list", {})
    assert session._questions == {}


async def test_where_no_answer_can_come_any_more_nobody_waits_for_one(session: Session) -> None:
    answer = session.ask(lambda message: None, "roots/list", {})
    session.hear_no_more()
    assert answer.cancelled()
    with pytest.raises(LookupError):
        session.ask(lambda message: None, "roots/list", {})


async def test_a_link_has_the_id_that_the_handshake_era_wants(session: Session) -> None:
    sent: list[Json] = []
    for params in ({"mode": "url", "url": "https://u.example/"}, {"mode": "url", "elicitationId": "theirs"}, {}):
        session.ask(sent.append, "elicitation/create", params)
    ids = [message["params"].get("elicitationId") for message in sent]
    assert ids[0]
    assert ids[1:] == ["theirs", None]
