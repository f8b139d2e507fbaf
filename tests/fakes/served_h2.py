"""An ASGI app served by a real hypercorn over TLS, which speaks HTTP/2 and HTTP/1.1."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import hypercorn.asyncio
import hypercorn.config
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fakes.h2_server import certificate
from fakes.ports import free_port
from fakes.waiting import until


@dataclass
class Seen:
    """Requests as the server saw them."""

    app: ASGIApp
    versions: list[str] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    types: list[str] = field(default_factory=list)
    """Content types of the answers to POST."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.versions.append(scope["http_version"])
            self.connections.add(tuple(scope["client"]))

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["method"] == "POST":
                self.types += [value.decode() for name, value in message["headers"] if name.lower() == b"content-type"]
            await send(message)

        await self.app(scope, await _read(receive) if scope["type"] == "http" else receive, sending)


async def _read(receive: Receive) -> Receive:
    """What `receive` gives, the body read already: hypercorn stumbles over answers that come before it was."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        body, more = body + message.get("body", b""), message.get("more_body", False)
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


@asynccontextmanager
async def serving_h2(app: ASGIApp, protocols: Sequence[str] = ("h2", "http/1.1")) -> AsyncIterator[str]:
    """The origin (`https://127.0.0.1:PORT`) under which the app answers, until the block is left."""
    config = hypercorn.config.Config()
    port = free_port()
    config.bind, config.alpn_protocols = [f"127.0.0.1:{port}"], list(protocols)
    config.graceful_timeout, config.shutdown_timeout, config.loglevel = 0.1, 0.5, "CRITICAL"
    ended = asyncio.Event()
    with certificate() as path:
        config.certfile = config.keyfile = path
        serve = asyncio.ensure_future(
            hypercorn.asyncio.serve(app, config, shutdown_trigger=ended.wait)  # type: ignore[arg-type]
        )
        try:
            await until(lambda: is_taken(port))
            yield f"https://127.0.0.1:{port}"
        finally:
            ended.set()
            await serve


async def is_taken(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.transport.abort()
    return True
