"""`mcp-gateway doctor`: whether everything works, and for what does not its code, cause and fix.

It looks and changes nothing. `CHECKS` is the list of what is looked at; another room's command adds its own there.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import typer
from rich.text import Text

from mcp_gateway import __version__
from mcp_gateway.audit.query import escaped
from mcp_gateway.audit.verify import verify
from mcp_gateway.cli.check import strangers
from mcp_gateway.cli.connect import connections
from mcp_gateway.cli.faults import Code, Finding, found
from mcp_gateway.cli.login import standings_of
from mcp_gateway.cli.output import DEFAULT_CONFIG, EXIT_NO, AsJson, ConfigPath, out, print_json, run, shown, working
from mcp_gateway.cli.servers import Tried, grants_nothing_of, offered, try_server
from mcp_gateway.cli.shared import record_of, status_of
from mcp_gateway.config.clients import BY_ID, Client, servers_in
from mcp_gateway.config.commands import resolve
from mcp_gateway.config.found import read_entry
from mcp_gateway.config.places import places
from mcp_gateway.config.servers import Configuration, ServerConfig, load
from mcp_gateway.config.textfile import read
from mcp_gateway.credentials.owners import name_of
from mcp_gateway.credentials.standing import State
from mcp_gateway.errors import (
    Complaint,
    ConfigInvalid,
    OperatorError,
    PolicyInvalid,
    StoreUnavailable,
    UpstreamError,
)
from mcp_gateway.policy.compile import Policy
from mcp_gateway.storage.private import private_folder
from mcp_gateway.telemetry import setup_logging
from mcp_gateway.wiring import audit_reader, keys_of, policy_of, utc_now

LEAST_FREE_BYTES: Final = 100 * 1024 * 1024
CONNECT_S: Final = 5.0
AT_ONCE: Final = 8

_STYLES: Final = {"ok": "green", "note": "dim", "warning": "yellow", "fault": "bold red"}


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at."""

    path: Path
    configuration: Configuration
    policy: Policy | None
    running: dict[str, Any] | None
    """What the gateway that runs says of itself; None: none does."""

    @property
    def config_option(self) -> str:
        """How a command that is to be pasted names this configuration."""
        return "" if str(self.path) == DEFAULT_CONFIG else f" --config {shlex.quote(str(self.path))}"


Check = Callable[[Patient], Awaitable[list[Finding]]]


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
        return [_complained(complaint, "fault") for complaint in e.complaints]
    findings = [_complained(complaint, "warning") for complaint in configuration.warnings]
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
        findings += [_complained(complaint, "fault") for complaint in e.complaints]
        return None
    findings += [
        _complained(complaint, "warning") for complaint in (*policy.warnings, *strangers(configuration, policy))
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


async def check_upstreams(patient: Patient) -> list[Finding]:
    """Each server that is on: started or connected to, and asked what it offers; several at once."""
    servers = [server for server in patient.configuration.servers if server.enabled]
    results: dict[str, list[Finding]] = {}
    limit = anyio.CapacityLimiter(AT_ONCE)

    async def one(server: ServerConfig) -> None:
        async with limit:
            results[server.name] = await _examined_server(patient, server)

    async with anyio.create_task_group() as tasks:
        for server in servers:
            tasks.start_soon(one, server)
    off = [server.name for server in patient.configuration.servers if not server.enabled]
    findings = [finding for server in servers for finding in results[server.name]]
    return [*findings, *(Finding(f"server {name}", "note", "off") for name in off)]


async def _examined_server(patient: Patient, server: ServerConfig) -> list[Finding]:
    about = f"server {server.name}"
    missing = _missing_program(patient, server)
    if missing is not None:
        return [missing]
    if server.auth is not None:
        return await _examined_logins(patient, server)
    tried = await try_server(patient.configuration, server.name)
    if tried.problem:
        return [await _diagnosed(patient, server, tried)]
    findings = [Finding(about, "ok", f"{offered(tried)} {tried.milliseconds:.0f} ms")]
    if patient.policy is not None and grants_nothing_of(patient.policy, server.name):
        fix = f'add "{server.name}/TOOL" to a task\'s allow in {shown(patient.configuration.settings.policies)}'
        said = "no grant of the policy speaks of it"
        findings.append(found(Code.UPSTREAM_UNGRANTED, about, said, f"{fix}, or:", _off(patient, server)))
    return findings


async def _examined_logins(patient: Patient, server: ServerConfig) -> list[Finding]:
    """A server whose token is a person's, or made for each call: it is told how the logins stand, nothing is asked."""
    about = f"server {server.name}"
    try:
        found_standings = [one for one in await standings_of(patient.configuration) if one.upstream == server.name]
    except (OperatorError, UpstreamError) as e:
        return [found(Code.UPSTREAM_LOGIN, about, str(e))]
    findings = []
    for one in found_standings:
        whose = f" for {name_of(one.owner)}" if one.owner else ""
        if one.state is State.NEEDS_LOGIN:
            said = f"nobody is logged in{whose}" + (f"; {one.last_error}" if one.last_error else "")
            command = f"{one.next_step}{patient.config_option}"
            findings.append(found(Code.UPSTREAM_LOGIN, about, said, "log in with a browser:", command))
        else:
            findings.append(Finding(about, "ok", f"{one.state.value.replace('_', ' ')}{whose} ({one.kind})"))
    return findings


def _missing_program(patient: Patient, server: ServerConfig) -> Finding | None:
    if not server.command:
        return None
    about, program = f"server {server.name}", server.command[0]
    if server.cwd is not None and not server.cwd.is_dir():
        said = f"the folder it is to run in, {server.cwd}, does not exist"
        return found(Code.STDIO_ENOENT, about, said, command=f"mkdir -p {shlex.quote(str(server.cwd))}")
    if resolve(program, server.env.get("PATH", os.environ.get("PATH")), server.cwd) is None:
        path = Path(server.cwd or ".", program)
        if os.sep in program and path.is_file():
            return found(
                Code.STDIO_START, about, f"{path} may not be run", command=f"chmod +x {shlex.quote(str(path))}"
            )
        fix = f"{_install_hint(program)}; until then:"
        return found(Code.STDIO_ENOENT, about, f"{program} is not on PATH", fix, _off(patient, server))
    return None


def _install_hint(program: str) -> str:
    hints = {"uvx": "pip install uv", "uv": "pip install uv", "npx": "install Node.js", "node": "install Node.js"}
    return hints.get(Path(program).name, f"install {program}, or write its absolute path in 'command'")


async def _diagnosed(patient: Patient, server: ServerConfig, tried: Tried) -> Finding:
    """The code that belongs to an upstream's own words for what went wrong."""
    about, said = f"server {server.name}", tried.problem
    off = _off(patient, server)
    if "credentials" in said:
        fix = f"renew its credential in {shown(server.at)}; until then:"
        return found(Code.UPSTREAM_LOGIN, about, said, fix, off)
    if server.url and ("connected to" in said or "not answered" in said):
        code, why = await anyio.to_thread.run_sync(_looked_at, server.url)
        if code is not None:
            return found(code, about, why, f"correct 'url' in {shown(server.at)}; until then:", off)
    if "could not be started" in said:
        return found(Code.STDIO_START, about, said, f"correct 'command' in {shown(server.at)}; until then:", off)
    if "exited" in said:
        by_hand = f"(cd {shlex.quote(str(server.cwd or '.'))} && {server.shown})"
        return found(Code.STDIO_EXIT, about, said, f"see what it wants by hand: {by_hand}; until then:", off)
    if "answered HTTP" in said or "redirect" in said:
        return found(Code.UPSTREAM_HTTP, about, said, f"correct 'url' in {shown(server.at)}; until then:", off)
    is_babble = "protocol" in said or "no message" in said or "does not" in said
    if not is_babble and ("answer" in said or "in time" in said):
        return found(Code.UPSTREAM_SILENT, about, said, "see what it waits for by hand; until then:", off)
    return found(Code.UPSTREAM_NOT_MCP, about, said, "is it an MCP server? until it is one:", off)


def _looked_at(url: str) -> tuple[Code | None, str]:
    """Why there is no connection: name, port or certificate."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return Code.NET_DNS, f"no address is known for {host}"
    try:
        with socket.create_connection((str(addresses[0][4][0]), port), CONNECT_S) as plain:
            if parts.scheme == "https":
                ssl.create_default_context().wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLError as e:
        return Code.NET_TLS, f"the certificate of {host} is not trusted: {getattr(e, 'verify_message', '') or e.reason}"
    except OSError:
        return Code.NET_REFUSED, f"nobody listens at {host}:{port}"
    return None, ""


async def check_clients(patient: Patient) -> list[Finding]:
    """The programs of agents: what stands in their files."""
    findings = []
    known = {Path(connection.file): BY_ID[connection.client] for connection in connections().all()}
    for client in BY_ID.values():
        known.update(dict.fromkeys(client.files(places(), Path.cwd()), client))
    for path, client in known.items():
        findings += _examined_client(patient, client, path)
    return findings


def _examined_client(patient: Patient, client: Client, path: Path) -> list[Finding]:
    about = f"{client.title}"
    try:
        file = read(path)
        entries = servers_in(client, file) if file is not None else {}
    except ConfigInvalid as e:
        return [_complained(complaint, "warning") for complaint in e.complaints]
    findings, others = [], []
    for name, entry in entries.items():
        server, reason = read_entry(client, name, entry, str(path), path.parent, places())
        if reason == "the gateway itself":
            findings.append(_examined_entry(patient, client, path, name, entry))
        elif server is not None and server.enabled:
            others.append(server)
    ours = {(s.command, s.url) for s in patient.configuration.servers if s.enabled}
    past = [server.name for server in others if (server.command or None, server.url or None) in ours]
    if past and any(finding.weight == "ok" for finding in findings):
        command = _connect_command(patient, client, path, "") + " --only"
        findings.append(found(Code.CLIENT_BYPASS, about, f"{path} reaches {', '.join(past)} itself", command=command))
    return findings


def _examined_entry(patient: Patient, client: Client, path: Path, name: str, entry: Any) -> Finding:
    words = [str(entry.get("command", entry.get("cmd", ""))), *(str(word) for word in entry.get("args") or [])]
    agent, config = _option(words, "--agent"), Path(_option(words, "--config") or DEFAULT_CONFIG)
    known = patient.policy.assignments if patient.policy else {}
    command = _connect_command(patient, client, path, name if name != "gateway" else "")
    if shutil.which(words[0]) is None:
        return found(
            Code.CLIENT_PROGRAM, client.title, f"{path} starts {words[0]}, which is not there", command=command
        )
    if not config.is_file():
        return found(Code.CLIENT_CONFIG, client.title, f"{path} names {config}, which is not there", command=command)
    if config.absolute() != patient.path.absolute():
        return Finding(client.title, "note", f"{path} is connected to another gateway, {config}")
    if patient.policy is not None and agent not in known:
        chosen = client.id if client.id in known else next(iter(sorted(known)), "NAME")
        command = f"{command} --agent {chosen}"
        return found(
            Code.CLIENT_AGENT, client.title, f"{path} speaks for {agent!r}, whom no policy names", command=command
        )
    return Finding(client.title, "ok", f"{path} is connected as the agent {agent}")


def _connect_command(patient: Patient, client: Client, path: Path, name: str) -> str:
    usual = client.files(places(), Path.cwd())[0]
    where = "" if path == usual else f" --file {shlex.quote(str(path))}"
    called = f" --name {shlex.quote(name)}" if name else ""
    return f"mcp-gateway connect {client.id} --yes{where}{called}{patient.config_option}"


def _option(words: Sequence[str], name: str) -> str:
    return next((words[i + 1] for i, word in enumerate(words[:-1]) if word == name), "")


def _off(patient: Patient, server: ServerConfig) -> str:
    return f"mcp-gateway servers disable {server.name}{patient.config_option}"


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


def _complained(complaint: Complaint, weight: str) -> Finding:
    where = f"{shown(complaint.file)}:{complaint.line}" if complaint.line else shown(complaint.file)
    is_fault = weight == "fault"
    return Finding(where, "fault" if is_fault else "warning", complaint.message, complaint.code, complaint.fix)


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
