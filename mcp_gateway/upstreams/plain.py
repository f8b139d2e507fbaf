"""HTTP for what speaks no MCP: model providers and plain APIs, over the same client that reaches MCP servers."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from mcp_gateway.errors import Unreachable
from mcp_gateway.upstreams.connection import Prove
from mcp_gateway.upstreams.fast_wire import Admits, FastClient
from mcp_gateway.upstreams.proving import ProvingClient
from mcp_gateway.upstreams.wire import HttpClient, HttpExchange, HttpResponse, WireError

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

    def open(
        self, upstream: str, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> PlainExchange:
        """Send a request; leaving the block closes the answer's stream.

        Raises `Unreachable`, with `upstream` named, for what goes wrong in here: reading the answer included.
        """
        return PlainExchange(upstream, self._client.open(method, url, headers, body))

    async def close(self) -> None:
        """Close every connection, those in use included."""
        await self._client.close()


class PlainExchange:
    """One request and its answer, what goes wrong with it told as the upstream's."""

    __slots__ = ("_exchange", "_upstream")

    def __init__(self, upstream: str, exchange: HttpExchange) -> None:
        self._upstream = upstream
        self._exchange = exchange

    async def __aenter__(self) -> HttpResponse:
        try:
            return await self._exchange.begin()
        except WireError as e:
            raise self._told(e) from e

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exchange.end()
        if isinstance(error, WireError):
            raise self._told(error) from error

    def _told(self, error: WireError) -> Unreachable:
        return Unreachable(self._upstream, f"{self._upstream!r} {error}")
