"""All commands together: help, examples, and how errors end."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from mcp_gateway import __version__
from mcp_gateway.cli.main import app


def commands() -> Iterator[tuple[str, ...]]:
    """Every command as words: `("key", "create")`."""

    def below(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, found in getattr(command, "commands", {}).items():
            if getattr(found, "commands", None):
                yield from below(found, (*words, name))
            else:
                yield (*words, name)

    return below(get_command(app), ())


def test_every_command_is_known_to_this_test() -> None:
    expected = [
        *("approvals approve", "approvals deny", "approvals list", "approvals show", "audit verify", "call"),
        *("check", "connect", "content list", "content purge", "content show", "disconnect", "doctor"),
        *("init", "key create", "key list", "key revoke", "log"),
        *("login", "logout", "person add", "person list", "person remove", "pins approve", "pins diff"),
        *("pins list", "pins reject", "policy lint", "policy replay", "policy suggest", "policy test"),
        *("serve", "servers add", "servers disable", "servers enable", "servers list", "servers remove"),
        *("servers secret", "servers test", "status", "stdio", "stop", "task end", "task extend"),
        *("task list", "task revoke", "task show", "task start", "tools", "usage", "version", "why"),
    ]
    assert sorted(" ".join(words) for words in commands()) == expected


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_shows_an_example_in_its_help(operator: Any, words: tuple[str, ...]) -> None:
    text = operator.run(*words, "--help", TERMINAL_WIDTH="100").stdout
    assert re.search(r"Example(, [^:]*)?:\s+mcp-gateway " + " ".join(words), text), text


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_s_example_is_accepted(words: tuple[str, ...]) -> None:
    """The options in it exist; it is not run."""
    command: Any = get_command(app)
    for word in words:
        command = command.commands[word]
    [example] = re.findall(r"Example[^`]*`mcp-gateway ([^`]*)`", command.help)
    options = {name for parameter in command.params for name in parameter.opts}
    written = example.partition(" -- ")[0].split()
    assert [word for word in written if word.startswith("--") and word not in options] == []


def test_the_version_is_printed(operator: Any) -> None:
    assert operator.run("version").stdout == f"{__version__}\n"


def test_a_command_nobody_knows_is_said_to_be_one(operator: Any) -> None:
    assert "No such command 'frob'" in operator.run("frob", exits=2).stderr


def test_without_a_command_the_help_is_shown(operator: Any) -> None:
    assert "serve" in operator.run(exits=2).output


@pytest.mark.parametrize(
    "words",
    [
        ["log"],
        ["why", "reader", "files/echo"],
        ["why", "1"],
        ["key", "create", "reader"],
        ["key", "list"],
        ["key", "revoke", "x"],
        ["policy", "test"],
        ["audit", "verify"],
        ["check"],
        ["connect", "cursor"],
        ["status"],
        ["stop"],
        ["tools"],
        ["call", "x"],
        ["servers", "list"],
        ["servers", "test", "x"],
        ["servers", "enable", "x"],
        ["servers", "add", "x", "y"],
        ["serve"],
        ["stdio", "--agent", "reader"],
    ],
    ids=" ".join,
)
def test_a_missing_servers_toml_is_said_by_every_command(operator: Any, words: list[str], capfd: Any) -> None:
    (operator.folder / "servers.toml").unlink()
    said = operator.run(*words, exits=2).stderr or capfd.readouterr().err
    assert "GW-CONFIG-UNREADABLE servers.toml:1: cannot be read: No such file or directory" in said
    assert "fix: name the file with --config, or create it" in said


def test_another_configuration_is_named_by_option_or_environment(operator: Any) -> None:
    operator.write({"other/servers.toml": "", "other/policies/none.toml": ""})
    assert "other/servers.toml" in operator.run("check", "--config", "other/servers.toml").stdout
    assert "other/servers.toml" in operator.run("check", MCP_GATEWAY_CONFIG="other/servers.toml").stdout


@pytest.mark.parametrize("program", [["-m", "mcp_gateway"], [str(Path(sys.executable).with_name("mcp-gateway"))]])
def test_an_installed_program_reports_errors_and_shows_no_traceback(tmp_path: Path, program: list[str]) -> None:
    command = [sys.executable, *program] if program[0] == "-m" else program
    done = subprocess.run([*command, "log"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("GW-CONFIG-UNREADABLE servers.toml:1: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_can_complete_the_commands(shell: str) -> None:
    program = [sys.executable, "-m", "mcp_gateway"]
    environ = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [*program, "--show-completion", shell], capture_output=True, text=True, env=environ, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert "mcp-gateway" in done.stdout
