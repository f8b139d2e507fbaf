"""`mcp-gateway task`: tasks that are started for one purpose, know what they are about, and end by themselves."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import orjson
import typer
from rich.table import Table
from rich.text import Text

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.durations import duration
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, err, out, print_json
from mcp_gateway.config.servers import load
from mcp_gateway.domain import Json
from mcp_gateway.frontdoor.admin import budget_of
from mcp_gateway.frontdoor.desk import Desk, MistakeError, Order, plain_task
from mcp_gateway.identity.started import StartedRecord
from mcp_gateway.wiring import desk, utc_now

app = typer.Typer(help="Started tasks: start, list, show, extend, end, revoke.", no_args_is_help=True)

T = TypeVar("T")


@app.command()
def start(
    agent: Annotated[str, typer.Argument(help="Whom it is started for; a name from the policies.")],
    task: Annotated[str, typer.Argument(help="What it may do; one of the agent's tasks.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="What it is about, NAME=VALUE; numbers and true/false as such.")
    ] = None,
    for_: Annotated[str, typer.Option("--for", help="How long it lasts: 30m, 2h; else 1h, or the policy's ttl.")] = "",
    person: Annotated[str | None, typer.Option(help="The person it is done for.")] = None,
    calls: Annotated[
        int | None, typer.Option(help="How many calls it may make, if fewer than the policy says.")
    ] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Start a task and print its token, once. Agents send it as the header Mcp-Gateway-Task, or as their bearer token.

    Example: `mcp-gateway task start support-bot answer-ticket --set customer=42 --for 30m`
    """
    budget = {} if calls is None else {"calls": calls}
    context = dict(_setting(text) for text in set_ or ())
    lasts = duration(for_) if for_ else None
    token, record = at_the_desk(
        config, lambda desk: desk.start(Order(agent, task, context, lasts, person, budget_of(budget)))
    )
    if as_json:
        print_json({"token": token, **plain_task(record, utc_now())})
        return
    out.print(token)
    err.print(f"Shown once. {agent} is on {task} with it until {_at(record)}; the task's id is {record.task.id}.")
    err.print("Agents send it as the header  Mcp-Gateway-Task: TOKEN  beside their key, or instead of a key.")


@app.command("list")
def list_tasks(
    all_of_them: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List the tasks that are under way.

    Example: `mcp-gateway task list --all`
    """
    now = utc_now()
    records = [each for each in at_the_desk(config, lambda desk: desk.tasks()) if all_of_them or each.holds(now)]
    if as_json:
        print_json([plain_task(record, now) for record in records])
        return
    if not records:
        out.print("no task is under way: mcp-gateway task start AGENT TASK")
        return
    table = Table(
        "id", "agent", "task", "about", "until (UTC)", "state", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for record in records:
        state = record.state(now)
        about = " ".join(f"{name}={value}" for name, value in record.task.context.items())
        style = "green" if record.holds(now) else "dim"
        texts = (record.task.id, record.task.agent, record.task.task, Text(escaped(about)), _at(record))
        table.add_row(*texts, Text(state, style))
    out.print(table, soft_wrap=False)


@app.command()
def show(
    task_id: Annotated[str, typer.Argument(help="The id that `task list` shows.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Tell all of one task: what it is about, what it has used, and which tags it has read.

    Example: `mcp-gateway task show 3kTz81pQx0aB`
    """

    async def told(desk: Desk) -> Json:
        return await desk.told(await desk.task(task_id))

    found = at_the_desk(config, told)
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        shown = " ".join(f"{key}={item}" for key, item in value.items()) if isinstance(value, dict) else value
        if shown not in (None, ""):
            out.print(f"{name:>8}  {escaped(str(shown))}")


@app.command()
def extend(
    task_id: Annotated[str, typer.Argument(help="The id that `task list` shows.")],
    for_: Annotated[str, typer.Option("--for", help="How long it lasts from now: 30m, 2h.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Let a task that is under way end at another time; exits 1 where none of that id is.

    Example: `mcp-gateway task extend 3kTz81pQx0aB --for 30m`
    """
    lasts: timedelta = duration(for_)
    record = at_the_desk(config, lambda desk: desk.extend(task_id, lasts), code=EXIT_NO)
    _tell(record, f"{task_id} lasts until {_at(record)}", as_json)


@app.command()
def end(
    task_id: Annotated[str, typer.Argument(help="The id that `task list` shows.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """End a task that is done: nothing is accepted for it any more, calls under way stop. Exits 1 where it was over.

    Example: `mcp-gateway task end 3kTz81pQx0aB`
    """
    _tell(at_the_desk(config, lambda desk: desk.end(task_id), code=EXIT_NO), f"ended {task_id}", as_json)


@app.command()
def revoke(
    task_id: Annotated[str, typer.Argument(help="The id that `task list` shows.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Take a task away: the same as ending it, under another word in lists and in the audit.

    Example: `mcp-gateway task revoke 3kTz81pQx0aB`
    """
    record = at_the_desk(config, lambda desk: desk.end(task_id, is_revoked=True), code=EXIT_NO)
    _tell(record, f"revoked {task_id}", as_json)


def at_the_desk(config: str, do: Callable[[Desk], Awaitable[T]], code: int = 2) -> T:
    """Do something at the desk of a configuration; a mistake is told, and ends the command with `code`."""
    configuration = load(Path(config), os.environ)

    async def run() -> T:
        async with desk(configuration) as found:
            return await do(found)

    try:
        return anyio.run(run)
    except MistakeError as e:
        err.print(Text(f"{escaped(str(e))}"))
        if e.fix:
            err.print(Text("  fix: ", style="green").append(escaped(e.fix), style="default"))
        raise typer.Exit(code) from e


def _tell(record: StartedRecord, text: str, as_json: bool) -> None:
    if as_json:
        print_json(plain_task(record, utc_now()))
    else:
        out.print(text)


def _setting(text: str) -> tuple[str, Any]:
    """NAME=VALUE; a value that is a JSON number, boolean or quoted text is that, any other is a text as it stands."""
    name, is_there, value = text.partition("=")
    if not is_there or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE")
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        return name, value
    return name, found if isinstance(found, (str, int, float, bool)) else value


def _at(record: StartedRecord) -> str:
    return f"{record.task.expires:%Y-%m-%d %H:%M}"
