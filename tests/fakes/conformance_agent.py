"""An agent that uses everything it is offered, through a gateway whose one upstream is the URL it was given.

    conformance client --command "python conformance_agent.py" --scenario tools_call --spec-version 2026-07-28

The official suite runs it so, and puts the revision and what some scenarios want called into the environment. What
arrives at the suite's server is then the gateway's doing: the agent speaks the revision's era on stdio, and knows no
scenario by name.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError, UrlElicitationRequiredError

Json = dict[str, Any]

POLICY = """
[agents.conformance]
tasks = ["everything"]
default_task = "everything"

[tasks.everything]
allow = ["suite/*", "prompt:suite/*", "resource:suite/**"]
"""

METADATA_URL = "https://conformance-test.local/client-metadata.json"
"""What the suite expects of a client that has a metadata document; nobody fetches it."""

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
    (folder / "servers.toml").write_text(f'[servers.suite]\nurl = "{url}"\nprefix = ""\n{auth_of(context())}')
    command = ["-m", "mcp_gateway", "stdio", "--agent", "conformance"]
    return StdioServerParameters(command=sys.executable, args=command, cwd=folder, env=dict(os.environ))


def context() -> Json:
    """What the suite tells its clients about a scenario."""
    return dict(json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}")))


def auth_of(given: Json) -> str:
    """What an operator who was given this would write under the server's table."""
    if not os.environ["MCP_CONFORMANCE_SCENARIO"].startswith("auth/"):
        return ""
    for name, value in given.items():
        os.environ[f"SUITE_{name.upper()}"] = str(value)
    client = 'client_id = "${SUITE_CLIENT_ID}"'
    secret = 'client_secret = "${SUITE_CLIENT_SECRET}"'
    if "idp_id_token" in given:
        idp = f'idp = {{ issuer = "{given["idp_issuer"]}", client_id = "{given["idp_client_id"]}" }}'
        return f'auth = {{ id_jag = {{ {client}, {secret}, {idp}, subject_token = "${{SUITE_IDP_ID_TOKEN}}" }} }}\n'
    if "private_key_pem" in given:
        key = f'private_key = "${{SUITE_PRIVATE_KEY_PEM}}", algorithm = "{given["signing_algorithm"]}"'
        return f"auth = {{ client_credentials = {{ {client}, {key} }} }}\n"
    if "valid_jwt" in given:
        return f'auth = {{ jwt_bearer = {{ {client}, assertion = "${{SUITE_VALID_JWT}}" }} }}\n'
    if "issuer" in given:
        return f'auth = {{ oauth = {{ {client}, {secret}, issuer = "{given["issuer"]}" }} }}\n'
    if "client_secret" in given:
        return f"auth = {{ client_credentials = {{ {client}, {secret} }} }}\n"
    return f'auth = {{ oauth = {{ client_metadata_url = "{METADATA_URL}" }} }}\n'


async def use_everything(agent: Client) -> None:
    """Call each tool, read each resource, get each prompt; a scenario may say which calls it wants instead."""
    tools = (await agent.list_tools()).tools
    if [tool.name for tool in tools] == ["login"]:
        await call(agent, "login", {})
        tools = await tools_behind_login(agent)
    wanted = context().get("toolCalls")
    for each in wanted or [{"name": tool.name, "arguments": arguments_for(tool, tools)} for tool in tools]:
        await call(agent, each["name"], each["arguments"])
    offers = agent.server_capabilities
    if offers.resources is not None:
        for resource in (await agent.list_resources()).resources:
            await agent.read_resource(resource.uri)
    if offers.prompts is not None:
        for prompt in (await agent.list_prompts()).prompts:
            await agent.get_prompt(prompt.name)


async def tools_behind_login(agent: Client) -> list[types.Tool]:
    """What there is once somebody has logged in; only the login again where that was in vain."""
    tools: list[types.Tool] = []
    with anyio.move_on_after(3):
        while not tools or tools[0].name == "login":
            tools = (await agent.list_tools()).tools
            await anyio.sleep(0.02)
    return tools


async def call(agent: Client, name: str, arguments: Json) -> None:
    """Call a tool; where that needs a page to be opened first (2025-11-25), open it and call again."""
    for _ in range(3):
        try:
            await agent.call_tool(name, arguments)
            return
        except MCPError as e:
            if e.error.code != types.URL_ELICITATION_REQUIRED:
                raise
            for each in UrlElicitationRequiredError.from_error(e.error).elicitations:
                await log_in(each.url)


async def log_in(page: str) -> None:
    """What a person does in a browser: open the page, press the button, be sent there and back."""
    async with httpx2.AsyncClient(follow_redirects=True, trust_env=False) as browser:
        shown = await browser.get(page)
        token = re.search(r'name="token" value="([^"]+)"', shown.text)
        assert token is not None, shown.text
        done = await browser.post(page, data={"token": token[1]})
        print(f"{done.status_code}: {re.sub('<[^>]*>', ' ', done.text)}", file=sys.stderr)


def arguments_for(tool: types.Tool, tools: list[types.Tool]) -> Json:
    """Plausible arguments; a tool that wants a `schema` is given the one that the first tool came with."""
    properties = tool.input_schema.get("properties", {})
    required = {name: properties.get(name, {}) for name in tool.input_schema.get("required", [])}
    given = {name: PLAUSIBLE.get(schema.get("type", "string")) for name, schema in required.items()}
    return {**given, "schema": tools[0].input_schema} if "schema" in required else given


async def accept(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    """Open the page of a link; accept a form with the defaults that stand in it (SEP-1034), agree to what has none."""
    if isinstance(params, types.ElicitRequestURLParams):
        await log_in(params.url)
        return types.ElicitResult(action="accept")
    schema = params.model_dump(by_alias=True).get("requestedSchema", {})
    fields = schema.get("properties", {}).items()
    content = {name: field.get("default", PLAUSIBLE[field["type"]]) for name, field in fields}
    return types.ElicitResult(action="accept", content=content)


if __name__ == "__main__":
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    anyio.run(main, sys.argv[-1])
