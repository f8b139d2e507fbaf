"""HTTP answers that are held until they have been looked at."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from anyio import CancelScope
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.domain import Action, Inspection, Kind, Stage, Target
from mcp_gateway.errors import Blocked, Misbehaved
from mcp_gateway.guards.content import Content
from mcp_gateway.guards.held import HeldRelay, look_at_body
from mcp_gateway.guards.personal import PersonalData

CONTENT = Content([PersonalData()])
MASK = [Inspection("g.toml:1", ("personal-data",), frozenset(Stage), Action.MASK)]
BLOCK = [Inspection("g.toml:1", ("personal-data",), frozenset(Stage), Action.BLOCK)]
MODEL = Target(Kind.MODEL, "models", "m", "m", {}, "")
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}
CARD = "4111 1111 1111 1111"


class Wire:
    """What an agent gets."""

    def __init__(self) -> None:
        self.scope = CancelScope()
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body = b""
        self.error: Exception | None = None

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, headers

    async def write(self, piece: bytes) -> None:
        self.body += piece

    def hold(self, piece: bytes) -> None:
        self.body += piece

    def hold_error(self, error: Exception) -> None:
        self.error = error

    def afterwards(self, do: Callable[[], None]) -> None:
        """Nothing is kept here."""


def chat(*pieces: str) -> bytes:
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def messages(*pieces: str) -> bytes:
    deltas: list[dict[str, Any]] = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in pieces
    ]
    return b"".join(b"event: content_block_delta\ndata: " + json.dumps(d).encode() + b"\n\n" for d in deltas)


def said(body: bytes) -> str:
    """All text that the events carry."""
    text = ""
    for event in body.split(b"\n\n"):
        data = event.rpartition(b"data: ")[2]
        if data.startswith(b"{"):
            delta = json.loads(data)
            delta = delta["delta"] if "delta" in delta else delta["choices"][0]["delta"]
            text += delta.get("content", delta.get("text", ""))
    return text


@pytest.mark.parametrize("wire", [chat, messages])
async def test_a_secret_cut_in_pieces_is_masked_and_the_stream_stays_one(wire: Any) -> None:
    body, (finding,) = await look_at_body(
        CONTENT, MASK, EVENTS["content-type"], wire("my card: 41", "11 1111 11", "11 1111, ok")
    )
    assert said(body) == "my card: [masked:personal-data/card], ok"
    assert finding.counts == {"personal-data/card": 1}
    assert body.count(b"\n\n") == wire("", "", "").count(b"\n\n")


@pytest.mark.parametrize("wire", [chat, messages])
async def test_a_stream_without_findings_goes_on_byte_for_byte(wire: Any) -> None:
    stream = wire("nothing ", "to see")
    assert await look_at_body(CONTENT, MASK, EVENTS["content-type"], stream) == (stream, ())


@given(st.lists(st.text(alphabet="ab 4111@.xé", max_size=12), max_size=5))
async def test_however_a_text_is_cut_the_same_is_masked(pieces: list[str]) -> None:
    whole = (await CONTENT.look(MASK, Stage.RESULTS, "".join(pieces))).value
    assert said((await look_at_body(CONTENT, MASK, EVENTS["content-type"], chat(*pieces)))[0]) == whole


async def test_json_is_masked_and_anything_else_is_read_as_text() -> None:
    body, _ = await look_at_body(CONTENT, MASK, JSON["content-type"], json.dumps({"to": "x@y.org", "n": 1}).encode())
    assert json.loads(body) == {"to": "[masked:personal-data/email]", "n": 1}
    text, _ = await look_at_body(CONTENT, MASK, "", b"write to x@y.org")
    assert text == b"write to [masked:personal-data/email]"
    picture = bytes(range(256)) * 10
    assert await look_at_body(CONTENT, MASK, "image/png", picture) == (picture, ())


async def test_nothing_is_sent_before_it_has_been_looked_at() -> None:
    wire = Wire()
    held = HeldRelay(wire, MODEL, 1000)
    await held.begin(200, {**JSON, "Content-Length": "99"})
    await held.write(b'{"to": "x@')
    held.hold(b'y.org"}')
    assert wire.status == 0
    findings = await held.release(CONTENT, MASK)
    assert (wire.status, wire.body) == (200, b'{"to":"[masked:personal-data/email]"}')
    assert wire.headers == {**JSON, "content-length": str(len(wire.body))}
    assert findings[0].stage is Stage.RESULTS


async def test_a_blocked_answer_is_not_sent_at_all() -> None:
    wire = Wire()
    held = HeldRelay(wire, MODEL, 1000)
    await held.begin(200, JSON)
    await held.write(b'{"card": "%s"}' % CARD.encode())
    with pytest.raises(Blocked):
        await held.release(CONTENT, BLOCK)
    assert (wire.status, wire.body) == (0, b"")


async def test_an_answer_too_long_to_be_held_is_refused() -> None:
    held = HeldRelay(Wire(), MODEL, 10)
    await held.begin(200, JSON)
    with pytest.raises(Misbehaved, match="more than a guard can look at"):
        await held.write(b"x" * 11)


async def test_an_answer_that_broke_off_breaks_off_for_the_agent_too() -> None:
    wire, fault = Wire(), OSError("gone")
    held = HeldRelay(wire, MODEL, 1000)
    await held.begin(200, EVENTS)
    await held.write(chat("half of"))
    held.hold_error(fault)
    await held.release(CONTENT, MASK)
    assert (said(wire.body), wire.error) == ("half of", fault)
