"""`kill -9` under load: what was acknowledged is in the audit, what was under way is `unknown`, the chain is whole."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest

from fakes.agents import gateway_in
from fakes.front import ACCEPT, modern_request
from fakes.gateway_process import GatewayProcess, run_command
from fakes.in_process import server_table
from fakes.waiting import until

pytestmark = pytest.mark.slow

POLICY = """
[agents.agent]
tasks = ["everything"]
default_task = "everything"

[tasks.everything]
allow = ["files/*"]
"""

FILES = {"servers.toml": server_table("files", "lists-all"), "policies/agents.toml": POLICY}

AGENTS = 8
ENOUGH = 200


async def call(http: httpx2.AsyncClient, url: str, tool: str, number: int) -> httpx2.Response:
    message, named = modern_request("tools/call", {"name": f"files__{tool}", "arguments": {"number": number}})
    headers = {name.replace("_", "-"): value for name, value in named.items()}
    return await http.post(url, json=message, headers={**headers, "accept": ACCEPT})


async def load_until_killed(gateway: GatewayProcess) -> tuple[set[int], set[int]]:
    """Numbers of the calls that were sent, and of those that were answered, while the gateway was killed."""
    sent: set[int] = set()
    acknowledged: set[int] = set()

    async def work(http: httpx2.AsyncClient, first: int) -> None:
        for number in range(first, 1_000_000, AGENTS):
            sent.add(number)
            try:
                answer = await call(http, gateway.url, "never" if number < AGENTS // 2 else "echo", number)
            except httpx2.HTTPError:
                return
            assert json.loads(answer.json()["result"]["content"][0]["text"]) == {"number": number}
            acknowledged.add(number)

    headers = gateway.headers("agent")
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http, anyio.create_task_group() as tasks:
        for first in range(AGENTS):
            tasks.start_soon(work, http, first)
        await until(lambda: len(acknowledged) >= ENOUGH, within_s=30)
        os.kill(gateway.process.pid, signal.SIGKILL)
    return sent, acknowledged


def calls_by_number(folder: Path) -> dict[int, dict[str, Any]]:
    rows = map(json.loads, run_command(folder, "log", "--json", "--limit", "100000").stdout.splitlines())
    return {json.loads(row["args"])["number"]: row for row in rows}


async def test_after_kill_9_no_acknowledged_call_is_missing_and_none_is_open(tmp_path: Path) -> None:
    async with gateway_in(tmp_path, FILES) as gateway:
        children = psutil.Process(gateway.process.pid).children()
        sent, acknowledged = await load_until_killed(gateway)
        gateway.process.communicate()
        await until(lambda: not any(child.is_running() for child in children))
    assert run_command(tmp_path, "audit", "verify").returncode == 0
    found = calls_by_number(tmp_path)
    assert acknowledged <= set(found) <= sent
    assert {found[number]["outcome"] for number in acknowledged} == {"ok"}

    async with gateway_in(tmp_path, FILES) as gateway:
        assert gateway.run("audit", "verify").returncode == 0
    found = calls_by_number(tmp_path)
    assert {row["outcome"] for row in found.values()} == {"ok", "unknown"}
    assert {found[number]["outcome"] for number in range(AGENTS // 2)} == {"unknown"}
    assert {found[number]["outcome"] for number in acknowledged} == {"ok"}
    assert run_command(tmp_path, "audit", "verify").returncode == 0
