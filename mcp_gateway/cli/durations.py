"""Lengths of time on the command line: `30d`, `12h`, `90m`, `45s`, `2w`."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import typer

from mcp_gateway.config.durations import LONGEST_S, seconds

LONGEST: Final = timedelta(seconds=LONGEST_S)


def duration(text: str) -> timedelta:
    """Parse one; raises `typer.BadParameter`, which names the form, for anything else.

    >>> duration("30d")
    datetime.timedelta(days=30)
    """
    found = seconds(text)
    if found is None:
        form = f"a number and s, m, h, d or w, such as 30d, no longer than {LONGEST.days} days"
        raise typer.BadParameter(f"{text!r} is no length of time: write {form}")
    return timedelta(seconds=found)
