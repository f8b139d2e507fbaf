"""Things we hand to an agent and get back later: sealed, so that it can neither read, alter, lend nor reuse them.

A seal is AES-256-GCM over a small JSON payload with an expiry. What it is bound to (who asked, which method, which
target, which arguments) is authenticated data and not part of the seal: opening it under any other binding fails like
opening an altered one. patterns/mrtr "Security": `requestState` comes back through an attacker's hands.

Keys change by themselves: each is derived from one master key and a period's number, which the seal names. A seal may
be opened in its own period and the next; a payload's own expiry is what ends it earlier.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mcp_gateway.domain import Json
from mcp_gateway.jsonrpc import dump, parse

NONCE_BYTES: Final = 12
PERIOD_BYTES: Final = 4
MAX_SEAL_CHARS: Final = 256 * 1024
"""An upstream's own `requestState` travels inside. It may be large, but the next request has to carry it."""


class SealBrokenError(Exception):
    """Altered, expired, made for another binding, or never ours: which of these is nobody's business."""


class Seals:
    """Makes and opens seals for one purpose; everybody who shares the master key understands them."""

    def __init__(self, master_key: bytes, purpose: str, ttl_s: int) -> None:
        """`ttl_s`: how long a seal can be opened at most; keys change as often."""
        if len(master_key) < 32:
            raise ValueError("a master key has at least 32 bytes")
        self._master_key = master_key
        self._purpose = purpose
        self.ttl_s = ttl_s
        self._keys: dict[int, AESGCM] = {}

    def seal(self, payload: Json, binding: Sequence[str], now_s: float) -> str:
        """A token that only the same `binding` can open, until `ttl_s` from `now_s` (seconds since the epoch)."""
        period = int(now_s) // self.ttl_s
        nonce = secrets.token_bytes(NONCE_BYTES)
        body = dump({"until": int(now_s) + self.ttl_s, "payload": payload})
        sealed = self._key(period).encrypt(nonce, body, _bound(binding))
        return _packed(period.to_bytes(PERIOD_BYTES, "big") + nonce + sealed)

    def open(self, token: str, binding: Sequence[str], now_s: float) -> Json:
        """The payload. Raises `SealBrokenError`."""
        raw = _unpacked(token)
        period = int.from_bytes(raw[:PERIOD_BYTES], "big")
        if period not in (int(now_s) // self.ttl_s, int(now_s) // self.ttl_s - 1):
            raise SealBrokenError
        nonce, sealed = raw[PERIOD_BYTES : PERIOD_BYTES + NONCE_BYTES], raw[PERIOD_BYTES + NONCE_BYTES :]
        try:
            body: Json = parse(self._key(period).decrypt(nonce, sealed, _bound(binding)))
        except (InvalidTag, ValueError) as e:
            raise SealBrokenError from e
        if body["until"] < now_s:
            raise SealBrokenError
        payload: Json = body["payload"]
        return payload

    def _key(self, period: int) -> AESGCM:
        key = self._keys.get(period)
        if key is None:
            info = f"mcp_gateway seal {self._purpose} {period}".encode()
            key = AESGCM(HKDF(SHA256(), 32, None, info).derive(self._master_key))
            self._keys = {number: kept for number, kept in self._keys.items() if number >= period - 1} | {period: key}
        return key


def _packed(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii")


def _unpacked(token: str) -> bytes:
    if len(token) > MAX_SEAL_CHARS:
        raise SealBrokenError
    try:
        raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as e:
        raise SealBrokenError from e
    # RFC 4648 section 3.5: base64 has several spellings of the same bytes. What works once is known by its text.
    if _packed(raw) != token:
        raise SealBrokenError
    return raw


def _bound(binding: Sequence[str]) -> bytes:
    """The binding as bytes, each part with its length, so that no two bindings look alike."""
    parts = [part.encode() for part in binding]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
