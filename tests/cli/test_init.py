"""`init`: from the files people have to a gateway that serves; nothing of theirs is changed, no secret is written."""

import codecs
import json
from pathlib import Path
from typing import Any

import keyring.backends.fail
import pytest

from fakes.memory_keyring import MemoryKeyring, kept_by
from mcp_gateway.config.servers import load
from mcp_gateway.wiring import policy_of

CANARY = "ghp_canary00112233445566778899aabb"

CLAUDE = {"mcpServers": {"github": {"command": "npx", "args": ["-y", "g"], "env": {"GITHUB_TOKEN": CANARY}}}}
CURSOR = '{\n  // mine\n  "mcpServers": {"time": {"command": "mcp-server-time"},},\n}\n'
CODEX = '[mcp_servers.notes]\nurl = "https://notes.example/mcp"\nbearer_token_env_var = "NOTES_TOKEN"\n'


@pytest.fixture
def fresh(operator: Any) -> Any:
    """A folder with nothing of ours in it, and a home where three programs are in use."""
    (operator.folder / "servers.toml").unlink()
    (operator.folder / "policies/agents.toml").unlink()
    home = operator.folder / "home"
    operator.write({"home/.claude.json": json.dumps(CLAUDE), "home/.codex/config.toml": CODEX})
    (home / ".cursor").mkdir()
    (home / ".cursor/mcp.json").write_bytes(codecs.BOM_UTF16_LE + CURSOR.encode("utf-16-le"))
    with kept_by(keyring.backends.fail.Keyring()):
        yield operator


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_three_programs_know_becomes_a_gateway_that_can_be_used(fresh: Any) -> None:
    before = bytes_in(fresh.folder / "home")
    said = fresh.run("init", "--yes")
    assert bytes_in(fresh.folder / "home") == before
    configuration = load(fresh.folder / "servers.toml", {})
    assert [(server.name, server.enabled) for server in configuration.servers] == [
        ("github", False),  # its token has to be set first
        ("time", True),
        ("notes", False),
    ]
    assert set(policy_of(configuration).assignments) == {"claude-code", "cursor", "codex"}
    assert "export GITHUB_TOKEN=..." in said.stderr
    assert "mcp-gateway servers enable github" in said.stdout
    fresh.run("check")


def test_no_secret_is_printed_or_written(fresh: Any) -> None:
    for option in ("--dry-run", "--yes"):
        result = fresh.run("init", option)
        assert CANARY not in result.output
    assert [name for name, data in bytes_in(fresh.folder).items() if CANARY.encode() in data] == [
        str(fresh.folder / "home/.claude.json")
    ]


def test_what_it_says_to_do_for_a_secret_switches_the_server_on(fresh: Any) -> None:
    fresh.run("init", "--yes")
    fresh.run("servers", "enable", "github", GITHUB_TOKEN="x")
    assert load(fresh.folder / "servers.toml", {"GITHUB_TOKEN": "x"}).servers[0].env == {"GITHUB_TOKEN": "x"}


def test_a_usable_keyring_takes_the_secrets(fresh: Any) -> None:
    with kept_by(MemoryKeyring()) as ring:
        fresh.run("init", "--yes")
        assert ring.kept[("mcp-gateway", "GITHUB_TOKEN")] == CANARY  # type: ignore[attr-defined]
        [github, *_] = load(fresh.folder / "servers.toml", {}).servers
        assert github.enabled
        assert github.env == {"GITHUB_TOKEN": CANARY}
    assert CANARY not in (fresh.folder / "servers.toml").read_text()


def test_files_take_the_secrets_where_that_is_asked_for(fresh: Any) -> None:
    fresh.run("init", "--yes", "--secrets", "file")
    secret = fresh.folder / "secrets/GITHUB_TOKEN"
    assert (secret.read_text(), secret.stat().st_mode & 0o777) == (CANARY, 0o600)
    assert load(fresh.folder / "servers.toml", {}).servers[0].env == {"GITHUB_TOKEN": CANARY}


def test_a_dry_run_shows_both_files_and_writes_nothing(fresh: Any) -> None:
    before = bytes_in(fresh.folder)
    said = fresh.run("init", "--dry-run").stdout
    assert "[servers.time]" in said
    assert 'tools = ["github/*", "time/*", "notes/*"]' in said
    assert bytes_in(fresh.folder) == before


def test_without_a_terminal_and_without_yes_nothing_is_written(fresh: Any) -> None:
    assert "--yes" in fresh.run("init", exits=2).stderr
    assert not (fresh.folder / "servers.toml").exists()


@pytest.mark.parametrize("there", ["servers.toml", "policies/mine.toml"])
def test_what_is_there_is_never_overwritten(fresh: Any, there: str) -> None:
    fresh.write({there: "# mine\n"})
    said = fresh.run("init", "--yes", exits=2).stderr
    assert "GW-INIT-EXISTS" in said
    assert (fresh.folder / there).read_text() == "# mine\n"
    fresh.run("init", "--yes", "--config", "new/servers.toml")  # the fix it prints
    assert (fresh.folder / "new/policies/agents.toml").is_file()


def test_a_file_that_is_broken_is_named_and_the_others_count(fresh: Any) -> None:
    (fresh.folder / "home/.codex/config.toml").write_text("[mcp_servers.x\n")
    result = fresh.run("init", "--yes")
    assert "GW-FILE-SYNTAX" in result.stderr
    assert [server.name for server in load(fresh.folder / "servers.toml", {}).servers] == ["github", "time"]


def test_where_nobody_has_anything_it_writes_a_start(operator: Any) -> None:
    said = operator.run("init", "--yes", "--config", "new/servers.toml").stdout
    assert "no MCP servers found" in said
    operator.run("check", "--config", "new/servers.toml")


def test_only_tools_that_say_they_only_read_are_allowed_at_first(fresh: Any) -> None:
    fresh.run("init", "--yes")
    policy = policy_of(load(fresh.folder / "servers.toml", {}))
    [grant] = policy.tasks["look"].grants
    assert grant.condition is not None
    assert "readOnlyHint" in (fresh.folder / "policies/agents.toml").read_text()


def test_a_registry_s_entry_becomes_a_server(fresh: Any) -> None:
    package = {"registryType": "pypi", "identifier": "mcp-server-time", "version": "1"}
    fresh.write({"server.json": json.dumps({"name": "io.example/clock", "packages": [package]})})
    fresh.run("init", "--yes", "--from", "server.json")
    [server] = load(fresh.folder / "servers.toml", {}).servers
    assert (server.name, server.command) == ("clock", ("uvx", "mcp-server-time==1"))


def test_the_user_s_own_folder_can_be_asked_for(fresh: Any) -> None:
    fresh.run("init", "--yes", "--user")
    assert (fresh.folder / "home/.config/mcp-gateway/servers.toml").is_file()
    assert "home/.config/mcp-gateway/servers.toml: 1 server" in fresh.run("check").stdout
    fresh.write({"servers.toml": ""})
    assert "ok servers.toml: 0 servers" in fresh.run("check").stdout


def test_machines_are_told_the_same(fresh: Any) -> None:
    told = fresh.json("init", "--dry-run")
    assert [server["name"] for server in told["servers"]] == ["github", "time", "notes"]
    assert told["secrets"] == [{"name": "GITHUB_TOKEN", "server": "github", "where": "env GITHUB_TOKEN", "to": "env"}]
    assert CANARY not in json.dumps(told)
