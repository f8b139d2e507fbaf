"""Headers as HTTP/2 has them: what of a request is sent and how, and what an answer's may look like.

What differs from call to call, secrets among it, is never put into the table that both sides keep for compression
(RFC 7541, section 7.1.3): one agent's could otherwise be guessed by the size of another's requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from hpack import HeaderTuple, NeverIndexedHeaderTuple

from mcp_gateway.upstreams.wire import SameHeaders
from mcp_gateway.upstreams.wire_connection import MAX_HEAD_BYTES, MAX_HEADER_LINES

Field = tuple[bytes, bytes]

_OF_CONNECTIONS: Final = frozenset(
    {"connection", "http2-settings", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"}
)
"""RFC 9113, section 8.2.2: they mean nothing here, and make a message malformed."""

_SAME_ALWAYS: Final = frozenset(
    {"accept", "accept-encoding", "content-type", "mcp-method", "mcp-protocol-version", "user-agent"}
)
"""The only ones that are kept in the table: of few values, none of them anybody's."""

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_NOT_IN_VALUES: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class BadFields(Exception):
    """An answer's headers are malformed, or more than anybody needs."""


def request_fields(
    method: str, authority: str, target: str, headers: Mapping[str, str], body: bytes | None
) -> list[HeaderTuple]:
    """All of a request's head. The headers are names and values that HTTP/1.1 could send."""
    fields = [
        HeaderTuple(b":method", method.encode()),
        HeaderTuple(b":scheme", b"https"),
        HeaderTuple(b":authority", authority.encode()),
        NeverIndexedHeaderTuple(b":path", target.encode()),
        *_of(headers),
    ]
    if body is not None:
        fields.append(NeverIndexedHeaderTuple(b"content-length", b"%d" % len(body)))
    return fields


def answer_headers(fields: Iterable[Field]) -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer; the status of trailers is 0. Raises `BadFields`."""
    status, size = 0, 0
    headers: dict[str, str] = {}
    for line, (name, value) in enumerate(fields):
        size += len(name) + len(value)
        if size > MAX_HEAD_BYTES or line > MAX_HEADER_LINES:
            raise BadFields("sent more headers than anybody needs")
        if name == b":status" and not line:
            status = _status(value)
            continue
        key, text = _key(name), value.decode("latin-1").strip(" \t")
        if _NOT_IN_VALUES.search(value):
            raise BadFields("sent a header that is none")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return status, headers


def size_of(fields: Iterable[Field]) -> int:
    """How many bytes of headers these are."""
    return sum([len(name) + len(value) for name, value in fields])


def _of(headers: Mapping[str, str]) -> list[HeaderTuple]:
    """What is sent of the caller's headers."""
    if isinstance(headers, SameHeaders) and headers.fields is not None:
        return headers.fields
    fields = [
        (HeaderTuple if name in _SAME_ALWAYS else NeverIndexedHeaderTuple)(name.encode(), value.strip(" \t").encode())
        for name, value in ((name.lower(), value) for name, value in headers.items())
        if name not in _OF_CONNECTIONS
    ]
    if isinstance(headers, SameHeaders):
        headers.fields = fields
    return fields


def _status(value: bytes) -> int:
    if len(value) != 3 or not value.isdigit() or value < b"100":
        raise BadFields("sent a status that is none")
    return int(value)


@lru_cache(maxsize=1024)
def _key(name: bytes) -> str:
    """Raises `BadFields` for what is no name of a header, or one that only HTTP/1.1 has."""
    if not _NAME.fullmatch(name):
        raise BadFields("sent a header that is none")
    key = name.decode()
    if key in _OF_CONNECTIONS:
        raise BadFields("sent a header that HTTP/2 does not have")
    return key
