"""A stream as it passes: what is relayed, what is held, what is left out."""

from typing import Any

import pytest

from fakes.providers import INPUT_TOKENS, OUTPUT_TOKENS, Provider, Seen, events_of
from mcp_gateway.models.watch import Watch
from mcp_gateway.models.wires import BY_OP, BY_PATH, Op

PATHS = {operation.op: path for path, operation in BY_PATH.items()}
STREAMED = pytest.mark.parametrize("op", [Op.CHAT, Op.RESPONSES, Op.MESSAGES])


def watch(op: Op, *, strips_usage: bool = False, secrets: tuple[bytes, ...] = ()) -> Watch:
    return Watch(BY_OP[op], strips_usage=strips_usage, secrets=secrets)


def stream(op: Op, habit: str = "", **members: Any) -> list[bytes]:
    import json

    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], **members}
    return events_of(Provider(), habit, Seen("POST", PATHS[op], [], json.dumps(body).encode()))


@STREAMED
def test_the_end_is_held_and_everything_else_relayed(op: Op) -> None:
    events = stream(op)
    seen = watch(op)
    relayed = [seen.feed(event) for event in events]
    assert b"".join(relayed) + b"".join(seen.tail) == b"".join(events)
    assert relayed[-1] == b""
    assert seen.tail == [events[-1]]
    assert (seen.is_over, seen.error) == (True, b"")


@STREAMED
def test_content_begins_behind_what_says_nothing_yet(op: Op) -> None:
    seen = watch(op)
    had_content = []
    for event in [b": keep-alive\n\n", *stream(op)]:
        seen.feed(event)
        had_content.append(seen.has_content)
    assert had_content.index(True) == {Op.CHAT: 1, Op.RESPONSES: 2, Op.MESSAGES: 3}[op]


@STREAMED
def test_an_error_at_the_beginning_is_seen_before_content(op: Op) -> None:
    seen = watch(op)
    for event in stream(op, "error_first"):
        seen.feed(event)
    assert seen.error
    assert not seen.has_content


@STREAMED
def test_usage_is_read_on_the_way(op: Op) -> None:
    seen = watch(op)
    for event in stream(op, stream_options={"include_usage": True}):
        seen.feed(event)
    assert seen.usage is not None
    assert (seen.usage.input, seen.usage.output) == (INPUT_TOKENS, OUTPUT_TOKENS)
    assert seen.characters > 10


def test_only_the_usage_chunk_that_nobody_asked_for_is_left_out() -> None:
    events = stream(Op.CHAT, stream_options={"include_usage": True})
    seen = watch(Op.CHAT, strips_usage=True)
    relayed = b"".join(seen.feed(event) for event in events) + b"".join(seen.tail)
    assert relayed == b"".join(event for event in events if b'"prompt_tokens"' not in event)
    assert seen.usage is not None


def test_text_that_looks_like_an_event_is_text() -> None:
    seen = watch(Op.CHAT)
    text = (
        b'{"choices":[{"delta":{"content":"data: [DONE]\\n\\n{\\"error\\":1} \\"usage\\":{\\"prompt_tokens\\":9}"}}]}'
    )
    seen.feed(b"data: " + text + b"\n\n")
    assert (seen.is_over, seen.error, seen.usage) == (False, b"", None)


def test_a_key_of_ours_is_taken_out() -> None:
    seen = watch(Op.CHAT, secrets=(b"sk-canary-key",))
    assert seen.feed(b'data: {"x":"sk-canary-key"}\n\n') == b'data: {"x":"[redacted]"}\n\n'
    assert seen.feed(b"data: sk-canary-key") == b""
    assert seen.end() == b"data: [redacted]"


def test_events_that_are_no_json_are_passed_on() -> None:
    seen = watch(Op.CHAT)
    assert seen.feed(b'data: {"usage":{ broken\n\n') == b'data: {"usage":{ broken\n\n'
    assert seen.usage is None
