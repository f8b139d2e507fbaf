"""What calls under terms have used up, left behind and wait for: `transactions.db` in the state folder.

Each question is one transaction that takes the write lock first (BEGIN IMMEDIATE): what is found free is taken before
anybody else looks, in this process or another, and what was taken stays taken when the process dies. A call in flight
counts. Nothing here decides what a call has to meet: that comes as `Terms`.

Times are microseconds since the epoch, amounts millionths: both exact.
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

from mcp_gateway.domain import Budget, Flow, Offer, Reason, Terms, Window
from mcp_gateway.storage.approvals import (
    APPROVALS_SCHEMA,
    Approval,
    Asked,
    Binding,
    answer,
    approval,
    approval_for,
    approvals,
)
from mcp_gateway.storage.opened import opened, transaction, translated
from mcp_gateway.storage.private import private_folder
from mcp_gateway.storage.runs import Runs

DATABASE: Final = "transactions.db"
BUSY_S: Final = 5.0
MICROS: Final = 1_000_000
DAY: Final = 86_400 * MICROS
STANDING: Final = DAY
"""How long a task that nobody started remembers what it has read; a started one does until it is over."""
KEPT: Final = 32 * DAY
"""The longest window there can be, and a day: older rows mean nothing to anybody."""
TIDY_EVERY: Final = 1_000
MAX_IN_WINDOW: Final = 100_000
"""Uses of one grant that are kept; a window with more is full."""

_TAG: Final = "tag:"

_SCHEMA: Final = (
    """
CREATE TABLE uses (
    id      INTEGER PRIMARY KEY,
    key     TEXT NOT NULL,          -- what is counted together
    at      INTEGER NOT NULL,
    amount  INTEGER NOT NULL,
    hold    TEXT NOT NULL           -- the call; a refund takes its rows away again
) STRICT
""",
    "CREATE INDEX uses_key ON uses(key, at, amount)",
    "CREATE INDEX uses_hold ON uses(hold)",
    """
CREATE TABLE marks (
    scope   TEXT NOT NULL,
    mark    TEXT NOT NULL,          -- 'tag:...' that was read, or a call that others come after
    hold    TEXT NOT NULL,          -- the call while it is under way; '' once it is over
    at      INTEGER NOT NULL,
    by      TEXT NOT NULL,          -- upstream/name, for operators
    PRIMARY KEY (scope, mark, hold)
) STRICT, WITHOUT ROWID
""",
    "CREATE INDEX marks_hold ON marks(hold) WHERE hold <> ''",
    """
CREATE TABLE holds (
    id      TEXT PRIMARY KEY,       -- one call under way that a budget pays for
    run     TEXT NOT NULL,          -- the process; what it leaves behind when it dies counts as spent
    scope   TEXT NOT NULL,
    at      INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    tokens  INTEGER NOT NULL,
    cost    INTEGER NOT NULL
) STRICT, WITHOUT ROWID
""",
    "CREATE INDEX holds_scope ON holds(scope)",
    """
CREATE TABLE spent (
    scope   TEXT PRIMARY KEY,
    at      INTEGER NOT NULL,
    calls   INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    tokens  INTEGER NOT NULL,
    cost    INTEGER NOT NULL
) STRICT, WITHOUT ROWID
""",
    *APPROVALS_SCHEMA,
)


@dataclass(frozen=True, slots=True)
class Spending:
    """What a call takes out of its task's budget besides itself; what it is thought to take before it is over."""

    bytes: int = 0
    tokens: int = 0
    cost: int = 0
    """Millionths of the budget's currency."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One call that wants to go ahead."""

    terms: Terms
    at: int
    target: str
    """`upstream/name`."""
    binding: Binding
    """What a person's approval of it would be good for."""
    spending: Spending = Spending()


@dataclass(frozen=True, slots=True)
class Found:
    """What became of it: taken, or why not."""

    refused: Reason | None = None
    grant: str = ""
    """`file:line` of the grant that carries it, or that has to be waited for."""
    hold: str = ""
    approval: str = ""
    """The approval that was used up, or that is waited for."""
    retry_in_s: float | None = None
    """When it can go ahead, where only time is wanted."""
    agent_side: bool = False
    """Whether whoever sits at the agent's program may answer, too."""
    wanted: str = ""
    """What has to come first, or which part of a budget is spent."""


@dataclass(frozen=True, slots=True)
class State:
    """What a task has behind it, for operators."""

    tags: dict[str, str]
    """Each tag it has read, and the target it was first read from."""
    calls: int
    bytes: int
    tokens: int
    cost: int
    under_way: int


class _ForeseenError(Exception):
    """Ends a transaction that was only tried."""

    def __init__(self, found: Found) -> None:
        super().__init__()
        self.found = found


class TransactionStore:
    """The one store of a state folder. Every failure is a `StoreUnavailable`. May be used from any thread."""

    def __init__(self, state: Path) -> None:
        private_folder(state)
        self._path = state / DATABASE
        self._lock = threading.Lock()
        self._runs = Runs(state / "runs")
        self._since_tidy = TIDY_EVERY
        pragmas = (
            "journal_mode = WAL",
            "secure_delete = ON",  # arguments that a person has seen are not kept
            "synchronous = NORMAL",  # survives kill -9; see the audit's "process"
        )
        self._db = opened(self._path, _SCHEMA, pragmas=pragmas, wait_s=BUSY_S)

    def reserve(self, wanted: Wanted) -> Found:
        """Take what the call needs, or nothing at all."""
        with self.transaction() as db:
            self._tidy(db, wanted.at)
            return self._reserve(db, wanted)

    def would(self, wanted: Wanted) -> Found:
        """What `reserve` would say at this moment; nothing is taken, and no person is asked."""
        try:
            with self.transaction():
                raise _ForeseenError(self._reserve(self._db, wanted))
        except _ForeseenError as e:
            return e.found

    def settle(self, hold: str, scope: str, at: int, target: str, *, marks: Sequence[str], spent: Spending) -> None:
        """The call is over and was sent: what it used stays used, and it leaves `marks` behind."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO marks SELECT scope, mark, '', at, by FROM marks m WHERE hold = ? AND NOT EXISTS"
                " (SELECT 1 FROM marks o WHERE o.scope = m.scope AND o.mark = m.mark AND o.hold = '')",
                (hold,),
            )
            db.execute("DELETE FROM marks WHERE hold = ?", (hold,))
            db.executemany(
                "INSERT OR REPLACE INTO marks VALUES (?, ?, '', ?, ?)", [(scope, mark, at, target) for mark in marks]
            )
            if db.execute("DELETE FROM holds WHERE id = ?", (hold,)).rowcount:
                _spend(db, scope, at, spent)

    def refund(self, hold: str) -> None:
        """The call was never sent: it is as if it had not been there."""
        with self.transaction() as db:
            for table in ("uses", "marks"):
                db.execute(f"DELETE FROM {table} WHERE hold = ?", (hold,))  # noqa: S608
            db.execute("DELETE FROM holds WHERE id = ?", (hold,))
            db.execute("UPDATE approvals SET state = 'approved', hold = NULL WHERE hold = ?", (hold,))

    def state(self, scope: str, now: int) -> State:
        """What is known of one scope."""
        with self.transaction() as db:
            rows = db.execute(
                "SELECT mark, by FROM marks WHERE scope = ? AND mark GLOB 'tag:*' AND at > ? ORDER BY at DESC",
                (scope, now - KEPT),
            )
            tags = {mark.removeprefix(_TAG): by for mark, by in rows}
            spent = db.execute("SELECT calls, bytes, tokens, cost FROM spent WHERE scope = ?", (scope,)).fetchone()
            under_way = db.execute("SELECT count(*) FROM holds WHERE scope = ?", (scope,)).fetchone()[0]
            calls, sent, tokens, cost = spent or (0, 0, 0, 0)
            return State(tags, calls, sent, tokens, cost, under_way)

    def approval_state(self, approval_id: str) -> str:
        """The word that stands for one approval now; empty where it is not known (any more)."""
        with self._lock, translated(self._path):
            row = self._db.execute("SELECT state FROM approvals WHERE id = ?", (approval_id,)).fetchone()
            return str(row[0]) if row else ""

    def approvals(self, now: int, *, all_of_them: bool = False) -> list[Approval]:
        """Calls that wait for a person, oldest first; or all that are still known."""
        with self.transaction() as db:
            return approvals(db, now, all_of_them=all_of_them)

    def approval(self, approval_id: str, now: int) -> Approval | None:
        """One of them."""
        with self.transaction() as db:
            return approval(db, approval_id, now)

    def answer(self, approval_id: str, *, yes: bool, by: str, now: int, agent_side: bool = False) -> bool:
        """Write a person's answer down; False where nothing of that id waits (any more)."""
        with self.transaction() as db:
            return answer(db, approval_id, yes=yes, by=by, now=now, agent_side=agent_side)

    def used(self, window: Window, now: int) -> tuple[int, int]:
        """How often, and for how much, a window is used at this moment."""
        with self.transaction() as db:
            return _used(db, window, now)[:2]

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection, with the write lock taken; rolled back where something is raised."""
        with self._lock, translated(self._path), transaction(self._db):
            yield self._db

    def close(self) -> None:
        with self._lock:
            self._db.close()
            self._runs.close()

    def _reserve(self, db: sqlite3.Connection, wanted: Wanted) -> Found:
        terms = wanted.terms
        spent = self._over_budget(db, terms.budget, wanted) if terms.budget is not None else ""
        if spent:
            return Found(Reason.BUDGET_SPENT, wanted=spent)
        flow = _flow(db, terms, wanted.at)
        if flow is not None and not flow.needs_approval:
            return Found(Reason.FLOW, flow.at)
        found = _first_that_is_met(db, wanted, Found(hold=secrets.token_hex(8)), flow)
        if found.refused is None:
            self._take(db, wanted, found)
        return found

    def _over_budget(self, db: sqlite3.Connection, budget: Budget, wanted: Wanted) -> str:
        """Which part of the budget has no room for the call; empty: all have."""
        over = _over(db, budget, wanted)
        if over and self._bury(db, wanted.terms.scope, wanted.at):
            over = _over(db, budget, wanted)
        return over

    def _bury(self, db: sqlite3.Connection, scope: str, at: int) -> bool:
        """Calls of processes that have died are over, and count as spent; tells whether there were any."""
        runs = [row[0] for row in db.execute("SELECT DISTINCT run FROM holds WHERE scope = ?", (scope,))]
        dead = [run for run in runs if self._runs.is_dead(run)]
        for run in dead:
            query = "SELECT scope, bytes, tokens, cost FROM holds WHERE run = ?"
            for whose, *spent in db.execute(query, (run,)).fetchall():
                _spend(db, whose, at, Spending(*spent))
            db.execute("DELETE FROM holds WHERE run = ?", (run,))
        return bool(dead)

    def _take(self, db: sqlite3.Connection, wanted: Wanted, found: Found) -> None:
        terms, at = wanted.terms, wanted.at
        window = next((offer.window for offer in terms.offers if offer.grant == found.grant), None)
        if window is not None:
            row = (window.key, at, window.amount, found.hold)
            db.execute("INSERT INTO uses (key, at, amount, hold) VALUES (?, ?, ?, ?)", row)
        for tag in sorted(terms.reads):
            _read_tag(db, terms.scope, tag, found.hold, at, wanted.target)
        if terms.budget is not None:
            spending = wanted.spending
            row_of_hold = (found.hold, self._runs.mine, terms.scope, at, spending.bytes, spending.tokens, spending.cost)
            db.execute("INSERT INTO holds VALUES (?, ?, ?, ?, ?, ?, ?)", row_of_hold)
        if found.approval:
            update = "UPDATE approvals SET state = 'used', hold = ?, args = NULL WHERE id = ?"
            db.execute(update, (found.hold, found.approval))

    def _tidy(self, db: sqlite3.Connection, now: int) -> None:
        """Forget, now and then, what no window and no task can ask for any more."""
        self._since_tidy += 1
        if self._since_tidy < TIDY_EVERY:
            return
        self._since_tidy = 0
        for table in ("uses", "marks", "spent"):
            db.execute(f"DELETE FROM {table} WHERE at < ?", (now - KEPT,))  # noqa: S608
        db.execute("DELETE FROM approvals WHERE expires_at < ?", (now - KEPT,))
        db.execute("UPDATE approvals SET args = NULL WHERE expires_at < ?", (now,))


def _first_that_is_met(db: sqlite3.Connection, wanted: Wanted, found: Found, flow: Flow | None) -> Found:
    """The first offer whose demands are met; else the best way on: to wait for a person, for another call, for time."""
    refusals: list[Found] = []
    asked: Asked | None = None
    agent_side = False
    for offer in wanted.terms.offers or (Offer(""),):
        refusal = _refusal(db, offer, wanted)
        if refusal is not None:
            refusals.append(refusal)
        elif not (offer.needs_approval or flow):
            return replace(found, grant=offer.grant)
        else:
            grant = offer.grant if offer.needs_approval or flow is None else flow.at
            may_answer = all(each.agent_side for each in (offer, flow) if each is not None and each.needs_approval)
            one = approval_for(db, wanted.binding, grant, wanted.at, agent_side=may_answer)
            if one.state == "approved":
                return replace(found, grant=offer.grant, approval=one.id)
            asked, agent_side = asked or one, agent_side or may_answer
    if asked is not None:
        reason = Reason.APPROVAL_DENIED if asked.state == "denied" else Reason.APPROVAL_PENDING
        return Found(reason, asked.grant, approval=asked.id, agent_side=agent_side)
    return min(refusals, key=lambda refusal: (refusal.refused is not Reason.LIMIT_REACHED, refusal.retry_in_s or 0))


def _refusal(db: sqlite3.Connection, offer: Offer, wanted: Wanted) -> Found | None:
    """Why an offer's order or limit is not met; None: both are."""
    after, window = offer.after, offer.window
    if after is not None and not _is_marked(db, wanted.terms.scope, after.mark, wanted.at - _micros(after.within_s)):
        return Found(Reason.OUT_OF_ORDER, offer.grant, wanted=after.first)
    if window is None:
        return None
    calls, amount, oldest = _used(db, window, wanted.at)
    too_often = calls >= min(window.calls or MAX_IN_WINDOW, MAX_IN_WINDOW)
    too_much = window.at_most is not None and amount + window.amount > window.at_most
    if not (too_often or too_much):
        return None
    retry_in_s = max(0.0, (oldest + _micros(window.per_s) - wanted.at) / MICROS) if calls else None
    return Found(Reason.LIMIT_REACHED, offer.grant, retry_in_s=retry_in_s)


def _used(db: sqlite3.Connection, window: Window, now: int) -> tuple[int, int, int]:
    """How often, for how much in all, and since when."""
    query = "SELECT count(*), coalesce(sum(amount), 0), coalesce(min(at), 0) FROM uses WHERE key = ? AND at > ?"
    calls, amount, oldest = db.execute(query, (window.key, now - _micros(window.per_s))).fetchone()
    return calls, amount, oldest


def _flow(db: sqlite3.Connection, terms: Terms, now: int) -> Flow | None:
    """The flow that stands in the way; one that forbids before one that wants approval."""
    since = now - (KEPT if _is_started(terms) else STANDING)
    standing = [flow for flow in terms.flows if all(_is_marked(db, terms.scope, _TAG + t, since) for t in flow.once)]
    return min(standing, key=lambda flow: flow.needs_approval, default=None)


def _is_started(terms: Terms) -> bool:
    """Scopes of tasks that nobody started are digests; see `policy.terms.scope_id`."""
    return len(terms.scope) != 64


def _is_marked(db: sqlite3.Connection, scope: str, mark: str, since: int) -> bool:
    """Whether a mark was left: by a call that is over, or (a tag that is being read) by one under way."""
    query = "SELECT 1 FROM marks WHERE scope = ? AND mark = ? AND at > ? LIMIT 1"
    return db.execute(query, (scope, mark, since)).fetchone() is not None


def _read_tag(db: sqlite3.Connection, scope: str, tag: str, hold: str, at: int, by: str) -> None:
    """From now on the tag counts as read: what comes back may reach the agent before the call is over."""
    mark = _TAG + tag
    refreshed = db.execute(
        "UPDATE marks SET at = max(at, ?) WHERE scope = ? AND mark = ? AND hold = ''", (at, scope, mark)
    )
    if not refreshed.rowcount:
        db.execute("INSERT INTO marks VALUES (?, ?, ?, ?, ?)", (scope, mark, hold, at, by))


def _over(db: sqlite3.Connection, budget: Budget, wanted: Wanted) -> str:
    scope, want = wanted.terms.scope, wanted.spending
    spent = db.execute("SELECT calls, bytes, tokens, cost FROM spent WHERE scope = ?", (scope,)).fetchone()
    held = db.execute(
        "SELECT count(*), coalesce(sum(bytes), 0), coalesce(sum(tokens), 0), coalesce(sum(cost), 0)"
        " FROM holds WHERE scope = ?",
        (scope,),
    ).fetchone()
    calls, sent, tokens, cost = (a + b for a, b in zip(spent or (0, 0, 0, 0), held, strict=True))
    wants = (
        ("calls", calls + 1, budget.calls),
        ("calls at once", held[0] + 1, budget.concurrent),
        ("bytes", sent + max(want.bytes, 1), budget.bytes),
        ("tokens", tokens + want.tokens, budget.tokens),
        ("cost", cost + want.cost, budget.cost),
    )
    return next((name for name, after, most in wants if most is not None and after > most), "")


def _spend(db: sqlite3.Connection, scope: str, at: int, spent: Spending) -> None:
    db.execute(
        "INSERT INTO spent VALUES (?, ?, 1, ?, ?, ?) ON CONFLICT(scope) DO UPDATE SET at = excluded.at,"
        " calls = calls + 1, bytes = bytes + excluded.bytes, tokens = tokens + excluded.tokens,"
        " cost = cost + excluded.cost",
        (scope, at, spent.bytes, spent.tokens, spent.cost),
    )


def _micros(seconds: float) -> int:
    return int(seconds * MICROS)
