"""A gateway for one agent on the standard streams: what `mcp-gateway stdio` is where it attaches to no other."""

from __future__ import annotations

import anyio

from mcp_gateway.cli.output import err
from mcp_gateway.config.servers import Configuration
from mcp_gateway.domain import StartedTask
from mcp_gateway.frontdoor.streams import standard_streams
from mcp_gateway.identity.started import StartedTasks
from mcp_gateway.reload import keep_current
from mcp_gateway.wiring import Load, running, started_now, started_task_of, started_tasks_of, until_over


def task_of(configuration: Configuration, agent: str, token: str) -> str:
    """The task that a token was made for. Raises `NotAuthenticated`."""
    return started_task_of(started_tasks_of(configuration), agent, token).task


async def serve(load_again: Load, agent: str, task: str | None, token: str) -> None:
    """Serve one agent until its stdin ends, or the started task whose `token` it has; empty: it is for none."""
    tasks = started_tasks_of(load_again()) if token else None
    started = None if tasks is None else started_task_of(tasks, agent, token)
    async with standard_streams() as (reader, writer), running(load_again) as parts:
        now = started_now(tasks, started) if tasks is not None and started is not None else None
        door = parts.stdio_door(agent, task, now)
        async with anyio.create_task_group() as work:
            work.start_soon(keep_current, parts)
            if tasks is not None and started is not None:
                work.start_soon(_end_with, tasks, started, work.cancel_scope)
            await door.serve(reader, writer)
            work.cancel_scope.cancel()


async def _end_with(tasks: StartedTasks, started: StartedTask, scope: anyio.CancelScope) -> None:
    """End everything as soon as the task is over: calls under way, too."""
    await until_over(tasks, started)
    err.print(f"the task {started.id} is over")
    scope.cancel()
