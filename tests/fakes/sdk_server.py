"""A small real server on the SDK, speaking both eras: `python sdk_server.py` on stdio, `app()` for HTTP."""

import logging
import os
import sys
import warnings

import anyio
from mcp.server.mcpserver import Context, MCPServer
from starlette.types import ASGIApp, Receive, Scope, Send

server = MCPServer("sdk-fake", version="1.0", instructions="A server for tests.")
begun: list[str] = []
cancelled: list[str] = []


@server.tool()
def echo(text: str) -> str:
    """Say it again."""
    return text


@server.tool()
async def count(ctx: Context, to: int) -> int:  # type: ignore[type-arg]
    """Count, and tell of each step."""
    for step in range(1, to + 1):
        await ctx.report_progress(step, to, f"step {step}")
    return to


@server.tool()
async def chat(ctx: Context, line: str) -> str:  # type: ignore[type-arg]
    """Write a log line at two levels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # logging is deprecated as of 2026-07-28, and still there
        await ctx.debug(f"debug {line}")
        await ctx.warning(f"warning {line}")
    return "said"


@server.tool()
async def wait(ctx: Context, seconds: float) -> str:  # type: ignore[type-arg]
    """Take a while; remembers being cancelled."""
    begun.append("wait")
    try:
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        cancelled.append("wait")
        raise
    return "waited"


@server.tool()
def was_cancelled() -> int:
    """How often `wait` was cancelled."""
    return len(cancelled)


@server.tool()
def fail() -> str:
    """Always fail."""
    raise ValueError("it failed")


@server.tool()
async def grow(ctx: Context, name: str) -> str:  # type: ignore[type-arg]
    """Add a tool and say so."""
    server.add_tool(echo, name=name)
    await ctx.notify_tools_changed()
    return "grown"


@server.tool()
def pid() -> int:
    """The process that answers."""
    return os.getpid()


@server.prompt()
def greeting(name: str) -> str:
    """Greet somebody."""
    return f"Hello {name}"


@server.resource("note://one")
def note() -> str:
    """One note."""
    return "noted"


@server.resource("note://by/{author}")
def notes_by(author: str) -> str:
    """Notes by an author."""
    return f"by {author}"


def fresh_app(**options: bool) -> ASGIApp:
    """An ASGI app of the server, at `/mcp`; its session manager runs once, so each test needs its own."""
    server._lowlevel_server._session_manager = None
    return server.streamable_http_app(**options)


class LegacyOnly:
    """What a server of 2025 makes of a modern request: it misses its session."""

    def __init__(self, inner: ASGIApp) -> None:
        self.inner = inner
        self.requests: list[tuple[str, dict[str, str]]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append((scope["method"], headers))
        if headers.get("mcp-protocol-version") == "2026-07-28":
            body = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Missing session ID"}}'
            start = {"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]}
            await send(start)
            await send({"type": "http.response.body", "body": body})
            return
        await self.inner(scope, receive, send)


if __name__ == "__main__":
    logging.disable()
    sys.stderr.write("sdk-fake starts\n")
    server.run("stdio")
