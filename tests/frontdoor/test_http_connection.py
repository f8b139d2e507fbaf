"""One connection, whatever its other side does or leaves undone."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from starlette.types import Receive, Scope, Send

from fakes.front import Front, front, listening, raw, raw_post
from fakes.upstream import answering_with, text
from fakes.waiting import until
from mcp_gateway.frontdoor import http_connection
from mcp_gateway.frontdoor.exchange import Closers, send_json
from mcp_gateway.frontdoor.http_connection import BoundedConnection
from mcp_gateway.frontdoor.http_server import Server
from mcp_gateway.known_heads import MAX_HEADS


@pytest.fixture
async def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Front]:
    """A door whose patience is short, and that takes 2000 bytes of headers."""
    for name in ("HEADERS_TIMEOUT_S", "LINGER_S", "STALL_S"):
        monkeypatch.setattr(http_connection, name, 0.05)
    async with front(tmp_path, max_header_bytes=2000) as opened:
        yield opened


async def is_closed(stream: anyio.abc.SocketStream) -> bool:
    with anyio.fail_after(3):
        try:
            while True:
                await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"P", b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: "])
async def test_headers_that_do_not_come_close_the_connection(quick: Front, sent: bytes) -> None:
    async with await anyio.connect_tcp("127.0.0.1", quick.port) as stream:
        if sent:
            await stream.send(sent)
        assert await is_closed(stream)


async def patience_is_over(door: Front) -> None:
    """Long enough for every timer that runs now: two connections on which nothing is said were closed meanwhile."""
    for _ in range(2):
        async with await anyio.connect_tcp("127.0.0.1", door.port) as silent:
            assert await is_closed(silent)


async def test_headers_that_come_byte_by_byte_have_no_more_time(quick: Front) -> None:
    async with await anyio.connect_tcp("127.0.0.1", quick.port) as stream, anyio.create_task_group() as tasks:

        async def dribble() -> None:
            try:
                await stream.send(b"GET /health HTTP/1.1\r\n")
                while True:
                    await stream.send(b"x")
                    await anyio.sleep(0.005)  # the pace of the attack, nothing waits for it
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass

        tasks.start_soon(dribble)
        assert await is_closed(stream)
        tasks.cancel_scope.cancel()


async def test_the_second_request_of_a_connection_has_its_own_time(quick: Front) -> None:
    request = raw_post(quick, b"", first="GET /health HTTP/1.1")
    async with await anyio.connect_tcp("127.0.0.1", quick.port) as stream:
        await stream.send(request)
        assert b"200 OK" in await stream.receive()
        await patience_is_over(quick)
        await stream.send(request)
        assert b"200 OK" in await stream.receive()
        await stream.send(request[:20])
        assert await is_closed(stream)


async def test_headers_without_end_are_cut_off(quick: Front) -> None:
    endless = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"x-a: y\r\n" * 100_000
    answer = await raw(quick.port, endless)
    assert answer.closed
    assert answer.statuses in ([], [400], [431])


async def test_trailers_without_end_are_not_kept(quick: Front) -> None:
    body = b"2\r\n{}\r\n0\r\n" + b"x-trailer: y\r\n" * 10_000 + b"\r\n"
    answer = await raw(quick.port, raw_post(quick, body, "transfer-encoding: chunked", "content-length: -"))
    assert answer.statuses == [400]
    assert b"-32600" in answer.data


async def test_a_body_nobody_wants_may_not_come_for_ever(quick: Front) -> None:
    async with await anyio.connect_tcp("127.0.0.1", quick.port) as stream:
        await stream.send(raw_post(quick, b"{", "authorization: x", "content-length: 1000"))
        assert b" 401 " in await stream.receive()
        assert await is_closed(stream)


async def test_a_reader_that_never_reads_is_let_go(quick: Front) -> None:
    quick.u.script["echo"] = answering_with(text("x" * 8_000_000))
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"u__echo"}}'
    session = await quick.handshake()
    stream = await anyio.connect_tcp("127.0.0.1", quick.port)
    await stream.send(raw_post(quick, body, f"mcp-session-id: {session}"))
    await until(lambda: quick.rows("outcome") == [("ok",)])
    received = 0
    await patience_is_over(quick)  # and nothing is read
    with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
        while True:
            received += len(await stream.receive())
    await stream.aclose()
    assert received < 8_000_000


async def test_a_reader_that_is_only_slow_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "STALL_S", 5)
    async with front(tmp_path) as door:
        door.u.script["echo"] = answering_with(text("x" * 4_000_000))
        assert len((await door.call("u__echo")).json()["result"]["content"][0]["text"]) == 4_000_000


# Heads that are known


@dataclass
class Heard:
    """A server that answers each request with what it made of it."""

    port: int
    known: list[bool]
    """Of each piece that came while nothing was under way: whether it was taken without parsing it."""
    opened: list[asyncio.StreamWriter]

    server: Server

    def connections(self) -> list[BoundedConnection]:
        return [each for each in self.server.server_state.connections if isinstance(each, BoundedConnection)]

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.opened.append(writer)
        return reader, writer

    async def afresh(self, *requests: bytes) -> list[bytes]:
        """What it makes of each of these, on a connection that nothing else was asked on."""
        answers = []
        for request in requests:
            reader, writer = await self.dial()
            answers += await told(reader, writer, request)
        return answers


async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *pieces: bytes) -> list[bytes]:
    """The answers to what is sent: one, or none where the connection ends before."""
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return []
    length = re.search(rb"content-length: (\d+)", head)
    return [head.split(b"\r\n")[0] + await reader.readexactly(int(length[1]) if length else 0)]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    said = [scope["method"], scope["raw_path"], scope["headers"], body]
    await send_json(send, 200, repr(said).encode())


@pytest.fixture
async def heard(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Heard]:
    take_known = BoundedConnection._take_known

    known: list[bool] = []

    def noted(self: BoundedConnection, data: bytes) -> bool:
        known.append(take_known(self, data))
        return known[-1]

    monkeypatch.setattr(BoundedConnection, "_take_known", noted)
    server = Server(echo, Closers(), 65536)
    async with listening(server) as port:
        made = Heard(port, known, [], server)
        yield made
        for writer in made.opened:
            writer.close()


def post(body: bytes, line: str = "Content-Length: {}", *more: str, path: str = "/mcp") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", line.format(len(body)), *more, "X-Last: z", "", ""]
    return "\r\n".join(lines).encode() + body


SPELLINGS = {
    "usual": ("Content-Length: {}",),
    "small letters": ("content-length: {}",),
    "no space": ("CONTENT-LENGTH:{}",),
    "a tab": ("Content-Length:\t{}",),
    "behind one that says the same": ("X-Before: Content-Length: 3\r\nContent-Length: {}",),
    "before one that says the same": ("Content-Length: {}", "X-After: Content-Length: 3"),
    "before one that is called alike": ("Content-Length: {}", "X-Content-Length: 3"),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
async def test_a_known_head_means_the_same_whatever_the_length_of_its_body(
    heard: Heard, spelling: tuple[str, ...]
) -> None:
    requests = [post(b"x" * length, *spelling) for length in (9, 9, 1, 10, 99, 100, 0, 1000, 20_000)]
    alone = await heard.afresh(*requests)
    heard.known.clear()
    reader, writer = await heard.dial()
    assert [answer for request in requests for answer in await told(reader, writer, request)] == alone
    assert heard.known == [False, *[True] * 8]


OTHERS = {
    "another path": post(b"abc", path="/mcq"),
    "another header": post(b"abc", "Content-Length: {}", "X-More: y"),
    "the number of another header is another": post(b"abc", "X-Before: Content-Length: 4\r\nContent-Length: {}"),
    "zeros in front": post(b"abc", "Content-Length: 00{}"),
    "a sign in front": post(b"abc", "Content-Length: +{}"),
    "a space behind": post(b"abc", "Content-Length: {} "),
    "two of them": post(b"abc", "Content-Length: {}\r\nContent-Length: 3"),
    "a list": post(b"abc", "Content-Length: {}, 3"),
    "none": post(b"", "X-Content-Length: {}"),
    "chunks as well": post(b"3\r\nabc\r\n0\r\n\r\n", "Content-Length: {}", "Transfer-Encoding: chunked"),
    "one that says it in a value": post(b"abc", "X-Before: a\r\n\tContent-Length: {}"),
    "the last one of its connection": post(b"abc", "Content-Length: {}", "Connection: close"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("before", [post(b"abcd"), post(b"abcd", "X-Before: Content-Length: 3\r\nContent-Length: {}")])
async def test_a_head_that_is_not_known_byte_for_byte_is_parsed(heard: Heard, before: bytes, other: bytes) -> None:
    alone = await heard.afresh(other, before)
    heard.known.clear()
    reader, writer = await heard.dial()
    await told(reader, writer, before)
    assert await told(reader, writer, other) == alone[:1]
    assert not any(heard.known)


async def test_what_is_cut_anywhere_is_the_same_request(heard: Heard) -> None:
    request, first = post(b"abcdef"), post(b"ab")
    [alone, of_first] = await heard.afresh(request, first)
    heard.known.clear()
    reader, writer = await heard.dial()
    assert await told(reader, writer, first) == [of_first]
    for cut in range(1, len(request)):
        assert await told(reader, writer, request[:cut], request[cut:]) == [alone]
    assert heard.known.count(True) == 2  # the head, and the head with its body
    assert await told(reader, writer, b"\r\n" + request) == [alone]
    assert heard.known.count(True) == 2
    assert await told(reader, writer, request) == [alone]
    assert heard.known.count(True) == 3


async def test_what_comes_behind_a_known_head_is_its_body_and_then_the_next_request(heard: Heard) -> None:
    request, other = post(b"abcdef"), post(b"ab", path="/other")
    [alone, of_other] = await heard.afresh(request, other)
    head, body = request[:-6], request[-6:]
    reader, writer = await heard.dial()
    await told(reader, writer, request)
    heard.known.clear()
    for pieces in (
        (request + other,),
        (head, body + other),
        (head + b"abc", b"def" + other),
        (head, b"abc", b"def" + other[:9], other[9:]),
    ):
        assert await told(reader, writer, *pieces) == [alone]
        assert await told(reader, writer) == [of_other]
    assert heard.known.count(True) == 2  # the two heads that came alone


@pytest.mark.parametrize("first", [(post(b"abcd"),), (post(b"abcd")[:-4], b"abcd")], ids=["one piece", "two pieces"])
async def test_programs_that_send_head_and_body_apart_are_known_too(heard: Heard, first: tuple[bytes, ...]) -> None:
    requests = [post(b"x" * length) for length in (1, 5, 4, 60_000)]
    alone = await heard.afresh(*requests)
    reader, writer = await heard.dial()
    await told(reader, writer, *first)
    heard.known.clear()
    for request, answer in zip(requests, alone, strict=True):
        head, _, body = request.partition(b"\r\n\r\n")
        assert await told(reader, writer, head + b"\r\n\r\n", body) == [answer]
    assert heard.known.count(False) <= 1  # the long one, if it came in more pieces


async def test_a_head_that_was_not_followed_by_its_body_in_time_is_a_slow_request(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "HEADERS_TIMEOUT_S", 0.01)
    request = post(b"abcd")
    [alone] = await heard.afresh(request)
    parsed = asyncio.Event()
    parse = BoundedConnection._parse_head_alone
    monkeypatch.setattr(BoundedConnection, "_parse_head_alone", lambda self: (parse(self), parsed.set()))
    reader, writer = await heard.dial()
    await told(reader, writer, request)
    writer.write(request[:-4])
    await parsed.wait()
    assert await told(reader, writer, b"abcd") == [alone]
    assert await told(reader, writer, request) == [alone]


async def test_a_request_that_expects_to_be_told_to_go_on_teaches_nothing(heard: Heard) -> None:
    expecting, other = post(b"abcd", "Content-Length: {}", "Expect: 100-continue"), post(b"wxyz", path="/other")
    [of_other] = await heard.afresh(other)
    reader, writer = await heard.dial()
    assert await told(reader, writer, expecting[:-4]) == [b"HTTP/1.1 100 Continue"]
    [answer] = await told(reader, writer, b"abcd" + other)
    assert b"Expect" in answer or b"expect" in answer
    assert await told(reader, writer) == [of_other]
    heard.known.clear()
    assert await told(reader, writer, expecting[:-4]) == [b"HTTP/1.1 100 Continue"]
    assert await told(reader, writer, b"abcd") == [answer]
    assert not any(heard.known)


async def test_a_server_that_stops_still_answers_a_known_head_when_its_body_comes(heard: Heard) -> None:
    request = post(b"abcd")
    reader, writer = await heard.dial()
    answer = await told(reader, writer, request)
    writer.write(request[:-4])
    await until(lambda: heard.known == [False, True])
    [connection] = heard.connections()
    connection.shutdown()
    assert await told(reader, writer, b"abcd") == answer
    assert await reader.read() == b""


async def test_few_heads_are_known_at_once_and_the_oldest_go(heard: Heard) -> None:
    reader, writer = await heard.dial()
    requests = [post(b"abc", path=f"/{number}") for number in range(MAX_HEADS + 1)]
    for request in [*requests, *requests[1:], requests[0]]:
        assert await told(reader, writer, request) == await heard.afresh(request)
    own = [known for known, is_own in zip(heard.known, [True, False] * len(heard.known), strict=False) if is_own]
    assert own == [*[False] * len(requests), *[True] * MAX_HEADS, False]
