"""Opens the one connection that a server's configuration asks for; probes where it leaves the choice to us."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from mcp_gateway import jsonrpc
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.errors import UpstreamError
from mcp_gateway.upstreams.connection import Connection, Limits, Listener
from mcp_gateway.upstreams.handshake import Memory
from mcp_gateway.upstreams.rest import open_rest
from mcp_gateway.upstreams.spares import open_children
from mcp_gateway.upstreams.sse import open_sse
from mcp_gateway.upstreams.streamable import NotStreamable, open_http

Opener = Callable[[ServerConfig, Listener, Limits, Memory], AbstractAsyncContextManager[Connection]]


def memory_of(config: ServerConfig, kept: MutableMapping[str, str]) -> Memory:
    """What is remembered of the server that this configuration reaches; another command or URL is another server."""
    reached = hashlib.sha256(jsonrpc.canonical([config.command, config.url])).hexdigest()[:16]
    return Memory(f"{config.name}@{reached}", kept)


@asynccontextmanager
async def open_connection(
    config: ServerConfig, listener: Listener, limits: Limits, memory: Memory
) -> AsyncIterator[Connection]:
    """A connection with its era settled, until the block is left. Raises `UpstreamError`."""
    if config.command is not None:
        async with open_children(config, listener, limits, memory) as children:
            yield children
    elif config.rest is not None:
        async with open_rest(config, config.rest, limits) as rest:
            rest.on_written = listener.on_written
            yield rest
    elif config.transport == "sse":
        async with open_sse(config, listener, limits) as sse:
            yield sse
    else:
        async with AsyncExitStack() as stack:
            yield await _http_or_sse(stack, config, listener, limits)


async def _http_or_sse(stack: AsyncExitStack, config: ServerConfig, listener: Listener, limits: Limits) -> Connection:
    try:
        return await stack.enter_async_context(open_http(config, listener, limits))
    except NotStreamable as not_streamable:
        # One stream for all callers is no place for each person's own token.
        if config.transport == "http" or config.auth is not None:
            raise
        try:
            return await stack.enter_async_context(open_sse(config, listener, limits))
        except UpstreamError:
            # What the first attempt met says more: "not found" on a POST, not the lack of a stream we hoped for.
            raise not_streamable from None
