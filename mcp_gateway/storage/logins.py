"""Accounts, clients and grants of the embedded authorization server: `logins.db` in the state folder, hashes only.

No password and no refresh token is kept, only what checks them. Every method is one short transaction and waits for the
disk: call them on a thread. What several processes change (a person removed on the command line) the others see with
their next question.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from mcp_gateway.storage.opened import opened, transaction, translated
from mcp_gateway.storage.private import private_folder

DATABASE: Final = "logins.db"
WAIT_S: Final = 5.0
MAX_CLIENTS: Final = 1_000
"""Registered programs. Anybody may register, so the one that was used least recently gives way."""

_SCHEMA: Final = (
    """
    CREATE TABLE people (
        name        TEXT PRIMARY KEY,
        password    TEXT NOT NULL,      -- scrypt, with its parameters and salt
        created_at  REAL NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE clients (
        id          TEXT PRIMARY KEY,
        document    TEXT NOT NULL,      -- what it registered (RFC 7591), checked
        used_at     REAL NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE grants (
        id          TEXT PRIMARY KEY,
        person      TEXT NOT NULL,
        client      TEXT NOT NULL,
        resource    TEXT NOT NULL,
        scope       TEXT NOT NULL,
        created_at  REAL NOT NULL,
        expires_at  REAL NOT NULL,
        revoked_at  REAL
    ) STRICT
    """,
    """
    CREATE TABLE refresh_tokens (
        digest      TEXT PRIMARY KEY,   -- SHA-256 of the token
        grant_id    TEXT NOT NULL REFERENCES grants(id),
        used_at     REAL
    ) STRICT
    """,
    "CREATE INDEX grants_person ON grants(person)",
)


@dataclass(frozen=True, slots=True)
class Grant:
    """What one person allowed one program."""

    id: str
    person: str
    client: str
    resource: str
    scope: str
    created_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Person:
    """One local account."""

    name: str
    created_at: float
    password: str = field(default="", repr=False)


class Refreshed(StrEnum):
    """What became of a refresh token."""

    ROTATED = "rotated"
    REUSED = "reused"  # it had been used before: its grant is revoked now
    UNKNOWN = "unknown"  # never issued, expired, revoked, or another program's


class LoginStore:
    """The database in `state`, created on first use. Every failure is a `StoreUnavailable`."""

    def __init__(self, state: Path) -> None:
        private_folder(state)
        self._path = state / DATABASE
        self._lock = threading.Lock()
        pragmas = ("journal_mode = DELETE", "synchronous = FULL")
        self._connection = opened(self._path, _SCHEMA, pragmas=pragmas, wait_s=WAIT_S)

    def add_person(self, person: Person) -> bool:
        """Add an account; False where there is one of that name."""
        with self._transaction() as db:
            insert = "INSERT OR IGNORE INTO people VALUES (?, ?, ?)"
            return db.execute(insert, (person.name, person.password, person.created_at)).rowcount > 0

    def people(self) -> tuple[Person, ...]:
        """All accounts, by name."""
        with self._transaction() as db:
            rows = db.execute("SELECT name, created_at, password FROM people ORDER BY name").fetchall()
        return tuple(Person(*row) for row in rows)

    def person(self, name: str) -> Person | None:
        with self._transaction() as db:
            row = db.execute("SELECT name, created_at, password FROM people WHERE name = ?", (name,)).fetchone()
        return None if row is None else Person(*row)

    def remove_person(self, name: str, now_s: float) -> bool:
        """Remove an account and revoke all it allowed; False where there is none."""
        with self._transaction() as db:
            db.execute("UPDATE grants SET revoked_at = ? WHERE person = ? AND revoked_at IS NULL", (now_s, name))
            return db.execute("DELETE FROM people WHERE name = ?", (name,)).rowcount > 0

    def add_client(self, client_id: str, document: str, now_s: float) -> None:
        """Keep what a program registered; beyond `MAX_CLIENTS` the least recently used one is forgotten."""
        with self._transaction() as db:
            db.execute("INSERT INTO clients VALUES (?, ?, ?)", (client_id, document, now_s))
            db.execute(
                "DELETE FROM clients WHERE id NOT IN (SELECT id FROM clients ORDER BY used_at DESC LIMIT ?)",
                (MAX_CLIENTS,),
            )

    def client(self, client_id: str, now_s: float) -> str | None:
        """What a program registered; asking counts as use."""
        with self._transaction() as db:
            db.execute("UPDATE clients SET used_at = ? WHERE id = ?", (now_s, client_id))
            row = db.execute("SELECT document FROM clients WHERE id = ?", (client_id,)).fetchone()
        return None if row is None else str(row[0])

    def add_grant(self, grant: Grant, refresh_digest: str) -> None:
        """Keep a grant and its first refresh token; what has ended long ago is forgotten."""
        with self._transaction() as db:
            over = "SELECT id FROM grants WHERE expires_at < ?"
            db.execute(f"DELETE FROM refresh_tokens WHERE grant_id IN ({over})", (grant.created_at,))  # noqa: S608
            db.execute("DELETE FROM grants WHERE expires_at < ?", (grant.created_at,))
            row = (grant.id, grant.person, grant.client, grant.resource, grant.scope, grant.created_at)
            db.execute("INSERT INTO grants VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", (*row, grant.expires_at))
            db.execute("INSERT INTO refresh_tokens VALUES (?, ?, NULL)", (refresh_digest, grant.id))

    def refresh(self, digest: str, client: str, successor: str, now_s: float) -> tuple[Refreshed, Grant | None]:
        """Use a refresh token up and put `successor` in its place, in one step.

        One that had been used before revokes its grant (RFC 9700 section 4.14.2): two hold it, and one is a thief.
        """
        with self._transaction() as db:
            found = db.execute(
                """SELECT t.used_at, g.revoked_at, g.id, g.person, g.client, g.resource, g.scope, g.created_at,
                          g.expires_at
                   FROM refresh_tokens t JOIN grants g ON g.id = t.grant_id WHERE t.digest = ?""",
                (digest,),
            ).fetchone()
            grant = None if found is None else Grant(*found[2:])
            if grant is None or found[1] is not None or grant.client != client or grant.expires_at <= now_s:
                return Refreshed.UNKNOWN, None
            if found[0] is not None:
                db.execute("UPDATE grants SET revoked_at = ? WHERE id = ?", (now_s, grant.id))
                return Refreshed.REUSED, grant
            db.execute("UPDATE refresh_tokens SET used_at = ? WHERE digest = ?", (now_s, digest))
            db.execute("INSERT INTO refresh_tokens VALUES (?, ?, NULL)", (successor, grant.id))
        return Refreshed.ROTATED, grant

    def revoke(self, grant_id: str, now_s: float) -> bool:
        """Revoke a grant; False where there is none to revoke."""
        with self._transaction() as db:
            update = "UPDATE grants SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"
            return db.execute(update, (now_s, grant_id)).rowcount > 0

    def grant_of(self, digest: str, client: str) -> str | None:
        """The id of the grant that a refresh token belongs to, if it is this program's."""
        with self._transaction() as db:
            row = db.execute(
                """SELECT g.id FROM refresh_tokens t JOIN grants g ON g.id = t.grant_id
                   WHERE t.digest = ? AND g.client = ?""",
                (digest, client),
            ).fetchone()
        return None if row is None else str(row[0])

    def revoked(self, since_s: float) -> frozenset[str]:
        """The grants that were revoked since then."""
        with self._transaction() as db:
            return frozenset(row[0] for row in db.execute("SELECT id FROM grants WHERE revoked_at >= ?", (since_s,)))

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(self._path), transaction(self._connection):
            yield self._connection
