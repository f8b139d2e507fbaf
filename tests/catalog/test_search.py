"""The right tool is among the first, and what a caller may not see has no say in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.catalog.search import ToolIndex, tokens_of, words
from mcp_gateway.domain import Json, Kind, Target


def tool(upstream: str, name: str, description: str = "", schema: Json | None = None) -> Target:
    raw = {"name": name, "description": description, "inputSchema": schema or {"type": "object"}}
    return Target(Kind.TOOL, upstream, name, f"{upstream}__{name}", raw, "", raw=raw)


TOOLS = [
    tool("crm", "create_ticket", "Open a new ticket for a customer."),
    tool("crm", "getCustomer", "Look a customer up by number."),
    tool(
        "mail", "send", "Send a message.", {"type": "object", "properties": {"recipient_address": {"type": "string"}}}
    ),
    tool("files", "delete_directory", "Removes a directory and everything in it."),
    tool("files", "read", "Reads a file. Several encodings are supported, among them those of old mainframes."),
    tool("bank", "transfer", "", {"type": "object", "properties": {"kind": {"enum": ["sepa", "instant"]}}}),
]
INDEX = ToolIndex(TOOLS)


def first(query: str, among: list[Target] = TOOLS) -> str:
    found = INDEX.find(query, among, 5)
    return found[0].name if found else ""


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("create a ticket", "create_ticket"),
        ("file an issue", "create_ticket"),
        ("find customers", "getCustomer"),
        ("recipient", "send"),
        ("erase a folder", "delete_directory"),
        ("mainframe encoding", "read"),
        ("SEPA", "transfer"),
        ("crm customer number", "getCustomer"),
    ],
)
def test_names_descriptions_and_schemas_are_searched_in_whatever_form_the_words_come(query: str, name: str) -> None:
    assert first(query) == name


@pytest.mark.parametrize("query", ["", "the of and", "zebra", "\x00", "?" * 1000])
def test_what_says_nothing_finds_nothing(query: str) -> None:
    assert INDEX.find(query, TOOLS, 5) == []


def test_only_what_is_visible_is_found_and_no_more_than_asked_for() -> None:
    assert first("customer", [TOOLS[0]]) == "create_ticket"
    assert INDEX.find("customer", [], 5) == []
    assert len(INDEX.find("customer ticket file message directory", TOOLS, 2)) == 2
    assert INDEX.find("customer", [tool("other", "customer")], 5) == []  # not of this catalog


QUERIES = st.lists(st.sampled_from(["customer", "file", "ticket", "delete", "send", "sepa"]), max_size=4).map(" ".join)


@given(QUERIES, st.sets(st.integers(0, len(TOOLS) - 1)))
def test_what_is_hidden_changes_neither_what_is_found_nor_its_order(query: str, seen: set[int]) -> None:
    visible = [TOOLS[place] for place in sorted(seen)]
    alone = ToolIndex(visible)
    assert [t.key for t in INDEX.find(query, visible, 10)] == [t.key for t in alone.find(query, visible, 10)]


def test_a_hostile_definition_costs_no_more_than_others() -> None:
    deep: Json = {"type": "object"}
    for _ in range(200):
        deep = {"type": "object", "properties": {"x": deep}, "items": [1], "enum": 5}
    odd = tool("u", "odd", "word " * 50_000, deep)
    assert ToolIndex([odd]).find("word", [odd], 1) == [odd]


def test_words_are_taken_apart_and_cut_alike() -> None:
    assert words("getHTTPResponse2 delete_files") == words("get http response 2 deleted file")


def test_tokens_are_estimated_by_the_length_of_the_json() -> None:
    assert tokens_of({"a": "x" * 4000}) == pytest.approx(1000, rel=0.01)
