"""`mcp-gateway tools`: what an agent sees, asked as that agent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.agent_session import AgentSession, speaking_as
from mcp_gateway.cli.output import DEFAULT_CONFIG, AsJson, ConfigPath, out, print_json, run, working
from mcp_gateway.config.servers import load
from mcp_gateway.domain import Json
from mcp_gateway.telemetry import setup_logging

AgentName = Annotated[
    str, typer.Option("--agent", "-a", envvar="MCP_GATEWAY_AGENT", help="As which agent; else the only one there is.")
]
TaskName = Annotated[str | None, typer.Option("--task", help="The task it is on; else the agent's default task.")]

MARKS = {"readOnlyHint": "reads", "destructiveHint": "destroys"}


def tools(
    name: Annotated[str, typer.Argument(help="Only this tool, with its arguments; else all.")] = "",
    agent: AgentName = "",
    task: TaskName = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List the tools an agent may see, as the gateway tells that agent; it is written down as its question.

    Example: `mcp-gateway tools --agent reader`
    """
    setup_logging("error")
    path = Path(config)
    found = run(_listed, path, agent, task)
    if name:
        found = [tool for tool in found if tool.get("name") == name]
        if not found:
            raise typer.BadParameter(f"this agent sees no tool {name!r}: mcp-gateway why AGENT SERVER/TOOL says why")
    if as_json:
        print_json(found)
    elif name:
        _print_one(found[0])
    else:
        _print(found)


async def _listed(path: Path, agent: str, task: str | None) -> list[Json]:
    configuration = load(path, os.environ)
    with working("asking"):
        async with speaking_as(configuration, agent, task, lambda: load(path, os.environ)) as streams:
            return await AgentSession(streams).listed("tools/list", "tools")


def _print(found: list[Json]) -> None:
    if not found:
        out.print("this agent sees no tool: mcp-gateway why AGENT SERVER/TOOL says why")
        return
    table = Table("tool", "says it", "about", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for tool in found:
        about = str(tool.get("description") or tool.get("title") or "").strip().partition("\n")[0]
        table.add_row(Text(escaped(str(tool.get("name"))), "green"), _marks(tool), escaped(about[:100]))
    out.print(table, soft_wrap=False)


def _print_one(tool: Json) -> None:
    out.print(Text(escaped(str(tool.get("name"))), "bold"))
    for line in str(tool.get("description") or "").strip().splitlines():
        out.print(f"  {escaped(line)}")
    schema: Any = tool.get("inputSchema") or {}
    required = schema.get("required") or []
    for name, about in (schema.get("properties") or {}).items():
        told = about if isinstance(about, dict) else {}
        kind = f"{told.get('type', 'any')}{'' if name in required else ', optional'}"
        out.print(f"  {escaped(str(name))} ({escaped(kind)})  {escaped(str(told.get('description') or ''))}")


def _marks(tool: Json) -> str:
    annotations = tool.get("annotations")
    hints = annotations if isinstance(annotations, dict) else {}
    return " ".join(word for key, word in MARKS.items() if hints.get(key) is True)
