"""One TOML table read key by key: what is wrong is collected with its line, what nobody read is an unknown key.

The readers ask for each key by its type and always get a usable value back, the default where the written one is
wrong, so that one pass over the file finds every complaint. Values are never repeated in a complaint, for any of them
may be a secret; the exceptions are keys, and words where only a closed list of words is meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date, datetime, time
from enum import StrEnum
from typing import Any, TypeVar

from mcp_gateway.config.toml_lines import KeyPath, Lines, did_you_mean
from mcp_gateway.errors import Complaint

Word = TypeVar("Word", bound=str)


class ConfigCode(StrEnum):
    """What can be wrong with servers.toml; scripts and the documentation match on these."""

    UNREADABLE = "GW-CONFIG-UNREADABLE"
    UNKNOWN_KEY = "GW-CONFIG-UNKNOWN-KEY"
    WRONG_TYPE = "GW-CONFIG-WRONG-TYPE"
    BAD_VALUE = "GW-CONFIG-BAD-VALUE"
    UNSUPPORTED = "GW-CONFIG-UNSUPPORTED"
    LISTEN = "GW-CONFIG-LISTEN"
    SERVER_NAME = "GW-CONFIG-SERVER-NAME"
    DUPLICATE_SERVER = "GW-CONFIG-DUPLICATE-SERVER"
    DUPLICATE_PREFIX = "GW-CONFIG-DUPLICATE-PREFIX"
    COMMAND_OR_URL = "GW-CONFIG-COMMAND-OR-URL"
    COMMAND = "GW-CONFIG-COMMAND"
    DUPLICATE_MODEL = "GW-CONFIG-DUPLICATE-MODEL"
    URL_OR_TARGETS = "GW-CONFIG-URL-OR-TARGETS"
    URL = "GW-CONFIG-URL"
    HEADER = "GW-CONFIG-HEADER"
    ENV_UNSET = "GW-CONFIG-ENV-UNSET"
    SECRET_FILE = "GW-CONFIG-SECRET-FILE"  # noqa: S105
    KEYRING = "GW-CONFIG-KEYRING"
    # Warnings: the gateway runs, `check` tells.
    COMMAND_NOT_FOUND = "GW-CONFIG-COMMAND-NOT-FOUND"
    NO_SUCH_FOLDER = "GW-CONFIG-NO-SUCH-FOLDER"
    NO_SERVERS = "GW-CONFIG-NO-SERVERS"
    PLAIN_HTTP = "GW-CONFIG-PLAIN-HTTP"
    SECRET_IN_FILE = "GW-CONFIG-SECRET-IN-FILE"  # noqa: S105
    SECRET_IN_ARGUMENTS = "GW-CONFIG-SECRET-IN-ARGUMENTS"  # noqa: S105
    ANONYMOUS_BEYOND_LOOPBACK = "GW-CONFIG-ANONYMOUS-BEYOND-LOOPBACK"
    WRITABLE = "GW-CONFIG-WRITABLE"


class Unresolvable(Exception):
    """A reference that leads nowhere. The message names the variable or file, never what it holds."""

    def __init__(self, message: str, fix: str, code: ConfigCode) -> None:
        super().__init__(message)
        self.fix = fix
        self.code = code


class Findings:
    """What was found wrong in one file so far: errors that stop it from being used, warnings that do not."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.errors: list[Complaint] = []
        self.warnings: list[Complaint] = []

    def refuse(self, path: KeyPath, message: str, fix: str, code: ConfigCode) -> None:
        self.errors.append(self.lines.complaint(path, message, fix, code))

    def warn(self, path: KeyPath, message: str, fix: str, code: ConfigCode) -> None:
        self.warnings.append(self.lines.complaint(path, message, fix, code))


class Table:
    """One table of the file. Ask for every key it may have, then call `finish`."""

    def __init__(self, values: Mapping[str, Any], path: KeyPath, findings: Findings) -> None:
        self._values = values
        self._known: set[str] = set()
        self.path = path
        self.findings = findings

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def finish(self) -> None:
        """Complain about every key that was not asked for."""
        for key in self._values.keys() - self._known:
            lines, where = self.findings.lines, (*self.path, key)
            self.findings.errors.append(lines.unknown_key(where, self._known, ConfigCode.UNKNOWN_KEY))

    def refuse(self, key: str, message: str, fix: str, code: ConfigCode = ConfigCode.BAD_VALUE) -> None:
        self.findings.refuse((*self.path, key), message, fix, code)

    def warn(self, key: str, message: str, fix: str, code: ConfigCode) -> None:
        self.findings.warn((*self.path, key), message, fix, code)

    def text(self, key: str, default: str | None = None) -> str | None:
        value = self._take(key)
        if isinstance(value, str):
            return value
        self._mistyped(key, value, "a string")
        return default

    def resolved(self, key: str, resolve: Callable[[str], str]) -> str | None:
        """A string with its references resolved; None where there is none or it cannot be."""
        value = self.text(key)
        return None if value is None else self.resolve((key,), value, resolve)

    def resolve(self, key: KeyPath, value: str, resolve: Callable[[str], str]) -> str | None:
        """`value`, which stands at `key` in this table, resolved; None after complaining that it cannot be."""
        try:
            return resolve(value)
        except Unresolvable as e:
            self.findings.refuse((*self.path, *key), str(e), e.fix, e.code)
            return None

    def flag(self, key: str, default: bool) -> bool:
        value = self._take(key)
        if isinstance(value, bool):
            return value
        self._mistyped(key, value, "true or false")
        return default

    def number(self, key: str, default: float, most: float) -> float:
        """A finite number above zero, at most `most`."""
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._mistyped(key, value, "a number")
            return default
        if not (math.isfinite(value) and 0 < value <= most):
            self.refuse(key, f"{key!r} is out of range", f"more than 0, at most {most:g}")
            return default
        return float(value)

    def count(self, key: str, default: int, least: int, most: int) -> int:
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, int):
            self._mistyped(key, value, "a whole number")
            return default
        if not least <= value <= most:
            self.refuse(key, f"{key!r} is out of range", f"at least {least}, at most {most}")
            return default
        return value

    def choice(self, key: str, words: Collection[Word], default: Word) -> Word:
        value = self._take(key)
        if not isinstance(value, str):
            self._mistyped(key, value, "a string")
            return default
        for word in words:
            if word == value:
                return word
        self.refuse(key, f"{key!r} cannot be {value!r}", did_you_mean(value, words))
        return default

    def texts(self, key: str, may_be_empty: bool = False) -> tuple[str, ...]:
        """A list of strings, none of them empty unless they may be."""
        value = self._take(key)
        if not isinstance(value, list):
            self._mistyped(key, value, "a list of strings")
            return ()
        for index, item in enumerate(value):
            if not isinstance(item, str):
                self._item_mistyped(key, index, item, "a string")
            elif not (item or may_be_empty):
                self.findings.refuse(
                    (*self.path, key, index), f"{key!r} holds an empty string", "leave it out", ConfigCode.BAD_VALUE
                )
        return tuple(item for item in value if isinstance(item, str) and (item or may_be_empty))

    def texts_by_name(self, key: str) -> dict[str, str]:
        """A table of strings, such as `env` and `headers`."""
        value = self._take(key)
        if not isinstance(value, dict):
            self._mistyped(key, value, 'a table of strings, { NAME = "value" }')
            return {}
        for name, item in value.items():
            if not isinstance(item, str):
                self._item_mistyped(key, name, item, "a string")
        return {name: item for name, item in value.items() if isinstance(item, str)}

    def table(self, key: str) -> Table | None:
        value = self._take(key)
        if isinstance(value, dict):
            return Table(value, (*self.path, key), self.findings)
        self._mistyped(key, value, "a table")
        return None

    def tables(self) -> Iterator[tuple[str, Table]]:
        """Every entry of a table whose keys are names and whose values are tables."""
        for name in self._values:
            table = self.table(name)
            if table is not None:
                yield name, table

    def raw(self, key: str) -> Any:
        """The value as written, whatever its type; None where there is none."""
        return self._take(key)

    def _take(self, key: str) -> Any:
        self._known.add(key)
        return self._values.get(key)

    def _mistyped(self, key: str, value: Any, wanted: str) -> None:
        if key in self._values:
            self.refuse(key, f"{key!r} must be {wanted}, not {_type_name(value)}", "", ConfigCode.WRONG_TYPE)

    def _item_mistyped(self, key: str, item: str | int, value: Any, wanted: str) -> None:
        message = f"every value in {key!r} must be {wanted}, not {_type_name(value)}"
        self.findings.refuse((*self.path, key, item), message, "put it in quotes", ConfigCode.WRONG_TYPE)


def _type_name(value: Any) -> str:
    """What TOML calls the type of a value."""
    # bool before int and datetime before date: the former are subclasses of the latter.
    names = {
        bool: "a boolean",
        str: "a string",
        int: "an integer",
        float: "a float",
        list: "a list",
        dict: "a table",
        datetime: "a date",
        date: "a date",
        time: "a time",
    }
    return next(name for kind, name in names.items() if isinstance(value, kind))
