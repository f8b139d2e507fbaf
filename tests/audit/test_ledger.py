"""What happens when a run ends badly, when there are several, and when the database is not what it was."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import anyio
import pytest
from evidence import (
    ALLOWED,
    CALLER,
    DENIED,
    OK,
    TARGET,
    database,
    judged,
    one_call,
    opened,
    request,
    rows,
    some_calls,
    state,
    tamper,
)

from fakes.waiting import until
from mcp_gateway.audit.log import AuditLog
from mcp_gateway.audit.verify import Fault
from mcp_gateway.errors import StoreUnavailable


async def die(log: AuditLog) -> None:
    """What the death of the process leaves: what was committed, and a lock that nobody holds."""
    ledger = log._writer._scribe  # type: ignore[union-attr]
    ledger.end = lambda db: None  # type: ignore[method-assign]
    await log.aclose()


async def dead_run(folder: Path, *request_ids: str) -> None:
    """A run that died while these calls were under way, after one that was done."""
    async with opened(folder) as log:
        await one_call(log, "done")
        for request_id in request_ids:
            await log.open(CALLER, request(request_id), TARGET, ALLOWED)
        await log.open(CALLER, request("denied"), TARGET, DENIED)
        await die(log)


async def outcomes(folder: Path) -> dict[str, str | None]:
    return {row["request_id"]: row["outcome"] for row in rows(folder, "SELECT * FROM calls")}


async def test_calls_of_a_run_that_died_have_an_unknown_outcome(tmp_path: Path) -> None:
    await dead_run(tmp_path, "a", "b")
    assert (await outcomes(tmp_path))["a"] is None
    async with opened(tmp_path):
        assert await outcomes(tmp_path) == {"done": "ok", "a": "unknown", "b": "unknown", "denied": None}
    assert judged(tmp_path).ok
    assert [row["ended"] for row in rows(tmp_path, "SELECT * FROM runs")] == ["died", "stopped"]


async def test_they_get_it_once(tmp_path: Path) -> None:
    await dead_run(tmp_path, "a")
    for _ in range(3):
        async with opened(tmp_path):
            pass
    assert len(rows(tmp_path, "SELECT * FROM entries WHERE outcome = 'unknown'")) == 1


async def test_they_get_it_though_the_state_folder_is_gone(tmp_path: Path) -> None:
    await dead_run(tmp_path, "a")
    shutil.rmtree(state(tmp_path))
    async with opened(tmp_path):
        assert (await outcomes(tmp_path))["a"] == "unknown"
    assert "found without an anchor" in str(judged(tmp_path).notes)


async def test_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path) as first:
        entry = await first.open(CALLER, request("under way"), TARGET, ALLOWED)
        async with opened(tmp_path):
            assert (await outcomes(tmp_path))["under way"] is None
        assert (await outcomes(tmp_path))["under way"] is None
        await first.close(entry, OK)
        assert (await outcomes(tmp_path))["under way"] == "ok"
    assert judged(tmp_path).ok


async def test_two_logs_write_one_chain(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, busy_timeout_s=5.0) as first,
        opened(tmp_path, busy_timeout_s=5.0) as second,
        anyio.create_task_group() as calls,
    ):
        for number in range(40):
            calls.start_soon(one_call, (first, second)[number % 2], f"r{number}")
    assert judged(tmp_path).ok
    found = rows(tmp_path)
    assert [row["seq"] for row in found] == list(range(1, len(found) + 1))
    assert {row["run"] for row in found} == {1, 2}


async def test_recovery_looks_at_the_end_of_a_long_history_only(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        for number in range(20):
            await one_call(log, f"r{number}")
        run_file = next((state(tmp_path) / "audit" / "audit.db" / "runs").iterdir())
        unfinished_from = int(run_file.read_text().split()[2])
        assert unfinished_from == rows(tmp_path)[-1]["seq"] + 1
        await log.open(CALLER, request("open"), TARGET, ALLOWED)
        await one_call(log, "later")
        assert int(run_file.read_text().split()[2]) == unfinished_from


async def test_a_cut_off_end_is_told_at_the_next_start_and_for_ever_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await some_calls(tmp_path)
    tamper(tmp_path, "DELETE FROM entries WHERE seq > 9", "DELETE FROM checkpoints")
    await some_calls(tmp_path, 2)
    await some_calls(tmp_path, 2)
    assert "behind its anchor" in caplog.text
    problems = judged(tmp_path).problems
    assert [(problem.seq, problem.fault) for problem in problems] == [(10, Fault.WAS_BEHIND)]
    (row,) = rows(tmp_path, "SELECT * FROM entries WHERE kind = 'audit'")
    assert row["args"].startswith('{"anchor_hash":') and '"anchor_seq":21,"found_seq":9' in row["args"]


async def test_an_old_backup_in_its_place_is_told(tmp_path: Path) -> None:
    await some_calls(tmp_path)
    shutil.copy(database(tmp_path), tmp_path / "backup")
    await some_calls(tmp_path)
    shutil.copy(tmp_path / "backup", database(tmp_path))
    assert judged(tmp_path).problems[0].fault is Fault.CUT_OFF
    async with opened(tmp_path):
        pass
    assert judged(tmp_path).problems[0].fault is Fault.WAS_BEHIND


async def test_a_database_that_vanishes_under_a_run_swallows_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        entry = await log.open(CALLER, request("before"), TARGET, ALLOWED)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{database(tmp_path)}{suffix}").rename(tmp_path / f"moved{suffix}")
        await one_call(log, "after")
        await log.close(entry, OK)
        assert log.healthy
    assert [row["request_id"] for row in rows(tmp_path, "SELECT * FROM calls")] == ["after"]
    # The end of a call whose decision is gone is kept, and says of no other row that it was its decision.
    assert [row["decided_seq"] for row in rows(tmp_path) if row["request_id"] == "before"] == [None]
    assert [problem.fault for problem in judged(tmp_path).problems] == [Fault.WAS_BEHIND]


async def test_an_end_that_fails_several_times_is_written_once_and_right(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        entry = await log.open(CALLER, request(), TARGET, ALLOWED)
        ledger = log._writer._scribe  # type: ignore[union-attr]
        writes, failures = ledger.write, []

        def fails_at_the_end(*arguments: Any) -> None:
            writes(*arguments)
            failures.append(1)
            raise sqlite3.OperationalError("disk I/O error")

        ledger.write = fails_at_the_end  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await log.close(entry, OK)
        await until(lambda: len(failures) > 3)
        ledger.write = writes  # type: ignore[method-assign]
        await until(lambda: log.healthy)
    assert judged(tmp_path).problems == ()
    assert [row["outcome"] for row in rows(tmp_path, "SELECT * FROM calls")] == ["unknown"]


async def test_a_commit_that_failed_and_came_about_leaves_no_call_without_its_end(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        await one_call(log, "before")
        ledger = log._writer._scribe  # type: ignore[union-attr]
        write = ledger.write

        def commits_and_fails(db: sqlite3.Connection, jobs: Any) -> None:
            write(db, jobs)
            db.execute("COMMIT")
            ledger.write = write  # type: ignore[method-assign]
            raise sqlite3.OperationalError("disk I/O error")

        for request_id in ("decided", "closed"):
            entry = await log.open(CALLER, request(request_id), TARGET, ALLOWED) if request_id == "closed" else None
            ledger.write = commits_and_fails  # type: ignore[method-assign]
            with pytest.raises(StoreUnavailable):
                await (log.close(entry, OK) if entry else log.open(CALLER, request(request_id), TARGET, ALLOWED))
            await until(lambda: log.healthy)
        await one_call(log, "after")
        assert ledger._open == {}  # type: ignore[attr-defined]
    assert judged(tmp_path).problems == ()
    assert await outcomes(tmp_path) == {"before": "ok", "decided": "unknown", "closed": "ok", "after": "ok"}


async def test_each_day_and_each_end_is_signed(tmp_path: Path) -> None:
    day = 24 * 3600.0
    now = [1_795_258_923.0]
    async with opened(tmp_path, clock=lambda: now[0]) as log:
        await one_call(log, "first day")
        now[0] += day
        await one_call(log, "second day")
        now[0] -= 2 * day
        await one_call(log, "the clock went back")
    found = rows(tmp_path, "SELECT purpose, day, last_seq FROM checkpoints ORDER BY last_seq")
    assert [(row["purpose"], row["day"]) for row in found] == [("day", "2026-11-21"), ("shutdown", "2026-11-20")]
    verdict = judged(tmp_path)
    assert verdict.ok
    assert verdict.checkpoints == 2


async def test_nothing_is_left_in_the_state_folder_but_keys_and_the_anchor(tmp_path: Path) -> None:
    for _ in range(3):
        await some_calls(tmp_path, 1)
    left = {
        str(file.relative_to(state(tmp_path) / "audit"))
        for file in (state(tmp_path) / "audit").rglob("*")
        if file.is_file()
    }
    assert left == {"hmac.key", "signing.key", "signing.pub", "audit.db/anchor", "audit.db/lock"}
