"""What `doctor` finds in the files of agents' programs: whether our entry works, and what goes past it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcp_gateway.cli.connect import connections
from mcp_gateway.cli.faults import Code, Finding, found
from mcp_gateway.cli.output import DEFAULT_CONFIG
from mcp_gateway.cli.patient import Patient, complained
from mcp_gateway.config.clients import BY_ID, Client, servers_in
from mcp_gateway.config.found import read_entry
from mcp_gateway.config.places import places
from mcp_gateway.config.textfile import read
from mcp_gateway.errors import ConfigInvalid


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
        return [complained(complaint, "warning") for complaint in e.complaints]
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
