"""What one agent, one upstream or somebody without a key can use up, and that others are still served meanwhile."""

from __future__ import annotations

import json
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from fakes.gateway_process import GatewayProcess, serving
from fakes.raw_agents import ACCEPT, HttpAgent
from fakes.waiting import until
from mcp_gateway.audit import log as audit_log
from mcp_gateway.audit.log import AuditLog
from mcp_gateway.domain import Kind, Target
from mcp_gateway.gateway import MAX_CALLS_PER_AGENT

pytestmark = pytest.mark.slow  # its gateway has many parts to start

FAKES = Path(__file__).parents[1] / "fakes"
HEAD = "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"

POLICY = """
[agents.alice]
tasks = ["work"]
default_task = "work"

[agents.bob]
tasks = ["work"]
default_task = "work"

[tasks.work]
allow = ["h/*", "m/*"]
"""


def table(name: str, *words: str) -> str:
    return f"[servers.{name}]\ncommand = {json.dumps([sys.executable, '-S', '-E', *words])}\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("crowd")
    servers = table("h", str(FAKES / "hostile_stdio.py"), "lists-all")
    servers += table("m", str(FAKES / "counting_stdio.py"), str(folder / "m.log"))
    with serving(folder, {"servers.toml": servers, "policies/all.toml": POLICY}, descriptors=512) as running:
        yield running


@pytest.fixture(scope="module")
def bob(gateway: GatewayProcess) -> HttpAgent:
    return HttpAgent(gateway.url, gateway.key("bob"), "modern")


@pytest.fixture(scope="module")
def alices_key(gateway: GatewayProcess) -> str:
    return gateway.key("alice")


def rows(gateway: GatewayProcess, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(gateway.folder / "audit.db")) as db:
        return list(db.execute(query))


def is_served(agent: HttpAgent, tool: str = "m__open", within_s: float = 2.0) -> bool:
    began_at = time.monotonic()
    said = agent.ask("tools/call", {"name": tool})
    return (
        "result" in said.message
        and not said.message["result"].get("isError")
        and time.monotonic() - began_at < within_s
    )


def address(gateway: GatewayProcess) -> tuple[str, int]:
    host, port = gateway.origin.removeprefix("http://").split(":")
    return host, int(port)


@pytest.mark.parametrize("first", [b"", b"POST /mcp HT", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"])
def test_connections_that_ask_nothing_keep_nobody_out(gateway: GatewayProcess, bob: HttpAgent, first: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(600):  # more than the process has descriptors
            one = stack.enter_context(closing(socket.create_connection(address(gateway), 5)))
            one.sendall(first)
        assert all(is_served(bob) for _ in range(5))
        assert gateway.run("key", "list", check=False).returncode == 0


def test_an_agents_unanswered_calls_leave_room_for_others_on_the_same_upstream(
    gateway: GatewayProcess, bob: HttpAgent, alices_key: str
) -> None:
    alice = HttpAgent(gateway.url, alices_key, "legacy")
    more = HttpAgent(gateway.url, alices_key, "legacy")
    for number in range(MAX_CALLS_PER_AGENT + 50):
        body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": "h__never"}})
        session = (alice if number % 2 else more).session
        lines = f"Authorization: Bearer {alices_key}\r\nAccept: {ACCEPT}\r\nMcp-Session-Id: {session}\r\n"
        with closing(socket.create_connection(address(gateway), 5)) as one:
            one.sendall(f"{HEAD}{lines}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    assert is_served(bob, "h__echo")
    deadline = time.monotonic() + 10
    query = "SELECT outcome, count(*) FROM calls WHERE name = 'never' GROUP BY outcome"
    while (found := dict(rows(gateway, query))) != {None: MAX_CALLS_PER_AGENT, "over_limit": 50}:
        assert time.monotonic() < deadline, found
    assert is_served(bob, "h__echo")  # and the upstream was not given up for it
    assert (alice.end(), more.end()) == (200, 200)


def test_a_session_keeps_nothing_large(gateway: GatewayProcess, alices_key: str) -> None:
    agent = HttpAgent(gateway.url, alices_key, "legacy", capabilities={"x": ["y" * 1000] * 1000})
    assert agent.hello.status == 400
    assert agent.hello.message["error"]["code"] == -32602
    assert agent.session == ""


def test_a_session_of_somebody_else_gets_nothing_and_is_in_the_audit(
    gateway: GatewayProcess, bob: HttpAgent, alices_key: str
) -> None:
    alice = HttpAgent(gateway.url, alices_key, "legacy")
    thief = HttpAgent(gateway.url, gateway.key("bob"), "legacy")
    thief.session = alice.session
    stolen = thief.ask("tools/call", {"name": "m__open"})
    thief.session = "never-there"
    assert stolen == thief.ask("tools/call", {"name": "m__open"})
    assert stolen.status == 404
    found = rows(gateway, "SELECT agent, reason FROM entries WHERE kind = 'malformed'")
    assert found.count(("bob", "a session that is not (any more) this caller's")) == 2


async def test_an_upstream_that_keeps_changing_does_not_fill_the_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "MAX_NEWS_PER_HOUR", 100)
    async with AuditLog.opened(tmp_path / "audit.db", tmp_path / "state", clock=lambda: 1e9) as log:
        for number in range(300):
            log.remember_target(definition("storm", number))
        log.remember_target(definition("calm", 1))
    with closing(sqlite3.connect(tmp_path / "audit.db")) as db:
        kept = dict(db.execute("SELECT upstream, count(*) FROM target_versions GROUP BY upstream"))
    assert kept == {"storm": 100, "calm": 1}


def definition(upstream: str, number: int) -> Target:
    raw = {"name": "tool", "description": str(number)}
    return Target(Kind.TOOL, upstream, "tool", f"{upstream}__tool", raw, f"{number:064}", raw=raw)


@pytest.mark.slow
def test_an_upstream_that_cries_change_is_looked_at_less_and_less(tmp_path: Path) -> None:
    log = tmp_path / "storm.log"
    servers = table("m", str(FAKES / "counting_stdio.py"), str(log), "storm", "bulk") + 'trust = "any"\n'
    with serving(tmp_path, {"servers.toml": servers, "policies/all.toml": POLICY}) as running:
        bob = HttpAgent(running.url, running.key("bob"), "modern")
        ends_at = time.monotonic() + 8
        while time.monotonic() < ends_at:
            assert is_served(bob)
        lists = [line for line in log.read_text().splitlines() if '"tools/list"' in line]
    assert 2 <= len(lists) <= 8


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
async def test_a_child_has_only_what_was_declared(tmp_path: Path) -> None:
    spy = tmp_path / "spy.py"
    spy.write_text(SPY)
    out = tmp_path / "seen.json"
    servers = table("m", str(spy), str(out)) + '[servers.m.env]\nDECLARED = "${CANARY}"\n'
    files = {"servers.toml": servers, "policies/all.toml": POLICY}
    with serving(tmp_path, files, env={"CANARY": "canary-value", "UNDECLARED_SECRET": "zanzibar"}):
        await until(out.exists)
        seen = json.loads(out.read_text())
    usual = {"HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LC_CTYPE"}
    assert set(seen["environ"]) - usual == {"DECLARED"}
    assert seen["fds"] == [0, 1, 2]
    assert "canary-value" not in seen["cmdline"]
    assert "zanzibar" not in json.dumps(seen)
    assert seen["pgid"] == seen["pid"] == seen["sid"]


SPY = """
import json, os, sys
fds = []
for fd in range(1024):
    try:
        os.fstat(fd)
        fds.append(fd)
    except OSError:
        pass
environ = open("/proc/self/environ").read().split("\\0")
seen = {
    "environ": [line.partition("=")[0] for line in environ if line],
    "fds": fds,
    "cmdline": open("/proc/self/cmdline").read(),
    "pid": os.getpid(),
    "pgid": os.getpgid(0),
    "sid": os.getsid(0),
}
with open(sys.argv[1] + ".part", "w") as out:
    json.dump(seen, out)
os.rename(sys.argv[1] + ".part", sys.argv[1])
"""
