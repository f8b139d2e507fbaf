"""JSON as editors keep it, with comments and trailing commas, and edits that leave every other character as it was.

`parse` gives values; `with_member` and `without_member` give a new text in which one member of one object was put or
taken out. What an edit made is parsed again and compared before it is handed back.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

MAX_DEPTH: Final = 200

_TRIVIA: Final = re.compile(r"(?:[\s\ufeff]|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING: Final = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_WORD: Final = re.compile(r"-?[0-9][0-9.eE+-]*|true|false|null")
_INDENT: Final = re.compile(r"\n([ \t]+)[\"{]")

Path = tuple[str, ...]


class JsoncError(ValueError):
    """Text that is not JSON, even with comments allowed."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(slots=True)
class _Member:
    key: str
    start: int
    """Where the key begins."""
    value: _Node


@dataclass(slots=True)
class _Node:
    """A value and where it stands."""

    start: int
    end: int
    value: Any
    members: list[_Member] = field(default_factory=list)


def parse(text: str) -> Any:
    """The value; of members with one name the last counts, as in the programs that read these files.

    Raises `JsoncError`. An empty text is an empty object: editors make such files.

    >>> parse('{"a": 1, // one\\n "b": [2,],}')
    {'a': 1, 'b': [2]}
    """
    try:
        return json.loads(text)
    except ValueError:
        return _Reader(text).document().value
    except RecursionError as e:
        raise JsoncError("nested too deeply", 1) from e


def line_of(text: str, path: Path) -> int:
    """The line on which the member at `path` stands; 1 where it is not there."""
    node, line = _Reader(text).document(), 1
    for key in path:
        found = _member(node, key)
        if found is None:
            return line
        node, line = found.value, text.count("\n", 0, found.start) + 1
    return line


def with_member(text: str, path: Path, value: Any, newline: str = "\n") -> str:
    """The text with `value` at `path`, in place of what is there; objects on the way are made where they are missing.

    Raises `JsoncError` where something on the way is no object.
    """
    root = _Reader(text).document()
    wanted = _put(root.value, path, value)
    unit = _unit(text)
    if root.start == root.end:  # nothing but comments, or nothing at all
        edited = text.rstrip() + newline * bool(text.strip()) + _dumped(wanted, unit, "", newline) + newline
    else:
        edited = _edited(text, root, path, value, unit, newline)
    return _checked(edited, wanted)


def without_member(text: str, path: Path) -> str:
    """The text without the member at `path`; as it is where there is none."""
    node = _Reader(text).document()
    wanted = _without(node.value, path)
    for key in path[:-1]:
        found = _member(node, key)
        if found is None:
            return text
        node = found.value
    while (index := next((i for i, m in enumerate(node.members) if m.key == path[-1]), None)) is not None:
        text = _cut(text, node, index)
        node = _Reader(text).document()
        for key in path[:-1]:
            found = _member(node, key)
            node = found.value if found else node
    return _checked(text, wanted)


class _Reader:
    """Walks the text once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._depth = 0

    def document(self) -> _Node:
        self._skip()
        if self._pos == len(self._text):
            return _Node(self._pos, self._pos, {})
        node = self._value()
        self._skip()
        if self._pos < len(self._text):
            raise self._error("something follows the end of the document")
        return node

    def _value(self) -> _Node:
        opener, start = self._text[self._pos : self._pos + 1], self._pos
        if opener in ("{", "["):
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise self._error("nested too deeply")
            node = self._object(start) if opener == "{" else self._array(start)
            self._depth -= 1
            return node
        if opener == '"':
            value = self._string()
            return _Node(start, self._pos, value)
        match = _WORD.match(self._text, start)
        if match is None:
            raise self._error("a value is expected")
        self._pos = match.end()
        return _Node(start, self._pos, self._loaded(match[0]))

    def _object(self, start: int) -> _Node:
        members: list[_Member] = []
        while self._next_item("}", not members):
            key_start = self._pos
            if self._text[key_start : key_start + 1] != '"':
                raise self._error("a name in double quotes is expected")
            key = self._string()
            self._skip()
            if self._text[self._pos : self._pos + 1] != ":":
                raise self._error("':' is expected")
            self._pos += 1
            self._skip()
            members.append(_Member(key, key_start, self._value()))
        return _Node(start, self._pos, {m.key: m.value.value for m in members}, members)

    def _array(self, start: int) -> _Node:
        items: list[Any] = []
        while self._next_item("]", not items):
            items.append(self._value().value)
        return _Node(start, self._pos, items)

    def _next_item(self, closer: str, is_first: bool) -> bool:
        """Go to the next item; False once past the closing bracket."""
        if is_first:
            self._pos += 1
        self._skip()
        if not is_first:
            if self._text[self._pos : self._pos + 1] == ",":
                self._pos += 1
                self._skip()
            elif self._text[self._pos : self._pos + 1] != closer:
                raise self._error(f"',' or '{closer}' is expected")
        if self._text[self._pos : self._pos + 1] != closer:
            return True
        self._pos += 1
        return False

    def _string(self) -> str:
        match = _STRING.match(self._text, self._pos)
        if match is None:
            raise self._error("a string that is not closed, or holds a line break")
        self._pos = match.end()
        return str(self._loaded(match[0]))

    def _loaded(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as e:
            raise self._error("not a JSON value") from e

    def _skip(self) -> None:
        match = _TRIVIA.match(self._text, self._pos)
        if match is not None:
            self._pos = match.end()

    def _error(self, message: str) -> JsoncError:
        return JsoncError(message, self._text.count("\n", 0, self._pos) + 1)


def _member(node: _Node, key: str) -> _Member | None:
    return next((member for member in reversed(node.members) if member.key == key), None)


def _put(value: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    if not isinstance(value, dict):
        raise JsoncError(f"an object is expected around {path[0]!r}", 1)
    return {**value, path[0]: _put(value.get(path[0], {}), path[1:], new)}


def _without(value: Any, path: Path) -> Any:
    if not isinstance(value, dict) or path[0] not in value:
        return value
    if len(path) == 1:
        return {key: item for key, item in value.items() if key != path[0]}
    return {**value, path[0]: _without(value[path[0]], path[1:])}


def _edited(text: str, root: _Node, path: Path, value: Any, unit: str, newline: str) -> str:
    node = root
    for depth, key in enumerate(path):
        found = _member(node, key)
        if found is None:
            for inner in reversed(path[depth + 1 :]):
                value = {inner: value}
            return _with_new_member(text, node, key, value, unit, newline)
        if depth == len(path) - 1:
            base = _line_indent(text, found.start)
            return text[: found.value.start] + _dumped(value, unit, base, newline) + text[found.value.end :]
        node = found.value
    raise AssertionError("a path has at least one key")


def _with_new_member(text: str, node: _Node, key: str, value: Any, unit: str, newline: str) -> str:
    """A member more, after the last one and the comments behind it."""
    last = node.members[-1] if node.members else None
    after = last.value.end if last else node.start + 1
    closing = node.end - 1
    gap = text[after:closing]
    comma_at = _comma(gap)
    end = after + len(gap.rstrip())
    is_inline = last is not None and "\n" not in text[node.start : node.members[0].start]
    if is_inline:
        lead, indent, tail = " ", "", ""
    else:
        indent = _line_indent(text, node.members[0].start) if last else _line_indent(text, node.start) + unit
        lead = newline + indent
        tail = newline + _line_indent(text, node.start) if "\n" not in text[end:closing] else ""
    rest = text[closing:] if tail else text[end:]
    comma = "," if comma_at is not None else ""  # whoever ends a list with one, goes on to
    member = f"{lead}{json.dumps(key, ensure_ascii=False)}: {_dumped(value, unit, indent, newline)}{comma}{tail}"
    if last is None or comma_at is not None:
        return text[:end] + member + rest
    return text[:after] + "," + text[after:end] + member + rest


def _comma(gap: str) -> int | None:
    """Where a comma stands in what is between a value and the closing bracket; comments may hold others."""
    match = _TRIVIA.match(gap)
    at = match.end() if match else 0
    return at if gap[at : at + 1] == "," else None


def _cut(text: str, node: _Node, index: int) -> str:
    """The text without one member, the comma that belonged to it, and the line it stood on alone."""
    member = node.members[index]
    start, end = member.start, member.value.end
    following = text[end : node.members[index + 1].start if index + 1 < len(node.members) else node.end - 1]
    comma = _comma(following)
    if comma is not None:
        end += comma + 1
    line = text[:start].rpartition("\n")[2]
    rest = re.match(r"[ \t]*(\r?\n)", text[end:])
    if not line.strip() and rest is not None:
        start -= len(line)
        end += rest.end()
    if comma is None and index:
        before = node.members[index - 1].value.end
        comma_before = _comma(text[before:start])
        if comma_before is not None:
            cut = before + comma_before
            return text[:cut] + text[cut + 1 : start] + text[end:]
    return text[:start] + text[end:]


def _dumped(value: Any, unit: str, base: str, newline: str) -> str:
    lines = json.dumps(value, indent=unit, ensure_ascii=False).splitlines()
    return f"{newline}{base}".join(lines)


def _unit(text: str) -> str:
    found = _INDENT.search(text)
    return found[1] if found else "  "


def _line_indent(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _checked(text: str, wanted: Any) -> str:
    if parse(text) != wanted:
        raise JsoncError("the edit would have changed something else", 1)
    return text
