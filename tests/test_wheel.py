"""The wheel holds everything: built from here, installed away from here, and run by pip's and uv's ways."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves nothing in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".*_cache", ".venv", ".node", "__pycache__"))
    words = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(copy)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    yield folder


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"mcp_gateway", next(top for top in tops if top.endswith(".dist-info"))}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "mcp_gateway").rglob("*.py")}
    assert sources <= set(names)


def test_it_names_its_program_and_what_it_needs(unpacked: Path) -> None:
    [about] = unpacked.glob("*.dist-info")
    assert "mcp-gateway = mcp_gateway.cli.entry:main" in (about / "entry_points.txt").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = (about / "METADATA").read_text()
    assert [name for name in project["dependencies"] if f"Requires-Dist: {name.partition(';')[0]}" not in told] == []


def test_what_is_in_it_runs_without_the_clone(unpacked: Path, tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(unpacked), "HOME": str(tmp_path)}
    for words in (["version"], ["init", "--yes"], ["check"], ["doctor"]):
        command = [sys.executable, "-m", "mcp_gateway", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (words, done.stdout, done.stderr)


@pytest.mark.skipif(shutil.which("uvx") is None, reason="uv is not installed")
def test_uvx_runs_it_and_an_entry_that_connect_writes_then_starts_uvx(wheel: Path, tmp_path: Path) -> None:
    environ = {**os.environ, "HOME": str(tmp_path), "UV_CACHE_DIR": str(tmp_path / "uv")}
    environ.pop("PYTHONPATH", None)

    def uvx(*words: str) -> str:
        command = ["uvx", "-q", "--python", sys.executable, "--from", str(wheel), "mcp-gateway", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (tmp_path / ".cursor").mkdir()
    uvx("init", "--yes")
    uvx("connect", "cursor", "--yes")
    entry = json.loads((tmp_path / ".cursor/mcp.json").read_text())["mcpServers"]["gateway"]
    assert Path(entry["command"]).name == "uvx"
    assert entry["args"][0] == "--from"
    started = [entry["command"], *entry["args"][:3], "version"]
    done = subprocess.run(started, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
