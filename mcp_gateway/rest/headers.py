"""Which headers pass between an agent and a plain API: those on a list, both ways; nothing else, whoever sends it.

What an agent sends to the gateway to be let in (its key, its cookies), what names it or its network, and what belongs
to one connection stays here. What a backend says about itself stays here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

PASSED_ON: Final = frozenset(
    {"accept", "accept-language", "content-language", "content-type", "if-match", "if-modified-since", "if-none-match"}
    | {"if-range", "if-unmodified-since", "prefer", "range", "idempotency-key", "traceparent", "tracestate"}
)
PASSED_BACK: Final = frozenset(
    {
        "accept-ranges",
        "allow",
        "cache-control",
        "content-disposition",
        "content-language",
        "content-range",
        "content-type",
    }
    | {"date", "deprecation", "etag", "expires", "last-modified", "link", "retry-after", "sunset", "vary", "warning"}
)
NEVER: Final = frozenset(
    {
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "mcp-session-id",
    }
    | {"proxy-authenticate", "proxy-authorization", "proxy-connection", "set-cookie", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "via", "x-api-key", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"}
    | {"x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url", "x-real-ip"}
)
"""Not even where a configuration asks for them."""
_LONGEST: Final = 8192


def passing(headers: Mapping[str, str], usual: frozenset[str], more: Iterable[str] = ()) -> dict[str, str]:
    """Those that pass, by their name in lower case."""
    named = {name.strip().lower() for name in headers.get("connection", "").split(",")}
    admitted = (usual | {name.lower() for name in more}) - NEVER - named
    lowered = {name.lower(): value for name, value in headers.items()}
    return {name: value for name, value in lowered.items() if name in admitted and _is_plain(value)}


def _is_plain(value: str) -> bool:
    return len(value) <= _LONGEST and all(letter == "\t" or letter >= " " for letter in value) and "\x7f" not in value
