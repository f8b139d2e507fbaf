"""Passwords are kept as hashes that nobody can go back from."""

import time

import pytest

from mcp_gateway.identity.passwords import LEAST_CHARACTERS, MOST_CHARACTERS, hashed, is_right, password_problem


def test_a_password_is_right_and_any_other_is_not() -> None:
    kept = hashed("correct horse")
    assert is_right("correct horse", kept)
    assert not is_right("correct horse ", kept)
    assert not is_right("", kept)
    assert "correct" not in kept
    assert hashed("correct horse") != kept


def test_an_account_that_does_not_exist_has_no_password_and_costs_as_much() -> None:
    began = time.perf_counter()
    is_right("x" * 20, hashed("y" * 20))
    known_s = (time.perf_counter() - began) / 2
    began = time.perf_counter()
    assert not is_right("x" * 20, None)
    assert time.perf_counter() - began > known_s / 4


@pytest.mark.parametrize("password", ["", "x" * (LEAST_CHARACTERS - 1), "x" * (MOST_CHARACTERS + 1)])
def test_a_password_that_is_too_short_or_too_long_is_none(password: str) -> None:
    assert password_problem(password) is not None


def test_any_text_may_be_tried() -> None:
    assert not is_right("\ud800" * 300, None)
