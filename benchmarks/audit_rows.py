"""An audit as long use leaves it, made in a fraction of the time: a whole chain of as many rows as are asked for.

    python benchmarks/audit_rows.py FOLDER ROWS

The gateway's own writer makes the first rows and the last (keys, run, anchor, signed end); those between are copies of
its rows with times, ids and hashes of their own, chained by the audit's own `chain.append`. `audit verify` finds the
whole in order.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mcp_gateway.audit import chain
from mcp_gateway.audit.chain import COLUMNS, Head, Row
from mcp_gateway.audit.log import AuditLog
from mcp_gateway.audit.rows import timestamp
from mcp_gateway.domain import Caller, Decision, Effect, Kind, Outcome, OutcomeStatus, Reason, Request, Verb

AGENTS, TOOLS = 50, 200
DAYS = 100
"""What the rows are spread over: the newest day has a hundredth of them."""
PAGE = 20_000


async def fill(folder: Path, rows: int) -> None:
    """Give the gateway of this folder an audit of so many rows, half of them decisions, and a few more."""
    now = time.time()
    await _write_one(folder, now - DAYS * 86_400)
    with closing(sqlite3.connect(folder / "audit.db", isolation_level=None)) as db:
        # Nobody else has it open, and it is made anew if the machine stops.
        db.execute("PRAGMA synchronous = OFF")
        _copy(db, rows, now)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    await _write_one(folder, now)


async def _write_one(folder: Path, at: float) -> None:
    """One call, written by the gateway's writer; the end of its run is signed."""
    caller, decision = Caller("a0", "bench"), Decision(Effect.ALLOWED, Reason.GRANT, "policies/bench.toml:1", "v")
    outcome = Outcome(OutcomeStatus.OK, {"content": [{"type": "text", "text": "some text"}]})
    asked = Request(f"{int(at):032x}", Verb.CALL, "tools/call", Kind.TOOL, "s0__echo", {"arguments": {"text": "1-1."}})
    async with AuditLog.opened(folder / "audit.db", folder / ".mcp-gateway", clock=lambda: at) as audit:
        await audit.record(caller, asked, None, decision, outcome)


def _copy(db: sqlite3.Connection, rows: int, now: float) -> None:
    db.row_factory = sqlite3.Row
    written = db.execute("SELECT * FROM entries ORDER BY seq").fetchall()
    decided, finished = (
        {column: row[column] for column in COLUMNS[:-2] if row[column] is not None}
        for row in (next(row for row in written if row["phase"] == phase) for phase in ("decided", "finished"))
    )
    head, run = Head(written[-1]["seq"], written[-1]["hash"]), decided["run"]
    names = tuple(name for name in COLUMNS if name in decided or name in finished or name in ("prev_hash", "hash"))
    statement = f"INSERT INTO entries ({','.join(names)}) VALUES ({','.join('?' * len(names))})"  # noqa: S608 - ours
    for page in _pages(decided, finished, head.seq, rows, now):
        head = chain.append(head, page, run)
        db.execute("BEGIN")
        db.executemany(statement, (tuple(map(row.get, names)) for row in page))
        db.execute("COMMIT")


def _pages(decided: Row, finished: Row, seq: int, rows: int, now: float) -> Iterator[list[Row]]:
    """Calls in the order of time, their two rows next to each other, a page of them at a time."""
    first_at, page, text = now - DAYS * 86_400 + 1, list[Row](), ""
    for call in range(rows // 2):
        if call % 50 == 0:
            text = timestamp(first_at + (now - 1 - first_at) * call * 2 / rows)
        own = {
            "at": text,
            "request_id": f"{call:032x}",
            "agent": f"a{call % AGENTS}",
            "name": f"tool_{call * 7 % TOOLS}",
        }
        page += ({**decided, **own}, {**finished, **own, "decided_seq": seq + call * 2 + 1})
        if len(page) >= PAGE:
            yield page
            page = []
    yield page


if __name__ == "__main__":
    asyncio.run(fill(Path(sys.argv[1]), int(sys.argv[2])))
