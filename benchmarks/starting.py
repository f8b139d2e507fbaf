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
from collections.abc import Callable
from contextlib import ExitStack
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


def over_http(folder: Path, key: str) -> tuple[float, float]:
    """Seconds until the first list came, and seconds of CPU."""
    port, began_at = free_port(), time.perf_counter()
    with started([*GATEWAY, "serve", "--listen", f"127.0.0.1:{port}"], port, folder) as pid:
        list_ms(port, key, times=1)
        return time.perf_counter() - began_at, cpu_s(pid)


def on_stdio(folder: Path) -> tuple[float, float]:
    """Seconds until `initialize` was answered, and seconds of CPU."""
    began_at = time.perf_counter()
    command = [*GATEWAY, "stdio", "--agent", "a0"]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None  # noqa: S101
        assert program.stdout is not None  # noqa: S101
        program.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
        program.stdin.flush()
        program.stdout.readline()
        took_s, cpu = time.perf_counter() - began_at, cpu_s(program.pid)
        program.stdin.close()
    return took_s, cpu


def best(times: int, measure: Callable[[], tuple[float, float]]) -> str:
    """The best of so many, each of the two for itself; before them one that compiles."""
    measure()
    found = [measure() for _ in range(times)]
    return f"{min(took for took, _ in found):.2f} | {min(cpu for _, cpu in found):.2f}"


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
        sys.stdout.write("| start to first answer, upstreams aside | s | CPU s |\n|---|---|---|\n")
        sys.stdout.write(
            f"| `serve`: `tools/list` over HTTP | {best(options.times, lambda: over_http(folder, key))} |\n"
        )
        sys.stdout.write(f"| `stdio`: `initialize` | {best(options.times, lambda: on_stdio(folder))} |\n\n")
    sys.stdout.write(f"With {options.tools:,} tools: {memory(options.tools)}.\n")


if __name__ == "__main__":
    main()
