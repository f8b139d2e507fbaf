"""What stands in deploy/ and the Containerfile is true: nginx serves by it, systemd reads it, the names in it exist."""

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

from fakes.gateway_process import serving
from fakes.operator_files import FILES
from fakes.ports import free_port
from fakes.waiting import until

ROOT = Path(__file__).parents[1]
HOST = "gateway.example.com"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
async def test_agents_come_through_nginx_as_it_is_written(tmp_path: Path) -> None:
    outside = free_port()
    files = {**FILES, "servers.toml": FILES["servers.toml"] + f'[gateway]\nallowed_hosts = ["{HOST}"]\n'}
    with serving(tmp_path, files) as gateway:
        inside = gateway.origin.rpartition(":")[2]
        text = (
            (ROOT / "deploy/nginx.conf")
            .read_text()
            .replace("8765", inside)
            .replace("listen 8443", f"listen 127.0.0.1:{outside}")
        )
        own = f"daemon off; master_process off; pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log;\n"
        (tmp_path / "nginx.conf").write_text(
            own + text.replace("http {", f"http {{ access_log off; {paths(tmp_path)}", 1)
        )
        nginx = subprocess.Popen(
            ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")], stderr=subprocess.DEVNULL
        )
        try:
            await until(lambda: answers(outside), within_s=10)
            async with httpx2.AsyncClient(headers={**gateway.headers("reader"), "Host": HOST}) as http:
                base = f"http://127.0.0.1:{outside}"
                called = await http.post(f"{base}/mcp", json=LIST, headers=MODERN)
                health = await http.get(f"{base}/health")
                other = await http.get(f"{base}/anything")
                stranger = await http.post(f"{base}/mcp", json=LIST, headers={**MODERN, "Host": "evil.example"})
        finally:
            nginx.terminate()
            nginx.wait(10)
    assert [tool["name"] for tool in called.json()["result"]["tools"]] == ["files__echo"]
    assert (health.json()["ok"], other.status_code) == (True, 404)
    assert stranger.status_code >= 400


META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
MODERN = {
    "Accept": "application/json, text/event-stream",
    "MCP-Protocol-Version": "2026-07-28",
    "Mcp-Method": "tools/list",
}


def paths(folder: Path) -> str:
    """Where nginx may write without being root."""
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{name}_temp_path {folder}/{name};" for name in names)


async def answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_is_one_that_systemd_reads(tmp_path: Path) -> None:
    unit = tmp_path / "mcp-gateway.service"
    program = shutil.which("true")
    text = (ROOT / "deploy/mcp-gateway.service").read_text()
    unit.write_text(re.sub(r"ExecStart=\S+", f"ExecStart={program}", text))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert [line for line in done.stderr.splitlines() if "mcp-gateway.service" in line] == []


def test_what_the_files_start_are_commands_and_options_that_exist() -> None:
    unit = (ROOT / "deploy/mcp-gateway.service").read_text()
    container = (ROOT / "Containerfile").read_text()
    assert "mcp-gateway serve --config" in unit
    assert 'CMD ["serve", "--config"' in container
    for path in re.findall(r"^COPY (?!--from)(.*) \S+$", container, re.MULTILINE):
        assert all((ROOT / name).exists() for name in path.split())


def test_the_container_runs_as_nobody_special_and_keeps_secrets_out_of_the_image() -> None:
    container = (ROOT / "Containerfile").read_text()
    assert container.index("\nUSER gateway") < container.index("\nENTRYPOINT")
    assert not re.search(r"^(ARG|ENV).*(TOKEN|KEY|SECRET|PASSWORD)", container, re.MULTILINE | re.IGNORECASE)
