"""What the gateway costs, beside a plain nginx proxy and no hop at all, on the same work in one run.

    python benchmarks/side_by_side.py [--work modern,legacy,stdio,large] [--rounds 3] [--secs 2] [--alone]

The work is always `tools/call`: `modern` agents over HTTP to an upstream over HTTP; `legacy`: the same with agents of
the handshake era; `stdio`: the upstream is a child process; `large`: results of 80 KB. `direct` and `nginx` do what
`modern` does, whatever the work, but for the size of results.

Everything is on in the gateway: API key, policy, schema check, durable chained audit (what `mcp-gateway serve` does by
itself). The hop under test has core 0 for itself, upstream and load share core 1; every reply is checked. Rounds
are interleaved and medians taken. On a shared machine only ratios mean anything, and of those the CPU time a call costs
is the steadiest: upstream and load are Python here, so calls a second of `direct` and `nginx` are what *they* can do.
nginx and taskset are used if they are there. Loopback only.

`--alone` (needs the right to, and `chrt`): everything here runs at real-time priority, so that whatever else the
machine does takes no turns on its cores meanwhile. Otherwise a hop of two threads gets twice as many turns as one of
one thread, which says nothing of either.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httptools
import orjson
import uvloop

VERSION = "2026-07-28"
OLD_VERSION = "2025-11-25"
LARGE = 80_000
PRIORITY: list[str] = []
"""What every command runs under; see `--alone`."""
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
TOOL = {
    "name": "echo",
    "description": "Says what it was told.",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}
TOOLS = [TOOL]
NGINX = """worker_processes 1; daemon off; pid {d}/nginx.pid; error_log {d}/nginx.err;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f;
 uwsgi_temp_path {d}/u; scgi_temp_path {d}/s; keepalive_requests 100000000;
 upstream u {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}
 server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://u; proxy_http_version 1.1;
 proxy_set_header Connection ""; }} }} }}"""


# -- the upstream: a modern MCP server with one tool, as little as will do ---------------------------------------------


class Upstream(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        message = orjson.loads(body) if body else {}
        self.transport.write(http_answer(result_of(message), message.get("id")))


def result_of(message: Any) -> Any:
    params = message.get("params", {})
    if message.get("method") == "tools/call":
        padding = "x" * int(params["arguments"].get("pad", 0))
        return {"content": [{"type": "text", "text": params["arguments"]["text"] + padding}], "resultType": "complete"}
    if message.get("method") == "server/discover":
        return {"supportedVersions": [VERSION], "capabilities": {"tools": {}}, "resultType": "complete"}
    if message.get("method") == "tools/list":
        return {"tools": TOOLS, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    return None


def http_answer(result: Any, request_id: Any) -> bytes:
    if result is None:
        return b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
    body = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "result": result})
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def serve_upstream(port: int, tools: int) -> None:
    TOOLS.extend({**TOOL, "name": f"tool_{number}"} for number in range(1, tools))
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def serve_child() -> None:
    """The same upstream on the standard streams; what came together is answered together, or this would be measured."""
    rest = b""
    while chunk := os.read(0, 65536):
        *lines, rest = (rest + chunk).split(b"\n")
        asked = [message for message in map(orjson.loads, lines) if "id" in message]
        answers = [{"jsonrpc": "2.0", "id": each["id"], "result": result_of(each) or {}} for each in asked]
        sys.stdout.buffer.write(b"".join(orjson.dumps(answer) + b"\n" for answer in answers))
        sys.stdout.buffer.flush()


# -- the load: so many connections, each asking again as soon as it was answered ---------------------------------------


COMMON = (
    "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    "accept: application/json, text/event-stream\r\n"
)


class Asker(asyncio.Protocol):
    def __init__(self, number: int, ways: list[tuple[str, str]], session: str, pad: int, answered: list[float]) -> None:
        """`ways`: tools, and header lines to call them with, one way after the other; each asker begins elsewhere."""
        self.number, self.pad, self.answered = number, pad, answered
        self.meta = {} if session else {"_meta": META}
        self.heads = itertools.cycle([(tool, head_of(tool, headers, session)) for tool, headers in ways])
        for _ in range(number * 31 % len(ways)):
            next(self.heads)
        self.count, self.wrong, self.body = 0, 0, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpResponseParser(self)
        self.ask()

    def ask(self) -> None:
        self.count += 1
        self.text = f"{self.number}-{self.count}."
        arguments = {"text": self.text, **({"pad": self.pad} if self.pad else {})}
        self.id = self.number * 10**8 + self.count  # calls of one session have ids of their own
        tool, head = next(self.heads)
        params = {**self.meta, "name": tool, "arguments": arguments}
        body = orjson.dumps({"jsonrpc": "2.0", "id": self.id, "method": "tools/call", "params": params})
        self.asked_at = time.perf_counter()
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.answered.append(time.perf_counter() - self.asked_at)
        body, self.body = self.body, b""
        self.wrong += not self.is_right(body)
        self.ask()

    def is_right(self, body: bytes) -> bool:
        if self.parser.get_status_code() != 200:
            return False
        message = orjson.loads(body)
        text = message.get("result", {}).get("content", [{}])[0].get("text", "")
        return bool(message["id"] == self.id and text.startswith(self.text) and len(text) >= self.pad)


def head_of(tool: str, headers: str, session: str) -> str:
    """A request's header lines but its length."""
    modern = f"mcp-protocol-version: {VERSION}\r\nmcp-method: tools/call\r\nmcp-name: {tool}\r\n"
    legacy = f"mcp-protocol-version: {OLD_VERSION}\r\nmcp-session-id: {session}\r\n"
    return f"{COMMON}{legacy if session else modern}{headers}"


async def handshake(port: int, headers: str) -> str:
    """Open a session of the handshake era; its id."""
    info = {"name": "bench", "version": "1"}
    params = {"protocolVersion": OLD_VERSION, "capabilities": {}, "clientInfo": info}
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{COMMON}{headers}content-length: {len(body)}\r\n\r\n".encode() + body)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()
    return next(line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("mcp-session-id"))


async def load(
    port: int, ways: list[tuple[str, str]], is_legacy: bool, connections: int, secs: float, pad: int
) -> None:
    answered: list[float] = []
    loop = asyncio.get_running_loop()
    session = await handshake(port, ways[0][1]) if is_legacy else ""
    askers = [Asker(number, ways, session, pad, answered) for number in range(connections)]
    for asker in askers:
        await loop.create_connection(lambda asker=asker: asker, "127.0.0.1", port)
    await asyncio.sleep(0.5)
    answered.clear()
    began_at = time.perf_counter()
    await asyncio.sleep(secs)
    took_s, found = time.perf_counter() - began_at, sorted(answered)
    print(  # noqa: T201
        json.dumps(
            {
                "calls_s": len(found) / took_s,
                "p50_us": found[len(found) // 2] * 1e6 if found else 0,
                "p99_us": found[len(found) * 99 // 100] * 1e6 if found else 0,
                "calls": sum(asker.count for asker in askers),
                "wrong": sum(asker.wrong for asker in askers),
            }
        )
    )


# -- the run -----------------------------------------------------------------------------------------------------------


def pinned(core: int, *command: object) -> list[str]:
    core_alone = ["taskset", "-c", str(core)] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else []
    return [*PRIORITY, *core_alone, *map(str, command)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(command: list[str], port: int, cwd: Path) -> Iterator[int]:
    """A program that listens; its process id."""
    with (cwd / "output.log").open("ab") as log:
        program = subprocess.Popen(command, stdout=log, stderr=log, cwd=cwd, start_new_session=True)
    try:
        wait_for(port, program)
        yield program.pid
    finally:
        os.killpg(program.pid, signal.SIGTERM)
        program.wait(20)


def wait_for(port: int, program: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and program.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"did not come up: {program.args}")


def cpu_s(pid: int) -> float:
    """CPU time of a program and its children so far."""
    own = Path(f"/proc/{pid}/task")
    children = [int(child) for task in own.iterdir() for child in (task / "children").read_text().split()]
    spent = sum(int((task / "schedstat").read_text().split()[0]) for task in own.iterdir()) / 1e9
    return spent + sum(map(cpu_s, children))


@contextmanager
def gateway(folder: Path, upstream: int, port: int) -> Iterator[tuple[int, str]]:
    """A gateway as anybody would set it up; its process id and an API key."""
    (folder / "policies").mkdir(parents=True)
    child = pinned(1, sys.executable, Path(__file__).resolve(), "child")
    (folder / "servers.toml").write_text(
        f'[servers.fast]\nurl = "http://127.0.0.1:{upstream}/mcp"\ntransport = "http"\n\n'
        f"[servers.child]\ncommand = {json.dumps(child)}\n"
    )
    (folder / "policies" / "bench.toml").write_text(
        '[agents.bench]\ntasks = ["bench"]\ndefault_task = "bench"\n\n[tasks.bench]\nallow = ["fast/*", "child/*"]\n'
    )
    program = [sys.executable, "-m", "mcp_gateway"]
    made = subprocess.run([*program, "key", "create", "bench", "--json"], cwd=folder, capture_output=True, check=True)
    key = next(word for word in made.stdout.decode().replace('"', " ").split() if word.startswith("mgw_"))
    with started(pinned(0, *program, "serve", "--listen", f"127.0.0.1:{port}"), port, folder) as pid:
        yield pid, key


@dataclass(frozen=True)
class Hop:
    """Where the load goes, and how."""

    port: int
    tool: str
    headers: str = ""
    is_legacy: bool = False
    pid: int = 0
    others: tuple[tuple[str, str], ...] = ()
    """More tools, with header lines of their own: call after call another."""


def measured(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians by `work hop connections`."""
    upstream, me = free_port(), [sys.executable, __file__]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-")))
        stack.enter_context(started(pinned(1, *me, "upstream", upstream), upstream, folder))
        plain = {"direct": Hop(upstream, "echo")}
        if shutil.which("nginx"):
            port = free_port()
            (folder / "nginx.conf").write_text(NGINX.format(d=folder, upstream=upstream, port=port))
            pid = stack.enter_context(started(pinned(0, "nginx", "-c", folder / "nginx.conf"), port, folder))
            plain["nginx"] = Hop(port, "echo", pid=pid)
        port = free_port()
        pid, key = stack.enter_context(gateway(folder / "gateway", upstream, port))
        runs: dict[str, list[dict[str, float]]] = {}
        for tool in ("fast__echo", "child__echo"):  # until the start is over: a server's first second is not its life
            one_run(Hop(port, tool, f"authorization: Bearer {key}\r\n", pid=pid), 4, 1.0, 0)
        for _ in range(options.rounds):
            for work in options.work.split(","):
                tool = "child__echo" if work == "stdio" else "fast__echo"
                through = Hop(port, tool, f"authorization: Bearer {key}\r\n", work == "legacy", pid)
                for name, hop in {**plain, "gateway": through}.items():
                    for connections in map(int, options.connections.split(",")):
                        found = one_run(hop, connections, options.secs, LARGE if work == "large" else 0)
                        runs.setdefault(f"{work} {name} {connections}", []).append(found)
    return {name: {k: statistics.median(run[k] for run in found) for k in found[0]} for name, found in runs.items()}


def one_run(hop: Hop, connections: int, secs: float, pad: int) -> dict[str, float]:
    before = cpu_s(hop.pid) if hop.pid else 0.0
    told = [hop.port, [(hop.tool, hop.headers), *hop.others], hop.is_legacy, connections, secs, pad]
    command = pinned(1, sys.executable, __file__, "load")
    done = subprocess.run(
        command, input=json.dumps(told).encode(), stdout=subprocess.PIPE, check=True, timeout=secs + 60
    )
    found = json.loads(done.stdout)
    found["cpu_us"] = ((cpu_s(hop.pid) if hop.pid else 0.0) - before) / max(found["calls"], 1) * 1e6
    return dict(found)


def report(medians: dict[str, dict[str, float]], options: argparse.Namespace) -> str:
    lines = [
        "| work, hop, connections | calls/s | of direct | of nginx | p50 us | p99 us | added p50 us "
        "| CPU us a call | CPU of nginx | wrong |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, run in medians.items():
        work, _, connections = name.split()
        nginx, direct = medians.get(f"{work} nginx {connections}"), medians[f"{work} direct {connections}"]
        cpu = f"{run['cpu_us'] / nginx['cpu_us']:.1f}" if nginx and nginx["cpu_us"] and run["cpu_us"] else "-"
        speed = f"{run['calls_s'] / nginx['calls_s']:.2f}" if nginx else "-"
        lines.append(
            f"| {name} | {run['calls_s']:.0f} | {run['calls_s'] / direct['calls_s']:.2f} | {speed} "
            f"| {run['p50_us']:.0f} | {run['p99_us']:.0f} "
            f"| {run['p50_us'] - direct['p50_us']:.0f} | {run['cpu_us']:.0f} | {cpu} | {run['wrong']:.0f} |"
        )
    how = ", at real-time priority (`--alone`)" if options.alone else ""
    return "\n".join([*lines, "", f"Medians of {options.rounds} rounds of {options.secs:g} s{how}."])


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default="modern,legacy,stdio,large")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--secs", type=float, default=2.0)
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--alone", action="store_true", help="real-time priority: nothing else runs meanwhile")
    options = parser.parse_args()
    if options.alone:
        PRIORITY[:] = ["chrt", "--fifo", "5"]
    medians = measured(options)
    print(report(medians, options))  # noqa: T201
    sys.exit(any(run["wrong"] for run in medians.values()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["upstream"]:
        uvloop.run(serve_upstream(int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1))
    elif sys.argv[1:2] == ["load"]:
        uvloop.run(load(*json.load(sys.stdin)))
    elif sys.argv[1:2] == ["child"]:
        serve_child()
    else:
        main()
