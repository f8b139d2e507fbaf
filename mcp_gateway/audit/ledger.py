"""What the audit's writer does in the database: append to the chain, keep versions, settle what a dead run left open.

Every transaction reads the head of the chain for itself, because another process may have appended meanwhile: one file,
one chain, however many write. Whoever has the connection runs this, the event loop or the writer's thread, never both
(`storage.sqlite`); only `Policies` are filled by the loop at any time.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from mcp_gateway.audit import chain
from mcp_gateway.audit.anchor import Anchor, AnchorDir, Keys, RunFile
from mcp_gateway.audit.chain import COLUMNS, Checkpoint, Head, Row
from mcp_gateway.audit.rows import (
    Contents,
    Entry,
    decided_row,
    event_row,
    finished_row,
    timestamp,
    unknown_row,
)
from mcp_gateway.audit.versions import Versions
from mcp_gateway.domain import Json, Outcome, Target
from mcp_gateway.storage.sqlite import Connection, transaction

BEHIND: Final = "behind its anchor"
UNANCHORED: Final = "without an anchor"
UNAVAILABLE: Final = "store unavailable"
"""Names of the audit's own events; `verify` looks for them."""

MAX_LATE: Final = 10_000
"""Ends of calls kept for when the store comes back; what exceeds it is settled when the run has ended."""

_SHARED: Final = (
    "request_id",
    "parent",
    "kind",
    "agent",
    "person",
    "task",
    "session",
    "upstream",
    "name",
    "trace_id",
    "started",
)
_UNFINISHED: Final = f"""
    SELECT d.seq, {", ".join(f"d.{column}" for column in _SHARED)} FROM entries d
    WHERE d.seq >= ? AND d.run = ? AND d.phase = 'decided' AND d.decision <> 'denied'
      AND NOT EXISTS (SELECT 1 FROM entries f WHERE f.decided_seq = d.seq)
    ORDER BY d.seq
"""  # noqa: S608 - column names of ours

_log = logging.getLogger("mcp_gateway.audit")


class Job:
    """One row to be; `row` is there once it is prepared."""

    __slots__ = ("row",)
    row: Row


class Decided(Job):
    """A request was decided on."""

    __slots__ = ("entry",)

    def __init__(self, entry: Entry) -> None:
        self.entry = entry


class Finished(Job):
    """It ended. Stands behind its `Decided` in the queue, or in a later group."""

    __slots__ = ("at", "entry", "gateway_ms", "outcome")

    def __init__(self, entry: Entry, outcome: Outcome, gateway_ms: float, at: float) -> None:
        self.entry = entry
        self.outcome = outcome
        self.gateway_ms = gateway_ms
        self.at = at


class Event(Job):
    """Something that is not a call."""

    __slots__ = ()

    def __init__(self, row: Row) -> None:
        self.row = row


class Remembered(Job):
    """A policy or a target to be kept, whether or not a row refers to it yet."""

    __slots__ = ("policy", "target")

    def __init__(self, policy: str = "", target: Target | None = None) -> None:
        self.policy = policy
        self.target = target


@dataclass(slots=True)
class _Outage:
    """A time in which nothing could be written."""

    since: float
    error: str
    rows: int = 0


class _Group:
    """What one transaction is about to change in our memory, once it is committed."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.decided: list[Entry] = []
        self.finished: list[Entry] = []
        self.head = Head()


class Ledger:
    """The `storage.sqlite.Scribe` of the audit."""

    def __init__(
        self, keys: Keys, anchors: AnchorDir, contents: Contents, policies: dict[str, str], clock: Callable[[], float]
    ) -> None:
        self._keys = keys
        self._anchors = anchors
        self._contents = contents
        self._clock = clock
        self._key_id = chain.key_id(keys.signing.public_key())
        self._run: RunFile | None = None
        self._run_id = 0
        self._epoch = 0
        self._last_seq = 0
        self._open: OrderedDict[int, Entry] = OrderedDict()
        self._late: dict[int, Row] = {}
        self._outage: _Outage | None = None
        self._versions = Versions(policies)
        self._group = _Group()

    # -- Scribe --------------------------------------------------------------------------------------------------------

    def begin(self, db: Connection) -> None:
        """Check the database against its anchors, settle what dead runs left, and register this run."""
        self._versions.forget()
        with self._anchors.locked():
            run = self._run or self._anchors.new_run()
            dead = self._anchors.dead_runs()
            try:
                head = self._begin(db, run, {file.name: file.read() for file in dead})
                self._anchors.replace(Anchor(head, head.seq + 1))
                run.write(Anchor(head, next(iter(self._open), head.seq + 1)))
                for file in dead:
                    file.remove()
            except BaseException:
                if self._run is None:
                    run.remove()
                raise
            finally:
                for file in dead:
                    file.close()
            self._run = run
            self._last_seq = head.seq

    def prepare(self, job: Job) -> None:
        if isinstance(job, Decided):
            entry = job.entry
            if entry.target is not None:
                entry.target_hash = self._versions.target_hash(entry.target)
            job.row = decided_row(entry, self._contents)
        elif isinstance(job, Finished):
            job.row = finished_row(job.entry, job.outcome, job.gateway_ms, job.at, self._contents)

    def write(self, db: Connection, jobs: Sequence[Job]) -> None:
        self._group = group = _Group()
        head, day = _head(db)
        if day and day < timestamp(self._clock())[:10]:
            self._checkpoint(db, Checkpoint("day", day, head.seq, head.hash))
        if self._outage is not None:
            self._add_outage(db, group, self._outage)
        for job in jobs:
            self._add(db, group, head.seq, job)
        self._insert(db, group, head)

    def committed(self, db: Connection) -> None:
        group = self._group
        self._versions.committed()
        for entry in group.decided:
            if entry.decision.visible and entry.seq is not None:
                self._open[entry.seq] = entry
        for entry in group.finished:
            if entry.seq is not None:
                self._open.pop(entry.seq, None)
        self._outage = None
        self._late.clear()
        self._last_seq = group.head.seq
        self._write_anchor(group.head)

    def failed(self, jobs: Sequence[Job], error: str) -> None:
        self._versions.forget()
        self._outage = self._outage or _Outage(self._clock(), error)
        self._outage.rows += len(jobs)
        for job in jobs:
            if isinstance(job, Decided):
                job.entry.seq = None
            elif isinstance(job, Finished) and job.entry.seq is not None and len(self._late) < MAX_LATE:
                error = f"the store could not be written when this call ended ({job.outcome.status.value})"
                self._late[job.entry.seq] = unknown_row(job.entry.shared, job.at, error) | {
                    "decided_seq": job.entry.seq
                }

    def end(self, db: Connection) -> None:
        """Settle what is still open, sign the last row, and leave the anchor for the next run."""
        with self._anchors.locked():
            with transaction(db):
                head, _ = _head(db)
                group = _Group()
                since = next(iter(self._open), head.seq + 1)
                group.rows = self._unknown(db, self._run_id, since, "the gateway stopped before the answer came")
                head = self._insert(db, group, head)
                at = timestamp(self._clock())
                if head.seq:
                    self._checkpoint(db, Checkpoint("shutdown", at[:10], head.seq, head.hash))
                db.execute("UPDATE runs SET ended_at = ?, ended = 'stopped' WHERE id = ?", (at, self._run_id))
            self._anchors.replace(Anchor(head, head.seq + 1))
            if self._run is not None:
                self._run.remove()

    def release(self) -> None:
        if self._run is not None:
            self._run.close()

    # -- beginning -----------------------------------------------------------------------------------------------------

    def _begin(self, db: Connection, run: RunFile, dead: dict[str, Anchor | None]) -> Head:
        anchors = self._anchors.anchors()
        with transaction(db):
            head, _ = _head(db)
            group = _Group()
            found = db.execute("SELECT id FROM runs WHERE name = ?", (run.name,)).fetchone()
            self._run_id = found[0] if found else self._register(db, run, head)
            self._add_anchor_findings(db, group, anchors, head)
            if found:
                self._add_doubtful(db, group)
            self._add_dead_runs(db, group, run, dead)
            return self._insert(db, group, head)

    def _register(self, db: Connection, run: RunFile, head: Head) -> int:
        cursor = db.execute(
            "INSERT INTO runs (name, pid, started_at, first_seq) VALUES (?, ?, ?, ?)",
            (run.name, os.getpid(), timestamp(self._clock()), head.seq + 1),
        )
        return int(cursor.lastrowid or 0)

    def _add_anchor_findings(self, db: Connection, group: _Group, anchors: list[Anchor], head: Head) -> None:
        lost = [
            anchor for anchor in anchors if not anchor.is_genuine or _hash_at(db, anchor.head.seq) != anchor.head.hash
        ]
        if lost:
            worst = max(lost, key=lambda anchor: anchor.head.seq)
            detail: Json = {"anchor_seq": worst.head.seq, "anchor_hash": worst.head.hash, "found_seq": head.seq}
            _log.error(
                "the audit database is behind its anchor: rows were cut off or an old copy came back: %s", detail
            )
            group.rows.append(event_row("audit", BEHIND, self._clock(), reason="rows are missing", detail=detail))
            # Whatever this run had open may be among the rows that are gone: their numbers mean nothing any more.
            self._epoch += 1
            self._open.clear()
            self._late.clear()
        elif not anchors and head.seq:
            _log.warning("the audit database has %d rows but no anchor: its end may have been cut off", head.seq)
            detail = {"found_seq": head.seq}
            group.rows.append(
                event_row("audit", UNANCHORED, self._clock(), reason="no anchor was found", detail=detail)
            )

    def _add_doubtful(self, db: Connection, group: _Group) -> None:
        """A commit that failed may have come about after all: its calls were refused, so they need an end."""
        rows = self._unknown(db, self._run_id, self._last_seq + 1, "refused: its decision was not known to be written")
        group.rows += [row for row in rows if row["decided_seq"] not in self._open]

    def _add_dead_runs(self, db: Connection, group: _Group, own: RunFile, dead: dict[str, Anchor | None]) -> None:
        living = (self._anchors.names() - set(dead)) | {own.name}
        at = timestamp(self._clock())
        for run_id, name, first_seq in db.execute(
            "SELECT id, name, first_seq FROM runs WHERE ended_at IS NULL"
        ).fetchall():
            if name in living:
                continue
            anchor = dead.get(name)
            since = anchor.unfinished_from if anchor is not None and anchor.is_genuine else first_seq
            rows = self._unknown(db, run_id, since, "the gateway died before the answer came")
            if rows:
                _log.warning("%d calls of a run that died have an unknown outcome", len(rows))
            group.rows += rows
            db.execute("UPDATE runs SET ended_at = ?, ended = 'died' WHERE id = ?", (at, run_id))

    def _unknown(self, db: Connection, run_id: int, since: int, error: str) -> list[Row]:
        """An end for each call of that run that has none."""
        rows = []
        for seq, *values in db.execute(_UNFINISHED, (since, run_id)):
            shared = {column: value for column, value in zip(_SHARED, values, strict=True) if value is not None}
            rows.append(unknown_row(shared, self._clock(), error) | {"decided_seq": seq})
        return rows

    # -- writing -------------------------------------------------------------------------------------------------------

    def _add(self, db: Connection, group: _Group, base: int, job: Job) -> None:
        if isinstance(job, Decided):
            self._add_decided(db, group, base, job)
        elif isinstance(job, Finished):
            _add_finished(group, self._epoch, job)
        elif isinstance(job, Event):
            group.rows.append(job.row)
        elif isinstance(job, Remembered):
            group.rows += self._versions.keep(db, job.policy, job.target, self._clock())

    def _add_decided(self, db: Connection, group: _Group, base: int, job: Decided) -> None:
        entry = job.entry
        group.rows += self._versions.keep(db, entry.decision.policy_version, entry.target, self._clock())
        group.rows.append(job.row)
        entry.seq = base + len(group.rows)
        entry.epoch = self._epoch
        group.decided.append(entry)

    def _add_outage(self, db: Connection, group: _Group, outage: _Outage) -> None:
        """Say so in the chain, and give the calls that ended meanwhile an end."""
        detail = {"since": timestamp(outage.since), "rows_refused": outage.rows, "ends_late": len(self._late)}
        group.rows.append(event_row("audit", UNAVAILABLE, self._clock(), reason=outage.error, detail=detail))
        for seq, row in self._late.items():
            # A commit that failed may have come about after all.
            if db.execute("SELECT 1 FROM entries WHERE decided_seq = ?", (seq,)).fetchone() is None:
                group.rows.append(row.copy())  # it is still needed as it was should this commit fail too
            if seq in self._open:
                group.finished.append(self._open[seq])

    def _insert(self, db: Connection, group: _Group, head: Head) -> Head:
        group.head = chain.append(head, group.rows, self._run_id)
        insert = db.cursor().execute
        for row in group.rows:
            insert(_insert_statement(tuple(row)), tuple(row.values()))
        return group.head

    def _checkpoint(self, db: Connection, checkpoint: Checkpoint) -> None:
        db.execute(
            "INSERT OR IGNORE INTO checkpoints (last_seq, purpose, day, last_hash, key_id, signature)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                checkpoint.last_seq,
                checkpoint.purpose,
                checkpoint.day,
                checkpoint.last_hash,
                self._key_id,
                chain.sign(self._keys.signing, checkpoint),
            ),
        )

    def _write_anchor(self, head: Head) -> None:
        if self._run is None:
            return
        try:
            self._run.write(Anchor(head, next(iter(self._open), head.seq + 1)))
        except OSError as e:
            # The rows are committed, so whoever waits for them may go on; only their anchor lags behind.
            _log.error("the audit's anchor cannot be written: %s", e)


def _add_finished(group: _Group, epoch: int, job: Finished) -> None:
    entry = job.entry
    if entry.seq is None:  # its decision could not be written, so nothing was dispatched
        return
    if entry.epoch == epoch:
        job.row["decided_seq"] = entry.seq
    group.rows.append(job.row)
    group.finished.append(entry)


@lru_cache(maxsize=256)
def _insert_statement(columns: tuple[str, ...]) -> str:
    """For these columns only: binding a NULL costs as much as binding a value, and half of a row's columns are NULL."""
    if not set(columns) <= set(COLUMNS):
        raise ValueError(f"not columns of the audit: {columns}")
    return f"INSERT INTO entries ({','.join(columns)}) VALUES ({','.join('?' * len(columns))})"  # noqa: S608 - checked


def _head(db: Connection) -> tuple[Head, str]:
    """The last row of the chain, and its day."""
    found: Any = db.execute("SELECT seq, hash, at FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
    return (Head(found[0], found[1]), found[2][:10]) if found else (Head(), "")


def _hash_at(db: Connection, seq: int) -> str:
    if seq == 0:
        return chain.GENESIS
    found = db.execute("SELECT hash FROM entries WHERE seq = ?", (seq,)).fetchone()
    return str(found[0]) if found else ""
