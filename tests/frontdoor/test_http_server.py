"""The listening socket, and how the server stops."""

import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import pytest

from fakes.front import Front, parts
from fakes.upstream import Hanging
from fakes.waiting import until
from mcp_gateway.errors import ConfigInvalid
from mcp_gateway.frontdoor.http_server import Server, listening_socket, serve_http


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[Front, Callable[[], None]]]:
    """A gateway served as `mcp-gateway serve` does it, and what stops it."""
    stopping = anyio.CancelScope()

    async def serve(made: Front, listener: socket.socket) -> None:
        with stopping:
            await serve_http(made.door, listener, made.closers, 65536)

    async with parts(folder) as made, made.http, anyio.create_task_group() as tasks:
        listener = listening_socket("127.0.0.1", 0)
        made.port = listener.getsockname()[1]
        tasks.start_soon(serve, made, listener)
        yield made, stopping.cancel
        stopping.cancel()


def can_connect(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_an_address_that_is_taken_is_a_complaint_with_a_fix() -> None:
    with (
        listening_socket("127.0.0.1", 0) as taken,
        pytest.raises(ConfigInvalid, match=r"cannot listen on 127\.0\.0\.1"),
    ):
        listening_socket("127.0.0.1", taken.getsockname()[1])


def test_an_address_that_is_not_ours_is_a_complaint() -> None:
    with pytest.raises(ConfigInvalid, match="cannot listen"):
        listening_socket("192.0.2.1", 0)


async def test_a_call_under_way_is_answered_and_streams_end_when_the_server_stops(tmp_path: Path) -> None:
    seen: list[str] = []
    async with served(tmp_path) as (made, stop):
        made.u.script["hang"] = hanging = Hanging()
        session = await made.handshake()

        async def listen() -> None:
            headers = made.headers(mcp_session_id=session)
            async with made.http.stream("GET", made.url, headers=headers) as response:
                async for _ in response.aiter_bytes():
                    pass
            seen.append("stream ended")
            hanging.released.set()

        async def call() -> None:
            response = await made.call("u__hang")
            seen.append(response.json()["result"]["content"][0]["text"])

        async with anyio.create_task_group() as agents:
            agents.start_soon(listen)
            agents.start_soon(call)
            await until(lambda: hanging.replies and len(made.closers._open) == 3)
            stop()
    assert seen == ["stream ended", "released"]
    assert not can_connect(made.port)
    assert made.u.cancelled == []


async def test_a_call_that_does_not_finish_in_time_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_gateway.frontdoor.http_server.DRAIN_S", 0)
    async with served(tmp_path) as (made, stop):
        made.u.script["hang"] = hanging = Hanging()
        answers: list[int] = []

        async def call() -> None:
            try:
                answers.append((await made.call("u__hang")).status_code)
            except httpx2.TransportError:
                answers.append(0)

        async with anyio.create_task_group() as agents:
            agents.start_soon(call)
            await until(lambda: hanging.replies)
            stop()
    assert len(made.u.cancelled) == 1
    assert answers in ([0], [500])


async def test_a_signal_stops_the_server_once_and_is_not_raised_again(tmp_path: Path) -> None:
    async with parts(tmp_path) as made:
        server = Server(made.door, made.closers, 65536)
        listener = listening_socket("127.0.0.1", 0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, [listener])
            await until(lambda: server.started)
            signal.raise_signal(signal.SIGTERM)
        assert server.should_exit
        assert not server.force_exit


def test_only_a_second_interrupt_does_not_wait() -> None:
    server = Server(lambda: None, None, 65536)  # type: ignore[arg-type]
    server.handle_exit(signal.SIGINT, None)
    assert (server.should_exit, server.force_exit) == (True, False)
    server.handle_exit(signal.SIGINT, None)
    assert server.force_exit


async def test_responses_say_nothing_about_the_server(tmp_path: Path) -> None:
    async with served(tmp_path) as (made, _):
        response = await made.http.get(f"http://127.0.0.1:{made.port}/health")
        assert "server" not in response.headers
        assert "date" in response.headers
