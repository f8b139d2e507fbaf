"""`mcp-gateway stdio`: the gateway on the standard streams, for the one agent named when it is started.

Mostly it is a pipe to a gateway that runs already, so it loads no more than that takes; `alone` has the rest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import anyio
import typer

from mcp_gateway.cli.ahead import TOKEN_VARIABLE, Ahead
from mcp_gateway.cli.loop import run_loop
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, Commands, ConfigPath, LogLevel, err
from mcp_gateway.cli.shared import NotShared, Streams, attached_or_started, hello_of
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.frontdoor.streams import Sink, Source, standard_streams
from mcp_gateway.policy.assigned import check_agent
from mcp_gateway.policy.compile import compile_policy
from mcp_gateway.policy.document import load as load_policy
from mcp_gateway.telemetry import setup_logging

CHUNK: Final = 64 * 1024

_log: Final = logging.getLogger(__name__)

Linger = Literal["linger", "ephemeral", "stay"]

LINGER_S: Final = {"linger": "600", "ephemeral": "0", "stay": "forever"}
"""How long a gateway that was started here goes on when its last agent has left, by the word in servers.toml."""


@dataclass(frozen=True, slots=True)
class Who:
    """Whom this process speaks for."""

    agent: str
    task: str | None
    token: str = field(default="", repr=False)
    """Of a started task; empty: it is for none."""


def app() -> typer.Typer:
    """This command and no other."""
    made = typer.Typer(name="mcp-gateway", cls=Commands, pretty_exceptions_enable=False, rich_markup_mode="markdown")
    made.callback()(lambda: None)  # else typer takes a lone command for the whole program
    made.command("stdio")(stdio)
    return made


def stdio(
    context: typer.Context,
    agent: Annotated[str, typer.Option(help="Who this process speaks for; a name from the policies.")],
    task: Annotated[str | None, typer.Option(help="The task it is on; else the agent's default task.")] = None,
    task_token: Annotated[
        Path | None, typer.Option(help=f"A file with the token of a started task; else ${TOKEN_VARIABLE}, if set.")
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", envvar="MCP_GATEWAY_ALONE", help="Be a gateway by itself; attach to none.")
    ] = False,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="A gateway started here stops with its last agent.")
    ] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    log_level: LogLevel = "warning",
) -> None:
    """Serve one agent on stdin and stdout; logs go to stderr. With a started task it ends when the task does.

    It attaches to the gateway that runs on this configuration, and starts one in the background where there is none:
    however many windows are open, each upstream runs once. `[gateway] shared` in servers.toml says how long that one
    stays.

    Example, as an agent's MCP entry: `mcp-gateway stdio --agent reader --config /path/to/servers.toml`
    """
    setup_logging(log_level)
    path = Path(config)
    # Never on the command line, which every user of the machine can read.
    token = os.environ.pop(TOKEN_VARIABLE, "") if task_token is None else _read(task_token)
    configuration = load(path, os.environ)
    who = Who(agent, task, token)
    _check(configuration, who)
    shared = "ephemeral" if ephemeral else configuration.settings.shared
    ahead: Ahead | None = context.obj
    if alone or shared == "off":
        if ahead is not None:
            ahead.drop()
        run_loop(lambda: _serve(lambda: load(path, os.environ), who))
        return
    run_loop(lambda: _attach(configuration, who, LINGER_S[shared], lambda: load(path, os.environ), ahead))


def _check(configuration: Configuration, who: Who) -> None:
    """Raises `ConfigInvalid` and `NotAuthenticated` here, and not in a log that nobody reads."""
    task = _alone().task_of(configuration, who.agent, who.token) if who.token else who.task
    policy = compile_policy(load_policy(configuration.settings.policies))
    check_agent(configuration, policy, who.agent, task)


def _alone() -> Any:
    """`alone`: it loads everything that a gateway is made of, which a pipe to one has no use for."""
    return import_module("mcp_gateway.cli.alone")


async def _attach(
    configuration: Configuration, who: Who, linger: str, load_again: Callable[[], Configuration], ahead: Ahead | None
) -> None:
    """Be a pipe to the gateway that runs; a gateway by itself where that cannot be."""
    try:
        said = f"stdio, process {os.getpid()}"
        hello = replace(hello_of(configuration, "agent", who.agent, who.task, said), task_token=who.token)
        streams = await attached_or_started(configuration, hello, linger, ahead)
    except (NotShared, StoreUnavailable) as e:
        if ahead is not None:
            ahead.drop()
        _log.warning("not attached to a shared gateway, this is one by itself: %s", e)
        await _serve(load_again, who)
        return
    async with standard_streams() as (source, sink):
        if not await relay(source, sink, streams):
            err.print("the gateway has ended")
            raise typer.Exit(EXIT_NO)


async def relay(source: Source, sink: Sink, streams: Streams) -> bool:
    """Pass bytes both ways until one side ends; whether it was the agent's."""
    is_over = False
    reader, writer = streams

    async def towards_the_gateway() -> None:
        nonlocal is_over
        while chunk := await source.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
        is_over = True
        writer.write_eof()

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(towards_the_gateway)
            while chunk := await reader.read(CHUNK):
                sink.write(chunk)
                await sink.drain()
            tasks.cancel_scope.cancel()
    except* ConnectionError:
        pass
    finally:
        writer.close()
    return is_over


async def _serve(load_again: Callable[[], Configuration], who: Who) -> None:
    await _alone().serve(load_again, who.agent, who.task, who.token)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise typer.BadParameter(f"{path} cannot be read") from e
