"""An agent that makes thousands of calls a second over one connection: HTTP written and read by hand.

The SDK's client is the oracle elsewhere; here it would be the slowest part by far, and two hundred of them at once are
the point.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import orjson

Json = dict[str, Any]

MODERN = "2026-07-28"
LEGACY = "2025-11-25"


class QuickAgent:
    """One agent; one request at a time."""

    def __init__(self, url: str, key: str, is_modern: bool) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._address = (parts.hostname, parts.port)
        self.is_modern = is_modern
        self._session = ""
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {key}\r\n"
            "content-type: application/json\r\naccept: application/json, text/event-stream\r\n"
        )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> QuickAgent:
        """Open a session where the era has them."""
        if not self.is_modern:
            params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "quick", "version": "1"}}
            headers, messages = await self._begun({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
            [_] = [message async for message in messages]
            self._session = headers["mcp-session-id"]
        return self

    async def __aexit__(self, *error: object) -> None:
        self.hang_up()

    async def call(self, id_: int, tool: str, arguments: Json, token: str | None = None) -> list[Json]:
        """Every message that came back, the answer last."""
        async with self.calling(id_, tool, arguments, token) as messages:
            return [message async for message in messages]

    @asynccontextmanager
    async def calling(
        self, id_: int, tool: str, arguments: Json, token: str | None = None
    ) -> AsyncIterator[AsyncIterator[Json]]:
        """Messages as they come. Leaving before the last one hangs up."""
        meta: Json = {} if token is None else {"progressToken": token}
        if self.is_modern:
            prefix = "io.modelcontextprotocol"
            meta |= {f"{prefix}/protocolVersion": MODERN, f"{prefix}/clientCapabilities": {}}
        params = {"name": tool, "arguments": arguments, "_meta": meta}
        message = {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}
        _, messages = await self._begun(message)
        try:
            yield messages
        except BaseException:
            self.hang_up()
            raise

    def hang_up(self) -> None:
        """Close the connection; the next request opens another."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def notify(self, method: str, params: Json) -> None:
        """Send a notification, over a connection of its own: the agent's may be waiting for an answer."""
        streams, self._streams = self._streams, None
        _, messages = await self._begun({"jsonrpc": "2.0", "method": method, "params": params})
        assert [message async for message in messages] == []
        self.hang_up()
        self._streams = streams

    async def _begun(self, message: Json) -> tuple[dict[str, str], AsyncIterator[Json]]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address, limit=2**22)
        reader, writer = self._streams
        body = orjson.dumps(message)
        writer.write(f"{self._head}{self._lines_for(message)}content-length: {len(body)}\r\n\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        status = int(head[0].split(" ")[1])
        assert status in (200, 202), head[0]
        return headers, _messages(reader, headers)

    def _lines_for(self, message: Json) -> str:
        if not self.is_modern:
            session = f"mcp-session-id: {self._session}\r\n" if self._session else ""
            return f"mcp-protocol-version: {LEGACY}\r\n{session}"
        name = message["params"]["name"]
        return f"mcp-protocol-version: {MODERN}\r\nmcp-method: {message['method']}\r\nmcp-name: {name}\r\n"


async def _messages(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[Json]:
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
        if body:
            yield orjson.loads(body)
        return
    text = b""
    if headers.get("transfer-encoding") != "chunked":
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        text += (await reader.readexactly(size + 2))[:-2]
        *events, text = text.replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            data = b"".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:"))
            if data.strip():
                yield orjson.loads(data)
    await reader.readexactly(2)
