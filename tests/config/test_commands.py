"""Programs are found where the child would find them, and beside the gateway's own Python."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mcp_gateway.config.commands import resolve


def program(path: Path, mode: int = 0o755) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


def test_the_first_folder_of_path_that_has_it_wins(tmp_path: Path) -> None:
    first, second = program(tmp_path / "a/prog"), program(tmp_path / "b/prog")
    assert resolve("prog", f"{tmp_path}/a:{tmp_path}/b", None) == first
    assert resolve("prog", f"{tmp_path}/none:{tmp_path}/b", None) == second


@pytest.mark.parametrize("path", [None, "", "/nowhere"])
def test_a_program_beside_the_running_python_is_found_without_path(path: str | None) -> None:
    python = Path(sys.executable)
    assert resolve(python.name, path, None) == str(python)


def test_a_command_with_a_slash_counts_from_its_folder(tmp_path: Path) -> None:
    there = program(tmp_path / "bin/prog")
    assert resolve("bin/prog", None, tmp_path) == there
    assert resolve("./bin/prog", None, tmp_path) is not None
    assert resolve(there, None, Path("/")) == there
    assert resolve("bin/other", None, tmp_path) is None


def test_relative_entries_of_path_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "a/only-here")
    monkeypatch.chdir(tmp_path / "a")
    assert resolve("only-here", os.pathsep.join(["", ".", "../a"]), None) is None


def test_what_cannot_be_executed_is_not_found(tmp_path: Path) -> None:
    program(tmp_path / "prog", mode=0o644)
    (tmp_path / "folder").mkdir()
    assert resolve("prog", str(tmp_path), None) is None
    assert resolve("folder", str(tmp_path), None) is None
    assert resolve("", str(tmp_path), None) is None
