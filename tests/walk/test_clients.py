"""Agents' programs other than the Python SDK: MCP Inspector, the TypeScript client, FastMCP; each lists and calls."""

import json
import os
import shlex
import subprocess
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.gateway_process import MCP_GATEWAY, GatewayProcess, serving
from fakes.node import node_binary, node_modules, npm_command, requires_node

pytestmark = pytest.mark.slow

SERVERS = '[servers.time]\ncommand = ["mcp-server-time", "--local-timezone", "UTC"]\n'

POLICY = """
[agents.reader]
tasks = ["look"]
default_task = "look"

[tasks.look]
allow = ["time/get_current_time"]
"""

TOOL = "time__get_current_time"
ARGUMENTS = {"timezone": "UTC"}

VERSIONS = {"legacy": "2025-11-25", "modern": "2026-07-28"}

FASTMCP = "MCP_GATEWAY_TEST_FASTMCP"
"""Where FastMCP is installed already (the path of its program); without it the test installs it."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    files = {"servers.toml": SERVERS, "policies/agents.toml": POLICY}
    with serving(tmp_path_factory.mktemp("clients"), files) as running:
        yield running


def key_of(gateway: GatewayProcess) -> str:
    return gateway.headers("reader")["Authorization"].removeprefix("Bearer ")


def stdio(gateway: GatewayProcess) -> list[str]:
    return [*MCP_GATEWAY, "stdio", "--agent", "reader", "--config", str(gateway.config)]


def told(command: list[str], folder: Path) -> Any:
    """What a program prints, as JSON. It keeps what it remembers in a folder of the test's."""
    environ = {**os.environ, "HOME": str(folder), "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environ, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def assert_is_the_time(result: Any) -> None:
    assert json.loads(result["content"][0]["text"])["timezone"] == "UTC"
    assert not result.get("isError", False)


def eras_in_the_audit(gateway: GatewayProcess, client: str) -> set[str]:
    """Legacy agents have sessions; modern ones have none."""
    rows = map(json.loads, gateway.run("log", "--json", "--limit", "1000").stdout.splitlines())
    ours = [row for row in rows if client in (row["client"] or "")]
    assert ours
    return {"legacy" if row["session"] else "modern" for row in ours}


@requires_node
@pytest.mark.parametrize("era", VERSIONS)
def test_the_inspector_over_http(gateway: GatewayProcess, tmp_path: Path, era: str) -> None:
    inspector = npm_command("@modelcontextprotocol/inspector", "--cli", gateway.url, "--transport", "http")
    inspector += ["--header", f"Authorization: Bearer {key_of(gateway)}", "--protocol-era", era]
    tools = told([*inspector, "--method", "tools/list"], tmp_path)["tools"]
    assert [tool["name"] for tool in tools] == [TOOL]
    call = ["--method", "tools/call", "--tool-name", TOOL, "--tool-arg", "timezone=UTC"]
    assert_is_the_time(told([*inspector, *call], tmp_path))
    assert era in eras_in_the_audit(gateway, "inspector")


@requires_node
@pytest.mark.parametrize("era", VERSIONS)
def test_the_inspector_over_stdio(gateway: GatewayProcess, tmp_path: Path, era: str) -> None:
    inspector = npm_command("@modelcontextprotocol/inspector", "--cli", "--protocol-era", era)
    tools = told([*inspector, "--method", "tools/list", "--", *stdio(gateway)], tmp_path)["tools"]
    assert [tool["name"] for tool in tools] == [TOOL]
    call = ["--method", "tools/call", "--tool-name", TOOL, "--tool-arg", "timezone=UTC", "--", *stdio(gateway)]
    assert_is_the_time(told([*inspector, *call], tmp_path))


@requires_node
@pytest.mark.parametrize("era", VERSIONS)
@pytest.mark.parametrize("door", ["http", "stdio"])
def test_the_typescript_client(gateway: GatewayProcess, tmp_path: Path, era: str, door: str) -> None:
    where = [gateway.url, key_of(gateway)] if door == "http" else ["stdio", json.dumps(stdio(gateway))]
    script = Path(__file__).with_name("agent.mjs")
    words = [node_binary(), script, node_modules(), era, *where, TOOL, json.dumps(ARGUMENTS)]
    seen = told([str(word) for word in words], tmp_path)
    assert (seen["version"], seen["tools"]) == (VERSIONS[era], [TOOL])
    assert_is_the_time(seen["result"])


def fastmcp(folder: Path) -> str:
    """FastMCP's program, in an environment of its own: it pins what the gateway does not."""
    if os.environ.get(FASTMCP):
        return os.environ[FASTMCP]
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / "bin"
    install = [str(programs / "pip"), "install", "--quiet", "--disable-pip-version-check", "fastmcp>=4.1,<5"]
    done = subprocess.run(install, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        pytest.skip(f"fastmcp cannot be installed: {done.stderr[-300:]}")
    return str(programs / "fastmcp")


def test_fastmcp_over_http_and_stdio(gateway: GatewayProcess, tmp_path: Path) -> None:
    program = fastmcp(tmp_path)
    ways = {
        "http": [gateway.url, "--transport", "http", "--auth", key_of(gateway)],
        "stdio": ["--command", shlex.join(stdio(gateway))],
    }
    for door, way in ways.items():
        listed = told([program, "list", *way, "--json"], tmp_path)
        assert [tool["name"] for tool in listed["tools"]] == [TOOL]
        target = [way[0], TOOL, *way[1:]] if door == "http" else [*way, "--target", TOOL]
        assert_is_the_time(told([program, "call", *target, "--input-json", json.dumps(ARGUMENTS), "--json"], tmp_path))
