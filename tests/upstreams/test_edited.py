"""Answers on their way back: edited whole, passed on piece by piece, or not at all."""

from collections.abc import Mapping

import pytest
from anyio import CancelScope

from mcp_gateway.errors import Misbehaved
from mcp_gateway.rest.editing import AnswerEdits, HeaderEdits
from mcp_gateway.rest.lifecycle import Life, State
from mcp_gateway.rest.matching import read_pattern
from mcp_gateway.rest.pointers import Edit
from mcp_gateway.rest.routing import Route
from mcp_gateway.upstreams.edited import EditedRelay

REMOVE = AnswerEdits(body=(Edit("remove", ("secret",)),))
AS_JSON = {"Content-Type": "application/json", "ETag": '"1"', "content-length": "9"}


class Wire:
    """What the agent gets."""

    def __init__(self) -> None:
        self.scope = CancelScope()
        self.head: tuple[int, dict[str, str]] | None = None
        self.body = b""

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.head = status, dict(headers)

    async def write(self, piece: bytes) -> None:
        self.body += piece

    def hold(self, piece: bytes) -> None:
        self.body += piece

    def hold_error(self, error: Exception) -> None:
        raise error


def way_back(answer: AnswerEdits = REMOVE, life: Life | None = None) -> tuple[Wire, EditedRelay]:
    wire = Wire()
    route = Route("all", (read_pattern("* **"),), answer=answer, life=life or Life())
    return wire, EditedRelay(wire, route, "orders", 100)


async def test_a_body_is_held_until_it_is_whole_and_loses_the_headers_that_spoke_of_it() -> None:
    wire, relay = way_back()
    await relay.begin(200, AS_JSON)
    await relay.write(b'{"secret":')
    relay.hold(b'1,"a":2}')
    assert (wire.head, wire.body) == (None, b"")
    await relay.end()
    assert (wire.head, wire.body) == ((200, {"content-type": "application/json"}), b'{"a":2}')


@pytest.mark.parametrize(
    "pieces", [[b'{"a":2}'], [b'{"secret":1'], [b'{"secret":1,"secret":2}'], [b'{"secret":"', b"x" * 100, b'"}']]
)
async def test_what_cannot_be_edited_does_not_pass(pieces: list[bytes]) -> None:
    wire, relay = way_back()
    await relay.begin(200, AS_JSON)
    with pytest.raises(Misbehaved, match="cannot be edited"):
        await pass_on(relay, pieces)
    assert (wire.head, wire.body) == (None, b"")


async def test_a_part_of_a_body_does_not_pass() -> None:
    wire, relay = way_back()
    with pytest.raises(Misbehaved, match="a part of a body"):
        await relay.begin(206, AS_JSON)
    assert wire.head is None


@pytest.mark.parametrize(("status", "kind"), [(404, "application/json"), (304, ""), (200, "text/csv")])
async def test_what_is_no_json_and_no_success_passes_piece_by_piece(status: int, kind: str) -> None:
    wire, relay = way_back()
    await relay.begin(status, {"content-type": kind, "etag": "1"})
    await relay.write(b"as it ")
    assert wire.body == b"as it "
    relay.hold(b"is")
    await relay.end()
    assert (wire.head, wire.body) == ((status, {"content-type": kind, "etag": "1"}), b"as it is")


async def test_an_answer_without_a_body_stays_without() -> None:
    wire, relay = way_back()
    await relay.begin(200, AS_JSON)
    await relay.end()
    assert (wire.head, wire.body) == ((200, {"content-type": "application/json"}), b"")


async def test_every_answer_says_what_becomes_of_its_route_after_its_headers_are_edited() -> None:
    edits = AnswerEdits(HeaderEdits(frozenset({"etag"}), {"cache-control": "no-store"}))
    wire, relay = way_back(edits, Life(State.DEPRECATED, 1767225600))
    await relay.begin(500, {"ETag": "1", "Deprecation": "@1"})
    assert wire.head == (500, {"deprecation": "@1767225600", "cache-control": "no-store"})


async def test_an_error_goes_the_same_way() -> None:
    _, relay = way_back()
    with pytest.raises(KeyError):
        relay.hold_error(KeyError())


async def pass_on(relay: EditedRelay, pieces: list[bytes]) -> None:
    for piece in pieces:
        await relay.write(piece)
    await relay.end()
