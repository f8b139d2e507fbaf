"""What is kept is kept for one principal, and within bounds."""

from dataclasses import replace

import pytest

from mcp_gateway.cache import OVERHEAD_BYTES, Bounds, Cache, digest_of, owner_of
from mcp_gateway.domain import NOTHING, Caller, StartedTask
from mcp_gateway.wiring.clock import utc_now

ALICE, BOB = ("alice",), ("bob",)
ME = Caller("bot", "read", "ann", credential_id="key-1")


def test_what_is_kept_for_one_is_not_given_to_another() -> None:
    entries = Cache[str]()
    assert entries.put(ALICE, "k", "hers", 4)
    assert (entries.get(ALICE, "k"), entries.get(BOB, "k")) == ("hers", None)


def test_the_least_recently_used_go_first_and_only_their_owners() -> None:
    entries = Cache[str](Bounds(max_entries_each=2))
    entries.put(BOB, "b", "his", 1)
    entries.put(ALICE, 1, "one", 1)
    entries.put(ALICE, 2, "two", 1)
    entries.get(ALICE, 1)
    entries.put(ALICE, 3, "three", 1)
    assert [entries.get(ALICE, key) for key in (1, 2, 3)] == ["one", None, "three"]
    assert entries.get(BOB, "b") == "his"


def test_bytes_are_bounded_for_each_and_for_all() -> None:
    one = 1000 + OVERHEAD_BYTES
    entries = Cache[int](Bounds(max_bytes=5 * one, max_bytes_each=2 * one))
    for owner in range(5):
        for key in range(4):
            entries.put((str(owner),), key, key, 1000)
            assert entries.size <= 5 * one
    assert [entries.get(("4",), key) for key in range(4)] == [None, None, 2, 3]
    assert entries.get(("0",), 3) is None
    assert len(entries) == 5


def test_what_is_too_large_is_not_kept_and_what_was_there_is_gone() -> None:
    entries = Cache[str](Bounds(max_bytes_each=2000))
    entries.put(ALICE, "k", "old", 3)
    assert not entries.put(ALICE, "k", "new", 3000)
    assert entries.get(ALICE, "k") is None
    assert (len(entries), entries.size) == (0, 0)


def test_a_bound_of_nothing_keeps_nothing() -> None:
    assert not Cache[str](Bounds(max_bytes=0)).put(ALICE, "k", "v", 0)


def test_replacing_counts_once() -> None:
    entries = Cache[str]()
    for _ in range(3):
        entries.put(ALICE, "k", "v", 10)
    assert (len(entries), entries.size) == (1, 10 + OVERHEAD_BYTES)


def test_forgetting_a_subject_forgets_it_for_everybody_and_nothing_else() -> None:
    entries = Cache[str]()
    entries.put(ALICE, 1, "a", 1, about="orders")
    entries.put(BOB, 1, "b", 1, about="orders")
    entries.put(BOB, 2, "c", 1, about="people")
    entries.forget("orders")
    assert [entries.get(ALICE, 1), entries.get(BOB, 1), entries.get(BOB, 2)] == [None, None, "c"]
    entries.forget_all(lambda about: about == "people")
    assert (len(entries), entries.size) == (0, 0)


@pytest.mark.parametrize(
    "other",
    [
        replace(ME, agent="bot2"),
        replace(ME, task="write"),
        replace(ME, person="bea"),
        replace(ME, person=None),
        replace(ME, credential_id="key-2"),
        replace(ME, started=StartedTask("t", "bot", "read", utc_now(), NOTHING)),
    ],
)
def test_whoever_differs_in_anything_is_somebody_else(other: Caller) -> None:
    assert owner_of(ME) != owner_of(other)
    assert owner_of(ME) == owner_of(replace(ME))


def test_credentials_are_told_apart_and_cannot_be_read_from_what_tells_them() -> None:
    canary = digest_of({"Authorization": "Bearer canary"})
    assert canary == digest_of({"authorization": "Bearer canary"})
    assert len({canary, digest_of({"Authorization": "Bearer other"}), digest_of({"X-Key": "Bearer canary"}), ""}) == 4
    assert digest_of({}) == ""
    assert "canary" not in canary
