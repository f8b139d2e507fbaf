"""Secrets taken out of text before an operator sees it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MIN_SECRET_CHARS: Final = 6
"""Shorter values are settings ("info", "8080", "true"); taking those out would garble every message."""

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def without_secrets(text: str, secrets: Iterable[str]) -> str:
    """The text with each secret blotted out, the token of a `Bearer x` header too, and control characters gone.

    >>> without_secrets("401 for s3cr3t-token", ["Bearer s3cr3t-token"])
    '401 for ***'
    """
    for secret in sorted(_parts(secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _CONTROL.sub("", text)


def _parts(secrets: Iterable[str]) -> set[str]:
    return {part for secret in secrets for part in (secret, secret.partition(" ")[2]) if len(part) >= MIN_SECRET_CHARS}
