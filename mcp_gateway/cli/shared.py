"""One gateway for many agents' windows: found, started where there is none, and attached to.

The gateway that offers this holds a lock in the state folder as long as it lives, so there is one; whoever starts it
holds another one meanwhile, so that ten windows that open at once start it once. Where attaching cannot work (another
version, another servers.toml in one state folder, a platform without what is needed) `stdio` is a gateway by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import anyio

from mcp_gateway import __version__
from mcp_gateway.cli.ahead import RUNNING_LOCK, STARTING_LOCK, Ahead, launched
from mcp_gateway.config.places import places
from mcp_gateway.config.servers import Configuration
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.frontdoor.hello import Hello, Want, listening_on
from mcp_gateway.storage.private import private_folder, random_key

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

TOKEN_FILE: Final = "attach.key"  # noqa: S105
RECORD_FILE: Final = "gateway.json"

START_S: Final = 30.0
AGAIN_S: Final = 0.05
UP_S: Final = 0.01
"""How often a window looks whether the gateway that it started is there: somebody waits for that."""
KNOWN_SOON_S: Final = 3.0
"""How long an agent that the files name may be unknown to a gateway that reads them a moment later."""
MAX_LINE: Final = 64 * 1024 * 1024
MAX_LOG_BYTES: Final = 5 * 1024 * 1024
ADDRESS: Final = "127.0.0.1"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class NotShared(Exception):
    """There is no gateway that this can attach to; the message says why."""


class Refused(Exception):
    """The gateway does not take this agent."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Record:
    """What a running gateway says of itself in its state folder."""

    pid: int
    version: str
    config: str
    socket: str
    """A path, or `127.0.0.1:PORT`."""
    url: str
    """Where it serves HTTP; empty: it does not."""
    started: float


def record_of(state: Path) -> Record | None:
    """The record of the gateway of that state folder, alive or not."""
    try:
        return Record(**json.loads((state / RECORD_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_record(state: Path, record: Record) -> None:
    """Say where we are, in one step."""
    draft = state / f"{RECORD_FILE}.{os.getpid()}"
    text = json.dumps({name: getattr(record, name) for name in Record.__slots__})
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)
    draft.replace(state / RECORD_FILE)


def token_of(state: Path) -> str:
    """What proves that somebody can read the state folder. Raises `StoreUnavailable`."""
    private_folder(state)
    return random_key(state / TOKEN_FILE).hex()


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock that ends with this process; False (not held) where somebody else has it and we do not wait."""
    private_folder(path.parent)
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:  # noqa: PTH123
        held = _lock(file, wait)
        try:
            yield held
        finally:
            if held:
                _unlock(file)


def listening(state: Path) -> tuple[socket.socket, str]:
    """A bound socket for those who attach, and how they find it. Raises `OSError`."""
    if not hasattr(socket, "AF_UNIX"):
        listener = socket.create_server((ADDRESS, 0))
        listener.setblocking(False)
        return listener, f"{ADDRESS}:{listener.getsockname()[1]}"
    path = Path(places().socket(state))
    private_folder(path.parent)
    return listening_on(path), str(path)


def unlisten(address: str) -> None:
    """Nobody listens there any more."""
    if not address.startswith(f"{ADDRESS}:"):
        Path(address).unlink(missing_ok=True)


async def attached(configuration: Configuration, hello: Hello) -> Streams:
    """Attach to the gateway that runs. Raises `NotShared`, and `Refused` for an agent that it does not take."""
    streams, answer = await _greeted(configuration, hello)
    if answer.get("ok") is True:
        return streams
    streams[1].close()
    if answer.get("why") == "agent":
        raise Refused(str(answer.get("message")), str(answer.get("fix") or ""))
    raise NotShared(str(answer.get("message") or "the gateway that runs gives no sensible answer"))


async def attached_or_started(
    configuration: Configuration, hello: Hello, linger: str, ahead: Ahead | None = None
) -> Streams:
    """Attach to the gateway that runs, or start one; `linger` is how long it stays when everybody has left. `ahead`:
    one that was begun beforehand.

    Raises `NotShared` where it cannot be started either.
    """
    state = configuration.settings.state
    if ahead is not None:
        try:
            if ahead.is_of(configuration.path, state):
                return await _when_up(configuration, hello, _told(ahead.take(), configuration, linger))
        finally:
            ahead.drop()  # it holds the lock that is taken below
    with suppress(NotShared):
        return await _once_known(configuration, hello)
    starting = locked(state / STARTING_LOCK, wait=True)
    # In a thread: another window may hold it as long as its gateway takes to start.
    await anyio.to_thread.run_sync(starting.__enter__)
    try:
        with suppress(NotShared):
            return await _once_known(configuration, hello)
        if is_running(state):
            raise NotShared("the gateway that runs here cannot be attached to")
        process = await anyio.to_thread.run_sync(launched, configuration.path.absolute())
        return await _when_up(configuration, hello, _told(process, configuration, linger))
    finally:
        starting.__exit__(None, None, None)


async def status_of(configuration: Configuration) -> dict[str, Any] | None:
    """What the gateway that runs says of itself; None where none answers."""
    try:
        (_, writer), answer = await _greeted(configuration, hello_of(configuration, "status"))
    except (NotShared, StoreUnavailable):
        return None
    writer.close()
    status = answer.get("status")
    return status if isinstance(status, dict) else None


def hello_of(
    configuration: Configuration, want: Want, agent: str = "", task: str | None = None, client: str = ""
) -> Hello:
    """The first line for the gateway of this configuration."""
    token = token_of(configuration.settings.state)
    config = str(configuration.path.absolute())
    return Hello(token, __version__, config, want, agent, task, client=client)


def is_running(state: Path) -> bool:
    """Whether some gateway of this state folder takes those who attach."""
    if not (state / RUNNING_LOCK).exists():
        return False
    with locked(state / RUNNING_LOCK, wait=False) as is_free:
        return not is_free


def log_file(configuration: Configuration) -> Path:
    """Where a gateway that nobody looks at writes its log."""
    name = configuration.path.absolute().parent.name or "root"
    return Path(places().our_logs) / f"{name}-{abs(hash_of(configuration.path)):08x}.log"


def hash_of(path: Path) -> int:
    """A short number for a path: the same in every process."""
    number = 0
    for byte in str(path.absolute()).encode():
        number = (number * 131 + byte) % 0xFFFFFFFB
    return number


async def _once_known(configuration: Configuration, hello: Hello) -> Streams:
    """Attach; an agent that was written down this moment may not be known there yet."""
    deadline = time.monotonic() + KNOWN_SOON_S
    while True:
        try:
            return await attached(configuration, hello)
        except Refused as e:
            if time.monotonic() > deadline:
                raise NotShared(f"the gateway that runs says: {e}") from e
        await anyio.sleep(AGAIN_S)


async def _greeted(configuration: Configuration, hello: Hello) -> tuple[Streams, dict[str, Any]]:
    record = record_of(configuration.settings.state)
    if record is None:
        raise NotShared("no gateway runs here")
    try:
        streams = await _connected(record.socket)
        streams[1].write(hello.line())
        await streams[1].drain()
        line = await streams[0].readline()
    except (OSError, ValueError) as e:
        raise NotShared("the gateway that ran here does not answer") from e
    if not line:
        streams[1].close()
        raise NotShared("the gateway that ran here is just ending")
    answer = json.loads(line)
    return streams, answer if isinstance(answer, dict) else {}


async def _connected(address: str) -> Streams:
    if address.startswith(f"{ADDRESS}:"):
        return await asyncio.open_connection(ADDRESS, int(address.rpartition(":")[2]), limit=MAX_LINE)
    return await asyncio.open_unix_connection(address, limit=MAX_LINE)


async def _when_up(configuration: Configuration, hello: Hello, process: subprocess.Popen[bytes]) -> Streams:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with suppress(NotShared):
            return await _once_known(configuration, hello)
        if process.poll() not in (None, 0):  # 0: somebody else's was there first
            raise NotShared(f"the gateway could not be started; see {log_file(configuration)}")
        await anyio.sleep(UP_S)
    raise NotShared(f"the gateway has not come up within {START_S:.0f} s; see {log_file(configuration)}")


def _told(process: subprocess.Popen[bytes], configuration: Configuration, linger: str) -> subprocess.Popen[bytes]:
    """A gateway that has waited for this, on its way."""
    path = log_file(configuration)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    config, linger_s = configuration.path.absolute(), None if linger == "forever" else float(linger)
    line = json.dumps({"config": str(config), "linger": linger_s, "log": str(path)}).encode() + b"\n"
    assert process.stdin is not None  # noqa: S101  it is a pipe
    with suppress(BrokenPipeError), process.stdin as pipe:  # or it has ended: whoever waits for it will see
        pipe.write(line)
    return process


if sys.platform == "win32":

    def _lock(file: IO[bytes], wait: bool) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:

    def _lock(file: IO[bytes], wait: bool) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
