"""Server-sent events, parsed as they arrive and never past a bound.

Follows the HTML standard, "Parsing an event stream"; written here because the SDK's parser has one fixed cap and the
common ones have none. Linear in the bytes fed, however they are cut. No I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAX_FIELD_BYTES: Final = 1024
"""Longest id kept, since it is sent back in a header; and longest event name."""

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `data` is still bytes, since JSON wants them."""

    name: str
    data: bytes
    id: str = ""
    retry_ms: int | None = None


class EventTooLong(ValueError):
    """An event, or a line of one, went past the bound."""


class EventParser:
    """Turns pieces of a stream into events."""

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._line: list[bytes] = []
        self._held_bytes = 0
        self._after_cr = False
        self._at_start = True
        self._name = ""
        self._data: list[bytes] = []
        self._id = ""
        self._retry_ms: int | None = None

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that end within this piece. Raises `EventTooLong`."""
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]
            self._after_cr = False
        if not piece:
            return
        self._after_cr = piece.endswith(b"\r")
        first, *rest = _LINE_END.split(piece)
        self._hold(first)
        for start in rest:
            event = self._end_line()
            if event is not None:
                yield event
            self._hold(start)

    def _hold(self, start: bytes) -> None:
        self._line.append(start)
        self._held_bytes += len(start)
        if self._held_bytes > self._max_event_bytes:
            raise EventTooLong(f"an event longer than {self._max_event_bytes} bytes")

    def _end_line(self) -> Event | None:
        line = b"".join(self._line)
        self._line = []
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            return self._end_event()
        name, _, value = line.partition(b":")
        self._take(name, value.removeprefix(b" "))
        if name != b"data":
            self._held_bytes -= len(line)
        return None

    def _take(self, name: bytes, value: bytes) -> None:
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._name = value[:MAX_FIELD_BYTES].decode(errors="replace")
        elif name == b"id" and b"\0" not in value and len(value) <= MAX_FIELD_BYTES:
            self._id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self._retry_ms = int(value)

    def _end_event(self) -> Event | None:
        """An empty line ends an event; one without data is only worth telling for its id or retry time."""
        data, name = b"\n".join(self._data), self._name or "message"
        retry_ms, self._retry_ms = self._retry_ms, None
        was_empty = not self._data
        self._data, self._name, self._held_bytes = [], "", 0
        if was_empty and retry_ms is None and not self._id:
            return None
        return Event(name, data, self._id, retry_ms)
