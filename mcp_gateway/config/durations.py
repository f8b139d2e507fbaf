"""Lengths of time as people write them: `30d`, `12h`, `90m`, `45s`, `2w`."""

from __future__ import annotations

import re
from typing import Final

LONGEST_S: Final = 36_500 * 86_400.0

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_WRITTEN: Final = re.compile(r"([0-9]{1,6})([smhdw])")


def seconds(text: str) -> float | None:
    """The length in seconds; None for anything that is not written so, is nothing, or is over `LONGEST_S`.

    >>> seconds("90m"), seconds("soon")
    (5400.0, None)
    """
    match = _WRITTEN.fullmatch(text.strip().lower())
    found = float(int(match[1]) * _UNITS[match[2]]) if match else 0.0
    return found if 0 < found <= LONGEST_S else None
