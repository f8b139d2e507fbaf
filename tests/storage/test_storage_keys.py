"""The table of API keys: private, bounded in waiting, honest about what it cannot do."""

from __future__ import annotations

import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

import mcp_gateway.storage.stamped as stamped_module
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.keys import DATABASE, KeyRecord, KeyTable
from mcp_gateway.storage.stamped import Stamp

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
RECORD = KeyRecord("id1", "bot", NOW, NOW + timedelta(days=1), None, "ab" * 32, "name")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "state"


@pytest.fixture
def table(state: Path) -> Iterator[KeyTable]:
    table = KeyTable(state)
    yield table
    table.close()


def test_folder_and_file_are_made_for_us_alone(table: KeyTable, state: Path) -> None:
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / DATABASE).stat().st_mode) == 0o600


def test_a_record_comes_back_as_it_was_with_times_in_utc(table: KeyTable) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=9)))
    table.insert(replace(RECORD, created=elsewhere))
    assert table.records() == (RECORD,)
    assert table.records()[0].created.tzinfo is UTC


def test_names_are_data_and_never_sql(table: KeyTable) -> None:
    evil = replace(RECORD, agent="x'); DROP TABLE api_keys; --")
    table.insert(evil)
    assert table.records() == (evil,)


def test_every_commit_of_another_connection_is_counted(table: KeyTable, state: Path) -> None:
    with closing(KeyTable(state)) as other:
        before = table.commits()
        other.insert(RECORD)
        assert table.commits() != before
        assert table.records() == (RECORD,)


def test_a_young_stamp_is_not_trusted_and_one_from_the_future_neither() -> None:
    second = 1_000_000_000
    stamp = Stamp(1, 1, 1, modified_ns=100 * second, changed_ns=100 * second)
    assert not stamp.is_settled(100 * second)
    assert not stamp.is_settled(101 * second)
    assert not stamp.is_settled(50 * second)
    assert stamp.is_settled(103 * second)


def test_a_locked_store_is_refused_after_a_short_wait(table: KeyTable, state: Path) -> None:
    with closing(sqlite3.connect(state / DATABASE, isolation_level=None)) as locker:
        locker.execute("BEGIN EXCLUSIVE")
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match="locked"):
            table.records()
        assert time.monotonic() - start < stamped_module.READ_WAIT_S + 1
        locker.execute("ROLLBACK")
    assert table.records() == ()


def test_a_link_in_the_files_place_is_refused(state: Path, tmp_path: Path) -> None:
    state.mkdir(mode=0o700, parents=True)
    (state / DATABASE).symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(StoreUnavailable, match="not a regular file"):
        KeyTable(state)
    assert not (tmp_path / "elsewhere.db").exists()


def test_a_file_or_folder_open_to_others_is_refused_with_the_fix(table: KeyTable, state: Path) -> None:
    (state / DATABASE).chmod(0o640)
    with pytest.raises(StoreUnavailable, match="chmod 600"):
        KeyTable(state)
    state.chmod(0o755)
    with pytest.raises(StoreUnavailable, match="chmod 700"):
        KeyTable(state)


def test_a_file_of_a_newer_version_is_refused_and_left_alone(state: Path) -> None:
    KeyTable(state).close()
    with closing(sqlite3.connect(state / DATABASE)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = (state / DATABASE).read_bytes()
    with pytest.raises(StoreUnavailable, match="newer"):
        KeyTable(state)
    assert (state / DATABASE).read_bytes() == before


def test_what_is_no_database_is_refused(state: Path) -> None:
    state.mkdir(mode=0o700, parents=True)
    (state / DATABASE).write_bytes(b"hello " * 1000)
    (state / DATABASE).chmod(0o600)
    with pytest.raises(StoreUnavailable):
        KeyTable(state)


def test_the_same_id_twice_is_an_error_and_the_first_stays(table: KeyTable) -> None:
    table.insert(RECORD)
    with pytest.raises(StoreUnavailable):
        table.insert(replace(RECORD, agent="other"))
    assert table.records() == (RECORD,)


def test_a_file_that_went_away_cannot_be_stamped(table: KeyTable, state: Path) -> None:
    (state / DATABASE).unlink()
    with pytest.raises(StoreUnavailable):
        table.stamp()


def test_the_file_is_sound_after_it_was_used(table: KeyTable, state: Path) -> None:
    table.insert(RECORD)
    table.revoke("id1", NOW)
    with closing(sqlite3.connect(state / DATABASE)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
