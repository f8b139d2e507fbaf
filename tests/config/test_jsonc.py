"""JSON with comments: read as editors do, and edited without touching anything else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.config.jsonc import JsoncError, line_of, parse, with_member, without_member

ENTRY = {"command": "g", "args": ["stdio"]}
PATH = ("mcpServers", "gateway")

COMMENTED = """\
// top
{
\t"theme": "dark", // a "quoted" word, and a } brace
\t/* "mcpServers": {"old": {}} */
\t"mcpServers": {
\t\t"a": {"command": "x", "env": {"URL": "http://h//p, }"}}, // of a
\t\t// end of the list
\t},
}
"""

TEXTS = [
    "",
    "{}",
    "{ }\n",
    '{"a": 1}',
    '{\n  "a": 1\n}\n',
    '{"mcpServers": {}}',
    '{"mcpServers": {"x": {}}}',
    '{\r\n    "mcpServers": {\r\n    }\r\n}\r\n',
    '\ufeff{"a": 1,}',
    "// nothing but a comment",
    COMMENTED,
]


def test_comments_and_trailing_commas_are_read_over() -> None:
    found = parse(COMMENTED)
    assert found["mcpServers"] == {"a": {"command": "x", "env": {"URL": "http://h//p, }"}}}
    assert found["theme"] == "dark"


@pytest.mark.parametrize("text", TEXTS)
def test_a_member_is_put_in_and_taken_out_and_all_else_stays(text: str) -> None:
    before = parse(text)
    edited = with_member(text, PATH, ENTRY)
    assert parse(edited) == {**before, "mcpServers": {**before.get("mcpServers", {}), "gateway": ENTRY}}
    assert parse(without_member(edited, PATH)) == {**before, "mcpServers": before.get("mcpServers", {})}


def test_every_line_but_the_new_ones_is_as_it_was() -> None:
    edited = with_member(COMMENTED, PATH, ENTRY).splitlines()
    assert [line for line in COMMENTED.splitlines() if line not in edited] == []
    assert '\t\t"gateway": {' in edited
    assert without_member("\n".join(edited) + "\n", PATH) == COMMENTED


def test_line_ends_are_those_of_the_file() -> None:
    edited = with_member('{\r\n  "a": 1\r\n}\r\n', PATH, ENTRY, "\r\n")
    assert edited.count("\n") == edited.count("\r\n")


def test_an_entry_that_is_there_is_replaced_in_its_place() -> None:
    text = '{"mcpServers": {"gateway": {"old": 1}, "z": 2}}'
    assert list(parse(with_member(text, PATH, ENTRY))["mcpServers"].items()) == [("gateway", ENTRY), ("z", 2)]


def test_of_two_members_with_one_name_the_last_counts_and_none_is_left_when_it_is_taken_out() -> None:
    text = '{"a": 1, "a": 2, "b": 3}'
    assert parse(text) == {"a": 2, "b": 3}
    assert parse(without_member(text, ("a",))) == {"b": 3}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"a": 1\n "b": 2}', 2),
        ("{'a': 1}", 1),
        ('{"a": 1}\n\nx', 3),
        ('{"a": \n tru}', 2),
        ('{"a": "x\ny"}', 1),
        ("[" * 300, 1),
        ('{"a"}', 1),
    ],
)
def test_what_is_no_json_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(JsoncError) as raised:
        parse(text)
    assert raised.value.line == line


@pytest.mark.parametrize("text", ["[]", '{"mcpServers": []}', '{"mcpServers": 7}'])
def test_where_no_object_is_nothing_is_put(text: str) -> None:
    with pytest.raises(JsoncError, match="an object is expected"):
        with_member(text, PATH, ENTRY)


def test_the_line_of_a_member_is_known() -> None:
    assert line_of(COMMENTED, ("mcpServers", "a")) == 6
    assert line_of(COMMENTED, ("mcpServers", "nobody")) == 5


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@given(document=st.dictionaries(st.text(max_size=6), JSON, max_size=5), indent=st.sampled_from([None, 2, "\t"]))
def test_any_document_keeps_what_it_says(document: dict[str, object], indent: int | str | None) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    edited = with_member(text, ("\n new", "x"), ENTRY)
    assert parse(edited) == {**document, "\n new": {"x": ENTRY}}
    assert parse(without_member(edited, ("\n new",))) == document
