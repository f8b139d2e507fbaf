"""Edits of bodies, as RFC 6902 says them; the examples of its appendix A are among these."""

from typing import Any

import pytest

from mcp_gateway.rest.pointers import MAX_STEPS, Edit, EditError, edited, read_pointer


def add(path: str, value: Any) -> Edit:
    return Edit("add", read_pointer(path), value)


def move(origin: str, path: str, **more: Any) -> Edit:
    return Edit("move", read_pointer(path), origin=read_pointer(origin), **more)


def remove(path: str, **more: Any) -> Edit:
    return Edit("remove", read_pointer(path), **more)


@pytest.mark.parametrize(
    ("before", "edit", "after"),
    [
        ({"foo": "bar"}, add("/baz", "qux"), {"foo": "bar", "baz": "qux"}),  # A.1
        ({"foo": ["bar", "baz"]}, add("/foo/1", "qux"), {"foo": ["bar", "qux", "baz"]}),  # A.2
        ({"baz": "qux", "foo": "bar"}, remove("/baz"), {"foo": "bar"}),  # A.3
        ({"foo": ["bar", "qux", "baz"]}, remove("/foo/1"), {"foo": ["bar", "baz"]}),  # A.4
        ({"baz": "qux"}, Edit("replace", ("baz",), "boo"), {"baz": "boo"}),  # A.5
        ({"foo": {"w": "f"}, "qux": {"c": 1}}, move("/foo/w", "/qux/t"), {"foo": {}, "qux": {"c": 1, "t": "f"}}),  # A.6
        ({"foo": ["all", "grass", "cows", "eat"]}, move("/foo/1", "/foo/3"), {"foo": ["all", "cows", "eat", "grass"]}),
        ({"foo": ["bar"]}, add("/foo/-", ["abc"]), {"foo": ["bar", ["abc"]]}),  # A.16
        ({"foo": None}, add("/foo", 1), {"foo": 1}),
        ({"/": 9, "~1": 10}, remove("/~01"), {"/": 9}),  # A.14
        ({"": {"": 1}}, remove("//"), {"": {}}),
        ({"foo": 1}, remove("/bar", is_optional=True), {"foo": 1}),
        ({"foo": 1}, move("/foo", "/bar/x", is_optional=True), {"foo": 1}),
        ({"foo": [1, 2]}, move("/foo/0", "/bar/x", is_optional=True), {"foo": [1, 2]}),
    ],
)
def test_an_edit_does_what_the_specification_says(before: Any, edit: Edit, after: Any) -> None:
    assert edited(before, [edit]) == after


@pytest.mark.parametrize(
    ("before", "edit"),
    [
        ({"foo": "bar"}, add("/baz/bat", "qux")),  # A.12
        ({"foo": "bar"}, remove("/baz")),
        ({"foo": "bar"}, Edit("replace", ("baz",), 1)),
        ({"foo": ["bar"]}, add("/foo/2", 1)),
        ({"foo": ["bar"]}, add("/foo/01", 1)),
        ({"foo": ["bar"]}, remove("/foo/-")),
        ({"foo": ["bar"]}, remove("/foo/1")),
        ({"foo": "bar"}, add("/foo/0", 1)),
        ({"foo": "bar"}, move("/baz", "/foo")),
        ([1], add("/x", 1)),
        ("text", remove("/0")),
    ],
)
def test_what_is_not_there_is_refused(before: Any, edit: Edit) -> None:
    with pytest.raises(EditError, match="there is no place /"):
        edited(before, [edit])


def test_edits_are_made_in_their_order_and_nothing_is_edited_in_place() -> None:
    before = {"a": {"b": 1}}
    value = {"c": 2}
    after = edited(before, [add("/x", value), move("/a/b", "/x/b"), add("/x/c", 3)])
    assert after == {"a": {}, "x": {"b": 1, "c": 3}}
    assert (before, value) == ({"a": {"b": 1}}, {"c": 2})


@pytest.mark.parametrize("text", ["", "a", "a/b", "/~", "/a~2b", "/" * (MAX_STEPS + 1)])
def test_a_pointer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON pointer|steps"):
        read_pointer(text)
