"""A table that readers keep in memory: every commit shows, in this process and in others."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from mcp_gateway.errors import StoreBusy, StoreUnavailable
from mcp_gateway.storage.stamped import GRANULARITY_NS, StampedFile, once_unlocked, waiting_until_unlocked

SCHEMA = ["CREATE TABLE x (a TEXT)", "CREATE INDEX y ON x(a)"]


def test_a_commit_of_anybody_shows_in_the_stamp_or_in_the_count(tmp_path: Path) -> None:
    with closing(StampedFile(tmp_path / "x.db", SCHEMA)) as one, closing(StampedFile(tmp_path / "x.db", SCHEMA)) as two:
        for _ in range(20):
            before = (one.stamp(), one.commits())
            with two.writing() as db:
                db.execute("INSERT INTO x VALUES ('a')")
            assert (one.stamp(), one.commits()) != before


def test_what_was_seen_young_is_settled_as_soon_as_the_file_has_come_to_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(StampedFile(tmp_path / "state" / "a.db", SCHEMA)) as file:
        sight = file.look()
        assert not sight.is_settled
        later = time.time_ns() + GRANULARITY_NS + 1
        monkeypatch.setattr(time, "time_ns", lambda: later)
        assert file.still_stands(sight, file.stamp())
        monkeypatch.setattr(file, "commits", lambda: pytest.fail("the database was asked"))
        assert file.still_stands(sight, file.stamp())


async def test_whoever_asks_on_the_event_loop_waits_for_a_writer_without_holding_others_up(tmp_path: Path) -> None:
    with (
        closing(StampedFile(tmp_path / "state" / "a.db", SCHEMA)) as file,
        closing(sqlite3.connect(tmp_path / "state" / "a.db", isolation_level=None)) as writer,
    ):
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy):
            file.look()
        asking = asyncio.create_task(once_unlocked(file.look))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not asking.done()
        writer.execute("ROLLBACK")
        assert file.still_stands(await asking, file.stamp())


async def test_a_store_that_stays_locked_is_given_up(tmp_path: Path) -> None:
    with (
        closing(StampedFile(tmp_path / "state" / "a.db", SCHEMA)) as file,
        closing(sqlite3.connect(tmp_path / "state" / "a.db", isolation_level=None)) as writer,
    ):
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy, match="locked"):
            await once_unlocked(file.look)
        with pytest.raises(StoreBusy, match="locked"):
            waiting_until_unlocked(file.look)


async def test_a_thread_that_writes_holds_no_reader_of_the_loop_up(tmp_path: Path) -> None:
    with closing(StampedFile(tmp_path / "state" / "a.db", SCHEMA)) as file, file.writing(), pytest.raises(StoreBusy):
        await asyncio.to_thread(file.commits)


def test_a_stamp_is_settled_once_no_other_commit_can_hide_behind_it(tmp_path: Path) -> None:
    with closing(StampedFile(tmp_path / "x.db", SCHEMA)) as file:
        stamp = file.stamp()
        assert not stamp.is_settled(stamp.changed_ns + GRANULARITY_NS // 2)
        assert stamp.is_settled(max(stamp.modified_ns, stamp.changed_ns) + GRANULARITY_NS + 1)


def test_a_file_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    with closing(StampedFile(tmp_path / "x.db", SCHEMA)) as file, file.writing() as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(StoreUnavailable, match="newer"):
        StampedFile(tmp_path / "x.db", SCHEMA)
