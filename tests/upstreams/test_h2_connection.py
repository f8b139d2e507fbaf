"""HTTP/2 towards upstreams: many exchanges on one connection, and nothing a server can do with that to us."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Encoder

from fakes.h2_server import Asked, frame, going_away, h2_serving, trusting_client
from fakes.pipe import Pipe
from fakes.waiting import until
from mcp_gateway.upstreams import fast_wire, h2_connection
from mcp_gateway.upstreams.fast_wire import FastClient
from mcp_gateway.upstreams.h2_frames import MAX_FRUITLESS
from mcp_gateway.upstreams.h2_stream import WINDOW_BYTES
from mcp_gateway.upstreams.wire import WireError
from mcp_gateway.upstreams.wire_connection import MAX_HEAD_BYTES, MAX_HEADER_LINES

HEADERS, RST, SETTINGS, PUSH, PING, WINDOW_UPDATE, CONTINUATION = 1, 3, 4, 5, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: Any) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FastClient]:
    async with trusting_client(monkeypatch) as client:
        yield client


async def post(client: FastClient, url: str, body: bytes | None = b"{}", **headers: str) -> bytes:
    async with client.open("POST", url, headers, body) as response:
        return await response.read(2**24) or b""


NOBODY = Asked(None, 0, [])  # type: ignore[arg-type]


def ignore(asked: Asked) -> None:
    """Say nothing."""


def echo(asked: Asked) -> None:
    asked.answer(asked.body)


# -- what goes out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 100])
async def test_a_server_that_remembers_fewer_headers_than_usual_is_told_that_we_need_none(
    client: FastClient, size: int
) -> None:
    async with h2_serving(echo, settings={SettingCodes.HEADER_TABLE_SIZE: size}) as served:
        assert [await post(client, served.url, body, x=str(size)) for body in (b"a", b"b")] == [b"a", b"b"]
        assert len(served.peers) == 1


async def test_a_request_arrives_as_it_was_given_with_names_in_lower_case(client: FastClient) -> None:
    headers = {"X-Session": "S", "te": "x"}
    async with (
        h2_serving(echo) as served,
        client.open("POST", f"{served.url}?a=b", headers, b"hello") as response,
    ):
        assert (response.status, await response.read(100)) == (200, b"hello")
    [asked] = served.asked
    host = served.url.removeprefix("https://").removesuffix("/mcp")
    assert asked.headers == [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", host),
        (":path", "/mcp?a=b"),
        ("x-session", "S"),
        ("content-length", "5"),
    ]


@pytest.mark.parametrize("name", ["Connection", "transfer-encoding", "host", "a b", "x\r\ny"])
async def test_headers_that_would_change_the_framing_are_refused(client: FastClient, name: str) -> None:
    async with h2_serving() as served:
        with pytest.raises(WireError):
            await post(client, served.url, **{name: "x"})
        assert served.asked == []


async def test_many_exchanges_share_one_connection(client: FastClient) -> None:
    waiting: list[Asked] = []
    async with h2_serving(waiting.append) as served, anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(post, client, served.url, b"%d" % number)
        await until(lambda: len(waiting) == 50)
        for asked in reversed(waiting):
            asked.answer(asked.body)
    assert len(served.peers) == 1


async def test_answers_find_who_asked(client: FastClient) -> None:
    async with h2_serving(echo) as served:
        bodies = [b"%d" % number * (number + 1) for number in range(60)]
        assert await asyncio.gather(*[post(client, served.url, body) for body in bodies]) == bodies


async def test_what_a_server_does_not_take_at_once_goes_over_another_connection(client: FastClient) -> None:
    waiting: list[Asked] = []
    settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 3}
    async with h2_serving(waiting.append, settings) as served, anyio.create_task_group() as tasks:
        for _ in range(7):
            tasks.start_soon(post, client, served.url)
        await until(lambda: len(waiting) == 7)
        assert [sum(asked.peer is peer for asked in waiting) for peer in served.peers] == [3, 3, 1]
        for asked in waiting:
            asked.answer()


async def test_a_large_body_waits_for_the_servers_window_and_holds_up_nobody(client: FastClient) -> None:
    async with h2_serving(echo) as served, anyio.create_task_group() as tasks:
        served.reads = False
        async with client.open("POST", served.url, {}, b"x") as first:
            assert first.status == 200
        large = b"x" * 200_000
        answers: list[bytes] = []

        async def send() -> None:
            answers.append(await post(client, served.url, large))

        tasks.start_soon(send)
        [peer] = served.peers
        await until(lambda: sum(len(asked.body) for asked in peer._open.values()) == 65535)
        async with client.open("GET", served.url, {}) as response:
            assert response.status == 200
        served.reads = True
        peer.machine.increment_flow_control_window(2**20)
        peer.machine.increment_flow_control_window(2**20, 3)
        peer.flush()
        await until(lambda: answers == [large])
    assert len(served.peers) == 1


async def test_a_body_larger_than_any_window_arrives_whole(client: FastClient) -> None:
    async with h2_serving(lambda asked: asked.answer(b"%d" % len(asked.body))) as served:
        assert await post(client, served.url, b"x" * 3_000_000) == b"3000000"


async def test_a_window_that_shrinks_and_opens_again_is_kept_to(client: FastClient) -> None:
    async with h2_serving(echo) as served, anyio.create_task_group() as tasks:
        served.reads = False
        large, answers = b"x" * 100_000, []

        async def send() -> None:
            answers.append(await post(client, served.url, large))

        tasks.start_soon(send)
        await until(lambda: served.peers and len(served.peers[0]._open.get(1, NOBODY).body) == 65535)
        [peer] = served.peers
        peer.machine.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1000})  # 64535 less than nothing is left
        peer.machine.increment_flow_control_window(2**20)
        peer.machine.increment_flow_control_window(2**20, 1)
        served.reads = True
        peer.flush()
        await until(lambda: answers == [large])


async def test_headers_larger_than_a_frame_arrive_whole(client: FastClient) -> None:
    async with h2_serving(lambda asked: asked.answer(asked.value("x").encode()[:5])) as served:
        assert await post(client, served.url, x="abcde" * 8000) == b"abcde"


async def test_an_answer_before_the_request_was_read_ends_the_exchange(client: FastClient) -> None:
    async with h2_serving(ignore) as served, anyio.create_task_group() as tasks:
        served.reads = False
        answers: list[bytes] = []

        async def send() -> None:
            answers.append(await post(client, served.url, b"x" * 100_000))

        tasks.start_soon(send)
        await until(lambda: served.peers and served.peers[0]._open.get(1))
        served.peers[0]._open[1].answer(b"too much", status=413)
        await until(lambda: answers == [b"too much"])
        await until(lambda: served.peers[0].resets)
        assert await asyncio.wait_for(get_status(client, served.url, served), 5) == 200


async def get_status(client: FastClient, url: str, served: Any) -> int:
    served.answerer = Asked.answer
    async with client.open("GET", url, {}) as response:
        return response.status


# -- what comes back ---------------------------------------------------------------------------------------------------


async def test_statuses_and_headers_are_seen_and_cookies_are_not_kept(client: FastClient) -> None:
    def answer(asked: Asked) -> None:
        asked.answer(b"", ("location", "/elsewhere"), ("set-cookie", "a=b"), ("x", "1"), ("x", "2"), status=307)

    async with h2_serving(answer) as served:
        for _ in range(2):
            async with client.open("POST", served.url, {"authorization": "x"}, b"{}") as response:
                assert response.status == 307
                assert response.headers == {"location": "/elsewhere", "set-cookie": "a=b", "x": "1, 2"}
                assert response.read_at_once(10) == b""
    assert len(served.asked) == 2
    assert "cookie" not in dict(served.asked[1].headers)


async def test_gzip_is_decoded_in_bounded_pieces(client: FastClient) -> None:
    bomb = gzip.compress(b"x" * 2**23)
    async with h2_serving(lambda asked: asked.answer(bomb, ("content-encoding", "gzip"))) as served:
        async with client.open("GET", served.url, {}) as response, aclosing(response.body()) as pieces:
            sizes = [len(piece) async for piece in pieces]
            assert (sum(sizes), max(sizes) <= 2**20) == (2**23, True)
        async with client.open("GET", served.url, {}) as response:
            assert await response.read(2**20) is None


async def test_an_answer_to_head_has_no_body(client: FastClient) -> None:
    def answer(asked: Asked) -> None:
        asked.peer.machine.send_headers(asked.stream, [(":status", "200"), ("content-length", "9")], end_stream=True)

    async with h2_serving(answer) as served, client.open("HEAD", served.url, {}) as response:
        assert (response.headers, await response.read(10)) == ({"content-length": "9"}, b"")


async def test_what_comes_before_an_answer_and_behind_it_is_not_the_answer(client: FastClient) -> None:
    def answer(asked: Asked) -> None:
        for _ in range(3):
            asked.start(("early", "x"), status=103)
        asked.answer(b"body", end=False)
        asked.peer.machine.send_headers(asked.stream, [("x-late", "y")], end_stream=True)

    async with h2_serving(answer) as served, client.open("GET", served.url, {}) as response:
        assert (response.status, await response.read(10), response.headers) == (200, b"body", {})


async def test_an_event_stream_comes_as_it_is_sent(client: FastClient) -> None:
    async with h2_serving(ignore) as served, anyio.create_task_group() as tasks:

        async def answer() -> None:
            await until(lambda: served.asked)
            served.asked[0].answer(b"data: 1\n\n", ("content-type", "text/event-stream"), end=False)

        tasks.start_soon(answer)
        async with client.open("GET", served.url, {}) as response, aclosing(response.body()) as pieces:
            assert await anext(pieces) == b"data: 1\n\n"
            served.answerer = Asked.answer
            assert await post(client, served.url) == b"ok"
            served.asked[0].peer.send(1, b"data: 2\n\n")
            assert [piece async for piece in pieces] == [b"data: 2\n\n"]
    assert len(served.peers) == 1


async def test_a_body_nobody_reads_is_held_back_and_holds_up_nobody(client: FastClient) -> None:
    huge = b"x" * 2_000_000
    async with (
        h2_serving(lambda asked: asked.answer(huge if asked.stream == 1 else b"ok")) as served,
        client.open("GET", served.url, {}) as response,
    ):
        for _ in range(20):
            assert await post(client, served.url) == b"ok"
        assert served.peers[0].unsent(1) == len(huge) - WINDOW_BYTES
        assert await response.read(2**21) == huge
    assert len(served.peers) == 1


async def test_a_body_that_does_not_care_for_windows_ends_the_connection(client: FastClient) -> None:
    def answer(asked: Asked) -> None:
        asked.start()
        asked.peer.raw(frame(0, 0, asked.stream, b"x" * 16384) * (WINDOW_BYTES // 16384 + 1))

    async with h2_serving(answer) as served, client.open("GET", served.url, {}) as response:
        await until(lambda: served.peers[0].is_closed)
        with pytest.raises(WireError):
            await response.read(2**24)


async def test_bodies_of_many_windows_come_whole_at_once(client: FastClient) -> None:
    async with h2_serving(lambda asked: asked.answer(asked.body * 30_000)) as served:
        answers = await asyncio.gather(*[post(client, served.url, b"%03d" % number * 10) for number in range(12)])
        assert [len(answer) for answer in answers] == [900_000] * 12
        assert len({answer[:3] for answer in answers}) == 12


# -- giving up ---------------------------------------------------------------------------------------------------------


async def test_giving_up_one_exchange_leaves_the_others_alone(client: FastClient) -> None:
    async with h2_serving(ignore) as served, anyio.create_task_group() as tasks:
        answers: list[bytes] = []

        async def send() -> None:
            answers.append(await post(client, served.url))

        tasks.start_soon(send)
        await until(lambda: served.asked)
        with anyio.move_on_after(0.05):
            await post(client, served.url)
        [peer] = served.peers
        await until(lambda: peer.resets == [(3, ErrorCodes.CANCEL)])
        served.asked[0].answer(b"still here")
        await until(lambda: answers == [b"still here"])
        assert not peer.is_closed


async def test_leaving_a_stream_in_the_middle_tells_the_server(client: FastClient) -> None:
    async with h2_serving(lambda asked: asked.answer(b"half", end=False)) as served:
        async with client.open("GET", served.url, {}) as response:
            assert response.status == 200
        await until(lambda: served.peers[0].resets == [(1, ErrorCodes.CANCEL)])


async def test_an_answer_that_was_read_to_its_end_is_not_given_up(client: FastClient) -> None:
    async with h2_serving() as served:
        assert await post(client, served.url) == b"ok"
        assert await post(client, served.url) == b"ok"
        assert (len(served.peers), served.peers[0].resets) == (1, [])


async def test_a_connection_that_says_nothing_any_more_takes_no_further_exchange(client: FastClient) -> None:
    async with h2_serving() as served:
        assert await post(client, served.url) == b"ok"
        served.peers[0].writer.transport.pause_reading()  # as dead as a machine without power
        with anyio.move_on_after(0.05):
            await post(client, served.url)
        assert await post(client, served.url) == b"ok"
        assert len(served.peers) == 2


async def test_one_that_answers_our_ping_does(client: FastClient) -> None:
    async with h2_serving() as served:
        assert await post(client, served.url) == b"ok"
        served.answerer = ignore
        with anyio.move_on_after(0.05):
            await post(client, served.url)
        await until(lambda: served.peers[0].pings)
        served.answerer = Asked.answer
        await until(lambda: all(connection.has_room for connection in client._open))  # type: ignore[union-attr]
        assert await post(client, served.url) == b"ok"
        assert len(served.peers) == 1


# -- answers that are found before their end ---------------------------------------------------------------------------


async def first_piece(client: FastClient, url: str) -> None:
    """Ask, and be done with the answer as soon as there is something of it."""
    exchange = client.open("POST", url, {}, b"{}")
    response = await exchange.begin()
    async with aclosing(response.body()) as body:
        assert await anext(body) == b"found"
    exchange.end(is_answered=True)


async def test_an_answer_that_was_found_before_its_end_is_not_reset(client: FastClient) -> None:
    async with h2_serving(lambda asked: asked.answer(b"found", end=False)) as served:
        await first_piece(client, served.url)
        served.asked[0].peer.send(1, b": bye bye")
        await until(lambda: not client._lingering)
        assert served.peers[0].resets == []
        [connection] = client._open
        assert connection.is_idle  # type: ignore[union-attr]


@pytest.mark.parametrize("behind", [b"", b"x" * 10_000], ids=["nothing", "more than its end"])
async def test_an_answer_that_does_not_end_is_reset(
    client: FastClient, monkeypatch: pytest.MonkeyPatch, behind: bytes
) -> None:
    monkeypatch.setattr(fast_wire, "LINGER_S", 5.0 if behind else 0.02)
    async with h2_serving(lambda asked: asked.answer(b"found", end=False)) as served:
        await first_piece(client, served.url)
        if behind:
            served.asked[0].peer.send(1, behind, end=False)
        await until(lambda: served.peers[0].resets == [(1, ErrorCodes.CANCEL)])
        served.answerer = Asked.answer
        assert await post(client, served.url) == b"ok"
        assert len(served.peers) == 1


async def test_a_connection_that_breaks_ends_what_waits_for_an_end(client: FastClient) -> None:
    async with h2_serving(lambda asked: asked.answer(b"found", end=False)) as served:
        await first_piece(client, served.url)
        served.peers[0].close()
        await until(lambda: not (client._lingering or client._open))


# -- never sent twice --------------------------------------------------------------------------------------------------


async def test_a_request_on_a_connection_that_breaks_is_an_error_and_not_sent_again(client: FastClient) -> None:
    async with h2_serving(lambda asked: asked.peer.close()) as served:
        with pytest.raises(WireError):
            await post(client, served.url)
        assert len(served.asked) == 1


MAY_GO_AGAIN = {ErrorCodes.REFUSED_STREAM, ErrorCodes.HTTP_1_1_REQUIRED}


@pytest.mark.parametrize("code", sorted(set(ErrorCodes) - MAY_GO_AGAIN))
async def test_a_stream_that_is_reset_is_an_error_and_not_sent_again(client: FastClient, code: ErrorCodes) -> None:
    async with h2_serving(lambda asked: asked.reset(code)) as served:
        with pytest.raises(WireError):
            await post(client, served.url)
        assert len(served.asked) == 1


async def test_a_request_that_was_refused_unprocessed_is_sent_again(client: FastClient) -> None:
    def answer(asked: Asked) -> None:
        if asked.stream == 1:
            asked.reset(ErrorCodes.REFUSED_STREAM)
        else:
            asked.answer(asked.body)

    async with h2_serving(answer) as served:
        assert await post(client, served.url, b"once") == b"once"
        assert len(served.asked) == 2


async def test_a_server_that_refuses_for_ever_is_not_asked_for_ever(client: FastClient) -> None:
    async with h2_serving(lambda asked: asked.reset(ErrorCodes.REFUSED_STREAM)) as served:
        with pytest.raises(WireError, match="did not take"):
            await post(client, served.url)
        assert len(served.asked) == 3


async def test_refusing_after_the_answer_has_begun_is_an_error(client: FastClient) -> None:
    def answer(asked: Asked) -> None:
        asked.start()
        asked.peer.machine.reset_stream(asked.stream, ErrorCodes.REFUSED_STREAM)

    async with h2_serving(answer) as served:
        with pytest.raises(WireError):
            await post(client, served.url)
        assert len(served.asked) == 1


async def test_what_a_closing_server_did_not_look_at_is_sent_again_and_the_rest_is_answered(client: FastClient) -> None:
    def answer(asked: Asked) -> None:
        if asked.peer is served.peers[0] and asked.stream > 1:
            asked.peer.raw(going_away(last_stream=1))
            served.asked[0].answer(b"first")
        elif asked.peer is not served.peers[0]:
            asked.answer(b"second")

    async with h2_serving(answer) as served, anyio.create_task_group() as tasks:
        answers: list[bytes] = []

        async def send() -> None:
            answers.append(await post(client, served.url))

        tasks.start_soon(send)
        await until(lambda: served.asked)
        assert await post(client, served.url) == b"second"
        await until(lambda: answers == [b"first"])
        assert [asked.stream for asked in served.asked] == [1, 3, 1]
        await until(lambda: served.peers[0].is_closed)


async def test_what_a_closing_server_may_have_looked_at_is_not_sent_again(client: FastClient) -> None:
    def answer(asked: Asked) -> None:
        asked.peer.raw(going_away(asked.stream))
        asked.peer.close()

    async with h2_serving(answer) as served:
        with pytest.raises(WireError):
            await post(client, served.url)
        assert len(served.asked) == 1


async def test_after_a_goaway_nothing_new_goes_there(client: FastClient) -> None:
    async with h2_serving() as served:
        assert await post(client, served.url) == b"ok"
        served.peers[0].raw(going_away(1))
        await until(lambda: served.peers[0].is_closed)
        assert await post(client, served.url) == b"ok"
        assert len(served.peers) == 2


async def test_a_connection_is_given_up_before_a_server_that_counts_requests_does(
    client: FastClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2_connection, "MAX_EXCHANGES", 3)
    async with h2_serving() as served:
        for _ in range(7):
            assert await post(client, served.url) == b"ok"
        assert [sum(asked.peer is peer for asked in served.asked) for peer in served.peers] == [3, 3, 1]


# -- too much of everything --------------------------------------------------------------------------------------------


def many(one: bytes) -> Any:
    return lambda asked: asked.peer.raw(one * (MAX_FRUITLESS + 50))


def huge_headers(asked: Asked) -> None:
    asked.start(*[(f"x-{number}", "y" * 1000) for number in range(MAX_HEAD_BYTES // 1000 + 1)])


def many_headers(asked: Asked) -> None:
    asked.start(*[(f"x-{number}", "y") for number in range(MAX_HEADER_LINES + 1)])


def small_headers_that_grow(asked: Asked) -> None:
    """One large entry of the table, and then one byte for each time that it is meant."""
    block = Encoder().encode([(":status", "200"), ("x", "y" * 3900)]) + b"\xbe" * 60
    asked.peer.raw(frame(HEADERS, END_HEADERS, asked.stream, block))


def endless_continuation(asked: Asked) -> None:
    asked.peer.raw(frame(HEADERS, 0, asked.stream, Encoder().encode([(":status", "200")])))
    asked.peer.raw(frame(CONTINUATION, 0, asked.stream, b"\x00" * 100) * 2000)


def endless_empty_continuation(asked: Asked) -> None:
    asked.peer.raw(frame(HEADERS, 0, asked.stream) + frame(CONTINUATION, 0, asked.stream) * 10_000)


def endless_informational(asked: Asked) -> None:
    for _ in range(100):
        asked.start(("x", "y" * 1000), status=103)


def large_trailers(asked: Asked) -> None:
    asked.start(("x", "y" * 40_000))
    asked.peer.machine.send_headers(asked.stream, [("z", "y" * 40_000)], end_stream=True)


def pushed(asked: Asked) -> None:
    block = Encoder().encode([(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "a")])
    asked.peer.raw(frame(PUSH, END_HEADERS, asked.stream, b"\0\0\0\2" + block))


FLOODS = {
    "pings": many(frame(PING, 0, 0, b"x" * 8)),
    "settings": many(frame(SETTINGS, 0, 0)),
    "windows": many(frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1")),
    "unknown frames": many(frame(0x77, 0, 0, b"x" * 100)),
    "resets of nothing": lambda asked: (asked.answer(end=False), many(frame(RST, 0, 1, b"\0\0\0\x08"))(asked)),
    "empty bodies": lambda asked: (asked.start(), many(frame(0, 0, asked.stream))(asked)),
    "padding only": lambda asked: (asked.start(), many(frame(0, 8, asked.stream, b"\x10" + b"\0" * 16))(asked)),
    "priorities": many(frame(2, 0, 1, b"\0\0\0\0\0")),
    "huge headers": huge_headers,
    "many headers": many_headers,
    "small headers that grow": small_headers_that_grow,
    "endless continuation": endless_continuation,
    "endless empty continuation": endless_empty_continuation,
    "endless informational answers": endless_informational,
    "large trailers": large_trailers,
    "a push": pushed,
    "a frame that is too large": lambda asked: asked.peer.raw(frame(0, 0, asked.stream, b"x" * 16385)),
    "no HTTP/2": lambda asked: asked.peer.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "an answer to nothing": lambda asked: asked.peer.raw(
        frame(HEADERS, END_HEADERS | END_STREAM, 99, Encoder().encode([(":status", "200")]))
    ),
    "a short goaway": lambda asked: asked.peer.raw(frame(7, 0, 0, b"\0")),
    "another frame in the middle of headers": lambda asked: asked.peer.raw(
        frame(HEADERS, 0, asked.stream, b"") + frame(PING, 0, 0, b"x" * 8)
    ),
    "a window of nothing": lambda asked: asked.peer.raw(frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0")),
    "a window beyond all": lambda asked: asked.peer.raw(frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2),
    "a window beyond all, of one": lambda asked: asked.peer.raw(
        frame(WINDOW_UPDATE, 0, asked.stream, b"\x7f\xff\xff\xff")
    ),
    "a first window beyond all": lambda asked: asked.peer.raw(frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff")),
    "frames of no size": lambda asked: asked.peer.raw(frame(SETTINGS, 0, 0, b"\0\5\0\0\0\0")),
    "half a setting": lambda asked: asked.peer.raw(frame(SETTINGS, 0, 0, b"\0\4\0")),
    "settings of a stream": lambda asked: asked.peer.raw(frame(SETTINGS, 0, asked.stream)),
    "a body of no stream": lambda asked: asked.peer.raw(frame(0, 0, 0, b"x")),
    "a body to nothing": lambda asked: asked.peer.raw(frame(0, 0, 2, b"x")),
    "a reset of nothing": lambda asked: asked.peer.raw(frame(RST, 0, 77, b"\0\0\0\0")),
    "more padding than there is": lambda asked: asked.peer.raw(frame(0, 8, asked.stream, b"\x10x")),
    "no padding where it should be": lambda asked: asked.peer.raw(frame(HEADERS, 8 | 4, asked.stream)),
    "continuation of nothing": lambda asked: asked.peer.raw(frame(CONTINUATION, 4, asked.stream, b"\x88")),
    "continuation of another's": lambda asked: asked.peer.raw(
        frame(HEADERS, 0, asked.stream) + frame(CONTINUATION, 4, asked.stream + 2, b"\x88")
    ),
    "headers that cannot be decoded": lambda asked: asked.peer.raw(
        frame(HEADERS, END_HEADERS, asked.stream, b"\xff" * 20)
    ),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
async def test_too_much_of_anything_is_one_kind_of_error(client: FastClient, flood: Any) -> None:
    async with h2_serving(flood) as served:
        with pytest.raises(WireError):
            await asyncio.wait_for(post(client, served.url), 5)
        assert len(served.asked) == 1
        served.answerer = Asked.answer
        assert await post(client, served.url) == b"ok", "the next request finds a connection that works"


def malformed(*fields: tuple[bytes, bytes]) -> bytes:
    return Encoder().encode(fields)


MALFORMED = {
    "no status": malformed((b"x", b"y")),
    "a status that is none": malformed((b":status", b"2xx")),
    "a status of nothing": malformed((b":status", b"")),
    "a status that comes late": malformed((b"x", b"y"), (b":status", b"200")),
    "two statuses": malformed((b":status", b"200"), (b":status", b"200")),
    "another pseudo-header": malformed((b":status", b"200"), (b":path", b"/")),
    "capitals": malformed((b":status", b"200"), (b"Content-Type", b"x")),
    "a name of nothing": malformed((b":status", b"200"), (b"", b"x")),
    "a name with a space": malformed((b":status", b"200"), (b"a b", b"x")),
    "a name beyond ASCII": malformed((b":status", b"200"), ("é".encode(), b"x")),
    "a value with a line break": malformed((b":status", b"200"), (b"a", b"x\r\nset-cookie: y")),
    "a value with a zero": malformed((b":status", b"200"), (b"a", b"x\0y")),
    "connection": malformed((b":status", b"200"), (b"connection", b"close")),
    "transfer-encoding": malformed((b":status", b"200"), (b"transfer-encoding", b"chunked")),
}


OK = malformed((b":status", b"200"))
SHORT = malformed((b":status", b"200"), (b"content-length", b"3"))
ODD = {
    name: lambda stream, block=block: frame(HEADERS, END_HEADERS, stream, block) for name, block in MALFORMED.items()
}
ODD |= {
    "a body first": lambda stream: frame(0, 0, stream, b"x"),
    "a body that is too short": lambda stream: (
        frame(HEADERS, END_HEADERS, stream, SHORT) + frame(0, END_STREAM, stream, b"ab")
    ),
    "a body that is too long": lambda stream: (
        frame(HEADERS, END_HEADERS, stream, SHORT) + frame(0, END_STREAM, stream, b"abcd")
    ),
    "no body where one was said": lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, SHORT),
    "two answers": lambda stream: frame(HEADERS, END_HEADERS, stream, OK) * 2,
    "trailers that do not end": lambda stream: (
        frame(HEADERS, END_HEADERS, stream, OK) + frame(HEADERS, END_HEADERS, stream, malformed((b"a", b"b")))
    ),
    "an end before the answer": lambda stream: frame(
        HEADERS, END_HEADERS | END_STREAM, stream, malformed((b":status", b"103"))
    ),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
async def test_a_malformed_answer_is_an_error_for_who_asked_and_nobody_else(client: FastClient, odd: Any) -> None:
    async with h2_serving(ignore) as served, anyio.create_task_group() as tasks:
        answers: list[bytes] = []

        async def send() -> None:
            answers.append(await post(client, served.url))

        tasks.start_soon(send)
        await until(lambda: served.asked)
        served.answerer = lambda asked: asked.peer.raw(odd(asked.stream))
        with pytest.raises(WireError):
            await post(client, served.url)
        served.asked[0].answer(b"fine")
        await until(lambda: answers == [b"fine"])
        await until(lambda: served.peers[0].resets)


async def test_pings_now_and_then_are_answered_for_ever(client: FastClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_gateway.upstreams.h2_frames.FRUITLESS_S", 0.0)
    async with (
        h2_serving(lambda asked: asked.answer(end=False)) as served,
        client.open("GET", served.url, {}) as response,
    ):
        [peer] = served.peers
        for _ in range(3):
            peer.raw(frame(PING, 0, 0, b"x" * 8) * (MAX_FRUITLESS // 2))
        await post_nothing(client, served.url)
        peer.send(1, b"")
        assert await response.read(10) == b"ok"


async def post_nothing(client: FastClient, url: str) -> None:
    async with client.open("POST", url, {}, b"") as response:
        assert response.status == 200


async def test_a_server_that_makes_us_answer_and_does_not_read_is_given_up() -> None:
    connection, pipe = h2_connection.SharedConnection(lambda changed: None), Pipe()
    connection.connection_made(pipe)
    connection.data_received(frame(SETTINGS, 0, 0) + frame(PING, 0, 0, b"x" * 8))
    assert connection.has_room
    pipe.unsent = h2_connection.MAX_UNSENT_BYTES + 1
    connection.data_received(frame(PING, 0, 0, b"x" * 8))
    assert pipe.is_closed


async def test_a_connection_whose_socket_takes_nothing_takes_no_exchange() -> None:
    connection = h2_connection.SharedConnection(lambda changed: None)
    connection.connection_made(Pipe())
    connection.pause_writing()
    assert not connection.has_room
    connection.resume_writing()
    assert connection.has_room


async def test_nothing_of_a_request_is_remembered_for_compression(client: FastClient) -> None:
    async with h2_serving(settings={SettingCodes.HEADER_TABLE_SIZE: 2**30}) as served:
        for _ in range(2):
            await post(client, served.url, authorization="s3cr3t", accept="application/json")
        assert not served.peers[0].machine.decoder.header_table.dynamic_entries


# -- a connection's life -----------------------------------------------------------------------------------------------


async def test_an_idle_connection_is_closed(client: FastClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h2_connection, "KEEPALIVE_S", 0.05)
    async with h2_serving() as served:
        assert await post(client, served.url) == b"ok"
        await until(lambda: served.peers[0].is_closed)
        assert not client._open
        assert await post(client, served.url) == b"ok"
        assert len(served.peers) == 2


async def test_a_connection_that_carries_something_is_not(client: FastClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h2_connection, "KEEPALIVE_S", 0.0)
    async with h2_serving(lambda asked: asked.answer(b"1", end=False)) as served:
        async with client.open("GET", served.url, {}) as response, aclosing(response.body()) as pieces:
            assert await anext(pieces) == b"1"
            [connection] = client._open
            await until(lambda: connection._timer is None)  # type: ignore[union-attr]
            served.peers[0].send(1, b"2")
            assert await anext(pieces) == b"2"
        await until(lambda: served.peers[0].is_closed)


async def test_padding_and_priorities_are_no_part_of_an_answer(client: FastClient) -> None:
    def answer(asked: Asked) -> None:
        asked.peer.raw(frame(HEADERS, END_HEADERS | 8 | 0x20, asked.stream, b"\2" + b"\0" * 5 + OK + b"\0\0"))
        asked.peer.raw(frame(0, 8, asked.stream, b"\4body" + b"\0" * 4) + frame(0, END_STREAM, asked.stream))

    async with h2_serving(answer) as served:
        assert await post(client, served.url) == b"body"


async def test_a_server_that_does_not_begin_with_its_settings_is_given_up(client: FastClient) -> None:
    def answer(asked: Asked) -> None:
        asked.peer.raw(frame(PING, 0, 0, b"x" * 8))

    async with h2_serving(answer, greets=False) as served:
        with pytest.raises(WireError):
            await post(client, served.url)


async def test_a_server_that_never_says_its_settings_is_given_up(
    client: FastClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h2_connection, "SETTLE_S", 0.05)
    async with h2_serving(ignore, greets=False) as served:
        with pytest.raises(WireError):
            await post(client, served.url)
        await until(lambda: served.peers[0].is_closed)


async def test_closing_the_client_ends_all_that_is_under_way(client: FastClient) -> None:
    async with h2_serving(ignore) as served, anyio.create_task_group() as tasks:
        told: list[WireError] = []

        async def send() -> None:
            try:
                await post(client, served.url)
            except WireError as e:
                told.append(e)

        for _ in range(3):
            tasks.start_soon(send)
        await until(lambda: len(served.asked) == 3)
        await client.close()
        await until(lambda: len(told) == 3)


async def test_an_address_that_is_not_admitted_is_not_connected_to(client: FastClient) -> None:
    client._admits = lambda address, host: False
    async with h2_serving() as served:
        with pytest.raises(WireError, match="not public"):
            await post(client, served.url)
        assert served.peers == []
