"""`mcp-gateway login` and `logout`: logging in to upstreams from the command line, and how those logins stand."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import typer
from rich.table import Table

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, err, out, print_json
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.config.upstream_auth import AuthKind
from mcp_gateway.credentials.broker import TokenBroker
from mcp_gateway.credentials.consents import TTL_S
from mcp_gateway.credentials.owners import Owner, name_of, owner_id
from mcp_gateway.credentials.standing import Standing, State, standings
from mcp_gateway.errors import UpstreamError
from mcp_gateway.frontdoor.connect import ConnectPages
from mcp_gateway.frontdoor.connect_listener import ConnectListener
from mcp_gateway.storage.vault import LoginRow
from mcp_gateway.wiring import broker_of, open_audit, policy_of, utc_now

Person = Annotated[str, typer.Option(help="The person it will be for, as agents' tokens name them (sub).")]
Issuer = Annotated[str, typer.Option(help="Who issues that person's tokens (iss), as in [identity.issuers].")]
Agent = Annotated[str, typer.Option(help="The agent it will be for, where agents come without a person.")]

_STYLES: Final = {State.NEEDS_LOGIN: "red", State.VALID: "green"}


def login(
    upstream: Annotated[str, typer.Argument(help="The upstream, as servers.toml names it.")] = "",
    person: Person = "",
    issuer: Issuer = "",
    agent: Agent = "",
    port: Annotated[int, typer.Option(help="Of the page on this machine; else any free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    status: Annotated[bool, typer.Option("--status", help="Log in to nothing; tell how all logins stand.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Log in to an upstream with a browser, for one person or agent; a gateway that runs uses it at once.

    Exits 1 where the login was not completed within ten minutes.

    Example: `mcp-gateway login --status`
    """
    configuration = load(Path(config), os.environ)
    if status or not upstream:
        _tell(configuration, upstream, as_json)
        return
    _check_upstream(configuration, upstream)
    owner = _owner(configuration, person, issuer, agent)
    row = anyio.run(_log_in, configuration, upstream, owner, port, browser, as_json)
    if row is None:
        err.print("nobody has logged in")
        raise typer.Exit(EXIT_NO)
    if as_json:
        print_json({"upstream": upstream, "owner": owner.id, "valid_until": _at(row.expires_at), "scopes": row.scopes})
    else:
        out.print(escaped(f"logged in to {upstream} for {name_of(owner.id)}, scopes: {row.scopes or 'none named'}"))


def logout(
    upstream: Annotated[str, typer.Argument(help="The upstream, as servers.toml names it.")],
    person: Person = "",
    issuer: Issuer = "",
    agent: Agent = "",
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Forget a login, and ask the authorization server to end it. Exits 1 where there is none.

    Example: `mcp-gateway logout crm --agent support-bot`
    """
    configuration = load(Path(config), os.environ)
    _check_upstream(configuration, upstream)
    owner = _owner(configuration, person, issuer, agent)
    was_there = anyio.run(_log_out, configuration, upstream, owner)
    if as_json:
        print_json({"upstream": upstream, "owner": owner.id, "removed": was_there})
    else:
        out.print(
            escaped(f"{name_of(owner.id)} {'is logged out of' if was_there else 'was not logged in to'} {upstream}")
        )
    if not was_there:
        raise typer.Exit(EXIT_NO)


def _check_upstream(configuration: Configuration, upstream: str) -> None:
    known = [s.name for s in configuration.servers if s.auth is not None and s.auth.kind is AuthKind.OAUTH]
    if upstream not in known:
        names = ", ".join(known) or 'none; write auth = "oauth" under a server'
        raise typer.BadParameter(f"{upstream!r} is not an upstream that people log in to: {names}")


def _owner(configuration: Configuration, person: str, issuer: str, agent: str) -> Owner:
    """Whose login it is; without a word about it the one agent there is."""
    if person and agent:
        raise typer.BadParameter("a login is a person's or an agent's, not both")
    if not person and not agent:
        agents = sorted(policy_of(configuration).assignments)
        if len(agents) != 1:
            raise typer.BadParameter(
                f"say whose login it is: --person NAME, or --agent with one of {', '.join(agents)}"
            )
        agent = agents[0]
    return Owner(owner_id(person, issuer, agent), person, issuer, agent)


async def _log_in(
    configuration: Configuration, upstream: str, owner: Owner, port: int, browser: bool, as_json: bool
) -> LoginRow | None:
    done = anyio.Event()
    async with _broker(configuration, done) as broker, open_audit(configuration) as audit:
        listener = ConnectListener(ConnectPages(broker.consents), port)
        party = broker.party(upstream)
        assert party is not None  # noqa: S101  it was looked for before
        try:
            pending = broker.consents.begin(owner, party, (), await listener.base_url())
            _say_where(pending.page, as_json)
            if browser:
                webbrowser.open(pending.page)
            with anyio.move_on_after(TTL_S):
                await done.wait()
                await audit.note("login", upstream, agent=owner.agent, reason=f"{owner.id} logged in (command line)")
        finally:
            await listener.close()
        kept = await broker.vault.login(owner.id, upstream) if done.is_set() else None
        return None if kept is None else kept.row


async def _log_out(configuration: Configuration, upstream: str, owner: Owner) -> bool:
    async with _broker(configuration, anyio.Event()) as broker, open_audit(configuration) as audit:
        try:
            was_there = await broker.log_out(owner.id, upstream)
        except UpstreamError as e:
            was_there = True
            err.print(escaped(f"removed here; the authorization server could not be told: {e}"))
        if was_there:
            await audit.note("login", upstream, agent=owner.agent, reason=f"{owner.id} logged out (command line)")
        return was_there


@asynccontextmanager
async def _broker(configuration: Configuration, done: anyio.Event) -> AsyncIterator[TokenBroker]:
    async def no_pages(owner: Owner) -> str:
        raise LookupError

    broker = broker_of(configuration, no_pages, lambda upstream: done.set())
    broker.apply(configuration.servers, configuration.settings.allow_addresses)
    try:
        yield broker
    finally:
        await broker.close()
        broker.vault.close()


def _say_where(page: str, as_json: bool) -> None:
    if as_json:
        print_json({"open": page})
    else:
        out.print(f"Open this page in a browser on this machine, within ten minutes:\n  {page}")


def _tell(configuration: Configuration, upstream: str, as_json: bool) -> None:
    found = [each for each in anyio.run(standings_of, configuration) if upstream in ("", each.upstream)]
    if as_json:
        print_json([_plain(standing) for standing in found])
        return
    table = Table("upstream", "whose", "state", "valid until (UTC)", "scopes", "last error", "next step", box=None)
    for standing in found:
        cells = (
            standing.upstream,
            name_of(standing.owner),
            standing.state,
            _at(standing.valid_until) or "",
            " ".join(standing.scopes),
            standing.last_error,
            standing.next_step,
        )
        table.add_row(*(escaped(cell) for cell in cells), style=_STYLES.get(standing.state))
    out.print(table, soft_wrap=False)


async def standings_of(configuration: Configuration) -> tuple[Standing, ...]:
    """How every upstream's credentials stand. Raises `StoreUnavailable` where the vault cannot be read."""
    rows: tuple[LoginRow, ...] = ()
    if any(server.auth is not None for server in configuration.servers):
        async with _broker(configuration, anyio.Event()) as broker:
            rows = await broker.vault.rows()
    return standings(configuration.servers, rows, utc_now().timestamp())


def _plain(standing: Standing) -> dict[str, Any]:
    plain = asdict(standing)
    return {**plain, "valid_until": _at(standing.valid_until), "last_error_at": _at(standing.last_error_at)}


def _at(moment: float | None) -> str | None:
    with suppress(OverflowError, ValueError):
        return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
    return None
