"""Every way to reach an upstream, behind one gateway, seen from both eras."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client

from fakes import sdk_server
from fakes.agents import ERAS, agent_over_http, gateway_in, tools_of
from fakes.gateway_process import GatewayProcess
from fakes.in_process import server_table
from fakes.served import serving

pytestmark = pytest.mark.slow

TRANSPORTS = ["stdio_modern", "stdio_legacy", "http_modern", "http_legacy", "sse"]

POLICY = """
[agents.agent]
tasks = ["everything"]
default_task = "everything"

[tasks.everything]
allow = [
    "*/*",
]
"""


@asynccontextmanager
async def all_kinds(folder: Path) -> AsyncIterator[GatewayProcess]:
    async with AsyncExitStack() as stack:
        modern = await stack.enter_async_context(serving(sdk_server.fresh_app()))
        legacy = await stack.enter_async_context(serving(sdk_server.LegacyOnly(sdk_server.fresh_app())))
        sse = await stack.enter_async_context(serving(sdk_server.server.sse_app()))
        program = [sys.executable, "-W", "ignore", sdk_server.__file__]
        servers = f"""
[servers.stdio_modern]
command = {program!r}
{server_table("stdio_legacy")}
[servers.http_modern]
url = "{modern}/mcp"
[servers.http_legacy]
url = "{legacy}/mcp"
[servers.sse]
url = "{sse}/sse"
"""
        allow = "".join(f'    "{kind}/*", "prompt:{kind}/*", "resource:{kind}/**",\n' for kind in TRANSPORTS)
        policy = POLICY.replace('    "*/*",\n', allow)
        files = {"servers.toml": servers, "policies/agents.toml": policy}
        yield await stack.enter_async_context(gateway_in(folder, files))


async def called(client: Client, kind: str) -> str:
    result = await client.call_tool(f"{kind}__echo", {"text": f"to {kind}"})
    return str(result.content[0].text)


@pytest.mark.parametrize("era", ERAS)
async def test_each_kind_of_upstream_lists_and_answers(tmp_path: Path, era: str) -> None:
    async with all_kinds(tmp_path) as gateway, agent_over_http(gateway, "agent", era) as client:
        names = await tools_of(client)
        assert {f"{kind}__echo" for kind in TRANSPORTS} <= names
        answers = {kind: await called(client, kind) for kind in TRANSPORTS}
        assert answers.pop("stdio_legacy") == json.dumps({"text": "to stdio_legacy"})
        assert answers == {kind: f"to {kind}" for kind in answers}
        for kind in answers:
            await a_prompt_a_resource_and_progress(client, kind)


async def a_prompt_a_resource_and_progress(client: Client, kind: str) -> None:
    prompt = await client.get_prompt(f"{kind}__greeting", {"name": "you"})
    assert prompt.messages[0].content.text == "Hello you"
    steps: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    counted = await client.call_tool(f"{kind}__count", {"to": 3}, progress_callback=note)
    assert (counted.content[0].text, steps) == ("3", [1, 2, 3])
