"""`connect`: one entry, bound to one agent; `--undo` gives back the very bytes, in every program's file."""

import codecs
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.cli.connect import masked
from mcp_gateway.config.clients import BY_ID, CLIENTS, servers_in
from mcp_gateway.config.places import places
from mcp_gateway.config.textfile import read

CANARY = "ghp_canary00112233445566778899aabb"

TEXTS = {
    "json": '{\r\n\t// mine\r\n\t"mcpServers": {\r\n\t\t"x": {"command": "x"}, // x\r\n\t},\r\n}\r\n',
    "toml": '# mine\nmodel = "o"\n\n[mcp_servers.x]\ncommand = "x"\n[tui]\ntheme = "dark"',
    "yaml": "# mine\nextensions:\n  # x\n  x: {type: builtin}\nmodel: o\n",
}
ENCODINGS = {"utf-8": b"", "utf-8-sig": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE}


def file_of(client: str) -> Path:
    return Path(BY_ID[client].user_file(places()))


def prepared(client: str, data: bytes) -> Path:
    path = file_of(client)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def entry_in(client: str, name: str = "gateway") -> Any:
    file = read(file_of(client))
    assert file is not None
    return servers_in(BY_ID[client], file)[name]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("client", [client.id for client in CLIENTS])
def test_connect_and_undo_give_back_the_same_bytes(operator: Any, client: str, encoding: str) -> None:
    text = TEXTS[BY_ID[client].format]
    data = ENCODINGS[encoding] + text.encode(encoding.removesuffix("-sig"))
    path = prepared(client, data)
    path.chmod(0o640)
    operator.run("connect", client, "--yes", "--agent", "reader")
    entry = entry_in(client)
    words = [entry.get("command", entry.get("cmd")), *entry["args"]]
    assert words[-4:] == ["--agent", "reader", "--config", str(operator.folder / "servers.toml")]
    assert path.read_bytes().startswith(ENCODINGS[encoding])
    operator.run("connect", client, "--yes", "--agent", "writer")  # again: its own entry, and the first backup
    operator.run("connect", client, "--undo")
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("client", [client.id for client in CLIENTS])
def test_a_file_that_was_not_there_is_gone_again(operator: Any, client: str) -> None:
    operator.run("connect", client, "--yes", "--agent", "reader")
    assert entry_in(client)
    operator.run("connect", client, "--undo")
    assert not file_of(client).exists()


def test_a_dry_run_shows_the_difference_and_writes_nothing(operator: Any) -> None:
    path = prepared("cursor", TEXTS["json"].encode())
    said = operator.run("connect", "cursor", "--dry-run", "--agent", "reader").stdout
    assert re.search(r'^\+ +"gateway": \{$', said, re.MULTILINE)
    assert path.read_bytes() == TEXTS["json"].encode()


def test_the_difference_shows_no_secret_of_the_file(operator: Any) -> None:
    prepared(
        "cursor",
        b'{"mcpServers": {"x": {"env": {"MY": "' + CANARY.encode() + b'"}, "headers": {"Authorization": "Bearer q"}}}}',
    )
    said = operator.run("connect", "cursor", "--dry-run", "--agent", "reader").stdout
    assert CANARY not in said
    assert "Bearer q" not in said


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('"API_KEY": "abc",', '"API_KEY": "...",'),
        ("api_key = 'abc'", "api_key = '...'"),
        ("TOKEN: abc", "TOKEN: ..."),
        ('"args": ["--x", "plain"]', '"args": ["--x", "plain"]'),
    ],
)
def test_a_line_is_shown_without_its_secret(line: str, shown: str) -> None:
    assert masked(line) == shown


def test_after_somebody_else_s_edit_undo_takes_out_only_the_entry(operator: Any) -> None:
    path = prepared("cursor", b'{"mcpServers": {}}')
    operator.run("connect", "cursor", "--yes", "--agent", "reader")
    path.write_text(path.read_text().replace("{", '{"theme": "dark", ', 1))
    said = operator.run("connect", "cursor", "--undo", "--yes").stderr
    assert "was changed since" in said
    assert json.loads(path.read_text()) == {"theme": "dark", "mcpServers": {}}


def test_disconnect_takes_out_the_entry_and_leaves_the_rest(operator: Any) -> None:
    path = prepared("zed", b'// zed\n{\n  "font": 1\n}\n')
    operator.run("connect", "zed", "--yes", "--agent", "reader")
    operator.run("disconnect", "zed", "--yes")
    assert '"font": 1' in path.read_text()
    assert "gateway" not in path.read_text()
    assert "GW-CONNECT-NOTHING" in operator.run("disconnect", "zed", exits=2).stderr


def test_a_link_stays_a_link(operator: Any) -> None:
    target = operator.folder / "dotfiles.json"
    target.write_text("{}")
    path = file_of("cursor")
    path.parent.mkdir(parents=True)
    path.symlink_to(target)
    operator.run("connect", "cursor", "--yes", "--agent", "reader")
    assert path.is_symlink()
    assert "gateway" in target.read_text()
    operator.run("connect", "cursor", "--undo")
    assert (path.is_symlink(), target.read_text()) == (True, "{}")


def test_a_read_only_file_is_refused_and_the_fix_works(operator: Any) -> None:
    path = prepared("cursor", b"{}")
    path.chmod(0o444)
    said = operator.run("connect", "cursor", "--yes", "--agent", "reader", exits=2).stderr
    assert "GW-FILE-READ-ONLY" in said
    fix = next(line.split("fix: ")[1] for line in said.splitlines() if "fix: " in line)
    subprocess.run(["sh", "-c", fix], check=True)
    operator.run("connect", "cursor", "--yes", "--agent", "reader")


def test_another_server_of_that_name_is_not_replaced_and_the_fix_works(operator: Any) -> None:
    path = prepared("cursor", b'{"mcpServers": {"gateway": {"command": "theirs"}}}')
    said = operator.run("connect", "cursor", "--yes", "--agent", "reader", exits=2).stderr
    assert "GW-CONNECT-TAKEN" in said
    operator.run("connect", "cursor", "--yes", "--agent", "reader", "--name", "mcp-gateway")
    assert set(json.loads(path.read_text())["mcpServers"]) == {"gateway", "mcp-gateway"}


def test_an_agent_or_task_that_the_policy_does_not_know_is_refused(operator: Any) -> None:
    said = operator.run("connect", "cursor", "--yes", exits=2).stderr
    assert "GW-CONNECT-AGENT" in said
    assert "no policy names the agent 'cursor'" in said
    assert "--agent reader" in said
    assert (
        "has no task 'write'"
        in operator.run("connect", "cursor", "--agent", "reader", "--task", "write", exits=2).stderr
    )
    assert not file_of("cursor").exists()


def test_a_task_is_part_of_the_entry(operator: Any) -> None:
    operator.run("connect", "cursor", "--yes", "--agent", "writer", "--task", "write")
    assert entry_in("cursor")["args"][-4:-2] == ["--task", "write"]


def test_the_other_servers_can_be_taken_out_and_come_back(operator: Any) -> None:
    path = prepared("cursor", TEXTS["json"].encode())
    operator.run("connect", "cursor", "--yes", "--agent", "reader", "--only")
    file = read(path)
    assert file is not None
    assert list(servers_in(BY_ID["cursor"], file)) == ["gateway"]
    operator.run("connect", "cursor", "--undo")
    assert path.read_bytes() == TEXTS["json"].encode()


def test_a_project_has_a_file_of_its_own(operator: Any) -> None:
    operator.run("connect", "claude-code", "--yes", "--agent", "reader", "--project")
    assert "gateway" in (operator.folder / ".mcp.json").read_text()
    assert "no files for single projects" in operator.run("connect", "goose", "--project", exits=2).stderr


def test_without_a_terminal_and_without_yes_nothing_is_written(operator: Any) -> None:
    operator.run("connect", "cursor", "--agent", "reader", exits=2)
    assert not file_of("cursor").exists()


def test_machines_are_told_the_entry_and_the_backup(operator: Any) -> None:
    prepared("cursor", b"{}")
    told = operator.json("connect", "cursor", "--agent", "reader", "--yes")
    assert Path(told["backup"]).read_bytes() == b"{}"
    assert told["entry"]["args"][-1] == str(operator.folder / "servers.toml")
