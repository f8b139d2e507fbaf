"""How this program is started again: by an absolute path, or by uvx where it lies in uv's cache."""

import sys
from pathlib import Path

from mcp_gateway.cli.program import program_words


def test_an_installed_program_is_named_by_its_absolute_path(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "mcp-gateway"
    program.parent.mkdir()
    program.touch()
    assert program_words(str(program)) == [str(program)]


def test_a_module_is_started_by_its_python() -> None:
    assert program_words("/x/mcp_gateway/__main__.py") == [sys.executable, "-m", "mcp_gateway"]
    assert program_words("/usr/bin/pytest", "/v/python") == ["/v/python", "-m", "mcp_gateway"]


def test_what_uvx_started_is_started_by_uvx_again() -> None:
    words = program_words("/srv/ann/.cache/uv/archive-v0/abc/bin/mcp-gateway")
    assert Path(words[0]).name == "uvx"
    assert (words[1], words[3]) == ("--from", "mcp-gateway")
