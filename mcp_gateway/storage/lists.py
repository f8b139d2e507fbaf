"""What upstreams listed to each person, kept over a restart: `lists.db` in the state folder.

A list may tell what a person has somewhere, so the file is as private as the vault; it holds no token. It is a memory,
nothing that decides: what is lost is asked for again. Every method is one short transaction and waits for the disk.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Final

from mcp_gateway.storage.opened import opened, transaction, translated
from mcp_gateway.storage.private import private_folder

DATABASE: Final = "lists.db"
WAIT_S: Final = 5.0
MAX_ROWS: Final = 2_000

_SCHEMA: Final = (
    """
CREATE TABLE IF NOT EXISTS lists (
    upstream  TEXT NOT NULL,
    owner     TEXT NOT NULL,      -- whose; empty: what is listed to those without a login
    reached   TEXT NOT NULL,      -- digest of the server that said it: another URL is another server
    listing   BLOB NOT NULL,      -- JSON
    at        REAL NOT NULL,      -- seconds since the epoch
    PRIMARY KEY (upstream, owner)
) STRICT""",
)


@dataclass(frozen=True, slots=True)
class ListRow:
    """One list."""

    upstream: str
    owner: str
    reached: str
    listing: bytes = field(repr=False)
    at: float = 0.0


class ListStore:
    """The lists of one state folder, made on first use. Every failure is a `StoreUnavailable`."""

    def __init__(self, state: Path) -> None:
        self._path = state / DATABASE
        self._thread = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def all(self) -> list[ListRow]:
        """The most recent lists, no more than are kept."""
        query = "SELECT upstream, owner, reached, listing, at FROM lists ORDER BY at DESC LIMIT ?"
        with self._using() as connection:
            return [ListRow(*row) for row in connection.execute(query, (MAX_ROWS,))]

    def put(self, rows: Iterable[ListRow], gone: Iterable[tuple[str, str]] = ()) -> None:
        """Keep lists in place of those before, forget those of `gone` (upstream, owner), and the oldest of too many."""
        drop = "DELETE FROM lists WHERE rowid NOT IN (SELECT rowid FROM lists ORDER BY at DESC LIMIT ?)"
        with self._using() as connection, transaction(connection):
            connection.executemany("DELETE FROM lists WHERE upstream = ? AND owner = ?", list(gone))
            connection.executemany("INSERT OR REPLACE INTO lists VALUES (?, ?, ?, ?, ?)", map(astuple, rows))
            connection.execute(drop, (MAX_ROWS,))

    def close(self) -> None:
        """Let go of the file; using it opens it again."""
        with self._thread:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._thread, translated(self._path):
            if self._connection is None:
                private_folder(self._path.parent)
                pragmas = ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON")
                self._connection = opened(self._path, _SCHEMA, pragmas=pragmas, wait_s=WAIT_S)
            yield self._connection
