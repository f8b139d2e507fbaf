"""`mcp-gateway call`: call one tool as an agent, by the same way and under the same policy as the agent itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.agent_session import AgentSession, Refused, speaking_as
from mcp_gateway.cli.form import arguments_from, asked_for
from mcp_gateway.cli.output import (
    DEFAULT_CONFIG,
    EXIT_NO,
    AsJson,
    ConfigPath,
    err,
    out,
    print_json,
    read_line,
    run,
    working,
)
from mcp_gateway.cli.tools import AgentName, TaskName
from mcp_gateway.config.servers import load
from mcp_gateway.domain import Json
from mcp_gateway.telemetry import setup_logging


def call(
    tool: Annotated[str, typer.Argument(help="The tool's public name, as `mcp-gateway tools` shows it.")],
    arg: Annotated[list[str] | None, typer.Option("--arg", help="NAME=VALUE; may be given again.")] = None,
    args: Annotated[str, typer.Option(help="All arguments as one JSON object.")] = "",
    agent: AgentName = "",
    task: TaskName = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Call a tool as an agent: the policy decides, the audit writes it down. Exits 1 where the answer is an error.

    At a terminal, arguments that are not given are asked for, as the tool's schema describes them.

    Example: `mcp-gateway call time__get_current_time --arg timezone=UTC --agent reader`
    """
    setup_logging("error")
    try:
        result = run(_called, Path(config), tool, arg, _object(args), (agent, task))
    except Refused as e:
        if as_json:
            print_json({"error": {"code": e.code, "message": str(e)}})
        else:
            err.print(f"the gateway says: {escaped(str(e))} (mcp-gateway log shows why)")
        raise typer.Exit(EXIT_NO) from e
    if as_json:
        print_json(result)
    else:
        show(result)
    if result.get("isError"):
        raise typer.Exit(EXIT_NO)


async def _called(
    path: Path, tool: str, words: list[str] | None, given: Json | None, who: tuple[str, str | None]
) -> Json:
    configuration = load(path, os.environ)
    can_ask = sys.stdin.isatty()
    with working(f"calling {tool}") as told:
        async with speaking_as(configuration, *who, lambda: load(path, os.environ)) as streams:
            session = AgentSession(streams, told.paused(_answer) if can_ask else None, told.say)
            found = await session.listed("tools/list", "tools")
            schema: Mapping[str, Any] = next((t.get("inputSchema") or {} for t in found if t.get("name") == tool), {})
            arguments = {**(given or {}), **arguments_from(words or [], schema)}
            if can_ask and words is None and given is None:
                arguments = told.paused(asked_for)(schema)
            return await session.ask("tools/call", {"name": tool, "arguments": arguments})


def show(result: Json) -> None:
    """A tool's result for eyes: texts as they are, anything else by its kind."""
    for block in result.get("content") or []:
        if not isinstance(block, dict):
            continue
        if block.get("type") == "text":
            for line in str(block.get("text", "")).splitlines():
                out.print(escaped(line))
        else:
            out.print(
                f"[{escaped(str(block.get('type')))} {escaped(str(block.get('mimeType', block.get('uri', ''))))}]"
            )
    if not result.get("content") and result.get("structuredContent") is not None:
        out.print(escaped(json.dumps(result["structuredContent"], indent=2)))


def _answer(question: Mapping[str, Any]) -> Json:
    """A question of an upstream's, put to whoever sits here."""
    params = question.get("params")
    told: Mapping[str, Any] = params if isinstance(params, dict) else {}
    if question.get("method") != "elicitation/create" or told.get("mode") == "url":
        return {"action": "decline"}
    err.print(f"The server asks: {escaped(str(told.get('message', '')))}")
    schema = told.get("requestedSchema")
    if read_line("Answer? [Y/n]").lower() in ("n", "no"):
        return {"action": "decline"}
    return {"action": "accept", "content": asked_for(schema if isinstance(schema, dict) else {})}


def _object(text: str) -> Json | None:
    if not text:
        return None
    try:
        value = json.loads(text)
    except ValueError as e:
        raise typer.BadParameter(f"--args is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise typer.BadParameter("--args must be a JSON object")
    return value
