"""The audit's tables and views, and how an older database is brought forward.

`PRAGMA user_version` says how many steps a database has taken. A step that was released is never edited: a new one is
added behind it. Columns added to `entries` must be nullable: the chain hashes a row's non-null columns, so old rows
keep their hashes. Text is TEXT even where it holds JSON (a column declared JSON would turn '123' into a number).
"""

from __future__ import annotations

import sqlite3
from typing import Final

from mcp_gateway.errors import StoreUnavailable

Step = tuple[str, ...]

_TABLES: Final[Step] = (
    """
    CREATE TABLE policy_versions (
        hash TEXT PRIMARY KEY,
        loaded_at TEXT NOT NULL,
        text TEXT
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE target_versions (
        hash TEXT PRIMARY KEY,
        upstream TEXT NOT NULL,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        first_seen TEXT NOT NULL,
        status TEXT NOT NULL DEFAULT 'seen',
        definition_sha256 TEXT NOT NULL,
        definition TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        pid INTEGER NOT NULL,
        started_at TEXT NOT NULL,
        first_seq INTEGER NOT NULL,
        ended_at TEXT,
        ended TEXT
    )
    """,
    """
    CREATE TABLE entries (
        seq INTEGER PRIMARY KEY,
        at TEXT NOT NULL,
        run INTEGER NOT NULL REFERENCES runs(id),
        request_id TEXT,
        parent TEXT,
        kind TEXT NOT NULL,
        phase TEXT NOT NULL,
        decided_seq INTEGER REFERENCES entries(seq),
        agent TEXT,
        person TEXT,
        identity_strength TEXT,
        session TEXT,
        client TEXT,
        task TEXT,
        upstream TEXT,
        name TEXT,
        target_hash TEXT REFERENCES target_versions(hash),
        decision TEXT,
        reason TEXT,
        grant_at TEXT,
        policy_hash TEXT REFERENCES policy_versions(hash),
        args TEXT,
        args_sha256 TEXT,
        redactions TEXT,
        outcome TEXT,
        error TEXT,
        result_sha256 TEXT,
        result_bytes INTEGER,
        result_preview TEXT,
        tokens_in INTEGER,
        tokens_out INTEGER,
        cost REAL,
        gateway_ms REAL,
        upstream_ms REAL,
        trace_id TEXT,
        prev_hash TEXT NOT NULL,
        hash TEXT NOT NULL
    )
    """,
    # Partial indexes: a row pays only for what is looked up by it.
    "CREATE INDEX entries_decided_seq ON entries(decided_seq) WHERE decided_seq IS NOT NULL",
    "CREATE INDEX entries_request_id ON entries(request_id) WHERE phase = 'decided'",
    "CREATE INDEX entries_events ON entries(kind) WHERE request_id IS NULL",
    "CREATE INDEX entries_at ON entries(at) WHERE phase = 'decided'",
    """
    CREATE TABLE checkpoints (
        last_seq INTEGER NOT NULL,
        purpose TEXT NOT NULL,
        day TEXT NOT NULL,
        last_hash TEXT NOT NULL,
        key_id TEXT NOT NULL,
        signature TEXT NOT NULL,
        PRIMARY KEY (last_seq, purpose)
    ) WITHOUT ROWID
    """,
    # Filled by whoever searches, never by the writer: an index over words costs more than the row itself.
    """
    CREATE VIRTUAL TABLE entries_fts USING fts5(
        agent, task, upstream, name, reason, args, error, result_preview, content='entries', content_rowid='seq'
    )
    """,
)

_VIEWS: Final[Step] = (
    """
    CREATE VIEW calls AS
    SELECT d.seq, d.at, d.request_id, d.kind, d.agent, d.person, d.task, d.upstream, d.name, d.decision, d.reason,
           d.grant_at, d.policy_hash, d.target_hash, d.identity_strength, d.client, d.session, d.args,
           f.outcome, f.error, f.result_bytes, f.result_preview, f.upstream_ms, f.gateway_ms,
           f.at AS finished_at, f.seq AS finished_seq, d.trace_id
    FROM entries d LEFT JOIN entries f ON f.decided_seq = d.seq
    WHERE d.phase = 'decided'
    """,
    """
    CREATE VIEW denied_today AS
    SELECT seq, at, agent, task, kind, upstream, name, reason, grant_at, request_id
    FROM entries WHERE phase = 'decided' AND decision = 'denied' AND at >= date('now')
    ORDER BY at DESC
    """,
    """
    CREATE VIEW slowest_tools AS
    SELECT upstream, name, count(*) AS calls, round(avg(upstream_ms), 3) AS avg_upstream_ms,
           round(max(upstream_ms), 3) AS max_upstream_ms, round(avg(gateway_ms), 3) AS avg_gateway_ms
    FROM calls WHERE kind = 'call' AND upstream_ms > 0 AND at >= date('now', '-7 days')
    GROUP BY upstream, name ORDER BY avg_upstream_ms DESC
    """,
    """
    CREATE VIEW agent_tools AS
    SELECT agent, task, upstream, name, sum(decision = 'allowed') AS allowed, sum(decision = 'denied') AS denied,
           min(at) AS first_at, max(at) AS last_at
    FROM entries WHERE phase = 'decided' AND kind <> 'list'
    GROUP BY agent, task, upstream, name ORDER BY agent, task, allowed DESC
    """,
    # The data knows only grants that decided something once: what it can say is which of them fell out of use.
    """
    CREATE VIEW unused_grants AS
    SELECT grant_at, count(*) AS uses, max(at) AS last_used
    FROM entries WHERE phase = 'decided' AND grant_at IS NOT NULL
    GROUP BY grant_at HAVING max(at) < date('now', '-30 days') ORDER BY last_used
    """,
    """
    CREATE VIEW new_targets AS
    SELECT first_seen, upstream, kind, name, status, hash
    FROM target_versions WHERE first_seen >= date('now', '-7 days') ORDER BY first_seen DESC
    """,
    """
    CREATE VIEW spend_by_agent AS
    SELECT agent, task, sum(tokens_in) AS tokens_in, sum(tokens_out) AS tokens_out, sum(cost) AS cost
    FROM entries WHERE phase = 'finished' AND (tokens_in IS NOT NULL OR cost IS NOT NULL)
    GROUP BY agent, task ORDER BY cost DESC
    """,
)

_STARTED_TASKS: Final[Step] = (
    "ALTER TABLE entries ADD COLUMN started TEXT",
    "ALTER TABLE entries ADD COLUMN approval TEXT",
    "CREATE INDEX entries_started ON entries(started) WHERE started IS NOT NULL",
    "DROP VIEW calls",
    """
    CREATE VIEW calls AS
    SELECT d.seq, d.at, d.request_id, d.kind, d.agent, d.person, d.task, d.upstream, d.name, d.decision, d.reason,
           d.grant_at, d.policy_hash, d.target_hash, d.identity_strength, d.client, d.session, d.args,
           f.outcome, f.error, f.result_bytes, f.result_preview, f.upstream_ms, f.gateway_ms,
           f.at AS finished_at, f.seq AS finished_seq, d.trace_id, d.started, d.approval
    FROM entries d LEFT JOIN entries f ON f.decided_seq = d.seq
    WHERE d.phase = 'decided'
    """,
)

_SHADOW: Final[Step] = (
    "ALTER TABLE entries ADD COLUMN shadow TEXT",
    "ALTER TABLE entries ADD COLUMN shadow_at TEXT",
    """
    CREATE VIEW shadow_flips AS
    SELECT agent, task, upstream, name, decision, shadow, shadow_at, count(*) AS calls, max(at) AS last_at
    FROM entries WHERE phase = 'decided' AND shadow IS NOT NULL AND shadow <> decision
    GROUP BY agent, task, upstream, name, decision, shadow, shadow_at ORDER BY calls DESC
    """,
)
"""What a policy in shadow would have decided, beside what was."""

_FINDINGS: Final[Step] = (
    "ALTER TABLE entries ADD COLUMN findings TEXT",
    """
    CREATE VIEW guard_findings AS
    SELECT d.at, d.seq, d.agent, d.person, d.task, d.kind, d.upstream, d.name, f.outcome, f.findings
    FROM entries f JOIN entries d ON d.seq = f.decided_seq WHERE f.findings IS NOT NULL ORDER BY d.at DESC
    """,
)
"""What the policy's guards found in calls: a JSON list, never the text itself."""

_CACHE: Final[Step] = (
    "ALTER TABLE entries ADD COLUMN cache TEXT",
    """
    CREATE VIEW cache_use AS
    SELECT d.at, d.seq, d.agent, d.person, d.task, d.kind, d.upstream, d.name,
           json_extract(f.cache, '$.use') AS use, json_extract(f.cache, '$.source') AS source,
           json_extract(f.cache, '$.age_s') AS age_s, json_extract(f.cache, '$.similarity') AS similarity,
           json_extract(f.cache, '$.agreement') AS agreement
    FROM entries f JOIN entries d ON d.seq = f.decided_seq WHERE f.cache IS NOT NULL ORDER BY d.at DESC
    """,
)
"""Answers that came from a cache, or would have: which use of it, and whose answer it was."""

_KEPT: Final[Step] = ("ALTER TABLE entries ADD COLUMN kept TEXT",)
"""The digests of what is kept of a call in `kept.db`: a JSON object by part."""

STEPS: Final[tuple[Step, ...]] = (_TABLES + _VIEWS, _STARTED_TASKS, _SHADOW, _FINDINGS, _CACHE, _KEPT)
"""All steps so far; `len(STEPS)` is the version this program writes."""


def migrate(db: sqlite3.Connection) -> None:
    """Take the steps that `db` has not taken yet, all in one transaction.

    Raises `StoreUnavailable` for a database that a newer program wrote, `sqlite3.Error` where it cannot be written.
    """
    if _version(db) == len(STEPS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        taken = _version(db)  # again: another process may have been faster
        if taken > len(STEPS):
            raise StoreUnavailable(
                f"the database has schema {taken}, this program knows up to {len(STEPS)}: upgrade it"
            )
        for statement in (statement for step in STEPS[taken:] for statement in step):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(STEPS)}")
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
