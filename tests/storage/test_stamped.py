"""A table that readers keep in memory: every commit shows, in this process and in others."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.stamped import GRANULARITY_NS, StampedFile

SCHEMA = ["CREATE TABLE x (a TEXT)", "CREATE INDEX y ON x(a)"]


def test_a_commit_of_anybody_shows_in_the_stamp_or_in_the_count(tmp_path: Path) -> None:
    with closing(StampedFile(tmp_path / "x.db", SCHEMA)) as one, closing(StampedFile(tmp_path / "x.db", SCHEMA)) as two:
        for _ in range(20):
            before = (one.stamp(), one.commits())
            with two.writing() as db:
                db.execute("INSERT INTO x VALUES ('a')")
            assert (one.stamp(), one.commits()) != before


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
