"""Whatever has gathered is committed together, by one thread or by the event loop itself."""

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from fakes.waiting import until
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.sqlite import Connection, GroupWriter, StoreSettings, connect, reading, transaction


class Numbers:
    """A scribe that keeps numbers; -1 cannot be prepared, -2 cannot be written."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.failures: list[tuple[list[int], str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.max_pages = 0
        self.released = False
        self.threads: set[str] = set()
        self.writers: list[str] = []

    def begin(self, db: Connection) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS numbers (n INTEGER)")
        if self.max_pages:
            db.execute(f"PRAGMA max_page_count = {self.max_pages}")

    def prepare(self, job: int) -> None:
        self.threads.add(threading.current_thread().name)
        if job == -1:
            raise ValueError("not this one")

    def write(self, db: Connection, jobs: Sequence[int]) -> None:
        self.writers.append(threading.current_thread().name)
        self.gate.wait(10)
        for job in jobs:
            db.execute("INSERT INTO numbers VALUES (?)", (job,))
            if job == -2:
                raise sqlite3.OperationalError("not that one")
            if job > 1000:
                db.execute("INSERT INTO numbers VALUES (zeroblob(?))", (job,))
        if not jobs:
            db.execute("INSERT INTO numbers VALUES (0)")
        self.groups.append(list(jobs))

    def committed(self, db: Connection) -> None: ...

    def failed(self, jobs: Sequence[int], error: str) -> None:
        self.failures.append((list(jobs), error))

    def end(self, db: Connection) -> None: ...

    def release(self) -> None:
        self.released = True


@asynccontextmanager
async def writing(
    path: Path,
    scribe: Numbers,
    max_waiting: int = 100,
    *,
    on_loop: bool = False,
    busy_timeout_s: float = 0.1,
    turns: Path | None = None,
) -> AsyncIterator[GroupWriter[int]]:
    settings = StoreSettings(
        path, busy_timeout_s=busy_timeout_s, probe_every_s=0.02, max_waiting=max_waiting, on_loop=on_loop, turns=turns
    )
    writer = GroupWriter(settings, scribe)
    await writer.start()
    try:
        yield writer
    finally:
        scribe.gate.set()
        await writer.aclose()


def kept(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [row[0] for row in db.execute("SELECT n FROM numbers ORDER BY rowid")]


def in_the_file_itself(path: Path) -> int:
    """How many rows are there without the WAL; 0 while it is being brought up to date."""
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as without_wal,
    ):
        return int(without_wal.execute("SELECT count(*) FROM numbers").fetchone()[0])
    return 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "numbers.db"


async def test_what_was_submitted_is_committed_when_the_future_ends(path: Path) -> None:
    async with writing(path, Numbers()) as writer:
        await writer.submit(7)
        assert kept(path) == [7]


async def test_what_gathers_during_a_commit_shares_the_next_one(path: Path) -> None:
    scribe = Numbers()
    async with writing(path, scribe) as writer:
        scribe.gate.clear()
        first = writer.submit(0)
        await until(lambda: scribe.threads)
        rest = [writer.submit(number) for number in range(1, 50)]
        scribe.gate.set()
        await asyncio.gather(first, *rest)
        assert writer.commits <= 3
    assert kept(path) == list(range(50))
    assert scribe.threads == {"audit-writer"}


async def test_what_is_submitted_together_is_never_split(path: Path) -> None:
    scribe = Numbers()
    async with writing(path, scribe) as writer:
        await asyncio.gather(*(writer.submit(number, number) for number in range(80)))
    assert all(len(group) % 2 == 0 for group in scribe.groups)


async def test_nobody_waits_for_what_is_posted(path: Path) -> None:
    async with writing(path, Numbers()) as writer:
        writer.post(1)
        writer.post(2)
    assert kept(path) == [1, 2]


async def test_one_bad_submission_does_not_cost_the_others(path: Path) -> None:
    async with writing(path, Numbers()) as writer:
        results = await asyncio.gather(*(writer.submit(n) for n in (1, -1, 2)), return_exceptions=True)
        assert [type(result) for result in results] == [type(None), ValueError, type(None)]
        assert writer.healthy
    assert kept(path) == [1, 2]


async def test_a_group_that_cannot_be_written_leaves_nothing_and_the_next_one_is_tried(path: Path) -> None:
    scribe = Numbers()
    async with writing(path, scribe) as writer:
        scribe.gate.clear()
        waiting = [writer.submit(1)]
        await until(lambda: scribe.threads)
        waiting += [writer.submit(number) for number in (2, -2, 3)]
        scribe.gate.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [type(None), *[StoreUnavailable] * 3]
        assert not writer.healthy
        assert "not that one" in writer.last_error
        await writer.submit(4)
        assert writer.healthy
        assert writer.last_error == ""
    assert [n for n in kept(path) if n] == [1, 4]
    assert scribe.failures[0][0] == [2, -2, 3]


async def test_a_full_database_is_an_error_for_whoever_waits_and_heals(path: Path) -> None:
    scribe = Numbers()
    async with writing(path, scribe) as writer:
        await writer.submit(1)
        scribe.max_pages = 10
        with pytest.raises(StoreUnavailable):
            await writer.submit(-2)  # makes it connect anew
        with pytest.raises(StoreUnavailable, match="full"):
            await writer.submit(1_000_000)
        scribe.max_pages = 1_000_000
        await until(lambda: writer.healthy)
    assert 1_000_000 not in kept(path)


async def test_a_store_that_failed_is_tried_again_though_nobody_writes(path: Path) -> None:
    async with writing(path, Numbers()) as writer:
        with pytest.raises(StoreUnavailable):
            await writer.submit(-2)
        await until(lambda: writer.healthy)


async def test_more_than_the_bound_is_refused_at_once(path: Path) -> None:
    scribe = Numbers()
    async with writing(path, scribe, max_waiting=5) as writer:
        scribe.gate.clear()
        waiting = [writer.submit(number) for number in range(5)]
        with pytest.raises(StoreUnavailable, match="5 rows wait"):
            writer.submit(6)
        waiting.append(writer.submit(7, bounded=False))
        scribe.gate.set()
        await asyncio.gather(*waiting)
        await writer.submit(8)


async def test_whoever_stops_waiting_does_not_disturb_the_rest(path: Path) -> None:
    scribe = Numbers()
    async with writing(path, scribe) as writer:
        scribe.gate.clear()
        waiting = [writer.submit(number) for number in range(3)]
        waiting[1].cancel()
        scribe.gate.set()
        await asyncio.gather(waiting[0], waiting[2])
    assert kept(path) == [0, 1, 2]


async def test_closing_writes_what_waits_and_ends_the_thread(path: Path) -> None:
    scribe = Numbers()
    async with writing(path, scribe) as writer:
        waiting = [writer.submit(number) for number in range(10)]
    assert all(future.done() for future in waiting)
    assert kept(path) == list(range(10))
    assert scribe.released
    assert not any(thread.name == "audit-writer" for thread in threading.enumerate())
    with pytest.raises(StoreUnavailable):
        writer.submit(1)


async def test_a_start_that_fails_leaves_no_thread(tmp_path: Path) -> None:
    scribe = Numbers()
    writer = GroupWriter(StoreSettings(tmp_path), scribe)  # a folder is no database
    with pytest.raises(StoreUnavailable):
        await writer.start()
    await writer.aclose()
    await until(lambda: not any(thread.name == "audit-writer" for thread in threading.enumerate()))
    assert scribe.released


async def test_the_loop_itself_commits_what_waits_for_nothing(path: Path) -> None:
    scribe = Numbers()
    async with writing(path, scribe, on_loop=True) as writer:
        await writer.submit(1)
        await asyncio.gather(*(writer.submit(number) for number in range(2, 50)))
        assert kept(path) == list(range(1, 50))
        assert writer.commits == 2
    assert set(scribe.writers) == {threading.main_thread().name}


async def test_the_loop_goes_on_while_another_process_holds_the_lock(path: Path) -> None:
    scribe = Numbers()
    async with writing(path, scribe, on_loop=True, busy_timeout_s=10) as writer:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = [writer.submit(1)]
            await until(lambda: scribe.threads > {threading.main_thread().name})
            waiting.append(writer.submit(2))
            other.execute("COMMIT")
        await asyncio.gather(*waiting)
        await writer.submit(3)
    assert kept(path) == [1, 2, 3]
    assert scribe.writers[0] == "audit-writer"
    assert scribe.writers[-1] == threading.main_thread().name


async def test_what_the_loop_cannot_write_fails_and_heals_as_on_the_thread(path: Path) -> None:
    scribe = Numbers()
    async with writing(path, scribe, on_loop=True) as writer:
        await writer.submit(1)
        results = await asyncio.gather(*(writer.submit(n) for n in (2, -2, -1, 3)), return_exceptions=True)
        assert [type(result) for result in results] == [
            StoreUnavailable,
            StoreUnavailable,
            ValueError,
            StoreUnavailable,
        ]
        assert not writer.healthy
        assert "not that one" in writer.last_error
        await until(lambda: writer.healthy)
        await until(lambda: writer._works)
        await writer.submit(4)
        assert scribe.writers[-1] == threading.main_thread().name
    assert [n for n in kept(path) if n] == [1, 4]
    assert scribe.failures[0][0] == [2, -2, 3]


async def test_a_database_that_was_moved_away_is_not_written_to_by_the_loop_either(path: Path) -> None:
    scribe = Numbers()
    async with writing(path, scribe, on_loop=True) as writer:
        await writer.submit(1)
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").rename(f"{path}.old{suffix}")
        await writer.submit(2)
        await writer.submit(3)
    assert kept(path) == [2, 3]


async def test_checkpoints_are_made_beside_the_loop_s_commits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_gateway.storage.sqlite.CHECKPOINT_EVERY", 5)
    scribe = Numbers()
    async with writing(path, scribe, on_loop=True) as writer:
        for number in range(23):
            await writer.submit(number)
        await until(lambda: in_the_file_itself(path) >= 20)
        await until(lambda: not writer._left)
        await writer.submit(23)
    assert kept(path) == list(range(24))


async def test_a_slow_disk_is_left_to_the_thread_for_a_while(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_gateway.storage.sqlite.SLOW_COMMIT_S", -1)
    scribe = Numbers()
    async with writing(path, scribe, on_loop=True) as writer:
        await writer.submit(1)
        await writer.submit(2)
    assert scribe.writers == [threading.main_thread().name, "audit-writer"]


async def test_closing_writes_what_the_loop_had_not_written_yet(path: Path) -> None:
    async with writing(path, Numbers(), on_loop=True) as writer:
        waiting = [writer.submit(number) for number in range(10)]
    assert all(future.done() for future in waiting)
    assert kept(path) == list(range(10))


def test_the_database_is_made_for_us_alone(path: Path) -> None:
    with closing(connect(StoreSettings(path), 1)) as db, transaction(db):
        db.execute("CREATE TABLE x (y)")
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob("numbers.db*")} == {0o600}


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_a_link_in_its_place_is_refused(path: Path, suffix: str) -> None:
    os.symlink(path.with_name("elsewhere"), f"{path}{suffix}")  # noqa: PTH211
    with pytest.raises(StoreUnavailable, match="symbolic"):
        connect(StoreSettings(path), 1)
    with pytest.raises(StoreUnavailable, match="symbolic"), reading(path):
        pass
    assert not path.with_name("elsewhere").exists()


def test_a_database_others_can_read_is_refused(path: Path) -> None:
    path.touch(mode=0o644)
    with pytest.raises(StoreUnavailable, match="chmod 600"):
        connect(StoreSettings(path), 1)


def test_a_reader_cannot_write(path: Path) -> None:
    connect(StoreSettings(path), 1).close()
    with pytest.raises(StoreUnavailable, match="readonly"), reading(path) as db:
        db.execute("CREATE TABLE x (y)")


async def test_of_two_writers_that_take_turns_one_waits_for_the_other_and_neither_fails(tmp_path: Path) -> None:
    one, other, turns = Numbers(), Numbers(), tmp_path / "turn"
    path = tmp_path / "n.db"
    async with writing(path, one, turns=turns) as first, writing(path, other, turns=turns) as second:
        one.gate.clear()
        written = first.submit(1)
        await until(turns.exists)
        waiting = second.submit(2)
        done, _ = await asyncio.wait({waiting}, timeout=0.3)  # three times as long as SQLite would have waited
        assert not done
        one.gate.set()
        await asyncio.gather(written, waiting)
    assert other.failures == []
