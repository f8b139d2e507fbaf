"""One gateway for many windows: started once, found by all, ended with its last user if asked to."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from fakes.gateway_process import MCP_GATEWAY, run_command, serving, write_files
from fakes.operator_files import FILES
from mcp_gateway.cli.shared import locked, record_of, token_of

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "window", "version": "1"},
}


class Window:
    """One agent's window: `stdio` with its pipes open."""

    def __init__(self, folder: Path, *words: str, agent: str = "reader") -> None:
        environ = {**os.environ, "HOME": str(folder / "home"), "MCP_GATEWAY_ALONE": ""}
        self.process = subprocess.Popen(
            [*MCP_GATEWAY, "stdio", "--agent", agent, *words],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ,
        )
        self._last_id = 0

    def ask(self, method: str, **params: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._last_id += 1
        message = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": {**params, "_meta": META}}
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read().decode() if self.process.stderr else ""
        return json.loads(line)["result"]

    def call(self, tool: str, **arguments: Any) -> str:
        return str(self.ask("tools/call", name=tool, arguments=arguments)["content"][0]["text"])

    def close(self) -> int:
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return self.process.wait(20)


@contextmanager
def windows(folder: Path, count: int, *words: str) -> Iterator[list[Window]]:
    write_files(folder, FILES)
    opened = [Window(folder, *words) for _ in range(count)]
    try:
        yield opened
    finally:
        for window in opened:
            window.close()
        run_command(folder, "stop", check=False)


def gateways(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder / "servers.toml") in process.cmdline() and "serve" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def status(folder: Path) -> Any:
    return json.loads(run_command(folder, "status", "--json", check=False).stdout)


def wait_for_end(folder: Path) -> None:
    psutil.wait_procs(gateways(folder), timeout=20)
    assert gateways(folder) == []


@pytest.mark.slow
def test_ten_windows_that_open_at_once_have_one_gateway_and_one_of_each_upstream(tmp_path: Path) -> None:
    with windows(tmp_path, 10) as opened:
        assert [window.ask("tools/list")["tools"][0]["name"] for window in opened] == ["files__echo"] * 10
        [gateway] = gateways(tmp_path)
        assert len(gateway.children()) == 1
        assert {one["client"].partition(" ")[0] for one in status(tmp_path)["attached"]} == {"stdio,"}
        assert len(status(tmp_path)["attached"]) == 10


@pytest.mark.slow
def test_the_gateway_ends_with_its_last_user_if_asked_to(tmp_path: Path) -> None:
    with windows(tmp_path, 2, "--ephemeral") as opened:
        for window in opened:
            window.ask("tools/list")
        opened[0].close()
        assert len(gateways(tmp_path)) == 1
        opened[1].close()
        wait_for_end(tmp_path)
        assert not (tmp_path / ".mcp-gateway/gateway.json").exists()


@pytest.mark.slow
def test_otherwise_it_stays_and_the_next_window_finds_it(tmp_path: Path) -> None:
    with windows(tmp_path, 1) as opened:
        opened[0].ask("tools/list")
        opened[0].close()
        [gateway] = gateways(tmp_path)
        again = Window(tmp_path)
        again.ask("tools/list")
        assert [found.pid for found in gateways(tmp_path)] == [gateway.pid]
        again.close()


@pytest.mark.slow
def test_each_window_is_the_agent_it_was_started_for_and_the_audit_says_so(tmp_path: Path) -> None:
    with windows(tmp_path, 1) as opened:
        writer = Window(tmp_path, "--task", "write", agent="writer")
        for window in (writer, opened[0]):
            assert window.ask("tools/list")["tools"]
        writer.close()
        rows = [json.loads(line) for line in run_command(tmp_path, "log", "--json").stdout.splitlines()]
        assert {(row["agent"], row["task"], row["identity_strength"]) for row in rows} == {
            ("reader", "read", "stdio"),
            ("writer", "write", "stdio"),
        }


@pytest.mark.slow
def test_a_window_attaches_to_a_gateway_that_serves_http(tmp_path: Path) -> None:
    with serving(tmp_path, FILES) as gateway:
        window = Window(tmp_path)
        assert window.call("files__echo", path="a")
        [process] = [psutil.Process(gateway.process.pid)]
        assert len(process.children()) == 1
        assert status(tmp_path)["gateway"]["url"] == gateway.url
        window.close()


@pytest.mark.slow
def test_a_gateway_that_was_killed_is_replaced_and_its_windows_end(tmp_path: Path) -> None:
    with windows(tmp_path, 1) as opened:
        opened[0].ask("tools/list")
        [gateway] = gateways(tmp_path)
        gateway.send_signal(signal.SIGKILL)
        assert opened[0].process.wait(20) == 1
        assert b"the gateway has ended" in opened[0].process.stderr.read()  # type: ignore[union-attr]
        again = Window(tmp_path)
        assert again.ask("tools/list")["tools"]
        again.close()


@pytest.mark.slow
def test_an_agent_written_down_a_moment_ago_is_taken(tmp_path: Path) -> None:
    with windows(tmp_path, 1) as opened:
        opened[0].ask("tools/list")
        policy = tmp_path / "policies/agents.toml"
        policy.write_text(policy.read_text() + '\n[agents.late]\ntasks = ["read"]\ndefault_task = "read"\n')
        late = Window(tmp_path, agent="late")
        assert late.ask("tools/list")["tools"]
        late.close()


@pytest.mark.slow
def test_another_configuration_in_the_same_state_folder_is_a_gateway_by_itself(tmp_path: Path) -> None:
    with windows(tmp_path, 1) as opened:
        opened[0].ask("tools/list")
        (tmp_path / "other.toml").write_text((tmp_path / "servers.toml").read_text())
        other = Window(tmp_path, "--config", "other.toml")
        assert other.ask("tools/list")["tools"]
        assert len(status(tmp_path)["attached"]) == 1
        other.close()


@pytest.mark.slow
def test_it_opens_no_port(tmp_path: Path) -> None:
    with windows(tmp_path, 1) as opened:
        opened[0].ask("tools/list")
        [gateway] = gateways(tmp_path)
        assert [found for found in gateway.net_connections() if found.status == psutil.CONN_LISTEN] == []
        [log] = (tmp_path / "home/.local/state/mcp-gateway/log").iterdir()
        assert log.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_stop_ends_it_and_says_so(tmp_path: Path) -> None:
    with windows(tmp_path, 1) as opened:
        opened[0].ask("tools/list")
        assert run_command(tmp_path, "stop").stdout == "stopped\n"
        wait_for_end(tmp_path)
        done = run_command(tmp_path, "stop", check=False)
        assert (done.returncode, done.stdout) == (1, "no gateway runs here\n")


async def test_a_lock_is_held_by_one_and_waited_for_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "state" / "lock"
    order: list[str] = []

    def second() -> None:
        with locked(path, wait=True) as held:
            order.append(f"second {held}")

    async with anyio.create_task_group() as tasks:
        with locked(path, wait=False) as first:
            assert first
            with locked(path, wait=False) as other:
                assert not other
            tasks.start_soon(anyio.to_thread.run_sync, second)
            order.append("first")
    assert order == ["first", "second True"]


def test_the_token_is_the_owner_s_alone_and_always_the_same(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert token_of(state) == token_of(state)
    assert (state / "attach.key").stat().st_mode & 0o077 == 0


def test_a_record_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert record_of(tmp_path) is None
    (tmp_path / "gateway.json").write_text('{"pid": 1}')
    assert record_of(tmp_path) is None
