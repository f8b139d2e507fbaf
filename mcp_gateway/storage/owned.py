"""Whose is what model providers keep: `owned.db` in the state folder, one row for each id that agents may use.

A provider keeps responses, conversations, files under one key for everybody, so an id alone says nothing about who may
use it. A row is written before an agent hears of an id; an id without a row is nobody's. Meant to be called from a
thread: it waits for the disk.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

from mcp_gateway.storage.opened import opened, transaction, translated
from mcp_gateway.storage.private import private_folder

DATABASE: Final = "owned.db"
BUSY_S: Final = 5.0
TIDY_EVERY: Final = 1_000
MAX_PER_OWNER: Final = 100_000
"""Beyond it an owner's oldest are forgotten: they stay at the provider, and are nobody's here."""

_SCHEMA: Final = (
    """
CREATE TABLE owned (
    provider    TEXT NOT NULL,
    id          TEXT NOT NULL,       -- the provider's own
    kind        TEXT NOT NULL,       -- 'response', 'conversation', 'container', ...
    owner       TEXT NOT NULL,       -- agent, person, task and started task, as JSON
    credential  TEXT NOT NULL,       -- keyed hash of what we are known by there
    model       TEXT NOT NULL,       -- the name the agent asked for: what policy judges later uses by
    target      TEXT NOT NULL,       -- the provider's own name of the model
    tokens      INTEGER NOT NULL,    -- what going on from here takes as input, about
    is_open     INTEGER NOT NULL,    -- 1: it goes on by itself, and what it takes is not known yet
    made_at     INTEGER NOT NULL,    -- seconds since the epoch
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (provider, id)
) STRICT, WITHOUT ROWID
""",
    "CREATE INDEX owned_owner ON owned(owner, kind, id)",
    "CREATE INDEX owned_expires_at ON owned(expires_at)",
)


@dataclass(frozen=True, slots=True)
class Owned:
    """One row."""

    provider: str
    id: str
    kind: str
    owner: str
    credential: str
    model: str
    target: str
    tokens: int
    is_open: bool
    made_at: int
    expires_at: int


class OwnedStore:
    """What the agents of one state folder own. Every failure is a `StoreUnavailable`. May be used from any thread."""

    def __init__(self, state: Path, max_per_owner: int = MAX_PER_OWNER) -> None:
        private_folder(state)
        self._path = state / DATABASE
        self._max_per_owner = max_per_owner
        self._lock = threading.Lock()
        self._since_tidy = TIDY_EVERY
        pragmas = ("journal_mode = WAL", "synchronous = NORMAL")
        self._db = opened(self._path, _SCHEMA, pragmas=pragmas, wait_s=BUSY_S)

    def add(self, owned: Owned) -> bool:
        """Write down whose an id is; False where it is somebody else's already, and stays theirs."""
        with self._transaction() as db:
            self._tidy(db, owned)
            db.execute("INSERT OR IGNORE INTO owned VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(owned))
            key = (owned.provider, owned.id)
            owner = db.execute("SELECT owner, credential FROM owned WHERE provider = ? AND id = ?", key).fetchone()
            return tuple(owner) == (owned.owner, owned.credential)

    def find(self, owner: str, kind: str, id_: str, now: int) -> Owned | None:
        """What this owner means by an id; of two providers' the newer."""
        query = "SELECT * FROM owned WHERE owner = ? AND kind = ? AND id = ? AND expires_at > ? ORDER BY made_at DESC"
        with self._lock, translated(self._path):
            row = self._db.execute(query, (owner, kind, id_, now)).fetchone()
        return None if row is None else Owned(*row)

    def finish(self, provider: str, id_: str) -> bool:
        """What went on by itself has ended; False where somebody has been told so before."""
        with self._transaction() as db:
            query = "UPDATE owned SET is_open = 0 WHERE provider = ? AND id = ? AND is_open = 1"
            return db.execute(query, (provider, id_)).rowcount == 1

    def reopen(self, provider: str, id_: str) -> None:
        """It goes on by itself after all."""
        with self._transaction() as db:
            db.execute("UPDATE owned SET is_open = 1 WHERE provider = ? AND id = ?", (provider, id_))

    def grow(self, provider: str, ids: Sequence[str], tokens: int) -> None:
        """Going on from these takes so many tokens of input."""
        with self._transaction() as db:
            rows = [(tokens, provider, id_) for id_ in ids]
            db.executemany("UPDATE owned SET tokens = ? WHERE provider = ? AND id = ?", rows)

    def remove(self, provider: str, id_: str) -> None:
        """It is gone at the provider."""
        with self._transaction() as db:
            db.execute("DELETE FROM owned WHERE provider = ? AND id = ?", (provider, id_))

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _tidy(self, db: sqlite3.Connection, owned: Owned) -> None:
        """Now and then: forget what is over, and what one owner has too many of."""
        self._since_tidy += 1
        if self._since_tidy < TIDY_EVERY:
            return
        self._since_tidy = 0
        db.execute("DELETE FROM owned WHERE expires_at <= ?", (owned.made_at,))
        query = "SELECT made_at FROM owned WHERE owner = ? ORDER BY made_at DESC LIMIT 1 OFFSET ?"
        too_many = "SELECT owner FROM owned GROUP BY owner HAVING count(*) > ?"
        for (owner,) in db.execute(too_many, (self._max_per_owner,)).fetchall():
            oldest = db.execute(query, (owner, self._max_per_owner)).fetchone()[0]
            db.execute("DELETE FROM owned WHERE owner = ? AND made_at <= ?", (owner, oldest))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(self._path), transaction(self._db):
            yield self._db
