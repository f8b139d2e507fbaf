"""AUDIT.md's promise when the process dies, the disk fills up, or the database is held by somebody else."""

import asyncio
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from evidence import ALLOWED, CALLER, OK, TARGET, database, judged, one_call, opened, request, rows

from fakes.waiting import until
from mcp_gateway.errors import StoreUnavailable

BUSY_RUN = Path(__file__).with_name("busy_run.py")


@contextmanager
def busy_run(folder: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that makes calls; killed in the end, whatever happened."""
    command = [*prefix, sys.executable, str(BUSY_RUN), str(folder), str(folder / "acknowledged"), *arguments]
    paths = [str(BUSY_RUN.parent), str(BUSY_RUN.parents[1]), str(BUSY_RUN.parents[2])]
    with (folder / "stderr").open("ab") as stderr:
        run = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, stderr=stderr)
    try:
        yield run
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()


def acknowledged(folder: Path) -> dict[str, str]:
    """The last promise given about each call."""
    file = folder / "acknowledged"
    lines = file.read_text().splitlines() if file.exists() else []
    return dict(reversed(line.split(" ", 1)) for line in lines)  # type: ignore[misc]


async def growth(folder: Path, by: int) -> None:
    """Wait until `by` more promises were given."""
    file = folder / "acknowledged"
    size = file.stat().st_size if file.exists() else 0
    await until(lambda: file.exists() and file.stat().st_size > size + by * 10, within_s=30)


def check_promises(folder: Path) -> set[str]:
    """Every promise was kept; returns the outcomes seen."""
    outcomes = {row["request_id"]: row["outcome"] for row in rows(folder, "SELECT request_id, outcome FROM calls")}
    for request_id, promise in acknowledged(folder).items():
        if promise == "o":
            assert outcomes[request_id] in ("ok", "unknown")
        elif promise == "c":
            assert outcomes[request_id] == "ok"
    assert None not in outcomes.values()
    assert rows(folder, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]
    assert (
        rows(folder, "SELECT decided_seq FROM entries GROUP BY decided_seq HAVING decided_seq > 0 AND count(*) > 1")
        == []
    )
    assert judged(folder).problems == ()
    return set(outcomes.values())


async def kill_under_load(folder: Path, times: int) -> set[str]:
    chance = random.Random()
    seen: set[str] = set()
    for _ in range(times):
        with busy_run(folder, "16"):
            await growth(folder, chance.randrange(1, 4000))
        async with opened(folder):
            seen |= check_promises(folder)
    return seen


async def test_kill_9_under_load_breaks_no_promise(tmp_path: Path) -> None:
    assert "ok" in await kill_under_load(tmp_path, 3)


@pytest.mark.slow
async def test_kill_9_at_many_moments_breaks_no_promise(tmp_path: Path) -> None:
    assert await kill_under_load(tmp_path, 20) == {"ok", "unknown"}


@pytest.mark.slow
async def test_the_death_of_one_process_is_nothing_to_another(tmp_path: Path) -> None:
    for _ in range(5):
        with busy_run(tmp_path, "4", "150") as living:
            with busy_run(tmp_path, "4"):
                await growth(tmp_path, 200)
            async with opened(tmp_path, busy_timeout_s=10.0):  # settles the dead one only
                pass
            assert (await asyncio.to_thread(living.wait, 60), (tmp_path / "stderr").read_text()) == (0, "")
        done = [promise for call, promise in acknowledged(tmp_path).items() if call.startswith(f"{living.pid}-")]
        assert done == ["c"] * 600
    async with opened(tmp_path):
        check_promises(tmp_path)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 4 MB at `folder`; skips where mounting is not for us."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return filler
    return filler


async def test_a_full_disk_refuses_calls_until_there_is_room(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with small_disk(folder):
        async with opened(folder) as log:
            await one_call(log, "before")
            under_way = await log.open(CALLER, request("under way"), TARGET, ALLOWED)
            filler = fill(folder)
            refused = 0
            for number in range(200):
                try:
                    await one_call(log, f"full {number}", arguments={"q": "x" * 1000})
                except StoreUnavailable:
                    refused += 1
            assert refused > 100
            with pytest.raises(StoreUnavailable, match=r"full|disk"):
                await log.close(under_way, OK)
            assert not log.healthy
            assert log.last_error
            filler.unlink()
            await until(lambda: log.healthy)  # by itself: nobody has written meanwhile
            await one_call(log, "after")
        calls = {row["request_id"]: row["outcome"] for row in rows(folder, "SELECT * FROM calls")}
        assert (calls["before"], calls["under way"], calls["after"]) == ("ok", "unknown", "ok")
        assert None not in calls.values()
        assert judged(folder).ok
        assert [row["name"] for row in rows(folder, "SELECT * FROM entries WHERE kind = 'audit'")] == [
            "store unavailable"
        ]


async def test_a_read_only_disk_is_refused_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    with small_disk(folder):
        async with opened(folder) as log:
            await one_call(log)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(StoreUnavailable):
            async with opened(folder):
                pass


async def test_a_write_that_fails_in_the_middle_leaves_nothing_half_done(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with opened(tmp_path) as log:
        await one_call(log, "before")
        under_way = await log.open(CALLER, request("under way"), TARGET, ALLOWED)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # writes beyond it fail: an I/O error to SQLite
        try:
            with pytest.raises(StoreUnavailable):
                for number in range(100):
                    await one_call(log, f"r{number}")
            with pytest.raises(StoreUnavailable):
                await log.close(under_way, OK)
            assert not log.healthy
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        await until(lambda: log.healthy)
        await one_call(log, "after")
    calls = {row["request_id"]: row["outcome"] for row in rows(tmp_path, "SELECT * FROM calls")}
    assert (calls["before"], calls["under way"], calls["after"]) == ("ok", "unknown", "ok")
    assert judged(tmp_path).ok
    assert rows(tmp_path, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]


async def test_a_lock_held_by_somebody_else_is_waited_for_only_so_long(tmp_path: Path) -> None:
    async with opened(tmp_path) as log:
        with closing(sqlite3.connect(database(tmp_path), isolation_level=None)) as somebody:
            somebody.execute("BEGIN IMMEDIATE")
            begin = time.perf_counter()
            waiting = asyncio.ensure_future(one_call(log, "locked out"))
            ticks = 0
            while not waiting.done():
                await asyncio.sleep(0.01)
                ticks += 1
            with pytest.raises(StoreUnavailable, match="locked"):
                await waiting
            assert time.perf_counter() - begin < 3
            assert ticks >= 10  # the event loop went on meanwhile
            somebody.execute("ROLLBACK")
        await until(lambda: log.healthy)
        await one_call(log, "after")
    assert judged(tmp_path).ok


async def test_a_short_lock_is_waited_for(tmp_path: Path) -> None:
    async with opened(tmp_path, busy_timeout_s=5.0) as log:
        with closing(sqlite3.connect(database(tmp_path), isolation_level=None)) as somebody:
            somebody.execute("BEGIN IMMEDIATE")
            waiting = asyncio.ensure_future(one_call(log))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            somebody.execute("COMMIT")
        await waiting
        assert log.healthy


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["pwrite64:error=EIO:when=200..230", "pwrite64:error=EROFS:when=200+40"])
async def test_a_disk_that_fails_now_and_then_breaks_no_promise(tmp_path: Path, fault: str) -> None:
    strace = ("strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", "trace=pwrite64", "-e", f"inject={fault}")
    if shutil.which("strace") is None:
        pytest.skip("no strace here")
    with busy_run(tmp_path, "8", "100", prefix=strace) as run:
        await asyncio.to_thread(run.wait, 60)
        if run.returncode and not acknowledged(tmp_path):
            pytest.skip("strace may not trace here")
    async with opened(tmp_path):
        check_promises(tmp_path)
    promises = list(acknowledged(tmp_path).values())
    assert "f" in promises
    assert "c" in promises
