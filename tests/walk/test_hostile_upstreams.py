"""Upstreams that flood, hang or die behind a real gateway: a clear error in time, and nobody else suffers."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import psutil
import pytest
from mcp import Client

from fakes.agents import ERAS, agent_over_http, gateway_in, is_healthy_when
from fakes.gateway_process import GatewayProcess, serving
from fakes.in_process import server_table
from fakes.raw_http import Asked, answering, discovers, http, result_for, stream_start

pytestmark = pytest.mark.slow

MIB = 1024 * 1024

POLICY = """
[agents.agent]
tasks = ["everything"]
default_task = "everything"

[tasks.everything]
allow = [%s]
"""

HABITS = {
    "giant_line": ("sent a line longer than", "unreachable"),
    "flood_stdout": ("no message", "unreachable"),
    "never": ("did not answer within 2 s", "timed_out"),
    "stop": ("did not answer within 2 s", "timed_out"),
    "die": ("exited with status 3", "unreachable"),
    "bad_utf8": ("not valid JSON", "misbehaved"),
}
"""What each hostile tool does (see fakes/hostile_stdio.py), what the agent is told of it, and what the audit keeps."""


def policy(*upstreams: str) -> str:
    return POLICY % ", ".join(f'"{name}/*"' for name in upstreams)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One hostile upstream for each habit, and a good one."""
    servers = "".join(server_table(name, "lists-all", timeout_s="2") for name in HABITS) + server_table("good")
    files = {"servers.toml": servers, "policies/agents.toml": policy(*HABITS, "good")}
    with serving(tmp_path_factory.mktemp("hostile"), files) as running:
        yield running


async def refusal_of(client: Client, tool: str, within_s: float) -> str:
    """What the model is told, and that it is told in time."""
    started_at = perf_counter()
    result = await client.call_tool(tool, {})
    assert perf_counter() - started_at < within_s
    assert result.is_error
    return str(result.content[0].text)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("tool", HABITS)
async def test_a_hostile_answer_is_a_clear_error_and_others_go_on(gateway: GatewayProcess, era: str, tool: str) -> None:
    process = psutil.Process(gateway.process.pid)
    async with agent_over_http(gateway, "agent", era) as client:
        await is_healthy_when(gateway, lambda health: health["upstreams"] == {"ready": len(HABITS) + 1})
        memory = process.memory_info().rss
        message = await refusal_of(client, f"{tool}__{tool}", 10)
        assert process.memory_info().rss - memory < 150 * MIB
        assert tool in message
        assert HABITS[tool][0] in message
        assert str(gateway.folder) not in message
        assert not (await client.call_tool("good__echo", {})).is_error


def test_how_each_of_them_ended_is_in_the_audit(gateway: GatewayProcess) -> None:
    rows = map(json.loads, gateway.run("log", "--json", "--limit", "500").stdout.splitlines())
    ended = {row["name"]: row["outcome"] for row in rows if row["kind"] == "call"}
    assert {name: ended.get(name) for name in HABITS} == {name: outcome for name, (_, outcome) in HABITS.items()}


async def _answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A modern server over HTTP: `flood` sends 100 MB, `drip` keeps a stream open with a byte now and then."""
    if (said := discovers({"tools": {}})(asked)) is not None:
        writer.write(said)
    elif asked.rpc_method == "tools/list":
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("flood", "drip", "well")]
        writer.write(result_for(asked, {"tools": tools, "resultType": "complete"}))
    elif asked.message["params"]["name"] == "flood":
        await _flood(asked, writer)
    elif asked.message["params"]["name"] == "drip":
        writer.write(stream_start())
        while True:
            writer.write(b": still here\n\n")
            await asyncio.sleep(0.1)
    elif asked.rpc_method == "tools/call":
        writer.write(result_for(asked, {"content": [{"type": "text", "text": "well"}], "resultType": "complete"}))
    else:
        writer.write(http(404))


async def _flood(asked: Asked, writer: asyncio.StreamWriter) -> None:
    head = json.dumps({"jsonrpc": "2.0", "id": asked.message["id"], "result": {"content": []}})[:-3]
    length = len(head) + 100 * MIB
    writer.write(f"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{head}".encode())
    for _ in range(100):
        writer.write(b" " * MIB)
        await writer.drain()


async def test_a_hundred_megabytes_and_a_stream_without_end_over_http_are_bounded(tmp_path: Path) -> None:
    async with answering(_answer) as web:
        servers = f'[servers.web]\nurl = "{web.url}"\ntransport = "http"\ntimeout_s = 2\n'
        files = {"servers.toml": servers, "policies/agents.toml": policy("web")}
        async with gateway_in(tmp_path, files) as gateway, agent_over_http(gateway, "agent", "2026-07-28") as client:
            process = psutil.Process(gateway.process.pid)
            memory = process.memory_info().rss
            assert "sent more than" in await refusal_of(client, "web__flood", 10)
            assert "did not answer within 2 s" in await refusal_of(client, "web__drip", 5)
            assert process.memory_info().rss - memory < 100 * MIB
            result = await client.call_tool("web__well", {})
            assert (result.is_error, result.content[0].text) == (False, "well")
