"""How a store of ours is opened, brought up to date, and written to: the same for every small SQLite file.

Private to the gateway's own user from its first byte; made by whoever comes first, while others wait; refused where a
newer program wrote it. What SQLite says becomes `StoreUnavailable`, with the file it was about.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mcp_gateway.errors import StoreBusy, StoreUnavailable
from mcp_gateway.storage.private import private_file

SCHEMA_VERSION: Final = 1
"""All of these files are in their first version so far; `PRAGMA user_version` says so in each."""


def opened(path: Path, schema: Sequence[str], *, pragmas: Sequence[str], wait_s: float) -> sqlite3.Connection:
    """A connection for several threads that take turns, with nothing begun. Raises `StoreUnavailable`.

    `schema`: the statements that make the file; `pragmas`: what holds for the connection, such as
    `journal_mode = WAL`; `wait_s`: how long it waits for another's write.
    """
    with translated(path):
        private_file(path)
        db = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
        try:
            with _one_at_a_time(path.parent):
                for pragma in pragmas:
                    db.execute(f"PRAGMA {pragma}")
                _migrate(db, path, schema)
        except BaseException:
            db.close()
            raise
        return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All of the block or nothing of it; the write lock is taken first."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """What goes wrong with a file as `StoreUnavailable`."""
    try:
        yield
    except (sqlite3.Error, OSError) as e:
        # SQLite's own errors carry its code, extended in the higher bytes.
        is_busy = getattr(e, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
        raise (StoreBusy if is_busy else StoreUnavailable)(f"{path}: {e}") from e


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Nobody else opens a store of this folder meanwhile: of several that turn one file to WAL, SQLite fails some."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _migrate(db: sqlite3.Connection, path: Path, schema: Sequence[str]) -> None:
    if _version(db) == SCHEMA_VERSION:
        return
    with transaction(db):
        version = _version(db)  # again: another process may have been faster
        if version > SCHEMA_VERSION:
            raise StoreUnavailable(f"{path} was written by a newer mcp-gateway: use that version, or a backup")
        if version < SCHEMA_VERSION:
            for statement in schema:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION:d}")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
