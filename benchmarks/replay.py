"""How long a million past decisions take to replay: `python benchmarks/replay.py [ENTRIES]`.

Makes an audit in a temporary folder (rows as the gateway writes them, without the chain, which replays do not read):
50 agents, 200 tools, half of the calls under conditions over their arguments, all arguments different.
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from mcp_gateway.audit.query import AuditReader
from mcp_gateway.domain import Kind, Target
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.document import from_sources
from mcp_gateway.policy.replay import replay
from mcp_gateway.storage.migrations import migrate

AGENTS, TOOLS = 50, 200


def policy(limit: int) -> Policy:
    """Every agent may use half the tools freely, the others up to an amount, and nothing in a currency but EUR."""
    lines = []
    for agent in range(AGENTS):
        lines += [f"[agents.a{agent}]", f'tasks = ["t{agent}"]', f"[tasks.t{agent}]", 'allow = ["free/*"]']
        lines += [f"[[tasks.t{agent}.grant]]", 'tools = ["bound/*"]', f"when = 'args.amount <= {limit}'"]
        lines += [f"[[tasks.t{agent}.deny]]", 'tools = ["bound/*"]', "when = 'args.currency != \"EUR\"'"]
    return compile_policy(from_sources({"policies/a.toml": "\n".join(lines)}))


def rows(entries: int) -> Iterator[tuple[Any, ...]]:
    """One row of `entries` after the other, a decision each."""
    chance = random.Random(1)  # noqa: S311
    for seq in range(1, entries + 1):
        agent, tool = chance.randrange(AGENTS), chance.randrange(TOOLS)
        upstream = "bound" if tool % 2 else "free"
        args = json.dumps(
            {"amount": chance.randrange(2000), "currency": "EUR", "order_id": f"o-{seq}", "note": "x" * 60}
        )
        at = f"2026-11-{1 + seq * 20 // entries:02}T12:00:00.000Z"
        decision = ("allowed", "grant") if seq % 7 else ("denied", "condition_false")
        yield (
            seq,
            at,
            1,
            "call",
            "decided",
            f"a{agent}",
            "api-key",
            f"t{agent}",
            upstream,
            f"tool{tool}",
            f"h{tool}",
            *decision,
            args,
        )


def make(path: Path, entries: int) -> None:
    with closing(sqlite3.connect(path)) as db:
        migrate(db)
        db.execute("INSERT INTO runs (id, name, pid, started_at, first_seq) VALUES (1, 'r', 1, '', 1)")
        db.executemany(
            "INSERT INTO entries (seq, at, run, kind, phase, agent, identity_strength, task, upstream, name, target_hash,"
            " decision, reason, args, args_sha256, prev_hash, hash) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,'-','','')",
            rows(entries),
        )
        db.commit()


def main() -> None:
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    targets = {
        f"h{n}": Target(Kind.TOOL, "bound" if n % 2 else "free", f"tool{n}", f"tool{n}", {}, "") for n in range(TOOLS)
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.db"
        make(path, entries)
        candidate = policy(1000)
        began, worked = time.perf_counter(), time.process_time()
        with AuditReader(path) as audit:
            report = replay(candidate, audit.decisions(), targets)
        took, worked = time.perf_counter() - began, time.process_time() - worked
    flips = f"{report.newly_allowed} newly allowed, {report.newly_denied} newly denied"
    sys.stdout.write(f"{report.judged} decisions in {took:.1f} s ({worked:.1f} s of CPU): {flips}\n")


if __name__ == "__main__":
    main()
