"""The HTTP client for upstreams whose tokens are bound to a key (DPoP, RFC 9449): each request goes with its own proof.

What a token's key is, others know (`prove`). A server that wants its nonce in the proof says so in a refusal, which
means that the request was not acted on: it is sent once more. Requests without such a token pass as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.upstreams.connection import Limits, Prove
from mcp_gateway.upstreams.fast_wire import FastClient
from mcp_gateway.upstreams.wire import HttpClient, HttpExchange, HttpResponse

MAX_NONCE_CHARS: Final = 1024
MAX_ORIGINS: Final = 100
_SCHEME: Final = "DPoP "


def client_for(config: ServerConfig, limits: Limits) -> HttpClient:
    """The client towards one server."""
    client = FastClient(limits.connect_timeout_s, admits=limits.admits, offers_h2=config.http2)
    return client if limits.prove is None or config.auth is None else ProvingClient(client, limits.prove)


class ProvingClient:
    """`HttpClient` whose requests with a bound token carry proofs. Belongs to one event loop."""

    def __init__(self, client: HttpClient, prove: Prove) -> None:
        self._client, self._prove = client, prove
        self._nonces: dict[str, str] = {}

    def open(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> HttpExchange:
        """See `HttpClient.open`."""
        value = headers.get("authorization") or headers.get("Authorization") or ""
        if not value.startswith(_SCHEME):
            return self._client.open(method, url, headers, body)
        return _Proven(self, method, url, headers, body, value.removeprefix(_SCHEME))

    async def close(self) -> None:
        await self._client.close()

    def opened(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, token: str) -> HttpExchange:
        """The request with a proof made now."""
        proof = self._prove(token, method, url, self.nonce(url))
        return self._client.open(method, url, {**headers, "dpop": proof} if proof else headers, body)

    def nonce(self, url: str) -> str:
        """What the server at `url` wants in proofs; empty: nothing is known of that."""
        return self._nonces.get(urlsplit(url).netloc, "")

    def note_nonce(self, url: str, answer: HttpResponse) -> None:
        """Use from now on what an answer says (section 8.2)."""
        found = answer.headers.get("dpop-nonce", "")
        if found and len(found) <= MAX_NONCE_CHARS and found.isascii() and found.isprintable():
            if len(self._nonces) >= MAX_ORIGINS:
                self._nonces.clear()
            self._nonces[urlsplit(url).netloc] = found


class _Proven:
    """One exchange, or two where the first was refused for the lack of a nonce."""

    def __init__(
        self, client: ProvingClient, method: str, url: str, headers: Mapping[str, str], body: bytes | None, token: str
    ) -> None:
        self._client, self._url = client, url
        self._asked = (method, url, headers, body, token)
        self._exchange: HttpExchange

    async def begin(self) -> HttpResponse:
        """See `HttpExchange`."""
        used = self._client.nonce(self._url)
        answer = await self._sent()
        wants_nonce = answer.status == 401 and "use_dpop_nonce" in answer.headers.get("www-authenticate", "")
        if wants_nonce and self._client.nonce(self._url) != used:
            self._exchange.end()
            answer = await self._sent()
        return answer

    def end(self, *, is_answered: bool = False) -> None:
        """See `HttpExchange`."""
        self._exchange.end(is_answered=is_answered)

    async def __aenter__(self) -> HttpResponse:
        return await self.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    async def _sent(self) -> HttpResponse:
        self._exchange = self._client.opened(*self._asked)
        answer = await self._exchange.begin()
        self._client.note_nonce(self._url, answer)
        return answer
