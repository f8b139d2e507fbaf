"""Starting as a pipe takes little; every command is still there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_a_pipe_loads_no_gateway() -> None:
    heavy = "{'mcp_gateway.wiring', 'mcp_gateway.gateway', 'cryptography', 'uvicorn', 'httpcore2', 'mcp'}"
    code = f"import sys, mcp_gateway.cli.entry; sys.exit(bool({heavy} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def program(*words: str, code: str = "from mcp_gateway.cli.entry import main; main()") -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_stdio_is_the_same_command_whichever_way_it_is_loaded() -> None:
    with_all = "from mcp_gateway.cli.main import app; app(prog_name='mcp-gateway')"
    status, told = program("stdio", "--help")
    assert status == 0
    assert "--task-token" in told
    assert (status, told) == program("stdio", "--help", code=with_all)


@pytest.mark.parametrize(
    ("words", "status"), [(("version",), 0), (("stdio", "--no-such-option"), 2), (("no-such-command",), 2)]
)
def test_other_words_end_as_they_should(words: tuple[str, ...], status: int) -> None:
    assert program(*words)[0] == status
