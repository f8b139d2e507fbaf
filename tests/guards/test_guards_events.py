"""The events of a streamed answer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.guards.events import event_of, split


@given(
    st.lists(st.sampled_from([b"data: {}", b": hi", b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"x"]), max_size=12)
)
def test_nothing_of_a_stream_is_lost_or_changed(parts: list[bytes]) -> None:
    stream = b"".join(parts)
    events, rest = split(stream)
    assert b"".join(event.encoded() for event in events) + rest == stream


@pytest.mark.parametrize("line", ["\n", "\r\n", "\r"])
def test_an_event_ends_with_a_blank_line_of_any_kind(line: str) -> None:
    events, rest = split(f'event: e{line}data: {{"a":1}}{line}{line}data: b{line}{line}data: c'.encode())
    assert [event.data for event in events] == [{"a": 1}, "b"]
    assert rest == b"data: c"


def test_data_over_several_lines_is_one_and_what_is_no_json_is_text() -> None:
    assert event_of(b'data: {"a":\ndata: 1}').data == {"a": 1}
    assert event_of(b"data: one\ndata:  two").data == "one\n two"
    assert event_of(b"data: [DONE]").data is None
    assert event_of(b"event: ping").data is None


def test_an_edited_event_keeps_its_other_lines() -> None:
    event = event_of(b'event: e\nid: 7\ndata: {"delta": "secret"}', b"\n\n")
    event.put(("delta",), "")
    assert event.encoded() == b'event: e\nid: 7\ndata: {"delta":""}\n\n'
    text = event_of(b"data: a\ndata: b", b"\n\n")
    text.put((), "c\nd")
    assert text.encoded() == b"data: c\ndata: d\n\n"


def test_pieces_of_one_text_are_told_from_those_of_another_and_from_what_is_whole() -> None:
    def goes_on(value: object) -> list[object]:
        return [part.goes_on for part in event_of(b"data: " + json.dumps(value).encode()).parts()]

    first, second = ({"index": index, "delta": {"text": "x"}} for index in (0, 1))
    assert goes_on(first) == goes_on(first) != goes_on(second)
    assert goes_on({"type": "a", "delta": "x"})[1] != goes_on({"type": "b", "delta": "x"})[1]
    assert goes_on({"id": "x"}) == [None]
    assert goes_on({"index": [{}], "text": "x"})[0] is not None  # what nobody expects there
    assert goes_on("plain") == [None]
    assert event_of(b"data: plain text").parts()[0].goes_on == "plain"
