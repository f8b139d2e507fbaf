"""Which parts of a call are looked at: none that could carry something out is left."""

from typing import Any

import pytest

from fakes.relays import RecordingRelay
from mcp_gateway.domain import Action, HttpPart, Inspection, Kind, Request, Stage, Target, Verb
from mcp_gateway.errors import Blocked
from mcp_gateway.guards.calls import look_at_request
from mcp_gateway.guards.content import Content
from mcp_gateway.guards.personal import PersonalData
from mcp_gateway.jsonrpc import dump

CARD = "4111 1111 1111 1111"
MASKED = "[masked:personal-data/card]"
ROUTE = Target(Kind.ROUTE, "mail", "POST /v1/messages", "POST /v1/messages", {}, "")
TOOL = Target(Kind.TOOL, "mail", "send", "mail__send", {}, "")


def looks(action: Action) -> list[Inspection]:
    return [Inspection("p.toml:1", ("personal-data",), frozenset({Stage.ARGUMENTS}), action, 0.5)]


def route(path: str, body: bytes = b"", kind: str = "text/plain", json: Any = None) -> Request:
    http = HttpPart(path, {"content-type": kind}, body, json, RecordingRelay())
    return Request("r", Verb.ROUTE, "route", Kind.ROUTE, ROUTE.name, {"arguments": {}}, http=http)


async def looked(request: Request, action: Action, target: Target = ROUTE) -> Request:
    content = Content([PersonalData()])
    passed, _ = await look_at_request(content, looks(action), target, request, 1000)
    return passed


@pytest.mark.parametrize(
    "sent",
    [
        ("/v1/orders/4111111111111111",),
        ("/v1/orders?note=4111111111111111",),
        ("/v1/orders?note=4111+1111+1111+1111",),
        ("/v1/orders?note=4111%201111%201111%201111",),
        ("/v1/orders", CARD.encode()),
        ("/v1/orders", b"text=4111+1111+1111+1111", "application/x-www-form-urlencoded"),
        ("/v1/orders", dump([CARD]), "application/json", [CARD]),
        ("/v1/orders", CARD.encode("utf-16")),
        ("/v1/orders", b"\xff" + CARD.encode()),
    ],
)
async def test_wherever_a_plain_request_holds_it_it_is_blocked(sent: tuple[Any, ...]) -> None:
    with pytest.raises(Blocked):
        await looked(route(*sent), Action.BLOCK)


async def test_a_body_is_masked_and_what_cannot_be_put_back_is_blocked() -> None:
    text = await looked(route("/v1/orders", f"card {CARD}.".encode()), Action.MASK)
    assert text.http is not None
    assert text.http.body == f"card {MASKED}.".encode()
    json = await looked(route("/v1/orders", dump({"a": CARD}), "application/json", {"a": CARD}), Action.MASK)
    assert json.http is not None
    assert (json.http.json, json.http.body) == ({"a": MASKED}, dump({"a": MASKED}))
    for request in (
        route(f"/v1/orders?note={CARD}"),
        route("/v1/orders", f"a={CARD}".encode(), "application/x-www-form-urlencoded"),
    ):
        with pytest.raises(Blocked, match="address or the form"):
            await looked(request, Action.MASK)


async def test_what_holds_nothing_goes_on_byte_for_byte() -> None:
    for request in (
        route("/v1/orders?a=1+2", b"a=1+2", "application/x-www-form-urlencoded"),
        route("/v1/orders", b'{ "a": 1 }', "application/json", {"a": 1}),
        route("/v1/orders", b"text"),
    ):
        assert await looked(request, Action.BLOCK) is request


async def test_a_body_that_is_no_text_passes_where_guards_only_alert() -> None:
    request = route("/v1/orders", b"\x89PNG\x00\xff")
    assert await looked(request, Action.ALERT) is request


async def test_the_arguments_of_a_tool_are_masked_and_its_name_is_not() -> None:
    params = {"name": CARD, "arguments": {"to": CARD}, "_meta": {"a": CARD}}
    request = Request("r", Verb.CALL, "tools/call", Kind.TOOL, TOOL.name, params)
    assert (await looked(request, Action.MASK, TOOL)).params == {**params, "arguments": {"to": MASKED}}
