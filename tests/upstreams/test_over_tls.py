"""The server chooses the protocol; who comes while that is open waits for it and does not connect as well."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fakes.h2_server import Asked, answer_plainly, going_away, h2_serving, server_tls, trusting_client
from fakes.waiting import until
from mcp_gateway.upstreams import over_tls
from mcp_gateway.upstreams.fast_wire import FastClient
from mcp_gateway.upstreams.wire import WireError


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: Any) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FastClient]:
    async with trusting_client(monkeypatch, connect_timeout_s=1) as client:
        yield client


async def get(client: FastClient, url: str) -> bytes:
    async with client.open("GET", url, {}) as response:
        return await response.read(2**20) or b""


class Http1:
    """A server over TLS that speaks HTTP/1.1, whatever is offered; `protocols`: what it says of that."""

    def __init__(self, *protocols: str) -> None:
        self.protocols = protocols
        self.connections = 0
        self.url = ""

    async def __aenter__(self) -> "Http1":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=server_tls(*self.protocols))
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await answer_plainly(reader, writer)


@pytest.mark.parametrize("protocols", [("http/1.1",), ()])
async def test_a_server_without_http_2_is_spoken_to_in_http_1(client: FastClient, protocols: tuple[str, ...]) -> None:
    async with Http1(*protocols) as served:
        assert [await get(client, served.url) for _ in range(3)] == [b"one"] * 3
        assert served.connections == 1
        assert await asyncio.gather(*[get(client, served.url) for _ in range(20)]) == [b"one"] * 20
        await client.close()
        await asyncio.sleep(0)


async def test_a_server_that_speaks_both_chooses_http_2(client: FastClient) -> None:
    async with h2_serving(protocols=("h2", "http/1.1")) as served:
        assert await get(client, served.url) == b"ok"


async def test_who_comes_while_the_first_connects_shares_its_connection(client: FastClient) -> None:
    async with h2_serving() as served:
        assert await asyncio.gather(*[get(client, served.url) for _ in range(50)]) == [b"ok"] * 50
        assert len(served.peers) == 1


async def test_a_connection_that_fails_is_told_to_all_who_waited_for_it(client: FastClient) -> None:
    async with h2_serving() as served:
        url = served.url
    told = await asyncio.gather(*[get(client, url) for _ in range(10)], return_exceptions=True)
    assert all(isinstance(error, WireError) for error in told)
    assert client._busy == 0


async def test_a_certificate_that_nobody_trusts_is_not_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FastClient(connect_timeout_s=1)
    async with h2_serving() as served:
        with pytest.raises(WireError):
            await get(client, served.url)
        assert served.asked == []
    await client.close()


async def test_a_name_that_the_certificate_does_not_have_is_not_spoken_to(client: FastClient) -> None:
    async with h2_serving() as served:
        with pytest.raises(WireError):
            await get(client, served.url.replace("127.0.0.1", "127.0.0.2"))
        assert served.asked == []


async def test_one_who_gives_up_connecting_leaves_it_to_the_next(client: FastClient) -> None:
    client = FastClient(connect_timeout_s=0.2)
    begun = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal begun
        begun += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)  # takes connections, and never shakes hands
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        first = asyncio.ensure_future(get(client, url))
        await until(lambda: begun == 1)
        second = asyncio.ensure_future(get(client, url))
        await asyncio.sleep(0)
        first.cancel()
        await until(lambda: begun == 2)
        with pytest.raises(WireError, match="in time"):
            await second
        with pytest.raises(asyncio.CancelledError):
            await first
    assert client._busy == 0


async def test_a_connection_with_news_is_given_up_before_anything_is_sent(
    client: FastClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_tls, "PEEK_AFTER_S", 0.0)
    async with h2_serving() as served:
        assert await get(client, served.url) == b"ok"
        [connection] = client._open
        monkeypatch.setattr(type(connection), "has_news", lambda self: True)
        assert await get(client, served.url) == b"ok"
        assert len(served.peers) == 2


async def test_a_server_that_changes_what_it_speaks_is_still_reached(client: FastClient) -> None:
    async with Http1("http/1.1") as served:
        assert await get(client, served.url) == b"one"
        known = client._over_tls._known
        [origin] = known
        async with h2_serving() as other:
            port = int(other.url.rsplit(":", 1)[1].split("/")[0])
            known[origin._replace(port=port)] = known.pop(origin)
            assert await asyncio.gather(*[get(client, other.url) for _ in range(3)]) == [b"ok"] * 3
            assert await get(client, other.url) == b"ok"
            assert len(other.peers) <= 3
        await client.close()


BOTH = ("h2", "http/1.1")
HTTP_1_1_REQUIRED = 0xD


async def test_a_server_that_then_wants_http_1_gets_it_at_once_and_from_then_on(client: FastClient) -> None:
    async with h2_serving(lambda asked: asked.reset(HTTP_1_1_REQUIRED), protocols=BOTH) as served:
        assert await get(client, served.url) == b"one"
        assert await asyncio.gather(*[get(client, served.url) for _ in range(5)]) == [b"one"] * 5
        assert (len(served.peers), len(served.asked)) == (1, 1)
        assert served.plain_connections <= 5
        assert client._busy == 0
        await client.close()


async def test_calls_under_way_when_a_server_wants_http_1_are_answered(client: FastClient) -> None:
    held: list[Asked] = []

    def answer(asked: Asked) -> None:
        held.append(asked)
        if len(held) == 2:
            asked.reset(HTTP_1_1_REQUIRED)

    async with h2_serving(answer, protocols=BOTH) as served:
        first = asyncio.ensure_future(get(client, served.url))
        await until(lambda: len(held) == 1)
        assert await get(client, served.url) == b"one"
        held[0].answer()
        assert await first == b"ok"
        await client.close()


async def test_a_server_that_goes_away_because_it_wants_http_1_gets_it(client: FastClient) -> None:
    def leave(asked: Asked) -> None:
        asked.peer.raw(going_away(0, HTTP_1_1_REQUIRED))

    async with h2_serving(leave, protocols=BOTH) as served:
        assert await get(client, served.url) == b"one"
        assert len(served.peers) == 1
        await client.close()


async def test_a_server_that_wants_http_1_and_speaks_none_is_an_error_soon(client: FastClient) -> None:
    async with h2_serving(lambda asked: asked.reset(HTTP_1_1_REQUIRED)) as served:
        with pytest.raises(WireError):
            await get(client, served.url)
        assert (len(served.asked), client._busy) == (1, 0)


async def test_http_2_is_not_offered_where_nobody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with h2_serving(protocols=BOTH) as served, trusting_client(monkeypatch, offers_h2=False) as client:
        assert await get(client, served.url) == b"one"
        assert (len(served.peers), served.plain_connections) == (0, 1)
        await client.close()


async def test_a_stream_that_was_asked_for_and_not_used_takes_nothing(client: FastClient) -> None:
    async with h2_serving(Asked.answer) as served:
        assert await get(client, served.url) == b"ok"
        [connection] = client._open
        stream = connection.stream()  # type: ignore[union-attr]
        stream.abort()
        assert (connection.is_idle, client._busy) == (True, 0)  # type: ignore[union-attr]


async def test_a_server_whose_certificate_nobody_vouches_for_is_told_apart_from_one_that_is_down() -> None:
    client = FastClient(connect_timeout_s=5)
    async with h2_serving() as served:
        with pytest.raises(WireError, match="its TLS certificate is not trusted here"):
            await get(client, served.url)
        assert not served.asked
    with pytest.raises(WireError, match=r"^could not be connected to$"):
        await get(client, served.url)
    await client.close()
