"""Calls that wait for a person's answer, as they are kept: bound to who asks, what for and the exact arguments.

An approval is good for one call and for a while; a refusal stands for a while, so that asking again does not help.
Works inside transactions of `transactions`; knows nothing of how a person is asked.
"""

from __future__ import annotations

import secrets
import sqlite3
import string
from dataclasses import dataclass
from typing import Final

MICROS: Final = 1_000_000
ASKED_FOR: Final = 3600 * MICROS
"""How long a person may take to answer."""
GOOD_FOR: Final = 900 * MICROS
"""How long an answer stands."""
MAX_PENDING: Final = 100
"""Of one agent; more are refused, or one agent could bury what another asks."""
ID_LENGTH: Final = 10

_ALPHABET: Final = string.digits + string.ascii_lowercase
_COLUMNS: Final = (
    "id, binding, agent, person, task, started, target, args, args_sha256, grant_at, asked_at, expires_at, state,"
    " answered_at, answered_by"
)

APPROVALS_SCHEMA: Final = (
    """
CREATE TABLE approvals (
    id          TEXT PRIMARY KEY,
    binding     TEXT NOT NULL,      -- digest of everything it is good for
    agent       TEXT NOT NULL,
    person      TEXT,
    task        TEXT NOT NULL,
    started     TEXT NOT NULL,      -- the started task, '' where there is none
    target      TEXT NOT NULL,      -- upstream/name
    args        TEXT,               -- canonical JSON, until it is used or expires
    args_sha256 TEXT NOT NULL,
    grant_at    TEXT NOT NULL,
    asked_at    INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    state       TEXT NOT NULL,      -- pending | approved | denied | used
    answered_at INTEGER,
    answered_by TEXT,
    agent_side  INTEGER NOT NULL DEFAULT 0,  -- answered by whoever sits at the agent's program
    hold        TEXT                -- the call that used it
) STRICT, WITHOUT ROWID
""",
    "CREATE INDEX approvals_binding ON approvals(binding)",
    "CREATE INDEX approvals_hold ON approvals(hold) WHERE hold IS NOT NULL",
)


@dataclass(frozen=True, slots=True)
class Binding:
    """What an approval is good for."""

    digest: str
    """Of all of it, the definition of the target included."""
    agent: str
    person: str | None
    task: str
    started: str
    target: str
    args: str
    """Canonical JSON: what the person sees is what is sent."""
    args_sha256: str


@dataclass(frozen=True, slots=True)
class Asked:
    """Where the answer to one call stands."""

    id: str
    state: str
    """`pending`, `approved` or `denied`; `full` where too much waits already."""
    grant: str


@dataclass(frozen=True, slots=True)
class Approval:
    """One call that was held for a person, for operators. Times are microseconds since the epoch."""

    id: str
    agent: str
    person: str | None
    task: str
    started: str
    target: str
    args: str | None
    args_sha256: str
    grant: str
    asked_at: int
    expires_at: int
    state: str
    """`pending`, `approved`, `denied`, `used` or `expired`."""
    answered_at: int | None
    answered_by: str | None


def approval_for(db: sqlite3.Connection, binding: Binding, grant: str, now: int, *, agent_side: bool = False) -> Asked:
    """The answer that stands for exactly this call; a new question where there is none.

    `agent_side`: an approval of whoever sits at the agent's program is good enough.
    """
    row = db.execute(
        "SELECT id, state, grant_at FROM approvals WHERE binding = ? AND state <> 'used' AND expires_at > ?"
        " AND (? OR NOT agent_side OR state <> 'approved')"
        " ORDER BY state = 'approved' DESC, state = 'denied' DESC LIMIT 1",
        (binding.digest, now, agent_side),
    ).fetchone()
    if row is not None:
        return Asked(*row)
    waiting = "SELECT count(*) FROM approvals WHERE agent = ? AND state = 'pending' AND expires_at > ?"
    if db.execute(waiting, (binding.agent, now)).fetchone()[0] >= MAX_PENDING:
        return Asked("", "full", grant)
    return _ask(db, binding, grant, now)


def approvals(db: sqlite3.Connection, now: int, *, all_of_them: bool = False) -> list[Approval]:
    """Those that wait, oldest first; or all that are still known."""
    where = "1" if all_of_them else "state = 'pending' AND expires_at > ?"
    values = () if all_of_them else (now,)
    rows = db.execute(f"SELECT {_COLUMNS} FROM approvals WHERE {where} ORDER BY asked_at LIMIT 1000", values)  # noqa: S608
    return [_approval(row, now) for row in rows]


def approval(db: sqlite3.Connection, approval_id: str, now: int) -> Approval | None:
    row = db.execute(f"SELECT {_COLUMNS} FROM approvals WHERE id = ?", (approval_id,)).fetchone()  # noqa: S608
    return None if row is None else _approval(row, now)


def answer(db: sqlite3.Connection, approval_id: str, *, yes: bool, by: str, now: int, agent_side: bool = False) -> bool:
    """Write a person's answer down; False where nothing of that id waits (any more)."""
    update = (
        "UPDATE approvals SET state = ?, answered_at = ?, answered_by = ?, expires_at = ?, agent_side = ?"
        " WHERE id = ? AND state = 'pending' AND expires_at > ?"
    )
    state = "approved" if yes else "denied"
    return db.execute(update, (state, now, by, now + GOOD_FOR, agent_side, approval_id, now)).rowcount > 0


def _ask(db: sqlite3.Connection, binding: Binding, grant: str, now: int) -> Asked:
    approval_id = "".join(secrets.choice(_ALPHABET) for _ in range(ID_LENGTH))
    db.execute(
        "INSERT INTO approvals (id, binding, agent, person, task, started, target, args, args_sha256, grant_at,"
        " asked_at, expires_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending')",
        (
            approval_id,
            binding.digest,
            binding.agent,
            binding.person,
            binding.task,
            binding.started,
            binding.target,
            binding.args,
            binding.args_sha256,
            grant,
            now,
            now + ASKED_FOR,
        ),
    )
    return Asked(approval_id, "pending", grant)


def _approval(row: tuple[object, ...], now: int) -> Approval:
    found = Approval(*(row[:1] + row[2:]))  # type: ignore[arg-type]  # the columns in their order, without the binding
    is_over = found.state in ("pending", "approved") and found.expires_at <= now
    return found if not is_over else Approval(*(row[:1] + row[2:12] + ("expired",) + row[13:]))  # type: ignore[arg-type]
