"""Cursors hold for one list of one caller, and for nobody and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.catalog.pages import Cursors
from mcp_gateway.errors import BadRequest

KEY = bytes(range(32))
SCOPE = ("catalog-1", "policy-1", "agent", "task", "tool")


@given(st.integers(min_value=0, max_value=10**9), st.lists(st.text(max_size=10), max_size=6))
def test_a_cursor_opens_to_the_offset_it_was_sealed_for(offset: int, scope: list[str]) -> None:
    cursors = Cursors(KEY)
    assert cursors.open(cursors.seal(offset, scope), scope) == offset


@pytest.mark.parametrize("at", range(len(SCOPE)))
def test_a_cursor_of_another_list_or_caller_is_refused(at: int) -> None:
    cursors = Cursors(KEY)
    other = (*SCOPE[:at], SCOPE[at] + "x", *SCOPE[at + 1 :])
    with pytest.raises(BadRequest, match="ask again without a cursor") as refused:
        cursors.open(cursors.seal(10, SCOPE), other)
    assert refused.value.rpc_code == -32602


def test_neighbouring_parts_of_a_scope_do_not_run_together() -> None:
    cursors = Cursors(KEY)
    with pytest.raises(BadRequest):
        cursors.open(cursors.seal(10, ("ab", "c")), ("a", "bc"))


@pytest.mark.parametrize("cursor", ["x", "é", "AAAA", "....", "A" * 10_000, " ", "0", "null"])
def test_nonsense_is_refused(cursor: str) -> None:
    with pytest.raises(BadRequest):
        Cursors(KEY).open(cursor, SCOPE)


def test_every_altered_character_is_noticed() -> None:
    cursors = Cursors(KEY)
    cursor = cursors.seal(1000, SCOPE)
    for at in range(len(cursor)):
        altered = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
        with pytest.raises(BadRequest):
            cursors.open(altered, SCOPE)


def test_a_cursor_sealed_with_another_key_is_refused() -> None:
    with pytest.raises(BadRequest):
        Cursors(KEY).open(Cursors(bytes(32)).seal(10, SCOPE), SCOPE)


def test_the_empty_string_is_the_first_page() -> None:
    assert Cursors(KEY).open("", SCOPE) == 0


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Cursors(b"short")
