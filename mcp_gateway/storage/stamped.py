"""A small table that many look at and few change: readers keep it in memory and learn from a `stat` that it changed.

Readers ask `stamp` before each use whether anybody has committed since. For that the database stays out of WAL mode:
with `journal_mode = DELETE` each commit writes the main file, so its time stamps tell. Time stamps have a granularity;
while the last commit is so young that another one could hide behind the same stamp, `commits` (SQLite's own count) is
what tells.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from mcp_gateway.errors import StoreBusy, StoreUnavailable
from mcp_gateway.storage.opened import opened, translated
from mcp_gateway.storage.private import private_folder

Found = TypeVar("Found")

READ_WAIT_S: Final = 0.25
"""How long a reader waits for a writer; on the event loop with `once_unlocked`, so that nobody else waits, too."""
RETRY_S: Final = 0.01
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


@dataclass(slots=True)
class Sight:
    """One look at the file: what was read after it holds for as long as `StampedFile.still_stands` says so."""

    stamp: Stamp
    commits: int
    is_settled: bool


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

    def look(self) -> Sight:
        """The state of the file before something is read from it: what is committed in between is read, or noticed by
        `still_stands`. Raises `StoreBusy` while somebody writes."""
        looked_at_ns, stamp = time.time_ns(), self.stamp()  # time, stamp, count, in this order
        return Sight(stamp, self.commits(), stamp.is_settled(looked_at_ns))

    def still_stands(self, sight: Sight, stamp: Stamp) -> bool:
        """Whether nobody has committed since; `stamp` is the file's now. Raises `StoreBusy` while somebody writes."""
        if sight.stamp != stamp:
            return False
        if sight.is_settled:
            return True
        asked_at_ns = time.time_ns()
        if sight.commits != self.commits():
            return False
        sight.is_settled = stamp.is_settled(asked_at_ns)  # the file has come to rest: from now on its stamp tells
        return True

    def commits(self) -> int:
        """A number that changes when another connection has committed; comparable while nobody calls `reopen`.

        Raises `StoreBusy` while somebody writes.
        """
        with self.reading(wait_s=0) as connection:
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
    def reading(self, wait_s: float = READ_WAIT_S) -> Iterator[sqlite3.Connection]:
        """The connection. Raises `StoreBusy` where somebody writes for longer than `wait_s`; on the event loop: 0."""
        if not self._lock.acquire(timeout=wait_s):
            raise StoreBusy(f"{self._path} is being written to")
        try:
            with translated(self._path):
                self._connection.execute(f"PRAGMA busy_timeout = {wait_s * 1000:.0f}")
                yield self._connection
        finally:
            self._lock.release()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one statement or a transaction of the caller's own."""
        with self._lock, translated(self._path):
            self._connection.execute(f"PRAGMA busy_timeout = {WRITE_WAIT_S * 1000:.0f}")
            yield self._connection

    def _opened(self) -> sqlite3.Connection:
        pragmas = ("journal_mode = DELETE", "synchronous = FULL")
        return opened(self._path, self._schema, pragmas=pragmas, wait_s=WRITE_WAIT_S)


async def once_unlocked(ask: Callable[[], Found]) -> Found:
    """What `ask` returns, which must not wait: asked again for `READ_WAIT_S` while somebody writes to what it reads.

    Raises what `ask` raises, `StoreBusy` in the end.
    """
    give_up_at = time.monotonic() + READ_WAIT_S
    while True:
        try:
            return ask()
        except StoreBusy:
            if time.monotonic() >= give_up_at:
                raise
        await asyncio.sleep(RETRY_S)


def waiting_until_unlocked(ask: Callable[[], Found]) -> Found:
    """`once_unlocked` where nothing else is to be done meanwhile."""
    give_up_at = time.monotonic() + READ_WAIT_S
    while True:
        try:
            return ask()
        except StoreBusy:
            if time.monotonic() >= give_up_at:
                raise
        time.sleep(RETRY_S)
