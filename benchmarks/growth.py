"""Whether a call costs the same however much there is: of tools, upstreams, agents and audit rows.

    python benchmarks/growth.py [--tools 10,1000,10000] [--upstreams 20,200] [--agents 100,1000] [--rows 10000000]

Each line is a gateway of its own with one thing grown. The figures that count are the CPU times of a call at 16
connections: they should not depend on the line. `the same`: one agent's call of one tool again and again; `another`:
each call is of the next agent, tool and upstream, so that what is remembered of the last one is of no use.
Of a grown audit also what the commands that read it take. Loopback only.
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
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
from audit_rows import fill
from machine import keep_compiled
from side_by_side import META, PRIORITY, VERSION, Hop, cpu_s, free_port, one_run, pinned, started

from mcp_gateway.identity.keys import Keys

COLUMNS = (
    "tools", "upstreams", "agents", "audit rows", "CPU us a call, the same", "CPU us a call, another", "p50 us",
    "list ms", "memory MiB (PSS)", "first answer s", "CPU s until then",
)  # fmt: skip
MAX_OTHERS = 1_000
GATEWAY = (sys.executable, "-m", "mcp_gateway")
READING = {
    "log": ("log",),
    "log of one agent": ("log", "--agent", "a7"),
    "log of an agent that never called": ("log", "--agent", "nobody"),
    "log of the last hour": ("log", "--since", "1h"),
    "usage of a day": ("usage", "--since", "1d"),
    "audit verify": ("audit", "verify"),
}


@dataclass(frozen=True)
class Case:
    """How much there is of everything."""

    tools: int = 10
    upstreams: int = 1
    agents: int = 1
    rows: int = 0


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """One thing grown at a time."""
    for thing in ("tools", "upstreams", "agents", "rows"):
        for count in filter(None, getattr(options, thing).split(",")):
            yield Case(**{thing: int(count)})


def prepare(folder: Path, upstream: int, case: Case) -> str:
    """Write what an operator would have written; the key of the last agent."""
    return prepared(folder, upstream, case)[-1]


def prepared(folder: Path, upstream: int, case: Case) -> list[str]:
    """Write what an operator would have written; the keys of all agents."""
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
    return made


def ways(case: Case, keys: list[str]) -> tuple[tuple[str, str], ...]:
    """Every call another: the next agent's, of the next tool of the next upstream."""
    count = min(MAX_OTHERS, max(case.tools, case.upstreams, case.agents))
    tools = [f"tool_{n}" if n else "echo" for n in range(case.tools)]
    return tuple(
        (f"s{n % case.upstreams}__{tools[n % case.tools]}", f"authorization: Bearer {keys[n % case.agents]}\r\n")
        for n in range(count)
    )


def pss_mib(pid: int) -> float:
    """Memory of one process, its share of what it shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def list_ms(port: int, key: str, times: int = 5) -> float:
    """How long the first page of `tools/list` takes, at best."""
    headers = {
        "authorization": f"Bearer {key}", "content-type": "application/json", "mcp-protocol-version": VERSION,
        "accept": "application/json, text/event-stream", "mcp-method": "tools/list",
    }  # fmt: skip
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}})
    connection, took = http.client.HTTPConnection("127.0.0.1", port), []
    for _ in range(times):
        began_at = time.perf_counter()
        connection.request("POST", "/mcp", body, headers)
        connection.getresponse().read()
        took.append(time.perf_counter() - began_at)
    connection.close()
    return min(took) * 1000


def measured(case: Case, secs: float, settle_s: float) -> list[str]:
    """One line of the table; then what reading a grown audit takes."""
    upstream, port = free_port(), free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-growth-")))
        serve_tools = [sys.executable, Path(__file__).with_name("side_by_side.py"), "upstream", upstream, case.tools]
        stack.enter_context(started(pinned(1, *serve_tools), upstream, folder))
        keys = prepared(folder / "gateway", upstream, case)
        command = pinned(0, *GATEWAY, "serve", "--listen", f"127.0.0.1:{port}")
        began_at = time.perf_counter()
        pid = stack.enter_context(started(command, port, folder / "gateway"))
        listed = list_ms(port, keys[-1])
        first_s, first_cpu_s = time.perf_counter() - began_at, cpu_s(pid)
        same = Hop(port, "s0__echo", f"authorization: Bearer {keys[-1]}\r\n", pid=pid)
        another = Hop(port, same.tool, same.headers, pid=pid, others=ways(case, keys))
        one_run(another, 16, settle_s, 0)  # until the start is over, and everything was called once
        found, others = one_run(same, 16, secs, 0), one_run(another, 16, secs, 0)
        if found["wrong"] or others["wrong"]:
            raise SystemExit(f"wrong answers with {case}")
        listed = min(listed, list_ms(port, keys[-1]))
        line = (
            f"| {case.tools} | {case.upstreams} | {case.agents} | {case.rows} | {found['cpu_us']:.0f} "
            f"| {others['cpu_us']:.0f} | {found['p50_us']:.0f} | {listed:.1f} | {pss_mib(pid):.0f} | {first_s:.2f} "
            f"| {first_cpu_s:.2f} |"
        )
        return [line, *(reading(folder / "gateway", case.rows) if case.rows else [])]


def reading(folder: Path, rows: int) -> Iterator[str]:
    """What each command takes that reads the audit, while the gateway is up."""
    for what, words in READING.items():
        before, began_at = os.times(), time.perf_counter()
        subprocess.run([*GATEWAY, *words], cwd=folder, stdout=subprocess.DEVNULL, check=True)
        took_s, after = time.perf_counter() - began_at, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        speed = f", {rows / cpu:,.0f} rows per second of CPU" if what == "audit verify" else ""
        said = f"- `mcp-gateway {' '.join(words)}` ({what}) over {rows:,} rows"
        yield f"{said}: {took_s:.1f} s, {cpu:.1f} s of CPU{speed}"


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", default="10,1000,10000")
    parser.add_argument("--upstreams", default="20,200")
    parser.add_argument("--agents", default="100,1000")
    parser.add_argument("--rows", default="1000000", help="10,000,000 need 5 GB and some minutes")
    parser.add_argument("--secs", type=float, default=2.0)
    parser.add_argument("--settle", type=float, default=6.0, help="seconds of load before it counts")
    parser.add_argument("--alone", action="store_true", help="real-time priority: nothing else runs meanwhile")
    options = parser.parse_args()
    if options.alone:
        PRIORITY[:] = ["chrt", "--fifo", "5"]
    say(f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|")
    remarks: list[str] = []
    with tempfile.TemporaryDirectory(prefix="gateway-compiled-") as name:
        keep_compiled(Path(name))
        measured(Case(), 0.1, 0.1)
        for case in cases(options):
            line, *more = measured(case, options.secs, options.settle)
            say(line)
            remarks += more
    if remarks:
        say("", *remarks)


def say(*lines: str) -> None:
    """On stdout, at once: a run takes minutes."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
