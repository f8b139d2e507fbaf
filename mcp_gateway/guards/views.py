"""The ways one text can be read: as it stands, without disguises, and with what is encoded in it decoded.

Whoever hides a secret from a reader writes it in base64, in percent escapes, in full-width letters or with invisible
characters between. Each way of reading is a `View`: a text, and where each part of it stands in the original, so that
what is found in a view can be masked in the text itself. Work is bounded: at most `MAX_DEPTH` encodings inside one
another, and in all about `MAX_GROWTH` times the text.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

MAX_DEPTH: Final = 3
"""Encodings inside one another that are taken off."""
MAX_GROWTH: Final = 4
_ROOM: Final = 4096
"""Characters of decoded text that even the shortest text may yield."""
_LONGEST_WORD: Final = 65_536
"""Longer words are data (an image, an archive), not disguised text."""
_SHORTEST: Final = 8
"""Characters of decoded text below which nothing worth finding fits in."""

# Unicode tags: invisible twins of ASCII, which models read and people do not see.
_TAGS: Final = {0xE0000 + point: chr(point) for point in range(0x20, 0x7F)}
_INVISIBLE: Final = {
    point: ""
    for points in (
        (0x00AD, 0x034F, 0x061C, 0x180E, 0xFEFF, 0xE0001, 0xE007F),
        range(0x200B, 0x2010),
        range(0x202A, 0x202F),
        range(0x2060, 0x206A),
        range(0xFE00, 0xFE10),
        range(0xE0100, 0xE01F0),
    )
    for point in points
}
_UNSEEN: Final = _TAGS | _INVISIBLE
_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]")

# Words that are encoded as a whole, and escapes inside a text. Each takes time in proportion: no pattern can match
# the same characters in two ways.
_BASE64: Final = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{11,}={0,2}")
_HEX: Final = re.compile(r"(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{2}){8,}(?![0-9A-Fa-f])")
_PERCENT: Final = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_ENTITY: Final = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});")
_ESCAPES: Final = re.compile(r"(?:\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2})+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_ESCAPE: Final = re.compile(r"\\[ux]([0-9A-Fa-f]+)")


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of a view."""

    at: int
    """Where it begins in the view."""
    start: int
    end: int
    """What it stands for in the text that the view was made of."""
    is_literal: bool
    """Whether each character stands for one character."""


@dataclass(frozen=True, slots=True)
class View:
    """One reading of a text."""

    text: str
    _source: View | None = None
    """What it was made of; None: it is the original."""
    _segments: tuple[_Segment, ...] = ()

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Which part of the original `text[start:end]` stands for."""
        if self._source is None:
            return start, end
        first, last = self._segment(start), self._segment(end - 1)
        begins = first.start + (start - first.at) * first.is_literal
        ends = last.start + end - last.at if last.is_literal else last.end
        return self._source.span(begins, ends)

    def _segment(self, position: int) -> _Segment:
        return self._segments[bisect_right(self._segments, position, key=lambda segment: segment.at) - 1]


def views(text: str) -> Iterator[View]:
    """Every reading of `text`, the text itself first.

    >>> [view.text for view in views("key: c2VjcmV0LXZhbHVl")]
    ['key: c2VjcmV0LXZhbHVl', 'secret-value']
    """
    room = len(text) * MAX_GROWTH + _ROOM
    waiting = deque([(View(text), 0)])
    while waiting:
        view, depth = waiting.popleft()
        yield view
        for inner in _readings(view) if depth < MAX_DEPTH else ():
            if len(inner.text) <= room:
                room -= len(inner.text)
                waiting.append((inner, depth + 1))


def _readings(view: View) -> Iterator[View]:
    """What `view` becomes when one layer is taken off: its escapes, or the encoding of one of its words."""
    plain = _unescaped(view)
    if plain is not view:
        yield plain
    for pattern, decode in _WORDS:
        for match in pattern.finditer(view.text):
            inner = decode(match.group()) if len(match.group()) <= _LONGEST_WORD else ""
            if len(inner) >= _SHORTEST:
                yield View(inner, view, (_Segment(0, match.start(), match.end(), is_literal=False),))


def _unescaped(view: View) -> View:
    if not view.text.isascii() and _is_disguised(view.text):
        view = _rewritten(view, _NOT_ASCII, _plain)
    for marker, pattern, decode in _INSIDE:
        if marker in view.text and pattern.search(view.text):
            view = _rewritten(view, pattern, decode)
    return view


def _rewritten(view: View, pattern: re.Pattern[str], decode: Callable[[str], str]) -> View:
    """`view` with every match of `pattern` decoded where it stands."""
    parts: list[str] = []
    segments: list[_Segment] = []
    at = done = 0
    for match in pattern.finditer(view.text):
        for part, start, is_literal in (
            (view.text[done : match.start()], done, True),
            (decode(match.group()), match.start(), False),
        ):
            if part:
                segments.append(_Segment(at, start, start + len(part) if is_literal else match.end(), is_literal))
                parts.append(part)
                at += len(part)
        done = match.end()
    rest = view.text[done:]
    return View("".join([*parts, rest]), view, (*segments, _Segment(at, done, done + len(rest), is_literal=True)))


def _is_disguised(text: str) -> bool:
    return not unicodedata.is_normalized("NFKC", text) or text.translate(_UNSEEN) != text


def _plain(letter: str) -> str:
    return unicodedata.normalize("NFKC", letter.translate(_UNSEEN))


def _from_base64(word: str) -> str:
    word = word.rstrip("=").replace("-", "+").replace("_", "/")
    word = word[: len(word) - (len(word) % 4 == 1)]
    try:
        return _as_text(base64.b64decode(word + "=" * (-len(word) % 4)))
    except (binascii.Error, ValueError):
        return ""


def _from_hex(word: str) -> str:
    return _as_text(bytes.fromhex(word))


def _as_text(data: bytes) -> str:
    """Bytes that are plain text, or nothing: random bytes would be read as anything."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return ""
    return "" if _CONTROL.search(text) else text


def _from_escapes(escapes: str) -> str:
    return "".join(chr(int(digits, 16)) for digits in _ESCAPE.findall(escapes))


_INSIDE: Final[tuple[tuple[str, re.Pattern[str], Callable[[str], str]], ...]] = (
    ("%", _PERCENT, unquote),
    ("&", _ENTITY, html.unescape),
    ("\\", _ESCAPES, _from_escapes),
)
_WORDS: Final[tuple[tuple[re.Pattern[str], Callable[[str], str]], ...]] = (
    (_HEX, _from_hex),
    (_BASE64, _from_base64),
)
