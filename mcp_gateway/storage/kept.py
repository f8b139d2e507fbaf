"""What calls carried, as it is kept where a policy says so: `kept.db` in the state folder, sealed content only.

Knows nothing of sealing. What stands in the clear is what the audit says too: whose call, of what, when, a digest.
Every row has an end; what is beyond it is not read any more, and gone with the next purge. Meant to be called from a
thread.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.opened import opened, transaction, translated
from mcp_gateway.storage.private import private_folder

DATABASE: Final = "kept.db"
WAIT_S: Final = 5.0
MAX_BYTES: Final = 16 * 1024**3
"""Of the file: beyond it nothing more is kept until some of it has gone."""

_SCHEMA: Final = (
    """
CREATE TABLE IF NOT EXISTS kept (
    request_id     TEXT NOT NULL,      -- the audit's
    part           TEXT NOT NULL,      -- 'arguments' or 'results'
    at             REAL NOT NULL,      -- seconds since the epoch
    expires_at     REAL NOT NULL,
    agent          TEXT NOT NULL,
    task           TEXT NOT NULL,
    target         TEXT NOT NULL,
    media_type     TEXT NOT NULL,
    sha256         TEXT NOT NULL,      -- of the content, as the audit has it
    size           INTEGER NOT NULL,   -- bytes of the content
    is_cut         INTEGER NOT NULL,   -- whether there was more
    key_id         TEXT NOT NULL,      -- which vault key sealed it
    sealed         BLOB NOT NULL,
    PRIMARY KEY (request_id, part)
) STRICT""",
    "CREATE INDEX IF NOT EXISTS kept_expires_at ON kept(expires_at)",
    "CREATE INDEX IF NOT EXISTS kept_at ON kept(at)",
)


@dataclass(frozen=True, slots=True)
class KeptRow:
    """One part of one call. Times are seconds since the epoch."""

    request_id: str
    part: str
    at: float
    expires_at: float
    agent: str
    task: str
    target: str
    media_type: str
    sha256: str
    size: int
    is_cut: bool
    key_id: str
    sealed: bytes = field(repr=False)


_COLUMNS: Final = ", ".join(each.name for each in fields(KeptRow))
_MARKS: Final = ", ".join("?" * len(fields(KeptRow)))


class KeptStore:
    """The kept content of one state folder. Every failure is a `StoreUnavailable`."""

    def __init__(self, state: Path, max_bytes: int = MAX_BYTES) -> None:
        private_folder(state)
        self._path = state / DATABASE
        self._max_bytes = max_bytes
        self._thread = threading.Lock()
        # secure_delete: what has gone is overwritten, not only let go of.
        pragmas = ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON")
        self._connection = opened(self._path, _SCHEMA, pragmas=pragmas, wait_s=WAIT_S)

    def put(self, rows: Sequence[KeptRow], now: float) -> None:
        """Keep these, and let go of what has ended."""
        with self._writing() as db:
            db.execute("DELETE FROM kept WHERE expires_at <= ?", (now,))
            if _size(db) > self._max_bytes:
                raise StoreUnavailable(f"{self._path} is full: mcp-gateway content purge")
            db.executemany(f"INSERT OR REPLACE INTO kept ({_COLUMNS}) VALUES ({_MARKS})", map(astuple, rows))  # noqa: S608

    def of(self, request_id: str, now: float) -> list[KeptRow]:
        """What is kept of one call, its arguments first."""
        query = f"SELECT {_COLUMNS} FROM kept WHERE request_id = ? AND expires_at > ? ORDER BY part"  # noqa: S608
        return self._rows(query, (request_id, now))

    def newest(self, now: float, *, agent: str | None = None, limit: int = 100) -> list[KeptRow]:
        """What is kept, the newest first."""
        where = "WHERE expires_at > ? AND ? IN ('', agent)"
        query = f"SELECT {_COLUMNS} FROM kept {where} ORDER BY at DESC, part LIMIT ?"  # noqa: S608
        return self._rows(query, (now, agent or "", limit))

    def purge(self, now: float, *, request_id: str | None = None, before: float | None = None) -> int:
        """Let go of one call's, or of what was kept before then, and always of what has ended; how many parts."""
        with self._writing() as db:
            gone = db.execute("DELETE FROM kept WHERE expires_at <= ?", (now,)).rowcount
            if request_id is not None:
                gone += db.execute("DELETE FROM kept WHERE request_id = ?", (request_id,)).rowcount
            if before is not None:
                gone += db.execute("DELETE FROM kept WHERE at < ?", (before,)).rowcount
        if gone:
            with translated(self._path), self._thread:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return gone

    def sealed_otherwise(self, key_id: str, limit: int) -> list[KeptRow]:
        """Some of what another key has sealed."""
        return self._rows(f"SELECT {_COLUMNS} FROM kept WHERE key_id <> ? LIMIT ?", (key_id, limit))  # noqa: S608

    def close(self) -> None:
        """Let go of the file."""
        with self._thread:
            self._connection.close()

    def _rows(self, query: str, values: Sequence[object]) -> list[KeptRow]:
        with translated(self._path), self._thread:
            return [_row(row) for row in self._connection.execute(query, values)]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with translated(self._path), self._thread, transaction(self._connection) as db:
            yield db


def _row(values: Sequence[Any]) -> KeptRow:
    row = KeptRow(*values)
    return replace(row, is_cut=bool(row.is_cut))


_SIZES: Final = ("page_count", "freelist_count", "page_size")


def _size(db: sqlite3.Connection) -> int:
    """Bytes in use."""
    pages, free, size = (db.execute(f"PRAGMA {each}").fetchone()[0] for each in _SIZES)
    return int((pages - free) * size)
