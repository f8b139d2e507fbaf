"""The command that repeats our figures: what it runs, what it writes, and what it refuses to write."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.source import ROOT

BETTER = "before\n<!-- policy -->\nof an idle machine\n<!-- policy -->\nafter\n"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # taken back afterwards: its names are short
    return importlib.import_module("benchmarks.__main__")


def run(*words: object, path: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **({"PATH": path} if path else {})}
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=180, check=False
    )


def test_figures_of_a_busy_machine_replace_no_others(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "performance.md"
    document.write_text(BETTER)
    monkeypatch.setattr(os, "getloadavg", lambda: (64.0, 64.0, 64.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert command.main(["policy", "--write", str(document)]) == 2
    assert document.read_text() == BETTER
    assert "Load for each core beforehand: 32.0 (busy" in command.machine.described(32.0)
    assert "(idle)" in command.machine.described(0.1)


def test_a_part_is_written_in_its_own_place_and_nowhere_else(tmp_path: Path, command: Any) -> None:
    document = tmp_path / "performance.md"
    document.write_text(BETTER)
    for text in ("first", "second"):
        command.write_between("policy", text, document)
        command.write_between("replay", f"replay, {text}", document)
    written = document.read_text()
    assert written.startswith("before\n<!-- policy -->\nsecond\n<!-- policy -->\nafter\n")
    assert written.count("<!-- replay -->") == 2
    assert "replay, second" in written
    assert "first" not in written


def test_a_part_that_fails_is_named_and_writes_nothing(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text("print('| half a table |')\nraise SystemExit('the upstream did not come up')\n")
    (tmp_path / "whole.py").write_text("print('| a table |')\n")
    parts = {name: command.Part("A part.", str(tmp_path / f"{name}.py")) for name in ("broken", "whole")}
    monkeypatch.setattr(command, "PARTS", parts)
    document = tmp_path / "performance.md"
    assert command.main(["--write", str(document), "--although-busy"]) == 1
    assert "the upstream did not come up" in capsys.readouterr().out
    assert "half" not in document.read_text()
    assert "<!-- whole -->\n| a table |\n\n`python -m benchmarks whole`. Made on " in document.read_text()


def test_every_part_has_a_script(command: Any) -> None:
    for part in command.PARTS.values():
        assert (ROOT / "benchmarks" / part.script).is_file()


@pytest.mark.slow
def test_the_command_runs_for_real_and_writes_figures_with_machine_and_versions(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(BETTER)
    done = run("-m", "benchmarks", "policy", "starting", "--quick", "--write", document, "--although-busy")
    assert done.returncode == 0, done.stdout + done.stderr
    written = document.read_text()
    assert "of an idle machine" not in written
    assert re.search(r"^\| `serve`, `tools/list` over HTTP \| [\d.]+ \| [\d.]+ \| \d+ \|$", written, re.MULTILINE)
    assert re.search(r"^With 100 tools: \d+ MiB resident", written, re.MULTILINE)
    stamp = rf"Made on \d{{4}}-\d\d-\d\d of .+ cores, \d+ GiB, .+ Python {sys.version_info.major}\..+ mcp \d.+ SQLite 3"
    assert len(re.findall(stamp, written)) == 2


@pytest.mark.slow
def test_calls_are_compared_without_nginx_where_there_is_none(tmp_path: Path) -> None:
    found = {program: shutil.which(program) for program in ("git", "taskset")}
    for program, path in found.items():
        if path is not None:
            (tmp_path / program).symlink_to(path)
    words = ["--work", "modern,stdio", "--rounds", "1", "--secs", "0.2", "--connections", "2"]
    done = run("benchmarks/side_by_side.py", *words, path=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith(("| modern", "| stdio"))]
    assert [row[0] for row in rows] == [
        f"| {work} {hop} 2" for work in ("modern", "stdio") for hop in ("direct", "gateway")
    ]
    assert all(row[-1] == "0 |" for row in rows)  # wrong answers


@pytest.mark.slow
def test_an_audit_made_for_measuring_is_whole(tmp_path: Path) -> None:
    """A benchmark over rows that no gateway could have written would measure nothing."""
    (tmp_path / "servers.toml").write_text("")
    program = (
        f"import asyncio, pathlib, audit_rows; asyncio.run(audit_rows.fill(pathlib.Path({str(tmp_path)!r}), 50_000))"
    )
    made = run("-c", f"import sys; sys.path.insert(0, 'benchmarks'); {program}")
    assert made.returncode == 0, made.stderr
    verified = run("-m", "mcp_gateway", "audit", "verify", "--config", tmp_path / "servers.toml")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    # One for each of two runs, and one for a day that has ended: in its first hours the newest copies are yesterday's.
    assert re.search(r"^ok \S+audit\.db: 5000\d rows, [23] checkpoints", verified.stdout)
