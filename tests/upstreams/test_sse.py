"""Servers of the older HTTP+SSE transport: a real one, and hostile ones."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import orjson
import pytest

from fakes import sdk_server
from fakes.raw_http import Asked, RawHttp, answering, event, http, stream_start
from fakes.replies import RecordingReply
from fakes.served import serving
from fakes.servers import QUICK, asked, call_of, over_http, text_of
from fakes.waiting import until
from mcp_gateway.domain import Era, Json
from mcp_gateway.errors import TimedOut, Unreachable, UpstreamError
from mcp_gateway.upstreams.connection import SILENT, Listener
from mcp_gateway.upstreams.sse import SseConnection, open_sse


@asynccontextmanager
async def opened(url: str, listener: Listener | None = None, **headers: str) -> AsyncIterator[SseConnection]:
    async with open_sse(over_http(url, headers=headers), listener or Listener(), QUICK) as connection:
        yield connection


class OlderServer:
    """An HTTP+SSE server whose answers a test decides."""

    def __init__(self, endpoint: str = "/messages?session=1") -> None:
        self.endpoint = endpoint
        self.stream: asyncio.StreamWriter | None = None
        self.posted: Callable[[Asked], bytes] = lambda asked: http(202)
        self.answer: Callable[[Json], Json] = lambda message: {"result": {}}

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method == "GET":
            writer.write(stream_start() + f"event: endpoint\ndata: {self.endpoint}\n\n".encode())
            self.stream = writer
            await asyncio.sleep(3600)
        writer.write(self.posted(asked))
        message = asked.message
        if message.get("method") == "initialize":
            self.says(id=message["id"], result={"protocolVersion": "2024-11-05", "capabilities": {"logging": {}}})
        elif "id" in message and message.get("method"):
            self.says(id=message["id"], **self.answer(message))

    def says(self, **message: object) -> None:
        assert self.stream is not None
        self.stream.write(event({"jsonrpc": "2.0", **message}))


async def test_a_real_server_of_the_older_transport() -> None:
    async with serving(sdk_server.server.sse_app()) as origin, opened(f"{origin}/sse") as connection:
        assert connection.greeting.era is Era.LEGACY
        reply = RecordingReply(log_level="warning")
        assert text_of(await asked(connection, "count", reply, to=3)) == "3"
        assert [step["progress"] for step in reply.progressed] == [1, 2, 3]
        await asked(connection, "chat", reply, line="x")
        assert [line["data"] for line in reply.logged] == ["warning x"]
        with pytest.raises(LookupError):
            await connection.listen({"toolsListChanged": True})


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:1/messages",
        "https://127.0.0.1/messages",
        "//evil.example/x",
        "http://[::1",
        "ftp://127.0.0.1/",
    ],
)
async def test_an_endpoint_of_another_origin_is_refused_before_anything_is_sent(endpoint: str) -> None:
    async with answering(OlderServer(endpoint)) as served:
        with pytest.raises(UpstreamError, match="another origin"):
            async with opened(served.url, Authorization="s3cr3t"):
                raise AssertionError
    assert [asked.method for asked in served.asked] == ["GET"]


@pytest.mark.parametrize("answer", [http(404), http(200, b"<html>", "text/html"), stream_start(), b""])
async def test_what_is_no_such_server_is_unreachable(answer: bytes) -> None:
    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)

    async with answering(answerer) as served:
        with pytest.raises(Unreachable):
            async with opened(served.url):
                raise AssertionError


async def test_a_server_that_never_names_its_endpoint_is_given_up() -> None:
    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(stream_start())
        await asyncio.sleep(3600)

    async with answering(answerer) as served:
        with pytest.raises(Unreachable, match="did not name its endpoint"):
            config = over_http(served.url)
            async with open_sse(config, Listener(), replace(QUICK, connect_timeout_s=0.1)):
                raise AssertionError


async def test_the_end_of_the_stream_fails_every_call_at_once() -> None:
    server = OlderServer()
    async with answering(server) as served, opened(served.url) as connection:
        server.answer = lambda message: {"result": []} if message["method"] == "x" else server.stream.close() or {}  # type: ignore[union-attr, func-returns-value]
        with anyio.fail_after(1), pytest.raises(Unreachable, match="before it answered"):
            await asked(connection, "t")
        assert connection.broken.is_set()
        with pytest.raises(Unreachable):
            await asked(connection, "t")


@pytest.mark.parametrize("refusal", [http(500), http(404), b"", http(307, b"", "", "location: /x")])
async def test_a_message_that_is_not_taken_fails_its_call(refusal: bytes) -> None:
    server = OlderServer()
    async with answering(server) as served, opened(served.url) as connection:
        server.posted = lambda asked: refusal
        server.answer = lambda message: {"method": "ping"}
        with anyio.fail_after(2), pytest.raises(Unreachable):
            await asked(connection, "t")


async def test_credentials_go_with_their_own_message_only() -> None:
    async with answering(OlderServer()) as served, opened(served.url, Authorization="config") as connection:
        async with anyio.create_task_group() as tasks:
            for token in ("alice", "bob"):
                tasks.start_soon(connection.ask, replace(call_of(token), headers={"Authorization": token}), SILENT, 5)
        await connection.ask(call_of("config"), SILENT, 5)
        who = {
            asked.message["params"]["name"]: asked.headers["authorization"] for asked in served.asked_for("tools/call")
        }
    assert who == {"alice": "alice", "bob": "bob", "config": "config"}
    assert all(asked.path == "/messages?session=1" for asked in served.asked if asked.method == "POST")


async def test_a_timeout_cancels_upstream() -> None:
    server = OlderServer()
    async with answering(server) as served, opened(served.url) as connection:
        server.answer = lambda message: {"method": "notifications/nothing"}
        with pytest.raises(TimedOut):
            await connection.ask(call_of("t"), SILENT, 0.1)
        await until(lambda: served.asked_for("notifications/cancelled"))


async def test_a_ping_is_answered_and_news_is_told() -> None:
    server, changed = OlderServer(), list[str]()

    def answers(served: RawHttp) -> list[Json]:
        return [orjson.loads(asked.body) for asked in served.asked if asked.body and not asked.rpc_method]

    async with answering(server) as served, opened(served.url, Listener(changed.append)):
        server.says(id="p", method="ping")
        server.says(method="notifications/tools/list_changed")
        await until(lambda: answers(served))
    assert answers(served) == [{"jsonrpc": "2.0", "id": "p", "result": {}}]
    assert changed == ["notifications/tools/list_changed"]
