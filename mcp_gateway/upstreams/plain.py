"""HTTP for what speaks no MCP: model providers and plain APIs, over the same client that reaches MCP servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from mcp_gateway.errors import Unreachable
from mcp_gateway.upstreams.connection import Prove
from mcp_gateway.upstreams.fast_wire import Admits, FastClient
from mcp_gateway.upstreams.proving import ProvingClient
from mcp_gateway.upstreams.wire import HttpClient, HttpResponse, WireError

CONNECT_TIMEOUT_S = 10.0


class PlainClient:
    """Sends requests and follows no redirect; belongs to one event loop."""

    def __init__(
        self,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        *,
        admits: Admits | None = None,
        prove: Prove | None = None,
    ) -> None:
        client = FastClient(connect_timeout_s, admits=admits)
        self._client: HttpClient = client if prove is None else ProvingClient(client, prove)

    @asynccontextmanager
    async def open(
        self, upstream: str, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[HttpResponse]:
        """Send a request; leaving the block closes the answer's stream.

        Raises `Unreachable`, with `upstream` named, for what goes wrong in here: reading the answer included.
        """
        try:
            async with self._client.open(method, url, headers, body) as response:
                yield response
        except WireError as e:
            raise Unreachable(upstream, f"{upstream!r} {e}") from e

    async def close(self) -> None:
        """Close every connection, those in use included."""
        await self._client.close()
