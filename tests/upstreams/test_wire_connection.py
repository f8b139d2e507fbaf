"""One HTTP connection to an upstream, fed byte by byte, with lies, garbage and too much of everything."""

import asyncio
from typing import Any

import httptools
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


# Heads that are known


def answer_of(body: bytes, line: str = "content-length: {}", status: str = "200 OK", more: str = "x-last: z") -> bytes:
    return f"HTTP/1.1 {status}\r\nx-first: a\r\n{line.format(len(body))}\r\n{more}\r\n\r\n".encode() + body


class Parsed:
    """How often the parsers of connections are fed."""

    def __init__(self) -> None:
        self.count = 0


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Parsed:
    counted = Parsed()
    made = httptools.HttpResponseParser

    class Counting:
        def __init__(self, protocol: Any) -> None:
            self._parser = made(protocol)

        def feed_data(self, data: bytes) -> None:
            counted.count += 1
            self._parser.feed_data(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._parser, name)

    monkeypatch.setattr(httptools, "HttpResponseParser", Counting)
    return counted


async def told(connection: Connection, *pieces: bytes) -> tuple[int, dict[str, str], bytes, bool]:
    """What is made of one more answer on a connection that is kept."""
    connection.reset()
    connection.send(b"request")
    for piece in pieces:
        connection.data_received(piece)
    status, body = await answer_on(connection)
    return status, connection.headers, body, connection.is_reusable


async def afresh(*pieces: bytes) -> tuple[int, dict[str, str], bytes, bool]:
    return await told(asked()[0], *pieces)


@pytest.mark.parametrize(
    "line", ["content-length: {}", "Content-Length:{}", "x-b: content-length: 3\r\ncontent-length: {}"]
)
@pytest.mark.parametrize("apart", [False, True], ids=["one piece", "two pieces"])
async def test_a_known_head_means_the_same_whatever_the_length_of_its_body(
    parsed: Parsed, line: str, apart: bool
) -> None:
    connection, _ = asked()
    for number, length in enumerate((3, 3, 1, 10, 0, 99, 100, 5000)):
        answer = answer_of(b"x" * length, line)
        pieces = (answer[: len(answer) - length], answer[len(answer) - length :]) if apart and length else (answer,)
        alone = await afresh(*pieces)
        parsed.count = 0
        assert await told(connection, *pieces) == alone
        assert (parsed.count == 0) is bool(number), length


NOT_KNOWN = {
    "another status": (answer_of(b"abc", status="201 Created"),),
    "another header": (answer_of(b"abc", more="x-last: y"),),
    "the number of another header": (answer_of(b"abc", more="x-content-length: 4"),),
    "zeros in front": (answer_of(b"abc", "content-length: 00{}"),),
    "a body in pieces": (answer_of(b"abc")[:-2], b"bc"),
    "a head, and a body in pieces": (answer_of(b"abc")[:-3], b"a", b"bc"),
    "more behind it": (answer_of(b"abc") + b"x",),
    "more behind it, apart": (answer_of(b"abc")[:-3], b"abcx"),
    "a 1xx before it": (b"HTTP/1.1 103 Early Hints\r\n\r\n" + answer_of(b"abc"),),
    "a 1xx before it that tells a length": (
        b"HTTP/1.1 103 Early Hints\r\ncontent-length: 3\r\n\r\n", answer_of(b"abc"),
    ),
    "no body, whatever it tells": (answer_of(b"", "content-length: 3", "304 Not Modified"),),
    "its end announced": (answer_of(b"abc", more="connection: close"),),
}  # fmt: skip


@pytest.mark.parametrize("pieces", NOT_KNOWN.values(), ids=NOT_KNOWN)
async def test_a_head_that_is_not_known_byte_for_byte_is_parsed(parsed: Parsed, pieces: tuple[bytes, ...]) -> None:
    alone = await afresh(*pieces)
    connection, _ = asked()
    await told(connection, answer_of(b"abcd"))
    parsed.count = 0
    assert await told(connection, *pieces) == alone
    assert parsed.count
    if connection.is_reusable:  # and nothing wrong was learned from it
        assert await told(connection, answer_of(b"abcdef")) == await afresh(answer_of(b"abcdef"))
        assert await told(connection, *pieces) == alone


async def test_a_known_head_whose_body_never_comes_is_an_answer_that_broke_off() -> None:
    connection, _ = asked()
    await told(connection, answer_of(b"abcd"))
    connection.reset()
    connection.send(b"request")
    connection.data_received(answer_of(b"abcd")[:-4])
    connection.connection_lost(None)
    with pytest.raises(WireError):
        await answer_on(connection)


async def test_an_answer_to_head_is_parsed_whatever_is_known(parsed: Parsed) -> None:
    connection, _ = asked()
    await told(connection, answer_of(b"abcd"))
    connection.reset()
    connection.send(b"request", is_head=True)
    connection.data_received(answer_of(b"abcd")[:-4])
    assert await answer_on(connection) == (200, b"")
