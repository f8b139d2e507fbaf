"""Streams that are looked at in windows: what leaves when, and what never leaves."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_held import CARD, EVENTS, JSON, MODEL, Wire, chat, messages, said

from mcp_gateway.domain import Action, Finding, Holding, Inspection, Stage
from mcp_gateway.errors import Blocked, Misbehaved
from mcp_gateway.guards.content import Content
from mcp_gateway.guards.detect import Found
from mcp_gateway.guards.personal import PersonalData
from mcp_gateway.guards.toxicity import Toxicity
from mcp_gateway.guards.windows import CONTEXT, MAX_PENDING, OVERLAP, WINDOW, WindowedRelay

FILLER = "All of this is quite harmless and goes on and on. "


class Everything:
    """Finds any text that holds an `X`, all of it, as a service does that says no place."""

    name = "all"
    kinds = ("text",)

    def scan(self, text: str) -> list[Found]:
        return [Found("text", 0, len(text))] if "X" in text else []


CONTENT = Content([PersonalData(), Toxicity(), Everything()])


def guard(action: Action, *find: str) -> Inspection:
    return Inspection("g.toml:1", find or ("personal-data",), frozenset(Stage), action, held=Holding.WINDOWS)


def relay_to(wire: Wire, *guards: Inspection, max_bytes: int = 10**6) -> WindowedRelay:
    return WindowedRelay(wire, MODEL, max_bytes, CONTENT, guards)


async def relayed(
    stream: bytes, *guards: Inspection, size: int = 0, wire: Wire | None = None
) -> tuple[bytes, Sequence[Finding]]:
    """What goes on of a stream that comes in pieces of `size` bytes, one event each for 0."""
    wire = wire or Wire()
    relay = relay_to(wire, *guards)
    await relay.begin(200, EVENTS)
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)] if size else stream.split(b"\n\n")
    for number, piece in enumerate(pieces):
        await relay.write(piece if size or number == len(pieces) - 1 else piece + b"\n\n")
    findings = await relay.release(CONTENT, guards)
    return wire.body, findings


def words(text: str) -> list[str]:
    return [text[at : at + 5] for at in range(0, len(text), 5)]


@pytest.mark.parametrize("wire", [chat, messages])
@pytest.mark.parametrize("size", [0, 1, 7, 1000])
async def test_a_stream_without_findings_goes_on_byte_for_byte(wire: Any, size: int) -> None:
    for stream in (wire(*words(FILLER * 30)), wire(*words(FILLER * 30)).replace(b"\n", b"\r\n"), b"", b": hi\n\n"):
        assert await relayed(stream, guard(Action.MASK), size=size) == (stream, ())


async def test_first_words_go_on_before_the_last_have_come_and_few_are_kept_back() -> None:
    wire = Wire()
    relay = relay_to(wire, guard(Action.BLOCK))
    await relay.begin(200, EVENTS)
    sent = 0
    for piece in words(FILLER * 40):
        await relay.write(chat(piece).removesuffix(b"data: [DONE]\n\n"))
        sent += len(piece)
        assert sent - len(said(wire.body)) < WINDOW + OVERLAP + 5
    assert len(said(wire.body)) > sent - WINDOW - OVERLAP - 5
    assert wire.status == 200


async def test_events_that_hold_no_piece_of_a_text_go_on_at_once() -> None:
    wire = Wire()
    relay = relay_to(wire, guard(Action.BLOCK))
    await relay.begin(200, EVENTS)
    await relay.write(b'data: {"type":"message_start","message":{"id":"m"}}\n\nevent: ping\ndata: {"type":"ping"}\n\n')
    assert wire.body.endswith(b'"ping"}\n\n')
    await relay.write(b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n')
    assert b"hi" not in wire.body


@pytest.mark.parametrize("before", [0, 1, 250, 251, 255, 256, 257, 300, 500, 511, 512, 513, 1000])
@pytest.mark.parametrize("wire", [chat, messages])
async def test_a_card_is_masked_wherever_the_windows_cut_it(before: int, wire: Any) -> None:
    filler = (FILLER * 40)[:before] + " "
    text = f"{filler}card {CARD} ok {FILLER * 12}"
    body, (finding,) = await relayed(wire(*words(text)), guard(Action.MASK))
    assert said(body) == text.replace(CARD, "[masked:personal-data/card]")
    assert finding.counts == {"personal-data/card": 1}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([FILLER, CARD, " x@y.org ", "a", " ", FILLER * 6, "4111 ", ""]), max_size=14),
    st.integers(1, 40),
)
async def test_however_long_and_however_cut_a_text_is_what_is_short_is_masked_as_if_it_were_whole(
    parts: list[str], size: int
) -> None:
    text = "".join(parts)
    masks = [guard(Action.MASK)]
    whole = await CONTENT.look(masks, Stage.RESULTS, text)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    body, findings = await relayed(chat(*pieces), *masks)
    assert said(body) == whole.value
    assert [dict(each.counts) for each in findings] == [dict(each.counts) for each in whole.findings]


async def test_a_block_ends_the_stream_where_it_is_and_what_was_found_does_not_leave() -> None:
    wire = Wire()
    relay = relay_to(wire, guard(Action.BLOCK))
    await relay.begin(200, EVENTS)
    for piece in words(FILLER * 20 + CARD + FILLER * 20):
        await relay.write(chat(piece).removesuffix(b"data: [DONE]\n\n"))
    assert wire.scope.cancel_called
    with pytest.raises(Blocked, match="personal-data: card") as refusal:
        await relay.release(CONTENT, [])
    assert refusal.value.findings[0].counts == {"personal-data/card": 1}
    assert 0 < len(said(wire.body)) <= len(FILLER * 20)
    assert "4111" not in said(wire.body)


async def test_what_is_blocked_before_anything_left_leaves_nothing() -> None:
    wire = Wire()
    with pytest.raises(Blocked):
        await relayed(chat("I will ", "kill you"), guard(Action.BLOCK, "toxicity"), wire=wire)
    assert (wire.status, wire.body) == (0, b"")


async def test_two_texts_in_turns_are_each_read_as_one() -> None:
    def event(index: int, text: str) -> bytes:
        delta = {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}
        return b"data: " + json.dumps(delta).encode() + b"\n\n"

    stream = event(0, "a 4111 1111") + event(1, "b x@") + event(0, " 1111 1111 c") + event(1, "y.org d")
    body, (finding,) = await relayed(stream, guard(Action.MASK))
    assert finding.counts == {"personal-data/card": 1, "personal-data/email": 1}
    assert said(body) == "a [masked:personal-data/card]b [masked:personal-data/email] c d"


async def test_data_that_is_no_json_is_one_text() -> None:
    stream = b"data: my card 4111 11\n\ndata: 11 1111 1111 ok\n\ndata: [DONE]\n\n"
    body, _ = await relayed(stream, guard(Action.MASK))
    assert body == b"data: my card [masked:personal-data/card]\n\ndata:  ok\n\ndata: [DONE]\n\n"


async def test_what_is_kept_back_for_a_finding_that_never_ends_is_bounded() -> None:
    wire = Wire()
    relay = relay_to(wire, guard(Action.MASK, "all"))
    await relay.begin(200, EVENTS)
    text = "X" * 3 * MAX_PENDING
    for piece in words(text):
        await relay.write(chat(piece).removesuffix(b"data: [DONE]\n\n"))
    assert wire.body
    await relay.release(CONTENT, [])
    assert "X" not in said(wire.body)


async def test_each_finding_is_counted_once() -> None:
    text = "".join(f"{FILLER}{CARD} " for _ in range(30))
    _, (finding,) = await relayed(chat(*words(text)), guard(Action.ALERT))
    assert finding.counts == {"personal-data/card": 30}


async def test_an_answer_that_is_no_stream_is_held_whole() -> None:
    wire = Wire()
    relay = relay_to(wire, guard(Action.MASK))
    await relay.begin(200, JSON)
    await relay.write(b'{"to": "x@')
    await relay.write(b'y.org"}' + b" " * 2000)
    assert wire.body == b""
    await relay.release(CONTENT, [guard(Action.MASK)])
    assert json.loads(wire.body) == {"to": "[masked:personal-data/email]"}


async def test_what_waits_is_bounded() -> None:
    relay = relay_to(Wire(), guard(Action.MASK), max_bytes=1000)
    await relay.begin(200, EVENTS)
    with pytest.raises(Misbehaved, match="more at once"):
        await relay.write(b"data: " + b"x" * 1000)


async def test_a_long_stream_is_not_bounded() -> None:
    wire = Wire()
    relay = relay_to(wire, guard(Action.MASK), max_bytes=60_000)
    await relay.begin(200, EVENTS)
    for piece in words(FILLER * 60):
        await relay.write(chat(piece).removesuffix(b"data: [DONE]\n\n"))
    await relay.release(CONTENT, [])
    assert len(wire.body) > 30_000
    assert said(wire.body) == FILLER * 60


async def test_a_stream_that_broke_off_breaks_off_for_the_agent_too() -> None:
    wire, fault = Wire(), OSError("gone")
    relay = relay_to(wire, guard(Action.MASK))
    await relay.begin(200, EVENTS)
    await relay.write(chat("half of x@y.org")[:-20])
    relay.hold_error(fault)
    await relay.release(CONTENT, [])
    assert wire.error is fault
    assert "half of [masked:personal-data/email]" in wire.body.decode()


async def test_what_stands_before_a_word_is_still_known_when_it_comes() -> None:
    """`12345` in front of a number that looks like a card says that it is none."""
    digits = "9" * CONTEXT
    text = FILLER * 9 + digits
    text = text[: WINDOW + OVERLAP - 5] + digits + "4111111111111111 " + FILLER * 10
    body, findings = await relayed(chat(*words(text)), guard(Action.MASK))
    assert (said(body), findings) == (text, ())


@pytest.mark.parametrize(("text", "done"), [(CARD, []), ("harmless", ["kept"])])
async def test_what_is_to_be_done_with_an_answer_is_not_done_with_a_blocked_one(text: str, done: list[str]) -> None:
    class Remembering(Wire):
        def afterwards(self, do: Callable[[], None]) -> None:
            do()

    did: list[str] = []
    relay = relay_to(Remembering(), guard(Action.BLOCK))
    await relay.begin(200, EVENTS)
    relay.afterwards(lambda: did.append("kept"))
    await relay.write(chat(*words(FILLER * 20 + text)))
    with suppress(Blocked):
        await relay.release(CONTENT, [])
    assert did == done
