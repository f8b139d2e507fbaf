"""`servers`: listed, added, tried, switched, taken out; comments and order stay, and no edit leaves a broken file."""

import json
from pathlib import Path
from typing import Any

import pytest

from fakes.memory_keyring import MemoryKeyring, kept_by
from mcp_gateway.config.servers import load

CANARY = "canary-secret-value"


def text(operator: Any) -> str:
    return str((operator.folder / "servers.toml").read_text())


def test_the_list_shows_how_each_is_reached(operator: Any) -> None:
    operator.write(
        {"servers.toml": '[servers.a]\ncommand = ["x"]\n[servers.b]\nurl = "https://b/mcp"\nenabled = false\n'}
    )
    said = operator.run("servers", "list").stdout.splitlines()
    assert [" ".join(line.split()) for line in said] == [
        "server state how at",
        "a on x servers.toml:1",
        "b off https://b/mcp servers.toml:3",
    ]
    assert [server["enabled"] for server in operator.json("servers", "list")] == [True, False]


def test_a_server_is_added_switched_and_taken_out_and_the_file_is_as_before(operator: Any) -> None:
    before = text(operator)
    said = operator.run("servers", "add", "clock", "--", "mcp-server-time", "--local-timezone", "UTC")
    assert "no agent may use anything of 'clock' yet" in said.stderr
    assert load(operator.folder / "servers.toml", {}).servers[-1].command == (
        "mcp-server-time",
        "--local-timezone",
        "UTC",
    )
    operator.run("servers", "disable", "clock")
    assert not load(operator.folder / "servers.toml", {}).servers[-1].enabled
    operator.run("servers", "enable", "clock")
    operator.run("servers", "remove", "clock")
    assert text(operator).strip() == before.strip()


def test_a_server_at_a_url_is_added_without_its_secrets(operator: Any) -> None:
    said = operator.run(
        "servers",
        "add",
        "shop",
        "--url",
        "https://shop.example/mcp",
        "--header",
        f"Authorization=Bearer {CANARY}",
        "--secrets",
        "env",
    )
    assert CANARY not in text(operator) + said.output
    assert 'auth = { bearer = "${SHOP_TOKEN}" }' in text(operator)
    assert "export SHOP_TOKEN=..." in said.stderr
    operator.run("servers", "enable", "shop", SHOP_TOKEN="x")


def test_a_keyring_takes_the_secret_and_gives_it_back(operator: Any) -> None:
    with kept_by(MemoryKeyring()):
        operator.run("servers", "add", "shop", "--env", f"API_KEY={CANARY}", "--", "x")
        assert 'env = { API_KEY = "keyring:API_KEY" }' in text(operator)
        assert load(operator.folder / "servers.toml", {}).servers[-1].env == {"API_KEY": CANARY}


def test_a_secret_that_the_keyring_misses_is_complained_about_and_the_fix_works(operator: Any) -> None:
    operator.write({"servers.toml": '[servers.a]\ncommand = ["x"]\nenv = { K = "keyring:MY_KEY" }\n'})
    with kept_by(MemoryKeyring()):
        said = operator.run("check", exits=2).stderr
        assert "GW-CONFIG-KEYRING" in said
        assert "mcp-gateway servers secret MY_KEY" in said
        result = operator.feed("value\n", "servers", "secret", "MY_KEY")
        assert result.exit_code == 0
        operator.run("check")
    with kept_by(MemoryKeyring(is_locked=True)):
        assert "GW-SERVERS-KEYRING" in operator.feed("value\n", "servers", "secret", "MY_KEY").stderr


def test_a_description_becomes_a_server(operator: Any) -> None:
    package = {
        "registryType": "npm",
        "identifier": "@a/b",
        "environmentVariables": [{"name": "B_KEY", "isRequired": True}],
    }
    operator.write({"server.json": json.dumps({"name": "a/b", "packages": [package]})})
    told = operator.json("servers", "add", "--from", "server.json")
    assert told == {"name": "b", "enabled": False, "needs": ["B_KEY"]}


def test_a_dry_run_shows_the_file_and_writes_nothing(operator: Any) -> None:
    before = text(operator)
    assert "[servers.new]" in operator.run("servers", "add", "new", "--dry-run", "--", "x").stdout
    assert "[servers.files]" not in operator.run("servers", "remove", "files", "--dry-run").stdout
    assert text(operator) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "files", "--", "x"], "GW-SERVERS-EDIT"),
        (["add", "New One", "--", "x"], "'new-one' would be one"),
        (["add", "a"], "give a NAME and either"),
        (["add", "a", "--url", "https://a", "--", "x"], "give a NAME and either"),
        (["add", "a", "--url", "ftp://a"], "GW-CONFIG-URL"),
        (["add", "a", "--env", "X", "--", "x"], "'X' is not followed by =VALUE"),
        (["enable", "file"], "did you mean 'files'?"),
        (["remove", "nobody"], "GW-SERVERS-UNKNOWN"),
        (["test", "nobody"], "GW-SERVERS-UNKNOWN"),
    ],
)
def test_an_edit_that_cannot_be_made_says_why_and_changes_nothing(operator: Any, words: list[str], said: str) -> None:
    before = text(operator)
    assert said in " ".join(operator.run("servers", *words, exits=2).stderr.split())
    assert text(operator) == before
    assert [path.name for path in operator.folder.iterdir() if path.name.startswith(".servers")] == []


def test_a_file_with_another_fault_can_still_be_edited(operator: Any) -> None:
    operator.write({"servers.toml": '[servers.a]\ncommand = ["x"]\nenv = { T = "${NOT_SET_HERE}" }\n'})
    operator.run("servers", "disable", "a")
    operator.run("check")


def test_windows_line_ends_and_a_byte_order_mark_stay(operator: Any) -> None:
    path = operator.folder / "servers.toml"
    path.write_bytes(b"\xef\xbb\xbf# top\r\n[servers.a]\r\ncommand = ['x']\r\n")
    operator.run("servers", "add", "b", "--", "y")
    operator.run("servers", "disable", "a")
    data = path.read_bytes()
    assert data.startswith(b"\xef\xbb\xbf# top\r\n")
    assert data.count(b"\n") == data.count(b"\r\n")


def test_trying_a_server_tells_what_it_offers(operator: Any) -> None:
    told = operator.json("servers", "test", "files")
    assert (told["ok"], "echo" in told["tools"]) == (True, True)
    assert operator.run("servers", "test", "files").stdout.startswith("ok files ")


def test_trying_a_server_that_is_off_or_broken_tells_too(operator: Any) -> None:
    operator.run("servers", "disable", "files")
    assert operator.json("servers", "test", "files")["ok"]
    operator.write({"servers.toml": '[servers.a]\ncommand = ["false"]\n'})
    assert "exited" in operator.json("servers", "test", "a", exits=1)["problem"]


def test_a_file_of_another_user_s_encoding_is_refused(operator: Any) -> None:
    Path(operator.folder / "servers.toml").write_bytes("[servers.a]\n".encode("utf-16"))
    assert "GW-CONFIG-UNREADABLE" in operator.run("servers", "remove", "a", exits=2).stderr
