"""`mcp-gateway doctor`: whether everything works, and for what does not its code, cause and fix.

It looks and changes nothing. `CHECKS` is the list of what is looked at; another room's command adds its own there.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import socket
from pathlib import Path
from typing import Final

import typer
from rich.text import Text

from mcp_gateway import __version__
from mcp_gateway.audit.query import escaped
from mcp_gateway.audit.verify import verify
from mcp_gateway.cli.check import strangers
from mcp_gateway.cli.client_checks import check_clients
from mcp_gateway.cli.faults import Code, Finding, found
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, out, print_json, run, shown, working
from mcp_gateway.cli.patient import Check, Patient, complained
from mcp_gateway.cli.server_checks import check_upstreams
from mcp_gateway.cli.shared import record_of, status_of
from mcp_gateway.config.servers import Configuration, load
from mcp_gateway.errors import (
    ConfigInvalid,
    PolicyInvalid,
    StoreUnavailable,
)
from mcp_gateway.policy.compile import Policy
from mcp_gateway.storage.private import private_folder
from mcp_gateway.telemetry import setup_logging
from mcp_gateway.wiring import audit_reader, keys_of, policy_of, utc_now

LEAST_FREE_BYTES: Final = 100 * 1024 * 1024

_STYLES: Final = {"ok": "green", "note": "dim", "warning": "yellow", "fault": "bold red"}


def doctor(config: ConfigPath = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Look at everything: files, policy, stores, port, each server, each connected program.

    Each fault has a code that stays the same, its cause and the fix. Exits 1 where there is one; warnings do not count.

    Example: `mcp-gateway doctor --json`
    """
    setup_logging("critical")  # what servers say while they are asked stands in our own words below
    with working("looking"):
        findings = run(examined, Path(config))
    faults = [finding for finding in findings if finding.weight == "fault"]
    if as_json:
        print_json({"ok": not faults, "findings": [_plain(finding) for finding in findings]})
    else:
        for finding in findings:
            _print(finding)
        warnings = sum(finding.weight == "warning" for finding in findings)
        out.print(f"\n{_count(len(faults), 'fault')}, {_count(warnings, 'warning')}")
    if faults:
        raise typer.Exit(EXIT_NO)


async def examined(path: Path) -> list[Finding]:
    """Everything that was found. Where the files cannot be used, there is nothing else to look at."""
    try:
        configuration = load(path, os.environ)
    except ConfigInvalid as e:
        return [complained(complaint, "fault") for complaint in e.complaints]
    findings = [complained(complaint, "warning") for complaint in configuration.warnings]
    enabled = sum(server.enabled for server in configuration.servers)
    findings.append(Finding("configuration", "ok", f"{shown(path)}: {_count(enabled, 'server')}"))
    policy = _examined_policy(configuration, findings)
    try:
        running = await status_of(configuration)
    except StoreUnavailable:
        running = None
    patient = Patient(path, configuration, policy, running)
    for check in CHECKS:
        findings += await check(patient)
    return findings


def _examined_policy(configuration: Configuration, findings: list[Finding]) -> Policy | None:
    where = shown(configuration.settings.policies)
    try:
        policy = policy_of(configuration)
    except PolicyInvalid as e:
        findings += [complained(complaint, "fault") for complaint in e.complaints]
        return None
    findings += [
        complained(complaint, "warning") for complaint in (*policy.warnings, *strangers(configuration, policy))
    ]
    if not policy.assignments:
        findings.append(found(Code.POLICY_NOBODY, "policy", f"{where} names no agent"))
    else:
        agents = ", ".join(sorted(policy.assignments))
        findings.append(Finding("policy", "ok", f"{where} {policy.version[:8]}: {agents}"))
    return policy


async def check_stores(patient: Patient) -> list[Finding]:
    """The state folder, the audit, and room for it."""
    settings = patient.configuration.settings
    try:
        if settings.state.exists():
            private_folder(settings.state)
            keys_of(patient.configuration).list()
    except StoreUnavailable as e:
        return [_open_to_others(settings.state, str(e))]
    findings = [_audit_finding(patient)]
    folder = settings.audit.parent
    free = shutil.disk_usage(folder if folder.is_dir() else Path()).free
    if free < LEAST_FREE_BYTES:
        said = f"{free // 1024 // 1024} MiB left at {folder}"
        findings.append(found(Code.DISK_FULL, "disk", said))
    return findings


def _open_to_others(state: Path, said: str) -> Finding:
    fix = f"chmod -R go-rwx {shlex.quote(str(state))}" if "chmod" in said else ""
    return found(Code.STATE_OPEN, "state folder", said, command=fix)


def _audit_finding(patient: Patient) -> Finding:
    settings = patient.configuration.settings
    if not settings.audit.exists():
        return Finding("audit", "ok", f"{shown(settings.audit)}: none yet, it is made at the first start")
    aside = settings.audit.with_name(f"{settings.audit.name}.broken")
    move = f"mv {shlex.quote(str(settings.audit))} {shlex.quote(str(aside))}"
    anchors = settings.state / "audit"
    if anchors.is_dir():
        move += f" && mv {shlex.quote(str(anchors))} {shlex.quote(str(anchors.with_name('audit.broken')))}"
    try:
        with audit_reader(patient.configuration) as audit:
            rows = audit.last_seq()
        verdict = verify(settings.audit, settings.state)
    except StoreUnavailable as e:
        return found(Code.AUDIT_BROKEN, "audit", str(e), command=move)
    if not verdict.ok:
        problem = verdict.problems[0]
        said = f"{shown(settings.audit)}: {problem.fault} at row {problem.seq}: {problem.message}"
        return found(Code.AUDIT_BROKEN, "audit", said, command=move)
    return Finding("audit", "ok", f"{shown(settings.audit)}: {rows} rows, the chain holds")


async def check_keys(patient: Patient) -> list[Finding]:
    """API keys that let nobody in, or somebody nobody knows."""
    try:
        records = keys_of(patient.configuration).list() if patient.configuration.settings.state.exists() else []
    except StoreUnavailable:
        return []  # the stores' check has told
    findings = []
    known = patient.policy.assignments if patient.policy else {}
    valid = [record for record in records if record.holds(utc_now())]
    for record in valid:
        if patient.policy is not None and record.agent not in known:
            command = f"mcp-gateway key revoke {record.public_id}{patient.config_option}"
            said = f"{record.public_id} is for {record.agent!r}, whom no policy names"
            findings.append(found(Code.KEY_STRANGER, "key", said, command=command))
    gone = {record.agent for record in records if not record.revoked} - {record.agent for record in valid}
    for agent in sorted(gone & set(known)):
        command = f"mcp-gateway key create {agent}{patient.config_option}"
        findings.append(found(Code.KEY_EXPIRED, "key", f"the last key of {agent!r} has expired", command=command))
    return findings


async def check_gateway(patient: Patient) -> list[Finding]:
    """The gateway that runs, and the port it would take."""
    told, settings = patient.running, patient.configuration.settings
    if told is not None:
        findings = [Finding("gateway", "ok", f"runs (process {told['pid']}, version {told['version']})")]
        if told["version"] != __version__:
            said = f"version {told['version']} runs, this is {__version__}"
            findings.append(
                found(Code.GATEWAY_VERSION, "gateway", said, command=f"mcp-gateway stop{patient.config_option}")
            )
        for one in told.get("workers", []):
            if one["state"] != "ready":
                said = f"worker {one['number']}: {one['state']}"
                findings.append(found(Code.GATEWAY_WORKER, "gateway", said))
        for text in told["complaints"].values():
            findings.append(found(Code.GATEWAY_CONFIG, "gateway", str(text).partition("\n")[0]))
        return findings
    record = record_of(settings.state) if settings.state.exists() else None
    note = "; the last one ended without a word" if record else ""
    findings = [Finding("gateway", "note", f"none runs{note}; it starts with the first `mcp-gateway stdio`")]
    if settings.port and _is_taken(settings.host, settings.port):
        command = f"mcp-gateway serve --listen {settings.host}:{_free_port(settings.host)}{patient.config_option}"
        findings.append(found(Code.PORT_TAKEN, "port", f"{settings.listen} is another program's", command=command))
    return findings


def _is_taken(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, platform.system() != "Windows")
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _print(finding: Finding) -> None:
    word = finding.weight if finding.weight in ("ok", "note") else finding.code
    line = Text(f"{word} ", style=_STYLES[finding.weight])
    out.print(line.append(escaped(f"{finding.about}: {finding.said}"), style="default"))
    if finding.fix and finding.weight != "ok":
        out.print(Text("  fix: ", style="green").append(escaped(finding.fix), style="default"))
    if finding.command:
        out.print(Text("  $ ", style="green").append(escaped(finding.command), style="default"))


def _plain(finding: Finding) -> dict[str, str]:
    return {name: getattr(finding, name) for name in Finding.__slots__}


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


CHECKS: Final[list[Check]] = [check_stores, check_keys, check_gateway, check_upstreams, check_clients]
"""What is looked at, in this order, once servers.toml and the policy could be read."""
