"""Patterns cover what they say, byte for byte, and nothing else."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.domain import Kind
from mcp_gateway.policy.patterns import MAX_PATTERN, Glob, Match, Pattern, PatternError, parse_pattern, plain_uri


def grant(text: str) -> Pattern:
    return parse_pattern(text, any_upstream=False)


def deny(text: str) -> Pattern:
    return parse_pattern(text, any_upstream=True)


@pytest.mark.parametrize(
    ("pattern", "covered", "not_covered"),
    [
        ("get_order", ["get_order"], ["get_orders", "Get_order", "get_orde", ""]),
        ("get_*", ["get_", "get_a", "get_a_b"], ["get", "get_a/b", "xget_a"]),
        ("*", ["", "a", "read_file_and_delete"], ["a/b"]),
        ("**", ["", "a", "a/b//c"], []),
        ("a*b*c", ["abc", "axbxc", "abbcc"], ["ac", "ab", "a/bc"]),
        ("file:///h/**", ["file:///h/", "file:///h/a/b"], ["file:///h", "file:///g/a"]),
        ("**/x", ["/x", "a/b/x"], ["x", "a/x/"]),
        ("a/*/c", ["a/b/c", "a//c"], ["a/b/b/c"]),
        ("a.c+(d)[e]?", ["a.c+(d)[e]?"], ["abc+(d)[e]?", "a.c+(d)e"]),
        ("***", ["a/b"], []),
    ],
)
def test_wildcards_stand_for_a_segment_or_for_anything(
    pattern: str, covered: list[str], not_covered: list[str]
) -> None:
    glob = Glob(pattern)
    assert [text for text in covered if not glob.matches(text)] == []
    assert [text for text in not_covered if glob.matches(text)] == []


@given(st.text("ab/*", max_size=8), st.text("ab/", max_size=8))
def test_the_automaton_agrees_with_the_regular_expression_of_the_same_meaning(pattern: str, text: str) -> None:
    pieces = re.findall(r"\*\*+|\*|[^*]", pattern)
    meaning = "".join(".*" if p.startswith("**") else "[^/]*" if p == "*" else re.escape(p) for p in pieces)
    assert Glob(pattern).matches(text) == bool(re.fullmatch(meaning, text, re.DOTALL))


def test_no_name_makes_matching_slow() -> None:
    glob = Glob("*a" * 200 + "b")
    started = time.perf_counter()
    assert not glob.matches("a" * 8000)
    assert time.perf_counter() - started < 2


def test_a_pattern_is_for_one_kind() -> None:
    assert grant("crm/get").allows(Kind.TOOL, "crm", "get") is Match.ALL
    assert grant("crm/get").allows(Kind.PROMPT, "crm", "get") is Match.NONE
    assert grant("prompt:crm/get").allows(Kind.PROMPT, "crm", "get") is Match.ALL
    assert grant("tool:crm/get").allows(Kind.RESOURCE, "crm", "get") is Match.NONE


def test_an_upstream_never_inherits_from_another() -> None:
    assert grant("crm/**").allows(Kind.TOOL, "crm2", "get") is Match.NONE
    assert grant("crm/**").allows(Kind.TOOL, "cr", "m/get") is Match.NONE
    assert grant("crm/**").allows(Kind.TOOL, "CRM", "get") is Match.NONE


@pytest.mark.parametrize(
    "text", ["", "tool:", "prompt:", "crm", "/get", "crm/", "*", "**", "*/get", "cr*/get", "**/get"]
)
def test_a_grant_names_its_upstream_and_a_target(text: str) -> None:
    with pytest.raises(PatternError):
        grant(text)


def test_a_deny_may_speak_of_every_upstream() -> None:
    for text in ("*", "**", "*/**", "*/delete_*"):
        assert deny(text).denies(Kind.TOOL, "anything", "delete_all") is Match.ALL
    assert deny("*").denies(Kind.PROMPT, "crm", "x") is Match.NONE
    assert deny("prompt:*").denies(Kind.PROMPT, "crm", "x") is Match.ALL
    with pytest.raises(PatternError, match="nothing in between"):
        deny("cr*/x")


def test_a_pattern_has_a_longest_length() -> None:
    with pytest.raises(PatternError, match=str(MAX_PATTERN)):
        grant("crm/" + "a" * MAX_PATTERN)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///handbook/../secret",
        "file:///handbook/a/../../secret",
        "file:///handbook/%2e%2e/secret",
        "file:///handbook/%252e%252e/secret",
        "file:///handbook/..%2fsecret",
        "file:///handbook/..\\secret",
        "file:///handbook/%2e./secret",
    ],
)
def test_a_wildcard_is_no_way_out_of_its_folder(uri: str) -> None:
    assert grant("resource:docs/file:///handbook/**").allows(Kind.RESOURCE, "docs", uri) is Match.NONE
    assert deny("resource:docs/file:///secret").denies(Kind.RESOURCE, "docs", uri) is Match.ALL


@pytest.mark.parametrize(
    "uri", ["file:///%73ecret/a", "FILE:///secret/a", "file:////secret//a", "file:///x/../secret/a"]
)
def test_no_other_spelling_of_a_uri_gets_around_a_deny(uri: str) -> None:
    assert deny("resource:docs/file:///secret/**").denies(Kind.RESOURCE, "docs", uri) is Match.ALL


def test_escapes_that_mean_themselves_are_covered() -> None:
    assert grant("resource:docs/file:///a%20b/**").allows(Kind.RESOURCE, "docs", "file:///a%20b/c%20d") is Match.ALL
    assert grant("resource:docs/file:///a%20b").allows(Kind.RESOURCE, "docs", "file:///a%20b") is Match.ALL
    assert grant("resource:docs/file:///a%20b").allows(Kind.RESOURCE, "docs", "file:///a b") is Match.NONE


@pytest.mark.parametrize(
    ("uri", "plain"),
    [
        ("file:///a/./b/../c", "file:///a/c"),
        ("file:///../..", "file:///"),
        ("docs:x/../y", "docs:x/y"),
        ("http://h/a?x=1", "http://h/a?x=1"),
        ("name", "name"),
    ],
)
def test_the_plain_form_of_a_uri(uri: str, plain: str) -> None:
    assert plain_uri(uri) == plain


@pytest.mark.parametrize(
    ("pattern", "template", "granted", "denied"),
    [
        ("file:///handbook/**", "file:///handbook/{page}", Match.SOME, Match.ALL),
        ("file:///handbook/**", "file:///{+path}", Match.SOME, Match.SOME),
        ("file:///handbook/*", "file:///handbook/{page}", Match.SOME, Match.SOME),
        ("file:///handbook/**", "db://{table}", Match.NONE, Match.NONE),
        ("file:///handbook/a", "{any}", Match.SOME, Match.SOME),
        ("**", "{any}", Match.SOME, Match.ALL),
        ("file:///fixed", "file:///fixed", Match.ALL, Match.ALL),
        ("*.md", "{name}.txt", Match.NONE, Match.NONE),
    ],
)
def test_templates_are_covered_as_far_as_their_expansions_are(
    pattern: str, template: str, granted: Match, denied: Match
) -> None:
    assert grant(f"resource:docs/{pattern}").allows(Kind.TEMPLATE, "docs", template) is granted
    assert deny(f"resource:docs/{pattern}").denies(Kind.TEMPLATE, "docs", template) is denied


@given(
    st.text("ab/*", min_size=1, max_size=6), st.lists(st.sampled_from(["a", "/", "{x}", "b"]), max_size=5), st.data()
)
def test_what_is_said_of_a_template_is_true_of_each_expansion(
    pattern: str, pieces: list[str], data: st.DataObject
) -> None:
    glob = Glob(pattern)
    match = glob.match_template("".join(pieces))
    uri = "".join(data.draw(st.text("ab/", max_size=3)) if piece == "{x}" else piece for piece in pieces)
    if match is Match.NONE:
        assert not glob.matches(uri)
    if match is Match.ALL:
        assert glob.matches(uri)


@pytest.mark.parametrize("pattern", ["route:orders/v1/orders", "route:orders//v1/**", "route:orders/get /v1"])
def test_a_pattern_of_requests_without_a_method_is_told_not_ignored(pattern: str) -> None:
    with pytest.raises(PatternError, match="no method in it") as refused:
        parse_pattern(pattern, any_upstream=True)
    assert refused.value.fix.startswith("write 'route:orders/* /")


@pytest.mark.parametrize("pattern", ["route:orders/**", "route:orders/*", "route:orders/GET /v1/*", "route:*/POST**"])
def test_a_pattern_of_requests_with_a_method_or_a_wildcard_is_taken(pattern: str) -> None:
    assert parse_pattern(pattern, any_upstream=True).kind is Kind.ROUTE
