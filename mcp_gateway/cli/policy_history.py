"""`mcp-gateway policy replay` and `suggest`: what a policy would have done, and the narrowest one that does."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from rich.table import Table
from rich.text import Text

from mcp_gateway.audit.query import AuditReader, escaped
from mcp_gateway.catalog.naming import NamingRule
from mcp_gateway.cli.durations import duration
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, err, out, print_json, warn
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.domain import Kind, Target
from mcp_gateway.policy.compile import Policy, compile_policy, sources_of
from mcp_gateway.policy.document import from_sources
from mcp_gateway.policy.replay import Change, Report
from mcp_gateway.policy.replay import replay as replayed
from mcp_gateway.policy.suggest import Evidence, Proposal
from mcp_gateway.policy.suggest import suggest as suggested
from mcp_gateway.wiring import audit_reader, naming_rule, policy_of, utc_now

MAX_SHOWN: Final = 50

Against = Annotated[Path | None, typer.Option(help="The audit; else the one servers.toml names.")]
Since = Annotated[str, typer.Option(help="Only the last 12h, 7d, 4w ...; without it, all there is.")]


def replay(
    against: Against = None,
    since: Since = "",
    policies: Annotated[Path | None, typer.Option(help="The candidate; else the policy servers.toml names.")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="As if what is in shadow were enforced.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for what cannot be known, too.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Judge every past decision again under a candidate policy; exits 1 if one comes out differently.

    `unknown` is what the audit does not hold enough for: redacted arguments, claims.

    Example: `mcp-gateway policy replay --against audit.db --since 7d`
    """
    configuration = _configuration(Path(config), against, policies)
    candidate = policy_of(configuration)
    if shadow:
        candidate = candidate.shadow or candidate
    with audit_reader(configuration) as audit:
        targets = targets_of(audit, configuration)
        report = replayed(candidate, audit.decisions(utc_now() - duration(since) if since else None), targets)
    if as_json:
        print_json({"policy": candidate.version, **_plain(report)})
    else:
        _print(candidate, report)
    if report.flips or (strict and report.unknown):
        raise typer.Exit(EXIT_NO)


def suggest(
    agent: Annotated[str, typer.Option(help="Narrow the tasks this agent is on.")],
    since: Since = "30d",
    task: Annotated[str, typer.Option(help="Only this task of it.")] = "",
    against: Against = None,
    tools_only: Annotated[bool, typer.Option("--tools-only", help="Leave arguments as open as they are.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Edit the files instead of printing a patch.")] = False,
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Propose the narrowest policy that would have allowed what was really used, as a patch.

    It is proven before it is shown: the same history is replayed under it, and nothing may flip. Everybody on these
    tasks counts, not only the agent.

    Example: `mcp-gateway policy suggest --agent support-bot --since 30d > narrower.patch`
    """
    configuration = _configuration(Path(config), against, None)
    policy = policy_of(configuration)
    tasks = _tasks(policy, agent, task)
    began = utc_now() - duration(since) if since else None
    with audit_reader(configuration) as audit:
        targets = targets_of(audit, configuration)
        evidence = Evidence(targets)
        before = replayed(policy, audit.decisions(began), targets, evidence.hear)
        proposal = suggested(policy, sources_of(policy.text), tasks, evidence, arguments=not tools_only)
        narrower = compile_policy(from_sources(proposal.sources))
        after = replayed(narrower, audit.decisions(began), targets)
    worse = _flips_between(before, after)
    patch = _patch(sources_of(policy.text), proposal.sources)
    if as_json:
        print_json({"patch": patch, "unused": list(proposal.unused), "flips": worse, "replay": _plain(after)})
    else:
        _tell(proposal, after, worse, tasks)
        if not worse:
            _give(configuration, proposal, patch, write)
    if worse:
        raise typer.Exit(EXIT_NO)


def targets_of(audit: AuditReader, configuration: Configuration) -> dict[str, Target]:
    """Every target that entries refer to, with the tags it has today."""
    rules = {server.name: naming_rule(server) for server in configuration.servers}
    targets = {}
    for key, upstream, kind, name, definition in audit.target_versions():
        tags = rules.get(upstream, NamingRule()).tags_of(Kind(kind), name)
        targets[key] = Target(Kind(kind), upstream, name, name, orjson.loads(definition), key, tags)
    return targets


def _configuration(path: Path, against: Path | None, policies: Path | None) -> Configuration:
    configuration = load(path, os.environ)
    settings = configuration.settings
    settings = replace(settings, audit=against or settings.audit, policies=policies or settings.policies)
    return replace(configuration, settings=settings)


def _tasks(policy: Policy, agent: str, task: str) -> tuple[str, ...]:
    assignment = policy.assignments.get(agent)
    if assignment is None:
        raise typer.BadParameter(f"no policy names the agent {agent!r}")
    if task and task not in assignment.tasks:
        raise typer.BadParameter(f"agent {agent!r} has no task {task!r}; it has: {', '.join(assignment.tasks)}")
    return (task,) if task else assignment.tasks


def _flips_between(before: Report, after: Report) -> int:
    """How many past decisions the second replay brings out differently and the first did not.

    One that the first could not tell and the second brings out as it was has not flipped: a call that waited for a
    person and was never made is nothing to make room for.
    """
    then = {_what(change): change.count for change in before.changes}
    return sum(max(0, change.count - then.get(_what(change), 0)) for change in after.changes)


def _what(change: Change) -> tuple[str, str, str, str, str, str]:
    return change.agent, change.task, change.target, change.before, change.after, ""


def _patch(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    lines: list[str] = []
    for file in sorted(before):
        old, new = before[file].splitlines(keepends=True), after[file].splitlines(keepends=True)
        lines += difflib.unified_diff(old, new, f"a/{file}", f"b/{file}")
    return "".join(lines)


def _give(configuration: Configuration, proposal: Proposal, patch: str, write: bool) -> None:
    if not patch:
        err.print("the policy is as narrow as what was used")
    elif write:
        folder = configuration.settings.policies
        for file, text in proposal.sources.items():
            (folder / Path(file).name).write_text(text, encoding="utf-8")
        err.print("written")
    else:
        out.print(escaped_lines(patch), end="")


def escaped_lines(text: str) -> str:
    """Text of several lines, each safe to show."""
    return "".join(f"{escaped(line)}\n" for line in text.splitlines())


def _tell(proposal: Proposal, after: Report, worse: int, tasks: tuple[str, ...]) -> None:
    """What goes to stderr, so that stdout holds the patch alone."""
    for at in proposal.unused:
        err.print(f"unused: {at}")
    verdict = (
        f"{worse} of {after.judged} past decisions would flip: not proposed"
        if worse
        else (f"replayed {after.judged} past decisions of {', '.join(tasks)} and the other tasks: none flips")
    )
    err.print(Text(verdict, style="red" if worse else "green"))


def _print(policy: Policy, report: Report) -> None:
    table = Table.grid(padding=(0, 2))
    for change in report.changes[:MAX_SHOWN]:
        style = {"allowed": "yellow", "denied": "red"}.get(change.after, "dim")
        table.add_row(
            Text(f"{change.before} -> {change.after}", style=style),
            f"{change.count}x",
            escaped(f"{change.agent}/{change.task or '-'}"),
            escaped(change.target),
            change.at or change.reason,
            f"first: {change.first}",
        )
    if table.row_count:
        out.print(table)
    if len(report.changes) > MAX_SHOWN:
        warn(f"{len(report.changes) - MAX_SHOWN} more kinds of changes; --json has them all")
    out.print(
        f"policy {policy.version[:8]}: {report.judged} decisions, {report.same} the same, {report.newly_allowed} newly"
        f" allowed, {report.newly_denied} newly denied, {report.unknown} unknown, {report.skipped} not a policy's"
    )


def _plain(report: Report) -> dict[str, Any]:
    return {
        "judged": report.judged,
        "same": report.same,
        "newly_allowed": report.newly_allowed,
        "newly_denied": report.newly_denied,
        "unknown": report.unknown,
        "skipped": report.skipped,
        "changes": [asdict(change) for change in report.changes],
        "used": dict(report.used),
    }
