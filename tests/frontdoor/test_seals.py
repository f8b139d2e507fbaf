"""What is handed out sealed comes back unread, unaltered, in time, and only to whom it was given."""

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_gateway.frontdoor.seals import MAX_SEAL_CHARS, SealBrokenError, Seals

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
BINDING = ("alice", "work", "tools/call", "u__echo")
NOW = 1_000_000.0


def seals(key: bytes = KEY, purpose: str = "test", ttl_s: int = 600) -> Seals:
    return Seals(key, purpose, ttl_s)


def breaks(token: Any, binding: tuple[str, ...] = BINDING, now_s: float = NOW, by: Seals | None = None) -> bool:
    try:
        (by or seals()).open(token, binding, now_s)
    except SealBrokenError:
        return True
    return False


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()))
def test_whoever_shares_the_key_gets_back_what_was_sealed(payload: dict[str, Any]) -> None:
    assert seals().open(seals().seal(payload, BINDING, NOW), BINDING, NOW) == payload


def test_a_seal_can_neither_be_read_nor_compared() -> None:
    made = [seals().seal({"state": "the upstream's own secret"}, BINDING, NOW) for _ in range(2)]
    assert made[0] != made[1]
    assert not any(b"secret" in base64.urlsafe_b64decode(token) for token in made)


def test_a_seal_altered_anywhere_does_not_open() -> None:
    token = seals().seal({"state": "s"}, BINDING, NOW)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for place in range(len(token)):
        for other in {"A", "B", alphabet[(alphabet.find(token[place]) + 1) % 64]} - {token[place]}:
            assert breaks(token[:place] + other + token[place + 1 :]), place


def test_a_seal_has_one_spelling_only() -> None:
    """Or one that was used up could be shown again under another."""
    for size in range(3):
        token = seals().seal({"state": "x" * size}, BINDING, NOW)
        raw = base64.urlsafe_b64decode(token)
        others = {token + "=", token.rstrip("="), token + "\n", " " + token, base64.b64encode(raw).decode()} - {token}
        others |= {token[:-1] + c for c in "ABCDEFGHQgw_-"} - {token}
        others |= {token.rstrip("=")[:-1] + c + "=" * token.count("=") for c in "ABCDEFGHQgwRhx_-"} - {token}
        assert all(breaks(other) for other in others)
        assert not breaks(token)


@pytest.mark.parametrize(
    "token", ["", "A", "====", "AAAA", "é", "A" * 16, "A" * 24, "A" * 1000, "A" * (MAX_SEAL_CHARS + 4)]
)
def test_what_never_was_a_seal_does_not_open(token: str) -> None:
    assert breaks(token)
    assert breaks(token, now_s=0.0)


@pytest.mark.parametrize(
    "binding",
    [
        (),
        BINDING[:-1],
        (*BINDING, ""),
        ("bob", *BINDING[1:]),
        ("alice", "work", "tools/call", "u__second"),
        ("alicework", "", "tools/call", "u__echo"),
        ("alice", "worktools/call", "", "u__echo"),
        ("alice", "work", "tools/callu__echo"),
    ],
)
def test_a_seal_opens_under_no_other_binding(binding: tuple[str, ...]) -> None:
    assert breaks(seals().seal({}, BINDING, NOW), binding)


def test_a_seal_opens_under_no_other_key_and_for_no_other_purpose() -> None:
    token = seals().seal({}, BINDING, NOW)
    assert breaks(token, by=seals(OTHER_KEY))
    assert breaks(token, by=seals(purpose="another"))


@pytest.mark.parametrize("begun_s", [0.0, 1.0, 299.0, 599.0, 599.9, 600.0, 1_234_567.8])
def test_a_seal_ends_after_its_time_whenever_it_was_made(begun_s: float) -> None:
    token = seals().seal({}, BINDING, begun_s)
    assert not breaks(token, now_s=begun_s)
    assert not breaks(token, now_s=begun_s + 598.9)
    assert breaks(token, now_s=begun_s + 600.1)
    assert breaks(token, now_s=begun_s + 1_000_000)


def test_a_seal_from_the_future_does_not_open() -> None:
    assert breaks(seals().seal({}, BINDING, NOW + 1200))


def test_keys_change_and_the_old_ones_are_forgotten() -> None:
    kept = seals()
    tokens = [kept.seal({"n": n}, BINDING, NOW + 600 * n) for n in range(5)]
    assert [breaks(token, now_s=NOW + 600 * 4 + 1, by=kept) for token in tokens] == [True] * 4 + [False]
    assert len(kept._keys) == 2


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        Seals(b"short", "test", 600)
