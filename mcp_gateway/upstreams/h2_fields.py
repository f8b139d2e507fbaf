"""Headers as HTTP/2 has them: how a request's are sent, and what an answer's may look like.

A request's headers are written out each time, and neither side remembers them (RFC 7541, section 7.1.3: "never
indexed"): what is written is the same for every connection and need not be made again, and nobody's secret can be
guessed by how well somebody else's headers compress.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from hpack import Decoder

from mcp_gateway.known_heads import MAX_HEADS
from mcp_gateway.upstreams.wire import SameHeaders
from mcp_gateway.upstreams.wire_connection import MAX_HEAD_BYTES, MAX_HEADER_LINES

Field = tuple[bytes, bytes]

_OF_CONNECTIONS: Final = frozenset(
    {"connection", "http2-settings", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"}
)
"""RFC 9113, section 8.2.2: they mean nothing here, and make a message malformed."""

_KNOWN_NAMES: Final = {":authority": 1, ":method": 2, ":path": 4, ":scheme": 6, "content-length": 28}
"""Names by their number in the table that everybody has (RFC 7541, appendix A)."""

NOTHING_REMEMBERED: Final = b"\x20"
"""What the first request's headers begin with: a table of no size (RFC 7541, section 6.3). We need none, and a server
that allows less than everybody has would otherwise wait to be told that ours has become smaller."""

_NEVER_INDEXED: Final = 0x10
_REFERENCE: Final = 0x80
_LONG_REFERENCE: Final = 0xFF
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_NOT_IN_VALUES: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class BadFields(Exception):
    """An answer's headers are malformed, or more than anybody needs."""


def request_block(method: str, authority: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """All of a request's head. The headers are names and values that HTTP/1.1 could send."""
    block = _start(method, authority, target) + _of(headers)
    return block if body is None else block + _literal("content-length", str(len(body)))


class Head(NamedTuple):
    """What stands before an answer's body, or behind it."""

    status: int
    """0: these are trailers."""
    headers: dict[str, str]
    size: int
    """In bytes, names and values."""


class Heads:
    """The heads of answers on one connection, whose compression makes each depend on those before."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=MAX_HEAD_BYTES)
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """Raises `BadFields` for one that is malformed, `HPACKError` where none can be read any more."""
        if (known := self._known.get(block)) is not None:
            return known
        fields = self._decoder.decode(block, raw=True)
        # Nothing but references to the table, of one byte each: it has left the table as it was, and means the same
        # for as long as others do. A server repeats all of an answer's head but for its date and its lengths.
        is_same_again = bool(block) and min(block) > _REFERENCE and max(block) < _LONG_REFERENCE
        if not is_same_again or len(self._known) >= MAX_HEADS:
            self._known.clear()
        head = answer_head(fields)
        if is_same_again:
            self._known[block] = head
        return head


def answer_head(fields: Iterable[Field]) -> Head:
    """The head that consists of these. Raises `BadFields`."""
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
    return Head(status, headers, size)


@lru_cache(maxsize=256)
def _start(method: str, authority: str, target: str) -> bytes:
    fields = {":method": method, ":scheme": "https", ":authority": authority, ":path": target}
    return b"".join([_literal(name, value) for name, value in fields.items()])


def _of(headers: Mapping[str, str]) -> bytes:
    """What is sent of the caller's headers."""
    if isinstance(headers, SameHeaders) and headers.block:
        return headers.block
    names = [(name.lower(), value) for name, value in headers.items()]
    block = b"".join([_literal(name, value.strip(" \t")) for name, value in names if name not in _OF_CONNECTIONS])
    if isinstance(headers, SameHeaders):
        headers.block = block
    return block


def _literal(name: str, value: str) -> bytes:
    """One header, "literal never indexed" (RFC 7541, section 6.2.3)."""
    number = _KNOWN_NAMES.get(name)
    shown = _integer(_NEVER_INDEXED, 15, number) if number else _integer(_NEVER_INDEXED, 15, 0) + _string(name)
    return shown + _string(value)


def _string(text: str) -> bytes:
    return _integer(0, 127, len(text)) + text.encode("ascii")


def _integer(flags: int, most: int, value: int) -> bytes:
    """A number behind flags in the same byte, where it is less than `most` (RFC 7541, section 5.1)."""
    if value < most:
        return bytes([flags | value])
    left, octets = value - most, [flags | most]
    while left >= 128:
        octets.append(left & 127 | 128)
        left >>= 7
    return bytes([*octets, left])


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
