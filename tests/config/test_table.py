"""One table read key by key: every key by its type, every mistake collected, no value repeated."""

from __future__ import annotations

import pytest

from mcp_gateway.config.table import ConfigCode, Findings, Table, Unresolvable
from mcp_gateway.config.toml_lines import parse


def table_of(text: str) -> Table:
    document, lines = parse(text, "a.toml")
    return Table(document, (), Findings(lines))


def test_a_key_nobody_asked_for_is_unknown() -> None:
    table = table_of("timeout = 1")
    table.number("timeout_s", 1, most=10)
    table.finish()
    [error] = table.findings.errors
    assert (error.code, error.fix) == (ConfigCode.UNKNOWN_KEY, "did you mean 'timeout_s'?")


def test_a_missing_key_is_its_default_and_no_complaint() -> None:
    table = table_of("")
    assert table.text("a", "b") == "b"
    assert table.flag("a", True) is True
    assert table.number("a", 2.5, most=3) == 2.5
    assert table.count("a", 3, least=1, most=5) == 3
    assert table.choice("a", ("x", "y"), "y") == "y"
    assert (table.texts("a"), table.texts_by_name("a"), table.table("a"), table.raw("a")) == ((), {}, None, None)
    assert table.findings.errors == []


def test_a_wrong_type_is_its_default_and_a_complaint_that_does_not_repeat_the_value() -> None:
    table = table_of('a = ["canary"]\nb = "canary"')
    assert table.text("a") is None
    assert table.flag("b", False) is False
    assert table.count("b", 1, least=1, most=2) == 1
    assert table.texts("b") == ()
    assert table.texts_by_name("b") == {}
    assert table.table("b") is None
    assert {error.code for error in table.findings.errors} == {ConfigCode.WRONG_TYPE}
    assert not any("canary" in str(error) for error in table.findings.errors)


def test_items_of_a_wrong_type_are_named_on_their_own_lines() -> None:
    table = table_of('a = ["x",\n 1,\n "y"]')
    assert table.texts("a") == ("x", "y")
    assert [error.line for error in table.findings.errors] == [2]


def test_a_reference_that_leads_nowhere_is_a_complaint_where_it_stands() -> None:
    def resolve(text: str) -> str:
        raise Unresolvable("nothing there", "make it", ConfigCode.ENV_UNSET)

    table = table_of('\na = "x"')
    assert table.resolved("a", resolve) is None
    assert [(e.line, e.code, e.fix) for e in table.findings.errors] == [(2, ConfigCode.ENV_UNSET, "make it")]


@pytest.mark.parametrize(
    ("text", "name"), [("1", "integer"), ("1.0", "float"), ("true", "boolean"), ("07:32:00", "time")]
)
def test_types_have_the_names_toml_gives_them(text: str, name: str) -> None:
    table = table_of(f"a = {text}")
    table.text("a")
    assert name in table.findings.errors[0].message
