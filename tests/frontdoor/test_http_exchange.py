"""What an application may send, and what becomes of a connection whose application does otherwise."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from fakes.front import listening
from fakes.waiting import until
from mcp_gateway.frontdoor.exchange import Closers
from mcp_gateway.frontdoor.http_exchange import EXCHANGE, KEPT, MAX_UNREAD_BYTES
from mcp_gateway.frontdoor.http_server import Server

App = Callable[[Scope, Receive, Send], Awaitable[None]]
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@asynccontextmanager
async def connected(app: App) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server of this application."""
    async with listening(Server(app, Closers(), 65536)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield reader, writer
        finally:
            writer.close()


def sending(*messages: Message) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def answer(app: App, request: bytes = GET) -> bytes:
    """All that comes back, up to the end of the connection; which a good answer leaves open."""
    async with connected(app) as (reader, writer):
        writer.write(request)
        if b"connection: close" not in request:
            writer.write_eof()
        return b"\r\n".join(line for line in (await reader.read()).split(b"\r\n") if not line.startswith(b"date: "))


LENGTH = (b"content-length", b"3")
GOOD = {
    "a length": ((start(LENGTH), body(b"abc")), b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"),
    "a length, in pieces": (
        (start(LENGTH), body(b"a", more=True), body(b"bc")), b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"
    ),
    "no length": (
        (start(), body(b"a", more=True), body(b"", more=True), body(b"bc")),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
    ),
    "a status that has no name": (
        (start((b"content-length", b"0"), status=529), body(b"")),
        b"HTTP/1.1 529 Unassigned\r\ncontent-length: 0\r\n\r\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("messages", "expected"), GOOD.values(), ids=GOOD)
async def test_what_is_sent_arrives(messages: tuple[Message, ...], expected: bytes) -> None:
    assert await answer(sending(*messages)) == expected


async def test_an_answer_to_head_has_no_body() -> None:
    request = b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n"
    assert (await answer(sending(start(LENGTH), body(b"abc")), request)).endswith(b"content-length: 3\r\n\r\n")


BAD = {
    "longer than it said": (start(LENGTH), body(b"abcd")),
    "shorter than it said": (start(LENGTH), body(b"ab")),
    "a body before its head": (body(b"abc"),),
    "a header that would end another one": (start((b"x", b"a\r\nset-cookie: b"), LENGTH), body(b"abc")),
    "a bare line feed in a header": (start((b"x", b"a\nb"), LENGTH), body(b"abc")),
    "nothing": (),
    "no end": (start(LENGTH), body(b"ab", more=True)),
}


@pytest.mark.parametrize("messages", BAD.values(), ids=BAD)
async def test_what_is_no_answer_ends_the_connection(messages: tuple[Message, ...]) -> None:
    async with connected(sending(*messages)) as (reader, writer):
        writer.write(GET)
        try:
            said = await reader.read()
        except ConnectionError:
            said = b""
    assert b"set-cookie" not in said
    assert b"abc" not in said


async def test_a_second_answer_is_a_bug_and_is_not_sent() -> None:
    async with connected(sending(start(LENGTH), body(b"abc"), body(b"def"))) as (reader, writer):
        writer.write(GET)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(3) == b"abc"
        writer.write_eof()
        assert b"def" not in await reader.read()


async def test_a_whole_answer_is_one_write_and_refused_once_another_has_begun() -> None:
    told: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = scope[EXCHANGE]
        if scope["path"] == "/late":
            await send(start(LENGTH))
            told.append(exchange.respond(b"HTTP/1.1 200 OK\r\n", b"xyz"))
            await send(body(b"abc"))
        else:
            told.append(exchange.respond(b"HTTP/1.1 200 OK\r\n", b"xyz"))

    async with connected(app) as (reader, writer):
        for path, expected in ((b"/", b"xyz"), (b"/late", b"abc")):
            writer.write(GET.replace(b" / ", b" %b " % path))
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(3) == expected
    assert told == [True, False]


async def test_a_body_is_held_up_to_a_bound_until_somebody_takes_it() -> None:
    goes_on, taken = asyncio.Event(), bytearray()
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope[EXCHANGE])
        await goes_on.wait()
        while True:
            message = await receive()
            taken.extend(message["body"])
            if not message["more_body"]:
                break
        await send(start(LENGTH))
        await send(body(b"abc"))

    size = 40 * MAX_UNREAD_BYTES
    async with connected(app) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
        await until(lambda: seen and len(seen[0].held) > MAX_UNREAD_BYTES)
        assert len(seen[0].held) < size
        goes_on.set()
        await reader.readuntil(b"abc")
    assert taken == b"x" * size


async def test_what_is_kept_with_a_head_is_there_for_the_next_request_that_has_it_and_no_other() -> None:
    kept: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kept.append(scope.get(KEPT))
        assert scope[EXCHANGE].take_whole() is not None
        assert scope[EXCHANGE].take_whole() is None
        await send(start(LENGTH))
        await send(body(b"abc"))

    async with connected(app) as (reader, writer):
        for path, text in ((b"/a", b"1"), (b"/a", b"22"), (b"/b", b"1"), (b"/a", b"1")):
            writer.write(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (path, len(text), text))
            await reader.readuntil(b"abc")
    assert kept[0] is kept[1] is kept[3]
    assert kept[2] is not kept[0]
    assert None not in kept
