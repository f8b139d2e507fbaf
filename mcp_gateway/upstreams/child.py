"""One child process: lines in, lines out, and nothing left of it when it is stopped.

Raw descriptors on the event loop instead of asyncio's subprocess: no thread per child (asyncio's default watcher on
Python 3.11 has one), no transport that lives on while a grandchild holds a pipe, the exit seen through a pidfd, and
the process group killed while the dead leader still holds its id, so that the id cannot have become another's.
POSIX only. What `setsid`s itself out of the group escapes; only a container or a cgroup holds that.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sysconfig
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Final

import anyio

STDERR_TAIL_BYTES: Final = 8192
PIPE_BYTES: Final = 262144
"""What the pipe for a child's output is to hold, and how much of it is read at once: a long answer through the 64 KiB
of an ordinary pipe wakes both sides again and again."""
WRITTEN_AT_ONCE: Final = 512  # POSIX lets a system refuse more than 1024 pieces (IOV_MAX)
GRACE_S: Final = 2.0
"""Between closing stdin and SIGTERM, SIGTERM and SIGKILL, SIGKILL and giving up; the SDK waits as long."""

EXIT_AFTER_CLOSE_S: Final = 0.1

EXIT_POLL_S: Final = 0.05  # only where there is no pidfd (macOS)

INHERITED: Final = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "USER")
"""What a child sees of our environment; the same as the SDK's client passes on, and LANG. The rest is declared."""


def base_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """The part of our environment every child gets.

    Our own scripts' folder comes last on PATH: a server installed beside the gateway is found without activating
    its virtual environment.
    """
    # A value beginning with "()" is a shell function: code, not data (CVE-2014-6271).
    env = {name: ours[name] for name in INHERITED if name in ours and not ours[name].startswith("()")}
    env["PATH"] = os.pathsep.join(filter(None, (env.get("PATH", os.defpath), sysconfig.get_path("scripts"))))
    return env


class Child:
    """A started process. `on_line` gets each line of its output; `on_end` is told once why no more can come.

    Raises `OSError` or `ValueError` if it cannot be started. Must be made in a running event loop.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path | None,
        *,
        on_line: Callable[[bytes], None],
        on_end: Callable[[str], None],
        max_line_bytes: int,
        max_unread_bytes: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_line = on_line
        self._on_end = on_end
        self._max_line_bytes = max_line_bytes
        self._max_unread_bytes = max_unread_bytes
        self._ended = False
        self._line: list[bytes] = []
        self._line_bytes = 0
        self._unread: deque[bytes | memoryview] = deque()
        self._unread_bytes = 0
        self._will_write = False
        self._stderr = b""
        self.exited = anyio.Event()
        self._process = subprocess.Popen(
            list(argv),
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        pipes = self._process.stdin, self._process.stdout, self._process.stderr
        self._stdin, self._stdout, self._stderr_fd = (_unblocked(pipe) for pipe in pipes)
        _widen(self._stdout)
        self._loop.add_reader(self._stdout, self._read_stdout)
        self._loop.add_reader(self._stderr_fd, self._read_stderr)
        self._pidfd = self._watch_exit()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr_tail(self) -> str:
        """The last of what it wrote to stderr, for operators."""
        return self._stderr.decode(errors="replace")

    @property
    def exit_words(self) -> str:
        """How it ended, in words."""
        code = self._process.returncode
        if code is None:
            return "still running"
        return f"exited with status {code}" if code >= 0 else f"was ended by signal {-code}"

    def write(self, line: bytes) -> None:
        """Send one line. Never waits: what the child does not read is held for it, up to a bound.

        Lines of one turn of the loop go out together at its end: waking the child costs more than all the rest.
        Raises `BrokenPipeError` if it has closed its input, `BufferError` if too much is held.
        """
        if self._stdin < 0 or self._ended:
            raise BrokenPipeError
        if not self._has_room_for(line):
            self._write_unread()
            if not self._has_room_for(line):
                raise BufferError
        self._unread.append(line + b"\n")
        self._unread_bytes += len(line) + 1
        if not self._will_write:
            self._will_write = True
            self._loop.call_soon(self._write_soon)

    def _has_room_for(self, line: bytes) -> bool:
        return self._unread_bytes + len(line) <= self._max_unread_bytes

    async def stop(self) -> None:
        """End the process and its whole group: politely, then by force. Takes at most three times `GRACE_S`."""
        with anyio.CancelScope(shield=True):
            self._ended = True
            self._write_unread()
            self._close_stdin()
            await self._exits_within(GRACE_S)
            self._signal_group(signal.SIGTERM)
            await self._exits_within(GRACE_S)
            self._signal_group(signal.SIGKILL)
            await self._exits_within(GRACE_S)
            self._close_outputs()

    async def _exits_within(self, timeout_s: float) -> None:
        with anyio.move_on_after(timeout_s):
            await self.exited.wait()

    def _read_stdout(self) -> None:
        chunk = _read(self._stdout)
        if chunk is None:
            return
        if not chunk:
            self._loop.remove_reader(self._stdout)
            self._end_soon("closed its output")
            return
        if self._ended:
            return  # drained so that it can exit; nobody waits for it any more
        self._take(chunk)

    def _take(self, chunk: bytes) -> None:
        first, *rest = chunk.split(b"\n")
        self._line.append(first)
        self._line_bytes += len(first)
        for piece in rest:
            line = b"".join(self._line)
            self._line, self._line_bytes = [piece], len(piece)
            if line.strip():
                self._on_line(line)
            if self._ended:
                return
        if self._line_bytes > self._max_line_bytes:
            self._line = []
            self._end(f"sent a line longer than {self._max_line_bytes} bytes")

    def _read_stderr(self) -> None:
        chunk = _read(self._stderr_fd)
        if chunk is None:
            return
        if not chunk:
            self._loop.remove_reader(self._stderr_fd)
            return
        self._stderr = (self._stderr + chunk)[-STDERR_TAIL_BYTES:]

    def _write_soon(self) -> None:
        if self._stdin >= 0 and not self._write_unread():
            self._loop.add_writer(self._stdin, self._write_when_possible)
        else:
            self._will_write = False

    def _write_when_possible(self) -> None:
        if self._write_unread():
            self._loop.remove_writer(self._stdin)
            self._will_write = False

    def _write_unread(self) -> bool:
        """Write what the pipe takes. True: nothing is left, or nothing more can be written."""
        unread = self._unread
        try:
            while unread:
                pieces = list(islice(unread, WRITTEN_AT_ONCE)) if len(unread) > 1 else (unread[0],)
                self._forget(os.writev(self._stdin, pieces))
        except BlockingIOError:
            return False
        except OSError:
            self._end_soon("closed its input")
            unread.clear()
        return True

    def _forget(self, written: int) -> None:
        """So many bytes are in the pipe."""
        self._unread_bytes -= written
        while written > 0:
            piece = self._unread.popleft()
            written -= len(piece)
            if written < 0:
                self._unread.appendleft(memoryview(piece)[written:])

    def _watch_exit(self) -> int:
        try:
            pidfd = os.pidfd_open(self._process.pid)
        except (AttributeError, OSError):  # macOS, an old kernel, a sandbox that knows no pidfds
            self._loop.call_later(EXIT_POLL_S, self._poll_exit)
            return -1
        self._loop.add_reader(pidfd, self._reap)
        return pidfd

    def _poll_exit(self) -> None:
        if self._process.poll() is None:
            self._loop.call_later(EXIT_POLL_S, self._poll_exit)
        else:
            self._reap()

    def _reap(self) -> None:
        """The leader is dead but not yet reaped: its group is still its own, so what is left of it can be killed."""
        self._signal_group(signal.SIGKILL)
        self._process.wait()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._drain()
        self._end(self.exit_words)
        self.exited.set()

    def _drain(self) -> None:
        """Take the answers a dead child left in the pipe; a pipe is small, so this ends."""
        for _ in range(64):
            if self._ended or self._stdout < 0 or not (chunk := _read(self._stdout)):
                return
            self._take(chunk)

    def _end_soon(self, why: str) -> None:
        """A closed pipe mostly means that it is exiting, which says more; if not, it is given up all the same."""
        self._loop.call_later(EXIT_AFTER_CLOSE_S, self._end, why)

    def _end(self, why: str) -> None:
        if not self._ended:
            self._ended = True
            self._on_end(why)

    def _signal_group(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return
            except PermissionError:
                # A group of which we may signal nobody: a set-uid child. Its leader ends when its stdin does.
                return

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            self._loop.remove_writer(self._stdin)
            _close(self._process.stdin)
            self._stdin = -1
            self._unread.clear()

    def _close_outputs(self) -> None:
        if self._stdout >= 0:
            self._read_stderr()
            for fd in (self._stdout, self._stderr_fd):
                self._loop.remove_reader(fd)
            _close(self._process.stdout)
            _close(self._process.stderr)
            self._stdout = self._stderr_fd = -1


def _unblocked(pipe: IO[bytes] | None) -> int:
    """The descriptor of one of our three pipes, for the event loop."""
    if pipe is None:
        raise OSError("the process was started without a pipe")
    os.set_blocking(pipe.fileno(), False)
    return pipe.fileno()


def _widen(pipe: int) -> None:
    """Let a pipe hold more, where the system can and this user has not used up what it may have of it."""
    with suppress(AttributeError, OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        pipe.close()


def _read(fd: int) -> bytes | None:
    """What is there to read; None if nothing is, empty at the end."""
    try:
        return os.read(fd, PIPE_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""
