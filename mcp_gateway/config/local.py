"""How a `command` server is started: the program and its arguments, its environment, its folder.

The command is a list and never meets a shell. A program that is not there now is only a warning: the upstream shows
as down, and comes up once it is installed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from mcp_gateway.config.commands import resolve
from mcp_gateway.config.secrets import Secrets, is_secret_name, warn_of_literal_secret
from mcp_gateway.config.table import ConfigCode, Table

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERRED: Final = re.compile(r"(?<!\$)\$\{([A-Za-z0-9_]+)")


@dataclass(frozen=True, slots=True, repr=False)
class Local:
    """What a `command` server's table says about starting it."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    shown: str
    """The command as it may be shown: references unresolved."""


def read_local(table: Table, secrets: Secrets) -> Local:
    """`command`, `env` and `cwd`; complaints go to the table's findings."""
    written = _written_command(table)
    parts = [table.resolve(("command", index), part, secrets.expand) for index, part in enumerate(written)]
    _check_no_nul(table, "command", parts)
    _warn_of_secret_arguments(table, written)
    return Local(
        command=tuple(part or "" for part in parts),
        env=MappingProxyType(_env(table, secrets)),
        cwd=_cwd(table, secrets),
        shown=shlex.join(written),
    )


def warn_of_missing(table: Table, local: Local, environ: Mapping[str, str]) -> None:
    """Say it where the folder or the program is not there (yet)."""
    if not local.cwd.is_dir():
        fix = "create it, or correct the path"
        table.warn("cwd", "'cwd' is not a folder that exists", fix, ConfigCode.NO_SUCH_FOLDER)
    path = local.env.get("PATH", environ.get("PATH"))
    if local.command and local.command[0] and resolve(local.command[0], path, local.cwd) is None:
        fix = "install it, or write its absolute path"
        message = "the program of 'command' is not on PATH, nor beside the gateway's Python"
        table.warn("command", message, fix, ConfigCode.COMMAND_NOT_FOUND)


def _written_command(table: Table) -> tuple[str, ...]:
    value = table.raw("command")
    if isinstance(value, str):
        fix = 'write command = ["PROGRAM", "ARGUMENT", ...]'
        message = "'command' must be a list of strings, not one string: no shell takes it apart"
        table.refuse("command", message, fix, ConfigCode.COMMAND)
        return ()
    command = table.texts("command", may_be_empty=True)
    if isinstance(value, list) and not (command and command[0]):
        table.refuse("command", "'command' names no program", 'write ["PROGRAM", ...]', ConfigCode.COMMAND)
    return command


def _check_no_nul(table: Table, key: str, values: Sequence[str | None]) -> None:
    if any("\0" in value for value in values if value is not None):
        table.refuse(key, f"{key!r} holds a NUL character, which no program can be given", "", ConfigCode.BAD_VALUE)


def _warn_of_secret_arguments(table: Table, written: Sequence[str]) -> None:
    for index, part in enumerate(written):
        for name in filter(is_secret_name, _REFERRED.findall(part)):
            message = f"{name} among the arguments can be read by every user of this machine"
            fix = f'pass it in the environment: env = {{ {name} = "${{{name}}}" }}'
            table.findings.warn((*table.path, "command", index), message, fix, ConfigCode.SECRET_IN_ARGUMENTS)


def _env(table: Table, secrets: Secrets) -> dict[str, str]:
    env: dict[str, str] = {}
    for name, written in table.texts_by_name("env").items():
        if not _ENV_NAME.fullmatch(name):
            fix = "letters, digits and _, no digit first"
            table.refuse("env", f"{name!r} is no name for an environment variable", fix)
        warn_of_literal_secret(table, "env", name, written)
        value = table.resolve(("env", name), written, secrets.value)
        if value is not None:
            env[name] = value
    _check_no_nul(table, "env", list(env.values()))
    return env


def _cwd(table: Table, secrets: Secrets) -> Path:
    written = table.resolved("cwd", secrets.expand)
    _check_no_nul(table, "cwd", [written])
    return secrets.base / (written or "").replace("\0", "")
