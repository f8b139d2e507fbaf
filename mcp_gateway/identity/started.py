"""Tasks that somebody started: their tokens are shown once, kept as keyed hashes, and ended at once in every process.

    mgt_<public id>_<secret><checksum>        as API keys are made, see `keys`

A token is good for one agent on one task, with the context and budget it was started with. It comes beside the agent's
own credential, which must be the same agent's, or is the credential itself. Knows nothing of HTTP and of policies.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson

from mcp_gateway.domain import Budget, StartedTask, Strength
from mcp_gateway.identity.keys import CHECKSUM_LENGTH, PUBLIC_ID_LENGTH, SECRET_LENGTH, checksum, random_text
from mcp_gateway.identity.verify import Identity
from mcp_gateway.storage.private import random_key
from mcp_gateway.storage.stamped import Sight
from mcp_gateway.storage.started import ENDED, REVOKED, StartedRecord, StartedTable

__all__ = ["HMAC_KEY_FILE", "StartedRecord", "StartedTasks", "TaskTokenCheck"]

HMAC_KEY_FILE: Final = "task-tokens.hmac"
MAX_UNDER_WAY: Final = 100_000
MAX_CONTEXT_BYTES: Final = 16 * 1024

_TOKEN: Final = re.compile(
    rf"(?P<signed>mgt_(?P<id>[0-9A-Za-z]{{{PUBLIC_ID_LENGTH}}})_[0-9A-Za-z]{{{SECRET_LENGTH}}})"
    rf"(?P<checksum>[0-9A-Za-z]{{{CHECKSUM_LENGTH}}})"
)


@dataclass(slots=True)
class _Seen:
    """Tasks under way as of one state of the store, brought forward change by change."""

    sight: Sight
    last_change: int = 0
    records: dict[str, StartedRecord] = field(default_factory=dict)
    tidy_at: int = 1000

    def tidy(self, now: datetime) -> None:
        """Forget what has expired, now and then."""
        if len(self.records) >= self.tidy_at:
            self.records = {name: record for name, record in self.records.items() if record.holds(now)}
            self.tidy_at = max(1000, 2 * len(self.records))


class StartedTasks:
    """All started tasks. A store that cannot be read raises `StoreUnavailable`: no task holds meanwhile.

    `verify`, `holds` and `as_it_is` are for the event loop: they do not wait, but raise `StoreBusy` (see
    `once_unlocked`).
    """

    def __init__(self, state: Path) -> None:
        """Open those kept in the folder `state`; folder, database and hash key are created on first use."""
        self._table = StartedTable(state)
        self._hash_key = random_key(state / HMAC_KEY_FILE)
        self._nobody = secrets.token_hex(32)
        self._seen: _Seen | None = None

    def start(
        self,
        agent: str,
        task: str,
        lasts: timedelta,
        now: datetime,
        *,
        context: Mapping[str, Any] | None = None,
        person: str | None = None,
        budget: Budget | None = None,
    ) -> tuple[str, StartedRecord]:
        """Start a task: its token, which cannot be had again, and what is kept of it.

        Raises `ValueError` for a length of time that is none, too large a context, and beyond `MAX_UNDER_WAY`.
        """
        if lasts <= timedelta():
            raise ValueError("a task must end in the future")
        if len(orjson.dumps(dict(context or {}))) > MAX_CONTEXT_BYTES:
            raise ValueError(f"a task's context may have {MAX_CONTEXT_BYTES} bytes")
        if self._table.under_way(now) >= MAX_UNDER_WAY:
            raise ValueError(f"{MAX_UNDER_WAY} tasks are under way already")
        public_id = random_text(PUBLIC_ID_LENGTH)
        signed = f"mgt_{public_id}_{random_text(SECRET_LENGTH)}"
        token = signed + checksum(signed)
        started = StartedTask(public_id, agent, task, now + lasts, dict(context or {}), person, budget or Budget())
        record = StartedRecord(started, now, digest=self._digest(token))
        self._table.insert(record)
        return token, record

    def verify(self, token: str, now: datetime) -> StartedTask | None:
        """The task under way at `now` whose token this is; None for everything else, whatever is wrong with it.

        An unknown id costs the same hash and comparison as a known one, so that time tells nothing about ids.
        """
        match = _TOKEN.fullmatch(token)
        if match is None or checksum(match["signed"]) != match["checksum"]:
            return None
        record = self._under_way(now).get(match["id"])
        kept = self._nobody if record is None else record.digest
        is_right = hmac.compare_digest(self._digest(token), kept)
        return record.task if record is not None and is_right and record.holds(now) else None

    def holds(self, task_id: str, now: datetime) -> bool:
        """Whether a task whose token was right before is still under way: what long-lived streams ask."""
        record = self._under_way(now).get(task_id)
        return record is not None and record.holds(now)

    def as_it_is(self, task: StartedTask, now: datetime) -> StartedTask:
        """A task that was under way, with the end it has now: extended, or over."""
        record = self._under_way(now).get(task.id)
        return replace(task, expires=now) if record is None else record.task

    def find(self, task_id: str) -> StartedRecord | None:
        """One task, over or not."""
        return self._table.find(task_id)

    def list(self, limit: int) -> list[StartedRecord]:
        """The tasks started last, oldest first."""
        return self._table.newest(limit)

    def extend(self, task_id: str, expires: datetime, now: datetime) -> bool:
        """Let it end later (or sooner); False where no such task is under way."""
        return self._table.extend(task_id, expires, now)

    def end(self, task_id: str, now: datetime) -> bool:
        """It is done; on return no process accepts its token any more. False where no such task is under way."""
        return self._table.end(task_id, ENDED, now)

    def revoke(self, task_id: str, now: datetime) -> bool:
        """It is taken away; the same but for the word that is kept of it."""
        return self._table.end(task_id, REVOKED, now)

    def close(self) -> None:
        self._table.close()

    def _digest(self, token: str) -> str:
        return hmac.digest(self._hash_key, token.encode(), "sha256").hex()

    def _under_way(self, now: datetime) -> Mapping[str, StartedRecord]:
        """Tasks as of now, from memory unless anybody has committed since; those that are over are left out."""
        table, seen = self._table, self._seen
        stamp = table.stamp()
        if seen is not None and table.still_stands(seen.sight, stamp):
            return seen.records
        if seen is not None and (seen.sight.stamp.device, seen.sight.stamp.inode) != (stamp.device, stamp.inode):
            table.reopen()
            seen = None
        return self._brought_forward(seen, now).records

    def _brought_forward(self, seen: _Seen | None, now: datetime) -> _Seen:
        found = _Seen(self._table.look())
        if seen is not None:
            found.last_change, found.records, found.tidy_at = seen.last_change, seen.records, seen.tidy_at
        for record in self._table.changed_since(found.last_change):
            found.last_change = record.changed
            found.records.pop(record.task.id, None)
            if record.over is None:
                found.records[record.task.id] = record
        found.tidy(now)
        self._seen = found
        return found


@dataclass(frozen=True, slots=True)
class TaskTokenCheck:
    """Bearer tokens that are task tokens: the agent needs no other credential while its task lasts."""

    tasks: StartedTasks

    def identity_of(self, token: str, now: datetime) -> Identity | None:
        task = self.tasks.verify(token, now) if token.startswith("mgt_") else None
        if task is None:
            return None
        return Identity(task.agent, Strength.TASK_TOKEN, task.id, started=task)

    def still_holds(self, identity: Identity, now: datetime) -> bool:
        return identity.strength is Strength.TASK_TOKEN and self.tasks.holds(identity.credential_id, now)
