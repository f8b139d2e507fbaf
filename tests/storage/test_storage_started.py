"""The table of started tasks: what changed since, and nothing kept for ever."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mcp_gateway.domain import Budget, StartedTask
from mcp_gateway.storage.started import KEPT, REVOKED, StartedRecord, StartedTable

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def record(name: str, at: datetime = NOW) -> StartedRecord:
    task = StartedTask(name, "bot", "ticket", at + timedelta(hours=1), {"a": [1, "ü"]}, "carol", Budget(calls=1))
    return StartedRecord(task, at, digest="d")


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    with closing(StartedTable(tmp_path)) as table:
        table.insert(record("one"))
        [found] = table.changed_since(0)
        assert (found.task, found.started, found.digest) == (record("one").task, NOW, "d")


def test_changes_are_told_once_each_in_their_order(tmp_path: Path) -> None:
    with closing(StartedTable(tmp_path)) as table:
        for name in ("one", "two"):
            table.insert(record(name))
        last = table.changed_since(0)[-1].changed
        assert table.changed_since(last) == []
        table.extend("one", NOW + timedelta(hours=2), NOW)
        table.end("two", REVOKED, NOW)
        assert [found.task.id for found in table.changed_since(last)] == ["one", "two"]
        assert [found.task.id for found in table.changed_since(0)] == ["one"]  # a newcomer needs nothing that is over


def test_states_have_words(tmp_path: Path) -> None:
    with closing(StartedTable(tmp_path)) as table:
        for name in ("one", "two"):
            table.insert(record(name))
        table.end("two", REVOKED, NOW)
        one, two = table.newest(9)
        assert (one.state(NOW), one.state(NOW + timedelta(hours=1)), two.state(NOW)) == (
            "under way",
            "expired",
            "revoked",
        )


def test_what_is_long_over_is_forgotten_and_the_count_goes_on(tmp_path: Path) -> None:
    with closing(StartedTable(tmp_path)) as table:
        table.insert(record("old"))
        last = table.changed_since(0)[-1].changed
        table.insert(record("new", NOW + KEPT + timedelta(days=1)))
        assert table.find("old") is None
        assert table.changed_since(last)[-1].changed > last
