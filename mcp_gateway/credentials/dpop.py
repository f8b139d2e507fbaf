"""DPoP as a client (RFC 9449): a key for each login, and proofs that whoever sends its token holds that key.

A token that leaks is worth nothing without the key, which never leaves the vault. Each proof is for one request.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from base64 import urlsafe_b64encode
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from joserfc import jwt
from joserfc.jwk import ECKey

ALGORITHM: Final = "ES256"
"""What RFC 9449 gives in all its examples; every server that knows DPoP knows it."""

MAX_NONCE_CHARS: Final = 1024


def new_key() -> str:
    """A private key as the vault keeps it."""
    return json.dumps(ECKey.generate_key("P-256").as_dict(private=True))


def key_of(text: str) -> ECKey:
    """The key that `new_key` made. Raises `ValueError`."""
    return ECKey.import_key(json.loads(text))


def proof(key: ECKey, method: str, url: str, now: float, *, token: str = "", nonce: str = "") -> str:
    """The `DPoP` header for one request; `token`: the one it goes with, where there is one (section 4.2)."""
    claims = {"jti": secrets.token_urlsafe(16), "htm": method, "htu": bare(url), "iat": int(now)}
    if token:
        claims["ath"] = urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
    if nonce:
        claims["nonce"] = nonce[:MAX_NONCE_CHARS]
    header = {"typ": "dpop+jwt", "alg": ALGORITHM, "jwk": key.as_dict(private=False)}
    return jwt.encode(header, claims, key, algorithms=[ALGORITHM])


def bare(url: str) -> str:
    """A URL without query and fragment, as a proof names it.

    >>> bare("https://h/mcp?a=1#x")
    'https://h/mcp'
    """
    return urlunsplit((*urlsplit(url)[:3], "", ""))
