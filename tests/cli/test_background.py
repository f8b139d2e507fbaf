"""The gateway in the background: it goes on when it is told how, and what it says is in its log."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fakes.gateway_process import run_command, write_files
from fakes.operator_files import FILES
from fakes.waiting import until
from mcp_gateway.cli.ahead import RUNNING_LOCK, launched
from mcp_gateway.cli.shared import locked, record_of

ROOT = Path(__file__).parents[2]


def told(folder: Path, **how: Any) -> "subprocess.Popen[bytes]":
    process = launched(folder / "servers.toml")
    line = {"config": str(folder / "servers.toml"), "linger": None, "log": str(folder / "log.txt"), **how}
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(json.dumps(line).encode() + b"\n")
    return process


def said(folder: Path) -> str:
    return (folder / "log.txt").read_text()


@pytest.mark.slow
async def test_it_serves_those_who_attach_until_it_is_told_to_stop(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    process = told(tmp_path)
    try:
        await until(lambda: record_of(tmp_path / ".mcp-gateway") is not None, within_s=20)
        status = json.loads(run_command(tmp_path, "status", "--json").stdout)
        assert status["gateway"]["pid"] == process.pid
        assert run_command(tmp_path, "stop").stdout == "stopped\n"
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert f"process {process.pid}" in said(tmp_path)
    assert (tmp_path / "log.txt").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_a_second_one_says_so_and_ends(tmp_path: Path) -> None:
    write_files(tmp_path, FILES)
    with locked(tmp_path / ".mcp-gateway" / RUNNING_LOCK, wait=False):
        assert told(tmp_path).wait(20) == 0
    assert said(tmp_path) == "another gateway runs on this configuration already\n"


@pytest.mark.slow
def test_a_servers_toml_that_cannot_be_used_is_complained_about_in_the_log(tmp_path: Path) -> None:
    write_files(tmp_path, {**FILES, "servers.toml": "[servers.files]\nnonsense = 1\n"})
    assert told(tmp_path).wait(20) == 2
    assert "servers.toml:2" in said(tmp_path)


def test_it_loads_nothing_that_is_for_people_at_a_terminal() -> None:
    heavy = "{'typer', 'rich', 'pydantic', 'mcp'}"
    code = f"import sys, mcp_gateway.cli.background; sys.exit(bool({heavy} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
