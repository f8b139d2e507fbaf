"""Tables taken out of TOML by their lines, also where they stand apart; a wrong edit is refused, never written."""

import tomllib

import pytest

from mcp_gateway.config.toml_edit import NotEditable, checked, without_table


def test_a_table_goes_with_its_sub_tables_wherever_they_stand() -> None:
    text = "[m.a]\nx = 1\n\n[tui]\ny = 2\n\n[m.b]\nz = 3\n\n# of a\n[m.a.env]\nw = 4\n"
    assert without_table(text, "m", "a") == "[tui]\ny = 2\n\n[m.b]\nz = 3\n\n"


def test_what_is_left_has_the_same_line_ends() -> None:
    text = "[m.a]\r\nx = 1\r\n\r\n[tui]\r\ny = 2\r\n"
    assert without_table(text, "m", "a") == "[tui]\r\ny = 2\r\n"


def test_tables_in_a_line_are_left_to_tomlkit() -> None:
    assert tomllib.loads(without_table("m = { a = { x = 1 }, b = { x = 2 } }\n", "m", "a")) == {"m": {"b": {"x": 2}}}


def test_a_form_that_nobody_can_edit_is_refused() -> None:
    with pytest.raises(NotEditable):
        without_table("m.a.x = 1\nm.b.x = 2\n", "m", "a")


def test_an_edit_that_says_something_else_is_refused() -> None:
    with pytest.raises(NotEditable):
        checked("x = 2", {"x": 1}, "x = 3", lambda document: None)
    with pytest.raises(NotEditable):
        checked("x = ", {"x": 1}, "x = 3", lambda document: document.remove("nothing"))
