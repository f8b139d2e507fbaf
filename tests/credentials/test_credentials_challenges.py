"""`WWW-Authenticate` as servers write it, and as an attacker would."""

from __future__ import annotations

import pytest

from mcp_gateway.credentials.challenges import MAX_SCOPES, BearerChallenge, read_challenge, scopes_in


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('Bearer resource_metadata="https://h/x"', BearerChallenge("https://h/x")),
        ('bearer scope="a b a",error=invalid_token', BearerChallenge("", ("a", "b"), "invalid_token")),
        ('Basic realm="Bearer scope=\\"x\\""', BearerChallenge()),
        ('Negotiate, Bearer realm="r", scope="a"', BearerChallenge("", ("a",))),
        (r'Bearer error="in\"valid"', BearerChallenge("", (), 'in"valid')),
        ("Bearer", BearerChallenge()),
        ("", BearerChallenge()),
        ("Bearerish scope=a", BearerChallenge()),
    ],
)
def test_a_challenge_is_read_as_it_was_meant(text: str, found: BearerChallenge) -> None:
    assert read_challenge(text) == found


def test_a_huge_challenge_ends_soon() -> None:
    assert len(read_challenge('Bearer scope="' + "a " * 100_000).scopes) <= MAX_SCOPES
    assert read_challenge("Bearer " + '"\\' * 50_000) == BearerChallenge()


def test_what_cannot_be_a_scope_is_left_out() -> None:
    assert scopes_in('good\tbad" ünïcode a\\b ok') == ("good", "ok")
    assert scopes_in(["a"]) == ()
    assert len(scopes_in(" ".join(f"s{n}" for n in range(500)))) == MAX_SCOPES
