"""`mcp-gateway stdio`: the gateway on the standard streams, for the one agent named when it is started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import anyio
import typer

from mcp_gateway.cli.loop import run_async
from mcp_gateway.cli.output import DEFAULT_CONFIG, ConfigPath, LogLevel
from mcp_gateway.config.servers import load
from mcp_gateway.frontdoor.stdio import standard_streams
from mcp_gateway.reload import keep_current
from mcp_gateway.telemetry import setup_logging
from mcp_gateway.wiring import Load, running


def stdio(
    agent: Annotated[str, typer.Option(help="Who this process speaks for; a name from the policies.")],
    task: Annotated[str | None, typer.Option(help="The task it is on; else the agent's default task.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    log_level: LogLevel = "warning",
) -> None:
    """Serve one agent on stdin and stdout; logs go to stderr.

    Example, as an agent's MCP entry: `mcp-gateway stdio --agent reader --config /path/to/servers.toml`
    """
    setup_logging(log_level)
    path = Path(config)
    run_async(_serve, lambda: load(path, os.environ), agent, task)


async def _serve(load_again: Load, agent: str, task: str | None) -> None:
    async with standard_streams() as (reader, writer), running(load_again) as parts:
        door = parts.stdio_door(agent, task)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_current, parts)
            await door.serve(reader, writer)
            tasks.cancel_scope.cancel()
