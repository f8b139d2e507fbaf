"""Every fault that `doctor` knows is provoked, and the fix it prints, typed as it stands, repairs it."""

import json
import os
import shlex
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fakes.gateway_process import MCP_GATEWAY, run_command, serving
from fakes.operator_files import FILES, POLICY
from fakes.ports import free_port
from mcp_gateway.cli import doctor
from mcp_gateway.cli.faults import Code
from mcp_gateway.wiring import keys_of, utc_now

pytestmark = pytest.mark.slow  # every test has processes of its own


def findings(operator: Any, code: str = "") -> list[dict[str, str]]:
    told = json.loads(operator.feed("", "doctor", "--json").stdout)
    return [found for found in told["findings"] if not code or found["code"] == code]


def provoked(operator: Any, code: Code) -> dict[str, str]:
    """The one finding with that code."""
    found = findings(operator, code)
    assert found, [(one["code"], one["said"]) for one in findings(operator)]
    assert found[0]["fix"]
    return found[0]


def repair(operator: Any, found: dict[str, str]) -> None:
    """Type what it printed."""
    assert found["command"], found
    words = found["command"].replace("mcp-gateway ", f"{shlex.join(MCP_GATEWAY)} ")
    done = subprocess.run(["sh", "-c", words], cwd=operator.folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def repaired(operator: Any, code: Code) -> None:
    found = provoked(operator, code)
    repair(operator, found)
    assert findings(operator, code) == []


def servers(operator: Any, toml: str) -> None:
    operator.write({"servers.toml": toml + '\n[gateway]\nlisten = "127.0.0.1:0"\n'})


def url(operator: Any, address: str) -> None:
    servers(operator, f'[servers.files]\nurl = "{address}"\ntimeout_s = 2\n')


def test_a_sound_gateway_has_no_fault(operator: Any) -> None:
    servers(operator, FILES["servers.toml"])
    said = operator.run("doctor").stdout
    assert "ok server files: " in said
    assert said.endswith("\n0 faults, 0 warnings\n")


def test_what_check_complains_about_doctor_does_too(operator: Any) -> None:
    operator.write({"servers.toml": "[servers.A]\nurl = 'x'\n"})
    found = json.loads(operator.run("doctor", "--json", exits=1).stdout)["findings"]
    assert {one["code"] for one in found} == {"GW-CONFIG-SERVER-NAME", "GW-CONFIG-URL"}
    operator.write({**FILES, "policies/agents.toml": "x = 1"})
    assert findings(operator, "GW-POLICY")


def test_a_program_that_is_not_installed(operator: Any) -> None:
    servers(operator, '[servers.files]\ncommand = ["no-such-program"]\n')
    assert "no-such-program is not on PATH" in provoked(operator, Code.STDIO_ENOENT)["said"]
    repaired(operator, Code.STDIO_ENOENT)


def test_a_folder_that_is_not_there(operator: Any) -> None:
    servers(operator, FILES["servers.toml"] + 'cwd = "work here"\n')
    repaired(operator, Code.STDIO_ENOENT)


def test_a_program_that_may_not_be_run(operator: Any) -> None:
    script = operator.folder / "server.sh"
    script.write_text("#!/bin/sh\nexit 0\n")
    servers(operator, '[servers.files]\ncommand = ["./server.sh"]\n')
    repaired(operator, Code.STDIO_START)


def test_a_program_that_ends_at_once(operator: Any) -> None:
    servers(operator, f'[servers.files]\ncommand = [{sys.executable!r}, "-c", "import sys; sys.exit(\'no TOKEN\')"]\n')
    found = provoked(operator, Code.STDIO_EXIT)
    assert "no TOKEN" in found["said"]
    by_hand = found["fix"].partition("by hand: ")[2].partition("; until")[0]
    done = subprocess.run(["sh", "-c", by_hand], cwd=operator.folder, capture_output=True, text=True)
    assert "no TOKEN" in done.stderr
    repaired(operator, Code.STDIO_EXIT)


def test_a_program_that_says_nothing(operator: Any) -> None:
    servers(operator, '[servers.files]\ncommand = ["sleep", "60"]\ntimeout_s = 1\n')
    repaired(operator, Code.UPSTREAM_SILENT)


@pytest.mark.parametrize("script", ['print(\'{"jsonrpc": "2.0", "id": 1, "result": 7}\', flush=True)'])
def test_a_program_that_is_no_mcp_server(operator: Any, script: str) -> None:
    loop = f"import sys\nfor line in sys.stdin:\n    {script}\n"
    servers(operator, f"[servers.files]\ncommand = {json.dumps([sys.executable, '-c', loop])}\ntimeout_s = 2\n")
    repaired(operator, Code.UPSTREAM_NOT_MCP)


def test_a_host_that_nobody_knows(operator: Any) -> None:
    url(operator, "http://no-such-host.invalid/mcp")
    repaired(operator, Code.NET_DNS)


def test_a_name_that_leads_to_this_machine(operator: Any) -> None:
    url(operator, f"http://127.1:{free_port()}/mcp")  # no address as they are written, and so a name like any other
    assert "127.1 leads to 127.0.0.1, which is not public" in provoked(operator, Code.NET_ADDRESS)["said"]
    repaired(operator, Code.NET_ADDRESS)


def test_a_port_where_nobody_listens(operator: Any) -> None:
    url(operator, f"http://127.0.0.1:{free_port()}/mcp")
    repaired(operator, Code.NET_REFUSED)


class Answering(BaseHTTPRequestHandler):
    status = 404

    def do_POST(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Servers on this machine that answer with one status, in TLS if asked to."""
    opened: list[tuple[ThreadingHTTPServer, Thread]] = []

    def start(status: int, *, tls: bool = False) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answering,), {"status": status}))
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate(tmp_path))
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        opened.append((server, thread))
        return f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}/mcp"

    yield start
    for server, thread in opened:
        server.shutdown()
        thread.join()
        server.server_close()


def certificate(folder: Path) -> Path:
    """A certificate that nobody has signed but itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), 1, utc_now() - timedelta(1), utc_now() + timedelta(1)
    )
    made = builder.sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "server.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_certificate_that_nobody_trusts(operator: Any, answering: Callable[..., str]) -> None:
    url(operator, answering(200, tls=True))
    repaired(operator, Code.NET_TLS)


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_the_credential(operator: Any, answering: Callable[..., str], status: int) -> None:
    url(operator, answering(status))
    repaired(operator, Code.UPSTREAM_LOGIN)


def test_a_server_that_nobody_has_logged_in_to(operator: Any) -> None:
    servers(operator, '[servers.files]\nurl = "https://mcp.example.com/mcp"\nauth = "oauth"\n')
    found = provoked(operator, Code.UPSTREAM_LOGIN)
    assert found["command"] == "mcp-gateway login files"
    assert operator.json("status", exits=1)["logins"] == [{"upstream": "files", "owner": "", "state": "needs_login"}]


@pytest.mark.parametrize("status", [404, 302, 500])
def test_an_address_where_no_mcp_server_is(operator: Any, answering: Callable[..., str], status: int) -> None:
    url(operator, answering(status))
    repaired(operator, Code.UPSTREAM_HTTP)


def test_a_server_that_no_grant_speaks_of(operator: Any) -> None:
    servers(operator, FILES["servers.toml"].replace("files", "notes"))
    found = provoked(operator, Code.UPSTREAM_UNGRANTED)
    line = found["fix"].split('"')[1].replace("TOOL", "echo")
    operator.write({"policies/agents.toml": POLICY.replace('"files/echo"]\n', f'"files/echo", "{line}"]\n', 1)})
    assert findings(operator, Code.UPSTREAM_UNGRANTED) == []


def test_a_policy_that_names_nobody(operator: Any) -> None:
    operator.write({"policies/agents.toml": ""})
    assert "[agents.NAME]" in provoked(operator, Code.POLICY_NOBODY)["fix"]
    operator.write({"policies/agents.toml": "[agents.reader]\ntasks = []\n"})
    assert findings(operator, Code.POLICY_NOBODY) == []


def test_a_port_that_another_program_has(operator: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        operator.write({"servers.toml": f'[gateway]\nlisten = "127.0.0.1:{port}"\n' + FILES["servers.toml"]})
        words = shlex.split(provoked(operator, Code.PORT_TAKEN)["command"])
        assert words[:3] == ["mcp-gateway", "serve", "--listen"]
        with serving(operator.folder, {}, settled=False, options=words[2:]) as gateway:
            assert gateway.url
    assert findings(operator, Code.PORT_TAKEN) == []


def test_a_state_folder_that_is_open_to_others(operator: Any) -> None:
    state = operator.folder / ".mcp-gateway"
    state.mkdir(mode=0o755)
    state.chmod(0o755)
    repaired(operator, Code.STATE_OPEN)


def test_an_audit_that_is_none(operator: Any) -> None:
    (operator.folder / "audit.db").write_bytes(b"not a database, but something else entirely" * 100)
    (operator.folder / "audit.db").chmod(0o600)
    repaired(operator, Code.AUDIT_BROKEN)


def test_an_audit_that_somebody_edited(operator: Any) -> None:
    operator.run("key", "create", "reader")
    with sqlite3.connect(operator.folder / "audit.db") as db:
        triggers = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]
        for trigger in triggers:
            db.execute(f'DROP TRIGGER "{trigger}"')
        db.execute("UPDATE entries SET agent = 'somebody'")
    db.close()
    repaired(operator, Code.AUDIT_BROKEN)
    run_command(operator.folder, "key", "create", "reader")  # and a new one is begun


def test_a_disk_that_is_full(operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 2**62)
    assert "audit" in provoked(operator, Code.DISK_FULL)["fix"]
    monkeypatch.undo()
    assert findings(operator, Code.DISK_FULL) == []


def test_a_key_that_has_expired(operator: Any) -> None:
    configuration = doctor.load(operator.folder / "servers.toml", {})
    keys_of(configuration).create("reader", timedelta(days=1), utc_now() - timedelta(days=2))
    repaired(operator, Code.KEY_EXPIRED)


def test_a_key_for_an_agent_that_nobody_names(operator: Any) -> None:
    operator.run("key", "create", "stranger")
    repaired(operator, Code.KEY_STRANGER)


@pytest.mark.slow
def test_a_gateway_of_another_version(operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(operator.folder, FILES) as gateway:
        monkeypatch.setattr(doctor, "__version__", "9.9")
        repair(operator, provoked(operator, Code.GATEWAY_VERSION))
        gateway.process.communicate(timeout=20)
    assert findings(operator, Code.GATEWAY_VERSION) == []


@pytest.mark.slow
def test_a_gateway_that_could_not_use_the_last_edit(operator: Any) -> None:
    with serving(operator.folder, FILES):
        operator.write({"policies/agents.toml": "x = 1"})
        seen = wait_for(lambda: findings(operator, Code.GATEWAY_CONFIG))
        assert "mcp-gateway check" in seen[0]["fix"]
        assert "GW-POLICY" in operator.run("check", exits=2).stderr
        operator.write(FILES)
        wait_for(lambda: not findings(operator, Code.GATEWAY_CONFIG))


def test_a_worker_that_has_died(operator: Any) -> None:
    with serving(operator.folder, FILES, workers=2):

        def seen_while_it_keeps_dying() -> list[dict[str, str]]:
            told = json.loads(operator.feed("", "status", "--json").stdout)["gateway"]["workers"]
            with suppress(ProcessLookupError):
                os.kill(told[1]["pid"] or 2**30, signal.SIGKILL)
            return findings(operator, Code.GATEWAY_WORKER)

        [seen] = wait_for(seen_while_it_keeps_dying)
        assert "worker 2" in seen["said"]
        wait_for(lambda: not findings(operator, Code.GATEWAY_WORKER))


def wait_for(condition: Callable[[], Any]) -> Any:
    for _ in range(100):
        if said := condition():
            return said
    raise AssertionError("it did not become true")


def connected(operator: Any, **changes: str) -> Path:
    """Cursor, connected; with changes in what its file says."""
    operator.run("connect", "cursor", "--yes", "--agent", "reader")
    path = operator.folder / "home/.cursor/mcp.json"
    text = path.read_text()
    for old, new in changes.items():
        text = text.replace(f'"{old}"', f'"{new}"') if old in ("reader",) else text.replace(old, new)
    path.write_text(text)
    return Path(path)


def test_a_connected_program_is_told(operator: Any) -> None:
    connected(operator)
    assert "is connected as the agent reader" in operator.run("doctor").stdout


def test_an_entry_whose_program_is_gone(operator: Any) -> None:
    path = connected(operator)
    path.write_text(path.read_text().replace(sys.executable, "/gone/python"))
    assert "--yes" in provoked(operator, Code.CLIENT_PROGRAM)["command"]
    operator.write({"policies/agents.toml": POLICY.replace("reader", "cursor")})
    repaired(operator, Code.CLIENT_PROGRAM)


def test_an_entry_whose_servers_toml_is_gone(operator: Any) -> None:
    path = connected(operator)
    path.write_text(path.read_text().replace("servers.toml", "moved.toml"))
    operator.write({"policies/agents.toml": POLICY.replace("reader", "cursor")})
    repaired(operator, Code.CLIENT_CONFIG)


def test_an_entry_for_an_agent_that_nobody_names(operator: Any) -> None:
    connected(operator, reader="stranger")
    repaired(operator, Code.CLIENT_AGENT)


def test_a_program_that_goes_past_the_gateway(operator: Any) -> None:
    path = operator.folder / "home/.cursor/mcp.json"
    path.parent.mkdir(parents=True)
    command = doctor.load(operator.folder / "servers.toml", {}).servers[0].command
    path.write_text(json.dumps({"mcpServers": {"mine": {"command": command[0], "args": list(command[1:])}}}))
    operator.write({"policies/agents.toml": POLICY.replace("reader", "cursor")})
    operator.run("connect", "cursor", "--yes")
    repaired(operator, Code.CLIENT_BYPASS)


def test_a_program_s_file_that_cannot_be_read_is_a_warning(operator: Any) -> None:
    operator.write({"home/.cursor/mcp.json": "{"})
    assert findings(operator, "GW-FILE-SYNTAX")[0]["weight"] == "warning"
    operator.run("doctor")


def test_colours_are_for_terminals_only(operator: Any) -> None:
    assert "\x1b" not in operator.run("doctor").output


def test_another_room_can_add_a_check(operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(patient: doctor.Patient) -> list[doctor.Finding]:
        return [doctor.Finding("weather", "ok", "fine")]

    monkeypatch.setattr(doctor, "CHECKS", [*doctor.CHECKS, check])
    assert "ok weather: fine" in operator.run("doctor").stdout
