"""Edits of single members of a JSON text that leave every other byte as it was.

Providers cache prompts by their bytes: written anew, an unchanged conversation would be another one to them, and cost
many times as much.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_read: Final = json.JSONDecoder().raw_decode


class _Member(NamedTuple):
    """Where one member of an object stands: from its name to the end of its value."""

    name: str
    value_at: int
    end: int


def spliced(body: bytes, edits: Mapping[str, Any]) -> bytes:
    """`body`, an object, with these members set to these values; new members go in front of the others.

    `body` must have been parsed strictly before: valid UTF-8, no member twice.

    >>> spliced(b'{ "a": 1,  "model" : "x" }', {"model": "y"})
    b'{ "a": 1,  "model" : "y" }'
    >>> spliced(b'{}', {"store": False})
    b'{"store":false}'
    """
    text = body.decode()
    found = {member.name: member for member in _members(text)}
    for name, member in sorted(found.items(), key=lambda pair: pair[1].value_at, reverse=True):
        if name in edits:
            text = text[: member.value_at] + _written(edits[name]) + text[member.end :]
    added = ",".join(f"{json.dumps(name)}:{_written(value)}" for name, value in edits.items() if name not in found)
    if added:
        start = text.index("{") + 1
        text = text[:start] + added + ("," if found else "") + text[start:]
    return text.encode()


def _members(text: str) -> Iterator[_Member]:
    at = _after_space(text, _after_space(text, 0) + 1)
    while text[at] != "}":
        name, at = _read(text, at)
        value_at = _after_space(text, _after_space(text, at) + 1)
        _, end = _read(text, value_at)
        yield _Member(name, value_at, end)
        at = _after_space(text, end)
        if text[at] == ",":
            at = _after_space(text, at + 1)


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _written(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
