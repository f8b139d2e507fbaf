"""JWT access tokens of one issuer: what has to hold before a claim is believed (RFC 9068, RFC 8725). Pure.

Nothing a token says of itself chooses how it is checked: the algorithm has to be on the issuer's list, the key comes
from the issuer's own set by its id, and `jku`, `x5u`, `jwk` and `x5c` are not looked at. joserfc makes and checks the
signatures; reading is strict (no member twice, no padding, no NaN), so that nobody else can read it otherwise.
"""

from __future__ import annotations

import binascii
import math
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import Key

from mcp_gateway.domain import Json
from mcp_gateway.errors import BadRequest
from mcp_gateway.identity.faults import Fault
from mcp_gateway.jsonrpc import parse

MAX_KID: Final = 256
MAX_CLAIM: Final = 512
"""Characters of a claim that becomes part of an identity."""

LATEST: Final = 253_402_300_800.0
"""The year 10000: no time of a token is later, whatever number it writes."""

MAX_HEADER_BYTES: Final = 8192

_COMPACT_PARTS: Final = 3
_NOT_OURS: Final = ("crit", "b64", "zip", "enc")
"""Header parameters that change what the token means: none of them is understood here, so none is accepted."""


class TokenRefused(Exception):
    """A credential that proves nothing. The fault is for operators only."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Unverified:
    """A JWT taken apart; nothing in it is proven."""

    text: str
    header: Json
    claims: Json


@dataclass(frozen=True, slots=True)
class Rules:
    """What the tokens of one issuer have to be like."""

    issuer: str
    algorithms: frozenset[str]
    types: frozenset[str]
    """In lower case, without `application/`; `""` stands for none at all."""
    leeway_s: float = 60.0


def read_jwt(text: str) -> Unverified:
    """Take a compact JWS apart. Raises `TokenRefused`."""
    parts = text.split(".")
    if len(parts) != _COMPACT_PARTS or not all(parts):
        raise TokenRefused(Fault.MALFORMED)
    return Unverified(text, _object(parts[0]), _object(parts[1]))


def looks_like_jwt(text: str) -> bool:
    """Whether a bearer token is a JWT by its form; the others are opaque."""
    return text.count(".") >= _COMPACT_PARTS - 1 and text.startswith("ey")


def check_header(token: Unverified, rules: Rules) -> tuple[str, str | None]:
    """The algorithm and the key id, if the header is acceptable. Raises `TokenRefused`."""
    algorithm, kid = token.header.get("alg"), token.header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in rules.algorithms:
        raise TokenRefused(Fault.ALGORITHM)
    if any(name in token.header for name in _NOT_OURS):
        raise TokenRefused(Fault.HEADER)
    if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID):
        raise TokenRefused(Fault.HEADER)
    written = token.header.get("typ", "")
    # RFC 9068 section 4: `at+jwt` or `application/at+jwt`; RFC 7515 section 4.1.9: compared without case.
    if not isinstance(written, str) or written.lower().removeprefix("application/") not in rules.types:
        raise TokenRefused(Fault.TYPE)
    return algorithm, kid


def check_signature(token: Unverified, key: Key) -> None:
    """Raises `TokenRefused` unless `key` made the signature, with the algorithm that `check_header` let pass."""
    try:
        jws.deserialize_compact(token.text, key, registry=_REGISTRY)
    except (JoseError, ValueError, TypeError) as e:
        raise TokenRefused(Fault.SIGNATURE) from e


def check_claims(claims: Mapping[str, Any], rules: Rules, now_s: float) -> float:
    """When the token ends (seconds since the epoch), if it holds at `now_s`. Raises `TokenRefused`."""
    if claims.get("iss") != rules.issuer:
        raise TokenRefused(Fault.ISSUER)
    expires_at = time_of(claims, "exp")
    if expires_at is None:
        raise TokenRefused(Fault.CLAIMS)
    if now_s >= expires_at + rules.leeway_s:
        raise TokenRefused(Fault.EXPIRED)
    for name in ("nbf", "iat"):
        if (time_of(claims, name) or 0.0) > now_s + rules.leeway_s:
            raise TokenRefused(Fault.NOT_YET)
    return expires_at + rules.leeway_s


def time_of(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate; None where there is none. Raises `TokenRefused` for what is not one."""
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TokenRefused(Fault.CLAIMS)
    if not (math.isfinite(value) and 0 <= value < LATEST):
        raise TokenRefused(Fault.CLAIMS)
    return float(value)


def text_of(claims: Mapping[str, Any], name: str) -> str | None:
    """A claim that is a short text; None where there is none. Raises `TokenRefused` for anything else."""
    value = claims.get(name)
    if value is None:
        return None
    if not (isinstance(value, str) and 0 < len(value) <= MAX_CLAIM and value.isprintable()):
        raise TokenRefused(Fault.CLAIMS)
    return value


def audiences_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """Everybody the token is for (RFC 7519 section 4.1.3: a text or a list of texts). Raises `TokenRefused`."""
    value = claims.get("aud")
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(item, str) for item in found):
        raise TokenRefused(Fault.AUDIENCE)
    return frozenset(found)


def decoded(part: str) -> bytes:
    """base64url without padding, as RFC 7515 writes it. Raises `TokenRefused`."""
    if "=" in part:
        raise TokenRefused(Fault.MALFORMED)
    try:
        return b64decode(part.encode("ascii") + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as e:
        raise TokenRefused(Fault.MALFORMED) from e


def _object(part: str) -> Json:
    try:
        value = parse(decoded(part))
    except BadRequest as e:
        raise TokenRefused(Fault.MALFORMED) from e
    if not isinstance(value, dict):
        raise TokenRefused(Fault.MALFORMED)
    return value


class _Registry(jws.JWSRegistry):
    """The algorithms of joserfc, of which the issuer's list has already picked one."""

    max_header_length = MAX_HEADER_BYTES

    def get_alg(self, name: str) -> Any:
        """Without joserfc's own list and warnings: `EdDSA` is deprecated (RFC 9864) and in use."""
        return self.algorithms[name]


_REGISTRY: Final = _Registry(strict_check_header=False)
