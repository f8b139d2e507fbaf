"""Where things are: every platform's answers, asked on this one."""

from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from mcp_gateway.config.clients import BY_ID
from mcp_gateway.config.places import MAX_SOCKET_PATH, Places, places

LINUX = Places("linux", PurePosixPath("/srv/ann"), {})
MAC = Places("darwin", PurePosixPath("/srv/ann"), {})
WINDOWS = Places("windows", PureWindowsPath(r"C:\Users\ann"), {})

FILES = [
    ("claude-code", LINUX, "/srv/ann/.claude.json"),
    ("claude-code", WINDOWS, r"C:\Users\ann\.claude.json"),
    ("claude-desktop", LINUX, "/srv/ann/.config/Claude/claude_desktop_config.json"),
    ("claude-desktop", MAC, "/srv/ann/Library/Application Support/Claude/claude_desktop_config.json"),
    ("claude-desktop", WINDOWS, r"C:\Users\ann\AppData\Roaming\Claude\claude_desktop_config.json"),
    ("cursor", MAC, "/srv/ann/.cursor/mcp.json"),
    ("vscode", LINUX, "/srv/ann/.config/Code/User/mcp.json"),
    ("vscode", MAC, "/srv/ann/Library/Application Support/Code/User/mcp.json"),
    ("vscode", WINDOWS, r"C:\Users\ann\AppData\Roaming\Code\User\mcp.json"),
    ("codex", WINDOWS, r"C:\Users\ann\.codex\config.toml"),
    ("gemini", LINUX, "/srv/ann/.gemini/settings.json"),
    ("goose", MAC, "/srv/ann/.config/goose/config.yaml"),
    ("goose", WINDOWS, r"C:\Users\ann\AppData\Roaming\Block\goose\config\config.yaml"),
    ("zed", MAC, "/srv/ann/.config/zed/settings.json"),
    ("zed", WINDOWS, r"C:\Users\ann\AppData\Roaming\Zed\settings.json"),
]


@pytest.mark.parametrize(("client", "at", "file"), FILES, ids=[f"{client}-{at.system}" for client, at, _ in FILES])
def test_each_program_s_file_is_where_its_platform_keeps_it(client: str, at: Places, file: str) -> None:
    assert str(BY_ID[client].user_file(at)) == file


def test_logs_are_where_the_platform_keeps_them() -> None:
    assert str(LINUX.our_logs) == "/srv/ann/.local/state/mcp-gateway/log"
    assert str(MAC.our_logs) == "/srv/ann/Library/Logs/mcp-gateway"
    assert str(WINDOWS.our_logs) == r"C:\Users\ann\AppData\Local\mcp-gateway\Logs"


def test_the_environment_moves_folders_but_never_to_a_relative_one() -> None:
    moved = Places("linux", LINUX.home, {"XDG_CONFIG_HOME": "/etc/ann", "XDG_STATE_HOME": "here"})
    assert str(moved.our_config) == "/etc/ann/mcp-gateway"
    assert str(moved.our_state) == "/srv/ann/.local/state/mcp-gateway"
    assert str(Places("windows", WINDOWS.home, {"APPDATA": r"D:\data"}).our_config) == r"D:\data\mcp-gateway"
    assert str(BY_ID["codex"].user_file(Places("linux", LINUX.home, {"CODEX_HOME": "/c"}))) == "/c/config.toml"


def test_a_socket_whose_path_would_be_too_long_is_elsewhere_and_each_state_folder_has_its_own() -> None:
    near = PurePosixPath("/srv/ann/.mcp-gateway")
    assert LINUX.socket(near) == near / "gateway.sock"
    far = [PurePosixPath("/" + "x" * MAX_SOCKET_PATH, name) for name in ("a", "b")]
    found = {str(LINUX.socket(state)) for state in far}
    assert len(found) == 2
    assert all(len(path) <= MAX_SOCKET_PATH for path in found)
    with_run = Places("linux", LINUX.home, {"XDG_RUNTIME_DIR": "/run/user/7"})
    assert str(with_run.socket(far[0])).startswith("/run/user/7/mcp-gateway/")


def test_the_home_of_whoever_runs_this_is_taken_from_the_environment(tmp_path: Path) -> None:
    assert places({"HOME": str(tmp_path)}).home == tmp_path
