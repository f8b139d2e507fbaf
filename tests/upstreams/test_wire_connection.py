"""One HTTP connection to an upstream, fed byte by byte, with lies, garbage and too much of everything."""

import asyncio
from typing import Any

import pytest

from fakes.pipe import Pipe
from mcp_gateway.upstreams.wire import WireError
from mcp_gateway.upstreams.wire_connection import MAX_HEAD_BYTES, MAX_HEADER_LINES, MAX_HELD_BYTES, Connection

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


def asked(*, is_head: bool = False) -> tuple[Connection, Pipe]:
    """A connection on which a request was sent."""
    connection, pipe = Connection(lambda lost: None), Pipe()
    connection.connection_made(pipe)
    connection.send(b"request", is_head=is_head)
    return connection, pipe


async def heard(connection: Connection) -> None:
    while (waiting := connection.unheard()) is not None:
        await waiting


async def answer_on(connection: Connection) -> tuple[int, bytes]:
    await heard(connection)
    body = b""
    while piece := await connection.piece():
        body += piece
    return connection.status, body


async def answer_to(*pieces: bytes, ends: bool = False, is_head: bool = False) -> tuple[int, bytes, bool]:
    """Status and body of an answer that comes in these pieces, and whether the connection may be used again."""
    connection, _ = asked(is_head=is_head)
    for piece in pieces:
        connection.data_received(piece)
    if ends:
        connection.connection_lost(None)
    return *await answer_on(connection), connection.is_reusable


GOOD_END = OK + b"content-length: 1\r\n\r\na"
GOOD = {
    "a length": (OK + b"content-length: 3\r\n\r\nabc", (200, b"abc", True)),
    "chunks, extensions and trailers": (
        CHUNKED + b"2;x=y\r\nab\r\n1\r\nc\r\n0\r\nx-trailer: y\r\n\r\n",
        (200, b"abc", True),
    ),
    "1xx before it": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + GOOD_END,
        (200, b"a", True),
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"", True)),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", (304, b"", True)),
    "a bare status": (b"HTTP/1.1 200\r\ncontent-length: 1\r\n\r\na", (200, b"a", True)),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", (200, b"a", False)),
    "its end announced": (OK + b"connection: close\r\ncontent-length: 1\r\n\r\na", (200, b"a", False)),
    "an empty body": (OK + b"content-length: 0\r\n\r\n", (200, b"", True)),
}


@pytest.mark.parametrize(("answer", "expected"), GOOD.values(), ids=GOOD)
async def test_an_answer_is_the_same_wherever_it_is_split(answer: bytes, expected: Any) -> None:
    assert await answer_to(answer) == expected
    assert await answer_to(*[answer[at : at + 1] for at in range(len(answer))]) == expected
    for at in range(1, len(answer)):
        assert await answer_to(answer[:at], answer[at:]) == expected, answer[:at]


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    assert await answer_to(OK + b"\r\nabc", b"def", ends=True) == (200, b"abcdef", False)


async def test_an_answer_to_head_has_no_body_and_ends_the_connection() -> None:
    assert await answer_to(OK + b"content-length: 100\r\n\r\n", is_head=True) == (200, b"", False)


BROKEN = {
    "no HTTP": b"garbage\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00",
    "two lengths": OK + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "a length and chunks": OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\nabc",
    "a length with a sign": OK + b"content-length: +3\r\n\r\nabc",
    "a length beyond 64 bits": OK + b"content-length: 99999999999999999999\r\n\r\nabc",
    "another coding": OK + b"transfer-encoding: gzip\r\n\r\nabc",
    "another coding before chunks": OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks twice": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-1\r\n\r\n",
    "a huge chunk": CHUNKED + b"F" * 40 + b"\r\n",
    "a chunk that is longer than it says": CHUNKED + b"1\r\nabc\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 1\n\na",
    "a folded header": OK + b"a: b\r\n c\r\ncontent-length: 1\r\n\r\na",
    "a space before the colon": OK + b"a : b\r\n\r\n",
    "NUL in a header": OK + b"a: b\x00c\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
    "a header without end": OK + b"x: " + b"y" * 200_000,
    "headers without end": OK + b"x: y\r\n" * 40_000,
    "more headers than anybody needs": OK + b"".join(b"x%d: y\r\n" % n for n in range(MAX_HEADER_LINES + 1)) + b"\r\n",
    "1xx without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 4_000,
    "line ends without end": b"\r\n" * 100_000,
    "a chunk extension without end": CHUNKED + b"1;" + b"x" * 200_000,
    "trailers without end": CHUNKED + b"1\r\na\r\n0\r\n" + b"x: y\r\n" * 40_000,
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("size", [4096, 1_000_000])
async def test_what_is_no_answer_is_an_error_and_ends_the_connection(answer: bytes, size: int) -> None:
    connection, pipe = asked()
    for at in range(0, len(answer), size):
        if not pipe.is_closed:
            connection.data_received(answer[at : at + size])
    connection.connection_lost(None)
    with pytest.raises(WireError):
        await answer_on(connection)
    assert not connection.is_reusable


@pytest.mark.parametrize("cut", [0, 10, 30, 40, 55])
async def test_a_connection_that_ends_too_early_is_an_error(cut: int) -> None:
    connection, _ = asked()
    connection.data_received((OK + b"content-length: 100\r\n\r\n" + b"x" * 20)[:cut])
    connection.connection_lost(None)
    with pytest.raises(WireError):
        await answer_on(connection)


@pytest.mark.parametrize("more", [b"x", b"garbage\r\n\r\n", OK + b"content-length: 1\r\n\r\nz"])
async def test_what_comes_behind_an_answer_never_becomes_the_next_one(more: bytes) -> None:
    answer = OK + b"content-length: 3\r\n\r\nabc"
    assert await answer_to(answer + more) == (200, b"abc", False)
    connection, pipe = asked()
    connection.data_received(answer)
    assert await answer_on(connection) == (200, b"abc")
    assert connection.is_reusable
    connection.reset()
    connection.data_received(more)  # nobody has asked
    assert pipe.is_closed
    assert not connection.is_open


async def test_an_answer_before_the_request_was_taken_ends_the_connection() -> None:
    connection, pipe = asked()
    pipe.unsent = 1
    connection.data_received(OK + b"content-length: 0\r\n\r\n")
    assert await answer_on(connection) == (200, b"")
    assert not connection.is_reusable


async def test_a_stream_may_say_little_for_ever() -> None:
    connection, pipe = asked()
    connection.data_received(CHUNKED)
    for _ in range(MAX_HEAD_BYTES // 4):
        connection.data_received(b"1\r\n")  # a size that brings no body yet
        connection.data_received(b"a\r\n")
        assert await connection.piece() == b"a"
    assert not pipe.is_closed


async def test_nobody_reads_on_while_nobody_takes() -> None:
    connection, pipe = asked()
    connection.data_received(OK + b"content-length: %d\r\n\r\n" % (4 * MAX_HELD_BYTES))
    while not pipe.is_paused:
        connection.data_received(b"x" * 65_536)
    taken = len(await connection.piece())
    while pipe.is_paused:
        taken += len(await connection.piece())
    assert taken <= 2 * MAX_HELD_BYTES


async def test_an_answer_wakes_whoever_waits_for_it() -> None:
    connection, _ = asked()
    waiting = asyncio.ensure_future(answer_on(connection))
    for piece in (OK, b"content-length: 2\r\n", b"\r\n", b"a", b"b"):
        await asyncio.sleep(0)
        connection.data_received(piece)
    assert await waiting == (200, b"ab")


async def test_header_names_are_told_apart_by_no_case_and_lines_of_one_name_are_joined() -> None:
    connection, _ = asked()
    connection.data_received(OK + b"X-A: b\r\nx-a: c\r\nContent-Length: 0\r\n\r\n")
    await heard(connection)
    assert connection.headers == {"x-a": "b, c", "content-length": "0"}
