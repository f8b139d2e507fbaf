"""Cursors of paged lists: where the next page starts, sealed so that nobody else and no other list can use it.

A cursor holds only for the list it was made for: the same catalog, the same policy, the same caller, the same kind.
Anything else is refused, because the offset would point into another list.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from mcp_gateway.errors import BadRequest

_OFFSET_BYTES: Final = 8  # with the MAC a multiple of three, so that base64 has one spelling only
_MAC_BYTES: Final = 16


class Cursors:
    """Seals offsets with one key; everybody who shares the key understands the cursors."""

    def __init__(self, key: bytes) -> None:
        """`key`: at least 32 secret random bytes; a new one at each start only ends the walks through pages."""
        if len(key) < 32:
            raise ValueError("a cursor key has at least 32 bytes")
        self._key = key

    def seal(self, offset: int, scope: Sequence[str]) -> str:
        """A cursor for `offset` that only the same `scope` can open. The empty string always means the first page."""
        if offset == 0:
            return ""
        packed = offset.to_bytes(_OFFSET_BYTES, "big")
        return base64.urlsafe_b64encode(packed + self._mac(packed, scope)).decode("ascii")

    def open(self, cursor: str, scope: Sequence[str]) -> int:
        """The offset a cursor was sealed for.

        Raises `BadRequest` (-32602) for a cursor that was altered, made for someone else or for another list, or that
        comes from before the list changed: which of these is nobody's business.
        """
        if not cursor:
            return 0
        try:
            packed = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            packed = b""
        offset, mac = packed[:_OFFSET_BYTES], packed[_OFFSET_BYTES:]
        if not hmac.compare_digest(mac, self._mac(offset, scope)):
            raise BadRequest("this cursor does not belong to this list as it is now: ask again without a cursor")
        return int.from_bytes(offset, "big")

    def _mac(self, packed: bytes, scope: Sequence[str]) -> bytes:
        parts = [part.encode() for part in scope]
        message = b"".join([packed, *(len(part).to_bytes(4, "big") + part for part in parts)])
        return hmac.new(self._key, message, hashlib.sha256).digest()[:_MAC_BYTES]
