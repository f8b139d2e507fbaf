"""A real agent client, a real gateway process, real upstreams: the main job from end to end."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from fakes.gateway_process import GatewayProcess, serving

SERVERS = """
[servers.time]
command = ["mcp-server-time", "--local-timezone", "UTC"]

[servers.git]
command = ["mcp-server-git", "--repository", "repo"]
"""

POLICY = """
[agents.reader]
tasks = ["read"]
default_task = "read"

[agents.writer]
tasks = ["read", "write"]
default_task = "read"

[tasks.read]
allow = ["time/*", "git/git_log", "git/git_status"]

[[tasks.read.deny]]
tools = ["time/convert_time"]
when = 'args.source_timezone == "Europe/Berlin"'

[tasks.write]
allow = ["git/*"]
"""

ERAS = ["legacy", "2026-07-28"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("walk")
    repository(folder / "repo")
    with serving(folder, {"servers.toml": SERVERS, "policies/agents.toml": POLICY}) as running:
        yield running


def repository(path: Path) -> None:
    path.mkdir()
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.test"]
        subprocess.run(["git", *identity, *words], cwd=path, check=True)


@asynccontextmanager
async def client_of(gateway: GatewayProcess, agent: str, era: str, path: str = "") -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(headers=gateway.headers(agent), timeout=30) as http:
        transport = streamable_http_client(gateway.url + path, http_client=http)
        async with Client(transport, mode=era) as client:
            yield client


@pytest.mark.parametrize("era", ERAS)
async def test_an_agent_sees_what_its_task_allows_and_nothing_else(gateway: GatewayProcess, era: str) -> None:
    async with client_of(gateway, "reader", era) as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
    assert listed == {"git__git_log", "git__git_status", "time__convert_time", "time__get_current_time"}


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_reaches_a_real_server_and_comes_back(gateway: GatewayProcess, era: str) -> None:
    async with client_of(gateway, "reader", era) as client:
        result = await client.call_tool("time__get_current_time", {"timezone": "UTC"})
    assert not result.is_error
    assert "UTC" in str(result.content)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("name", ["git__git_commit", "git__no_such_tool", "nothing"])
async def test_a_denied_tool_and_an_unknown_one_read_the_same(gateway: GatewayProcess, era: str, name: str) -> None:
    async with client_of(gateway, "reader", era) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool(name, {})
    assert (refused.value.error.code, refused.value.error.message) == (-32602, f"Unknown tool: {name}")


@pytest.mark.parametrize("era", ERAS)
async def test_a_condition_on_arguments_decides_the_call(gateway: GatewayProcess, era: str) -> None:
    arguments = {"source_timezone": "Europe/Berlin", "time": "12:00", "target_timezone": "UTC"}
    async with client_of(gateway, "reader", era) as client:
        with pytest.raises(MCPError):
            await client.call_tool("time__convert_time", arguments)
        other = await client.call_tool("time__convert_time", {**arguments, "source_timezone": "Europe/Paris"})
    assert not other.is_error


@pytest.mark.parametrize("era", ERAS)
async def test_arguments_the_schema_refuses_come_back_as_a_tool_error(gateway: GatewayProcess, era: str) -> None:
    async with client_of(gateway, "reader", era) as client:
        result = await client.call_tool("time__get_current_time", {"timezone": 7})
    assert result.is_error
    assert "timezone" in str(result.content)


@pytest.mark.parametrize("era", ERAS)
async def test_the_endpoint_chooses_the_task(gateway: GatewayProcess, era: str) -> None:
    async with client_of(gateway, "writer", era, "/write") as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
    assert "git__git_commit" in listed
    assert "time__get_current_time" not in listed


async def test_a_task_the_agent_does_not_have_is_not_found(gateway: GatewayProcess) -> None:
    async with httpx2.AsyncClient(headers=gateway.headers("reader")) as http:
        answer = await http.post(f"{gateway.url}/write", json={})
    assert answer.status_code == 404


@pytest.mark.parametrize("era", ERAS)
async def test_the_same_agent_over_stdio(gateway: GatewayProcess, era: str) -> None:
    command = [sys.executable, "-m", "mcp_gateway", "stdio", "--agent", "reader", "--config", str(gateway.config)]
    server = StdioServerParameters(command=command[0], args=command[1:], cwd=gateway.folder, env=dict(os.environ))
    async with Client(server, mode=era) as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        result = await client.call_tool("time__get_current_time", {"timezone": "UTC"})
    assert "git__git_log" in listed
    assert not result.is_error


async def test_a_revoked_key_opens_nothing_from_the_next_request_on(gateway: GatewayProcess) -> None:
    key = gateway.key("reader")
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as http:
        before = await http.post(gateway.url, json=body, headers={"Accept": "application/json, text/event-stream"})
        gateway.run("key", "revoke", key)
        after = await http.post(gateway.url, json=body, headers={"Accept": "application/json, text/event-stream"})
    assert before.status_code == 400  # known, but without a session
    assert after.status_code == 401


async def test_what_was_decided_and_what_came_back_is_in_the_audit(gateway: GatewayProcess) -> None:
    async with client_of(gateway, "reader", "2026-07-28") as client:
        await client.call_tool("git__git_status", {"repo_path": "repo"})
    with sqlite3.connect(f"file:{gateway.folder / 'audit.db'}?mode=ro", uri=True) as audit:
        row = audit.execute(
            "select agent, task, decision, outcome from calls where name = 'git_status' order by seq desc limit 1"
        ).fetchone()
    assert row == ("reader", "read", "allowed", "ok")


def test_the_audit_verifies(gateway: GatewayProcess) -> None:
    assert gateway.run("audit", "verify", check=False).returncode == 0


def test_why_names_the_line_that_decides(gateway: GatewayProcess) -> None:
    told = gateway.run("why", "reader", "git/git_commit", "--json", check=False)
    assert told.returncode == 1
    assert json.loads(told.stdout)["decision"]["reason"] == "no_grant"
