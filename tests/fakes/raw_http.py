"""An HTTP server that answers exactly the bytes a test wants, and remembers what it was asked."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from mcp_gateway.domain import Json


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> Json:
        return dict(orjson.loads(self.body)) if self.body else {}

    @property
    def rpc_method(self) -> str:
        return str(self.message.get("method", ""))


Answerer = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class RawHttp:
    """Its URL, what it was asked, and which connections ended before they were answered."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    hung_up: list[Asked] = field(default_factory=list)

    def asked_for(self, rpc_method: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.rpc_method == rpc_method]


def http(status: int, body: bytes = b"", content_type: str = "application/json", *more: str) -> bytes:
    """One whole HTTP answer."""
    lines = [
        f"HTTP/1.1 {status} X",
        f"content-length: {len(body)}",
        "connection: close",
        *([f"content-type: {content_type}"] if body else []),
    ]
    return "\r\n".join([*lines, *more, "", ""]).encode() + body


def json_answer(message: Any, status: int = 200, *more: str) -> bytes:
    """One JSON answer."""
    return http(status, orjson.dumps(message), "application/json", *more)


def result_for(asked: Asked, result: Json, *more: str) -> bytes:
    """The JSON-RPC result to what was asked."""
    return json_answer({"jsonrpc": "2.0", "id": asked.message["id"], "result": result}, 200, *more)


def stream_start(*more: str) -> bytes:
    """The head of an event stream that ends with the connection."""
    return "\r\n".join(
        ["HTTP/1.1 200 OK", "content-type: text/event-stream", "connection: close", *more, "", ""]
    ).encode()


def event(message: Any, *lines: str) -> bytes:
    """One server-sent event."""
    return "".join(f"{line}\n" for line in lines).encode() + b"data: " + orjson.dumps(message) + b"\n\n"


@asynccontextmanager
async def answering(answerer: Answerer) -> AsyncIterator[RawHttp]:
    """A server on a port of its own until the block is left. The connection closes after an answer."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        try:
            while (asked := await _read(reader)) is not None:
                served.asked.append(asked)
                await _answer_or_notice(answerer, asked, reader, writer, served)
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    served = RawHttp(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp")
    try:
        yield served
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


async def _answer_or_notice(
    answerer: Answerer, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, served: RawHttp
) -> None:
    answer = asyncio.ensure_future(answerer(asked, writer))
    gone = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            served.hung_up.append(asked)
        else:
            answer.result()
            await writer.drain()
            writer.close()
    finally:
        for future in (answer, gone):
            future.cancel()
        await asyncio.gather(answer, gone, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, body)


def discovers(capabilities: Json | None = None) -> Callable[[Asked], bytes | None]:
    """Answers of a well-behaved modern server to the gateway's own questions; None for what it does not know."""

    def answer(asked: Asked) -> bytes | None:
        if asked.rpc_method == "server/discover":
            return result_for(asked, {"supportedVersions": ["2026-07-28"], "capabilities": capabilities or {}})
        return None

    return answer


def scripted(answers: Sequence[Callable[[Asked], bytes | None]]) -> Answerer:
    """Answers with what the first of `answers` that knows says; 404 if none does."""

    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(next((said for answer in answers if (said := answer(asked)) is not None), http(404)))

    return answerer


@dataclass
class LegacyServer:
    """A legacy Streamable HTTP server with sessions, made to misbehave by changing its fields."""

    sessions: set[str] = field(default_factory=set)
    opened: int = 0
    get_answer: bytes = http(405)
    lost_answer: bytes = http(404)
    capabilities: Json = field(default_factory=dict)
    session_id: str | None = None
    called: list[tuple[str, str]] = field(default_factory=list)
    """The session and the authorization of each call that ran."""

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(self._answer(asked))

    def _answer(self, asked: Asked) -> bytes:
        session = asked.headers.get("mcp-session-id", "")
        if asked.method == "GET":
            return self.get_answer if session in self.sessions else http(404)
        if asked.method == "DELETE":
            self.sessions.discard(session)
            return http(200)
        if asked.rpc_method == "initialize":
            return self._opened(asked)
        if not session and self.session_id != "":
            return json_answer({"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no session"}}, 400)
        if session not in self.sessions:
            return self.lost_answer
        if "id" not in asked.message:
            return http(202)
        if asked.rpc_method == "tools/call":
            self.called.append((session, asked.headers.get("authorization", "")))
        return result_for(asked, {"tools": []} if asked.rpc_method == "tools/list" else {})

    def _opened(self, asked: Asked) -> bytes:
        self.opened += 1
        session = self.session_id if self.session_id is not None else f"s{self.opened}"
        self.sessions.add(session)
        greeting = {"protocolVersion": "2025-06-18", "capabilities": self.capabilities}
        return result_for(asked, greeting, *([f"mcp-session-id: {session}"] if session else []))
