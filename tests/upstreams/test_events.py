"""Server-sent events come out the same however the stream is cut, and never past the bound."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.upstreams.events import MAX_FIELD_BYTES, Event, EventParser, EventTooLong

STREAM = (
    b"\xef\xbb\xbf: comment\r\nevent: endpoint\r\ndata: /post\r\n\r\n"
    b"id: 7\ndata: one\ndata: two\n\n"
    b"retry: 250\rdata:no space\r\r"
    b"unknown: x\ndata\n\nid: 8\n\ndata: never ended"
)
EVENTS = [
    Event("endpoint", b"/post"),
    Event("message", b"one\ntwo", "7"),
    Event("message", b"no space", "7", 250),
    Event("message", b"", "7"),
    Event("message", b"", "8"),
]


def parsed(pieces: list[bytes], bound: int = 1000) -> list[Event]:
    parser = EventParser(bound)
    return [event for piece in pieces for event in parser.feed(piece)]


def test_a_stream_is_parsed_as_the_standard_says() -> None:
    assert parsed([STREAM]) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_where_the_stream_is_cut_makes_no_difference(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert parsed([STREAM[a:b] for a, b in pairwise(edges)]) == EVENTS


def test_an_event_that_never_ends_is_cut_off() -> None:
    parser = EventParser(1000)
    with pytest.raises(EventTooLong):
        for _ in range(100):
            list(parser.feed(b"data: " + b"x" * 50 + b"\n"))


def test_a_line_that_never_ends_is_cut_off() -> None:
    parser = EventParser(1000)
    with pytest.raises(EventTooLong):
        for _ in range(100):
            list(parser.feed(b"x" * 50))


def test_many_events_and_comments_are_no_long_event() -> None:
    assert len(parsed([b": keep-alive\n" * 500 + b"data: x\n\n"] * 10)) == 10


def test_an_id_too_long_to_be_sent_back_is_not_kept() -> None:
    [event] = parsed([b"id: " + b"9" * (MAX_FIELD_BYTES + 1) + b"\nid: a\0b\ndata: x\n\n"], 10_000)
    assert event.id == ""


def test_parsing_takes_time_in_proportion_to_the_stream() -> None:
    parser = EventParser(2**24)
    piece = b"x" * 64
    list(parser.feed(b"data: "))
    for _ in range(2**16):
        list(parser.feed(piece))
    [event] = parser.feed(b"\n\n")
    assert len(event.data) == 2**22
