"""Reading what happened, while it happens."""

import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from evidence import ALLOWED, CALLER, DENIED, OK, REFUSED, TARGET, database, one_call, opened, request, rows, some_calls

from mcp_gateway.audit.query import AuditReader, Filters, escaped
from mcp_gateway.domain import Caller, Outcome, OutcomeStatus
from mcp_gateway.errors import StoreUnavailable

SQL = "'; DROP TABLE entries; --"


async def history(folder: Path) -> None:
    async with opened(folder) as log:
        log.remember_policy("v1", "[tasks.triage]\n")
        await one_call(log, "ok", arguments={"q": "the quick brown fox"})
        await one_call(
            log, "failed", outcome=Outcome(OutcomeStatus.TOOL_ERROR, {"isError": True, "text": "jumps over"})
        )
        await log.record(Caller("other", "deploy"), request("denied"), TARGET, DENIED, REFUSED)
        await log.record(CALLER, request("unknown", name="no_such"), None, DENIED, REFUSED)
        await log.note("policy", "v0 -> v1", reason="edited")


def ids(folder: Path, **filters: Any) -> list[str]:
    with AuditReader(database(folder)) as audit:
        return [call["request_id"] for call in audit.calls(Filters(**filters))]


async def test_calls_are_found_by_what_they_were(tmp_path: Path) -> None:
    await history(tmp_path)
    now = datetime.now(UTC)
    assert ids(tmp_path) == ["ok", "failed", "denied", "unknown"]
    assert ids(tmp_path, limit=2) == ["denied", "unknown"]
    assert ids(tmp_path, agent="other") == ids(tmp_path, task="deploy") == ["denied"]
    assert ids(tmp_path, decision="denied") == ids(tmp_path, outcome="refused") == ["denied", "unknown"]
    assert ids(tmp_path, outcome="tool_error", agent="helper") == ["failed"]
    assert ids(tmp_path, tool="github/search") == ids(tmp_path, tool="github/*") == ["ok", "failed", "denied"]
    assert ids(tmp_path, tool="no_such") == ["unknown"]
    assert ids(tmp_path, since=now - timedelta(hours=1)) == ["ok", "failed", "denied", "unknown"]
    assert ids(tmp_path, since=now + timedelta(hours=1)) == []


@pytest.mark.parametrize("filters", [{"since": datetime(2026, 1, 1, tzinfo=UTC)}, {"outcome": "error"}], ids=str)
async def test_the_newest_calls_are_found_without_reading_or_sorting_all(tmp_path: Path, filters: Any) -> None:
    await history(tmp_path)
    asked: list[str] = []
    with AuditReader(tmp_path / "audit.db") as audit:
        audit._db.conn.set_trace_callback(asked.append)
        audit.calls(Filters(**filters))
        audit._db.conn.set_trace_callback(None)
        question = next(sql for sql in asked if "FROM calls" in sql)
        steps = [str(row[3]) for row in audit._db.execute(f"EXPLAIN QUERY PLAN {question}")]
    assert not [step for step in steps if "TEMP B-TREE" in step or step in ("SEARCH entries", "SCAN f")], steps
    assert steps[0] in ("SCAN d", "SEARCH d USING INTEGER PRIMARY KEY (rowid>?)"), steps


async def test_calls_are_found_by_the_words_in_them(tmp_path: Path) -> None:
    await history(tmp_path)
    assert ids(tmp_path, search="brown") == ["ok"]
    assert ids(tmp_path, search="fox quick") == ["ok"]
    assert ids(tmp_path, search="jumps") == ["failed"]
    assert ids(tmp_path, search="zebra") == []
    async with opened(tmp_path) as log:
        await one_call(log, "later", arguments={"q": "zebra"})
        assert ids(tmp_path, search="zebra") == ["later"]


@pytest.mark.parametrize("text", [SQL, '"', "a AND", "NEAR(", "*", "col:", "\0", "^x", "-"])
async def test_no_filter_is_taken_for_a_language(tmp_path: Path, text: str) -> None:
    await history(tmp_path)
    for field in ("agent", "task", "decision", "outcome", "search"):
        ids(tmp_path, **{field: text})
    assert len(rows(tmp_path)) == 10


async def test_an_entry_comes_with_all_that_explains_it(tmp_path: Path) -> None:
    await history(tmp_path)
    with AuditReader(database(tmp_path)) as audit:
        entry = audit.entry("ok")
        assert entry is not None
        assert entry["decided"]["decision"] == "allowed"
        assert entry["finished"]["outcome"] == "ok"
        assert entry["policy"]["text"] == "[tasks.triage]\n"
        assert entry["target"]["name"] == "search"
        assert audit.entry(entry["decided"]["seq"]) == entry
        assert audit.entry(entry["finished"]["seq"]) == entry
        assert audit.entry(10_000) is None
        assert audit.entry("nobody") is None


async def test_events_are_told_apart_from_calls(tmp_path: Path) -> None:
    await history(tmp_path)
    with AuditReader(database(tmp_path)) as audit:
        assert [event["name"] for event in audit.events()] == ["v1", "v0 -> v1"]
        assert audit.events("key") == []
        event = audit.entry(audit.events()[-1]["seq"])
        assert event is not None
        assert event["decided"] is None


async def test_every_view_answers(tmp_path: Path) -> None:
    await history(tmp_path)
    with AuditReader(database(tmp_path)) as audit:
        assert len(audit.view("denied_today")) == 2
        assert audit.view("slowest_tools")[0]["name"] == "search"
        assert {row["agent"] for row in audit.view("agent_tools")} == {"helper", "other"}
        assert [row["name"] for row in audit.view("new_targets")] == ["search"]
        assert audit.view("unused_grants") == audit.view("spend_by_agent") == []
        with pytest.raises(LookupError, match="agent_tools"):
            audit.view("entries; --")


class Enough(Exception):
    pass


async def test_follow_shows_rows_as_they_are_written(tmp_path: Path) -> None:
    await history(tmp_path)
    async with opened(tmp_path) as log:
        with AuditReader(database(tmp_path)) as audit:
            waits: list[float] = []

            def write_and_wait(seconds: float) -> None:
                waits.append(seconds)
                if len(waits) == 3:
                    raise Enough
                anyio.from_thread.run(one_call, log, f"r{len(waits)}")

            def follow() -> list[str]:
                seen = []
                with pytest.raises(Enough):
                    for row in audit.follow(Filters(agent="helper"), wait=write_and_wait):
                        seen.append(f"{row['request_id']} {row['phase']}")
                return seen

            assert await anyio.to_thread.run_sync(follow) == [
                "r1 decided", "r1 finished", "r2 decided", "r2 finished",
            ]  # fmt: skip


async def test_reading_takes_no_lock_the_writer_waits_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        for number in range(20):
            await one_call(log, f"r{number}")
        with AuditReader(database(tmp_path)) as audit:
            following = audit.follow()
            reading = audit._db.execute("SELECT * FROM entries")
            reading.fetchone()
            entry = await log.open(CALLER, request("meanwhile"), TARGET, ALLOWED)
            await log.close(entry, OK)
            following.close()


async def test_a_file_that_cannot_be_read_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"audit\.db"):
        AuditReader(database(tmp_path))
    (tmp_path / "real.db").touch()
    os.symlink(tmp_path / "real.db", database(tmp_path))  # noqa: PTH211
    with pytest.raises(StoreUnavailable, match="not a regular file"):
        AuditReader(database(tmp_path))


async def test_the_files_are_for_us_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await one_call(log)
        for suffix in ("", "-wal", "-shm"):
            assert stat.S_IMODE(Path(f"{database(tmp_path)}{suffix}").stat().st_mode) == 0o600
    await some_calls(tmp_path, 1)


@pytest.mark.parametrize(
    "text", ["\x1b[31mred", "a\nb", "a\rb", "\x07", "\u202egnp.exe", "\u200b", "\ufe0f", "\U000e0041", "\x9b1m"]
)
def test_nothing_reaches_a_terminal_but_text(text: str) -> None:
    assert escaped(text).isprintable()
    assert escaped(text) != text


def test_ordinary_text_of_any_script_stays_readable() -> None:
    for text in ("plain text", "Grüße", "日本語", "हिन्दी", "é"):
        assert escaped(text) == text
