"""The HTTP client follows nothing, reads nothing from the environment, and decodes in bounded pieces."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest

from fakes.raw_http import Asked, RawHttp, answering, http, scripted, stream_start
from fakes.waiting import until
from mcp_gateway.upstreams import fast_wire
from mcp_gateway.upstreams.fast_wire import FastClient
from mcp_gateway.upstreams.wire import WireError
from mcp_gateway.upstreams.wire_connection import Connection


@pytest.fixture
async def client() -> AsyncIterator[FastClient]:
    client = FastClient(connect_timeout_s=1)
    yield client
    await client.close()


async def body_of(client: FastClient, served: RawHttp) -> bytes:
    async with client.open("POST", served.url, {"x-a": "b"}, b"hello") as response:
        return b"".join([piece async for piece in response.body()])


async def test_it_sends_what_it_was_given_and_nothing_of_its_own(client: FastClient) -> None:
    async with answering(scripted([lambda asked: http(200, b"hi")])) as served:
        assert await body_of(client, served) == b"hi"
    [asked] = served.asked
    assert asked.body == b"hello"
    assert set(asked.headers) == {"x-a", "host", "content-length"}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(client: FastClient, status: int) -> None:
    redirect = http(status, b"", "", "location: /elsewhere")
    async with (
        answering(scripted([lambda asked: redirect])) as served,
        client.open("POST", served.url, {"authorization": "x"}, b"{}") as response,
    ):
        assert response.status == status
    assert len(served.asked) == 1


async def test_cookies_are_not_kept(client: FastClient) -> None:
    async with answering(scripted([lambda asked: http(200, b"hi", "text/plain", "set-cookie: a=b; Path=/")])) as served:
        await body_of(client, served)
        await body_of(client, served)
    assert "cookie" not in served.asked[1].headers


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    client = FastClient(connect_timeout_s=1)
    async with answering(scripted([lambda asked: http(200, b"hi")])) as served:
        assert await body_of(client, served) == b"hi"
    await client.close()


async def test_a_bomb_comes_in_bounded_pieces(client: FastClient) -> None:
    bomb = http(200, gzip.compress(b"x" * 2**25), "text/plain", "content-encoding: gzip")
    async with (
        answering(scripted([lambda asked: bomb])) as served,
        client.open("POST", served.url, {}, b"") as response,
        aclosing(response.body()) as pieces,
    ):
        assert len(await anext(pieces)) <= 2**20


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"garbage\r\n\r\n",
        http(200, b"x" * 10)[:-5],
        http(200, b"not gzip", "text/plain", "content-encoding: gzip"),
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_one_kind_of_error(client: FastClient, answer: bytes) -> None:
    async with answering(scripted([lambda asked: answer])) as served:
        with pytest.raises(WireError):
            await body_of(client, served)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "ftp://127.0.0.1/", "http://", "no url", "http://[::1"])
async def test_what_cannot_be_reached_is_one_kind_of_error_and_not_quoted(client: FastClient, url: str) -> None:
    with pytest.raises(WireError) as error:
        async with client.open("GET", url + "?key=s3cr3t", {}):
            raise AssertionError
    assert "s3cr3t" not in str(error.value)


async def test_a_header_that_cannot_be_sent_is_one_kind_of_error_and_not_quoted(client: FastClient) -> None:
    async with answering(scripted([lambda asked: http(200)])) as served:
        for value in ("s3cr3t\r\nx: y", "s3cr3t\u20ac"):
            with pytest.raises(WireError) as error:
                async with client.open("GET", served.url, {"x": value}):
                    raise AssertionError
            assert "s3cr3t" not in str(error.value)


async def test_leaving_the_block_hangs_up(client: FastClient) -> None:
    async def endless(asked: Asked, writer: object) -> None:
        writer.write(stream_start())  # type: ignore[attr-defined]
        await anyio.sleep_forever()

    async with answering(endless) as served:
        async with client.open("GET", served.url, {}) as response:
            assert response.status == 200
        await until(lambda: served.hung_up)


@asynccontextmanager
async def keeping(answers: Callable[[bytes], bytes]) -> AsyncIterator[tuple[str, list[int]]]:
    """A server that keeps its connections; how many requests each of them has carried."""
    carried: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        carried.append(0)
        number = len(carried) - 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                carried[number] += 1
                writer.write(answers(head))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", carried


async def get(client: FastClient, url: str) -> bytes:
    async with client.open("GET", url, {}) as response:
        return await response.read(2**20) or b""


def whole(head: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def test_connections_are_kept_and_shared(client: FastClient) -> None:
    async with keeping(whole) as (url, carried):
        for _ in range(5):
            assert await get(client, url) == b"ok"
        assert carried == [5]
        await asyncio.gather(*(get(client, url) for _ in range(3)))
        assert sum(carried) == 8
        assert len(carried) <= 3


async def test_a_connection_that_was_closed_meanwhile_is_not_written_to(client: FastClient) -> None:
    def closing(head: bytes) -> bytes:
        return whole(head).replace(b"content-length", b"connection: close\r\ncontent-length")

    async with keeping(closing) as (url, carried):
        assert await get(client, url) == b"ok"
        assert await get(client, url) == b"ok"
        assert carried == [1, 1]


async def test_an_idle_connection_is_not_used_for_ever(client: FastClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_wire, "KEEPALIVE_S", 0.0)
    async with keeping(whole) as (url, carried):
        await get(client, url)
        await get(client, url)
        assert carried == [1, 1]


async def test_a_connection_with_news_is_given_up_before_anything_is_sent(
    client: FastClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_wire, "PEEK_AFTER_S", -1.0)
    monkeypatch.setattr(Connection, "has_news", lambda self: True)
    async with keeping(whole) as (url, carried):
        await get(client, url)
        await get(client, url)
        assert carried == [1, 1]


async def test_a_request_is_never_sent_twice(client: FastClient) -> None:
    asked = []

    async def once(asking: Asked, writer: asyncio.StreamWriter) -> None:
        asked.append(asking)
        writer.close()

    async with answering(once) as served:
        with pytest.raises(WireError):
            async with client.open("POST", served.url, {}, b"{}"):
                raise AssertionError
    assert len(asked) == 1


async def test_giving_up_in_the_middle_closes_the_connection(client: FastClient) -> None:
    async with keeping(lambda head: b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf") as (url, carried):
        for _ in range(2):
            async with client.open("GET", url, {}) as response:
                assert response.status == 200
        assert carried == [1, 1]


async def test_being_cancelled_while_waiting_closes_the_connection(client: FastClient) -> None:
    async with keeping(lambda head: b"") as (url, carried):
        with anyio.move_on_after(0.05):
            await get(client, url)
        with anyio.move_on_after(0.05):
            await get(client, url)
        assert carried == [1, 1]


async def test_an_address_that_is_not_admitted_is_not_connected_to() -> None:
    seen: list[tuple[str, str]] = []

    def admits(address: str, host: str) -> bool:
        seen.append((address, host))
        return False

    client = FastClient(1, admits=admits)
    async with keeping(whole) as (url, carried):
        with pytest.raises(WireError, match="not public"):
            await get(client, url)
        assert (seen, carried) == ([("127.0.0.1", "127.0.0.1")], [])
    await client.close()


async def test_too_many_at_once_wait_and_then_hear_so(client: FastClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_wire, "MAX_CONNECTIONS", 1)
    client._connect_timeout_s = 0.05
    async with keeping(whole) as (url, _):
        async with client.open("GET", url, {}):
            with pytest.raises(WireError, match="too many connections"):
                await get(client, url)
            waiting = asyncio.ensure_future(get(client, url))
            await asyncio.sleep(0)
        assert await waiting == b"ok"


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd"])
async def test_an_encoding_nobody_asked_for_is_an_error(client: FastClient, encoding: str) -> None:
    answer = http(200, b"x", "text/plain", f"content-encoding: {encoding}")
    async with answering(scripted([lambda asked: answer])) as served:
        with pytest.raises(WireError):
            await body_of(client, served)


@pytest.mark.parametrize("tail", [b"garbage", gzip.compress(b"more", mtime=0)], ids=["garbage", "another body"])
async def test_what_follows_a_compressed_body_is_an_error(client: FastClient, tail: bytes) -> None:
    answer = http(200, gzip.compress(b"hello") + tail, "text/plain", "content-encoding: gzip")
    async with answering(scripted([lambda asked: answer])) as served:
        with pytest.raises(WireError):
            await body_of(client, served)


@pytest.mark.parametrize("headers", [(), ("content-encoding: gzip",)])
async def test_reading_stops_at_the_bound(client: FastClient, headers: tuple[str, ...]) -> None:
    body = gzip.compress(b"x" * 2**22) if headers else b"x" * 2**22
    async with answering(scripted([lambda asked: http(200, body, "text/plain", *headers)])) as served:
        async with client.open("POST", served.url, {}, b"") as response:
            assert await response.read(2**20) is None
        async with client.open("POST", served.url, {}, b"") as response:
            assert len(await response.read(2**22) or b"") == 2**22


@pytest.mark.parametrize("name", ["host", "Content-Length", "transfer-encoding", "connection", "a b", "", "x:y", "é"])
async def test_headers_that_would_change_the_framing_are_refused(client: FastClient, name: str) -> None:
    with pytest.raises(WireError):
        async with client.open("GET", "http://127.0.0.1:1/", {name: "x"}):
            raise AssertionError


@pytest.mark.parametrize("url", ["http://user:s3cr3t@127.0.0.1/", "http://127.0.0.1/a b", "http://127.0.0.1/\r\nx: y"])
async def test_urls_that_would_say_something_else_are_refused(client: FastClient, url: str) -> None:
    with pytest.raises(WireError):
        async with client.open("GET", url, {}):
            raise AssertionError


# Answers that are found before their end


EVENT = b"data: {}\n\n"


class Streaming:
    """A server whose answers are event streams of one event; what comes behind it, a test says."""

    def __init__(self) -> None:
        self.carried: list[int] = []
        self.is_gone: list[asyncio.Event] = []
        self.writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            for writer in self.writers:
                writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.carried.append(0)
        self.writers.append(writer)
        self.is_gone.append(asyncio.Event())
        number = len(self.carried) - 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.carried[number] += 1
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.is_gone[number].set()
            writer.close()


async def first_event(client: FastClient, url: str, *, is_answered: bool = True) -> None:
    """Ask, and be done with the answer as soon as its event is there."""
    exchange = client.open("GET", url, {})
    response = await exchange.begin()
    async with aclosing(response.body()) as body:
        assert await anext(body) == EVENT
    exchange.end(is_answered=is_answered)


async def test_a_connection_is_used_again_once_the_answer_that_was_found_in_it_has_ended(client: FastClient) -> None:
    served = Streaming()
    async with served.serving() as url:
        for _ in range(3):
            await first_event(client, url)
            assert client._lingering
            served.writers[0].write(b"9\r\n: bye bye\r\n0\r\n\r\n")
            await until(lambda: not client._lingering)
        assert served.carried == [3]
        assert client._busy == 0


async def test_an_answer_that_was_given_up_ends_its_connection_at_once(client: FastClient) -> None:
    served = Streaming()
    async with served.serving() as url:
        await first_event(client, url, is_answered=False)
        await served.is_gone[0].wait()
        assert not client._lingering


@pytest.mark.parametrize(
    "behind",
    [
        b"",
        b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n",
        b"0\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"garbage\r\n",
    ],
    ids=["nothing", "more than its end", "another answer", "no HTTP"],
)
async def test_an_answer_that_does_not_end_well_ends_its_connection(
    client: FastClient, monkeypatch: pytest.MonkeyPatch, behind: bytes
) -> None:
    monkeypatch.setattr(fast_wire, "LINGER_S", 5.0 if behind else 0.02)
    served = Streaming()
    async with served.serving() as url:
        await first_event(client, url)
        served.writers[0].write(behind)
        with anyio.fail_after(2):
            await served.is_gone[0].wait()
        await until(lambda: not client._lingering)
        await first_event(client, url)
        assert served.carried == [1, 1]


async def test_few_connections_wait_for_an_end(client: FastClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_wire, "MAX_LINGERING", 2)
    served = Streaming()
    async with served.serving() as url:
        for _ in range(3):
            await first_event(client, url)
        await served.is_gone[2].wait()
        assert len(client._lingering) == 2
        await client.close()
        await until(lambda: all(gone.is_set() for gone in served.is_gone))
        assert not client._lingering
