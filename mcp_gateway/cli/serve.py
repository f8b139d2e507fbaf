"""`mcp-gateway serve`: the gateway over HTTP, for many agents."""

from __future__ import annotations

import os
import socket
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import anyio
import typer

from mcp_gateway import __version__
from mcp_gateway.cli.introduce import Introduction, agents, how_to_connect, upstreams, url_of
from mcp_gateway.cli.loop import run_loop
from mcp_gateway.cli.output import DEFAULT_CONFIG, AsJson, ConfigPath, LogLevel, out, print_json, warn
from mcp_gateway.config.servers import load
from mcp_gateway.config.settings import Settings, address
from mcp_gateway.frontdoor.admin import AdminDoor
from mcp_gateway.frontdoor.exchange import Closers
from mcp_gateway.frontdoor.housekeeping import keep_house
from mcp_gateway.frontdoor.http_server import listening_socket, serve_http, spare_the_collector
from mcp_gateway.identity.keys import Keys
from mcp_gateway.reload import keep_current
from mcp_gateway.telemetry import setup_logging
from mcp_gateway.upstreams import sdk
from mcp_gateway.wiring import Load, Running, keys_of, running, started_tasks_of, utc_now, verifier

SETTLE_S = 10.0
"""How long the start-up summary waits for upstreams; agents are served meanwhile."""


def serve(
    config: ConfigPath = DEFAULT_CONFIG,
    listen: Annotated[str, typer.Option(help="host:port instead of [gateway] listen; port 0 takes a free one.")] = "",
    as_json: AsJson = False,
    log_level: LogLevel = "warning",
) -> None:
    """Serve agents over HTTP until interrupted.

    Example: `mcp-gateway serve --listen 127.0.0.1:9000`
    """
    at = address(listen) if listen else None
    if listen and at is None:
        raise typer.BadParameter(f"{listen!r} is not an address and a port, such as 127.0.0.1:8765 or [::1]:8765")
    setup_logging(log_level)
    path = Path(config)
    run_loop(lambda: _serve(lambda: load(path, os.environ, at), as_json))


async def _serve(load_again: Load, as_json: bool) -> None:
    settings = load_again().settings
    # Before anything is started: a second gateway on the same port should end at once, and start no upstream.
    with listening_socket(settings.host, settings.port) as listener, _admin_socket(settings) as admin:
        async with running(load_again) as parts:
            parts.serve_pages_at(url_of(listener).removesuffix("/mcp"))
            keys = keys_of(parts.configuration)
            started = started_tasks_of(parts.configuration)
            door_verifier = verifier(parts.configuration, keys, started)
            door, legacy = parts.http_door(door_verifier)
            for complaint in parts.configuration.warnings:
                warn(str(complaint))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(keep_current, parts)
                tasks.start_soon(keep_house, parts.closers, legacy, door_verifier, utc_now)
                tasks.start_soon(_introduce, parts, keys, listener, admin, as_json)
                if admin is not None:
                    door_of_admin = parts.admin_door(started)
                    tasks.start_soon(_serve_admin, door_of_admin, admin, settings.max_header_bytes)
                spare_the_collector()
                await serve_http(door, listener, parts.closers, settings.max_header_bytes)
                tasks.cancel_scope.cancel()


def _admin_socket(settings: Settings) -> AbstractContextManager[socket.socket | None]:
    return listening_socket(*settings.admin) if settings.admin is not None else nullcontext()


async def _serve_admin(door: AdminDoor, listener: socket.socket, max_header_bytes: int) -> None:
    await serve_http(door, listener, Closers(), max_header_bytes, hears_signals=False)


async def _introduce(
    parts: Running, keys: Keys, listener: socket.socket, admin: socket.socket | None, as_json: bool
) -> None:
    """Say where we listen at once; what there is and who may use it when the upstreams have come up."""
    url = url_of(listener)
    if as_json:
        own = {} if admin is None else {"admin": url_of(admin).removesuffix("/mcp")}
        print_json({"event": "listening", "url": url, **own, "version": __version__, "pid": os.getpid()})
    else:
        out.print(f"mcp_gateway {__version__} listens on {url}", style="bold")
    await parts.settled(SETTLE_S)
    await anyio.to_thread.run_sync(sdk.load)
    if as_json:
        print_json({"event": "settled", "upstreams": [status.name for status in parts.pool.statuses()]})
        return
    told = Introduction(parts, {record.agent for record in keys.list() if record.holds(utc_now())}, url)
    out.print("\nUpstreams", style="bold")
    out.print(upstreams(told), soft_wrap=False)
    out.print("\nAgents and what they may do", style="bold")
    out.print(agents(told), soft_wrap=False)
    out.print("\nConnect an agent", style="bold")
    for line in how_to_connect(told):
        out.print(f"  {line}" if line else "")
