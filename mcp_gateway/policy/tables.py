"""One table of a policy file, read key by key: every wrong thing in it is complained about once, with its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_gateway.config.durations import seconds
from mcp_gateway.config.toml_lines import KeyPath, Lines
from mcp_gateway.errors import Complaint

CODE: Final = "GW-POLICY"
"""The code of every complaint about a policy's content."""

_TYPE_WORDS: Final[Mapping[type, str]] = {str: "a text", list: "a list", dict: "a table", int: "a whole number"}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something is written. Sorts by file, then line."""

    file: str
    line: int
    column: int = 0
    """Position among patterns of one line; only for a stable order."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Table:
    """One TOML table, with its place; every wrong thing found is complained about once."""

    def __init__(self, values: Mapping[str, Any], path: KeyPath, lines: Lines, complaints: list[Complaint]) -> None:
        self._values = values
        self._path = path
        self._lines = lines
        self._complaints = complaints

    def complain(self, path: KeyPath, message: str, fix: str = "") -> None:
        self._complaints.append(self._lines.complaint((*self._path, *path), message, fix, CODE))

    def check_keys(self, known: Mapping[str, type], later: frozenset[str]) -> None:
        for key, value in self._values.items():
            if key in later:
                self.complain((key,), f"{key!r} is not supported yet: it would not be enforced", "leave it out")
            elif key not in known:
                self._complaints.append(self._lines.unknown_key((*self._path, key), {*known, *later}, CODE))
            elif known[key] is not object and (not isinstance(value, known[key]) or isinstance(value, bool)):
                self.complain((key,), f"{key!r} must be {_TYPE_WORDS[known[key]]}")

    def require(self, key: str, fix: str) -> None:
        if key not in self._values:
            self.complain((), f"{key!r} is missing", fix)

    def require_some(self, key: str, fix: str) -> None:
        self.require(key, fix)
        if self._values.get(key) == []:
            self.complain((key,), f"{key!r} is empty: it speaks of nothing", fix)

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        return value if isinstance(value, str) else None

    def seconds(self, key: str, most: float) -> float | None:
        """A length of time such as "30m", in seconds; None, after a complaint, for what is none or over `most`."""
        value = self._values.get(key)
        found = seconds(value) if isinstance(value, str) else None
        if isinstance(value, str) and (found is None or found > most):
            fix = f"a number and s, m, h, d or w, such as 30m; at most {most / 86400:.0f} days"
            self.complain((key,), f"{value!r} cannot be the length of {key!r}", fix)
            return None
        return found

    def count(self, key: str) -> int | None:
        """A whole number above zero; None, after a complaint, for any other."""
        value = self._values.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            if value > 0:
                return value
            self.complain((key,), f"{key!r} must be more than 0", "leave out what may not be used at all")
        return None

    def raw(self, key: str) -> Any:
        """The value as written; None where there is none."""
        return self._values.get(key)

    def table(self, key: str) -> Table | None:
        """The table below `key`; None where there is none."""
        value = self._values.get(key)
        return self._at((key,), value) if isinstance(value, dict) else None

    def texts(self, key: str) -> Iterator[tuple[int, str]]:
        """The texts of a list, with their positions."""
        for index, item in self._items(key):
            if isinstance(item, str):
                yield index, item
            else:
                self.complain((key, index), f"{key!r} must be a list of texts")

    def tables(self, key: str) -> Iterator[tuple[str, Table]]:
        """The named tables below `key`."""
        value = self._values.get(key)
        for name, item in value.items() if isinstance(value, dict) else ():
            if isinstance(item, dict):
                yield name, self._at((key, name), item)
            else:
                self.complain((key, name), f"'{key}.{name}' must be a table", f"write [{key}.{name}]")

    def array(self, key: str) -> Iterator[Table]:
        """The tables of an array of tables."""
        for index, item in self._items(key):
            if isinstance(item, dict):
                yield self._at((key, index), item)
            else:
                self.complain((key, index), f"{key!r} must be tables", f"write [[{self._name()}.{key}]]")

    def place(self, path: KeyPath = ()) -> Place:
        return Place(self._lines.file, self._lines.of((*self._path, *path)), _position(path))

    def _items(self, key: str) -> Iterator[tuple[int, Any]]:
        value = self._values.get(key)
        yield from enumerate(value if isinstance(value, list) else ())

    def _at(self, path: KeyPath, values: Mapping[str, Any]) -> Table:
        return Table(values, (*self._path, *path), self._lines, self._complaints)

    def _name(self) -> str:
        return ".".join(str(part) for part in self._path)


def _position(path: KeyPath) -> int:
    return next((part for part in path if isinstance(part, int)), 0)
