"""Eight programs' files: our entry in each as it wants it, all else as it was, and gone again without a trace."""

import codecs
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mcp_gateway.config import jsonc, yaml_edit
from mcp_gateway.config.clients import BY_ID, CLIENTS, inputs_in, line_of, servers_in, with_entry, without_entry
from mcp_gateway.config.textfile import FileCode, TextFile
from mcp_gateway.errors import ConfigInvalid

COMMAND, ARGS = "/opt/mcp-gateway", ["stdio", "--agent", "a"]

FILES = {
    "claude-code": '{"numStartups": 7, "mcpServers": {"x": {"type": "stdio", "command": "x"}}, "projects": {}}',
    "claude-desktop": '{\n  "mcpServers": {}\n}\n',
    "cursor": '{\n\t"mcpServers": {\n\t\t"x": {"url": "https://x/mcp"} // team\n\t}\n}\n',
    "vscode": '{\n  // ask\n  "inputs": [{"id": "key", "password": true}],\n  "servers": {},\n}\n',
    "codex": 'model = "o"  # mine\n\n[mcp_servers.x]\ncommand = "x"\n\n[tui]\ntheme = "dark"\n',
    "gemini": '{"theme": "x", "mcpServers": {"x": {"httpUrl": "https://x/mcp"}}}',
    "goose": "GOOSE_MODEL: x\nextensions:\n  developer:\n    type: builtin\n",
    "zed": '// Zed\n{\n  "f": 16,\n  "context_servers": {\n    "x": {"source": "custom", "command": "x"},\n  },\n}\n',
}


def file_of(text: str, mark: bytes = b"") -> TextFile:
    return TextFile(Path("a"), mark + text.encode(), text, "utf-8", mark)


def read(client: str, text: str) -> Any:
    kind = BY_ID[client].format
    return {"json": jsonc.parse, "yaml": yaml_edit.parse, "toml": tomllib.loads}[kind](text)


@pytest.mark.parametrize("client", FILES)
@pytest.mark.parametrize("empty", [False, True], ids=["a file in use", "an empty file"])
def test_our_entry_is_put_in_and_all_else_stays(client: str, empty: bool) -> None:
    text = "" if empty else FILES[client]
    chosen = BY_ID[client]
    entry = chosen.entry(COMMAND, ARGS)
    edited = with_entry(chosen, file_of(text), "gateway", entry)
    before, after = read(client, text), read(client, edited)
    assert after == {**before, chosen.table: {**before.get(chosen.table, {}), "gateway": entry}}
    assert servers_in(chosen, file_of(without_entry(chosen, file_of(edited), "gateway"))) == servers_in(
        chosen, file_of(text)
    )


@pytest.mark.parametrize("client", FILES)
def test_an_entry_of_ours_that_is_there_is_replaced(client: str) -> None:
    chosen = BY_ID[client]
    first = with_entry(chosen, file_of(FILES[client]), "gateway", chosen.entry("/old", ["stdio"]))
    second = with_entry(chosen, file_of(first), "gateway", chosen.entry(COMMAND, ARGS))
    assert servers_in(chosen, file_of(second))["gateway"] == chosen.entry(COMMAND, ARGS)
    assert "/old" not in second


def test_every_program_has_its_own_words_for_an_entry() -> None:
    said = {client.id: client.entry(COMMAND, ARGS) for client in CLIENTS}
    assert said["claude-desktop"] == {"command": COMMAND, "args": ARGS}
    assert said["vscode"] == {"type": "stdio", "command": COMMAND, "args": ARGS}
    assert said["goose"]["cmd"] == COMMAND
    assert (said["goose"]["enabled"], said["goose"]["type"]) == (True, "stdio")
    assert said["zed"]["source"] == "custom"


def test_servers_of_single_projects_count_in_claude_code() -> None:
    text = '{"projects": {"/p": {"mcpServers": {"y": {"command": "y"}}}, "/q": {"history": []}}}'
    assert servers_in(BY_ID["claude-code"], file_of(text)) == {"y": {"command": "y"}}


def test_what_vs_code_asks_for_is_known() -> None:
    assert inputs_in(BY_ID["vscode"], file_of(FILES["vscode"])) == {"key": True}


@pytest.mark.parametrize(("client", "line"), [("cursor", 3), ("codex", 3), ("goose", 3), ("zed", 5)])
def test_the_line_of_a_server_is_known(client: str, line: int) -> None:
    assert line_of(BY_ID[client], file_of(FILES[client]), "developer" if client == "goose" else "x") == line


@pytest.mark.parametrize(
    ("client", "text", "code"),
    [
        ("cursor", '{"mcpServers": ', FileCode.SYNTAX),
        ("cursor", "[]", FileCode.SHAPE),
        ("cursor", '{"mcpServers": []}', FileCode.SHAPE),
        ("codex", "a = ", FileCode.SYNTAX),
        ("goose", "a: [", FileCode.SYNTAX),
        ("goose", "extensions: 7", FileCode.SHAPE),
    ],
)
def test_a_file_in_no_shape_to_be_read_is_refused_with_a_code(client: str, text: str, code: str) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        servers_in(BY_ID[client], file_of(text))
    assert raised.value.complaints[0].code == code


@pytest.mark.parametrize(
    ("client", "text"),
    [
        ("codex", 'mcp_servers = {x = {command = "x"}}\n'),
        ("goose", "extensions: {a: {b: 1}}\n"),
        ("cursor", '{"mcpServers": 1}'),
    ],
)
def test_a_form_that_cannot_be_edited_in_place_is_refused_and_not_rewritten(client: str, text: str) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        with_entry(BY_ID[client], file_of(text), "gateway", BY_ID[client].entry(COMMAND, ARGS))
    assert raised.value.complaints[0].code == FileCode.SHAPE


def test_a_byte_order_mark_survives() -> None:
    file = file_of('{"a": 1}', codecs.BOM_UTF8)
    edited = file.encoded(with_entry(BY_ID["cursor"], file, "gateway", {"command": "x"}))
    assert edited.startswith(codecs.BOM_UTF8 + b'{"a": 1')
