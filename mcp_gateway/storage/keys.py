"""API keys as they are kept: `gateway.db` in the state folder, keyed hashes only, never a key itself.

Readers keep all records in memory and ask `stamp` before each use whether anybody has committed since. For that the
database stays out of WAL mode: with `journal_mode = DELETE` each commit writes the main file, so its time stamps tell.
Time stamps have a granularity; while the last commit is so young that another one could hide behind the same stamp,
`commits` (SQLite's own count) is what tells. Knows nothing of tokens and hashing.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.private import private_file, private_folder

DATABASE: Final = "gateway.db"
SCHEMA_VERSION: Final = 1
READ_WAIT_S: Final = 0.25
"""How long a reader waits for a writer. Readers sit on the event loop: rather refuse a request than stall them all."""
WRITE_WAIT_S: Final = 5.0
GRANULARITY_NS: Final = 2_000_000_000
"""The coarsest time stamps of a file system that knows file modes (1 s: HFS+, ext4 with small inodes), doubled."""

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


class Stamp(NamedTuple):
    """Which state of the file was seen; two that differ mean that something was committed in between."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    def is_settled(self, seen_ns: int) -> bool:
        """Whether a commit after `seen_ns` (wall clock) is bound to change the stamp."""
        return seen_ns - max(self.modified_ns, self.changed_ns) > GRANULARITY_NS


class KeyTable:
    """The table of API keys in `state`, created on first use. Every failure is a `StoreUnavailable`."""

    def __init__(self, state: Path) -> None:
        private_folder(state)
        self._path = state / DATABASE
        self._lock = threading.Lock()
        self._connection = self._connect()

    def stamp(self) -> Stamp:
        """The state of the file now; costs one `stat`."""
        try:
            found = os.stat(self._path)  # noqa: PTH116  on the path of every request; a Path takes twice as long
        except OSError as e:
            raise StoreUnavailable(f"{self._path} cannot be read: {e.strerror}") from e
        return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def commits(self) -> int:
        """A number that changes when another connection has committed; comparable while nobody calls `reopen`."""
        with self._reading() as connection:
            return int(connection.execute("PRAGMA data_version").fetchone()[0])

    def records(self) -> tuple[KeyRecord, ...]:
        """All keys, oldest first, revoked ones included."""
        with self._reading() as connection:
            return tuple(_record(row) for row in connection.execute("SELECT * FROM api_keys ORDER BY created_at, id"))

    def insert(self, record: KeyRecord) -> None:
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    record.public_id,
                    record.agent,
                    record.digest,
                    record.hmac_key,
                    _text(record.created),
                    _text(record.expires),
                    _text(record.revoked),
                ),
            )

    def revoke(self, public_id: str, now: datetime) -> bool:
        """Mark a key as revoked; False where there is none of that id, or it was revoked before."""
        with self._writing() as connection:
            update = "UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"
            return connection.execute(update, (_text(now), public_id)).rowcount > 0

    def reopen(self) -> None:
        """Turn to the file that bears the name now: somebody has put another in its place.

        One that cannot be used leaves the table with the file it had: that one may come back.
        """
        with self._lock:
            connection = self._connect()
            self._connection.close()
            self._connection = connection

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _connect(self) -> sqlite3.Connection:
        private_file(self._path)
        with self._translated():
            connection = sqlite3.connect(
                self._path, timeout=WRITE_WAIT_S, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("PRAGMA synchronous = FULL")
                self._migrate(connection)
            except BaseException:
                connection.close()
                raise
            return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise StoreUnavailable(f"{self._path} was written by a newer mcp-gateway: use that version, or a backup")
        if version < SCHEMA_VERSION:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION:d}")
            connection.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated():
            self._connection.execute(f"PRAGMA busy_timeout = {READ_WAIT_S * 1000:.0f}")
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translated():
            self._connection.execute(f"PRAGMA busy_timeout = {WRITE_WAIT_S * 1000:.0f}")
            yield self._connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as e:
            raise StoreUnavailable(f"{self._path}: {e}") from e


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


def _text(moment: datetime | None) -> str | None:
    """UTC ISO-8601 of fixed width, so that text sorts as time."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")
