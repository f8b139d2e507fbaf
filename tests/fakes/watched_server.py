"""A real server on the SDK whose resources change when they are `touch`ed, in either era.

`python watched_server.py NAME ERA` on stdio, `... NAME ERA --http` on a port of its own, which it prints. Its resources
are `note://NAME/one`, `note://NAME/two`, and by template `note://NAME/by/{author}`; `note://NAME/by/nobody` cannot be
subscribed to. `fresh_app` is for tests that serve it themselves.
"""

import json
import logging
import os
import socket
import sys
import warnings
from collections import defaultdict
from typing import Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from starlette.types import ASGIApp

Context = ServerRequestContext[Any, Any]
NO_TOOL = MCPError(types.INVALID_PARAMS, "Unknown tool")


class Watched:
    """The server and who is told of what."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.uris = (f"note://{name}/one", f"note://{name}/two")
        self.bus = InMemorySubscriptionBus()
        self.listen = ListenHandler(self.bus)
        self.listening: dict[int, list[str]] = {}
        self.subscribed: dict[str, dict[int, Any]] = defaultdict(dict)
        self.asked: list[str] = []
        """Every `resources/subscribe`, `resources/unsubscribe` and `subscriptions/listen` so far."""

    def server(self) -> Server[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MCPDeprecationWarning)
            return Server(
                self.name,
                on_list_tools=self.list_tools,
                on_call_tool=self.call_tool,
                on_list_resources=self.list_resources,
                on_list_resource_templates=self.list_templates,
                on_read_resource=self.read,
                on_subscribe_resource=self.subscribe,
                on_unsubscribe_resource=self.unsubscribe,
                on_subscriptions_listen=self.serve_listen,
            )

    async def list_tools(self, ctx: Context, params: Any) -> types.ListToolsResult:
        tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("touch", "watching", "die")]
        return types.ListToolsResult.model_validate({"tools": tools})

    async def call_tool(self, ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        if params.name == "touch":
            await self.touch((params.arguments or {})["uri"])
            said: Any = "touched"
        elif params.name == "watching":
            said = {"subscribed": {u: len(s) for u, s in self.subscribed.items() if s}, "asked": self.asked}
            said["listening"] = list(self.listening.values())
        elif params.name == "die":
            os._exit(3)
        else:
            raise NO_TOOL
        content = [{"type": "text", "text": json.dumps(said)}]
        return types.CallToolResult.model_validate({"content": content})

    async def touch(self, uri: str) -> None:
        """Say that a resource changed, to whoever subscribed to it."""
        await self.bus.publish(ResourceUpdated(uri=uri))
        for session in list(self.subscribed[uri].values()):
            await session.send_resource_updated(uri)

    async def list_resources(self, ctx: Context, params: Any) -> types.ListResourcesResult:
        resources = [{"uri": uri, "name": uri.rpartition("/")[2]} for uri in self.uris]
        return types.ListResourcesResult.model_validate({"resources": resources})

    async def list_templates(self, ctx: Context, params: Any) -> types.ListResourceTemplatesResult:
        template = {"uriTemplate": f"note://{self.name}/by/{{author}}", "name": "by"}
        return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": [template]})

    async def read(self, ctx: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        return types.ReadResourceResult.model_validate({"contents": [{"uri": params.uri, "text": "noted"}]})

    async def subscribe(self, ctx: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
        self.asked.append(f"subscribe {params.uri}")
        if params.uri.endswith("/nobody"):
            raise MCPError(types.INVALID_PARAMS, "not this one")
        self.subscribed[params.uri][id(ctx.session._connection)] = ctx.session
        return types.EmptyResult()

    async def unsubscribe(self, ctx: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        self.asked.append(f"unsubscribe {params.uri}")
        self.subscribed[params.uri].clear()
        return types.EmptyResult()

    async def serve_listen(self, ctx: Context, params: types.SubscriptionsListenRequestParams) -> Any:
        uris = [uri for uri in params.notifications.resource_subscriptions or () if not uri.endswith("/nobody")]
        self.asked.append(f"listen {uris}")
        params.notifications.resource_subscriptions = uris
        self.listening[id(params)] = uris
        try:
            return await self.listen(ctx, params)
        finally:
            del self.listening[id(params)]


async def serve_http(app: ASGIApp) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        print(listening.getsockname()[1], flush=True)
        await uvicorn.Server(uvicorn.Config(app, log_level="critical")).serve(sockets=[listening])


async def serve_stdio(server: Server[Any], era: str) -> None:
    options = server.create_initialization_options()
    async with stdio_server() as (read, write):
        if era == "legacy":
            await serve_loop(server, read, write, lifespan_state={}, init_options=options)
        else:
            await server.run(read, write, options)


def main(name: str, era: str, *way: str) -> None:
    logging.disable()
    warnings.simplefilter("ignore")
    server = Watched(name).server()
    if not way:
        anyio.run(serve_stdio, server, era)
        return
    app: ASGIApp = server.streamable_http_app()
    if era == "legacy":
        from sdk_server import LegacyOnly

        app = LegacyOnly(app)
    anyio.run(serve_http, app)


if __name__ == "__main__":
    main(*sys.argv[1:])
