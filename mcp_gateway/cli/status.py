"""`mcp-gateway status` and `stop`: how the gateway of this configuration is doing. An operator's view.

No agent sees this. It is told by the gateway itself, over the private socket in its state folder; where none runs, what
the files say is all there is. `SECTIONS` is the list of what is shown: another room's command adds its own there.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import anyio
import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mcp_gateway.audit.query import Filters, escaped
from mcp_gateway.cli.login import standings_of
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, out, print_json, run, shown
from mcp_gateway.cli.shared import status_of
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.credentials.owners import name_of
from mcp_gateway.credentials.standing import State
from mcp_gateway.domain import UpstreamState
from mcp_gateway.errors import PolicyInvalid, StoreUnavailable
from mcp_gateway.wiring import audit_reader, keys_of, policy_of, utc_now

STOP_S: Final = 15.0
MAX_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class View:
    """What the sections are made of."""

    configuration: Configuration
    running: Mapping[str, Any] | None
    """What the gateway says of itself; None: none runs."""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the status: its name in JSON and as a heading, its data, and how it looks."""

    name: str
    data: Any
    lines: tuple[RenderableType, ...]


MakeSection = Callable[[View], Section]


def status(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show how the gateway is doing: whether it runs, its upstreams, who is attached, the last day's calls.

    An operator's view; what an agent sees is `mcp-gateway tools`. Exits 1 where none runs.

    Example: `mcp-gateway status --json`
    """
    configuration = load(Path(config), os.environ)
    view = View(configuration, run(status_of, configuration))
    sections = [make(view) for make in SECTIONS]
    if as_json:
        print_json({section.name: section.data for section in sections})
    else:
        for section in sections:
            out.print(Text(section.name.replace("_", " "), "bold"))
            for line in section.lines:
                out.print(line, soft_wrap=False)
    if view.running is None:
        raise typer.Exit(EXIT_NO)


def stop(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Stop the gateway that runs on this configuration: its upstreams end, whoever is attached is let go.

    Exits 1 where none runs.

    Example: `mcp-gateway stop`
    """
    stopped = run(_stopped, load(Path(config), os.environ))
    if as_json:
        print_json({"stopped": stopped})
    else:
        out.print("stopped" if stopped else "no gateway runs here")
    if not stopped:
        raise typer.Exit(EXIT_NO)


async def _stopped(configuration: Configuration) -> bool:
    told = await status_of(configuration)
    if told is None:
        return False
    os.kill(int(told["pid"]), signal.SIGTERM)
    with anyio.move_on_after(STOP_S):
        return await _gone(configuration)
    return False


async def _gone(configuration: Configuration) -> bool:
    while await status_of(configuration) is not None:  # noqa: ASYNC110  another process ends: nobody sets an event
        await anyio.sleep(0.05)
    return True


def _gateway(view: View) -> Section:
    told = view.running
    if told is None:
        lines = ["  does not run; it starts with the first `mcp-gateway stdio`, or: mcp-gateway serve"]
        return Section("gateway", {"running": False}, tuple(lines))
    ago = timedelta(seconds=int(max(0, time.time() - float(told["started"]))))
    where = f", serves {told['url']}" if told["url"] else ", opens no port"
    lines = [f"  runs since {ago} (process {told['pid']}, version {told['version']}){where}"]
    lines += _workers(told.get("workers", []))
    lines += [f"  audit {told['audit']}"] if told["audit"] != "ok" else []
    lines += [f"  not in force as it stands: {escaped(text)}" for text in told["complaints"].values()]
    keys = ("pid", "version", "url", "started", "ready", "audit", "complaints", "policy")
    data = {"running": True, **{key: told[key] for key in keys}, "workers": told.get("workers", [])}
    return Section("gateway", data, tuple(lines))


def _workers(told: list[dict[str, Any]]) -> list[str]:
    return [
        f"  worker {one['number']}: {one['state']}"
        + (f", process {one['pid']}" if one["pid"] else "")
        + (f", restarts: {one['restarts']}" if one["restarts"] else "")
        for one in told
    ]


def _upstreams(view: View) -> Section:
    if view.running is None:
        names = [(server.name, server.enabled) for server in view.configuration.servers]
        data = [{"name": name, "state": "not running" if on else "disabled"} for name, on in names]
        table = _table(2)
        for one in data:
            table.add_row(f"  {one['name']}", Text(one["state"], "dim"))
        return Section("upstreams", data, (table,))
    table, data = _table(4), view.running["upstreams"]
    for told in data:
        is_ready = told["state"] == UpstreamState.READY
        said = f"{told.get('tools', 0)} tools" if is_ready else escaped(str(told["detail"] or ""))
        how = f"{told['transport']}, MCP {told['protocol_version']}" if is_ready else ""
        table.add_row(f"  {escaped(told['name'])}", Text(told["state"], "green" if is_ready else "yellow"), said, how)
    return Section("upstreams", data, (table,))


def _held_back(view: View) -> Section:
    """Definitions that wait for review."""
    data = list(view.running.get("held", ())) if view.running else []
    if not data:
        return Section("held_back", data, ("  nothing",))
    more = f" and {len(data) - MAX_NAMED} more" if len(data) > MAX_NAMED else ""
    return Section("held_back", data, (f"  {escaped(', '.join(data[:MAX_NAMED]))}{more} (mcp-gateway pins diff)",))


def _lists(view: View) -> Section:
    """What the list of tools costs each agent's model."""
    data = list(view.running.get("lists", ())) if view.running else []
    table = _table(3)
    for one in data[:MAX_NAMED]:
        how = "three tools to find them with, about" if one["searched"] else "about"
        table.add_row(f"  {one['agent']}", one["task"], f"{one['tools']} tools, {how} {one['tokens']} tokens")
    return Section("lists", data, (table,) if data else ("  none",))


def _attached(view: View) -> Section:
    data = view.running["attached"] if view.running else []
    table = _table(4)
    for one in data:
        ago = timedelta(seconds=int(max(0, time.time() - float(one["since"]))))
        table.add_row(
            f"  {escaped(one['agent'])}",
            escaped(one["task"] or "its default task"),
            escaped(one["client"]),
            f"since {ago}",
        )
    return Section("attached", data, (table,) if data else ("  nobody",))


def _policy(view: View) -> Section:
    try:
        policy = policy_of(view.configuration)
    except PolicyInvalid as e:
        return Section("policy", {"error": str(e)}, (f"  cannot be used: {escaped(str(e))}",))
    agents = sorted(policy.assignments)
    where = shown(view.configuration.settings.policies)
    data = {"version": policy.version, "agents": agents}
    return Section("policy", data, (f"  {where} {policy.version[:8]}: {', '.join(agents) or 'no agent'}",))


def _logins(view: View) -> Section:
    try:
        standing = [one for one in run(standings_of, view.configuration) if one.kind]
    except StoreUnavailable as e:
        return Section("logins", {"error": str(e)}, (f"  {escaped(str(e))}",))
    data = [{"upstream": one.upstream, "owner": one.owner, "state": one.state.value} for one in standing]
    table = _table(3)
    for one in standing:
        is_missing = one.state is State.NEEDS_LOGIN
        state = Text(one.state.value.replace("_", " "), "yellow" if is_missing else "green")
        table.add_row(f"  {one.upstream}", escaped(name_of(one.owner)) if one.owner else "", state)
    return Section("logins", data, (table,) if data else ("  none needed",))


def _keys(view: View) -> Section:
    try:
        valid = [record for record in keys_of(view.configuration).list() if record.holds(utc_now())]
    except StoreUnavailable as e:
        return Section("keys", {"error": str(e)}, (f"  {escaped(str(e))}",))
    agents = sorted({record.agent for record in valid})
    return Section(
        "keys", {"valid": len(valid), "agents": agents}, (f"  {len(valid)} valid: {', '.join(agents) or 'none'}",)
    )


def _calls(view: View) -> Section:
    since = utc_now() - timedelta(days=1)
    try:
        with audit_reader(view.configuration) as audit:
            rows = audit.calls(Filters(since=since, limit=100_000))
    except StoreUnavailable:
        return Section("last_day", {"calls": 0, "denied": 0, "failed": 0}, ("  no audit yet",))
    denied = sum(row["decision"] == "denied" for row in rows)
    failed = sum(row["decision"] != "denied" and row["outcome"] not in ("ok", "input_required", None) for row in rows)
    data = {"calls": len(rows), "denied": denied, "failed": failed}
    return Section("last_day", data, (f"  {len(rows)} calls, {denied} denied, {failed} failed (mcp-gateway log)",))


def _table(columns: int) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(columns):
        table.add_column(overflow="fold")
    return table


def sections() -> Iterator[str]:
    """The names of what is shown."""
    return (make.__name__.strip("_") for make in SECTIONS)


SECTIONS: Final[list[MakeSection]] = [
    _gateway,
    _upstreams,
    _held_back,
    _lists,
    _attached,
    _policy,
    _keys,
    _logins,
    _calls,
]
"""What `status` shows, from top to bottom."""
