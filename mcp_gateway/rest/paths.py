"""One spelling for each path: what policy judges, the audit keeps and the wire carries is this and nothing else.

Servers disagree about `%2e%2e`, `//`, `\\`, `;` and double encodings, and every disagreement is a way around a rule.
So what can be read in two ways is refused, and what is left is written in one: unreserved characters plain, everything
else percent-encoded in capitals (RFC 3986 sections 2.3 and 6.2.2).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from mcp_gateway.errors import BadRequest

MAX_PATH: Final = 4096
"""Characters of a path."""
MAX_QUERY: Final = 16_384

_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PLAIN_IN_SEGMENT: Final = frozenset(_UNRESERVED | frozenset(b"!$&'()*+,;=:@"))
_ESCAPE: Final = re.compile(rb"%[0-9A-Fa-f]{2}")
_PATH: Final = re.compile(rb"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_QUERY: Final = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?\[\]{}|^`]|%[0-9A-Fa-f]{2})*")


def canonical_path(raw: bytes) -> str:
    """The one spelling of a path as it came (without query). Raises `BadRequest` for what has more than one reading.

    >>> canonical_path(b"/v1/%6Frders/a%20b")
    '/v1/orders/a%20b'
    """
    if len(raw) > MAX_PATH:
        raise BadRequest(f"the path is longer than {MAX_PATH} characters")
    if not _PATH.fullmatch(raw):
        raise BadRequest("the path holds a character that has to be percent-encoded, or a broken percent-encoding")
    segments = raw[1:].split(b"/")
    if b"" in segments[:-1]:
        raise BadRequest("the path has an empty segment ('//')")
    return "/" + "/".join(_segment(segment) for segment in segments)


def canonical_segment(value: str) -> str:
    """A value as one segment of a path. Raises `BadRequest` for one that cannot stand there as itself.

    >>> canonical_segment("a b")
    'a%20b'
    """
    data = value.encode("utf-8", "surrogatepass")
    if not data:
        raise BadRequest("a path parameter is empty")
    return _encoded(_checked(data))


def checked_query(raw: bytes) -> str:
    """A query string that may be sent on as it is. Raises `BadRequest`."""
    if len(raw) > MAX_QUERY:
        raise BadRequest(f"the query is longer than {MAX_QUERY} characters")
    if not _QUERY.fullmatch(raw):
        raise BadRequest("the query holds a character that has to be percent-encoded, or a broken percent-encoding")
    if b"%00" in raw:
        raise BadRequest("the query may not hold NUL")
    return raw.decode("ascii")


def _segment(raw: bytes) -> str:
    return _encoded(_checked(unquote_to_bytes(raw)))


def _checked(data: bytes) -> bytes:
    """A segment decoded once, if every server reads it alike."""
    try:
        text = data.decode()
    except UnicodeDecodeError as e:
        raise BadRequest("the path is not UTF-8") from e
    if "/" in text or "\\" in text:
        raise BadRequest("the path may not hold an encoded '/' or '\\'")
    if any(ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0 for letter in text):
        raise BadRequest("the path may not hold control characters")
    if _ESCAPE.search(data):
        raise BadRequest("the path is percent-encoded twice")
    if text.partition(";")[0].strip() in (".", ".."):
        raise BadRequest("the path may not hold '.' or '..' segments")
    return data


def _encoded(data: bytes) -> str:
    return "".join(chr(byte) if byte in _PLAIN_IN_SEGMENT else f"%{byte:02X}" for byte in data)
