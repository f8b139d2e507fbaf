"""A server with a page for its tool (MCP Apps): `python apps_server.py` on stdio, in both eras, on the SDK.

The page is in no list, as the extension allows; what is declared to the server can be asked for with `told`.
"""

from __future__ import annotations

import json
from typing import Any

import anyio
import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError

UI = "io.modelcontextprotocol/ui"
PAGE = "ui://charts/bar.html"
PAGE_META = {"ui": {"csp": {"connectDomains": ["https://data.example"]}, "prefersBorder": True}}
TOOLS = [
    {"name": "chart", "inputSchema": {"type": "object"}, "_meta": {"ui": {"resourceUri": PAGE}}},
    {
        "name": "refresh",
        "inputSchema": {"type": "object"},
        "_meta": {"ui": {"resourceUri": PAGE, "visibility": ["app"]}, "ui/resourceUri": PAGE},
    },
    {"name": "told", "inputSchema": {"type": "object"}},
]


async def list_tools(ctx: Any, params: Any) -> types.ListToolsResult:
    return types.ListToolsResult.model_validate({"tools": TOOLS})


async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    capabilities = ctx.session.client_capabilities
    said = params.name if params.name != "told" else json.dumps(capabilities.extensions if capabilities else None)
    return types.CallToolResult.model_validate({"content": [{"type": "text", "text": said}]})


async def list_resources(ctx: Any, params: Any) -> types.ListResourcesResult:
    return types.ListResourcesResult(resources=[])


async def read_resource(ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    if params.uri != PAGE:
        raise MCPError(types.INVALID_PARAMS, "Resource not found")
    page = {"uri": PAGE, "mimeType": "text/html;profile=mcp-app", "text": "<html></html>", "_meta": PAGE_META}
    return types.ReadResourceResult.model_validate({"contents": [page]})


async def main() -> None:
    server: Server[Any] = Server(
        "apps",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_read_resource=read_resource,
    )
    server.extensions[UI] = {}
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(main)
