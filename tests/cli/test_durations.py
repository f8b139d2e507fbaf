"""Lengths of time as people write them."""

from datetime import timedelta

import pytest
from typer import BadParameter

from mcp_gateway.cli.durations import duration


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45s", timedelta(seconds=45)),
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        (" 2W ", timedelta(weeks=2)),
    ],
)
def test_a_number_and_a_unit_are_a_length_of_time(text: str, expected: timedelta) -> None:
    assert duration(text) == expected


@pytest.mark.parametrize("text", ["", "30", "d", "-3d", "1.5h", "0d", "30 d", "1d12h", "soon", "9999999d", "٣d"])
def test_anything_else_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(BadParameter, match="such as 30d"):
        duration(text)


def test_what_no_calendar_holds_is_refused() -> None:
    with pytest.raises(BadParameter, match="longer than 36500 days"):
        duration("999999w")
