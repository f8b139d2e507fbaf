"""What `doctor` finds out of each server that is on: started or connected to, and asked what it offers."""

from __future__ import annotations

import os
import shlex
import socket
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio

from mcp_gateway.cli.faults import Code, Finding, found
from mcp_gateway.cli.login import standings_of
from mcp_gateway.cli.output import shown
from mcp_gateway.cli.patient import Patient
from mcp_gateway.cli.servers import Tried, grants_nothing_of, offered, try_server
from mcp_gateway.config.commands import resolve
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.credentials.owners import name_of
from mcp_gateway.credentials.standing import State
from mcp_gateway.errors import OperatorError, UpstreamError
from mcp_gateway.upstreams.fast_wire import REFUSED_ADDRESS

CONNECT_S: Final = 5.0
AT_ONCE: Final = 8


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
    if REFUSED_ADDRESS in said:
        return await anyio.to_thread.run_sync(_led_astray, server, said, off)
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


def _led_astray(server: ServerConfig, said: str, off: str) -> Finding:
    """A name that leads where the gateway does not go by itself."""
    host = urlsplit(server.url or "").hostname or ""
    try:
        addresses = dict.fromkeys(str(place[0]) for *_, place in socket.getaddrinfo(host, None))
    except OSError:
        addresses = {}
    leads = f"{host} leads to {', '.join(addresses)}, which is not public" if host and addresses else said
    fix = f'if it is to be asked there, add allow_addresses = ["{host or "HOST"}"] to [gateway]; until then:'
    return found(Code.NET_ADDRESS, f"server {server.name}", leads, fix, off)


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


def _off(patient: Patient, server: ServerConfig) -> str:
    return f"mcp-gateway servers disable {server.name}{patient.config_option}"
