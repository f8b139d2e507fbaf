"""Keys of a policy's tables: each has its type and its place."""

from __future__ import annotations

from mcp_gateway.config.toml_lines import parse
from mcp_gateway.errors import Complaint
from mcp_gateway.policy.tables import Table


def table(text: str) -> tuple[Table, list[Complaint]]:
    complaints: list[Complaint] = []
    values, lines = parse(text, "a.toml")
    return Table(values, (), lines, complaints), complaints


def test_values_come_back_by_their_type() -> None:
    found, complaints = table("a = 'x'\nb = 3\nc = '2h'\n[d]\ne = 1\n")
    assert (found.text("a"), found.count("b"), found.seconds("c", 1e9), found.text("z")) == ("x", 3, 7200.0, None)
    below = found.table("d")
    assert below is not None
    assert (below.count("e"), str(below.place(("e",)))) == (1, "a.toml:5")
    assert complaints == []


def test_a_value_that_cannot_be_is_complained_about_where_it_stands() -> None:
    found, complaints = table("\na = 0\nb = 'soon'\nc = true\n")
    assert (found.count("a"), found.seconds("b", 1e9), found.count("c")) == (None, None, None)
    found.check_keys({"a": int, "b": str, "c": int}, frozenset())
    assert [complaint.line for complaint in complaints] == [2, 3, 4]
