"""How long a start takes, and how much memory: `python benchmarks/starting.py [--times 5] [--tools 1000]`.

From the start of the process to its first answer, without upstreams, over HTTP and on the standard streams; and the
resident memory of a gateway in front of so many tools, when it has answered calls. The CPU time is what a busy machine
does not change. Loopback only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from growth import GATEWAY, Case, list_ms, prepared, pss_mib
from machine import keep_compiled
from side_by_side import Hop, cpu_s, free_port, one_run, started

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "b", "version": "1"}},
}


@dataclass(frozen=True)
class Start:
    """One start, up to the first answer: of the process that answered."""

    took_s: float
    cpu_s: float
    pss_mib: float


def over_http(folder: Path, key: str) -> Start:
    """`serve`, until the first list came."""
    port, began_at = free_port(), time.perf_counter()
    with started([*GATEWAY, "serve", "--listen", f"127.0.0.1:{port}"], port, folder) as pid:
        list_ms(port, key, times=1)
        return Start(time.perf_counter() - began_at, cpu_s(pid), pss_mib(pid))


def on_stdio(folder: Path, *words: str) -> Start:
    """`stdio`, until `initialize` was answered."""
    began_at = time.perf_counter()
    command = [*GATEWAY, "stdio", "--agent", "a0", *words]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None  # noqa: S101
        assert program.stdout is not None  # noqa: S101
        program.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
        program.stdin.flush()
        program.stdout.readline()
        start = Start(time.perf_counter() - began_at, cpu_s(program.pid), pss_mib(program.pid))
        program.stdin.close()
    return start


def first_window(folder: Path) -> Start:
    """The one that has to start the gateway which the others attach to."""
    stop(folder)
    return on_stdio(folder)


def stop(folder: Path) -> None:
    """End the gateway that a window has started there, if one has."""
    subprocess.run([*GATEWAY, "stop"], cwd=folder, capture_output=True, check=False)


def best(what: str, times: int, measure: Callable[[], Start]) -> str:
    """The best of so many, each figure for itself; before them one that compiles."""
    measure()
    found = [measure() for _ in range(times)]
    took_s, cpu, mib = (min(getattr(start, name) for start in found) for name in ("took_s", "cpu_s", "pss_mib"))
    return f"| {what} | {took_s:.2f} | {cpu:.2f} | {mib:.0f} |\n"


def starts(folder: Path, key: str, times: int) -> Iterator[str]:
    """The lines of the table, one after the other."""
    yield best("`serve`, `tools/list` over HTTP", times, lambda: over_http(folder, key))
    yield best("`stdio --alone`, `initialize`", times, lambda: on_stdio(folder, "--alone"))
    try:
        yield best("`stdio`, the first window, which starts a gateway for all", times, lambda: first_window(folder))
        yield best("`stdio`, attaching to that one", times, lambda: on_stdio(folder))
    finally:
        stop(folder)


def memory(tools: int) -> str:
    """Of a gateway that has been called."""
    upstream, port = free_port(), free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-memory-")))
        serve_tools = [sys.executable, str(Path(__file__).with_name("side_by_side.py")), "upstream"]
        stack.enter_context(started([*serve_tools, str(upstream), str(tools)], upstream, folder))
        key = prepared(folder / "gateway", upstream, Case(tools=tools))[0]
        command = [*GATEWAY, "serve", "--listen", f"127.0.0.1:{port}"]
        pid = stack.enter_context(started(command, port, folder / "gateway"))
        list_ms(port, key)
        one_run(Hop(port, "s0__echo", f"authorization: Bearer {key}\r\n", pid=pid), 16, 2.0, 0)
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        rss_mib = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        return f"{rss_mib:.0f} MiB resident, {pss_mib(pid):.0f} MiB of them its own share (PSS)"


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--tools", type=int, default=1_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gateway-start-") as name:
        folder = Path(name) / "gateway"
        keep_compiled(Path(name) / "compiled")
        key = prepared(folder, 1, Case())[0]
        (folder / "servers.toml").write_text("")
        (folder / "policies" / "bench.toml").write_text(
            '[agents.a0]\ntasks = ["bench"]\ndefault_task = "bench"\n[tasks.bench]\nallow = []\n'
        )
        sys.stdout.write("| start to first answer, upstreams aside | s | CPU s | MiB (PSS) |\n|---|---|---|---|\n")
        for line in starts(folder, key, options.times):
            sys.stdout.write(line)
            sys.stdout.flush()
        sys.stdout.write(f"\nWith {options.tools:,} tools: {memory(options.tools)}.\n")


if __name__ == "__main__":
    main()
