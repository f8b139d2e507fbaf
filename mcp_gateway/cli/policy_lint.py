"""`mcp-gateway policy lint`: what is odd in a policy that is valid."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import typer

from mcp_gateway.catalog.catalog import build
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, out, print_json, warn
from mcp_gateway.config.lock import lock_path, read_lock
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.domain import Json, Kind, Listing, Target
from mcp_gateway.errors import Complaint
from mcp_gateway.policy.lint import UNREACHABLE
from mcp_gateway.policy.lint import lint as linted
from mcp_gateway.telemetry import setup_logging
from mcp_gateway.wiring import naming_rule, policy_of, sifted_of

ASK_UPSTREAMS_S: Final = 15.0
_MEMBER_OF: Final[Mapping[str, str]] = {
    Kind.TOOL: "tools",
    Kind.PROMPT: "prompts",
    Kind.RESOURCE: "resources",
    Kind.TEMPLATE: "templates",
}


def lint(
    locked: Annotated[
        bool, typer.Option("--locked", help="Go by servers.lock and start nothing, as in CI; else ask the upstreams.")
    ] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Name lines that do nothing, conditions that cannot hold, and traps; exits 1 if there are any.

    What no task can use is named too, and is no reason to fail.

    Example: `mcp-gateway policy lint --locked`
    """
    setup_logging("critical")
    configuration = load(Path(config), os.environ)
    listings = _locked(configuration) if locked else _asked(configuration)
    rules = {server.name: naming_rule(server) for server in configuration.servers}
    catalog = build(listings.values(), rules)
    targets: list[Target] = [target for kind in Kind for target in catalog.targets(kind)]
    found = linted(policy_of(configuration), targets, listings.keys())
    if as_json:
        print_json([asdict(complaint) for complaint in found])
    else:
        _print(found)
    if any(complaint.code != UNREACHABLE for complaint in found):
        raise typer.Exit(EXIT_NO)


def _asked(configuration: Configuration) -> Mapping[str, Listing]:
    lock = read_lock(lock_path(configuration.path))
    sifted, silent = anyio.run(sifted_of, configuration, lock, ASK_UPSTREAMS_S)
    for name, detail in silent.items():
        warn(f"upstream {name!r} cannot be asked, so nothing is said of what concerns it: {detail}")
    return {name: parted.listing for name, parted in sifted.items()}


def _locked(configuration: Configuration) -> Mapping[str, Listing]:
    """What the pins say each upstream offers."""
    listings = {}
    for name, pins in read_lock(lock_path(configuration.path)).upstreams.items():
        by_member: dict[str, list[Json]] = {member: [] for member in _MEMBER_OF.values()}
        for key, pin in pins.pins.items():
            if (member := _MEMBER_OF.get(key.partition(":")[0])) is not None:
                by_member[member].append(dict(pin.definition))
        lists: dict[str, Any] = {member: tuple(found) for member, found in by_member.items()}
        listings[name] = Listing(name, **lists)
    return listings


def _print(found: Sequence[Complaint]) -> None:
    for complaint in found:
        where = f"{complaint.file}:{complaint.line}" if complaint.line else complaint.file
        warn(f"{complaint.code} {where}: {complaint.message}", complaint.fix)
    out.print(f"{len(found)} finding{'' if len(found) == 1 else 's'}")
