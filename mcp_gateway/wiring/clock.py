"""The time and the ids of requests, as every room gets them."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from typing import Final

_random_bits: Final[list[int]] = []


def utc_now() -> datetime:
    """The time as every room gets it."""
    return datetime.now(UTC)


def utc_text() -> str:
    """The time as servers.lock has it: ISO 8601, to the second."""
    return utc_now().isoformat(timespec="seconds").replace("+00:00", "Z")


def new_request_id() -> str:
    """A unique id that sorts by time: milliseconds since the epoch, then 64 random bits."""
    if not _random_bits:
        _random_bits.extend(memoryview(secrets.token_bytes(2048)).cast("Q"))  # a system call for each is dear
    return f"{time.time_ns() // 1_000_000:011x}{_random_bits.pop():016x}"
