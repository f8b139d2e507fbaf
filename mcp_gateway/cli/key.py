"""`mcp-gateway key`: the API keys that let agents in over HTTP."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.table import Table
from rich.text import Text

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.durations import duration
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, err, out, print_json, shown, warn
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.errors import PolicyInvalid, StoreUnavailable
from mcp_gateway.identity.keys import KeyRecord
from mcp_gateway.wiring import keys_of, open_audit, policy_of, utc_now

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)


@app.command()
def create(
    agent: Annotated[str, typer.Argument(help="Whom the key is for; a name from the policies.")],
    expires: Annotated[str | None, typer.Option(help="How long it holds: 30d, 12h; else until revoked.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Issue an API key. It is printed once and cannot be had again; only a hash of it is kept.

    Example: `mcp-gateway key create support-bot --expires 30d`
    """
    configuration = load(Path(config), os.environ)
    holds_for = duration(expires) if expires else None
    try:
        token, record = anyio.run(_create, configuration, agent, holds_for)
    except ValueError as e:
        raise typer.BadParameter(str(e)) from e
    _warn_of_strangers(configuration, agent)
    if as_json:
        print_json({"key": token, **_plain(record)})
        return
    out.print(token)
    until = f"until {_at(record.expires)}" if record.expires else "until it is revoked"
    err.print(f"Shown once. It identifies the agent {agent} {until}; its id is {record.public_id}.")
    err.print("Agents send it as the header  Authorization: Bearer KEY")


@app.command("list")
def list_keys(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List the keys ever issued, without the keys themselves.

    Example: `mcp-gateway key list --json`
    """
    records = keys_of(load(Path(config), os.environ)).list()
    if as_json:
        print_json([_plain(record) for record in records])
        return
    if not records:
        out.print("no keys yet: mcp-gateway key create AGENT")
        return
    table = Table("id", "agent", "created (UTC)", "expires", "state", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for record in records:
        state = _state(record)
        expires = f"{record.expires:%Y-%m-%d %H:%M}" if record.expires else "never"
        style = "green" if state == "valid" else "dim"
        table.add_row(record.public_id, record.agent, f"{record.created:%Y-%m-%d %H:%M}", expires, Text(state, style))
    out.print(table, soft_wrap=False)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id that `key list` shows; or a whole key.")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Revoke a key: from now on no request with it is accepted, and streams opened with it end.

    Exits 1 where no valid key has that id.

    Example: `mcp-gateway key revoke 3kTz81pQx0aB`
    """
    configuration = load(Path(config), os.environ)
    public_id = key_id.split("_")[1] if key_id.startswith("mgw_") and key_id.count("_") == 2 else key_id
    is_revoked = keys_of(configuration).revoke(public_id, utc_now())
    if is_revoked:
        anyio.run(_note_revoked, configuration, public_id)
    if as_json:
        print_json({"id": public_id, "revoked": is_revoked})
    elif is_revoked:
        out.print(f"revoked {public_id}")
    else:
        err.print(f"no valid key has the id {escaped(public_id)}; see mcp-gateway key list")
    if not is_revoked:
        raise typer.Exit(EXIT_NO)


async def _create(configuration: Configuration, agent: str, holds_for: timedelta | None) -> tuple[str, KeyRecord]:
    """No key without its entry: the audit is opened first, and a key that it does not hold is taken back."""
    keys = keys_of(configuration)
    async with open_audit(configuration) as audit:
        token, record = keys.create(agent, holds_for, utc_now())
        try:
            await audit.note("key", record.public_id, agent=agent, reason="created")
        except StoreUnavailable:
            keys.revoke(record.public_id, utc_now())
            raise
    return token, record


async def _note_revoked(configuration: Configuration, public_id: str) -> None:
    async with open_audit(configuration) as audit:
        await audit.note("key", public_id, reason="revoked")


def _warn_of_strangers(configuration: Configuration, agent: str) -> None:
    try:
        known = policy_of(configuration).assignments
    except PolicyInvalid:
        return  # `check` tells; a broken policy is no reason to doubt the name
    if agent not in known:
        fix = f"add [agents.{agent}] to a file in {shown(configuration.settings.policies)}"
        warn(f"no policy names the agent {agent!r}, so this key may do nothing yet", fix)


def _plain(record: KeyRecord) -> dict[str, str | None]:
    return {
        "id": record.public_id,
        "agent": record.agent,
        "created": _at(record.created),
        "expires": _at(record.expires),
        "revoked": _at(record.revoked),
        "state": _state(record),
    }


def _state(record: KeyRecord) -> str:
    return "revoked" if record.revoked else "valid" if record.holds(utc_now()) else "expired"


def _at(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None
