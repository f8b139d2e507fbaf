"""Passwords of local accounts, as scrypt hashes that say their own parameters. Pure but for the salt.

An account that does not exist costs the same work as one that does, so that time tells nothing about names.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode
from typing import Final

LEAST_CHARACTERS: Final = 12
MOST_CHARACTERS: Final = 256

_COST: Final = 2**15  # OWASP's recommendation of 2^17 takes 128 MB a login; this takes 32 MB, and logins are limited
_BLOCK: Final = 8
_PARALLEL: Final = 1
_MEMORY: Final = 64 * 1024 * 1024
_SALT_BYTES: Final = 16


def password_problem(password: str) -> str | None:
    """Why a password cannot be one; None: it can."""
    if not LEAST_CHARACTERS <= len(password) <= MOST_CHARACTERS:
        return f"a password has {LEAST_CHARACTERS} to {MOST_CHARACTERS} characters"
    return None


def hashed(password: str) -> str:
    """What is kept of a password."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return f"scrypt${_COST}${_BLOCK}${_PARALLEL}${_text(salt)}${_text(_digest(password, salt))}"


def is_right(password: str, kept: str | None) -> bool:
    """Whether `password` is the one `kept` was made of. None stands for an account that does not exist."""
    _, _, _, _, salt, digest = (kept or _NOBODY).split("$")
    is_same = hmac.compare_digest(_digest(password[:MOST_CHARACTERS], b64decode(salt)), b64decode(digest))
    return is_same and kept is not None


def _digest(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"), salt=salt, n=_COST, r=_BLOCK, p=_PARALLEL, maxmem=_MEMORY, dklen=32
    )


def _text(data: bytes) -> str:
    return b64encode(data).decode()


_NOBODY: Final = f"scrypt${_COST}${_BLOCK}${_PARALLEL}${_text(b'0' * _SALT_BYTES)}${_text(b'0' * 32)}"
