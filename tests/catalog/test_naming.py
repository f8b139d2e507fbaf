"""Public names: short, stable, byte-exact, and never two tools under one."""

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mcp_gateway.catalog.naming import (
    MAX_NAME,
    NamingRule,
    fault_in_prompt_name,
    fault_in_tool_name,
    matches_any,
    public_name,
)
from mcp_gateway.domain import Kind

UPSTREAMS = st.from_regex(r"[a-z0-9](-?[a-z0-9]){0,15}", fullmatch=True)
NAMES = st.text(alphabet=string.ascii_letters + string.digits + "_.-", min_size=1, max_size=128)


@given(UPSTREAMS, NAMES, st.sampled_from([None, "", "p"]))
def test_a_public_name_is_never_longer_than_model_providers_take(upstream: str, name: str, prefix: str | None) -> None:
    assert len(public_name(upstream, name, prefix)) <= MAX_NAME
    assert public_name(upstream, name, prefix) == public_name(upstream, name, prefix)


@given(st.tuples(UPSTREAMS, NAMES), st.tuples(UPSTREAMS, NAMES))
def test_two_tools_never_share_a_public_name(one: tuple[str, str], other: tuple[str, str]) -> None:
    assume(one != other)
    assert public_name(*one) != public_name(*other)


def test_long_names_that_differ_only_at_the_end_stay_apart() -> None:
    long = "x" * 127
    assert public_name("a", long + "1") != public_name("a", long + "2")


def test_a_shortened_name_keeps_its_upstream_readable() -> None:
    assert public_name("github", "create_" * 18).startswith("github__create_create_")


def test_the_prefix_is_put_in_front_whatever_the_tool_calls_itself() -> None:
    assert public_name("git", "git_status") == "git__git_status"
    assert public_name("git", "git__status") == "git__git__status"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\u200bb", "аdmin", "a\nb", "x" * 129, "a\x1b[0m", "naïve"])
def test_a_tool_name_that_could_be_mistaken_for_another_is_a_fault(name: str) -> None:
    assert fault_in_tool_name(name)


@pytest.mark.parametrize("name", ["", " a", "a ", "a/b", "a\u200bb", "a\tb", "x" * 129, "é"])
def test_a_prompt_name_that_could_be_mistaken_for_another_is_a_fault(name: str) -> None:
    assert fault_in_prompt_name(name)


@pytest.mark.parametrize("name", ["a", "summarize: a file", "x" * 128, "test_simple_prompt"])
def test_prompt_names_that_people_type_are_fine(name: str) -> None:
    assert not fault_in_prompt_name(name)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("get_*", "get_issue", True),
        ("get_*", "forget_issue", False),
        ("*", "anything", True),
        ("", "anything", False),
        ("read.file", "readXfile", False),
        ("a+b[0]", "a+b[0]", True),
        ("Get", "get", False),
        ("resource:file:///*", "file:///a", True),
        ("resource:file:///*", "file:///a/b", False),
        ("resource:file:///**", "file:///a/b", True),
    ],
)
def test_a_pattern_means_its_characters_but_for_stars(pattern: str, name: str, expected: bool) -> None:
    assert matches_any([pattern], name) is expected


def test_include_limits_only_the_kinds_it_names() -> None:
    rule = NamingRule(include=("get_*",))
    assert rule.shows(Kind.TOOL, "get_x")
    assert not rule.shows(Kind.TOOL, "set_x")
    assert rule.shows(Kind.PROMPT, "anything")


def test_exclude_beats_include() -> None:
    rule = NamingRule(include=("*",), exclude=("delete_*", "resource:file:///secret/**"))
    assert not rule.shows(Kind.TOOL, "delete_all")
    assert not rule.shows(Kind.RESOURCE, "file:///secret/key")
    assert rule.shows(Kind.RESOURCE, "file:///public/key")


def test_tags_of_an_upstream_and_of_a_tool_add_up() -> None:
    rule = NamingRule(tags=frozenset({"code"}), tool_tags={"get_*": frozenset({"read"})})
    assert rule.tags_of(Kind.TOOL, "get_x") == {"code", "read"}
    assert rule.tags_of(Kind.TOOL, "set_x") == {"code"}
