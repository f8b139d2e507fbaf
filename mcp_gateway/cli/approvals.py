"""`mcp-gateway approvals`: calls that wait for a person, and the answers to them."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, out, print_json
from mcp_gateway.cli.task import at_the_desk
from mcp_gateway.frontdoor.desk import plain_approval
from mcp_gateway.storage.approvals import Approval

app = typer.Typer(help="Calls that wait for a person: list, show, approve, deny.", no_args_is_help=True)

ApprovalId = Annotated[str, typer.Argument(help="The id that `approvals list` shows.")]
By = Annotated[str, typer.Option(help="Who answers, for the audit; else the name of the user.")]


@app.command("list")
def list_approvals(
    all_of_them: Annotated[bool, typer.Option("--all", help="Those that are answered or expired, too.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """List the calls that wait for a person's answer.

    Example: `mcp-gateway approvals list`
    """
    found = at_the_desk(config, lambda desk: desk.approvals(all_of_them=all_of_them))
    if as_json:
        print_json([plain_approval(approval) for approval in found])
        return
    if not found:
        out.print("nothing waits for an answer")
        return
    table = Table(
        "id", "asked (UTC)", "agent", "task", "target", "state", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for approval in found:
        names = (approval.agent, approval.task, approval.target)
        table.add_row(approval.id, _at(approval.asked_at), *(Text(escaped(name)) for name in names), approval.state)
    out.print(table, soft_wrap=False)


@app.command()
def show(approval_id: ApprovalId, config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show one call with its arguments, exactly as they would be sent.

    Example: `mcp-gateway approvals show 7f3kq0z2ma`
    """
    found = plain_approval(at_the_desk(config, lambda desk: desk.approval(approval_id), code=EXIT_NO))
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        if value not in (None, ""):
            out.print(f"{name:>12}  {escaped(str(value))}")


@app.command()
def approve(approval_id: ApprovalId, by: By = "", config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Let one call through, once, with exactly the arguments shown. Exits 1 where it does not wait any more.

    Example: `mcp-gateway approvals approve 7f3kq0z2ma`
    """
    _answer(approval_id, by, config, yes=True, as_json=as_json)


@app.command()
def deny(approval_id: ApprovalId, by: By = "", config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Refuse one call. Exits 1 where it does not wait any more.

    Example: `mcp-gateway approvals deny 7f3kq0z2ma`
    """
    _answer(approval_id, by, config, yes=False, as_json=as_json)


def _answer(approval_id: str, by: str, config: str, *, yes: bool, as_json: bool) -> None:
    who = by or getpass.getuser()
    found = at_the_desk(config, lambda desk: desk.answer(approval_id, yes=yes, by=who), code=EXIT_NO)
    if as_json:
        print_json(plain_approval(found))
    else:
        out.print(_said(found))


def _said(approval: Approval) -> str:
    words = escaped(f"{approval.state} {approval.id}: {approval.target} for {approval.agent}")
    return f"{words}, until {_at(approval.expires_at)}" if approval.state == "approved" else words


def _at(micros: int) -> str:
    return f"{datetime.fromtimestamp(micros / 1_000_000, UTC):%Y-%m-%d %H:%M}"
