"""Whether a call costs the same however much there is: tools, upstreams, agents, rows; and what a start takes.

    python benchmarks/growth.py [--rows 0,200000] [--secs 1] [--write docs/reference/performance.md]

Each line is a gateway of its own with one thing grown. The figure that counts is the CPU time of a call at 16
connections: it should not depend on the line. Loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
from side_by_side import META, VERSION, Hop, cpu_s, free_port, one_run, pinned, started, write_between

from mcp_gateway.audit.log import AuditLog
from mcp_gateway.domain import Caller, Decision, Effect, Kind, Outcome, OutcomeStatus, Reason, Request, Verb
from mcp_gateway.identity.keys import Keys

HEAD = (
    "| tools | upstreams | agents | audit rows | CPU us a call | p50 us | list ms | memory MiB (PSS) | first answer s |"
)


@dataclass(frozen=True)
class Case:
    """How much there is of everything."""

    tools: int = 10
    upstreams: int = 1
    agents: int = 1
    rows: int = 0


def cases(rows: list[int]) -> list[Case]:
    """One thing grown at a time."""
    grown = [Case(tools=n) for n in (10, 1_000, 10_000)]
    grown += [Case(upstreams=n) for n in (20, 200)] + [Case(agents=n) for n in (100, 1_000)]
    return grown + [Case(rows=n) for n in rows if n]


def prepare(folder: Path, upstream: int, case: Case) -> str:
    """Write what an operator would have written; the key of the last agent."""
    (folder / "policies").mkdir(parents=True)
    servers = [
        f'[servers.s{n}]\nurl = "http://127.0.0.1:{upstream}/mcp"\ntransport = "http"\n' for n in range(case.upstreams)
    ]
    (folder / "servers.toml").write_text("\n".join(servers))
    agents = [f'[agents.a{n}]\ntasks = ["bench"]\ndefault_task = "bench"\n' for n in range(case.agents)]
    allowed = json.dumps([f"s{n}/*" for n in range(case.upstreams)])
    (folder / "policies" / "bench.toml").write_text("\n".join([*agents, f"[tasks.bench]\nallow = {allowed}\n"]))
    keys = Keys(folder / ".mcp-gateway")
    made = [keys.create(f"a{n}", None, datetime.now(UTC))[0] for n in range(case.agents)]
    keys.close()
    if case.rows:
        asyncio.run(fill(folder, case.rows))
    return made[-1]


async def fill(folder: Path, rows: int) -> None:
    """An audit as long use leaves it."""
    caller, decision = Caller("a0", "bench"), Decision(Effect.ALLOWED, Reason.GRANT, "policies/bench.toml:1", "v")
    outcome = Outcome(OutcomeStatus.OK, {"content": [{"type": "text", "text": "some text"}]})
    async with AuditLog.opened(folder / "audit.db", folder / ".mcp-gateway") as audit:
        for first in range(0, rows // 2, 500):
            asked = [
                Request(f"{n:027x}", Verb.CALL, "tools/call", Kind.TOOL, "s0__echo", {"arguments": {"n": n}})
                for n in range(first, first + 500)
            ]
            await asyncio.gather(*(audit.record(caller, each, None, decision, outcome) for each in asked))


def pss_mib(pid: int) -> float:
    """Memory of one process, its share of what it shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def list_ms(port: int, key: str) -> float:
    """How long the first page of `tools/list` takes, at best of five."""
    headers = {
        "authorization": f"Bearer {key}", "content-type": "application/json", "mcp-protocol-version": VERSION,
        "accept": "application/json, text/event-stream", "mcp-method": "tools/list",
    }  # fmt: skip
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}})
    connection, took = http.client.HTTPConnection("127.0.0.1", port), []
    for _ in range(5):
        began_at = time.perf_counter()
        connection.request("POST", "/mcp", body, headers)
        connection.getresponse().read()
        took.append(time.perf_counter() - began_at)
    connection.close()
    return min(took) * 1000


def measured(case: Case, secs: float) -> str:
    """One line of the table."""
    upstream, port = free_port(), free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-growth-")))
        serve_tools = [sys.executable, Path(__file__).with_name("side_by_side.py"), "upstream", upstream, case.tools]
        stack.enter_context(started(pinned(1, *serve_tools), upstream, folder))
        key = prepare(folder / "gateway", upstream, case)
        command = pinned(0, sys.executable, "-m", "mcp_gateway", "serve", "--listen", f"127.0.0.1:{port}")
        began_at = time.perf_counter()
        pid = stack.enter_context(started(command, port, folder / "gateway"))
        listed = list_ms(port, key)
        first_s = time.perf_counter() - began_at
        hop = Hop(port, "s0__echo", f"authorization: Bearer {key}\r\n", pid=pid)
        one_run(hop, 16, 4.0, 0)  # until the start is over
        found = one_run(hop, 16, secs, 0)
        if found["wrong"]:
            raise SystemExit(f"{found['wrong']:.0f} wrong answers with {case}")
        listed = min(listed, list_ms(port, key))
        return (
            f"| {case.tools} | {case.upstreams} | {case.agents} | {case.rows} | {found['cpu_us']:.0f} "
            f"| {found['p50_us']:.0f} | {listed:.1f} | {pss_mib(pid):.0f} | {first_s:.2f} |"
        )


def stdio_starts() -> str:
    """How soon `mcp-gateway stdio` without upstreams answers `initialize`, at best of three, byte code being there."""
    with tempfile.TemporaryDirectory(prefix="gateway-stdio-") as made:
        folder = Path(made)
        (folder / "policies").mkdir()
        (folder / "servers.toml").write_text("")
        (folder / "policies" / "p.toml").write_text(
            '[agents.a]\ntasks = ["t"]\ndefault_task = "t"\n[tasks.t]\nallow = []\n'
        )
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed has been compiled then
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
        for word in ("", "--alone"):
            first_answer(word, folder)
        alone = min(first_answer("--alone", folder) for _ in range(3))
        attached = min(first_answer("", folder) for _ in range(3))
        first = min(first_of_all(folder) for _ in range(3))
        stop(folder)
    return (
        "`mcp-gateway stdio` without upstreams: seconds from its start to its first answer, CPU seconds of its process "
        f"and its memory: attaching to a gateway that runs {attached}; the first window, which starts that gateway "
        f"{first}; alone {alone}."
    )


@dataclass(frozen=True, order=True)
class Start:
    """One start, up to the first answer."""

    took_s: float
    cpu_s: float
    pss_mib: float

    def __str__(self) -> str:
        return f"{self.took_s:.2f} s, {self.cpu_s:.2f} s, {self.pss_mib:.0f} MiB"


def first_answer(word: str, folder: Path) -> Start:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "b", "version": "1"}}
    asked = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}) + "\n"
    command = [sys.executable, "-m", "mcp_gateway", "stdio", "--agent", "a", *filter(None, [word])]
    began_at = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None  # noqa: S101
        assert program.stdout is not None  # noqa: S101
        program.stdin.write(asked.encode())
        program.stdin.flush()
        program.stdout.readline()
        start = Start(time.perf_counter() - began_at, cpu_s(program.pid), pss_mib(program.pid))
        program.stdin.close()
    return start


def first_of_all(folder: Path) -> Start:
    stop(folder)
    return first_answer("", folder)


def stop(folder: Path) -> None:
    """End the gateway that a window has started there."""
    subprocess.run([sys.executable, "-m", "mcp_gateway", "stop"], cwd=folder, capture_output=True, check=True)


def main() -> None:
    """Run it, print the table, and put it into a document if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="0,200000")
    parser.add_argument("--secs", type=float, default=1.0)
    parser.add_argument("--write", type=Path, help="a document with a `<!-- growth -->` pair to put the table between")
    options = parser.parse_args()
    lines = [HEAD, "|---" * HEAD.count(" |") + "|"]
    for case in cases([int(rows) for rows in options.rows.split(",")]):
        lines.append(measured(case, options.secs))
        print(lines[-1], flush=True)  # noqa: T201
    lines += ["", stdio_starts()]
    if options.write:
        write_between("growth", "\n".join(lines), options.write)


if __name__ == "__main__":
    main()
