"""Real agents on started tasks: the token over both transports, and a person asked through either era."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types as types
import pytest
from anyio import to_thread
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from fakes.agents import ERAS, gateway_in, tools_of
from fakes.gateway_process import MCP_GATEWAY, GatewayProcess
from fakes.waiting import until

pytestmark = pytest.mark.slow

COUNTING = Path(__file__).parents[1] / "fakes/counting_stdio.py"
FILES = {
    "servers.toml": f"""
[gateway]
approval_wait_s = 30

[servers.a]
command = [{sys.executable!r}, "-S", "-E", {str(COUNTING)!r}, "calls.log", "tools-only"]
""",
    "policies/agents.toml": """
[agents.agent]
tasks = ["plain", "ticket"]
default_task = "plain"

[tasks.plain]
allow = ["a/open"]

[tasks.ticket]
ttl = "1h"
context = ["path"]

[[tasks.ticket.grant]]
tools = ["a/depends"]
when = "args.path == task.path"

[[tasks.ticket.grant]]
tools = ["a/rest"]
approval = "agent-side"

[[tasks.ticket.grant]]
tools = ["a/bobs"]
approval = "person"
""",
}


@asynccontextmanager
async def over_http(gateway: GatewayProcess, token: str, era: str, **options: Any) -> AsyncIterator[Client]:
    headers = {**await to_thread.run_sync(gateway.headers, "agent"), "Mcp-Gateway-Task": token}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        transport = streamable_http_client(gateway.url, http_client=http)
        async with Client(transport, mode=era, **options) as client:
            yield client


@asynccontextmanager
async def over_stdio(gateway: GatewayProcess, token: str, era: str, **options: Any) -> AsyncIterator[Client]:
    words = [*MCP_GATEWAY, "stdio", "--agent", "agent", "--config", str(gateway.config)]
    environ = {**os.environ, "MCP_GATEWAY_TASK_TOKEN": token}
    server = StdioServerParameters(command=words[0], args=words[1:], cwd=gateway.folder, env=environ)
    async with Client(server, mode=era, **options) as client:
        yield client


async def start(gateway: GatewayProcess) -> str:
    words = ("task", "start", "agent", "ticket", "--set", "path=a")
    return str((await to_thread.run_sync(gateway.run, *words)).stdout.strip())


async def test_a_started_task_is_carried_over_either_transport_in_either_era(tmp_path: Path) -> None:
    async with gateway_in(tmp_path, FILES) as gateway:
        token = await start(gateway)
        for era in ERAS:
            for way in (over_http, over_stdio):
                async with way(gateway, token, era) as client:
                    assert await tools_of(client) == {"a__depends", "a__rest", "a__bobs"}
                    assert not (await client.call_tool("a__depends", {"path": "a"})).is_error
                    with pytest.raises(MCPError, match="Unknown tool"):
                        await client.call_tool("a__depends", {"path": "b"})
        words = ("log", "--started", token.split("_")[1], "--tool", "a/*", "--json")
        rows = (await to_thread.run_sync(gateway.run, *words)).stdout.splitlines()
    assert [json.loads(row)["decision"] for row in rows] == ["allowed", "denied"] * 4


async def test_who_sits_at_the_agents_program_is_asked_in_either_era(tmp_path: Path) -> None:
    asked: list[str] = []

    async def approve(context: Any, params: Any) -> types.ElicitResult:
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"approve": True})

    async with gateway_in(tmp_path, FILES) as gateway:
        token = await start(gateway)
        for era in ERAS:
            for way in (over_http, over_stdio):
                async with way(gateway, token, era, elicitation_callback=approve) as client:
                    assert not (await client.call_tool("a__rest", {})).is_error
    assert asked == ["agent wants to use a/rest with {}. May it, this once?"] * 4


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_that_waits_goes_through_as_soon_as_a_person_says_so(tmp_path: Path, era: str) -> None:
    async with gateway_in(tmp_path, FILES) as gateway:
        token = await start(gateway)
        async with over_http(gateway, token, era) as client:
            answered = to_thread.run_sync(approve_what_waits, gateway)

            async def calls() -> None:
                assert not (await client.call_tool("a__bobs", {})).is_error

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(calls)
                await answered


def approve_what_waits(gateway: GatewayProcess) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        waiting = json.loads(gateway.run("approvals", "list", "--json").stdout)
        if waiting:
            gateway.run("approvals", "approve", waiting[0]["id"])
            return
    raise AssertionError("nothing waited")


async def test_a_stdio_gateway_ends_with_its_task(tmp_path: Path) -> None:
    async with gateway_in(tmp_path, FILES) as gateway:
        token = await start(gateway)
        environ = {**os.environ, "MCP_GATEWAY_TASK_TOKEN": token}
        words = [*MCP_GATEWAY, "stdio", "--agent", "agent", "--config", str(gateway.config)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(words, cwd=tmp_path, env=environ, **pipes) as process:
            await to_thread.run_sync(gateway.run, "task", "revoke", token.split("_")[1])
            await until(lambda: process.poll() is not None, within_s=30)
            assert process.stderr is not None
            assert b"is over" in process.stderr.read()
