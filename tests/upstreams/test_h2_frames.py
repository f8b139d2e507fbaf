"""HTTP/2 frames come out whole however the bytes come in, and not in any number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.h2_server import frame, going_away
from mcp_gateway.upstreams.h2_frames import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    FRUITLESS_S,
    GOAWAY,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_FRUITLESS,
    BadFrames,
    Frames,
    head_frames,
)
from mcp_gateway.upstreams.wire_connection import MAX_HEAD_BYTES

PING = frame(6, 0, 0, b"x" * 8)


class Clock:
    """A time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.binary(max_size=50), max_size=8), st.lists(st.integers(0, 400)))
def test_frames_are_the_same_wherever_they_are_split(payloads: list[bytes], cuts: list[int]) -> None:
    sent = [frame(0x77, 3, 5, payload) for payload in payloads]
    stream = b"".join(sent)
    frames, got = Frames(Clock()), []
    at = 0
    for cut in [*sorted(cuts), len(stream)]:
        got += [frame(*one) for one in frames.of(stream[at:cut])]
        at = max(at, cut)
    assert got == sent


def test_a_goaway_says_which_stream_was_the_last() -> None:
    [one] = Frames(Clock()).of(going_away(2**31 - 1))
    assert (one.kind, one.number()) == (GOAWAY, 2**31 - 1)


def test_a_stream_is_known_by_31_bits() -> None:
    [one] = Frames(Clock()).of(frame(0x77, 0, 2**32 - 1))
    assert one.stream == 2**31 - 1


@pytest.mark.parametrize("size", [0, MAX_FRAME_BYTES, MAX_FRAME_BYTES + 1, 3 * MAX_FRAME_BYTES])
@pytest.mark.parametrize("is_all", [True, False])
def test_headers_of_any_size_are_one_after_the_other(size: int, is_all: bool) -> None:
    sent = list(Frames(Clock()).of(head_frames(3, b"x" * size, is_all=is_all)))
    assert b"".join(one.content for one in sent) == b"x" * size
    assert [one.kind for one in sent] == [HEADERS] + [CONTINUATION] * (len(sent) - 1)
    assert bool(sent[0].flags & END_STREAM) is is_all
    assert [bool(one.flags & END_HEADERS) for one in sent] == [False] * (len(sent) - 1) + [True]


@pytest.mark.parametrize(
    "bad",
    [
        frame(0, 0, 1, b"x" * (MAX_FRAME_BYTES + 1)),
        frame(7, 0, 0, b"x" * 7),
        frame(HEADERS, 0, 1) + PING,
        frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1, b"x" * 16_000) * (MAX_HEAD_BYTES // 16_000 + 1),
        PING * (MAX_FRUITLESS + 1),
    ],
)
def test_what_nobody_needs_is_refused(bad: bytes) -> None:
    with pytest.raises(BadFrames):
        list(Frames(Clock()).of(bad))


def test_headers_in_many_frames_are_counted_for_each_answer() -> None:
    frames = Frames(Clock())
    for _ in range(10):
        whole = frame(HEADERS, 0, 1, b"x" * 16_000) + frame(CONTINUATION, 4, 1, b"x" * 16_000)
        assert len(list(frames.of(whole))) == 2


def test_frames_that_bring_nothing_are_welcome_now_and_then() -> None:
    clock = Clock()
    frames = Frames(clock)
    for _ in range(5):
        clock.now += FRUITLESS_S
        assert len(list(frames.of(PING * MAX_FRUITLESS))) == MAX_FRUITLESS


def test_any_number_may_come_between_answers() -> None:
    frames = Frames(Clock())
    for _ in range(5):
        assert len(list(frames.of(PING * MAX_FRUITLESS))) == MAX_FRUITLESS
        frames.note_progress()


def test_frames_that_let_a_body_through_are_no_flood_but_for_a_byte_each() -> None:
    frames = Frames(Clock())
    for _ in range(2 * MAX_FRUITLESS):
        list(frames.of(PING + PING))
        frames.note_sent(500)
    with pytest.raises(BadFrames):
        for _ in range(2 * MAX_FRUITLESS):
            list(frames.of(PING))
            frames.note_sent(1)
