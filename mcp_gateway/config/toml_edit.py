"""One table taken out of somebody's TOML by its lines: comments, order and every other character stay.

What an edit made is read again and compared; where a file is written in a form that lines cannot tell apart (tables
inside a line), tomlkit makes the edit, and what it cannot make either is refused.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from typing import Any

import tomlkit
import tomlkit.exceptions

from mcp_gateway.config.toml_lines import headers


class NotEditable(Exception):
    """An edit would have changed something else; somebody has to make it by hand."""


def without_table(text: str, table: str, name: str) -> str:
    """The text without `[table.name]`, its sub-tables and the comment right above it, which must be there.

    Raises `NotEditable`.
    """
    before = tomllib.loads(text)
    wanted = {**before, table: {key: value for key, value in before[table].items() if key != name}}
    lines = text.splitlines(keepends=True)
    found = headers(text)
    for index in reversed(range(len(found))):
        if found[index][1][:2] == (table, name):
            following = found[index + 1][0] if index + 1 < len(found) else len(lines) + 1
            del lines[_first_of(lines, found[index][0]) - 1 : _end_of(lines, following) - 1]
    return checked("".join(lines), wanted, text, lambda document: document[table].remove(name))


def checked(edited: str, wanted: dict[str, Any], text: str, by_tomlkit: Callable[[Any], object]) -> str:
    """The edited text if it says what it should; else what `by_tomlkit` makes of `text`. Raises `NotEditable`.

    A table that is left empty may be there or not.
    """
    if _says(edited, wanted):
        return edited
    try:
        document = tomlkit.parse(text)
        by_tomlkit(document)
        edited = tomlkit.dumps(document)
    except (tomlkit.exceptions.TOMLKitError, AttributeError, KeyError, TypeError) as e:
        raise NotEditable("the file is written in a form that is edited by hand only") from e
    if not _says(edited, wanted):
        raise NotEditable("the file is written in a form that is edited by hand only")
    return edited


def _says(text: str, wanted: dict[str, Any]) -> bool:
    try:
        return _full(tomllib.loads(text)) == _full(wanted)
    except tomllib.TOMLDecodeError:
        return False


def _full(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if value != {}}


def _first_of(lines: Sequence[str], header: int) -> int:
    """The first line of what belongs to a table: the comment right above it, unless the file begins with that."""
    first = header
    while first > 1 and lines[first - 2].lstrip().startswith("#"):
        first -= 1
    return header if first == 1 else first


def _end_of(lines: Sequence[str], following: int) -> int:
    """The line before which a table ends: what stands between its last key and the next header is not its own."""
    end = following
    while end > 1 and (not lines[end - 2].strip() or lines[end - 2].lstrip().startswith("#")):
        end -= 1
    while end < following and end <= len(lines) and not lines[end - 1].strip():
        end += 1
    return end
