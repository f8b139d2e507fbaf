"""Which parts of a call are looked at, and that what is not masked goes on untouched."""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from anyio import CancelScope

from mcp_gateway.domain import (
    Action,
    Finding,
    HttpPart,
    Inspection,
    Kind,
    Outcome,
    OutcomeStatus,
    Request,
    RpcError,
    Stage,
    Target,
    Verb,
)
from mcp_gateway.errors import Blocked, Misbehaved
from mcp_gateway.guards.calls import look_at_outcome, look_at_request
from mcp_gateway.guards.content import Content
from mcp_gateway.guards.held import HeldRelay
from mcp_gateway.guards.personal import PersonalData

CONTENT = Content([PersonalData()])
MASK = [Inspection("g.toml:1", ("personal-data",), frozenset(Stage), Action.MASK)]
BLOCK = [Inspection("g.toml:1", ("personal-data",), frozenset(Stage), Action.BLOCK)]
OF_ARGUMENTS = [Inspection("g.toml:1", ("personal-data",), frozenset({Stage.ARGUMENTS}), Action.MASK)]
TOOL = Target(Kind.TOOL, "u", "echo", "u__echo", {}, "")
ROUTE = Target(Kind.ROUTE, "orders", "**", "orders", {}, "")
MAIL, MASKED = "x@y.org", "[masked:personal-data/email]"
OK = OutcomeStatus.OK


class Wire:
    """What an agent that speaks plain HTTP gets."""

    def __init__(self) -> None:
        self.scope = CancelScope()
        self.status = 0
        self.body = b""

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status

    async def write(self, piece: bytes) -> None:
        self.body += piece

    def hold(self, piece: bytes) -> None:
        self.body += piece

    def hold_error(self, error: Exception) -> None:
        raise error

    def afterwards(self, do: Callable[[], None]) -> None:
        """Nothing is kept here."""


def call(params: dict[str, Any], inputs: dict[str, Any] | None = None) -> Request:
    return Request("r", Verb.CALL, "tools/call", Kind.TOOL, "u__echo", params, inputs=inputs or {})


def over_http(wire: Wire, body: Any) -> Request:
    part = HttpPart("/v1/orders", {}, orjson.dumps(body, option=orjson.OPT_INDENT_2), body, wire)
    return Request("r", Verb.ROUTE, "route", Kind.ROUTE, "POST /v1/orders", {"arguments": {}}, http=part)


async def at_request(request: Request, inspections: list[Inspection] = MASK) -> tuple[Request, tuple[Finding, ...]]:
    return await look_at_request(CONTENT, inspections, TOOL, request, 1000)


async def at_outcome(outcome: Outcome, inspections: list[Inspection] = MASK) -> Outcome:
    return await look_at_outcome(CONTENT, inspections, call({}), outcome, ())


async def test_arguments_and_answers_to_questions_are_masked() -> None:
    asked = call({"name": "u__echo", "arguments": {"to": MAIL}}, {"q": {"action": "accept", "content": {"cc": MAIL}}})
    request, (finding,) = await at_request(asked)
    assert request.params == {"name": "u__echo", "arguments": {"to": MASKED}}
    assert request.inputs == {"q": {"action": "accept", "content": {"cc": MASKED}}}
    assert finding.counts == {"personal-data/email": 2}
    assert asked.params["arguments"] == {"to": MAIL}


async def test_a_request_in_which_nothing_is_masked_is_the_very_same() -> None:
    clean = call({"arguments": {"to": "nobody"}})
    assert await at_request(clean) == (clean, ())
    told = call({"arguments": {"to": MAIL}})
    alert = [Inspection("g.toml:1", ("personal-data",), frozenset(Stage), Action.ALERT)]
    request, findings = await at_request(told, alert)
    assert request is told
    assert len(findings) == 1


@pytest.mark.parametrize("member", ["_meta", "name", "ref", "taskId"])
async def test_what_names_what_is_asked_for_is_no_content(member: str) -> None:
    asked = call({member: MAIL})
    assert await at_request(asked, BLOCK) == (asked, ())


async def test_an_address_is_never_masked_into_another_one() -> None:
    with pytest.raises(Blocked, match="the address asked for"):
        await at_request(call({"uri": f"mail:///{MAIL}"}))


async def test_what_a_guard_blocks_goes_no_further() -> None:
    with pytest.raises(Blocked):
        await at_request(call({"arguments": {"to": MAIL}}), BLOCK)
    with pytest.raises(Blocked):
        await at_outcome(Outcome(OK, {"content": [{"type": "text", "text": MAIL}]}), BLOCK)


async def test_results_are_masked_and_what_comes_back_to_us_is_not() -> None:
    ours = {"_meta": MAIL, "requestState": MAIL, "resultType": "complete", "nextCursor": MAIL}
    outcome = await at_outcome(Outcome(OK, {**ours, "content": [{"type": "text", "text": MAIL}]}))
    assert outcome.result == {**ours, "content": [{"type": "text", "text": MASKED}]}
    assert [finding.stage for finding in outcome.findings] == [Stage.RESULTS]


async def test_errors_of_upstreams_are_masked_too() -> None:
    outcome = await at_outcome(Outcome(OK, error=RpcError(-32000, f"no mail to {MAIL}", {"to": MAIL})))
    assert outcome.error == RpcError(-32000, f"no mail to {MASKED}", {"to": MASKED})
    assert outcome.result is None


async def test_an_outcome_in_which_nothing_is_found_is_the_very_same() -> None:
    outcome = Outcome(OK, {"content": []})
    assert await at_outcome(outcome) is outcome


async def test_findings_of_the_request_come_first() -> None:
    _, found = await at_request(call({"arguments": {"to": MAIL}}))
    outcome = await look_at_outcome(CONTENT, MASK, call({}), Outcome(OK, {"text": MAIL}), found)
    assert [finding.stage for finding in outcome.findings] == [Stage.ARGUMENTS, Stage.RESULTS]


async def test_a_body_goes_on_byte_for_byte_unless_something_in_it_is_masked() -> None:
    clean = over_http(Wire(), {"amount": 7})
    assert await look_at_request(CONTENT, OF_ARGUMENTS, ROUTE, clean, 1000) == (clean, ())
    request, _ = await look_at_request(CONTENT, OF_ARGUMENTS, ROUTE, over_http(Wire(), {"to": MAIL}), 1000)
    assert request.http is not None
    assert (request.http.json, request.http.body) == ({"to": MASKED}, b'{"to":"%s"}' % MASKED.encode())


async def test_an_http_answer_is_held_until_it_has_been_looked_at() -> None:
    wire = Wire()
    request, _ = await look_at_request(CONTENT, MASK, ROUTE, over_http(wire, {"to": MAIL}), 1000)
    assert request.http is not None
    await request.http.relay.begin(200, {"content-type": "application/json"})
    await request.http.relay.write(b'{"to": "%s"}' % MAIL.encode())
    assert (wire.status, wire.body) == (0, b"")
    outcome = await look_at_outcome(CONTENT, MASK, request, Outcome(OK, {"status": 200}), ())
    assert (wire.status, wire.body) == (200, b'{"to":"%s"}' % MASKED.encode())
    assert outcome.result == {"status": 200}
    assert [finding.stage for finding in outcome.findings] == [Stage.RESULTS]


async def test_an_http_answer_is_held_only_where_a_guard_looks_at_results_and_only_so_much_of_it() -> None:
    wire = Wire()
    request, _ = await look_at_request(CONTENT, OF_ARGUMENTS, ROUTE, over_http(wire, {}), 10)
    assert request.http is not None
    assert request.http.relay is wire
    request, _ = await look_at_request(CONTENT, MASK, ROUTE, over_http(wire, {}), 10)
    assert request.http is not None
    assert isinstance(request.http.relay, HeldRelay)
    with pytest.raises(Misbehaved):
        await request.http.relay.write(b"x" * 11)
