"""Lengths of time as people write them: `30d`, `12h`, `90m`, `45s`, `2w`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

import typer

LONGEST: Final = timedelta(days=36_500)

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_WRITTEN: Final = re.compile(r"([0-9]{1,6})([smhdw])")


def duration(text: str) -> timedelta:
    """Parse one; raises `typer.BadParameter`, which names the form, for anything else.

    >>> duration("30d")
    datetime.timedelta(days=30)
    """
    match = _WRITTEN.fullmatch(text.strip().lower())
    if match is None or int(match[1]) == 0:
        raise typer.BadParameter(f"{text!r} is no length of time: write a number and s, m, h, d or w, such as 30d")
    found = timedelta(**{_UNITS[match[2]]: int(match[1])})
    if found > LONGEST:
        raise typer.BadParameter(f"{text!r} is longer than {LONGEST.days} days")
    return found
