"""Five real programs start what `connect` wrote into a client's file, and share one gateway: each lists and calls."""

import json
import os
import shlex
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mcp import Client, StdioServerParameters

from fakes.gateway_process import run_command, write_files
from fakes.node import node_binary, node_modules, npm_command, requires_node
from walk.test_clients import ARGUMENTS, POLICY, SERVERS, TOOL, assert_is_the_time, fastmcp

pytestmark = pytest.mark.slow

FILES = {
    "cursor": ".cursor/mcp.json",
    "vscode": ".config/Code/User/mcp.json",
    "codex": ".codex/config.toml",
    "goose": ".config/goose/config.yaml",
    "gemini": ".gemini/settings.json",
}

LANGCHAIN = "MCP_GATEWAY_TEST_LANGCHAIN"
"""The Python of an environment with langchain-mcp-adapters; without it the test makes one."""

LANGCHAIN_AGENT = """
import asyncio, json, sys
from langchain_mcp_adapters.client import MultiServerMCPClient

async def main(command, *args):
    client = MultiServerMCPClient({"gateway": {"transport": "stdio", "command": command, "args": list(args)}})
    tools = await client.get_tools()
    said = await tools[0].ainvoke({"timezone": "UTC"})
    print(json.dumps({"tools": [tool.name for tool in tools], "said": str(said)}))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home in which five programs are connected; the gateway that the first one starts is stopped at the end."""
    folder = tmp_path_factory.mktemp("connected")
    write_files(folder, {"servers.toml": SERVERS, "policies/agents.toml": POLICY})
    for client in FILES:
        connect(folder, client)
    yield folder
    run_command(folder, "stop", check=False)


def connect(home: Path, client: str) -> None:
    words = [sys.executable, "-m", "mcp_gateway", "connect", client, "--agent", "reader", "--yes"]
    subprocess.run(words, cwd=home, env=environ(home), check=True, capture_output=True)


def environ(home: Path) -> dict[str, str]:
    found = {**os.environ, "HOME": str(home), "NO_COLOR": "1"}
    for name in ("MCP_GATEWAY_ALONE", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "CODEX_HOME"):
        found.pop(name, None)
    return found


def entry(home: Path, client: str) -> list[str]:
    """The command that the program's file says, read as that program reads it."""
    text = (home / FILES[client]).read_text(encoding="utf-8")
    if client == "codex":
        found = tomllib.loads(text)["mcp_servers"]["gateway"]
    elif client == "goose":
        found = yaml.safe_load(text)["extensions"]["gateway"]
    else:
        document = json.loads(text)
        found = document["servers" if client == "vscode" else "mcpServers"]["gateway"]
    return [found.get("command") or found["cmd"], *found["args"]]


def told(home: Path, command: list[str]) -> Any:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ(home), cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@requires_node
def test_the_inspector_reads_the_file_itself(home: Path) -> None:
    inspector = npm_command("@modelcontextprotocol/inspector", "--cli", "--config", str(home / FILES["cursor"]))
    inspector += ["--server", "gateway"]
    assert [tool["name"] for tool in told(home, [*inspector, "--method", "tools/list"])["tools"]] == [TOOL]
    call = ["--method", "tools/call", "--tool-name", TOOL, "--tool-arg", "timezone=UTC"]
    assert_is_the_time(told(home, [*inspector, *call]))


@requires_node
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_typescript_client_starts_the_entry(home: Path, era: str) -> None:
    script = Path(__file__).with_name("agent.mjs")
    where = ["stdio", json.dumps(entry(home, "vscode"))]
    words = [node_binary(), script, node_modules(), era, *where, TOOL, json.dumps(ARGUMENTS)]
    seen = told(home, [str(word) for word in words])
    assert seen["tools"] == [TOOL]
    assert_is_the_time(seen["result"])


def test_fastmcp_starts_the_entry(home: Path, tmp_path: Path) -> None:
    program, command = fastmcp(tmp_path), shlex.join(entry(home, "codex"))
    listed = told(home, [program, "list", "--command", command, "--json"])
    assert [tool["name"] for tool in listed["tools"]] == [TOOL]
    call = [program, "call", "--command", command, "--target", TOOL, "--input-json", json.dumps(ARGUMENTS), "--json"]
    assert_is_the_time(told(home, call))


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
async def test_the_python_sdk_starts_the_entry(home: Path, era: str) -> None:
    command = entry(home, "goose")
    server = StdioServerParameters(command=command[0], args=command[1:], cwd=home, env=environ(home))
    async with Client(server, mode=era) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == [TOOL]
        assert not (await client.call_tool(TOOL, ARGUMENTS)).is_error


def langchain_python(folder: Path) -> str:
    """In an environment of its own: it pins an MCP SDK that the gateway does not use."""
    if os.environ.get(LANGCHAIN):
        return os.environ[LANGCHAIN]
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv/bin/python")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "langchain-mcp-adapters>=0.3,<1"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        pytest.skip(f"langchain-mcp-adapters cannot be installed: {done.stderr[-300:]}")
    return python


def test_langchain_s_adapters_start_the_entry(home: Path, tmp_path: Path) -> None:
    seen = told(home, [langchain_python(tmp_path), "-c", LANGCHAIN_AGENT, *entry(home, "gemini")])
    assert seen["tools"] == [TOOL]
    assert "UTC" in seen["said"]


def test_they_all_came_to_one_gateway_as_the_agent_of_their_entry(home: Path) -> None:
    rows = [json.loads(line) for line in run_command(home, "log", "--json", "--limit", "1000").stdout.splitlines()]
    assert {(row["agent"], row["identity_strength"]) for row in rows} == {("reader", "stdio")}
    status = json.loads(run_command(home, "status", "--json").stdout)
    assert status["gateway"]["running"]
    assert [upstream["state"] for upstream in status["upstreams"]] == ["ready"]
