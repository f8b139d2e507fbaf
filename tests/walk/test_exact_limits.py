"""A limit of 10 is exactly 10: with two gateways on one store, and over `kill -9`."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from fakes.agents import gateway_in
from fakes.front import ACCEPT, modern_request
from fakes.gateway_process import GatewayProcess

pytestmark = pytest.mark.slow

COUNTING = Path(__file__).parents[1] / "fakes/counting_stdio.py"
SERVERS = f"""
[servers.a]
command = [{sys.executable!r}, "-S", "-E", {str(COUNTING)!r}, "calls.log", "tools-only"]
"""
POLICY = """
[agents.agent]
tasks = ["work"]
default_task = "work"

[[tasks.work.grant]]
tools = ["a/open"]
limit = { calls = 10, per = "1h" }
"""
FILES = {"servers.toml": SERVERS, "policies/agents.toml": POLICY}


def reached(folder: Path) -> int:
    """How many calls the upstreams got."""
    lines = (folder / "calls.log").read_text().splitlines()
    return sum(json.loads(line).get("method") == "tools/call" for line in lines)


async def calls(gateways: list[GatewayProcess], count: int) -> Counter[str]:
    """So many calls at once, spread over the gateways: what became of them."""
    found: Counter[str] = Counter()
    headers = gateways[0].headers("agent")
    limits = httpx2.Limits(max_connections=count)

    async def one(http: httpx2.AsyncClient, number: int) -> None:
        message, named = modern_request("tools/call", {"name": "a__open", "arguments": {}})
        lines = {name.replace("_", "-"): value for name, value in named.items()}
        try:
            url = gateways[number % len(gateways)].url
            answer = await http.post(url, json=message, headers={**lines, "accept": ACCEPT})
        except httpx2.HTTPError:
            found["lost"] += 1
        else:
            found["refused" if answer.json()["result"].get("isError") else "ok"] += 1

    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, limits=limits) as http,
        anyio.create_task_group() as tasks,
    ):
        for number in range(count):
            tasks.start_soon(one, http, number)
    return found


async def test_64_calls_over_two_gateways_on_one_store_are_exactly_10(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(gateway_in(tmp_path, FILES)) for _ in range(2)]
        assert await calls(gateways, 64) == {"ok": 10, "refused": 54}
        assert reached(tmp_path) == 10


async def test_a_gateway_killed_in_the_middle_lets_no_eleventh_call_through(tmp_path: Path) -> None:
    async with gateway_in(tmp_path, FILES) as gateway:
        found: dict[str, Any] = {}

        async def load() -> None:
            found.update(await calls([gateway], 64))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load)
            with anyio.fail_after(30):
                while reached(tmp_path) < 3:
                    await anyio.sleep(0.001)
            os.kill(gateway.process.pid, signal.SIGKILL)
        gateway.process.communicate()
    before = reached(tmp_path)
    async with gateway_in(tmp_path, FILES) as gateway:
        rest = await calls([gateway], 64)
        rows = [json.loads(line) for line in gateway.run("log", "--json", "--limit", "1000").stdout.splitlines()]
    allowed = sum(row["decision"] == "allowed" for row in rows)
    assert before <= reached(tmp_path) <= 10
    assert reached(tmp_path) == before + rest["ok"]
    # What was reserved and not written down when the process died stays reserved: never an eleventh.
    assert allowed <= 10
