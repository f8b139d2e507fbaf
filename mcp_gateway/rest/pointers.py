"""Edits of a JSON body, written down beforehand: add, replace, remove and move, as RFC 6902 has the words.

Nothing is computed from what passes: where an edit speaks of something that is not there, the whole is refused, unless
the edit says `optional`. Values are never edited in place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from mcp_gateway.jsonrpc import dump

Word = Literal["add", "replace", "remove", "move"]
WORDS: Final[tuple[Word, ...]] = ("add", "replace", "remove", "move")
MAX_STEPS: Final = 32

Pointer = tuple[str, ...]

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_ESCAPE: Final = re.compile(r"~(?![01])")


class EditError(ValueError):
    """An edit that cannot be made of this body; the message names the place, never a value."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit of a body."""

    word: Word
    path: Pointer
    value: Any = None
    origin: Pointer = ()
    """Of a move: where from."""
    is_optional: bool = False
    """Where there is nothing to edit, nothing is edited."""


def read_pointer(text: str) -> Pointer:
    """The steps of a JSON pointer (RFC 6901). Raises `ValueError` with what is wrong.

    >>> read_pointer("/a~1b/0")
    ('a/b', '0')
    """
    if not text.startswith("/"):
        raise ValueError(f"{text!r} is no JSON pointer below the whole, such as '/customer/name'")
    steps = text[1:].split("/")
    if len(steps) > MAX_STEPS or _ESCAPE.search(text):
        raise ValueError(f"{text!r} has more than {MAX_STEPS} steps, or a '~' that is neither '~0' nor '~1'")
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in steps)


def edited(value: Any, edits: Sequence[Edit]) -> Any:
    """A copy with the edits made, in their order. Raises `EditError`.

    >>> edited({"a": {"b": 1}}, [Edit("move", ("c",), origin=("a", "b")), Edit("add", ("a", "d"), [])])
    {'a': {'d': []}, 'c': 1}
    """
    whole = orjson.loads(dump(value))
    for edit in edits:
        try:
            _MAKERS[edit.word](whole, edit)
        except EditError:
            if not edit.is_optional:
                raise
    return whole


def _add(whole: Any, edit: Edit) -> None:
    _put(whole, edit.path, orjson.loads(dump(edit.value)))


def _replace(whole: Any, edit: Edit) -> None:
    parent, key = _there(whole, edit.path)
    parent[key] = orjson.loads(dump(edit.value))


def _remove(whole: Any, edit: Edit) -> None:
    parent, key = _there(whole, edit.path)
    del parent[key]


def _move(whole: Any, edit: Edit) -> None:
    """Section 4.4. Where the new place is none, the old one keeps what it has."""
    parent, key = _there(whole, edit.origin)
    value = parent.pop(key)
    try:
        _put(whole, edit.path, value)
    except EditError:
        _put(whole, edit.origin, value)
        raise


_MAKERS: Final = {"add": _add, "replace": _replace, "remove": _remove, "move": _move}


def _put(whole: Any, path: Pointer, value: Any) -> None:
    """Section 4.1: a member is set, an element is put in before the one that is there; `-` is the end of a list."""
    parent, step = _parent(whole, path), path[-1]
    if isinstance(parent, dict):
        parent[step] = value
    elif isinstance(parent, list) and step == "-":
        parent.append(value)
    elif isinstance(parent, list) and _INDEX.fullmatch(step) and int(step) <= len(parent):
        parent.insert(int(step), value)
    else:
        raise _nothing_at(path)


def _there(whole: Any, path: Pointer) -> tuple[Any, Any]:
    """The container and the key of what is there."""
    parent, step = _parent(whole, path), path[-1]
    if isinstance(parent, dict) and step in parent:
        return parent, step
    if isinstance(parent, list) and _INDEX.fullmatch(step) and int(step) < len(parent):
        return parent, int(step)
    raise _nothing_at(path)


def _parent(whole: Any, path: Pointer) -> Any:
    value = whole
    for step in path[:-1]:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and _INDEX.fullmatch(step) and int(step) < len(value):
            value = value[int(step)]
        else:
            raise _nothing_at(path)
    return value


def _nothing_at(path: Pointer) -> EditError:
    written = "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)
    return EditError(f"there is no place {written:.200} in the body")
