"""One connection, whatever its other side does or leaves undone."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from fakes.front import Front, front, raw, raw_post
from fakes.upstream import answering_with, text
from fakes.waiting import until
from mcp_gateway.frontdoor import http_connection


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
