"""Every key of a TOML file is found on the line it stands on."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.config.toml_lines import KeyPath, Lines, did_you_mean, parse
from mcp_gateway.errors import ConfigInvalid


def lines_of(text: str) -> Lines:
    return parse(text, "a.toml")[1]


EVERYTHING = '''\
# a comment with [brackets] and "quotes
top = 1

[agents.support-bot]        # line 4
match = """
two lines with = and [x]
"""
tasks = [
    "one",  # ] not the end
    # "none",
    "two", "three",
]
default."odd key".'x' = 2024-01-01 10:00:00

[[tasks.answer.grant]]
tools = ["a/b"]
limit = { calls = 5, per = "1h", same = ["x",
    "y"] }
[[ tasks . answer . grant ]]
when = 'args.path == "C:\\"'
[tasks.answer.grant.deeper]
key = true
[tasks.answer]
purpose = "later"
["quoted.table"."é"]
k = 'it"s'
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("agents",), 4),
        (("agents", "support-bot"), 4),
        (("agents", "support-bot", "match"), 5),
        (("agents", "support-bot", "tasks"), 8),
        (("agents", "support-bot", "tasks", 0), 9),
        (("agents", "support-bot", "tasks", 1), 11),
        (("agents", "support-bot", "tasks", 2), 11),
        (("agents", "support-bot", "default", "odd key", "x"), 13),
        (("tasks", "answer", "grant"), 15),
        (("tasks", "answer", "grant", 0), 15),
        (("tasks", "answer", "grant", 0, "tools", 0), 16),
        (("tasks", "answer", "grant", 0, "limit", "same", 1), 18),
        (("tasks", "answer", "grant", 1), 19),
        (("tasks", "answer", "grant", 1, "when"), 20),
        (("tasks", "answer", "grant", 1, "deeper", "key"), 22),
        (("tasks", "answer"), 23),
        (("tasks", "answer", "purpose"), 24),
        (("quoted.table", "é", "k"), 26),
    ],
)
def test_every_shape_of_key_is_found_on_its_line(path: KeyPath, line: int) -> None:
    assert lines_of(EVERYTHING).of(path) == line


def test_a_path_that_is_not_there_falls_back_to_its_nearest_parent() -> None:
    lines = lines_of(EVERYTHING)
    assert lines.of(("agents", "support-bot", "nothing", 3)) == 4
    assert lines.of(("nothing",)) == 1
    assert lines.of(()) == 1
    assert lines.at(("agents", "support-bot")) == "a.toml:4"


def test_windows_line_ends_count_once() -> None:
    assert lines_of('a = 1\r\nb = """x\r\ny"""\r\nc = 3\r\n').of(("c",)) == 4


def test_a_string_may_end_in_quotes_of_its_own() -> None:
    assert lines_of('a = """x"""""\nb = \'\'\'y\'\'\'\'\nc = ""\nd = [[], [[{}]]]\ne = 1').of(("e",)) == 5


def test_nested_arrays_of_tables_start_again_in_each_parent() -> None:
    lines = lines_of("[[a]]\n[[a.b]]\n[[a.b]]\n[[a]]\n[[a.b]]\nx = 1\n")
    assert lines.of(("a", 0, "b", 1)) == 3
    assert lines.of(("a", 1, "b", 0, "x")) == 6


@pytest.mark.parametrize(
    ("text", "line"), [("a = 1\nb = = 2\n", 2), ("a = 1\n[b\n", 2), ("a = 1\na = 2\n", 2), ("a = [\n1,\n", 2)]
)
def test_text_that_is_not_toml_is_complained_about_with_its_line(text: str, line: int) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, "bad.toml")
    [complaint] = caught.value.complaints
    assert (complaint.file, complaint.line, complaint.code) == ("bad.toml", line, "GW-TOML")
    assert "(at " not in complaint.message


def test_nesting_without_end_is_a_complaint_not_a_crash() -> None:
    with pytest.raises(ConfigInvalid):
        parse("a = " + "[" * 100_000, "deep.toml")


def test_an_unknown_key_names_the_one_that_was_meant() -> None:
    complaint = lines_of("[agents.bot]\ntaks = []\n").unknown_key(("agents", "bot", "taks"), {"tasks", "match"})
    assert str(complaint) == "a.toml:2: unknown key 'taks' (did you mean 'tasks'?)"
    assert did_you_mean("zzz", ["b", "a"]) == "known: a, b"


scalars = st.one_of(
    st.integers(-9, 9).map(str),
    st.sampled_from(["true", '""', "''", '"a,]#"', "'{'", '"""\nx]\n"""', "'''\n=\n'''", "1.5", "2020-01-01"]),
)
keys = st.sampled_from(["a", "b", "c-d", '"q u"', "'l.t'"])


def values(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    gaps = st.sampled_from(["", " ", "\n", " # c ]\n"])
    arrays = st.builds(lambda xs, g: "[" + g + ("," + g).join(xs) + g + "]", st.lists(children, max_size=3), gaps)
    pairs = st.lists(st.tuples(keys, children), max_size=3, unique_by=lambda kv: kv[0])
    return arrays | pairs.map(lambda ps: "{ " + ", ".join(f"{k} = {v}" for k, v in ps) + " }")


@given(st.lists(st.tuples(keys, st.recursive(scalars, values, max_leaves=8)), max_size=4, unique_by=lambda kv: kv[0]))
def test_every_value_that_tomllib_reads_has_a_line(pairs: list[tuple[str, str]]) -> None:
    text = "[t]\n" + "".join(f"{key} = {value}\n" for key, value in pairs)
    document, lines = parse(text, "a.toml")
    assert document == tomllib.loads(text)
    line = 2
    for (_, value), name in zip(pairs, document["t"], strict=True):
        assert lines.of(("t", name)) == line
        line += value.count("\n") + 1
