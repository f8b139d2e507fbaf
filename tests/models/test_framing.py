"""Streams are cut into the same events however they arrive, and no byte is lost."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.models.framing import EventTooLongError, Framer, event_data, event_name

EVENTS = [b": ping", b"event: a\ndata: {}", b"data: one\ndata: two", b"id: 7\nevent:b\ndata:x"]


def stream(line_end: bytes) -> bytes:
    return b"".join(event.replace(b"\n", line_end) + line_end * 2 for event in EVENTS)


@given(st.sampled_from([b"\n", b"\r\n", b"\r"]), st.lists(st.integers(1, 90), max_size=12))
def test_the_cuts_do_not_matter(line_end: bytes, cuts: list[int]) -> None:
    whole = stream(line_end)
    edges = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    framer = Framer()
    found = [e for one, other in itertools.pairwise(edges) for e in framer.feed(whole[one:other])]
    assert b"".join(found) + framer.rest() == whole
    assert [event_name(event) for event in found] == [b"", b"a", b"", b"b"]
    assert [event_data(event) for event in found] == [b"", b"{}", b"one\ntwo", b"x"]


def test_what_has_no_end_yet_is_held() -> None:
    framer = Framer()
    assert framer.feed(b"data: 1\n\ndata: 2\n") == [b"data: 1\n\n"]
    assert framer.rest() == b"data: 2\n"


def test_an_event_without_end_is_refused() -> None:
    framer = Framer(max_event_bytes=100)
    with pytest.raises(EventTooLongError):
        for _ in range(11):
            framer.feed(b"data: 4567")
