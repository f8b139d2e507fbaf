"""API keys as they are kept: `gateway.db` in the state folder, keyed hashes only, never a key itself.

Knows nothing of tokens and hashing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from mcp_gateway.storage.stamped import READ_WAIT_S, StampedFile

DATABASE: Final = "gateway.db"

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS api_keys (
    id          TEXT PRIMARY KEY,   -- public; part of the key, shown in lists and the audit
    agent       TEXT NOT NULL,
    digest      TEXT NOT NULL,      -- HMAC-SHA256 of the key, hex
    hmac_key    TEXT NOT NULL,      -- which HMAC key made the digest
    created_at  TEXT NOT NULL,
    expires_at  TEXT,
    revoked_at  TEXT
) STRICT
"""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One API key as the gateway knows it. Times are UTC."""

    public_id: str
    agent: str
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    digest: str = field(default="", repr=False)
    hmac_key: str = field(default="", repr=False)

    def holds(self, now: datetime) -> bool:
        """Whether the key opens the door at `now`: neither revoked nor expired."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class KeyTable(StampedFile):
    """The table of API keys in `state`, created on first use. Every failure is a `StoreUnavailable`."""

    def __init__(self, state: Path) -> None:
        super().__init__(state / DATABASE, [_SCHEMA])

    def records(self, wait_s: float = READ_WAIT_S) -> tuple[KeyRecord, ...]:
        """All keys, oldest first, revoked ones included. `wait_s`: see `reading`."""
        with self.reading(wait_s) as connection:
            return tuple(_record(row) for row in connection.execute("SELECT * FROM api_keys ORDER BY created_at, id"))

    def insert(self, record: KeyRecord) -> None:
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    record.public_id,
                    record.agent,
                    record.digest,
                    record.hmac_key,
                    utc_text(record.created),
                    utc_text(record.expires),
                    utc_text(record.revoked),
                ),
            )

    def revoke(self, public_id: str, now: datetime) -> bool:
        """Mark a key as revoked; False where there is none of that id, or it was revoked before."""
        with self.writing() as connection:
            update = "UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"
            return connection.execute(update, (utc_text(now), public_id)).rowcount > 0


def _record(row: tuple[str, str, str, str, str, str | None, str | None]) -> KeyRecord:
    public_id, agent, digest, hmac_key, created, expires, revoked = row
    return KeyRecord(
        public_id=public_id,
        agent=agent,
        created=datetime.fromisoformat(created),
        expires=datetime.fromisoformat(expires) if expires else None,
        revoked=datetime.fromisoformat(revoked) if revoked else None,
        digest=digest,
        hmac_key=hmac_key,
    )


def utc_text(moment: datetime | None) -> str | None:
    """UTC ISO-8601 of fixed width, so that text sorts as time."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")
