"""What a second worker brings: `python benchmarks/workers.py [--rounds 3] [--secs 3] [--connections 16,64]`.

The same gateway with 1 and 2 workers, in turn, over one upstream; load and upstream run beside it on the same cores, so
on a machine with few of them the second worker gets what these leave. Loopback only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from growth import Case, prepare
from side_by_side import Hop, free_port, one_run, started

HERE = Path(__file__).parent
UP_S = 60.0


def wait_for_workers(folder: Path, workers: int) -> None:
    """Until all of them serve: the first takes every connection as long as it is the only one."""
    deadline = time.monotonic() + UP_S
    standings = folder / ".mcp-gateway" / "workers.json"
    while workers > 1 and (not standings.exists() or standings.read_text().count('"ready"') < workers):
        if time.monotonic() > deadline:
            raise SystemExit("the workers did not come up")
        time.sleep(0.05)


def measured(workers: int, options: argparse.Namespace) -> dict[int, dict[str, float]]:
    """One round: what came of each number of connections."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-")))
        upstream, port = free_port(), free_port()
        program = [sys.executable, str(HERE / "side_by_side.py"), "upstream", str(upstream)]
        stack.enter_context(started(program, upstream, folder))
        key = prepare(folder / "gateway", upstream, Case())
        command = [sys.executable, "-m", "mcp_gateway", "serve", "--listen", f"127.0.0.1:{port}"]
        pid = stack.enter_context(started([*command, "--workers", str(workers)], port, folder / "gateway"))
        wait_for_workers(folder / "gateway", workers)
        hop = Hop(port, "s0__echo", f"authorization: Bearer {key}\r\n", pid=pid)
        one_run(hop, 4, 1.0, 0)  # until the start is over
        found = {n: one_run(hop, n, options.secs, 0) for n in map(int, options.connections.split(","))}
        if options.verify:
            verify = [sys.executable, "-m", "mcp_gateway", "audit", "verify"]
            subprocess.run(verify, cwd=folder / "gateway", check=True, stdout=subprocess.DEVNULL)
    return found


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--secs", type=float, default=3.0)
    parser.add_argument("--connections", default="16,64")
    parser.add_argument("--verify", action="store_true", help="hold the audit's chain against itself after each round")
    options = parser.parse_args()
    runs: dict[tuple[int, int], list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for workers in (1, 2):
            for connections, run in measured(workers, options).items():
                runs.setdefault((connections, workers), []).append(run)
    sys.stdout.write(
        "| connections | workers | calls/s | p50 us | p99 us | CPU us a call | wrong |\n|---|---|---|---|---|---|---|\n"
    )
    for (connections, workers), found in sorted(runs.items()):
        middle = {name: statistics.median(run[name] for run in found) for name in found[0]}
        figures = " | ".join(f"{middle[name]:.0f}" for name in ("calls_s", "p50_us", "p99_us", "cpu_us", "wrong"))
        sys.stdout.write(f"| {connections} | {workers} | {figures} |\n")
    sys.stdout.write(f"\n{os.cpu_count()} cores, load before and after: {os.getloadavg()}\n")
    sys.exit(any(run["wrong"] for found in runs.values() for run in found))


if __name__ == "__main__":
    main()
