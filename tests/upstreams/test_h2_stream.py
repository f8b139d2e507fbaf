"""One exchange among others: what has come is read in order, once, and the server is let on as it is read."""

import asyncio
from typing import Any

import pytest

from mcp_gateway.upstreams.h2_fields import BadFields, Head
from mcp_gateway.upstreams.h2_stream import WINDOW_BYTES, Stream
from mcp_gateway.upstreams.wire import Unprocessed, WireError
from mcp_gateway.upstreams.wire_connection import MAX_HEAD_BYTES


class Recording:
    """What a stream wants of its connection, written down."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.credited: list[int] = []
        self.left = 0

    def begin(self, stream: Stream, block: bytes, *, has_body: bool) -> None:
        self.begun.append((block, has_body))

    def credit(self, stream: Stream, size: int) -> None:
        self.credited.append(size)

    def leave(self, stream: Stream) -> None:
        self.left += 1


def started() -> tuple[Stream, Recording]:
    connection = Recording()
    stream = Stream(connection)  # type: ignore[arg-type]
    stream.ask("POST", "host", "/", {}, b"body")
    stream.take_head(Head(200, {}, 10), is_end=False)
    return stream, connection


async def heard(stream: Stream) -> None:
    while (waiting := stream.unheard()) is not None:
        await waiting


async def test_small_answers_need_no_further_window() -> None:
    stream, connection = started()
    stream.take_body(b"ab", 0)
    stream.take_body(b"cd", 0)
    assert stream.whole(10) is None
    stream.take_end()
    assert stream.whole(3) is None
    assert (stream.whole(4), await stream.piece(), connection.credited) == (b"abcd", b"", [])


async def test_the_window_is_opened_by_what_was_read_and_not_by_what_came() -> None:
    stream, connection = started()
    stream.take_body(b"x" * WINDOW_BYTES, 0)
    assert connection.credited == []
    assert len(await stream.piece()) == WINDOW_BYTES
    assert connection.credited == [WINDOW_BYTES]


async def test_padding_is_given_back_too() -> None:
    stream, connection = started()
    stream.take_body(b"x" * (WINDOW_BYTES // 2 - 100), 100)
    await stream.piece()
    assert connection.credited == [WINDOW_BYTES // 2]


async def test_who_waits_hears_of_the_next_piece() -> None:
    stream, _ = started()
    waiting = asyncio.ensure_future(stream.piece())
    await asyncio.sleep(0)
    stream.take_body(b"now", 0)
    assert await waiting == b"now"


async def test_what_came_before_a_fault_is_read_before_it() -> None:
    stream, _ = started()
    stream.take_body(b"half", 0)
    stream.fail("broke")
    assert await stream.piece() == b"half"
    with pytest.raises(WireError, match="broke"):
        await stream.piece()


async def test_an_answer_that_is_complete_stands() -> None:
    stream, _ = started()
    stream.take_body(b"all", 0)
    stream.take_end()
    stream.fail("broke")
    assert (await stream.piece(), await stream.piece()) == (b"all", b"")


async def test_only_what_has_no_answer_yet_can_be_unprocessed() -> None:
    answered, _ = started()
    answered.fail("refused", is_unprocessed=True)
    unanswered = Stream(Recording())  # type: ignore[arg-type]
    unanswered.fail("refused", is_unprocessed=True)
    with pytest.raises(Unprocessed):
        await heard(unanswered)
    with pytest.raises(WireError) as error:
        await answered.piece()
    assert not isinstance(error.value, Unprocessed)


async def test_everything_that_is_no_body_counts_together() -> None:
    stream = Stream(Recording())  # type: ignore[arg-type]
    half = Head(103, {}, MAX_HEAD_BYTES // 2 + 1)
    stream.take_head(half, is_end=False)
    with pytest.raises(BadFields):
        stream.take_head(half, is_end=False)


async def test_an_answer_without_a_status_is_none() -> None:
    with pytest.raises(BadFields):
        Stream(Recording()).take_head(Head(0, {"a": "b"}, 2), is_end=True)  # type: ignore[arg-type]
