"""What other programs know, in our words: every form they write it in, and what is left out with its reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.config.clients import BY_ID
from mcp_gateway.config.found import FoundServer, read_entry, server_name, survey
from mcp_gateway.config.places import Places


def entry(client: str, written: Any, name: str = "x") -> FoundServer:
    found, reason = read_entry(
        BY_ID[client], name, written, "here", Path("/p/.vscode"), Places("linux", Path("/srv/ann"), {}), {"key": True}
    )
    assert found is not None, reason
    return found


@pytest.mark.parametrize(
    ("client", "written", "command"),
    [
        ("cursor", {"command": "npx", "args": ["-y", "a"]}, ("npx", "-y", "a")),
        ("cursor", {"command": "npx -y a"}, ("npx", "-y", "a")),
        ("claude-desktop", {"command": "C:\\Program Files\\x.exe", "args": [1]}, ("C:\\Program Files\\x.exe", "1")),
        ("zed", {"command": {"path": "x", "args": ["y"], "env": {"A": "b"}}}, ("x", "y")),
        ("goose", {"type": "stdio", "cmd": "x", "args": ["y"]}, ("x", "y")),
        ("codex", {"command": ["x", "y"]}, ("x", "y")),
    ],
)
def test_a_command_is_read_in_every_form(client: str, written: Any, command: tuple[str, ...]) -> None:
    assert entry(client, written).command == command


@pytest.mark.parametrize(
    ("client", "written", "url", "headers", "transport"),
    [
        ("cursor", {"url": "https://a/mcp"}, "https://a/mcp", {}, ""),
        ("gemini", {"httpUrl": "https://a/mcp", "headers": {"X": "$T"}}, "https://a/mcp", {"X": "${T}"}, ""),
        ("claude-code", {"type": "sse", "url": "https://a/sse"}, "https://a/sse", {}, "sse"),
        ("goose", {"type": "streamable_http", "uri": "https://a/mcp"}, "https://a/mcp", {}, ""),
        (
            "codex",
            {"url": "https://a/mcp", "bearer_token_env_var": "T", "env_http_headers": {"X": "V"}},
            "https://a/mcp",
            {"X": "${V}", "Authorization": "Bearer ${T}"},
            "",
        ),
    ],
)
def test_an_address_is_read_in_every_form(
    client: str, written: Any, url: str, headers: dict[str, str], transport: str
) -> None:
    found = entry(client, written)
    assert (found.url, found.headers, found.transport) == (url, headers, transport)


@pytest.mark.parametrize(
    ("client", "written", "ours"),
    [
        ("claude-code", "${A} ${B:-c}", "${A} ${B:-c}"),
        ("gemini", "$A/${B}", "${A}/${B}"),
        ("cursor", "${env:A} ${userHome} ${workspaceFolder}/x", "${A} /srv/ann /p/x"),
        ("vscode", "Bearer ${input:key}", "Bearer ${KEY}"),
        ("claude-desktop", "${A}", "$${A}"),
        ("zed", "no $A here", "no $A here"),
    ],
)
def test_variables_become_ours_as_far_as_the_program_knows_them(client: str, written: str, ours: str) -> None:
    assert entry(client, {"command": "x", "env": {"V": written}}).env == {"V": ours}


def test_what_somebody_has_to_give_is_told() -> None:
    assert entry("vscode", {"command": "x", "args": ["${input:api-key}"]}).needs == ("API_KEY",)


def test_variables_that_a_program_only_names_are_taken_by_their_names() -> None:
    assert entry("goose", {"cmd": "x", "env_keys": ["TOKEN"]}).env == {"TOKEN": "${TOKEN}"}
    assert entry("codex", {"command": "x", "env_vars": ["TOKEN"]}).env == {"TOKEN": "${TOKEN}"}


@pytest.mark.parametrize("written", [{"disabled": True}, {"enabled": False}])
def test_what_is_switched_off_stays_off(written: dict[str, bool]) -> None:
    assert not entry("cursor", {"command": "x", **written}).enabled


@pytest.mark.parametrize(
    ("client", "written", "reason"),
    [
        ("goose", {"type": "builtin", "name": "developer"}, "part of Goose itself"),
        ("zed", {"source": "extension", "settings": {}}, "part of Zed itself"),
        ("cursor", {}, "neither a command nor a URL"),
        ("cursor", 7, "not a table"),
        ("cursor", {"command": "/v/bin/mcp-gateway", "args": ["stdio", "--agent", "a"]}, "the gateway itself"),
        ("cursor", {"command": "python", "args": ["-m", "mcp_gateway", "stdio"]}, "the gateway itself"),
        ("cursor", {"command": "uvx", "args": ["--from", "x", "mcp-gateway", "stdio"]}, "the gateway itself"),
    ],
)
def test_what_is_no_server_of_that_kind_is_left_out_with_the_reason(client: str, written: Any, reason: str) -> None:
    found, why = read_entry(BY_ID[client], "x", written, "", Path(), Places("linux", Path("/h"), {}))
    assert found is None
    assert reason in why


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("GitHub", "github"),
        ("my server!", "my-server"),
        ("a__b_", "a_b"),
        ("名前", "server"),
        ("x" * 50, "x" * 32),
        ("", "server"),
    ],
)
def test_names_become_ones_that_servers_toml_takes(written: str, name: str) -> None:
    assert server_name(written) == name


def write(home: Path, name: str, servers: dict[str, Any], table: str = "mcpServers") -> None:
    (home / name).parent.mkdir(parents=True, exist_ok=True)
    (home / name).write_text(json.dumps({table: servers}))


def test_one_server_in_two_programs_is_one_and_two_of_one_name_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, ".claude.json", {"a": {"command": "x"}, "b": {"command": "one"}})
    write(tmp_path, ".cursor/mcp.json", {"A": {"command": "x"}, "b": {"command": "two"}})
    found = survey(Places("linux", tmp_path, {}), tmp_path / "project")
    assert [(server.name, server.command) for server in found.servers] == [
        ("a", ("x",)),
        ("b", ("one",)),
        ("b-cursor", ("two",)),
    ]
    assert found.clients == ("claude-code", "cursor")
    assert found.servers[0].origin == f"Claude Code ({tmp_path}/.claude.json:1)"


def test_a_file_that_cannot_be_read_is_complained_about_and_stops_nothing(tmp_path: Path) -> None:
    write(tmp_path, ".claude.json", {"a": {"command": "x"}})
    (tmp_path / ".cursor").mkdir()
    (tmp_path / ".cursor/mcp.json").write_text('{"mcpServers": {,}}')
    found = survey(Places("linux", tmp_path, {}), tmp_path)
    assert [server.name for server in found.servers] == ["a"]
    [complaint] = found.complaints
    assert (complaint.code, complaint.line) == ("GW-FILE-SYNTAX", 1)
    assert "cursor" in found.clients


def test_where_there_is_nothing_nothing_is_found(tmp_path: Path) -> None:
    found = survey(Places("linux", tmp_path / "home", {}), tmp_path / "project")
    assert (found.servers, found.clients, found.complaints) == ((), (), ())
