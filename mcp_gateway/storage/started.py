"""Tasks that were started, as they are kept: `tasks.db` in the state folder, keyed hashes of their tokens only.

Readers keep what is under way in memory; `changed_since` tells them what became of it, so that a start costs a busy
gateway one row and not all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Final

import orjson

from mcp_gateway.domain import Budget, StartedTask
from mcp_gateway.storage.keys import utc_text
from mcp_gateway.storage.opened import transaction
from mcp_gateway.storage.stamped import StampedFile

DATABASE: Final = "tasks.db"
KEPT: Final = timedelta(days=30)
"""How long a task that is over can still be looked at; the audit knows it for longer."""
ENDED: Final = "ended"
REVOKED: Final = "revoked"

_SCHEMA: Final = (
    """
CREATE TABLE started_tasks (
    id          TEXT PRIMARY KEY,   -- public; part of the token, shown in lists and the audit
    agent       TEXT NOT NULL,
    task        TEXT NOT NULL,
    person      TEXT,
    context     TEXT NOT NULL,      -- JSON
    budget      TEXT NOT NULL,      -- JSON
    digest      TEXT NOT NULL,      -- HMAC-SHA256 of the token, hex
    started_at  TEXT NOT NULL,
    expires_at  TEXT NOT NULL,
    over_at     TEXT,
    how         TEXT,               -- ended | revoked
    changed     INTEGER NOT NULL    -- counts up with every change of any row
) STRICT
""",
    "CREATE INDEX started_tasks_changed ON started_tasks(changed)",
)
_COLUMNS: Final = "id, agent, task, person, context, budget, digest, started_at, expires_at, over_at, how, changed"
_NEXT: Final = "(SELECT coalesce(max(changed), 0) + 1 FROM started_tasks)"


@dataclass(frozen=True, slots=True)
class StartedRecord:
    """One started task as the gateway knows it. Times are UTC."""

    task: StartedTask
    started: datetime
    over: datetime | None = None
    how: str = ""
    """`ended` or `revoked`, where somebody did that."""
    digest: str = field(default="", repr=False)
    changed: int = 0

    def holds(self, now: datetime) -> bool:
        """Whether it is under way at `now`."""
        return self.over is None and now < self.task.expires

    def state(self, now: datetime) -> str:
        """`under way`, `ended`, `revoked` or `expired`."""
        return self.how or ("under way" if self.holds(now) else "expired")


class StartedTable(StampedFile):
    """The table of started tasks in `state`, created on first use. Every failure is a `StoreUnavailable`."""

    def __init__(self, state: Path) -> None:
        super().__init__(state / DATABASE, _SCHEMA)

    def changed_since(self, change: int) -> list[StartedRecord]:
        """Every task that was started or changed after that count, in the order of the changes; of all, those that
        nobody has ended. Raises `StoreBusy` while somebody writes."""
        with self.reading(wait_s=0) as db:
            query = (
                f"SELECT {_COLUMNS} FROM started_tasks WHERE changed > ? AND (? OR over_at IS NULL) ORDER BY changed"  # noqa: S608
            )
            rows = db.execute(query, (change, change > 0))
            return [_record(row) for row in rows]

    def newest(self, limit: int) -> list[StartedRecord]:
        """The tasks started last, oldest first."""
        with self.reading() as db:
            newest_first = "ORDER BY started_at DESC, rowid DESC LIMIT ?"
            rows = db.execute(f"SELECT {_COLUMNS} FROM started_tasks {newest_first}", (limit,))  # noqa: S608
            return [_record(row) for row in rows][::-1]

    def find(self, task_id: str) -> StartedRecord | None:
        with self.reading() as db:
            row = db.execute(f"SELECT {_COLUMNS} FROM started_tasks WHERE id = ?", (task_id,)).fetchone()  # noqa: S608
            return _record(row) if row else None

    def under_way(self, now: datetime) -> int:
        """How many tasks are."""
        with self.reading() as db:
            query = "SELECT count(*) FROM started_tasks WHERE over_at IS NULL AND expires_at > ?"
            return int(db.execute(query, (utc_text(now),)).fetchone()[0])

    def insert(self, record: StartedRecord) -> None:
        task = record.task
        values = (
            task.id,
            task.agent,
            task.task,
            task.person,
            orjson.dumps(dict(task.context)).decode(),
            orjson.dumps(asdict(task.budget)).decode(),
            record.digest,
            utc_text(record.started),
            utc_text(task.expires),
        )
        with self._changing() as db:
            db.execute(
                f"INSERT INTO started_tasks ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, {_NEXT})",  # noqa: S608
                values,
            )
            # Behind the insertion: the highest count stays.
            db.execute("DELETE FROM started_tasks WHERE expires_at < ?", (utc_text(record.started - KEPT),))

    def extend(self, task_id: str, expires: datetime, now: datetime) -> bool:
        """Let a task that is under way end at `expires`; False where there is none."""
        with self._changing() as db:
            update = (
                f"UPDATE started_tasks SET expires_at = ?, changed = {_NEXT}"  # noqa: S608
                " WHERE id = ? AND over_at IS NULL AND expires_at > ?"
            )
            return db.execute(update, (utc_text(expires), task_id, utc_text(now))).rowcount > 0

    def end(self, task_id: str, how: str, now: datetime) -> bool:
        """Let it be over from `now` on; False where there is no such task under way."""
        with self._changing() as db:
            update = (
                f"UPDATE started_tasks SET over_at = ?, how = ?, changed = {_NEXT}"  # noqa: S608
                " WHERE id = ? AND over_at IS NULL AND expires_at > ?"
            )
            return db.execute(update, (utc_text(now), how, task_id, utc_text(now))).rowcount > 0

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        """Two processes that change something at once must not count alike."""
        with self.writing() as db, transaction(db):
            yield db


def _record(row: tuple[Any, ...]) -> StartedRecord:
    task_id, agent, task, person, context, budget, digest, started, expires, over, how, changed = row
    return StartedRecord(
        StartedTask(
            id=task_id,
            agent=agent,
            task=task,
            expires=datetime.fromisoformat(expires),
            context=_object(context),
            person=person,
            budget=Budget(**_object(budget)),
        ),
        started=datetime.fromisoformat(started),
        over=datetime.fromisoformat(over) if over else None,
        how=how or "",
        digest=digest,
        changed=changed,
    )


def _object(text: str) -> Mapping[str, Any]:
    found: dict[str, Any] = orjson.loads(text)
    return found
