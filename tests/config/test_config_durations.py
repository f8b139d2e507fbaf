"""Lengths of time as configuration and policies write them."""

import pytest

from mcp_gateway.config.durations import seconds


@pytest.mark.parametrize(
    ("text", "expected"), [("45s", 45), ("90m", 5400), ("2h", 7200), (" 1D ", 86_400), ("2w", 1_209_600)]
)
def test_a_number_and_a_unit_are_a_length_of_time(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "30", "m", "-3d", "1.5h", "0s", "3 m", "1h30m", "soon", "999999w", "٣d"])
def test_anything_else_is_none(text: str) -> None:
    assert seconds(text) is None
