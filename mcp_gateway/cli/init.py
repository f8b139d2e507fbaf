"""`mcp-gateway init`: a servers.toml and a first policy from the MCP configurations that are there already."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.intake import (
    Keep,
    SecretsIn,
    comment_on,
    description,
    keep_secrets,
    referring,
    resolved_keep,
    switched_off_without,
)
from mcp_gateway.cli.output import (
    DEFAULT_CONFIG,
    EXIT_NO,
    AsJson,
    DryRun,
    Yes,
    ask,
    out,
    print_json,
    report,
    shown,
    warn,
)
from mcp_gateway.config.found import FoundServer, Survey, survey
from mcp_gateway.config.moved_secrets import Moved, without_secrets
from mcp_gateway.config.places import places
from mcp_gateway.config.textfile import create, refusal
from mcp_gateway.config.writing import first_policy, new_servers_toml
from mcp_gateway.errors import ConfigInvalid

EXISTS: Final = "GW-INIT-EXISTS"


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be written."""

    servers: tuple[FoundServer, ...]
    moved: tuple[Moved, ...]
    keep: Keep
    agents: tuple[str, ...]
    config: Path
    policy: Path

    @property
    def needs(self) -> tuple[str, ...]:
        """Variables that have to be set before the servers that name them can be used."""
        return tuple(dict.fromkeys(name for server in self.servers for name in server.needs))

    @property
    def servers_toml(self) -> str:
        comments = {server.name: comment_on(server) for server in self.servers}
        return new_servers_toml(self.servers, comments)

    @property
    def policy_toml(self) -> str:
        return first_policy(self.agents, [server.name for server in self.servers])


def init(
    config: Annotated[str, typer.Option("--config", "-c", help="The servers.toml to write.")] = DEFAULT_CONFIG,
    source: Annotated[
        str, typer.Option("--from", help="URL or file of a registry's server.json or a bundle's manifest.json.")
    ] = "",
    secrets: SecretsIn = "auto",
    for_user: Annotated[bool, typer.Option("--user", help="Write to your own folder instead of this one.")] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Write servers.toml and a first policy from the MCP configurations on this machine, which stay as they are.

    It reads those of Claude Code, Claude Desktop, Cursor, VS Code, Codex, Gemini CLI, Goose and Zed. Tools that say of
    themselves that they only read are allowed, everything else has to be granted. Secrets are moved out: what is
    written holds references to them. Nothing that is there already is overwritten.

    Example: `mcp-gateway init --dry-run`
    """
    path = Path(places().our_config) / DEFAULT_CONFIG if for_user else Path(config)
    _check_nothing_there(path)
    found = Survey((description(source),)) if source else survey(places(), Path.cwd())
    plan = planned(found, path, secrets)
    if as_json:
        print_json(_plain(plan, found))
    else:
        _preview(plan, found)
    if dry_run:
        if not as_json:
            _print_files(plan)
        return
    if not (yes or ask("Write these two files?")):
        raise typer.Exit(EXIT_NO)
    _write(plan)
    if not as_json:
        _tell_next(plan)


def planned(found: Survey, path: Path, keep: Keep) -> Plan:
    """What is to be written for what was found; nothing is stored yet."""
    keep = resolved_keep(keep)
    servers, moved = without_secrets(found.servers, referring(keep))
    servers = tuple(switched_off_without(server) for server in servers)
    policy = path.absolute().parent / "policies" / "agents.toml"
    return Plan(servers, moved, keep, found.clients or ("agent",), path, policy)


def _check_nothing_there(path: Path) -> None:
    policies = path.absolute().parent / "policies"
    there = [path] if path.exists() else sorted(policies.glob("*.toml")) if policies.is_dir() else []
    if there:
        fix = "add to it: mcp-gateway servers add NAME; or write elsewhere: mcp-gateway init --config new/servers.toml"
        raise refusal(there[0], 0, "is there already, and is not overwritten", fix, EXISTS)


def _preview(plan: Plan, found: Survey) -> None:
    for complaint in found.complaints:
        report(ConfigInvalid([complaint]))
    for path in found.files:
        out.print(Text.assemble(("read ", "dim"), escaped(str(path))))
    table = Table("server", "how", "from", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for server in plan.servers:
        how = " ".join(server.command) or server.url
        style = "green" if server.enabled else "yellow"
        table.add_row(Text(server.name, style), escaped(f"{how:.60}"), escaped(server.origin))
    if plan.servers:
        out.print()
        out.print(table, soft_wrap=False)
    else:
        out.print("no MCP servers found; add some later: mcp-gateway servers add NAME -- PROGRAM ARGUMENTS")
    for reason in found.skipped:
        out.print(Text.assemble(("left out ", "dim"), escaped(reason)))
    places_of = {"keyring": "the keyring", "env": "the environment", "file": "secrets/"}
    for moved in plan.moved:
        out.print(
            Text.assemble(("secret ", "yellow"), escaped(f"{moved.name} ({moved.server}, {moved.where})")).append(
                f" -> {places_of[plan.keep]}"
            )
        )
    out.print(f"\nagents: {', '.join(plan.agents)}")
    out.print(f"to be written: {shown(plan.config.absolute())}, {shown(plan.policy)}")


def _print_files(plan: Plan) -> None:
    for path, text in ((plan.config, plan.servers_toml), (plan.policy, plan.policy_toml)):
        out.print(f"\n--- {shown(path.absolute())}", style="bold")
        for line in text.splitlines():
            out.print(escaped(line))


def _write(plan: Plan) -> None:
    keep_secrets(plan.moved, plan.keep, plan.config.absolute().parent)
    create(plan.config, plan.servers_toml, 0o644)
    create(plan.policy, plan.policy_toml, 0o644)


def _tell_next(plan: Plan) -> None:
    out.print(Text.assemble(("wrote ", "green"), f"{shown(plan.config.absolute())} and {shown(plan.policy)}"))
    waiting = [server for server in plan.servers if not server.enabled and server.notes]
    for name in plan.needs:
        if name not in os.environ:
            where = next(
                (f"{m.where} of {m.server}" for m in plan.moved if m.name == name), "see the server's own pages"
            )
            warn(f"set {name} where the gateway is started ({where})", f"export {name}=...")
    for server in waiting:
        out.print(f"  then: mcp-gateway servers enable {server.name}")
    first = plan.agents[0]
    out.print("\nNext:", style="bold")
    out.print("  mcp-gateway doctor                 whether everything works")
    out.print(f"  mcp-gateway connect {first:<14} one entry in your agent's program, with a backup")
    out.print(f"  mcp-gateway tools --agent {first:<8} what that agent may use")


def _plain(plan: Plan, found: Survey) -> dict[str, object]:
    return {
        "servers": [
            {
                "name": server.name,
                "from": server.origin,
                "command": list(server.command) or None,
                "url": server.url or None,
                "enabled": server.enabled,
                "needs": list(server.needs),
            }
            for server in plan.servers
        ],
        "secrets": [{"name": m.name, "server": m.server, "where": m.where, "to": plan.keep} for m in plan.moved],
        "agents": list(plan.agents),
        "read": [str(path) for path in found.files],
        "left_out": list(found.skipped),
        "complaints": [str(complaint) for complaint in found.complaints],
        "files": {str(plan.config): plan.servers_toml, str(plan.policy): plan.policy_toml},
    }
