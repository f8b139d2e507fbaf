"""`mcp-gateway stdio`: the gateway on the standard streams, for the one agent named when it is started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import anyio
import typer

from mcp_gateway.cli.loop import run_loop
from mcp_gateway.cli.output import DEFAULT_CONFIG, ConfigPath, LogLevel, err
from mcp_gateway.config.servers import load
from mcp_gateway.domain import StartedTask
from mcp_gateway.frontdoor.housekeeping import LOOK_EVERY_S
from mcp_gateway.frontdoor.stdio import standard_streams
from mcp_gateway.identity.started import StartedTasks
from mcp_gateway.reload import keep_current
from mcp_gateway.telemetry import setup_logging
from mcp_gateway.wiring import Load, running, started_task_of, started_tasks_of, utc_now

TOKEN_VARIABLE: Final = "MCP_GATEWAY_TASK_TOKEN"  # noqa: S105 - where it is, not what it is


def stdio(
    agent: Annotated[str, typer.Option(help="Who this process speaks for; a name from the policies.")],
    task: Annotated[str | None, typer.Option(help="The task it is on; else the agent's default task.")] = None,
    task_token: Annotated[
        Path | None, typer.Option(help=f"A file with the token of a started task; else ${TOKEN_VARIABLE}, if set.")
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    log_level: LogLevel = "warning",
) -> None:
    """Serve one agent on stdin and stdout; logs go to stderr. With a started task it ends when the task does.

    Example, as an agent's MCP entry: `mcp-gateway stdio --agent reader --config /path/to/servers.toml`
    """
    setup_logging(log_level)
    path = Path(config)
    # Never on the command line, which every user of the machine can read.
    token = os.environ.pop(TOKEN_VARIABLE, "") if task_token is None else _read(task_token)
    run_loop(lambda: _serve(lambda: load(path, os.environ), agent, task, token))


async def _serve(load_again: Load, agent: str, task: str | None, token: str) -> None:
    tasks = started_tasks_of(load_again()) if token else None
    started = None if tasks is None else started_task_of(tasks, agent, token)
    async with standard_streams() as (reader, writer), running(load_again) as parts:
        door = parts.stdio_door(agent, task, started)
        listener = parts.connect_listener()
        async with anyio.create_task_group() as work:
            work.start_soon(keep_current, parts)
            if tasks is not None and started is not None:
                work.start_soon(_end_with, tasks, started, work.cancel_scope)
            await door.serve(reader, writer)
            await listener.close()
            work.cancel_scope.cancel()


async def _end_with(tasks: StartedTasks, started: StartedTask, scope: anyio.CancelScope) -> None:
    """End everything as soon as the task is over: calls under way, too."""
    while tasks.holds(started.id, utc_now()):  # noqa: ASYNC110 - another process ends it
        await anyio.sleep(LOOK_EVERY_S)
    err.print(f"the task {started.id} is over")
    scope.cancel()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise typer.BadParameter(f"{path} cannot be read") from e
