"""What the rest of this room wants of an HTTP client: the interface, its errors, and what all clients share.

Redirects are not followed (a redirect would carry credentials elsewhere), nothing is read from the environment (no
proxies, no .netrc), bodies arrive decoded in pieces of at most 1 MiB, and how much of them is read is the caller's
decision. Knows nothing of JSON or MCP. `fast_wire` has the client.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from functools import cache
from importlib import import_module
from typing import Final, Protocol

KEEPALIVE_S: Final = 4.0
"""Below the 5 s after which uvicorn and node close an idle connection: we never send into one that is closing."""

MAX_CONNECTIONS: Final = 1000
"""The default of 100 starves calls as soon as some dozen long streams are open."""

MAX_UNWANTED_BYTES: Final = 4096
"""Of a body, between an answer that was found in it and its end."""

MAX_ATTEMPTS: Final = 3
"""For one request, where the server says each time that it did not look at it (`Unprocessed`)."""

ALPN: Final = ["h2", "http/1.1"]
"""What is offered over TLS, the one we like best first; the server chooses (RFC 7301)."""


class WireError(Exception):
    """No HTTP answer, or one that broke off. The text holds no secrets."""


class Unprocessed(WireError):
    """The server has said that it did not look at the request: it may be sent once more (RFC 9113, section 8.7)."""


class HttpResponse(Protocol):
    """One answer, its body not read yet."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in any case."""
        ...

    def body(self) -> AsyncGenerator[bytes, None]:
        """The decoded body in bounded pieces; to be closed by whoever stops early. Raises `WireError`."""
        ...

    def read_at_once(self, max_bytes: int) -> bytes | None:
        """The whole body if it has come already, is not encoded and has no more than `max_bytes`; else None."""
        ...

    async def read(self, max_bytes: int) -> bytes | None:
        """The whole decoded body; None, as soon as that is certain, if it has more than `max_bytes`.

        Raises `WireError`.
        """
        ...


class HttpExchange(AbstractAsyncContextManager[HttpResponse], Protocol):
    """One request and its answer: a block, or `begin` and `end` for those who are in a hurry."""

    async def begin(self) -> HttpResponse:
        """Send the request and wait for the answer's headers. Raises `WireError`; then there is nothing to `end`."""
        ...

    def end(self, *, is_answered: bool = False) -> None:
        """Be done with the answer, whatever has been read of it.

        `is_answered`: nothing was missing but its end; if that comes soon, the connection can be used again.
        """
        ...


class SameHeaders(dict[str, str]):
    """Headers that go with many requests to one URL by one method: what they look like on the wire is kept here."""

    __slots__ = ("block", "start")

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self.start = b""
        self.block = b""


class HttpClient(Protocol):
    """Sends requests to one upstream."""

    def open(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> HttpExchange:
        """Send a request; leaving the block closes the answer's stream. Raises `WireError`."""
        ...

    async def close(self) -> None: ...


@cache
def shared_tls(*, offers_h2: bool = True) -> ssl.SSLContext:
    """One TLS configuration for all upstreams, and one for those that are to speak HTTP/1.1; making one takes tens of
    milliseconds."""
    # Loaded here: it is a whole HTTP client, and where no upstream is reached over TLS nobody needs any of it.
    context: ssl.SSLContext = import_module("httpx2").create_ssl_context(trust_env=False)
    context.set_alpn_protocols(ALPN if offers_h2 else ALPN[1:])
    return context
