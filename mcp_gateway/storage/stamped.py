"""A small table that many look at and few change: readers keep it in memory and learn from a `stat` that it changed.

Readers ask `stamp` before each use whether anybody has committed since. For that the database stays out of WAL mode:
with `journal_mode = DELETE` each commit writes the main file, so its time stamps tell. Time stamps have a granularity;
while the last commit is so young that another one could hide behind the same stamp, `commits` (SQLite's own count) is
what tells.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.opened import opened, translated
from mcp_gateway.storage.private import private_folder

READ_WAIT_S: Final = 0.25
"""How long a reader waits for a writer. Readers sit on the event loop: rather refuse a request than stall them all."""
WRITE_WAIT_S: Final = 5.0
GRANULARITY_NS: Final = 2_000_000_000
"""The coarsest time stamps of a file system that knows file modes (1 s: HFS+, ext4 with small inodes), doubled."""


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


class StampedFile:
    """One database file in the state folder, made by `schema` on first use. Every failure is a `StoreUnavailable`."""

    def __init__(self, path: Path, schema: Sequence[str]) -> None:
        """`schema`: the statements that make version 1; `user_version` is the number of its versions, so far one."""
        private_folder(path.parent)
        self._path = path
        self._lock = threading.Lock()
        self._schema = schema
        self._connection = self._opened()

    def stamp(self) -> Stamp:
        """The state of the file now; costs one `stat`."""
        try:
            found = os.stat(self._path)  # noqa: PTH116  on the path of every request; a Path takes twice as long
        except OSError as e:
            raise StoreUnavailable(f"{self._path} cannot be read: {e.strerror}") from e
        return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def commits(self) -> int:
        """A number that changes when another connection has committed; comparable while nobody calls `reopen`."""
        with self.reading() as connection:
            return int(connection.execute("PRAGMA data_version").fetchone()[0])

    def reopen(self) -> None:
        """Turn to the file that bears the name now: somebody has put another in its place.

        One that cannot be used leaves the table with the file it had: that one may come back.
        """
        with self._lock:
            connection = self._opened()
            self._connection.close()
            self._connection = connection

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for as long as a reader may wait."""
        with self._lock, translated(self._path):
            self._connection.execute(f"PRAGMA busy_timeout = {READ_WAIT_S * 1000:.0f}")
            yield self._connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one statement or a transaction of the caller's own."""
        with self._lock, translated(self._path):
            self._connection.execute(f"PRAGMA busy_timeout = {WRITE_WAIT_S * 1000:.0f}")
            yield self._connection

    def _opened(self) -> sqlite3.Connection:
        pragmas = ("journal_mode = DELETE", "synchronous = FULL")
        return opened(self._path, self._schema, pragmas=pragmas, wait_s=WRITE_WAIT_S)
