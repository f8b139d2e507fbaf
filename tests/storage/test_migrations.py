"""Bringing a database forward."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.migrations import STEPS, migrate


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        yield connection


def names(db: sqlite3.Connection, kind: str) -> set[str]:
    return {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = ?", (kind,))}


def test_a_new_database_gets_all_tables_and_views(db: sqlite3.Connection) -> None:
    migrate(db)
    assert names(db, "table") >= {"entries", "policy_versions", "target_versions", "checkpoints", "runs", "entries_fts"}
    assert names(db, "view") == {
        "calls", "denied_today", "slowest_tools", "agent_tools", "unused_grants", "new_targets", "spend_by_agent",
        "shadow_flips", "guard_findings", "cache_use",
    }  # fmt: skip
    assert db.execute("PRAGMA user_version").fetchone() == (len(STEPS),)


def test_every_view_can_be_asked(db: sqlite3.Connection) -> None:
    migrate(db)
    for view in names(db, "view"):
        assert db.execute(f'SELECT * FROM "{view}"').fetchall() == []  # noqa: S608


def test_taking_the_steps_again_changes_nothing(db: sqlite3.Connection) -> None:
    migrate(db)
    before = db.execute("SELECT * FROM sqlite_master").fetchall()
    migrate(db)
    assert db.execute("SELECT * FROM sqlite_master").fetchall() == before


def test_a_newer_database_is_refused_and_left_alone(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    with pytest.raises(StoreUnavailable, match="upgrade"):
        migrate(db)
    assert names(db, "table") == set()
    assert not db.in_transaction


def test_a_step_that_fails_leaves_nothing_half_done(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE checkpoints (x)")
    with pytest.raises(sqlite3.OperationalError):
        migrate(db)
    assert names(db, "table") == {"checkpoints"}
    assert db.execute("PRAGMA user_version").fetchone() == (0,)


def test_a_database_of_the_first_release_is_brought_forward(db: sqlite3.Connection) -> None:
    for statement in STEPS[0]:
        db.execute(statement)
    db.execute("PRAGMA user_version = 1")
    migrate(db)
    assert {"shadow", "shadow_at"} <= {row[1] for row in db.execute("PRAGMA table_info(entries)")}


def test_two_processes_may_take_the_steps_at_once(tmp_path: Path) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "x", isolation_level=None)) as one,
        closing(sqlite3.connect(tmp_path / "x", isolation_level=None)) as other,
    ):
        migrate(one)
        migrate(other)


def test_rows_are_found_through_indexes(db: sqlite3.Connection) -> None:
    migrate(db)
    questions = [
        "SELECT 1 FROM entries WHERE decided_seq = 1",
        "SELECT 1 FROM entries WHERE request_id = 'x' AND phase = 'decided'",
        "SELECT * FROM denied_today",
        "SELECT * FROM entries WHERE phase = 'finished' AND request_id IS NULL AND kind = 'policy'",
    ]
    for question in questions:
        plan = " ".join(str(row) for row in db.execute(f"EXPLAIN QUERY PLAN {question}"))
        assert "INDEX entries_" in plan, (question, plan)
