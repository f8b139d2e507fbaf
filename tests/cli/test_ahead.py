"""What is begun before a window has loaded: only where it is plain, once, and it does nothing until it is told."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from fakes.gateway_process import MCP_GATEWAY, write_files
from fakes.operator_files import FILES
from fakes.waiting import until
from mcp_gateway.cli.ahead import RUNNING_LOCK, STARTING_LOCK, TOKEN_VARIABLE, Ahead, begun_ahead, launched
from mcp_gateway.cli.shared import locked, record_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_files(tmp_path, FILES)
    (tmp_path / ".mcp-gateway").mkdir(mode=0o700)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def begun(*words: str, **environ: str) -> Iterator[Ahead | None]:
    ahead = begun_ahead(["stdio", "--agent", "reader", *words], environ)
    try:
        yield ahead
    finally:
        if ahead is not None:
            ahead.drop()


def children() -> list[psutil.Process]:
    return psutil.Process().children()


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        ((), {}),
        (("--config", "servers.toml"), {}),
        (("--config=servers.toml",), {}),
        (("-c", "servers.toml"), {"MCP_GATEWAY_CONFIG": "elsewhere.toml"}),
        ((), {"MCP_GATEWAY_CONFIG": "servers.toml"}),
        (("--ephemeral",), {}),
    ],
)
def test_it_is_begun_for_the_servers_toml_that_the_window_will_read(
    folder: Path, words: tuple[str, ...], environ: dict[str, str]
) -> None:
    with begun(*words, **environ) as ahead:
        assert ahead is not None
        assert ahead.is_of(Path("servers.toml"), folder / ".mcp-gateway")
        assert not ahead.is_of(Path("other.toml"), folder / ".mcp-gateway")
        assert not ahead.is_of(Path("servers.toml"), folder / "elsewhere")
        assert not record_of(folder / ".mcp-gateway")
    assert children() == []


@pytest.mark.parametrize("words", [("--alone",), ("--help",), ("--config", "nothing.toml"), ("--config",)])
def test_for_words_that_need_none_nothing_is_begun(folder: Path, words: tuple[str, ...]) -> None:
    with begun(*words) as ahead:
        assert ahead is None
    with begun(MCP_GATEWAY_ALONE="1") as ahead:
        assert ahead is None


@pytest.mark.parametrize("settings", ['shared = "off"', 'state = "kept"', "state = 1", "[", 'shared = "off"\n[['])
def test_nothing_is_begun_for_a_servers_toml_that_is_not_plain(folder: Path, settings: str) -> None:
    (folder / "servers.toml").write_text(f"[gateway]\n{settings}\n")
    with begun() as ahead:
        assert ahead is None


def test_nothing_is_begun_in_a_state_folder_that_is_not_there_or_not_ours_alone(folder: Path) -> None:
    state = folder / ".mcp-gateway"
    state.chmod(0o755)
    with begun() as ahead:
        assert ahead is None
    state.rmdir()
    with begun() as ahead:
        assert ahead is None
    assert not state.exists()


@pytest.mark.parametrize("lock", [RUNNING_LOCK, STARTING_LOCK])
def test_nothing_is_begun_while_a_gateway_runs_or_somebody_starts_one(folder: Path, lock: str) -> None:
    with locked(folder / ".mcp-gateway" / lock, wait=False), begun() as ahead:
        assert ahead is None
    with begun() as ahead:
        assert ahead is not None


def test_of_windows_that_open_at_once_one_begins_it(folder: Path) -> None:
    with begun() as first, begun() as second:
        assert first is not None
        assert second is None
        with locked(folder / ".mcp-gateway" / STARTING_LOCK, wait=False) as is_free:
            assert not is_free


def test_a_link_in_place_of_the_lock_is_not_followed(folder: Path) -> None:
    (folder / ".mcp-gateway" / STARTING_LOCK).symlink_to(folder / "servers.toml")
    with begun() as ahead:
        assert ahead is None


def test_what_is_taken_lives_on_and_the_lock_is_let_go(folder: Path) -> None:
    with begun() as ahead:
        assert ahead is not None
        process = ahead.take()
        assert not ahead.is_of(ahead.config, ahead.state)
        ahead.drop()
        ahead.drop()
        assert process.poll() is None
        with (folder / ".mcp-gateway" / STARTING_LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_one_that_is_told_nothing_ends_and_leaves_nothing(folder: Path) -> None:
    before = sorted(path.name for path in (folder / ".mcp-gateway").iterdir())
    process = launched(folder / "servers.toml")
    assert process.communicate(timeout=20) == (None, None)
    assert process.returncode == 0
    assert sorted(path.name for path in (folder / ".mcp-gateway").iterdir()) == before


def test_the_token_of_a_window_is_not_in_its_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    monkeypatch.setenv("ANOTHER", "kept")
    process = launched(folder / "servers.toml")
    environ = psutil.Process(process.pid).environ()
    process.kill()
    process.communicate()
    assert environ["ANOTHER"] == "kept"
    assert TOKEN_VARIABLE not in environ


def test_it_loads_little() -> None:
    heavy = "{'typer', 'asyncio', 'anyio', 'dataclasses', 'orjson', 'mcp_gateway.errors'}"
    code = f"import sys, mcp_gateway.cli.ahead; sys.exit(bool({heavy} & sys.modules.keys()))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.slow
async def test_a_window_that_may_not_attach_leaves_no_gateway_behind(folder: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "MCP_GATEWAY_ALONE"}
    words = [*MCP_GATEWAY, "stdio", "--agent", "nobody"]
    done = subprocess.run(words, cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 2
    await until(lambda: not of(folder), within_s=20)
    assert not record_of(folder / ".mcp-gateway")


def of(folder: Path) -> list[psutil.Process]:
    """The gateways that were begun for a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder / "servers.toml") in process.cmdline():
                found.append(process)
    return found


@pytest.mark.slow
def test_one_that_was_begun_for_another_file_is_in_nobodys_way(folder: Path) -> None:
    (folder / "other.toml").write_text((folder / "servers.toml").read_text())
    environ = {name: value for name, value in os.environ.items() if name != "MCP_GATEWAY_ALONE"}
    words = [*MCP_GATEWAY, "stdio", "--agent", "reader", "-cother.toml", "--ephemeral"]
    ping = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n'
    done = subprocess.run(words, cwd=folder, env=environ, input=ping, capture_output=True, check=False, timeout=25)
    assert done.stdout == b'{"jsonrpc":"2.0","id":1,"result":{}}\n'
    assert of(folder) == []
