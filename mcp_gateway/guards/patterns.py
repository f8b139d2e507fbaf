"""Regular expressions that upstreams write into schemas, and which of them are checked.

They run in Rust's `regex` engine, which never backtracks: time grows with the length of the text times the size of the
expression, at worst (measured 2026-11: 16 ns per character and unit of `volume`). That product is what is bounded here.
What lies beyond is not asserted but left to the upstream, which must validate its input anyway (MCP server/tools,
"Security Considerations"): look-around and back-references, expressions above `MAX_VOLUME`, texts above `reach`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import jsonschema_rs

MAX_VOLUME: Final = 512
"""Largest expression that is checked. A UUID is 36, a date 10."""

MAX_WORK: Final = 2**24
"""Characters times volume in one call, before it is refused."""

_LONGEST: Final = 2_000  # reading a pattern can take time in the square of its length
_REACH: Final = 2**20
_TINY: Final = 16  # so few states that the engine's cache holds them all: any length is fine

_TOKEN: Final = re.compile(
    r"\\[pP]\{[^}]*\}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?(?:[:=!]|<[=!]|P?<\w+>|[a-z-]+:))?|\)"
    r"|\{(?P<least>\d+)(?P<open>,(?P<most>\d*))?\}|[*+?|^$]|.",
    re.DOTALL,
)
_UNICODE_CLASS: Final = 64  # automaton states behind one \p{L}


@lru_cache(maxsize=8192)
def volume(pattern: str) -> int:
    """Roughly how many states the automaton of a pattern has; counted repetitions multiply.

    >>> volume("^[a-f0-9]{8}-[a-f0-9]{4}$"), volume("((a{10}){10}){10}")
    (13, 1000)
    """
    if len(pattern) > _LONGEST:
        return len(pattern)
    groups, last = [0], 0
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if token["least"] is not None:
            grown = last * max(int(token["most"] or token["least"]), 1)
            groups[-1] += grown - last
            last = grown
        elif text.startswith("("):
            groups.append(0)
        elif text == ")":
            last = groups.pop() if len(groups) > 1 else 0
            groups[-1] += last
        elif text not in "*+?|^$":
            last = _UNICODE_CLASS * text.count("\\p") + _UNICODE_CLASS * text.count("\\P") or 1
            groups[-1] += last
    return sum(groups)


def is_small(pattern: str) -> bool:
    """Whether a pattern is small enough to be compiled at all."""
    return volume(pattern) <= MAX_VOLUME


@lru_cache(maxsize=8192)
def is_checked(pattern: str) -> bool:
    """Whether a pattern is small enough, and one that the linear engine takes."""
    if not is_small(pattern):
        return False
    try:
        jsonschema_rs.Draft202012Validator({"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions())
    except ValueError:
        return False
    return True


def reach(pattern: str) -> int | None:
    """The longest text a checked pattern is tried on, in characters; None: any.

    >>> reach("^[a-z]+$"), reach("x{36}")
    (None, 29127)
    """
    size = volume(pattern)
    return None if size <= _TINY else _REACH // size
