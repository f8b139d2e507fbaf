"""`serve`: says what it is, serves, ends cleanly; and what stands in its way."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from fakes.gateway_process import MCP_GATEWAY, serving, write_files
from fakes.operator_files import FILES, POLICY, SERVERS


@contextmanager
def _serve(folder: Path, *words: str, files: Mapping[str, str] = FILES) -> Iterator[subprocess.Popen[str]]:
    """`serve` as somebody at a terminal of 100 columns would start it."""
    write_files(folder, files)
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "100"}
    command = [*MCP_GATEWAY, "serve", "--listen", "127.0.0.1:0", *words]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _introduced(process: subprocess.Popen[str]) -> list[str]:
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())
        if "Stop: Ctrl-C" in line:
            return lines
    raise AssertionError(process.communicate()[1])


def test_it_says_where_it_listens_what_there_is_who_may_what_and_how_to_connect(tmp_path: Path) -> None:
    with _serve(tmp_path) as process:
        lines = _introduced(process)
    url = lines[0].split()[-1]
    assert lines[0].startswith("mcp_gateway ")
    assert url.startswith("http://127.0.0.1:")
    assert lines[2:] == [
        "Upstreams",
        "  files  1 tool (stdio, MCP 2025-06-18)",
        "",
        "Agents and what they may do",
        "  reader  read (its default task)  files__echo",
        "  writer  read (its default task)  files__echo",
        "  writer  write (at /mcp/write)    files__echo",
        "",
        "Connect an agent",
        "  python -m mcp_gateway key create reader",
        f'  claude mcp add --transport http gateway {url} --header "Authorization: Bearer KEY"',
        "  or without HTTP and key, as a command that the agent's program starts:",
        f"  {MCP_GATEWAY[0]} -m mcp_gateway stdio --agent reader --config {tmp_path}/servers.toml",
        "",
        "  What happens: python -m mcp_gateway log --follow     Stop: Ctrl-C",
    ]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly_and_leaves_no_upstream_behind(tmp_path: Path, sent: int) -> None:
    with _serve(tmp_path) as process:
        _introduced(process)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(sent)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 0
    assert children
    assert not [child for child in children if child.is_running()]
    assert said == ""


def test_nothing_but_what_it_is_asked_for_when_machines_read(tmp_path: Path) -> None:
    with serving(tmp_path, FILES) as gateway, urllib.request.urlopen(f"{gateway.origin}/health") as answer:  # noqa: S310
        health = json.load(answer)
    assert (health["ok"], health["ready"], health["complaints"]) == (True, True, [])


def test_upstreams_that_are_down_and_agents_without_tools_are_said_so(tmp_path: Path) -> None:
    servers = (
        SERVERS + '\n[servers.gone]\ncommand = ["no-such-program"]\n[servers.off]\ncommand = ["x"]\nenabled = false\n'
    )
    policy = '[agents.idle]\ntasks = ["t"]\n[tasks.t]\n'
    with _serve(tmp_path, files={"servers.toml": servers, "policies/a.toml": policy}) as process:
        text = "\n".join(_introduced(process))
    assert "  gone   down: " in text
    assert "  off    disabled\n" in text
    assert "  idle  t (at /mcp/t)  no tools\n" in text


def test_without_a_policy_it_says_that_everything_is_denied(tmp_path: Path) -> None:
    with _serve(tmp_path, files={"servers.toml": ""}) as process:
        text = "\n".join(_introduced(process))
    assert "none: servers.toml names no server" in text
    assert "none: policies names no agent, so everything is denied" in text
    assert "key create AGENT" in text


def test_a_port_in_use_ends_it_before_anything_is_started(operator: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        said = operator.run("serve", "--listen", f"127.0.0.1:{port}", exits=2).stderr
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in said
    assert "fix: stop what listens there, or choose another [gateway] listen or --listen" in said
    assert not (operator.folder / "audit.db").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--listen", "nonsense"], "'nonsense' is not an address and a port"),
        (["--listen", "127.0.0.1:99999"], "'127.0.0.1:99999' is not an address and a port"),
        (["--log-level", "loud"], "'loud' is not one of"),
    ],
)
def test_an_option_that_means_nothing_is_refused(operator: Any, words: list[str], said: str) -> None:
    assert said in " ".join(operator.run("serve", *words, exits=2).stderr.replace("│", "").split())


def test_listening_for_the_world_needs_names_even_when_an_option_says_so(operator: Any) -> None:
    said = operator.run("serve", "--listen", "0.0.0.0:0", exits=2).stderr
    assert "GW-CONFIG-LISTEN" in said
    assert "listening beyond this machine needs 'allowed_hosts'" in said


def test_a_policy_that_cannot_be_used_is_never_served(operator: Any) -> None:
    operator.write({"policies/agents.toml": POLICY.replace("files/echo", "files")})
    assert "policies/agents.toml:11: " in operator.run("serve", "--listen", "127.0.0.1:0", exits=2).stderr


def test_a_locked_audit_keeps_it_from_starting(operator: Any) -> None:
    operator.run("key", "create", "reader")
    with closing(sqlite3.connect(operator.folder / "audit.db", isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        said = operator.run("serve", "--listen", "127.0.0.1:0", exits=3).stderr
    assert said.startswith("GW-STORE-UNAVAILABLE ")
    assert "locked" in said


def test_an_audit_that_is_no_database_keeps_it_from_starting(operator: Any) -> None:
    (operator.folder / "audit.db").write_text("my diary")
    (operator.folder / "audit.db").chmod(0o600)
    said = operator.run("serve", "--listen", "127.0.0.1:0", exits=3).stderr
    assert "audit.db" in said
    assert (operator.folder / "audit.db").read_text() == "my diary"
