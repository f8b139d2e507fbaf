"""What the gateway adds to a model call: `python benchmarks/model_relay.py` (from the repository's root).

A provider, the gateway and this client are three processes. Direct calls and calls through the gateway take turns, so
that whatever else the machine does meets both; only the difference means anything. The provider answers at once: what
is measured is the relay, with identity, policy, a budget and two audit commits for each call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

PROVIDER = """
import asyncio, sys
from fakes.providers import provider
async def main():
    async with provider() as fake:
        fake.deltas = int(sys.argv[1])
        print(fake.port, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""

POLICY = """
[agents.bench]
tasks = ["work"]
default_task = "work"
[tasks.work.models]
allow = ["gpt-5-mini"]
[budgets.all]
per = "1d"
tokens = 1_000_000_000_000
by = ["agent"]
"""


class Client:
    """One connection, and as little else as there can be."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def ask(self, *, stream: bool) -> tuple[float, int]:
        """Seconds, and events of a stream."""
        body = json.dumps({"model": "gpt-5-mini", "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\nauthorization: Bearer {self._key}"
            f"\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        )
        began = time.perf_counter()
        self._writer.write(head.encode())
        events = await self._answer()
        return time.perf_counter() - began, events

    async def _answer(self) -> int:
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise SystemExit(head.decode())
        if b"content-length: " in head:
            await self._reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            return 0
        events = 0
        while size := int((await self._reader.readline()).strip(), 16):
            events += (await self._reader.readexactly(size + 2)).count(b"data: ")
        await self._reader.readline()
        return events

    def close(self) -> None:
        self._writer.close()


async def compare(
    direct: Client, through: Client, *, stream: bool, rounds: int
) -> tuple[list[float], list[float], int]:
    times: tuple[list[float], list[float]] = ([], [])
    events = 0
    for turn in range(rounds + rounds // 10):
        for client, taken in zip((direct, through), times, strict=True):
            seconds, events = await client.ask(stream=stream)
            if turn >= rounds // 10:  # the first tenth warms up
                taken.append(seconds)
    return *times, events


async def measure(provider_port: int, gateway_port: int, key: str, pid: int, arguments: argparse.Namespace) -> None:
    direct, through = Client(provider_port, key), Client(gateway_port, key)
    await direct.connect()
    await through.connect()
    process = psutil.Process(pid)
    began = sum(process.cpu_times()[:2])
    plain, relayed, _ = await compare(direct, through, stream=False, rounds=arguments.calls)
    cpu_ms = (sum(process.cpu_times()[:2]) - began) / (arguments.calls * 1.1) * 1000
    p50 = [statistics.median(times) * 1000 for times in (plain, relayed)]
    print(
        f"JSON answer       p50 direct {p50[0]:.3f} ms, through {p50[1]:.3f} ms: +{p50[1] - p50[0]:.3f} ms; CPU {cpu_ms:.2f} ms"
    )
    plain, relayed, events = await compare(direct, through, stream=True, rounds=arguments.streams)
    per_event = [statistics.median(times) / events * 1e6 for times in (plain, relayed)]
    added = per_event[1] - per_event[0]
    print(f"streamed event    direct {per_event[0]:.1f} us, through {per_event[1]:.1f} us: +{added:.1f} us ({events})")
    before = process.memory_info().rss
    many = [Client(gateway_port, key) for _ in range(arguments.at_once)]
    await asyncio.gather(*(client.connect() for client in many))
    peak, asking = before, asyncio.gather(*(client.ask(stream=True) for client in many))
    while not asking.done():
        peak = max(peak, process.memory_info().rss)
        await asyncio.sleep(0.05)
    mib = 1024 * 1024
    print(f"{arguments.at_once} streams at once  RSS {before / mib:.0f} MiB before, {peak / mib:.0f} MiB at most")
    for client in (direct, through, *many):
        client.close()


@contextmanager
def running(command: list[str], env: dict[str, str], folder: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block, however that ends."""
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--words", type=int, default=100, help="how often a stream says its five words")
    parser.add_argument("--at-once", type=int, default=200)
    arguments = parser.parse_args()
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        provider_command = [sys.executable, "-c", PROVIDER, str(arguments.words)]
        with running(provider_command, env) as provider:
            provider_port = int(provider.stdout.readline())  # type: ignore[union-attr]
            (folder / "policies").mkdir()
            (folder / "policies" / "all.toml").write_text(POLICY)
            url = f"http://127.0.0.1:{provider_port}/v1"
            (folder / "servers.toml").write_text(f'[models.fake]\nurl = "{url}"\nmodels = ["gpt-5-mini"]\n')
            command = [sys.executable, "-m", "mcp_gateway"]
            made = subprocess.run(
                [*command, "key", "create", "bench", "--json"], cwd=folder, env=env, capture_output=True
            )
            key = json.loads(made.stdout)["key"]
            with running([*command, "serve", "--json", "--listen", "127.0.0.1:0"], env, folder) as gateway:
                said = json.loads(gateway.stdout.readline())  # type: ignore[union-attr]
                gateway.stdout.readline()  # type: ignore[union-attr]
                port = int(said["url"].split(":")[2].split("/")[0])
                asyncio.run(measure(provider_port, port, key, gateway.pid, arguments))


if __name__ == "__main__":
    main()
