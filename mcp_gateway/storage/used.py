"""What may be used once and was: kept until it would have expired anyway, in `used.db` in the state folder.

Taking is one short transaction, so of two processes that share the folder only one gets a thing, and none gets it again
after a restart. Meant to be called from a thread: it waits for the disk. The file is made when it is first needed.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.private import private_file, private_folder

DATABASE: Final = "used.db"
BUSY_S: Final = 5.0
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of the table: about a million things used within their lives."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS used (
    digest      BLOB PRIMARY KEY,
    expires_at  INTEGER NOT NULL    -- seconds since the epoch
) STRICT, WITHOUT ROWID
"""


class UsedOnce:
    """The things of one state folder that were used up. Every failure is a `StoreUnavailable`."""

    def __init__(self, state: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = state / DATABASE
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def take(self, digest: bytes, expires_at: int, now: int) -> bool | None:
        """Use a thing up; False where it was already, None where so many are remembered that nobody can tell.

        Times are seconds since the epoch.
        """
        with self._lock:
            try:
                db = self._opened()
                with db:  # one transaction
                    db.execute("DELETE FROM used WHERE expires_at < ?", (now,))
                    if _size(db) > self._max_bytes:
                        return None
                    added = db.execute("INSERT OR IGNORE INTO used VALUES (?, ?)", (digest, expires_at))
                    return added.rowcount == 1
            except sqlite3.Error as e:
                raise StoreUnavailable(f"{self._path}: {e}") from e

    def close(self) -> None:
        """Let go of the file; taking something opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            private_folder(self._path.parent)
            private_file(self._path)
            connection = sqlite3.connect(self._path, timeout=BUSY_S, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(_SCHEMA)
                connection.execute("CREATE INDEX IF NOT EXISTS used_expires_at ON used(expires_at)")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.close()
                raise
            self._connection = connection
        return self._connection


def _size(db: sqlite3.Connection) -> int:
    pages, free, page_size = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * page_size
