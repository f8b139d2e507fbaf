"""A child process gets what it was given, is read within bounds, and leaves nothing of itself behind."""

import fcntl
import gc
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from fakes.waiting import until
from mcp_gateway.upstreams import child as child_module
from mcp_gateway.upstreams.child import STDERR_TAIL_BYTES, Child, base_environment

ECHO = "import sys\nfor line in sys.stdin: sys.stdout.write(line); sys.stdout.flush()"


class Watched:
    """A child and what it said."""

    def __init__(self, code: str, **more: Any) -> None:
        self.lines: list[bytes] = []
        self.ends: list[str] = []
        options: dict[str, Any] = {"max_line_bytes": 2**20, "max_unread_bytes": 2**20, "env": {}, "cwd": None} | more
        command = options.pop("command", [sys.executable, "-S", "-E", "-c", code])
        self.child = Child(command, on_line=self.lines.append, on_end=self.ends.append, **options)


@asynccontextmanager
async def running(code: str, **more: Any) -> AsyncIterator[Watched]:
    watched = Watched(code, **more)
    try:
        yield watched
    finally:
        await watched.child.stop()


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "GRACE_S", 0.2)


async def test_lines_go_in_and_come_out() -> None:
    async with running(ECHO) as watched:
        for line in (b"one", b"two", b"x" * 500_000):
            watched.child.write(line)
        await until(lambda: len(watched.lines) == 3)
        assert watched.lines == [b"one", b"two", b"x" * 500_000]
    assert watched.child.exit_words == "exited with status 0"
    assert watched.ends == []


async def test_blank_lines_are_skipped_and_a_line_without_end_is_not_delivered() -> None:
    async with running("import os; os.write(1, b'\\n  \\r\\na\\r\\n\\nb\\npartial')") as watched:
        await watched.child.exited.wait()
        assert watched.lines == [b"a\r", b"b"]


async def test_answers_left_in_the_pipe_by_a_dead_child_still_arrive() -> None:
    async with running("import os; os.write(1, b'last words\\n' * 3000); os._exit(0)") as watched:
        await watched.child.exited.wait()
        assert len(watched.lines) == 3000
        assert watched.ends == ["exited with status 0"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise SystemExit(7)", "exited with status 7"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by signal 9"),
        ("import os, time; os.close(1); time.sleep(60)", "closed its output"),
        ("import os; [os.write(1, b'x' * 65536) for _ in range(1000)]", "sent a line longer than 1048576 bytes"),
    ],
)
async def test_the_end_is_told_once_and_says_why(code: str, why: str) -> None:
    async with running(code) as watched:
        await until(lambda: watched.ends)
    assert watched.ends == [why]


async def test_a_child_that_closed_its_input_is_found_out() -> None:
    async with running("import os, time; os.close(0); print(flush=True); time.sleep(60)") as watched:

        def found_out() -> bool:
            if not watched.ends:
                watched.child.write(b"x")
            return bool(watched.ends)

        await until(found_out)
        assert watched.ends == ["closed its input"]
        with pytest.raises(BrokenPipeError):
            watched.child.write(b"x")


async def test_what_a_child_does_not_read_is_held_up_to_a_bound_and_delivered_when_it_does() -> None:
    async with running(ECHO) as watched:
        os.kill(watched.child.pid, signal.SIGSTOP)
        for number in range(8):
            watched.child.write(b"%d" % number * 100_000)
        with pytest.raises(BufferError):
            watched.child.write(b"x" * 500_000)
        os.kill(watched.child.pid, signal.SIGCONT)
        await until(lambda: len(watched.lines) == 8)
        assert [line[:1] for line in watched.lines] == [b"%d" % number for number in range(8)]


async def test_lines_of_one_turn_of_the_loop_arrive_together() -> None:
    async with running("import os; print(os.read(0, 65536).count(b'\\n'), flush=True)") as watched:
        for number in range(100):
            watched.child.write(b"%d" % number)
        await until(lambda: watched.lines)
        assert watched.lines == [b"100"]


async def test_more_lines_than_can_be_written_at_once_all_arrive_in_order() -> None:
    async with running(ECHO) as watched:
        for number in range(1500):
            watched.child.write(b"%d" % number)
        await until(lambda: len(watched.lines) == 1500)
        assert watched.lines == [b"%d" % number for number in range(1500)]


async def test_what_was_written_right_before_it_is_stopped_still_arrives(tmp_path: Path) -> None:
    code = "import sys; open('heard', 'w').write(sys.stdin.read())"
    async with running(code, cwd=tmp_path) as watched:
        watched.child.write(b"first")
        watched.child.write(b"last")
    assert (tmp_path / "heard").read_text() == "first\nlast\n"


async def test_a_burst_beyond_the_bound_is_fine_while_the_child_reads() -> None:
    async with running(ECHO, max_unread_bytes=40_000) as watched:
        for _ in range(6):
            watched.child.write(b"x" * 10_000)
        await until(lambda: len(watched.lines) == 6)


async def test_a_pipe_that_cannot_be_widened_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError  # so says Linux to whoever has used up what pipes may hold (pipe(7))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    async with running("print('x' * 300_000, flush=True)") as watched:
        await until(lambda: watched.lines)
        assert watched.lines == [b"x" * 300_000]


async def test_only_the_tail_of_stderr_is_kept_and_it_never_blocks() -> None:
    code = "import os\nfor _ in range(50): os.write(2, b'x' * 65536)\nos.write(2, b'the end \\xff')"
    async with running(code) as watched:
        await watched.child.exited.wait()
    assert watched.child.stderr_tail.endswith("the end \ufffd")
    assert len(watched.child.stderr_tail) <= STDERR_TAIL_BYTES


async def test_it_gets_only_the_environment_and_folder_it_was_given(tmp_path: Path) -> None:
    seen = "os.getcwd(), dict(os.environ), sorted(os.listdir('/proc/self/fd')), os.getpgid(0) == os.getpid()"
    code = f"import os; print({seen})"
    async with running(code, env={"A": "b"}, cwd=tmp_path) as watched:
        await watched.child.exited.wait()
    [line] = watched.lines
    # The fourth descriptor is the folder being listed.
    assert line.decode() == f"{tmp_path} {{'A': 'b', 'LC_CTYPE': 'C.UTF-8'}} ['0', '1', '2', '3'] True"


def test_the_base_environment_is_a_short_list_and_our_scripts_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {"HOME": "/h", "PATH": "/bin", "AWS_SECRET": "x", "PYTHONPATH": "/p", "SHELL": "() { :; }", "LANG": "C"}
    base = base_environment(ours)
    assert base.pop("PATH").startswith(f"/bin{os.pathsep}")
    assert base == {"HOME": "/h", "LANG": "C"}
    assert base_environment({})["PATH"].startswith(os.defpath)


@pytest.mark.parametrize(
    "problem",
    [
        {"command": ["no-such-program"]},
        {"command": ["a\0b"]},
        {"cwd": Path("no/such/folder")},
        {"env": {"A": "\0"}},
    ],
    ids=str,
)
async def test_what_cannot_be_started_raises_and_leaves_nothing(problem: dict[str, Any]) -> None:
    before = descriptors()
    with pytest.raises((OSError, ValueError)):
        Watched("", **problem)
    assert descriptors() == before


GRANDCHILD = """
import os, signal, time
pid = os.fork()
if not pid:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True: time.sleep(60)
print(pid, flush=True)
{then}
"""


@pytest.mark.parametrize("then", ["time.sleep(60)", "pass", "os.kill(os.getpid(), 9)"])
async def test_grandchildren_go_with_it_even_if_they_hold_its_pipes(then: str) -> None:
    async with running(GRANDCHILD.format(then=then)) as watched:
        await until(lambda: watched.lines)
        grandchild = psutil.Process(int(watched.lines[0]))
    await until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


async def test_a_child_that_ignores_everything_is_killed() -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)\nwhile True: time.sleep(60)"
    async with running(code) as watched:
        await until(lambda: watched.lines)
    assert watched.child.exit_words == "was ended by signal 9"


async def test_a_stopped_child_is_killed() -> None:
    async with running(ECHO) as watched:
        os.kill(watched.child.pid, signal.SIGSTOP)
    assert watched.child.exit_words == "was ended by signal 9"


async def test_a_polite_child_may_finish_what_it_is_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "GRACE_S", 5)
    code = "import sys, os\nsys.stdin.read()\nos.write(1, b'x' * 1_000_000)\nos.write(2, b'finished')"
    async with running(code) as watched:
        pass
    assert watched.child.exit_words == "exited with status 0"
    assert watched.child.stderr_tail == "finished"


async def test_stopping_survives_cancellation() -> None:
    watched = Watched(ECHO)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await watched.child.stop()
    assert watched.child.exited.is_set()


async def test_without_pidfds_the_exit_is_noticed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int) -> int:
        raise OSError("no pidfds here")

    monkeypatch.setattr(os, "pidfd_open", refused)
    async with running("print(1)") as watched:
        await until(lambda: watched.ends)
    assert watched.ends == ["exited with status 0"]


async def test_a_hundred_restarts_leave_no_process_thread_or_descriptor() -> None:
    async with running("pass") as watched:  # whatever is set up once is set up now
        await watched.child.exited.wait()
    gc.collect()
    opened, threads = descriptors(), threading.active_count()
    before = set(psutil.Process().children(recursive=True))
    for number in range(100):
        async with running(ECHO if number % 2 else "pass", command=["cat"] if number % 4 else ["true"]) as watched:
            if number % 4:
                watched.child.write(b"x")
                await until(lambda found=watched: found.lines, every_s=0.001)  # type: ignore[misc]
            if number % 8 == 1:
                os.kill(watched.child.pid, signal.SIGKILL)
                await until(lambda found=watched: found.ends, every_s=0.001)  # type: ignore[misc]
    gc.collect()
    assert descriptors() == opened
    assert threading.active_count() == threads
    assert set(psutil.Process().children(recursive=True)) == before


async def test_reading_a_long_line_takes_time_in_proportion_to_it() -> None:
    code = "import os, sys\nsys.stdout.buffer.write(b'x' * 2**23 + b'\\n')"
    async with running(code, max_line_bytes=2**24) as watched:
        with anyio.fail_after(5):
            await watched.child.exited.wait()
            await until(lambda: watched.lines)
    assert len(watched.lines[0]) == 2**23
