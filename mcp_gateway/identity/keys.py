"""API keys that the gateway issues: shown once, kept as keyed hashes, revoked at once in every process.

    mgw_<public id>_<secret><checksum>        letters and digits only between the underscores

The public id (12 characters) names the key in lists and in the audit. The secret is 32 random characters, 190 bits.
The checksum (CRC-32, 6 characters) recognises a mistyped key without looking anything up, and lets secret scanners
tell a real key from a lookalike. Knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Final

from mcp_gateway.config.settings import AGENT_NAME, AGENT_NAME_RULE
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.keys import DATABASE, KeyRecord, KeyTable
from mcp_gateway.storage.private import random_key
from mcp_gateway.storage.stamped import Sight

__all__ = ["HMAC_KEY_FILE", "KeyRecord", "Keys"]

HMAC_KEY_FILE: Final = "api-keys.hmac"
PUBLIC_ID_LENGTH: Final = 12
SECRET_LENGTH: Final = 32
CHECKSUM_LENGTH: Final = 6
MAX_VERIFIED: Final = 10_000

_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_TOKEN: Final = re.compile(
    rf"(?P<signed>mgw_(?P<id>[0-9A-Za-z]{{{PUBLIC_ID_LENGTH}}})_[0-9A-Za-z]{{{SECRET_LENGTH}}})"
    rf"(?P<checksum>[0-9A-Za-z]{{{CHECKSUM_LENGTH}}})"
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """All keys as of one state of the store."""

    records: Mapping[str, KeyRecord]
    sight: Sight
    verified: dict[bytes, KeyRecord] = field(default_factory=dict)
    """Keys that were presented and found right, by a hash of this process; forgotten as soon as anybody commits."""


class Keys:
    """The gateway's API keys. A store that cannot be read raises `StoreUnavailable`: nobody gets in meanwhile.

    `verify` and `holds` are for the event loop: they do not wait, but raise `StoreBusy` (see `once_unlocked`).
    """

    def __init__(self, state: Path) -> None:
        """Open the keys kept in the folder `state`; folder, database and hash key are created on first use."""
        self._table = KeyTable(state)
        self._seen: _Seen | None = None
        self._nobody = secrets.token_hex(32)
        self._process_key = secrets.token_bytes(32)
        self._hash_key = _hash_key_for(state / HMAC_KEY_FILE, self._table.records())
        self._hash_key_name = _name_of(self._hash_key)

    def create(self, agent: str, expires: timedelta | None, now: datetime) -> tuple[str, KeyRecord]:
        """Issue a key for `agent`: the key itself, which cannot be had again, and what is kept of it.

        Raises `ValueError` for a name no agent can have and for an `expires` that is not in the future.
        """
        if not AGENT_NAME.fullmatch(agent):
            raise ValueError(f"not the name of an agent: {AGENT_NAME_RULE}")
        if expires is not None and expires <= timedelta():
            raise ValueError("a key must expire in the future")
        public_id = random_text(PUBLIC_ID_LENGTH)
        signed = f"mgw_{public_id}_{random_text(SECRET_LENGTH)}"
        token = signed + checksum(signed)
        record = KeyRecord(
            public_id=public_id,
            agent=agent,
            created=now,
            expires=None if expires is None else now + expires,
            digest=self._digest(token),
            hmac_key=self._hash_key_name,
        )
        self._table.insert(record)
        self._seen = None
        return token, record

    def list(self) -> tuple[KeyRecord, ...]:
        """All keys ever issued, oldest first."""
        return self._table.records()

    def revoke(self, public_id: str, now: datetime) -> bool:
        """Revoke one key; on return no process accepts it any more. False where there is no such key to revoke."""
        is_revoked = self._table.revoke(public_id, now)
        self._seen = None
        return is_revoked

    def verify(self, token: str, now: datetime) -> KeyRecord | None:
        """The record of a key that holds at `now`; None for everything else, whatever is wrong with it.

        An unknown id costs the same hash and comparison as a known one, so that time tells nothing about ids.
        """
        seen = self._as_of_now()
        # A third of the cost of the digest that is kept on disk, and of no use outside this process.
        presented = blake2b(token.encode(), key=self._process_key).digest()
        record = seen.verified.get(presented)
        if record is None:
            record = self._record_of(token, hmac.digest(self._hash_key, token.encode(), "sha256"), seen)
            if record is None:
                return None
            if len(seen.verified) >= MAX_VERIFIED:
                seen.verified.clear()
            seen.verified[presented] = record
        return record if record.holds(now) else None

    def holds(self, public_id: str, now: datetime) -> bool:
        """Whether a key verified before still holds: what long-lived streams ask."""
        record = self._records().get(public_id)
        return record is not None and record.holds(now)

    def _record_of(self, token: str, digest: bytes, seen: _Seen) -> KeyRecord | None:
        match = _TOKEN.fullmatch(token)
        if match is None or checksum(match["signed"]) != match["checksum"]:
            return None
        record = seen.records.get(match["id"])
        kept = self._nobody if record is None else record.digest
        return record if hmac.compare_digest(digest.hex(), kept) else None

    def close(self) -> None:
        self._table.close()

    def _digest(self, token: str) -> str:
        return hmac.digest(self._hash_key, token.encode(), "sha256").hex()

    def _records(self) -> Mapping[str, KeyRecord]:
        return self._as_of_now().records

    def _as_of_now(self) -> _Seen:
        """All keys as of now: from memory, unless anybody has committed since they were read."""
        table, seen = self._table, self._seen
        stamp = table.stamp()
        if seen is not None and table.still_stands(seen.sight, stamp):
            return seen
        if seen is not None and (seen.sight.stamp.device, seen.sight.stamp.inode) != (stamp.device, stamp.inode):
            table.reopen()
        sight = table.look()
        self._seen = seen = _Seen({record.public_id: record for record in table.records(wait_s=0)}, sight)
        return seen


def _hash_key_for(file: Path, records: Iterable[KeyRecord]) -> bytes:
    """The key all digests are made with; made now if none of `records` needs one that was.

    Says so when the file was lost or replaced, or every API key would just stop working.
    """
    needed = {record.hmac_key for record in records if record.revoked is None}
    hash_key = random_key(file) if file.exists() or not needed else b""
    if needed - {_name_of(hash_key)}:
        raise StoreUnavailable(f"{DATABASE} holds API keys made with another {file}: restore that file from a backup")
    return hash_key


def _name_of(hash_key: bytes) -> str:
    """Tells hash keys apart without telling anything else about them."""
    return hashlib.sha256(b"mcp-gateway hash key:" + hash_key).hexdigest()[:16]


def random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def checksum(text: str) -> str:
    """CRC-32 in base 62, most significant character first.

    >>> checksum("mgw_")
    '18ecZ1'
    """
    rest = zlib.crc32(text.encode())
    digits = []
    for _ in range(CHECKSUM_LENGTH):
        rest, digit = divmod(rest, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
