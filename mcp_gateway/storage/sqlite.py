"""The SQLite store: whatever has gathered is committed as one transaction.

Nobody waits for a timer: a row that comes alone is committed at once, rows that come while a commit is under way share
the next one. Knows nothing of what is stored: the rows come from a `Scribe`. Order: what was submitted first is written
first, and what was submitted together is committed together.

Where a commit waits for no disk (`StoreSettings.on_loop`), the event loop makes it itself: two threads that take turns
over one interpreter cost more than the commit. Whatever may take longer is done by the writer's thread, and only one of
the two has the connection at any time: opening it, another process's lock, checkpoints (they wait for the disk), a disk
that is slow, a store that has failed, the end.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, Generic, Protocol, TypeVar

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.migrations import migrate
from mcp_gateway.storage.private import private_file

Connection = sqlite3.Connection
StoreError = sqlite3.Error
"""For rooms that hold a connection without importing sqlite3."""

Job = TypeVar("Job")
JobContra = TypeVar("JobContra", contravariant=True)

MAX_GROUP: Final = 1000
"""Submissions in one transaction: bounds how long the first of them waits for the last."""

MAX_TURNS: Final = 8
"""Turns of the event loop for which a group waits for more, as long as each brings some. Nobody waits for a timer."""

SLOW_COMMIT_S: Final = 0.1
"""A commit that kept the event loop for so long, where it should be a write to memory: the disk is not keeping up."""
LEFT_TO_THREAD_S: Final = 2.0
"""For how long the thread then makes them."""

CHECKPOINT_EVERY: Final = 250
"""Commits between two checkpoints, about a thousand pages (SQLite's own rule)."""
_CHECKPOINT_PAGES: Final = 8000
"""Where commits are that large, SQLite makes one itself: a bound on the WAL, not the rule."""

_WAL_LIMIT: Final = 64 * 1024 * 1024
_IMPATIENT_S: Final = 0.25
_SIDE_FILES: Final = ("", "-wal", "-shm")
_log = logging.getLogger("mcp_gateway.storage")


class Durability(StrEnum):
    """What a committed row survives."""

    PROCESS = "process"  # the death of the process (synchronous NORMAL)
    POWER = "power"  # the loss of power (synchronous FULL: one fsync a commit)


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the database is and how long anybody waits for it."""

    path: Path
    durability: Durability = Durability.PROCESS
    busy_timeout_s: float = 2.0
    """How long a commit waits for another process's lock before its rows fail."""
    max_waiting: int = 10_000
    """Submissions that may wait at once; more are refused immediately."""
    probe_every_s: float = 1.0
    """How often a store that failed is tried again when nobody writes."""
    on_loop: bool = False
    """Let the event loop make commits that wait for nothing. Only where a commit waits for no disk: `PROCESS`."""
    turns: Path | None = None
    """A file for the lock by which several processes that all write a lot take turns; None: they hardly meet.

    The kernel wakes whoever waits for it at once. SQLite's own waiting sleeps for longer and longer, and meanwhile who
    has just written writes again: two busy processes got a third of the commits that way.
    """


class Scribe(Protocol[JobContra]):
    """What is written, called by one at a time: the writer's thread or (`on_loop`) the event loop."""

    def begin(self, db: Connection) -> None:
        """After every (re)connection, outside a transaction; opens its own."""
        ...

    def prepare(self, job: JobContra) -> None:
        """Whatever can be done before the lock is taken. What it raises fails this submission only."""
        ...

    def write(self, db: Connection, jobs: Sequence[JobContra]) -> None:
        """Write all jobs in the open transaction; no jobs: write something small that proves the disk takes it."""
        ...

    def committed(self, db: Connection) -> None: ...

    def failed(self, jobs: Sequence[JobContra], error: str) -> None:
        """The transaction with these jobs did not come about."""
        ...

    def end(self, db: Connection) -> None:
        """Before the last connection closes, outside a transaction."""
        ...

    def release(self) -> None:
        """Last of all, whatever happened before."""
        ...


@contextmanager
def transaction(db: Connection) -> Iterator[None]:
    """Take the write lock at once, commit at the end, roll back when something is raised."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        # SQLite has already rolled back by itself after some errors (full disk, I/O error).
        if db.in_transaction:
            db.execute("ROLLBACK")


def connect(settings: StoreSettings, busy_timeout_s: float) -> Connection:
    """Open for writing, in WAL mode, migrated; created with mode 0600 where it does not exist.

    Raises `StoreUnavailable` for what must not be opened (symlink, newer schema), `sqlite3.Error` and `OSError` for
    what cannot be.
    """
    _refuse_links(settings.path)
    settings.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    private_file(settings.path)  # its -wal and -shm get the same mode from SQLite
    db = sqlite3.connect(settings.path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreUnavailable(f"{settings.path}: this file system has no WAL mode (it says {mode!r})")
        db.execute(f"PRAGMA synchronous = {'FULL' if settings.durability is Durability.POWER else 'NORMAL'}")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
        db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        migrate(db)
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def reading(path: Path) -> Iterator[Connection]:
    """A connection that cannot write. Raises `StoreUnavailable` where there is no database to read."""
    _refuse_links(path)
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5, check_same_thread=False)) as db:
            db.execute("PRAGMA schema_version").fetchone()
            yield db
    except sqlite3.Error as e:
        raise StoreUnavailable(f"{path}: cannot be read: {e}") from e


class _Ticket(Generic[Job]):
    """Jobs that are committed together, and who waits for them."""

    __slots__ = ("done", "error", "jobs")

    def __init__(self, jobs: tuple[Job, ...], done: asyncio.Future[None] | None) -> None:
        self.jobs = jobs
        self.done = done
        self.error: Exception | None = None


class GroupWriter(Generic[Job]):
    """The write side of one database; belongs to the event loop that starts it."""

    def __init__(self, settings: StoreSettings, scribe: Scribe[Job]) -> None:
        self.healthy = False
        self.last_error = ""
        self.commits = 0
        self._settings = settings
        self._scribe = scribe
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        """What the thread has to do, most of it with the connection (`_leave_to_thread`)."""
        self._gathered: list[_Ticket[Job]] = []
        self._is_writing = False
        self._turns = 0
        self._counted = 0
        self._size_before = 0
        self._since_checkpoint = 0
        self._left_to_thread_until = 0.0
        self._left = 0
        """Pieces of work that the thread has the connection for: while there are any, it is not the loop's."""
        self._works = True
        """Whether the store could be written, as far as the loop has heard: only then is the connection the loop's."""
        self._waiting = 0
        self._open = False
        self._db: Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._turn_file = -1
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._started: asyncio.Future[None]
        self._stopped: asyncio.Future[None]

    async def start(self) -> None:
        """Open the database and begin. Raises `StoreUnavailable` where that is not possible."""
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.create_future()
        self._stopped = self._loop.create_future()
        self._thread.start()
        await asyncio.shield(self._started)
        self._open = True

    async def aclose(self) -> None:
        """Write what still waits, then close. Everything submitted before is committed or has failed afterwards."""
        if not self._open:
            return
        self._open = False
        while self._gathered:
            self._hand_over()
        self._queue.put(None)
        await asyncio.shield(self._stopped)
        self._thread.join()

    @property
    def waiting(self) -> int:
        """How many have submitted something that is not committed yet."""
        return self._waiting

    def submit(self, *jobs: Job, bounded: bool = True) -> asyncio.Future[None]:
        """Have `jobs` committed in one transaction; the future ends when they are, or with `StoreUnavailable`.

        `bounded=False` is for what must not be refused because many wait: the ends of calls already under way.
        """
        if not self._open:
            raise StoreUnavailable("the store is closed")
        if bounded and self._waiting >= self._settings.max_waiting:
            raise StoreUnavailable(f"{self._waiting} rows wait for the store already")
        done = self._loop.create_future()
        self._waiting += 1
        self._gather(_Ticket(jobs, done))
        return done

    def post(self, *jobs: Job) -> None:
        """Have `jobs` committed; nobody waits for it, a failure shows in `healthy` and `last_error`."""
        if self._open:
            self._gather(_Ticket(jobs, None))

    # -- on the writer's thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._connect(self._settings.busy_timeout_s)
        except Exception as e:  # noqa: BLE001 - handed to whoever called start()
            self._scribe.release()
            self._answer(self._started, _unavailable(self._settings.path, e))
            return
        self.healthy = True
        self._wait_for_locks(0)
        self._answer(self._started, None)
        while (work := self._next_work()) is not None:
            work()
        self._end()
        self._answer(self._stopped, None)

    def _next_work(self) -> Callable[[], None] | None:
        """What the loop wants; a look at a store that failed when it is time for that; None at the end."""
        try:
            return self._queue.get(timeout=None if self.healthy else self._settings.probe_every_s)
        except Empty:
            return self._probe

    def _commit(self, tickets: list[_Ticket[Job]]) -> None:
        self._wait_for_locks(self._settings.busy_timeout_s)
        jobs = self._prepared(tickets)
        try:
            if jobs or not self.healthy:
                self._write(jobs)
        except Exception as e:  # noqa: BLE001 - handed to whoever waits for these rows
            self._give_up(tickets, jobs, e)
        else:
            self._tell(tickets, None)

    def _probe(self) -> None:
        try:
            self._write([])
        except Exception as e:  # noqa: BLE001 - nobody waits; the next one tries again
            self._fail([], _unavailable(self._settings.path, e))
        else:
            self._wait_for_locks(0)
            self._call(self._heard_that_it_works)

    def _give_up(self, tickets: list[_Ticket[Job]], jobs: list[Job], error: Exception) -> None:
        problem = _unavailable(self._settings.path, error)
        self._fail(jobs, problem)
        self._tell(tickets, problem)

    def _checkpoint(self) -> None:
        """Move what is committed from the WAL into the database, so that the WAL can begin anew: waits for the disk."""
        self._since_checkpoint = 0
        if self._db is not None:
            with suppress(sqlite3.Error):  # nothing is lost; the next one moves it
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _checkpoint_ahead(self) -> None:
        """Nearly all of a checkpoint while the loop goes on committing; what comes meanwhile is left for the rest."""
        uri = f"{self._settings.path.absolute().as_uri()}?mode=rw"
        with suppress(sqlite3.Error), closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as db:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._call(self._leave_to_thread, self._checkpoint_rest)

    def _checkpoint_rest(self) -> None:
        """Nobody commits meanwhile, so that the WAL can begin anew; hardly anything is left to wait for."""
        self._checkpoint()
        self._tell([], None)

    def _wait_for_locks(self, for_s: float) -> None:
        """How long whoever has the connection next may wait for another process: the thread a while, the loop never."""
        if self._settings.on_loop and self._db is not None:
            with suppress(sqlite3.Error):
                self._db.execute(f"PRAGMA busy_timeout = {int(for_s * 1000)}")

    def _prepared(self, tickets: list[_Ticket[Job]]) -> list[Job]:
        return [job for ticket in tickets if self._is_prepared(ticket) for job in ticket.jobs]

    def _is_prepared(self, ticket: _Ticket[Job]) -> bool:
        try:
            for job in ticket.jobs:
                self._scribe.prepare(job)
        except Exception as e:  # noqa: BLE001 - handed to whoever waits for this row
            ticket.error = e
            if ticket.done is None:
                _log.exception("a row could not be prepared")
        return ticket.error is None

    def _write(self, jobs: list[Job]) -> None:
        db = self._connected()
        with self._turn(), transaction(db):
            self._scribe.write(db, jobs)
        self._scribe.committed(db)
        self.commits += 1
        self._since_checkpoint += 1
        if not self.healthy:
            self._recovered(db)
        if self._since_checkpoint >= CHECKPOINT_EVERY:
            self._checkpoint()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._settings.turns is None:
            yield
            return
        if self._turn_file < 0:
            self._turn_file = os.open(self._settings.turns, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._turn_file, fcntl.LOCK_EX)  # it ends with its process, however that ends
        try:
            yield
        finally:
            fcntl.flock(self._turn_file, fcntl.LOCK_UN)

    def _connected(self) -> Connection:
        if self._db is not None and _inode(self._settings.path) != self._inode:
            # A file that was moved away would swallow rows that nobody ever finds.
            self._disconnect()
            self.healthy, self.last_error = False, f"{self._settings.path} was replaced"
            _log.error("%s", self.last_error)
        # After a failure nobody waits long for a lock: those who come while it lasts hear so at once.
        return self._db or self._connect(min(_IMPATIENT_S, self._settings.busy_timeout_s))

    def _connect(self, busy_timeout_s: float) -> Connection:
        db = connect(self._settings, busy_timeout_s)
        try:
            self._inode = _inode(self._settings.path)
            self._scribe.begin(db)
        except BaseException:
            db.close()
            raise
        self._db = db
        return db

    def _recovered(self, db: Connection) -> None:
        _log.warning("%s can be written again", self._settings.path)
        db.execute(f"PRAGMA busy_timeout = {int(self._settings.busy_timeout_s * 1000)}")
        self.healthy, self.last_error = True, ""

    def _fail(self, jobs: list[Job], problem: StoreUnavailable) -> None:
        if self.healthy:
            _log.error("%s", problem, exc_info=problem.__cause__)
        self.healthy, self.last_error = False, str(problem)
        self._disconnect()
        self._scribe.failed(jobs, str(problem))

    def _disconnect(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
        self._db = None

    def _end(self) -> None:
        try:
            if self._db is not None:
                self._scribe.end(self._db)
        except (sqlite3.Error, OSError) as e:
            _log.error("%s", _unavailable(self._settings.path, e))
        self._disconnect()
        self._scribe.release()
        if self._turn_file >= 0:
            os.close(self._turn_file)

    def _tell(self, tickets: list[_Ticket[Job]], problem: StoreUnavailable | None) -> None:
        self._wait_for_locks(0)  # from here on the connection is the loop's
        # One wake-up of the loop for the whole group.
        self._call(self._settle, tickets, problem)

    def _answer(self, future: asyncio.Future[None], problem: StoreUnavailable | None) -> None:
        self._call(_resolve, future, problem)

    def _call(self, function: object, *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left who could hear it
            self._loop.call_soon_threadsafe(function, *args)  # type: ignore[arg-type]

    # -- on the loop -------------------------------------------------------------------------------------------------

    def _gather(self, ticket: _Ticket[Job]) -> None:
        """Have one more ticket in the next group.

        The writer is not woken while it writes, nor before a turn of the loop has brought nothing more: woken for each
        ticket it would commit each by itself, and a commit costs more than ten rows.
        """
        self._gathered.append(ticket)
        if not self._is_writing:
            self._is_writing = True
            self._loop.call_soon(self._hand_over_when_all_came)

    def _hand_over_when_all_came(self) -> None:
        """Hand over, unless the last turn of the loop brought more: then the next one may, too."""
        count = len(self._gathered)
        is_alone = count == 1 == self._size_before  # now as before: nobody to wait for
        if self._counted < count < MAX_GROUP and self._turns < MAX_TURNS and not is_alone:
            self._counted = count
            self._turns += 1
            self._loop.call_soon(self._hand_over_when_all_came)
        else:
            self._hand_over()

    def _hand_over(self) -> None:
        group, self._gathered = self._gathered[:MAX_GROUP], self._gathered[MAX_GROUP:]
        self._is_writing = bool(group)
        self._turns = self._counted = 0
        if not group:
            return
        self._size_before = len(group)
        if not (self._settings.on_loop and self._committed_here(group)):
            self._leave_to_thread(partial(self._commit, group))

    def _committed_here(self, tickets: list[_Ticket[Job]]) -> bool:
        """Commit on the event loop; False, and nothing has happened, where that is the thread's to do."""
        db, began_at = self._db, time.monotonic()
        is_ours = self._open and self._works and not self._left and began_at >= self._left_to_thread_until
        if not is_ours or db is None or _inode(self._settings.path) != self._inode:
            return False
        jobs = self._prepared(tickets)
        if not jobs:
            self._settle_here(tickets)
            return True
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:  # another process writes, or worse: the thread waits, and finds out
            return False
        try:
            self._scribe.write(db, jobs)
            db.execute("COMMIT")
            self._scribe.committed(db)
        except Exception as e:  # noqa: BLE001 - handed to whoever waits for these rows
            self._leave_to_thread(partial(self._give_up, tickets, jobs, e))
        else:
            self._after_commit(tickets, time.monotonic() - began_at)
        return True

    def _after_commit(self, tickets: list[_Ticket[Job]], took_s: float) -> None:
        self.commits += 1
        self._since_checkpoint += 1
        if took_s > SLOW_COMMIT_S:
            self._left_to_thread_until = time.monotonic() + LEFT_TO_THREAD_S
        if self._since_checkpoint >= CHECKPOINT_EVERY:
            self._since_checkpoint = 0
            self._queue.put(self._checkpoint_ahead)
        self._settle_here(tickets)

    def _settle_here(self, tickets: list[_Ticket[Job]]) -> None:
        self._resolve(tickets, None)
        # Behind those who were woken just now: what they submit goes into the same group.
        self._loop.call_soon(self._hand_over_when_all_came)

    def _leave_to_thread(self, work: Callable[[], None]) -> None:
        self._left += 1
        self._queue.put(work)

    def _heard_that_it_works(self) -> None:
        self._works = True

    def _settle(self, tickets: list[_Ticket[Job]], problem: StoreUnavailable | None) -> None:
        """The thread has done one piece of its work."""
        self._left -= 1
        self._works = problem is None
        self._resolve(tickets, problem)
        self._loop.call_soon(self._hand_over_when_all_came)

    def _resolve(self, tickets: list[_Ticket[Job]], problem: StoreUnavailable | None) -> None:
        for ticket in tickets:
            if ticket.done is not None:
                self._waiting -= 1
                _resolve(ticket.done, ticket.error or problem)


def _resolve(future: asyncio.Future[None], problem: Exception | None) -> None:
    if future.done():  # whoever waited was cancelled
        return
    if problem is None:
        future.set_result(None)
    else:
        # An exception of its own for each: raising one object in many tasks would grow its traceback without end.
        future.set_exception(StoreUnavailable(*problem.args) if isinstance(problem, StoreUnavailable) else problem)


def _unavailable(path: Path, error: Exception) -> StoreUnavailable:
    if isinstance(error, StoreUnavailable):
        return error
    problem = StoreUnavailable(f"{path}: {error}")
    problem.__cause__ = error
    return problem


def _inode(path: Path) -> tuple[int, int] | None:
    """Which file stands at `path`; None where there is none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _refuse_links(path: Path) -> None:
    for suffix in _SIDE_FILES:
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(Path(f"{path}{suffix}").lstat().st_mode):
                raise StoreUnavailable(f"{path}{suffix} is not a regular file (symbolic links are refused)")
