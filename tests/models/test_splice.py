"""Edits touch the members they are about, and no other byte."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.models.splice import spliced

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=6), st.sampled_from([None, 1, 3]), st.booleans())
def test_the_result_is_the_object_with_the_edit(value: dict[str, Any], indent: int | None, is_ascii: bool) -> None:
    try:
        body = json.dumps(value, indent=indent, ensure_ascii=is_ascii).encode()
    except UnicodeEncodeError:
        return
    edited = spliced(body, {"model": "m", "store": False})
    assert json.loads(edited) == {**value, "model": "m", "store": False}


def test_what_is_not_edited_stays_byte_for_byte() -> None:
    body = b'{ "a" : 1.50e3,\n"model":  "x" , "b":"\\u00e9\\/ \xc3\xa9", "a2": [ 1,2 ]}'
    assert spliced(body, {"model": "y"}) == body.replace(b'"x"', b'"y"')


def test_a_member_of_the_same_name_further_inside_is_another() -> None:
    body = b'{"messages":[{"model":"inner","store":true}],"model":"x"}'
    assert spliced(body, {"model": "y"}) == b'{"messages":[{"model":"inner","store":true}],"model":"y"}'


def test_a_name_written_with_escapes_is_that_name() -> None:
    assert spliced(b'{"m\\u006fdel":"x"}', {"model": "y"}) == b'{"m\\u006fdel":"y"}'


def test_new_members_stand_in_front() -> None:
    assert spliced(b'{"a":1}', {"store": False}) == b'{"store":false,"a":1}'
    assert spliced(b" { } ", {"store": False}) == b' {"store":false } '
