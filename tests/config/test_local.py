"""A server started by command: a list, never a shell line; its secrets in the environment, not among the arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_gateway.config.local import Local, read_local, warn_of_missing
from mcp_gateway.config.secrets import Secrets
from mcp_gateway.config.table import ConfigCode, Findings, Table
from mcp_gateway.config.toml_lines import parse


def read(text: str, base: Path = Path("/base"), **environ: str) -> tuple[Local, Table]:
    document, lines = parse(text, "servers.toml")
    table = Table(document, (), Findings(lines))
    return read_local(table, Secrets(environ, base)), table


def test_arguments_and_environment_are_resolved_and_shown_unresolved() -> None:
    local, _ = read('command = ["p", "", "${A} b"]\nenv = { E = "${A}" }\ncwd = "${A}"', A="x")
    assert (local.command, local.env, local.cwd) == (("p", "", "x b"), {"E": "x"}, Path("/base/x"))
    assert local.shown == "p '' '${A} b'"


def test_a_shell_line_is_refused_without_repeating_it() -> None:
    _, table = read('command = "p --token canary"')
    [error] = table.findings.errors
    assert error.code == ConfigCode.COMMAND
    assert "canary" not in str(error)


@pytest.mark.parametrize("line", ['command = ["p\\u0000"]', 'command = ["p"]\nenv = { A = "\\u0000" }'])
def test_a_nul_that_no_program_can_be_given_is_refused(line: str) -> None:
    _, table = read(line)
    assert [error.code for error in table.findings.errors] == [ConfigCode.BAD_VALUE]


def test_a_secret_among_the_arguments_is_a_warning_and_other_variables_are_not() -> None:
    _, table = read('command = ["p", "${HOME}", "--x=${API_TOKEN}", "$${API_TOKEN}"]', HOME="/", API_TOKEN="t")
    [warning] = table.findings.warnings
    assert warning.code == ConfigCode.SECRET_IN_ARGUMENTS
    assert "API_TOKEN" in warning.fix


def test_a_secret_written_into_the_environment_is_a_warning() -> None:
    _, table = read('command = ["p"]\nenv = { API_TOKEN = "canary", LEVEL = "debug" }')
    assert [w.code for w in table.findings.warnings] == [ConfigCode.SECRET_IN_FILE]


def test_a_missing_program_or_folder_is_a_warning(tmp_path: Path) -> None:
    local, table = read('command = ["no-such-program-anywhere"]\ncwd = "no-such-folder"', tmp_path)
    warn_of_missing(table, local, {})
    assert [w.code for w in table.findings.warnings] == [ConfigCode.NO_SUCH_FOLDER, ConfigCode.COMMAND_NOT_FOUND]


def test_the_path_the_server_is_given_is_where_its_program_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "prog").write_text("#!/bin/sh\n")
    (tmp_path / "prog").chmod(0o755)
    local, table = read(f'command = ["prog"]\nenv = {{ PATH = "{tmp_path}" }}', tmp_path)
    warn_of_missing(table, local, {"PATH": "/nowhere"})
    assert table.findings.warnings == []
