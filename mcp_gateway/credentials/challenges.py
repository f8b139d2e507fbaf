"""`WWW-Authenticate: Bearer ...` as upstreams send it: where their metadata is, which scopes they want."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

MAX_CHALLENGE_CHARS: Final = 8192
_SCOPE: Final = re.compile(r"[!#-\[\]-~]{1,256}")  # RFC 6749 section 3.3, "scope-token"
_PARAMETER: Final = re.compile(r'([A-Za-z0-9_-]{1,64})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
MAX_SCOPES: Final = 100


@dataclass(frozen=True, slots=True)
class BearerChallenge:
    """What of a challenge we act on."""

    resource_metadata: str = ""
    scopes: tuple[str, ...] = ()
    error: str = ""
    wants_dpop: bool = field(default=False, repr=False)
    """Whether it takes bound tokens only (RFC 9449 section 7.1)."""


def read_challenge(text: str) -> BearerChallenge:
    """The Bearer challenge in a `WWW-Authenticate` line (RFC 9110 section 11.6.1); an empty one where there is none.

    >>> read_challenge('Basic realm="x", Bearer scope="a b", resource_metadata="https://h/.well-known/x"')
    BearerChallenge(resource_metadata='https://h/.well-known/x', scopes=('a', 'b'), error='')
    """
    schemes = list(re.finditer(r"(?:^|[,\s])(bearer|dpop)\s", text[:MAX_CHALLENGE_CHARS] + " ", re.IGNORECASE))
    if not schemes:
        return BearerChallenge()
    found, wants_dpop = schemes[0], all(scheme[1].lower() == "dpop" for scheme in schemes)
    values: dict[str, str] = {}
    for name, quoted, plain in _PARAMETER.findall(text[found.end() : MAX_CHALLENGE_CHARS]):
        values.setdefault(name.lower(), re.sub(r"\\(.)", r"\1", quoted) or plain)
    scopes, error = scopes_in(values.get("scope")), values.get("error", "")
    return BearerChallenge(values.get("resource_metadata", ""), scopes, error, wants_dpop)


def scopes_in(text: object) -> tuple[str, ...]:
    """The scopes in a `scope` value, each once; what cannot be one is left out."""
    words = text.split() if isinstance(text, str) else []
    return tuple(dict.fromkeys(word for word in words if _SCOPE.fullmatch(word)))[:MAX_SCOPES]
