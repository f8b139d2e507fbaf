"""Heads of HTTP messages, known again without parsing them.

Whoever says one thing after the other on a connection repeats all of a head but for the length of its body. A parser
starts anew with each message, so the same bytes mean the same again; with another number in the only line that says how
long the body is, the same of a body so long. What the parser made of the first of them is kept, for as long as the
connection lives. Knows nothing of sockets, and of HTTP no more than this.
"""

from __future__ import annotations

import re
from typing import Final, Generic, NamedTuple, TypeVar

Kept = TypeVar("Kept")

MAX_HEADS: Final = 8
"""Of one connection, the oldest going first: an agent's heads name the tool, a server's the second they are sent in."""

MAX_HEAD_BYTES: Final = 2048

_MAX_DIGITS: Final = 9
_LENGTH_LINE: Final = re.compile(rb"\r\ncontent-length:[ \t]*", re.IGNORECASE)
END_OF_HEAD: Final = b"\r\n\r\n"


class Known(NamedTuple, Generic[Kept]):
    """A head that is known."""

    kept: Kept
    end: int
    """Where in the data it ends."""
    length: int
    """How long its body is, as it says."""


class KnownHeads(Generic[Kept]):
    """What was kept of the heads that came one way on one connection."""

    __slots__ = ("_kept", "_line")

    def __init__(self) -> None:
        self._kept: dict[bytes, Kept] = {}
        self._line = b""
        """How the other side begins the line that says how long a body is."""

    def find(self, data: bytes) -> Known[Kept] | None:
        """The head that `data`, which begins a message, begins with; None: let the parser see."""
        if not self._kept:
            return None
        end = data.find(END_OF_HEAD) + 4
        found = data.find(self._line, 0, end)
        if found < 0:
            return None
        start = found + len(self._line)
        stop = data.find(b"\r", start)
        kept = self._kept.get(data[:start] + data[stop:end])
        digits = data[start:stop]
        if kept is None or not digits.isdigit() or len(digits) > _MAX_DIGITS:
            return None
        length = int(digits)
        return Known(kept, end, length) if digits == b"%d" % length else None

    def learn(self, first: bytes, body: bytes, kept: Kept) -> None:
        """Keep what a parser made of a message: `first` is the piece it began with, `body` all of its body, which has
        to be there: some messages have none, whatever length they tell. A head that is not plain is not kept."""
        end = first.find(END_OF_HEAD) + 4
        lines = list(_LENGTH_LINE.finditer(first, 0, end)) if 4 < end <= MAX_HEAD_BYTES else []
        if len(lines) != 1 or not body or not body.startswith(first[end:]):
            return
        start = lines[0].end()
        stop = first.find(b"\r", start)
        if first[start:stop] != b"%d" % len(body):
            return
        if len(self._kept) >= MAX_HEADS:
            del self._kept[next(iter(self._kept))]
        self._line = lines[0].group()
        self._kept[first[:start] + first[stop:end]] = kept
