"""`mcp-gateway check`: everything an operator wrote, validated without starting anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import typer
from rich.text import Text

from mcp_gateway.cli.output import (
    DEFAULT_CONFIG,
    EXIT_UNUSABLE,
    AsJson,
    ConfigPath,
    out,
    print_json,
    report,
    shown,
    warn,
)
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.config.toml_lines import did_you_mean
from mcp_gateway.domain import DRAFTS, Kind
from mcp_gateway.errors import Complaint, ConfigInvalid, PolicyInvalid
from mcp_gateway.policy.compile import Policy
from mcp_gateway.policy.document import Grant
from mcp_gateway.policy.tables import CODE
from mcp_gateway.rest.lifecycle import State
from mcp_gateway.wiring import policy_of


def check(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Validate servers.toml and the policies; every complaint names file, line and fix.

    Example: `mcp-gateway check --json`
    """
    path, errors = Path(config), list[ConfigInvalid | PolicyInvalid]()
    configuration, policy = _configuration(path, errors), None
    if configuration is not None:
        policy = _policy(configuration, errors)
    warnings = (
        *(configuration.warnings if configuration else ()),
        *(policy.warnings if policy else ()),
        *(strangers(configuration, policy) if configuration and policy else ()),
    )
    if as_json:
        complaints = [complaint for error in errors for complaint in error.complaints]
        print_json({"ok": not errors, "errors": _plain(complaints), "warnings": _plain(warnings)})
    else:
        _print(configuration, policy, errors, warnings)
    if errors:
        raise typer.Exit(EXIT_UNUSABLE)


def _configuration(path: Path, errors: list[ConfigInvalid | PolicyInvalid]) -> Configuration | None:
    try:
        return load(path, os.environ)
    except ConfigInvalid as e:
        errors.append(e)
        return None


def _policy(configuration: Configuration, errors: list[ConfigInvalid | PolicyInvalid]) -> Policy | None:
    try:
        return policy_of(configuration)
    except PolicyInvalid as e:
        errors.append(e)
        return None


def strangers(configuration: Configuration, policy: Policy) -> Iterator[Complaint]:
    """Grants for servers that are not there: a misspelt name allows nothing, and nobody would ever see why."""
    known = {server.name for server in configuration.servers} | {DRAFTS}
    for task in policy.tasks.values():
        for grant in (*task.grants, *task.denies):
            named = {pattern.upstream for pattern in grant.patterns if pattern.kind is not Kind.MODEL}
            for upstream in sorted(named - known - {"*"}):
                message = f"no server is named {upstream!r}, so this concerns nothing"
                yield Complaint(grant.at.file, grant.at.line, message, did_you_mean(upstream, known - {DRAFTS}), CODE)
            yield from _strange_drafts(configuration, grant)


def _strange_drafts(configuration: Configuration, grant: Grant) -> Iterator[Complaint]:
    routes = [(server.name, route) for server in configuration.servers if server.rest for route in server.rest.routes]
    drafts = [f"{server}/{route.name}" for server, route in routes if route.life.state is State.DRAFT]
    for pattern in grant.patterns:
        if pattern.upstream == DRAFTS and not any(pattern.name.matches(draft) for draft in drafts):
            message = f"no route is a draft named {pattern.name.text!r}, so this concerns nothing"
            yield Complaint(grant.at.file, grant.at.line, message, did_you_mean(pattern.name.text, drafts), CODE)


def _print(
    configuration: Configuration | None,
    policy: Policy | None,
    errors: list[ConfigInvalid | PolicyInvalid],
    warnings: tuple[Complaint, ...],
) -> None:
    for complaint in warnings:
        where = f"{complaint.file}:{complaint.line}" if complaint.line else complaint.file
        warn(f"{complaint.code} {where}: {complaint.message}", complaint.fix)
    for error in errors:
        report(error)
    if configuration is not None:
        names = [server.name for server in configuration.servers if server.enabled]
        _ok(f"{configuration.path}: {_count(len(names), 'server')}{_listed(names)}")
        if configuration.models.offered:
            models = sorted(configuration.models.offered)
            _ok(f"{configuration.path}: {_count(len(models), 'model')}{_listed(models)}")
    if configuration is not None and policy is not None:
        agents = sorted(policy.assignments)
        said = f"{_count(len(agents), 'agent')}{_listed(agents)}" if agents else "no agent, so everything is denied"
        _ok(f"{shown(configuration.settings.policies)}: policy {policy.version[:8]}, {said}")


def _ok(text: str) -> None:
    out.print(Text.assemble(("ok ", "green"), text))


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _listed(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _plain(complaints: list[Complaint] | tuple[Complaint, ...]) -> list[dict[str, object]]:
    return [{"code": c.code, "file": c.file, "line": c.line, "message": c.message, "fix": c.fix} for c in complaints]
