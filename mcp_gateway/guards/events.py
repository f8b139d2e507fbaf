"""The events of a streamed answer: which texts they carry, and how an edited one goes on.

A text may be spread over many events: what the wires of models send in pieces is told by the names of its members
(`delta`, `arguments`, ...), and data that is no JSON is one text from the first event to the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from mcp_gateway.jsonrpc import dump

_PIECES: Final = frozenset(
    {"content", "text", "delta", "arguments", "partial_json", "refusal", "thinking", "reasoning_content"}
)
"""Members of streamed events that hold a piece of a longer text, in any of the models' wires."""
_WHICH: Final = ("type", "index", "output_index", "content_index", "item_id", "summary_index")
"""Members of an event that say which text it goes on with. A final event repeats the whole text under the same name;
its type tells it from the pieces."""
_LAST: Final = b"[DONE]"

# A blank line ends an event; a line ends with CRLF, LF or CR (WHATWG HTML section 9.2.6).
_LINE: Final = re.compile(rb"(?>\r\n|\n|\r)")
_BLANK: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")

Path = tuple[str | int, ...]


class Part(NamedTuple):
    """One text of an event."""

    path: Path
    """Where it stands."""
    text: str
    goes_on: object | None
    """Which longer text it is a piece of, equal for all of its pieces; None: it is whole."""


@dataclass(slots=True, eq=False)
class Event:
    """One event of a stream."""

    raw: bytes
    end: bytes
    """The blank line behind it; empty where the stream breaks off."""
    data: Any = None
    """Parsed; a text where it is no JSON. None: there is none."""
    is_json: bool = False
    is_edited: bool = False

    def encoded(self) -> bytes:
        """As it goes on: byte for byte, or with its new data; other lines stay."""
        if not self.is_edited:
            return self.raw + self.end
        lines = [line for line in _LINE.split(self.raw) if line and not line.startswith(b"data:")]
        data = [dump(self.data)] if self.is_json else self.data.encode("utf-8", "replace").split(b"\n")
        return b"\n".join([*lines, *(b"data: " + line for line in data)]) + self.end

    def parts(self) -> list[Part]:
        """Every text in its data as it came."""
        return [Part(path, text, self._text_of(path)) for path, text in _texts(self.data, ())]

    def _text_of(self, path: Path) -> object | None:
        if not self.is_json:
            return "plain"
        if not path or path[-1] not in _PIECES or not isinstance(self.data, dict):
            return None
        return (path, *(repr(self.data.get(name)) for name in _WHICH))

    def put(self, path: Path, text: str) -> None:
        """Set the text at `path`."""
        self.is_edited = True
        if not path:
            self.data = text
            return
        value = self.data
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = text


def split(body: bytes) -> tuple[list[Event], bytes]:
    """The whole events in it, and what is left behind the last.

    >>> [event.data for event in split(b'data: {"a":1}\\n\\ndata: half')[0]]
    [{'a': 1}]
    """
    events, done = [], 0
    for match in _BLANK.finditer(body):
        events.append(event_of(body[done : match.start()], match.group()))
        done = match.end()
    return events, body[done:]


def event_of(raw: bytes, end: bytes = b"") -> Event:
    """One event, its data parsed."""
    lines = [line[5:].removeprefix(b" ") for line in _LINE.split(raw) if line.startswith(b"data:")]
    data = b"\n".join(lines)
    if not lines or data == _LAST:
        return Event(raw, end)
    try:
        return Event(raw, end, orjson.loads(data), is_json=True)
    except orjson.JSONDecodeError:
        return Event(raw, end, data.decode("utf-8", "replace"))


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from _texts(member, (*path, key))
