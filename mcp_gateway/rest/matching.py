"""Which methods and paths a line such as `GET /v1/orders/*` speaks of: `*` within a segment, `**` across."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
METHODS: Final[tuple[Method, ...]] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MAX_STARS: Final = 8

_LINE: Final = re.compile(r"(?P<methods>\*|[A-Z]+(?:,[A-Z]+)*) (?P<path>(?:/|\*\*)\S*)")
_PIECE: Final = re.compile(r"\*\*+|\*|[^*]+")


@dataclass(frozen=True, slots=True)
class RoutePattern:
    """One line, compiled."""

    text: str
    methods: frozenset[str]
    _pieces: tuple[str, ...]

    def matches(self, method: str, path: str) -> bool:
        """Whether it speaks of this method on this path, byte for byte.

        >>> read_pattern("GET,HEAD /v1/orders/*").matches("GET", "/v1/orders/7")
        True
        """
        return method in self.methods and _covers(self._pieces, path)


def read_pattern(text: str) -> RoutePattern:
    """Raises `ValueError` with what is wrong."""
    match = _LINE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a method and a path, such as 'GET /v1/orders/*'")
    methods: Sequence[str] = METHODS if match["methods"] == "*" else match["methods"].split(",")
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of: {', '.join(METHODS)}")
    pieces = tuple(_PIECE.findall(match["path"]))
    if sum(piece.startswith("*") for piece in pieces) > MAX_STARS:
        raise ValueError(f"{text!r} has more than {MAX_STARS} stars")
    return RoutePattern(text, frozenset(methods), pieces)


def _covers(pieces: tuple[str, ...], path: str) -> bool:
    """Follows all ways at once, so that no path can make it slow: at most path times stars steps."""
    ends = {0}
    for piece in pieces:
        if piece.startswith("**"):
            ends = set(range(min(ends), len(path) + 1)) if ends else ends
        elif piece == "*":
            ends = _to_segment_ends(path, ends)
        else:
            ends = {end + len(piece) for end in ends if path.startswith(piece, end)}
    return len(path) in ends


def _to_segment_ends(path: str, starts: set[int]) -> set[int]:
    """Everywhere that a stretch without a slash leads to from one of `starts`."""
    found: set[int] = set()
    reached = -1
    for start in sorted(starts):
        if start > reached:
            reached = _segment_end(path, start)
            found.update(range(start, reached + 1))
    return found


def _segment_end(path: str, start: int) -> int:
    end = path.find("/", start)
    return len(path) if end < 0 else end
