"""The public keys of one issuer (a JWK Set, RFC 7517), bounded, found by id and by what they may be used for. Pure.

A key's id is only ever looked up in this table: what it says (a path, a query, a URL) leads nowhere. Keys that cannot
check a signature of ours (shared secrets, encryption keys, weak RSA, unknown curves) are left out; a set with too many
is refused whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey

from mcp_gateway.errors import BadRequest
from mcp_gateway.jsonrpc import parse

MAX_KEYS: Final = 100
MAX_SET_BYTES: Final = 256 * 1024
MAX_UNNAMED: Final = 4
"""Keys tried for a token that names none."""

MIN_RSA_BITS: Final = 2048  # RFC 7518 section 3.3
MAX_RSA_BITS: Final = 8192
"""Checking takes time that grows with the size; nobody has a longer one."""

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVE_OF: Final[Mapping[str, str]] = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_EDWARDS: Final[Mapping[str, tuple[str, ...]]] = {"EdDSA": ("Ed25519", "Ed448"), "Ed25519": ("Ed25519",)}

ALGORITHMS: Final = (*_RSA, *_CURVE_OF, *_EDWARDS)
"""Signature algorithms with a public key. Nothing else is ever accepted: no `none`, no shared secret."""

_PRIVATE: Final = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")


class KeySetInvalid(Exception):
    """A document that is no key set, or one that is out of bounds."""


class KeyRing:
    """Keys, as one document listed them."""

    def __init__(self, keys: Mapping[str, Key], unnamed: tuple[Key, ...] = ()) -> None:
        self._keys = keys
        self._unnamed = unnamed

    def __len__(self) -> int:
        return len(self._keys) + len(self._unnamed)

    def keys_for(self, algorithm: str, kid: str | None) -> tuple[Key, ...]:
        """The keys that may have made a signature; empty: there is none."""
        if kid is not None:
            key = self._keys.get(kid)
            found = (*(() if key is None else (key,)), *(() if self._keys else self._unnamed))
        else:
            found = (*self._keys.values(), *self._unnamed)
        return tuple(key for key in found if fits(key, algorithm))[:MAX_UNNAMED]


def read_key_set(data: bytes) -> KeyRing:
    """Read a JWK Set. Raises `KeySetInvalid`."""
    try:
        document = parse(data) if len(data) <= MAX_SET_BYTES else None
    except BadRequest as e:
        raise KeySetInvalid("not JSON") from e
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise KeySetInvalid("not a JWK Set, or too large")
    if len(entries) > MAX_KEYS:
        raise KeySetInvalid(f"more than {MAX_KEYS} keys")
    named: dict[str, Key] = {}
    unnamed: list[Key] = []
    for entry in entries:
        key = read_key(entry)
        kid = entry.get("kid") if key is not None else None
        if key is not None and isinstance(kid, str):
            if kid in named:
                raise KeySetInvalid("two keys of one id")
            named[kid] = key
        elif key is not None:
            unnamed.append(key)
    return KeyRing(named, tuple(unnamed))


def read_key(entry: Any) -> Key | None:
    """One public signature key; None for what is not one, or must not be one."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    if entry.get("kty") not in ("EC", "OKP") and not _is_sound_rsa(entry):
        return None
    public = {name: value for name, value in entry.items() if name not in _PRIVATE and name != "key_ops"}
    try:
        key = JWKRegistry.import_key(public)
        return key if any(fits(key, algorithm) for algorithm in ALGORITHMS) else None
    except (JoseError, ValueError, TypeError, KeyError):  # joserfc raises the last three for members that are missing
        return None


def _is_sound_rsa(entry: Mapping[str, Any]) -> bool:
    """Whether it is an RSA key of a size that means something; asked before joserfc, which warns and goes on."""
    modulus = entry.get("n")
    bits = len(modulus) * 6 if entry.get("kty") == "RSA" and isinstance(modulus, str) else 0
    return MIN_RSA_BITS <= bits <= MAX_RSA_BITS + 8


def fits(key: Key, algorithm: str) -> bool:
    """Whether a key may check signatures of an algorithm: its type, its curve, its size, and what it says itself."""
    if key.alg not in (None, algorithm):
        return False
    if isinstance(key, RSAKey):
        return algorithm in _RSA and MIN_RSA_BITS <= key.public_key.key_size <= MAX_RSA_BITS
    if isinstance(key, ECKey):
        return _CURVE_OF.get(algorithm) == key.curve_name
    return isinstance(key, OKPKey) and key.curve_name in _EDWARDS.get(algorithm, ())
