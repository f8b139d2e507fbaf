"""`stdio`: requests piped in are answered before it ends, and only messages are on stdout."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fakes.gateway_process import MCP_GATEWAY, write_files
from fakes.operator_files import FILES

VERSION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "pipe", "version": "1"},
}


def piped(folder: Path, *messages: dict[str, Any], agent: str = "reader") -> subprocess.CompletedProcess[str]:
    write_files(folder, FILES)
    text = "".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in messages)
    command = [*MCP_GATEWAY, "stdio", "--agent", agent]
    return subprocess.run(command, cwd=folder, input=text, capture_output=True, text=True, timeout=30, env=os.environ)


def request(number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"id": number, "method": method, "params": params}


def answers(done: subprocess.CompletedProcess[str]) -> dict[int, Any]:
    assert done.returncode == 0, done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    return {message["id"]: message for message in messages if "id" in message}


def test_modern_requests_that_are_piped_in_are_answered_before_it_ends(tmp_path: Path) -> None:
    call = request(2, "tools/call", {"name": "files__echo", "arguments": {"path": "a"}, "_meta": META})
    found = answers(piped(tmp_path, request(1, "tools/list", {"_meta": META}), call))
    assert [tool["name"] for tool in found[1]["result"]["tools"]] == ["files__echo"]
    assert found[2]["result"]["content"][0]["text"] == '{"path": "a"}'


def test_legacy_requests_that_are_piped_in_are_answered_before_it_ends(tmp_path: Path) -> None:
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "pipe", "version": "1"}}
    ready = {"method": "notifications/initialized"}
    call = request(3, "tools/call", {"name": "files__echo", "arguments": {}})
    found = answers(piped(tmp_path, request(1, "initialize", hello), ready, request(2, "tools/list", {}), call))
    assert found[1]["result"]["protocolVersion"] == "2025-11-25"
    assert found[2]["result"]["tools"][0]["name"] == "files__echo"
    assert found[3]["result"]["content"][0]["text"] == "{}"


def test_what_was_piped_is_in_the_audit(tmp_path: Path) -> None:
    piped(tmp_path, request(1, "tools/call", {"name": "files__nothing", "arguments": {}, "_meta": META}))
    log = subprocess.run([*MCP_GATEWAY, "log", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True)
    [row] = map(json.loads, log.stdout.splitlines())
    assert (row["agent"], row["decision"], row["reason"]) == ("reader", "denied", "unknown_target")
    assert row["identity_strength"] == "stdio"


@pytest.mark.parametrize(
    ("words", "said", "fix"),
    [
        (["--agent", "nobody"], "no policy names the agent 'nobody'", "known: reader, writer"),
        (["--agent", "reader", "--task", "write"], "agent 'reader' has no task 'write'", "it has: read"),
    ],
)
def test_an_agent_or_task_that_is_not_there_ends_it(tmp_path: Path, words: list[str], said: str, fix: str) -> None:
    write_files(tmp_path, FILES)
    command = [*MCP_GATEWAY, "stdio", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert said in done.stderr
    assert f"fix: {fix}" in done.stderr
    assert done.stdout == ""
