"""What has been taken out of budgets: `budgets.db` in the state folder, shared by every process of one gateway.

A call's part is set aside before it is sent and corrected when it is over; each is one transaction that takes the write
lock first, so no two calls ever take the same room. What was set aside when a process died counts as spent: nobody
knows what it took. Amounts of money are millionths of a US dollar.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mcp_gateway.storage.opened import opened, transaction, translated
from mcp_gateway.storage.private import private_folder
from mcp_gateway.storage.runs import Runs

DATABASE: Final = "budgets.db"
BUSY_S: Final = 5.0
TIDY_EVERY: Final = 1_000
KEPT_S: Final = 400 * 86_400.0
"""How long windows that are over are kept, for whoever asks what was spent."""
LEASED_OF: Final = 16
"""A lease gets more room only where a budget has that many times as much left."""
MOST: Final = 2**53
"""What adds up beyond it stays there: no sum may overflow."""

_SCHEMA: Final = (
    """
CREATE TABLE spent (
    budget   TEXT NOT NULL,
    subject  TEXT NOT NULL,      -- whose: 'agent=planner', several lines, or '' for everybody's
    began_at INTEGER NOT NULL,   -- of the window, in seconds since the epoch
    calls    INTEGER NOT NULL,
    tokens   INTEGER NOT NULL,
    cost     INTEGER NOT NULL,   -- millionths of a US dollar
    PRIMARY KEY (budget, subject, began_at)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE held (
    hold     TEXT NOT NULL,      -- one call under way
    run      TEXT NOT NULL,      -- the process it is in; '': a response that goes on at its provider
    budget   TEXT NOT NULL,
    subject  TEXT NOT NULL,
    began_at INTEGER NOT NULL,
    tokens   INTEGER NOT NULL,
    cost     INTEGER NOT NULL,
    PRIMARY KEY (hold, budget)
) STRICT, WITHOUT ROWID
""",
    "CREATE INDEX held_subject ON held(budget, subject)",
)

_ALERTED: Final = """
CREATE TABLE IF NOT EXISTS alerted (
    budget   TEXT NOT NULL,
    subject  TEXT NOT NULL,
    began_at INTEGER NOT NULL,   -- of the window that operators have been told of
    PRIMARY KEY (budget, subject, began_at)
) STRICT, WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Draw:
    """What one call wants out of one budget, and how much there is in it."""

    budget: str
    subject: str
    began_at: int
    tokens: int
    cost: int
    most_calls: int | None = None
    most_at_once: int | None = None
    most_tokens: int | None = None
    most_cost: int | None = None
    alert_at: float | None = None


@dataclass(frozen=True, slots=True)
class Took:
    """What calls have taken together."""

    calls: int
    tokens: int = 0
    cost: int = 0

    def plus(self, calls: int, tokens: int, cost: int) -> Took:
        """Together with more."""
        return Took(self.calls + calls, self.tokens + tokens, self.cost + cost)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the wish: a hold, or which budget had no room for it and what it is out of."""

    hold: str = ""
    budget: str = ""
    out_of: str = ""
    used: tuple[Took, ...] = ()
    """What each of the budgets has no room for any more, this call included."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """What became of a lease."""

    has_more: bool
    used: tuple[Took, ...]
    """As `Taken.used`, all of the lease included."""


@dataclass(frozen=True, slots=True)
class Crossed:
    """A budget that operators are to be told of."""

    budget: str
    subject: str
    out_of: str
    part: float
    """Used up."""


@dataclass(frozen=True, slots=True)
class Spent:
    """One window of one budget, calls under way included."""

    budget: str
    subject: str
    began_at: int
    calls: int
    tokens: int
    cost: int
    under_way: int


class BudgetStore:
    """The budgets of a state folder. Every failure is a `StoreUnavailable`. May be used from any thread."""

    def __init__(self, state: Path) -> None:
        private_folder(state)
        self._path = state / DATABASE
        self._lock = threading.RLock()
        self._runs = Runs(state / "runs")
        self._since_tidy = 0
        pragmas = ("journal_mode = WAL", "synchronous = NORMAL")  # survives kill -9; see the audit's "process"
        self._db = opened(self._path, _SCHEMA, pragmas=pragmas, wait_s=BUSY_S)
        with translated(self._path):
            self._db.execute(_ALERTED)

    def take(self, draws: Sequence[Draw]) -> Taken:
        """Set aside what a call may take from all of its budgets, or nothing at all."""
        with self._transaction() as db:
            self._tidy(db, draws)
            full = self._full(db, draws)
            if full is not None:
                return replace(full, used=_used_of(db, draws))
            hold = secrets.token_hex(8)
            rows = [(hold, self._runs.mine, d.budget, d.subject, d.began_at, d.tokens, d.cost) for d in draws]
            db.executemany("INSERT INTO held VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            return Taken(hold, used=_used_of(db, draws))

    def settle(self, hold: str, tokens: int | None, cost: int | None) -> None:
        """The call is over and took this much; None: as much as was set aside."""
        with self._transaction() as db:
            rows = db.execute("SELECT budget, subject, began_at, tokens, cost FROM held WHERE hold = ?", (hold,))
            for budget, subject, began_at, held_tokens, held_cost in rows.fetchall():
                took = (held_tokens if tokens is None else tokens, held_cost if cost is None else cost)
                _spend(db, budget, subject, began_at, *took)
            db.execute("DELETE FROM held WHERE hold = ?", (hold,))

    def leave_open(self, hold: str, bill: str) -> None:
        """The call is over, and what it took is told later, under the name `bill`; until then all of it counts.

        It outlives this process, and is no call at once any more.
        """
        with self._transaction() as db:
            db.execute("UPDATE OR REPLACE held SET hold = ?, run = '' WHERE hold = ?", (bill, hold))

    def renew(self, lease: str, took: Took, stays: Sequence[Draw], more: Sequence[Draw]) -> Renewed:
        """Write down what calls under a lease have taken, and from now on set aside `stays` for it, and `more`.

        `more` is left out where there is not many times as much left.
        """
        with self._transaction() as db:
            for draw in stays if took.calls else ():
                _spend(db, draw.budget, draw.subject, draw.began_at, took.tokens, took.cost, took.calls)
            db.execute("DELETE FROM held WHERE hold = ?", (lease,))
            has_more = bool(more) and not any(_is_low(db, draw) for draw in more)
            for draw, extra in zip(stays, more if has_more else stays, strict=True):
                tokens = draw.tokens + (extra.tokens if has_more else 0)
                cost = draw.cost + (extra.cost if has_more else 0)
                if tokens or cost:
                    row = (lease, self._runs.mine, draw.budget, draw.subject, draw.began_at, tokens, cost)
                    db.execute("INSERT INTO held VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            return Renewed(has_more, _used_of(db, stays))

    def crossed(self, draws: Sequence[Draw]) -> list[Crossed]:
        """Those of the budgets that are used up so far that operators want to know; each once for a window."""
        found = []
        with self._transaction() as db:
            for draw in draws:
                part, out_of = _part_spent(db, draw)
                if draw.alert_at is None or part < draw.alert_at:
                    continue
                key = (draw.budget, draw.subject, draw.began_at)
                if db.execute("INSERT OR IGNORE INTO alerted VALUES (?, ?, ?)", key).rowcount:
                    found.append(Crossed(draw.budget, draw.subject, out_of, part))
        return found

    def split(self, lease: str, bill: str, draws: Sequence[Draw]) -> None:
        """The part of a lease that one call had is set aside under a name of its own, as `leave_open` does it."""
        with self._transaction() as db:
            for draw in draws:
                query = (
                    "UPDATE held SET tokens = max(tokens - ?, 0), cost = max(cost - ?, 0) WHERE hold = ? AND budget = ?"
                )
                db.execute(query, (draw.tokens, draw.cost, lease, draw.budget))
                row = (bill, "", draw.budget, draw.subject, draw.began_at, draw.tokens, draw.cost)
                db.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def give_back(self, hold: str) -> None:
        """The call was never sent."""
        with self._transaction() as db:
            db.execute("DELETE FROM held WHERE hold = ?", (hold,))

    def spent(self, since: int) -> list[Spent]:
        """Every window that began at `since` or later, newest first."""
        query = """
            SELECT budget, subject, began_at, sum(calls), sum(tokens), sum(cost), sum(under_way) FROM (
                SELECT budget, subject, began_at, calls, tokens, cost, 0 AS under_way FROM spent
                UNION ALL SELECT budget, subject, began_at, hold NOT LIKE 'lease-%', tokens, cost,
                    hold NOT LIKE 'lease-%' FROM held
            ) WHERE began_at >= ? GROUP BY 1, 2, 3 ORDER BY 3 DESC, 1, 2
        """
        with self._transaction() as db:
            return [Spent(*row) for row in db.execute(query, (since,))]

    def close(self) -> None:
        with self._lock:
            self._db.close()
            self._runs.close()

    def _full(self, db: sqlite3.Connection, draws: Sequence[Draw]) -> Taken | None:
        for draw in draws:
            out_of = _out_of(db, draw)
            if out_of and self._bury(db, draw):
                out_of = _out_of(db, draw)
            if out_of:
                return Taken(budget=draw.budget, out_of=out_of)
        return None

    def _bury(self, db: sqlite3.Connection, draw: Draw) -> bool:
        """Calls of processes that have died are over, and count as spent; tells whether there were any."""
        query = "SELECT DISTINCT run FROM held WHERE budget = ? AND subject = ?"
        runs = [row[0] for row in db.execute(query, (draw.budget, draw.subject))]
        dead = [run for run in runs if self._runs.is_dead(run)]
        for run in dead:
            rows = db.execute("SELECT budget, subject, began_at, tokens, cost FROM held WHERE run = ?", (run,))
            for row in rows.fetchall():
                _spend(db, *row)
            db.execute("DELETE FROM held WHERE run = ?", (run,))
        return bool(dead)

    def _tidy(self, db: sqlite3.Connection, draws: Sequence[Draw]) -> None:
        self._since_tidy += 1
        if self._since_tidy >= TIDY_EVERY and draws:
            self._since_tidy = 0
            long_ago = (draws[0].began_at - KEPT_S,)
            db.execute("DELETE FROM spent WHERE began_at < ?", long_ago)
            db.execute("DELETE FROM held WHERE run = '' AND began_at < ?", long_ago)
            db.execute("DELETE FROM alerted WHERE began_at < ?", long_ago)

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that this thread does within the block is one transaction."""
        with self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(self._path):
            if self._db.in_transaction:  # of this thread: it has the lock
                yield self._db
                return
            with transaction(self._db):
                yield self._db


def _used_of(db: sqlite3.Connection, draws: Sequence[Draw]) -> tuple[Took, ...]:
    return tuple(Took(*_used(db, draw)) for draw in draws)


def _part_spent(db: sqlite3.Connection, draw: Draw) -> tuple[float, str]:
    """How much of a budget calls that have ended took, and of what the most; from 0 to 1, or more."""
    query = "SELECT calls, tokens, cost FROM spent WHERE budget = ? AND subject = ? AND began_at = ?"
    spent = db.execute(query, (draw.budget, draw.subject, draw.began_at)).fetchone() or (0, 0, 0)
    most = (draw.most_calls, draw.most_tokens, draw.most_cost)
    parts = zip(spent, most, ("calls", "tokens", "cost"), strict=True)
    return max(((used / bound, name) for used, bound, name in parts if bound), default=(0.0, ""))


def _used(db: sqlite3.Connection, draw: Draw) -> tuple[int, int, int]:
    """Calls, tokens and cost of a window, what is set aside included."""
    now = (draw.budget, draw.subject, draw.began_at)
    calls, tokens, cost = db.execute(
        "SELECT coalesce(sum(n), 0), coalesce(sum(t), 0), coalesce(sum(c), 0) FROM ("
        " SELECT calls AS n, tokens AS t, cost AS c FROM spent WHERE budget = ? AND subject = ? AND began_at = ?"
        " UNION ALL SELECT 1, tokens, cost FROM held WHERE budget = ? AND subject = ? AND began_at = ?)",
        (*now, *now),
    ).fetchone()
    return calls, tokens, cost


def _out_of(db: sqlite3.Connection, draw: Draw) -> str:
    """What a budget has no room for; empty: for nothing. Calls under way count with all they may take."""
    key = (draw.budget, draw.subject)
    calls, tokens, cost = _used(db, draw)
    if draw.most_at_once is not None:
        at_once = db.execute(
            "SELECT count(*) FROM held WHERE budget = ? AND subject = ? AND run != ''", key
        ).fetchone()[0]
        if at_once >= draw.most_at_once:
            return "calls at once"
    bounds = ((draw.most_calls, calls, "calls"), (draw.most_tokens, tokens, "tokens"), (draw.most_cost, cost, "cost"))
    return next((name for most, used, name in bounds if most is not None and used >= most), "")


def _is_low(db: sqlite3.Connection, draw: Draw) -> bool:
    """Whether a budget has less than many times as much left."""
    _, tokens, cost = _used(db, draw)
    bounds = ((draw.most_tokens, tokens, draw.tokens), (draw.most_cost, cost, draw.cost))
    return any(most is not None and most - used < LEASED_OF * more for most, used, more in bounds)


def _spend(
    db: sqlite3.Connection, budget: str, subject: str, began_at: int, tokens: int, cost: int, calls: int = 1
) -> None:
    db.execute(
        "INSERT INTO spent VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET calls = calls + excluded.calls,"
        " tokens = min(tokens + excluded.tokens, ?), cost = min(cost + excluded.cost, ?)",
        (budget, subject, began_at, calls, min(tokens, MOST), min(cost, MOST), MOST, MOST),
    )
