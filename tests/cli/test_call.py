"""`call`: one tool, as an agent, by the agent's own way: the policy decides, the audit writes it down."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fakes.gateway_process import MCP_GATEWAY, serving, write_files
from fakes.operator_files import FILES
from mcp_gateway.cli.call import show

ASKING = Path(__file__).parents[1] / "fakes" / "asking_server.py"


def test_a_tool_is_called_with_the_arguments_given(operator: Any) -> None:
    said = operator.run("call", "files__echo", "--arg", "path=a", "--arg", "n=2", "--agent", "reader").stdout
    assert json.loads(said) == {"path": "a", "n": 2}
    told = operator.json("call", "files__echo", "--args", '{"path": "b"}', "-a", "reader")
    assert json.loads(told["content"][0]["text"]) == {"path": "b"}


def test_a_call_that_the_policy_denies_is_refused_like_the_agent_s_and_written_down(operator: Any) -> None:
    words = ("call", "files__echo", "--arg", "path=secret", "--agent", "writer", "--task", "write")
    assert "Unknown tool: files__echo" in operator.run(*words, exits=1).stderr
    rows = [json.loads(line) for line in operator.run("log", "--json", "--decision", "denied").stdout.splitlines()]
    assert [(row["agent"], row["reason"]) for row in rows] == [("writer", "deny")]
    assert operator.json(*words, exits=1)["error"]["code"] == -32602


def test_arguments_that_are_none_are_refused_before_anything_starts(operator: Any) -> None:
    for words in (["--args", "7"], ["--args", "{"], ["--arg", "x"]):
        operator.run("call", "files__echo", "-a", "reader", *words, exits=2)


@pytest.mark.slow
def test_a_gateway_that_runs_is_asked_instead_of_a_new_one(tmp_path: Path) -> None:
    with serving(tmp_path, FILES) as gateway:
        said = gateway.run("call", "files__echo", "--arg", "path=a", "-a", "reader").stdout
        assert json.loads(said) == {"path": "a"}
        [log] = [json.loads(line) for line in gateway.run("log", "--json", "--limit", "1").stdout.splitlines()]
        assert log["name"] == "echo"


def test_results_of_every_kind_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show({"content": [{"type": "text", "text": "a\x1b[31mb\nc"}, {"type": "image", "mimeType": "image/png"}, 7]})
    show({"content": [], "structuredContent": {"a": 1}})
    said = capsys.readouterr().out
    assert "a\\x1b[31mb\nc\n[image image/png]\n" in said
    assert '"a": 1' in said.replace("\\n", "\n")


@pytest.mark.slow
def test_at_a_terminal_arguments_are_asked_for_and_so_is_what_the_server_asks(tmp_path: Path) -> None:
    python = json.dumps([sys.executable, "-W", "ignore", str(Path(__file__).parents[1] / "fakes/sdk_server.py")])
    policy = '[agents.a]\ntasks = ["t"]\ndefault_task = "t"\n[tasks.t]\nallow = ["s/*"]\n'
    write_files(tmp_path, {"servers.toml": f"[servers.s]\ncommand = {python}\n", "policies/a.toml": policy})
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*MCP_GATEWAY, "call", "s__echo"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(theirs)
    heard = b""
    while b"text (string)" not in heard:
        heard += os.read(ours, 1000)
    os.write(ours, b"hello there\n")
    said, _ = process.communicate(timeout=20)
    os.close(ours)
    assert (process.returncode, said) == (0, b"hello there\n")
