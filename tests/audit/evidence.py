"""What the audit's tests speak of: a caller, a target, a request, and a log in a folder of its own."""

import sqlite3
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcp_gateway.audit.log import AuditLog
from mcp_gateway.audit.verify import Verdict, verify
from mcp_gateway.domain import (
    Caller,
    Decision,
    Effect,
    Json,
    Kind,
    Outcome,
    OutcomeStatus,
    Reason,
    Request,
    Target,
    Verb,
)

CALLER = Caller("helper", "triage")
TARGET = Target(Kind.TOOL, "github", "search", "github__search", {"name": "github__search"}, "d" * 64)
ALLOWED = Decision(Effect.ALLOWED, Reason.GRANT, "policies/dev.toml:12", "v1")
DENIED = Decision(Effect.DENIED, Reason.NO_GRANT, policy_version="v1")
OK = Outcome(OutcomeStatus.OK, {"content": [{"type": "text", "text": "12 issues"}]}, upstream_ms=1.5)
REFUSED = Outcome(OutcomeStatus.REFUSED)


def request(request_id: str = "r1", arguments: Json | None = None, **fields: Any) -> Request:
    params = {"name": "github__search", "arguments": {"q": "hello"} if arguments is None else arguments}
    made = Request(request_id, Verb.CALL, "tools/call", Kind.TOOL, "github__search", params, client="inspector 1.0")
    return replace(made, **fields)


def opened(folder: Path, **settings: Any) -> AbstractAsyncContextManager[AuditLog]:
    """A log that fails fast."""
    return AuditLog.opened(
        database(folder), state(folder), **{"busy_timeout_s": 0.2, "probe_every_s": 0.05, **settings}
    )


def database(folder: Path) -> Path:
    return folder / "audit.db"


def state(folder: Path) -> Path:
    return folder / "state"


def judged(folder: Path) -> Verdict:
    return verify(database(folder), state(folder))


def rows(folder: Path, sql: str = "SELECT * FROM entries ORDER BY seq", *values: Any) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(database(folder))) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(sql, values)]


def tamper(folder: Path, *statements: str) -> None:
    """What somebody does who can write the database, but not the state folder."""
    with closing(sqlite3.connect(database(folder))) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


async def one_call(log: AuditLog, request_id: str = "r1", outcome: Outcome = OK, **fields: Any) -> int:
    entry = await log.open(CALLER, request(request_id, **fields), TARGET, ALLOWED)
    await log.close(entry, outcome, gateway_ms=0.3)
    assert entry.seq is not None
    return entry.seq


async def some_calls(folder: Path, count: int = 10, **settings: Any) -> None:
    async with opened(folder, **settings) as log:
        log.remember_policy("v1", "[tasks.triage]\n")
        for number in range(count):
            await one_call(log, f"r{number}")
