"""Upstream logins as they are kept: `vault.db` in the state folder, sealed tokens only, never a token itself.

Knows nothing of sealing and tokens. What stands in the clear is what a status has to tell: whose, for which upstream,
from which issuer, until when. Every write survives the loss of power (synchronous FULL): a refresh token that the
authorization server has replaced is gone for good if the new one is.

Who renews a login holds a lock of the operating system while doing so (`renewing`), which ends with its process.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Final

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.opened import opened, transaction, translated
from mcp_gateway.storage.private import private_file, private_folder

DATABASE: Final = "vault.db"
LOCK_FILE: Final = "vault.lock"
WAIT_S: Final = 5.0
MAX_LOGINS: Final = 1_000_000

_SCHEMA: Final = (
    """
CREATE TABLE IF NOT EXISTS logins (
    owner          TEXT NOT NULL,      -- a person or an agent
    upstream       TEXT NOT NULL,
    issuer         TEXT NOT NULL,      -- the authorization server
    resource       TEXT NOT NULL,      -- what the tokens are for (RFC 8707)
    scopes         TEXT NOT NULL,      -- granted, separated by spaces, sorted
    asked_scopes   TEXT NOT NULL,      -- what was asked for
    client_id      TEXT NOT NULL,
    key_id         TEXT NOT NULL,      -- which vault key sealed the tokens
    sealed         BLOB NOT NULL,      -- empty once the login is over
    expires_at     REAL,               -- of the access token; seconds since the epoch
    renewable      INTEGER NOT NULL,   -- whether there is a refresh token
    obtained_at    REAL NOT NULL,
    version        INTEGER NOT NULL,   -- another one after every change of the tokens
    renewal_began  REAL,               -- set while a renewal's answer has not been stored
    last_error     TEXT NOT NULL,
    last_error_at  REAL,
    PRIMARY KEY (owner, upstream)
) STRICT""",
    """
CREATE TABLE IF NOT EXISTS clients (
    issuer         TEXT NOT NULL,      -- the only server that may see these credentials
    redirect_uri   TEXT NOT NULL,
    client_id      TEXT NOT NULL,
    method         TEXT NOT NULL,      -- how the client proves itself at the token endpoint
    key_id         TEXT NOT NULL,
    sealed         BLOB NOT NULL,      -- its secret
    expires_at     REAL,
    PRIMARY KEY (issuer, redirect_uri)
) STRICT""",
    """
CREATE TABLE IF NOT EXISTS pinned (
    client_id      TEXT NOT NULL,
    upstream       TEXT NOT NULL,
    issuer         TEXT NOT NULL,      -- the first one that a client id without a configured issuer was used with
    PRIMARY KEY (client_id, upstream)
) STRICT""",
)


@dataclass(frozen=True, slots=True)
class LoginRow:
    """One owner's login at one upstream. Times are seconds since the epoch."""

    owner: str
    upstream: str
    issuer: str
    resource: str
    scopes: str
    asked_scopes: str
    client_id: str
    key_id: str
    sealed: bytes = field(repr=False)
    expires_at: float | None
    renewable: bool
    obtained_at: float
    version: int = 1
    renewal_began: float | None = None
    last_error: str = ""
    last_error_at: float | None = None


@dataclass(frozen=True, slots=True)
class ClientRow:
    """One registration of ours at one authorization server."""

    issuer: str
    redirect_uri: str
    client_id: str
    method: str
    key_id: str
    sealed: bytes = field(repr=False)
    expires_at: float | None = None


_LOGIN: Final = ", ".join(each.name for each in fields(LoginRow))
_CLIENT: Final = ", ".join(each.name for each in fields(ClientRow))


class VaultTable:
    """The vault's database in `state`, created on first use. Every failure is a `StoreUnavailable`."""

    def __init__(self, state: Path) -> None:
        private_folder(state)
        self._path = state / DATABASE
        self._thread = threading.Lock()
        pragmas = ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON")
        self._connection = opened(self._path, _SCHEMA, pragmas=pragmas, wait_s=WAIT_S)
        self._locks = _Locks(state / LOCK_FILE)

    def login(self, owner: str, upstream: str) -> LoginRow | None:
        query = f"SELECT {_LOGIN} FROM logins WHERE owner = ? AND upstream = ?"  # noqa: S608  names of columns
        with self._using() as connection:
            row = connection.execute(query, (owner, upstream)).fetchone()
        return None if row is None else _login(row)

    def logins(self, upstream: str | None = None) -> tuple[LoginRow, ...]:
        """All logins, or those at one upstream; the most recently obtained first."""
        query = f"SELECT {_LOGIN} FROM logins WHERE ? IN ('', upstream) ORDER BY obtained_at DESC"  # noqa: S608
        with self._using() as connection:
            return tuple(_login(row) for row in connection.execute(query, (upstream or "",)))

    def put(self, row: LoginRow) -> None:
        """Keep a login in place of the owner's one before. Raises `StoreUnavailable` where there are too many."""
        marks = ", ".join("?" * len(fields(LoginRow)))
        with self._writing() as connection:
            [count] = connection.execute("SELECT count(*) FROM logins").fetchone()
            if count >= MAX_LOGINS:
                raise StoreUnavailable(f"{self._path} holds {MAX_LOGINS} logins: remove some (mcp-gateway logout)")
            connection.execute(f"INSERT OR REPLACE INTO logins ({_LOGIN}) VALUES ({marks})", astuple(row))  # noqa: S608

    def replace_tokens(self, before: LoginRow, after: LoginRow) -> bool:
        """Keep `after` if nobody has changed the tokens since `before` was read; False: somebody has."""
        columns = [each.name for each in fields(LoginRow) if each.name not in ("owner", "upstream")]
        values = [getattr(after, name) for name in columns]
        update = f"UPDATE logins SET {', '.join(f'{name} = ?' for name in columns)}"  # noqa: S608  names of columns
        where = " WHERE owner = ? AND upstream = ? AND version = ?"
        with self._writing() as connection:
            changed = connection.execute(update + where, (*values, before.owner, before.upstream, before.version))
            return changed.rowcount > 0

    def begin_renewal(self, row: LoginRow, now: float) -> None:
        """Write down that the refresh token of `row` is about to be used."""
        update = "UPDATE logins SET renewal_began = ? WHERE owner = ? AND upstream = ? AND version = ?"
        with self._writing() as connection:
            connection.execute(update, (now, row.owner, row.upstream, row.version))

    def note_error(self, row: LoginRow, error: str, now: float) -> None:
        """Remember why a renewal failed; the tokens stay."""
        update = (
            "UPDATE logins SET last_error = ?, last_error_at = ?, renewal_began = ?"
            " WHERE owner = ? AND upstream = ? AND version = ?"
        )
        with self._writing() as connection:
            values = (error, now, row.renewal_began, row.owner, row.upstream, row.version)
            connection.execute(update, values)

    def delete(self, owner: str, upstream: str) -> bool:
        """Forget a login; False where there is none."""
        with self._writing() as connection:
            done = connection.execute("DELETE FROM logins WHERE owner = ? AND upstream = ?", (owner, upstream))
            return done.rowcount > 0

    def client(self, issuer: str, redirect_uri: str) -> ClientRow | None:
        query = f"SELECT {_CLIENT} FROM clients WHERE issuer = ? AND redirect_uri = ?"  # noqa: S608
        with self._using() as connection:
            row = connection.execute(query, (issuer, redirect_uri)).fetchone()
        return None if row is None else ClientRow(*row)

    def client_by_id(self, issuer: str, client_id: str) -> ClientRow | None:
        query = f"SELECT {_CLIENT} FROM clients WHERE issuer = ? AND client_id = ?"  # noqa: S608
        with self._using() as connection:
            row = connection.execute(query, (issuer, client_id)).fetchone()
        return None if row is None else ClientRow(*row)

    def clients(self) -> tuple[ClientRow, ...]:
        with self._using() as connection:
            return tuple(ClientRow(*row) for row in connection.execute(f"SELECT {_CLIENT} FROM clients"))  # noqa: S608

    def put_client(self, row: ClientRow) -> None:
        marks = ", ".join("?" * len(fields(ClientRow)))
        with self._writing() as connection:
            connection.execute(f"INSERT OR REPLACE INTO clients ({_CLIENT}) VALUES ({marks})", astuple(row))  # noqa: S608

    def pin(self, client_id: str, upstream: str, issuer: str) -> str:
        """The issuer a client id belongs to at an upstream: the one of the first time, which may be now."""
        with self._writing() as connection:
            connection.execute("INSERT OR IGNORE INTO pinned VALUES (?, ?, ?)", (client_id, upstream, issuer))
            query = "SELECT issuer FROM pinned WHERE client_id = ? AND upstream = ?"
            return str(connection.execute(query, (client_id, upstream)).fetchone()[0])

    def commits(self) -> int:
        """A number that changes when another process or connection has committed."""
        with self._using() as connection:
            return int(connection.execute("PRAGMA data_version").fetchone()[0])

    def try_lock(self, owner: str, upstream: str) -> bool:
        """Become the one process that renews this login; False: another one is. Ends with `unlock` or the process."""
        return self._locks.take(f"{owner}\0{upstream}")

    def unlock(self, owner: str, upstream: str) -> None:
        self._locks.give_back(f"{owner}\0{upstream}")

    def close(self) -> None:
        with self._thread:
            self._connection.close()
        self._locks.close()

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._thread, translated(self._path):
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._using() as connection, transaction(connection):
            yield connection


class _Locks:
    """Locks by name, held by this process: one byte of one file each.

    Of the process as a whole: its own threads and tasks have to keep apart by themselves. The file is opened once,
    for closing any descriptor of it would end all of the process's locks (POSIX record locks).
    """

    def __init__(self, path: Path) -> None:
        private_file(path)
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def take(self, name: str) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte_of(name))
        except BlockingIOError:
            return False
        except OSError as e:
            raise StoreUnavailable(f"the vault cannot be locked: {e.strerror}") from e
        return True

    def give_back(self, name: str) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte_of(name))

    def close(self) -> None:
        os.close(self._file)


def _byte_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")  # below 2**56: a valid offset


def _login(row: tuple[object, ...]) -> LoginRow:
    values = dict(zip((each.name for each in fields(LoginRow)), row, strict=True))
    return LoginRow(**{**values, "renewable": bool(values["renewable"])})  # type: ignore[arg-type]
