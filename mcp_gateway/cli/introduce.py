"""What `serve` says of itself when it has started: which upstreams there are, who may do what, how to connect."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.output import DEFAULT_CONFIG, shown
from mcp_gateway.domain import Caller, Kind, Listing, UpstreamState, UpstreamStatus
from mcp_gateway.wiring import Running

MAX_NAMES = 6

MAX_LINES = 30
"""Lines of agents and of upstreams. Nobody reads a thousand, and while they are made nobody is served."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """What there is to say."""

    running: Running
    agents_with_key: Set[str]
    url: str


def url_of(listener: socket.socket) -> str:
    """Where agents connect to."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/mcp" if ":" in host else f"http://{host}:{port}/mcp"


def upstreams(told: Introduction) -> RenderableType:
    """One line for each upstream, first those that should be there and are not: how much it offers, or why not."""
    pool, table = told.running.pool, _columns(2)
    well = (UpstreamState.READY, UpstreamState.DISABLED)
    statuses = sorted(pool.statuses(), key=lambda status: status.state in well)
    for status in statuses[:MAX_LINES]:
        listing = pool.listings.get(status.name)
        is_ready = status.state is UpstreamState.READY and listing is not None
        said = _offered(listing, status) if is_ready and listing else f"{status.state.value}: {status.detail}"
        table.add_row(Text(status.name, style="green" if is_ready else "yellow"), escaped(said.rstrip(": ")))
    _say_how_many_more(table, len(statuses), f"{_program()} status")
    return Padding(table if table.row_count else Text("none: servers.toml names no server"), (0, 0, 0, 2), expand=False)


def agents(told: Introduction) -> RenderableType:
    """One line for each task of each agent."""
    parts, table = told.running, _columns(3)
    assigned = [(agent, task) for agent, has in sorted(parts.policy.assignments.items()) for task in has.tasks]
    for agent, task in assigned[:MAX_LINES]:
        is_default = task == parts.policy.assignments[agent].default_task
        where = "its default task" if is_default else f"at /mcp/{task}"
        has_to_be_started = task in parts.policy.tasks_to_start
        tools = (
            f"once started: {_program()} task start {agent} {task}"
            if has_to_be_started
            else _tools(parts, Caller(agent=agent, task=task))
        )
        table.add_row(Text(agent, style="green"), f"{task} ({where})", tools)
    _say_how_many_more(table, len(assigned), f"{_program()} tools --agent NAME")
    if table.row_count:
        return Padding(table, (0, 0, 0, 2), expand=False)
    return Text(f"  none: {shown(parts.configuration.settings.policies)} names no agent, so everything is denied")


def how_to_connect(told: Introduction) -> Iterator[str]:
    """The commands that come next, as they can be pasted here."""
    program, parts = _program(), told.running
    config = parts.configuration.path
    option = "" if str(config) == DEFAULT_CONFIG else f" --config {config}"
    names = sorted(parts.policy.assignments)
    agent = next((name for name in names if name in told.agents_with_key), names[0] if names else "AGENT")
    if parts.configuration.settings.anonymous:
        yield f"requests without a key act as the agent {parts.configuration.settings.anonymous}; with one:"
    if agent not in told.agents_with_key:
        yield f"{program} key create {agent}{option}"
    yield f'claude mcp add --transport http gateway {told.url} --header "Authorization: Bearer KEY"'
    yield "or without HTTP and key, as a command that the agent's program starts:"
    yield f"{_absolute_program()} stdio --agent {agent} --config {config.absolute()}"
    yield ""
    yield f"What happens: {program} log --follow{option}     Stop: Ctrl-C"


def _offered(listing: Listing, status: UpstreamStatus) -> str:
    counts = {
        "tool": len(listing.tools),
        "prompt": len(listing.prompts),
        "resource": len(listing.resources) + len(listing.templates),
    }
    offered = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for word, n in counts.items() if n) or "nothing"
    return f"{offered} ({status.transport}, MCP {status.protocol_version})"


def _tools(parts: Running, caller: Caller) -> str:
    tools = [escaped(target.public_name) for target in parts.gateway.visible(caller, Kind.TOOL)]
    more = f" and {len(tools) - MAX_NAMES} more" if len(tools) > MAX_NAMES else ""
    return (", ".join(tools[:MAX_NAMES]) or "no tools") + more


def _say_how_many_more(table: Table, lines: int, command: str) -> None:
    if lines > MAX_LINES:
        table.add_row(f"and {lines - MAX_LINES} more", f"({command})")


def _columns(count: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(count):
        table.add_column(overflow="fold")
    return table


def _program() -> str:
    """How this program was called: pasted into the same folder, it is found again."""
    called = sys.argv[0]
    if Path(called).name == "__main__.py":
        return "python -m mcp_gateway"
    return Path(called).name if shutil.which(Path(called).name) == called else called


def _absolute_program() -> str:
    if Path(sys.argv[0]).name == "__main__.py":
        return f"{sys.executable} -m mcp_gateway"
    return str(Path(sys.argv[0]).absolute())
