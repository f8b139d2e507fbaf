"""DPoP proofs (RFC 9449): that whoever shows a token holds the key it is bound to, for this very request, once.

The proof brings its own public key; what makes it worth anything is that the token names the key's thumbprint. Used
proofs are remembered until they would be too old anyway. When there is no more room for them nothing is accepted,
rather than anything twice; and proofs from before this process began, whose uses it cannot know, are refused.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from joserfc.jwk import Key

from mcp_gateway.errors import IdentityUnavailable
from mcp_gateway.identity.faults import Fault
from mcp_gateway.identity.jwt import Rules, TokenRefused, Unverified, check_header, check_signature, read_jwt, time_of
from mcp_gateway.identity.key_ring import fits, read_key

PROOF_ALGORITHMS: Final = ("ES256", "ES384", "EdDSA", "Ed25519", "PS256", "RS256")
MAX_AGE_S: Final = 60.0
"""How old a proof may be."""

CLOCKS_DIFFER_S: Final = 10.0
"""How far in the future its clock may be."""

MAX_PROOF_CHARS: Final = 4096
MAX_JTI: Final = 256
MAX_USED: Final = 200_000
MAX_USED_PER_KEY: Final = 20_000
NONCE_S: Final = 300

_RULES: Final = Rules("", frozenset(PROOF_ALGORITHMS), frozenset({"dpop+jwt"}))


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that a proof has to be for."""

    method: str
    url: str
    """Without query and fragment, as agents write it."""


class Proofs:
    """Checks proofs and remembers which were used. With `wants_nonce` they have to carry a nonce of ours."""

    def __init__(self, wants_nonce: bool = False, since_s: float = 0.0, nonce_key: bytes | None = None) -> None:
        """`since_s`: from when on it is known here which proofs were used, in seconds since the epoch."""
        self.wants_nonce = wants_nonce
        self._since_s = since_s
        self._nonce_key = nonce_key or secrets.token_bytes(32)
        self._used: dict[bytes, tuple[float, str]] = {}
        self._used_by: dict[str, int] = {}

    def check(self, proofs: list[str], token: str, thumbprint: str, asked: Asked, now_s: float) -> None:
        """That one of one proof fits. Raises `TokenRefused`; `IdentityUnavailable` where none can be remembered."""
        if len(proofs) != 1 or len(proofs[0]) > MAX_PROOF_CHARS:
            raise TokenRefused(Fault.PROOF)
        proof, key = _verified(proofs[0])
        if not hmac.compare_digest(key.thumbprint(), thumbprint):
            raise TokenRefused(Fault.BINDING)
        self._check_claims(proof.claims, token, asked, now_s)
        self._use_up(thumbprint, proof.claims["jti"], now_s)

    def nonce(self, now_s: float) -> str:
        """The nonce that proofs made now have to carry."""
        return self._nonce_of(int(now_s // NONCE_S))

    def _nonce_of(self, period: int) -> str:
        return _encoded(hmac.digest(self._nonce_key, f"dpop nonce {period}".encode(), "sha256")[:16])

    def _check_claims(self, claims: Mapping[str, Any], token: str, asked: Asked, now_s: float) -> None:
        """RFC 9449 section 4.3, points 8 to 12."""
        made_at, jti = time_of(claims, "iat"), claims.get("jti")
        if not (isinstance(jti, str) and 0 < len(jti) <= MAX_JTI) or made_at is None:
            raise TokenRefused(Fault.PROOF)
        if claims.get("htm") != asked.method or _without_query(claims.get("htu")) != asked.url:
            raise TokenRefused(Fault.PROOF)
        if not max(now_s - MAX_AGE_S, self._since_s) < made_at < now_s + CLOCKS_DIFFER_S:
            raise TokenRefused(Fault.PROOF)
        if claims.get("ath") != _encoded(hashlib.sha256(token.encode()).digest()):
            raise TokenRefused(Fault.PROOF)
        period = int(now_s // NONCE_S)
        if self.wants_nonce and claims.get("nonce") not in (self._nonce_of(period), self._nonce_of(period - 1)):
            raise NonceNeeded(self.nonce(now_s))

    def _use_up(self, thumbprint: str, jti: str, now_s: float) -> None:
        while self._used and self._used[oldest := next(iter(self._used))][0] <= now_s:
            self._forget(oldest)
        name = hashlib.sha256(f"{thumbprint}\n{jti}".encode()).digest()[:16]
        if name in self._used:
            raise TokenRefused(Fault.REPLAYED)
        if len(self._used) >= MAX_USED or self._used_by.get(thumbprint, 0) >= MAX_USED_PER_KEY:
            raise IdentityUnavailable("too many DPoP proofs to remember")
        # Counted from now, not from `iat`: so they stand in the order in which they end.
        self._used[name] = (now_s + MAX_AGE_S + CLOCKS_DIFFER_S, thumbprint)
        self._used_by[thumbprint] = self._used_by.get(thumbprint, 0) + 1

    def _forget(self, name: bytes) -> None:
        _, thumbprint = self._used.pop(name)
        left = self._used_by[thumbprint] - 1
        if left:
            self._used_by[thumbprint] = left
        else:
            del self._used_by[thumbprint]


class NonceNeeded(TokenRefused):
    """The proof has to be made again, with this nonce."""

    def __init__(self, nonce: str) -> None:
        super().__init__(Fault.PROOF)
        self.nonce = nonce


def _verified(text: str) -> tuple[Unverified, Key]:
    """A proof that its own key signed, and that key."""
    proof = read_jwt(text)
    algorithm, _ = check_header(proof, _RULES)
    written = proof.header.get("jwk")
    if not isinstance(written, dict) or "d" in written or "k" in written:  # RFC 9449 section 4.3, point 7
        raise TokenRefused(Fault.PROOF)
    key = read_key(written)
    if key is None or not fits(key, algorithm):
        raise TokenRefused(Fault.PROOF)
    check_signature(proof, key)
    return proof, key


def _without_query(url: Any) -> str:
    return url.partition("#")[0].partition("?")[0] if isinstance(url, str) else ""


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
