"""The write side: nothing returns from here before it is on disk.

`open` before a request leaves, `close` before its answer does. Both raise `StoreUnavailable` when the row could not be
committed; then nothing may be dispatched, or answered. Belongs to the event loop that started it; several processes may
write to one database.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from anyio import CancelScope

from mcp_gateway.audit.anchor import AnchorDir, Keys
from mcp_gateway.audit.ledger import Decided, Event, Finished, Job, Ledger, Remembered
from mcp_gateway.audit.rows import Contents, Entry, Record, event_row, timestamp
from mcp_gateway.audit.versions import MAX_REMEMBERED, TargetKey, target_key
from mcp_gateway.domain import Caller, Decision, Json, Outcome, OutcomeStatus, Request, Target
from mcp_gateway.storage.sqlite import Durability, GroupWriter, StoreSettings

__all__ = ["AuditLog", "AuditSettings", "Durability", "Entry", "Record"]

TURN_FILE: Final = "audit.turn"
FLUSH_EVERY_S: Final = 3.0
MAX_REFUSAL_REASONS: Final = 100
MAX_POLICIES: Final = 64

MAX_NEWS_PER_HOUR: Final = 10_000
"""New definitions of one upstream that are written before any row refers to them. One that keeps changing what it
offers would fill the disk, and every decision would wait behind its definitions."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """Where the audit is kept and how much of it."""

    path: Path
    state_dir: Path
    """Where keys and anchors live; must not be writable by whoever can write the database, or both can be forged."""
    durability: Durability = Durability.PROCESS
    record: Record = Record.PREVIEW
    preview_bytes: int = 2048
    busy_timeout_s: float = 2.0
    max_waiting: int = 10_000
    probe_every_s: float = 1.0
    takes_turns: bool = False
    """Whether other processes write as much as this one does."""
    clock: Callable[[], float] = field(default=time.time)


class AuditLog:
    """Evidence by default."""

    def __init__(self, settings: AuditSettings) -> None:
        self._settings = settings
        self._clock = settings.clock
        self._policies: dict[str, str] = {}
        self._targets: set[TargetKey] = set()
        self._news: Counter[str] = Counter()
        self._news_hour = 0
        self._refusals: Counter[str] = Counter()
        self._flush: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._writer: GroupWriter[Job] | None = None

    @classmethod
    @asynccontextmanager
    async def opened(cls, path: Path, state_dir: Path, **settings: Any) -> AsyncIterator[Self]:
        """A started log that is closed in the end; `settings` are those of `AuditSettings`."""
        async with cls(AuditSettings(path, state_dir, **settings)).started() as log:
            yield log

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Self]:
        """Itself, started, and closed in the end."""
        await self.start()
        try:
            yield self
        finally:
            await self.aclose()

    async def start(self) -> None:
        """Open the database, settle what a run that died left open, and begin.

        Raises `StoreUnavailable` where the database cannot be written or the keys cannot be trusted.
        """
        s = self._settings
        keys = Keys.load(s.state_dir)
        ledger = Ledger(
            keys,
            AnchorDir(s.state_dir, s.path, keys.hmac),
            Contents(s.record, s.preview_bytes),
            self._policies,
            s.clock,
        )
        turns = s.state_dir / TURN_FILE if s.takes_turns else None
        on_loop = s.durability is Durability.PROCESS and turns is None  # the loop waits for nobody's turn
        store = StoreSettings(s.path, s.durability, s.busy_timeout_s, s.max_waiting, s.probe_every_s, on_loop, turns)
        self._writer = GroupWriter(store, ledger)
        await self._writer.start()

    async def aclose(self) -> None:
        """Write what waits, sign the last row, close. Calls still open get the outcome `unknown`."""
        if self._writer is not None and not self._is_closing:
            self._is_closing = True
            with CancelScope(shield=True):
                self._flush_refusals()
                await self._writer.aclose()

    @property
    def healthy(self) -> bool:
        """Whether the last attempt to write succeeded; a store that failed is tried again every second."""
        return self._writer is not None and self._writer.healthy

    @property
    def last_error(self) -> str:
        """Why it is not healthy, for operators."""
        return self._writer.last_error if self._writer is not None else "not started"

    @property
    def commits(self) -> int:
        """Transactions so far; rows that met share one."""
        return self._writer.commits if self._writer is not None else 0

    @property
    def waiting(self) -> int:
        """How many wait for their rows to be committed."""
        return self._writer.waiting if self._writer is not None else 0

    async def open(self, caller: Caller, request: Request, target: Target | None, decision: Decision) -> Entry:
        """Write down what was decided; returns once it is committed. Raises `StoreUnavailable`."""
        entry = Entry(self._clock(), caller, request, target, decision)
        committed = self._writing.submit(Decided(entry))
        try:
            await committed
        except asyncio.CancelledError:
            # The row is on its way and nobody will ever hold the entry: give it its end, right behind it.
            self._abandon(entry)
            raise
        return entry

    async def close(self, entry: Entry, outcome: Outcome, *, gateway_ms: float = 0) -> None:
        """Write down what came back; returns once it is committed. Closing twice is closing once.

        The row is written even if whoever waits for it is cancelled. Raises `StoreUnavailable`; the entry then gets the
        outcome `unknown` when the store can be written again.
        """
        if not entry.is_closed:
            entry.is_closed = True
            await self._writing.submit(Finished(entry, outcome, gateway_ms, self._clock()), bounded=False)

    async def record(
        self, caller: Caller, request: Request, target: Target | None, decision: Decision, outcome: Outcome
    ) -> Entry:
        """`open` and `close` of a request that is answered at once, in one commit. Raises `StoreUnavailable`."""
        now = self._clock()
        entry = Entry(now, caller, request, target, decision)
        entry.is_closed = True
        await self._writing.submit(Decided(entry), Finished(entry, outcome, 0.0, now))
        return entry

    async def note(
        self, kind: str, name: str, *, agent: str = "", reason: str = "", detail: Json | None = None
    ) -> None:
        """Write down what is not a call: a policy swapped, a key created, a login. Raises `StoreUnavailable`."""
        await self._writing.submit(
            Event(event_row(kind, name, self._clock(), agent=agent, reason=reason, detail=detail))
        )

    def remember_policy(self, version: str, text: str) -> None:
        """Keep the text of a policy; it is written no later than the first row that refers to it."""
        if self._policies.get(version) == text:
            return
        self._policies[version] = text
        while len(self._policies) > MAX_POLICIES:  # the oldest were written long ago
            del self._policies[next(iter(self._policies))]
        self._writing.post(Remembered(policy=version))

    def remember_target(self, target: Target) -> None:
        """Keep a target's definition; it is written no later than the first row that refers to it.

        Beyond `MAX_NEWS_PER_HOUR` of one upstream it is written with that row, or never.
        """
        key = target_key(target)
        if key not in self._targets and self._has_room_for_news(target.upstream):
            if len(self._targets) >= MAX_REMEMBERED:
                self._targets.clear()
            self._targets.add(key)
            self._writing.post(Remembered(target=target))

    def count_refusal(self, reason: str) -> None:
        """Count a refusal before identity (401, Origin, 413, parse error): one row a reason every few seconds."""
        if reason not in self._refusals and len(self._refusals) >= MAX_REFUSAL_REASONS:
            reason = "other"
        self._refusals[reason] += 1
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_EVERY_S, self._flush_refusals)

    @property
    def _writing(self) -> GroupWriter[Job]:
        if self._writer is None:
            raise RuntimeError("the audit log was not started")
        return self._writer

    def _has_room_for_news(self, upstream: str) -> bool:
        hour = int(self._clock() // 3600)
        if hour != self._news_hour:
            self._news_hour = hour
            self._news.clear()
        self._news[upstream] += 1
        return self._news[upstream] <= MAX_NEWS_PER_HOUR

    def _abandon(self, entry: Entry) -> None:
        entry.is_closed = True
        self._writing.post(Finished(entry, Outcome(OutcomeStatus.CANCELLED), 0.0, self._clock()))

    def _flush_refusals(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        counted, self._refusals = self._refusals, Counter()
        if not counted:
            return
        now = self._clock()
        rows = [
            event_row("refused", reason, now, reason=reason, detail={"count": count, "until": timestamp(now)})
            for reason, count in counted.items()
        ]
        written = self._writing.submit(*map(Event, rows), bounded=False)
        written.add_done_callback(lambda done: self._count_again(done, counted))

    def _count_again(self, written: asyncio.Future[None], counted: Counter[str]) -> None:
        """Refusals that could not be written are not forgotten."""
        if not written.cancelled() and written.exception() is not None:
            for reason, count in counted.items():
                self._refusals[reason] += count
            if self._flush is None and not self._is_closing:
                self._flush = written.get_loop().call_later(FLUSH_EVERY_S, self._flush_refusals)
