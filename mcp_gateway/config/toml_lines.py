"""TOML as operators write it, with the line every key stands on, so that a complaint can name the place.

`tomllib` reads the values and decides what is valid; it keeps no positions. The scanner here only walks text that
`tomllib` has already accepted, so it knows TOML's shape (headers, keys, strings, arrays, inline tables), not its rules.
Knows nothing of what the keys mean: servers.toml and policies/*.toml both come through here.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any, Final

from mcp_gateway.errors import Complaint, ConfigInvalid

KeyPath = tuple[str | int, ...]
"""Where a value stands: table and key names and array positions, e.g. `("tasks", "answer", "grant", 0, "when")`."""

_SIMPLE_KEY: Final = r'"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|[A-Za-z0-9_-]+'
_KEY: Final = re.compile(rf"(?:{_SIMPLE_KEY})(?:[ \t]*\.[ \t]*(?:{_SIMPLE_KEY}))*")
_TRIVIA: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
# A multi-line string may end in up to two quotes of its own before the closing three (TOML 1.0, "String").
_SCALAR: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|[^\s,\]}#][^,\]}#\n]*",
    re.DOTALL,
)
_FEW: Final = 40
_ERROR_LINE: Final = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")


class Lines:
    """The 1-based line of every key and array element of one file."""

    def __init__(self, file: str, lines: Mapping[KeyPath, int]) -> None:
        self.file = file
        self._lines = lines

    def of(self, path: KeyPath) -> int:
        """The line `path` stands on, or that of its nearest parent that is in the file; 1 where none is."""
        for length in range(len(path), 0, -1):
            line = self._lines.get(path[:length])
            if line is not None:
                return line
        return 1

    def at(self, path: KeyPath) -> str:
        """`file:line` of `path`, as decisions and complaints write it."""
        return f"{self.file}:{self.of(path)}"

    def complaint(self, path: KeyPath, message: str, fix: str = "", code: str = "GW-CONFIG") -> Complaint:
        """A complaint about what stands at `path`."""
        return Complaint(file=self.file, line=self.of(path), message=message, fix=fix, code=code)

    def unknown_key(self, path: KeyPath, known: Iterable[str], code: str = "GW-CONFIG") -> Complaint:
        """The complaint about a key nobody reads; a key that is close to it is offered as the fix."""
        known = sorted(known)
        return self.complaint(path, f"unknown key {str(path[-1])!r}", did_you_mean(str(path[-1]), known), code)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The fix for a misspelt name: the closest known one, else all of them if they are few.

    >>> did_you_mean("taks", ["tasks", "match"])
    "did you mean 'tasks'?"
    """
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(known)}" if 0 < len(known) <= _FEW else ""


def parse(text: str, file: str) -> tuple[dict[str, Any], Lines]:
    """Parse one TOML file, `file` being its name in complaints.

    Raises `ConfigInvalid` with one complaint (code `GW-TOML`) where the text is not TOML.
    """
    try:
        document = tomllib.loads(text)
        return document, Lines(file, _Scanner(text.replace("\r\n", "\n")).scan())
    except tomllib.TOMLDecodeError as e:
        raise ConfigInvalid([_syntax_complaint(e, text, file)]) from e
    except RecursionError as e:
        raise ConfigInvalid([Complaint(file, 1, "not valid TOML: nested too deeply", code="GW-TOML")]) from e


def headers(text: str) -> list[tuple[int, KeyPath]]:
    """The line of each `[header]` of valid TOML and the table it opens, in the order of the file."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.scan()
    return scanner.headers


def _syntax_complaint(error: tomllib.TOMLDecodeError, text: str, file: str) -> Complaint:
    message = str(error)
    place = _ERROR_LINE.search(message)
    last_line = text.rstrip("\n").count("\n") + 1
    line = int(place[1]) if place and place[1] else last_line
    return Complaint(file, line, f"not valid TOML: {_ERROR_LINE.sub('', message)}", code="GW-TOML")


class _Scanner:
    """Walks valid TOML once and notes where each key and array element begins."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._line_starts = [0, *(m.end() for m in re.finditer("\n", text))]
        self._lines: dict[KeyPath, int] = {}
        self._implied: set[KeyPath] = set()
        self._array_lengths: dict[KeyPath, int] = {}
        self.headers: list[tuple[int, KeyPath]] = []

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._skip(_TRIVIA)
        while self._pos < len(self._text):
            if self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_TRIVIA)
        return self._lines

    def _header(self) -> KeyPath:
        line = self._line()
        is_array = self._text.startswith("[[", self._pos)
        self._pos += 2 if is_array else 1
        self._skip(_SPACE)
        *parents, last = self._key()
        self._skip(_SPACE)
        self._pos += 2 if is_array else 1
        path: KeyPath = ()
        for part in parents:
            path = self._enter((*path, part), line)
        path = (*path, last)
        if is_array:
            self._imply(path, line)
            self._array_lengths[path] = self._array_lengths.get(path, 0) + 1
            path = (*path, self._array_lengths[path] - 1)
        self._note(path, line)
        self.headers.append((line, path))
        return path

    def _enter(self, path: KeyPath, line: int) -> KeyPath:
        """Step through `path` on the way to a deeper one: into the last element where it is an array of tables."""
        self._imply(path, line)
        length = self._array_lengths.get(path)
        return path if length is None else (*path, length - 1)

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        parts = self._key()
        for length in range(1, len(parts)):
            self._imply((*table, *parts[:length]), line)
        path = (*table, *parts)
        self._note(path, line)
        self._skip(_SPACE)
        self._pos += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        opener = self._peek()
        if opener == "[":
            self._array(path)
        elif opener == "{":
            self._inline_table(path)
        else:
            self._skip(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._pos += 1
        index = 0
        while self._next_item("]"):
            self._note((*path, index), self._line())
            self._value((*path, index))
            index += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._pos += 1
        while self._next_item("}"):
            self._pair(path)

    def _next_item(self, closer: str) -> bool:
        """Go to the next item of an array or inline table; False once past its closing bracket."""
        self._skip(_TRIVIA)
        if self._peek() == ",":
            self._pos += 1
            self._skip(_TRIVIA)
        if self._peek() != closer:
            return True
        self._pos += 1
        return False

    def _key(self) -> list[str]:
        match = _KEY.match(self._text, self._pos)
        assert match is not None, "tomllib accepted a key this scanner does not know"  # noqa: S101
        self._pos = match.end()
        if not {'"', "'"} & set(match[0]):
            return [part.strip(" \t") for part in match[0].split(".")]
        parts: list[str] = []
        nested: Any = tomllib.loads(f"{match[0]} = 0")
        while isinstance(nested, dict):
            [(part, nested)] = nested.items()
            parts.append(part)
        return parts

    def _note(self, path: KeyPath, line: int) -> None:
        """Record where `path` is written out; a table named only on the way to a deeper one gives way to it."""
        if path not in self._lines or path in self._implied:
            self._lines[path] = line
            self._implied.discard(path)

    def _imply(self, path: KeyPath, line: int) -> None:
        if path not in self._lines:
            self._lines[path] = line
            self._implied.add(path)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._pos)
        if match is not None:
            self._pos = match.end()

    def _peek(self) -> str:
        return self._text[self._pos : self._pos + 1]

    def _line(self) -> int:
        return bisect_right(self._line_starts, self._pos)
