"""An agent that uses everything it is offered, through a gateway whose one upstream is the URL it was given.

    conformance client --command "python conformance_agent.py" --scenario tools_call --spec-version 2026-07-28

The official suite runs it so, and puts the revision and what some scenarios want called into the environment. What
arrives at the suite's server is then the gateway's doing: the agent speaks the revision's era on stdio, and knows no
scenario by name.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPDeprecationWarning

Json = dict[str, Any]

POLICY = """
[agents.conformance]
tasks = ["everything"]
default_task = "everything"

[tasks.everything]
allow = ["suite/*", "prompt:suite/*", "resource:suite/**"]
"""

PLAUSIBLE: Json = {"string": "x", "number": 1, "integer": 1, "boolean": True, "array": [], "object": {}}


async def main(url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        gateway = gateway_before(url, Path(folder))
        is_modern = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"] >= "2026"
        async with Client(gateway, mode="2026-07-28" if is_modern else "legacy", elicitation_callback=accept) as agent:
            await use_everything(agent)


def gateway_before(url: str, folder: Path) -> StdioServerParameters:
    """How to start a gateway with one upstream."""
    (folder / "policies").mkdir()
    (folder / "policies" / "agents.toml").write_text(POLICY)
    (folder / "servers.toml").write_text(f'[servers.suite]\nurl = "{url}"\nprefix = ""\n')
    command = ["-m", "mcp_gateway", "stdio", "--agent", "conformance"]
    return StdioServerParameters(command=sys.executable, args=command, cwd=folder, env=dict(os.environ))


async def use_everything(agent: Client) -> None:
    """Call each tool, read each resource, get each prompt; a scenario may say which calls it wants instead."""
    tools = (await agent.list_tools()).tools
    wanted = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}")).get("toolCalls")
    for call in wanted or [{"name": tool.name, "arguments": arguments_for(tool, tools)} for tool in tools]:
        await agent.call_tool(call["name"], call["arguments"])
    offers = agent.server_capabilities
    if offers.resources is not None:
        for resource in (await agent.list_resources()).resources:
            await agent.read_resource(resource.uri)
    if offers.prompts is not None:
        for prompt in (await agent.list_prompts()).prompts:
            await agent.get_prompt(prompt.name)


def arguments_for(tool: types.Tool, tools: list[types.Tool]) -> Json:
    """Plausible arguments; a tool that wants a `schema` is given the one that the first tool came with."""
    properties = tool.input_schema.get("properties", {})
    required = {name: properties.get(name, {}) for name in tool.input_schema.get("required", [])}
    given = {name: PLAUSIBLE.get(schema.get("type", "string")) for name, schema in required.items()}
    return {**given, "schema": tools[0].input_schema} if "schema" in required else given


async def accept(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    """Accept a form with the defaults that stand in it (SEP-1034), and agree to what has none."""
    schema = params.model_dump(by_alias=True).get("requestedSchema", {})
    fields = schema.get("properties", {}).items()
    content = {name: field.get("default", PLAUSIBLE[field["type"]]) for name, field in fields}
    return types.ElicitResult(action="accept", content=content)


if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    anyio.run(main, sys.argv[-1])
