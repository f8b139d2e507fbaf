"""A gateway's running parts in the test's own process: real wiring, real children as upstreams, no door."""

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from fakes.gateway_process import write_files
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.domain import Caller, Kind
from mcp_gateway.reload import keep_current
from mcp_gateway.wiring import Running, running

HOSTILE = Path(__file__).parent / "hostile_stdio.py"


def server_table(name: str, *habits: str, **keys: str) -> str:
    """A `[servers.NAME]` table for the small stdio server; `keys` are TOML values as text."""
    command = [sys.executable, "-S", "-E", str(HOSTILE), *habits]
    return "\n".join([f"[servers.{name}]", f"command = {command!r}", *(f"{k} = {v}" for k, v in keys.items()), ""])


POLICY = """
[agents.reader]
tasks = ["read"]
default_task = "read"

[agents.writer]
tasks = ["write"]
default_task = "write"

[tasks.read]
allow = ["one/echo"]

[tasks.write]
allow = ["two/*"]
"""

FILES = {
    "servers.toml": server_table("one") + server_table("two"),
    "policies/agents.toml": POLICY,
}


@asynccontextmanager
async def running_in(
    folder: Path, files: Mapping[str, str] = FILES, *, watched: bool = False
) -> AsyncIterator[Running]:
    """A gateway with its upstreams up; `watched`: edits of its files are followed."""
    write_files(folder, files)
    async with running(lambda: load(folder / "servers.toml", os.environ)) as parts:
        await parts.settled(10)
        async with anyio.create_task_group() as tasks:
            if watched:
                tasks.start_soon(keep_current, parts)
            await anyio.wait_all_tasks_blocked()  # it has read them once and looks for edits from now on
            yield parts
            tasks.cancel_scope.cancel()


def configured(folder: Path, text: str = FILES["servers.toml"]) -> Configuration:
    """The configuration of a gateway that nobody has started; its files are there."""
    write_files(folder, {**FILES, "servers.toml": text})
    return load(folder / "servers.toml", os.environ)


def caller(agent: str) -> Caller:
    """An agent on the task that POLICY gives it."""
    return Caller(agent, {"reader": "read", "writer": "write"}[agent])


def tools_of(parts: Running, agent: str) -> set[str]:
    """What an agent may see."""
    return {target.public_name for target in parts.gateway.visible(caller(agent), Kind.TOOL)}
