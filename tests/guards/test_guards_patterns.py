"""Which regular expressions of a schema are checked, and how far."""

import time

import jsonschema_rs
import pytest

from mcp_gateway.guards import patterns


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", 0),
        ("abc", 3),
        ("^a+$", 1),
        ("a|b", 2),
        ("[a-z0-9]{3}", 3),
        ("[]a]", 1),
        ("[^]]", 1),
        ("(ab){4}c", 9),
        ("(?:a{2}){3,5}", 10),
        ("a{0}", 1),
        ("a{2,}", 2),
        (r"\d{4}-\d{2}", 7),
        (r"\{2\}", 3),
        (r"[\]]{2}", 2),
        (r"\p{L}{2}", 128),
        ("(?=a)(?!b)(?<=c)(?<name>d)", 4),
        ("a{x}", 4),
        (")a(", 1),
    ],
)
def test_the_volume_of_a_pattern_is_how_many_states_it_needs(pattern: str, expected: int) -> None:
    assert patterns.volume(pattern) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        "^(a+)+$",
        "^[a-z0-9-]{1,64}$",
        r"^\d{4}-\d{2}-\d{2}$",
        "^[a-f0-9]{8}-([a-f0-9]{4}-){3}[a-f0-9]{12}$",
        "^.{1,255}$",
        "^https?://",
    ],
)
def test_ordinary_patterns_are_checked(pattern: str) -> None:
    assert patterns.is_checked(pattern)


@pytest.mark.parametrize("pattern", [r"(a)\1", "^(?!x)", "(?<=a)b", "(", "a{1000}{1000}", "^.{1,100000}$", "[z-a]"])
def test_patterns_that_backtrack_or_are_huge_or_wrong_are_not(pattern: str) -> None:
    assert not patterns.is_checked(pattern)


def test_the_larger_a_pattern_the_shorter_the_texts_it_is_tried_on() -> None:
    assert patterns.reach("^[a-z]+$") is None
    assert patterns.reach("a{17}") == 2**20 // 17
    assert patterns.reach("a{512}") == 2048


@pytest.mark.parametrize(
    "pattern", ["[ab]*a[ab]{50}c", "[ab]*a[ab]{500}c", "(.{1,100}.{1,100}){2}z", "(a+)+c", "(x+x+)+y"]
)
def test_the_worst_text_within_reach_takes_a_moment(pattern: str) -> None:
    assert patterns.is_checked(pattern)
    text = "ab" * ((patterns.reach(pattern) or 100_000) // 2)
    validator = jsonschema_rs.Draft202012Validator({"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions())
    start = time.process_time()
    assert not validator.is_valid(text)
    assert time.process_time() - start < 0.2  # 20 ms on a quiet machine


def test_reading_a_hostile_pattern_takes_a_moment() -> None:
    start = time.process_time()
    for hostile in (
        "(" * 50_000,
        "[" * 50_000,
        "{1," * 20_000,
        "\\" * 50_001,
        "(a{9}" * 10_000,
        "[" * 2000,
        r"\p{" * 600,
    ):
        patterns.volume(hostile)
    assert time.process_time() - start < 1
