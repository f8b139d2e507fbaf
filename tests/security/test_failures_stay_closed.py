"""What breaks around a running gateway (stores, policy files) and what secrets could leak meanwhile: nothing opens."""

from __future__ import annotations

import base64
import http.client
import json
import re
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fakes.gateway_process import GatewayProcess, run_command, serving, write_files
from fakes.raw_agents import HttpAgent, Said
from fakes.waiting import until

pytestmark = pytest.mark.slow  # its gateway has many parts to start

FAKES = Path(__file__).parents[1] / "fakes"

POLICY = """
[agents.alice]
tasks = ["work"]
default_task = "work"

[tasks.work]
allow = ["m/*", "h/*", "w/*"]

[[tasks.work.deny]]
tools = ["m/hidden"]
"""

ENV_SECRET = "env-canary-7fK2pQ9xWv"
HEADER_SECRET = "header-canary-3hT8mZ4sLd"
ARGUMENT_SECRET = "sk-proj-Xy7Qw9Lm3Nb5Vc2Rt8Zk4Hp6Jd1Sf0Ga"


def table(name: str, *words: str) -> str:
    return f"[servers.{name}]\ncommand = {json.dumps([sys.executable, '-S', '-E', *words])}\n"


class Echoing(BaseHTTPRequestHandler):
    """An upstream that repeats its caller's credentials wherever it can: bodies, headers, errors."""

    def do_POST(self) -> None:
        said = self.headers.get("Authorization", "")
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        error = {"code": -32000, "message": f"no: {said}", "data": {"sent": said}}
        body = json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "error": error}).encode()
        self.send_response(401)
        self.send_header("WWW-Authenticate", f'Bearer error="{said}"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_DELETE = do_POST  # noqa: N815  the names are the library's

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is the library's
        """Say nothing."""


@contextmanager
def echoing() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echoing)
    server.block_on_close = True
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/mcp"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def servers(folder: Path) -> str:
    return table("m", str(FAKES / "counting_stdio.py"), str(folder / "m.log"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("closed")
    files = {"servers.toml": servers(folder), "policies/all.toml": POLICY}
    with serving(folder, files) as running:
        yield running


@pytest.fixture(scope="module")
def alice(gateway: GatewayProcess) -> HttpAgent:
    return HttpAgent(gateway.url, gateway.key("alice"), "modern")


def called(agent: HttpAgent, tool: str = "m__open") -> Said:
    return agent.ask("tools/call", {"name": tool})


def works(agent: HttpAgent) -> bool:
    said = called(agent)
    return said.status == 200 and "result" in said.message


def reached(gateway: GatewayProcess) -> int:
    return (gateway.folder / "m.log").read_text().count('"tools/call"')


def get(gateway: GatewayProcess, path: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(gateway.origin.removeprefix("http://"), timeout=10)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


async def test_a_key_store_that_is_gone_or_locked_lets_nobody_in_and_comes_back(
    gateway: GatewayProcess, alice: HttpAgent
) -> None:
    assert works(alice)
    store = gateway.folder / ".mcp-gateway" / "gateway.db"
    before = reached(gateway)
    store.rename(store.with_suffix(".away"))
    assert called(alice).status == 503
    store.write_bytes(b"this is no database" * 100)
    store.chmod(0o600)
    assert called(alice).status in (401, 503)
    store.unlink()
    store.with_suffix(".away").rename(store)
    assert reached(gateway) == before
    await until(lambda: works(alice), 10)


async def test_an_audit_that_is_locked_stops_every_call_and_every_list_and_comes_back(
    gateway: GatewayProcess, alice: HttpAgent
) -> None:
    assert works(alice)
    before = reached(gateway)
    with closing(sqlite3.connect(gateway.folder / "audit.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for method, params in (
            ("tools/call", {"name": "m__open"}),
            ("tools/call", {"name": "m__nothing"}),
            ("tools/list", {}),
        ):
            error = alice.ask(method, params).message["error"]
            assert error["code"] == -32603
            assert "/" not in error["message"]
        assert get(gateway, "/health")[0] == 503
        other.execute("ROLLBACK")
    assert reached(gateway) == before
    await until(lambda: works(alice), 10)
    assert get(gateway, "/health")[0] == 200


@pytest.mark.parametrize(
    "broken",
    [
        POLICY + "\n[tasks.work",
        POLICY + "\n[tasks.work.surprise]\nx = 1\n",
        POLICY.replace('"m/hidden"', '""'),
        POLICY + "\0",
        POLICY.replace("deny", "dney"),
    ],
    ids=["half", "unknown key", "empty pattern", "nul", "misspelt"],
)
async def test_a_policy_that_cannot_be_used_changes_nothing(
    gateway: GatewayProcess, alice: HttpAgent, broken: str
) -> None:
    file = gateway.folder / "policies" / "all.toml"
    file.write_text(broken)
    try:
        await until(lambda: b'"complaints":["policy"]' in get(gateway, "/health")[1])
        assert works(alice)
        assert b"Unknown tool" in called(alice, "m__hidden").body
    finally:
        file.write_text(POLICY)
    await until(lambda: b'"complaints":[]' in get(gateway, "/health")[1])


async def test_a_policy_written_bit_by_bit_never_opens_anything(gateway: GatewayProcess, alice: HttpAgent) -> None:
    """Its first half is a good policy by itself: one without the deny."""
    file = gateway.folder / "policies" / "all.toml"
    for _ in range(3):
        half = POLICY.index("[[tasks.work.deny]]")
        with file.open("w") as out:
            for piece in re.split(r"(?<=\n)", POLICY[:half]):
                out.write(piece)
                out.flush()
                assert b"Unknown tool" in called(alice, "m__hidden").body
            out.write(POLICY[half:])
        assert b"Unknown tool" in called(alice, "m__hidden").body


async def test_policies_that_are_gone_or_empty_allow_nothing(gateway: GatewayProcess, alice: HttpAgent) -> None:
    folder = gateway.folder / "policies"
    folder.rename(folder.with_name("elsewhere"))
    try:
        await until(lambda: not works(alice))
        assert alice.ask("tools/list").message["result"]["tools"] == []
        folder.mkdir()
        (folder / "all.toml").write_text("")
        before = reached(gateway)
        assert not works(alice)
        (folder / "all.toml").unlink()
        folder.rmdir()
        assert not works(alice)
        assert reached(gateway) == before
    finally:
        folder.with_name("elsewhere").rename(folder)
    await until(lambda: works(alice), 10)


@pytest.mark.parametrize("name", ["seals.key", "api-keys.hmac"])
@pytest.mark.parametrize("content", [b"k" * 64, None])
def test_a_key_file_that_is_weak_or_open_to_others_keeps_it_from_starting(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    write_files(tmp_path, {"servers.toml": "", "policies/all.toml": POLICY})
    state = tmp_path / ".mcp-gateway"
    state.mkdir(mode=0o700)
    (state / name).write_bytes(content if content is not None else bytes(range(32)))
    (state / name).chmod(0o600 if content is not None else 0o644)
    ended = run_command(tmp_path, "serve", "--json", "--listen", "127.0.0.1:0", check=False)
    assert ended.returncode not in (0, 1)
    assert name in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_secret_is_in_anything_an_agent_or_operator_can_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with echoing() as url:
        text = table("h", str(FAKES / "hostile_stdio.py"), "lists-all")
        text += '[servers.h.env]\nSECRET_TOKEN = "${ENV_CANARY}"\n'
        text += f'[servers.w]\nurl = "{url}"\n[servers.w.headers]\nAuthorization = "Bearer ${{HEADER_CANARY}}"\n'
        for name, value in {"ENV_CANARY": ENV_SECRET, "HEADER_CANARY": HEADER_SECRET}.items():
            monkeypatch.setenv(name, value)
        files = {"servers.toml": text, "policies/all.toml": POLICY}
        options = ("--log-level", "debug")
        with serving(tmp_path, files, options=options) as gateway:
            key = gateway.key("alice")
            agents = [HttpAgent(gateway.url, key, era) for era in ("modern", "legacy")]
            for agent in agents:
                arguments = {"token": ARGUMENT_SECRET, "nested": json.dumps({"password": ARGUMENT_SECRET})}
                agent.ask("tools/call", {"name": "h__echo", "arguments": arguments})
                agent.ask("tools/call", {"name": "h__die"})
                agent.ask("tools/call", {"name": "h__bad_utf8"})
                agent.ask("tools/call", {"name": "w__anything"})
                agent.ask("tools/call", {"name": ARGUMENT_SECRET})
                agent.ask("server/discover" if agent.era == "modern" else "ping")
                agent.ask("tools/list")
                agent.ask("nothing/there", {"x": ARGUMENT_SECRET})
            wrong = key[:-1] + ("x" if key[-1] != "x" else "y")
            HttpAgent(gateway.url, wrong, "modern").ask("tools/list")
            heard = b"".join(bytes(agent.heard) for agent in agents)
            pages = get(gateway, "/health")[1] + get(gateway, "/ready")[1]
            told = gateway.run("log", "--json", check=False).stdout + gateway.run("check", check=False).stdout
            gateway.process.send_signal(signal.SIGTERM)
            logged = "".join(gateway.process.communicate(timeout=20))
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".toml")
    everywhere = {"agent": heard, "pages": pages, "commands": told.encode(), "files": kept, "logs": logged.encode()}
    for where, seen in everywhere.items():
        for secret in (ENV_SECRET, HEADER_SECRET, key, key.rsplit("_", 1)[1]):
            assert secret.encode() not in seen, (where, secret)
            assert base64.b64encode(secret.encode())[:20] not in seen, (where, secret)
    for where in ("pages", "commands", "files", "logs"):
        assert ARGUMENT_SECRET.encode() not in everywhere[where], where
