"""A stream of server-sent events cut into events, each with every byte it came with.

Ends of events are found across any cuts and for any line ends (HTML standard, "Parsing an event stream"); nothing is
parsed that need not be. Bounded: an event that does not end is refused. No I/O.
"""

from __future__ import annotations

import re
from typing import Final

MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
"""Images and whole answers travel in one event."""

_END: Final = re.compile(rb"\n\r?\n|\r\n?\r\n?|\r\r")
_LONGEST_END: Final = 4
_LINE: Final = re.compile(rb"\r\n|\n|\r")


class EventTooLongError(ValueError):
    """An event went past the bound."""


class Framer:
    """Turns pieces of a stream into whole events."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._rest = b""
        self._searched = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that end within this piece, with their ends. Raises `EventTooLongError`.

        An end in CR waits for nothing: a LF that still belonged to it stands in front of the next event, where it
        means nothing.
        """
        data = self._rest + piece
        events = []
        start, search = 0, max(self._searched - _LONGEST_END, 0)
        while (match := _END.search(data, search)) is not None:
            events.append(data[start : match.end()])
            start = search = match.end()
        self._rest = data[start:]
        self._searched = len(self._rest)
        if self._searched > self._max_event_bytes:
            raise EventTooLongError(f"an event longer than {self._max_event_bytes} bytes")
        return events

    def rest(self) -> bytes:
        """What came behind the last whole event: of a good stream nothing, or an event without its empty line."""
        return self._rest


def event_name(event: bytes) -> bytes:
    """What an event calls itself; empty where it does not."""
    if event.startswith(b"event:"):
        end = _LINE.search(event)
        return event[6 : end.start() if end else len(event)].strip()
    for line in _LINE.split(event):
        if line.startswith(b"event:"):
            return line[6:].strip()
    return b""


def event_data(event: bytes) -> bytes:
    """The data of an event; empty where it has none."""
    lines = [line[5:].removeprefix(b" ") for line in _LINE.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines)
