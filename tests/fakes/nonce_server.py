"""A fast little upstream that keeps account of every call: `python nonce_server.py modern | legacy | stdio`.

Tools: `work` answers with the nonce it was given, out of order, after two steps of progress that name the nonce, if
progress is wanted; `hang` reports progress once and never answers; `account` tells what has been seen. Over HTTP it
prints its port. Made for thousands of calls a second, which no SDK's server takes.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send

Json = dict[str, Any]
Put = Callable[[Json], Awaitable[None]]

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
STEPS = 2
SCHEMA: Json = {"type": "object", "properties": {"nonce": {"type": "string"}}}
TOOLS: list[Json] = [{"name": name, "inputSchema": SCHEMA} for name in ("work", "hang", "account")]


@dataclass
class Account:
    """What has been called, and how that ended."""

    running: dict[Hashable, asyncio.Task[Any]] = field(default_factory=dict)
    nonces: set[str] = field(default_factory=set)
    twice: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    shared_ids: int = 0
    """Requests whose id, in its session, belonged to a call still running."""
    shared_tokens: int = 0
    tokens: set[Hashable] = field(default_factory=set)

    async def call(self, key: Hashable, scope: Hashable, params: Json, put: Put) -> Json:
        """Run one tool. `key` is the request's id and `scope` its session: both must be nobody else's meanwhile."""
        name, nonce = params["name"], params.get("arguments", {}).get("nonce", "")
        if name == "account":
            return self._said({"cancelled": self.cancelled, "twice": self.twice, "shared": self._shared()})
        token = params.get("_meta", {}).get("progressToken")
        task = asyncio.current_task()
        assert task is not None
        self._begin(key, (scope, token) if token is not None else None, nonce, task)
        try:
            return await (self._work if name == "work" else self._hang)(nonce, token, put)
        except asyncio.CancelledError:
            self.cancelled.append(nonce)
            raise
        finally:
            del self.running[key]
            self.tokens.discard((scope, token))

    def _begin(self, key: Hashable, token: Hashable, nonce: str, task: asyncio.Task[Any]) -> None:
        self.shared_ids += key in self.running
        self.shared_tokens += token is not None and token in self.tokens
        if nonce in self.nonces:
            self.twice.append(nonce)
        self.nonces.add(nonce)
        self.running[key] = task
        if token is not None:
            self.tokens.add(token)

    def _shared(self) -> Json:
        return {"ids": self.shared_ids, "tokens": self.shared_tokens}

    async def _work(self, nonce: str, token: Any, put: Put) -> Json:
        for step in range(STEPS):
            await asyncio.sleep(random.choice((0, 0, 0.002)))
            if token is not None:
                await put(progress(token, step + 1, nonce))
        return self._said(nonce)

    async def _hang(self, nonce: str, token: Any, put: Put) -> Json:
        await put(progress(token, 1, nonce))
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    @staticmethod
    def _said(value: Any) -> Json:
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        return {"content": [{"type": "text", "text": text}], "resultType": "complete"}


def progress(token: Any, value: int, message: str) -> Json:
    params = {"progressToken": token, "progress": value, "message": message}
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}


def about_itself(method: str) -> Json:
    """What the server says of itself, to either era's first question and to lists."""
    capabilities = {"tools": {}}
    if method == "server/discover":
        return {"supportedVersions": [MODERN], "capabilities": capabilities, "resultType": "complete"}
    if method == "initialize":
        info = {"name": "nonces", "version": "1"}
        return {"protocolVersion": LEGACY, "capabilities": capabilities, "serverInfo": info}
    return {"tools": TOOLS, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}


def answered(message: Json, result: Json) -> Json:
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


class OverHttp:
    """Streamable HTTP of one era, as an ASGI app."""

    def __init__(self, account: Account, is_modern: bool) -> None:
        self._account = account
        self._is_modern = is_modern
        self._sessions = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        session = headers.get(b"mcp-session-id", b"").decode()
        if scope["method"] != "POST":
            await whole(send, 200 if scope["method"] == "DELETE" else 405)
            return
        message = await posted(receive)
        method = message.get("method")
        if self._is_modern != (headers.get(b"mcp-protocol-version", b"").decode() == MODERN):
            error = {"code": -32600, "message": "another era"}
            await whole(send, 400, {"jsonrpc": "2.0", "id": None, "error": error})
        elif "id" not in message:
            if method == "notifications/cancelled":
                cancel(self._account, (session, message["params"]["requestId"]))
            await whole(send, 202)
        elif method == "tools/call":
            await self._call(session, message, receive, send)
        else:
            self._sessions += method == "initialize"
            opened = [(b"mcp-session-id", b"s%d" % self._sessions)] if method == "initialize" else []
            await whole(send, 200, answered(message, about_itself(str(method))), opened)

    async def _call(self, session: str, message: Json, receive: Receive, send: Send) -> None:
        """Answer as JSON where nothing is said before the answer; else as a stream. A modern hang-up cancels."""
        params = message["params"]
        # A modern request has no session: its id means nothing beyond its own exchange.
        key = (session, message["id"]) if session else object()
        token_scope = session or "modern"
        if "progressToken" not in params.get("_meta", {}):
            result = await self._account.call(key, token_scope, params, nothing)
            await whole(send, 200, answered(message, result))
            return
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-type", b"text/event-stream")]})

        async def put(event: Json) -> None:
            body = b"data: " + orjson.dumps(event) + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})

        running = asyncio.ensure_future(self._account.call(key, token_scope, params, put))
        gone = asyncio.ensure_future(receive()) if self._is_modern else None
        await asyncio.wait({running, gone} if gone else {running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done() and not running.cancelled():
            await put(answered(message, running.result()))
            await send({"type": "http.response.body", "body": b""})
        for task in (running, gone):
            if task is not None:
                task.cancel()


def cancel(account: Account, key: Hashable) -> None:
    if (task := account.running.get(key)) is not None:
        task.cancel()


async def nothing(event: Json) -> None:
    """Where nobody asked for progress there is no stream to put it on."""


async def posted(receive: Receive) -> Json:
    body = b""
    while True:
        piece = await receive()
        body += piece.get("body", b"")
        if not piece.get("more_body", False):
            return dict(orjson.loads(body))


async def whole(send: Send, status: int, message: Json | None = None, headers: Any = ()) -> None:
    body = b"" if message is None else orjson.dumps(message)
    length = (b"content-length", str(len(body)).encode())
    kind = (b"content-type", b"application/json")
    await send({"type": "http.response.start", "status": status, "headers": [length, kind, *headers]})
    await send({"type": "http.response.body", "body": body})


async def over_http(is_modern: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        print(listening.getsockname()[1], flush=True)
        config = uvicorn.Config(OverHttp(Account(), is_modern), log_level="error", timeout_graceful_shutdown=1)
        await uvicorn.Server(config).serve(sockets=[listening])


async def over_stdio() -> None:
    """A legacy server on stdin and stdout."""
    account, reader = Account(), asyncio.StreamReader(limit=2**20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()

    async def put(message: Json) -> None:
        sys.stdout.buffer.write(orjson.dumps(message) + b"\n")
        sys.stdout.flush()

    async def call(message: Json) -> None:
        key = ("stdio", message["id"])
        await put(answered(message, await account.call(key, "stdio", message["params"], put)))

    while line := await reader.readline():
        message = orjson.loads(line)
        method = message.get("method")
        if method == "notifications/cancelled":
            cancel(account, ("stdio", message["params"]["requestId"]))
        elif method == "tools/call":
            task = asyncio.create_task(call(message))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        elif method == "server/discover":
            error = {"code": -32601, "message": "Method not found"}
            await put({"jsonrpc": "2.0", "id": message["id"], "error": error})
        elif "id" in message:
            await put(answered(message, about_itself(str(method))))


if __name__ == "__main__":
    how = sys.argv[1]
    asyncio.run(over_stdio() if how == "stdio" else over_http(how == "modern"))
