"""Agents for walks: the SDK's client in either era, over HTTP or stdio, through a real gateway process."""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from anyio import to_thread
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from fakes.gateway_process import MCP_GATEWAY, WORKERS, GatewayProcess, serving
from fakes.waiting import until

ERAS = ["legacy", "2026-07-28"]


@asynccontextmanager
async def gateway_in(
    folder: Path, files: Mapping[str, str], *, settled: bool = True, workers: int = WORKERS
) -> AsyncIterator[GatewayProcess]:
    """`serving`, for tests whose own event loop must go on meanwhile: its upstreams run in it."""
    process = serving(folder, files, settled=settled, workers=workers)
    gateway = await to_thread.run_sync(process.__enter__)
    try:
        yield gateway
    finally:
        await to_thread.run_sync(process.__exit__, None, None, None)


@asynccontextmanager
async def agent_over_http(
    gateway: GatewayProcess, agent: str, era: str, path: str = "", **options: Any
) -> AsyncIterator[Client]:
    """An agent with a key of its own."""
    headers = await to_thread.run_sync(gateway.headers, agent)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=60))
        transport = streamable_http_client(gateway.url + path, http_client=http)
        yield await stack.enter_async_context(Client(transport, mode=era, **options))


@asynccontextmanager
async def agent_over_stdio(folder: Path, agent: str, era: str, **options: Any) -> AsyncIterator[Client]:
    """An agent that starts its gateway itself."""
    words = [*MCP_GATEWAY, "stdio", "--agent", agent, "--config", str(folder / "servers.toml")]
    server = StdioServerParameters(command=words[0], args=words[1:], cwd=folder, env=dict(os.environ))
    async with Client(server, mode=era, **options) as client:
        yield client


async def tools_of(client: Client) -> set[str]:
    """The names an agent is shown, page by page."""
    names: set[str] = set()
    cursor = None
    while True:
        page = await client.list_tools(cursor=cursor)
        names |= {tool.name for tool in page.tools}
        cursor = page.next_cursor
        if cursor is None:
            return names


async def health_of(gateway: GatewayProcess) -> dict[str, Any]:
    """What anybody may know of a gateway."""
    async with httpx2.AsyncClient() as http:
        return dict((await http.get(f"{gateway.origin}/health")).json())


async def is_healthy_when(
    gateway: GatewayProcess, condition: Callable[[dict[str, Any]], bool], within_s: float = 10
) -> None:
    """Wait until /health says so."""

    async def looks() -> bool:
        return condition(await health_of(gateway))

    await until(looks, within_s, every_s=0.05)
