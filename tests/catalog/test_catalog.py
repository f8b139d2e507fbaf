"""What exists, under which name, and what is left out and why."""

import string
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_gateway.catalog.catalog import MAX_PROBLEMS, MAX_TEMPLATES, Catalog, build
from mcp_gateway.catalog.naming import NamingRule
from mcp_gateway.domain import Json, Kind, Listing

BARE = NamingRule(prefix="")


def tool(name: str, **more: Any) -> Json:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


def tools(upstream: str, *names: str) -> Listing:
    return Listing(upstream, tools=tuple(tool(name) for name in names))


def resources(upstream: str, *uris: str) -> Listing:
    return Listing(upstream, resources=tuple({"uri": uri, "name": uri} for uri in uris))


def templates(upstream: str, *texts: str) -> Listing:
    return Listing(upstream, templates=tuple({"uriTemplate": text, "name": text} for text in texts))


def names(catalog: Catalog, kind: Kind = Kind.TOOL) -> list[str]:
    return [target.public_name for target in catalog.targets(kind)]


def complaints(catalog: Catalog) -> str:
    return "\n".join(f"{problem.upstream}: {problem.message}" for problem in catalog.problems)


def test_targets_are_ordered_by_upstream_and_name_whoever_came_first() -> None:
    one, other = tools("b", "z", "a"), tools("a", "y", "x")
    assert names(build([one, other], {})) == ["a__x", "a__y", "b__a", "b__z"]
    assert build([one, other], {}).version == build([other, one], {}).version


def test_a_definition_keeps_everything_but_its_name() -> None:
    raw = tool("x", title="T", description=None, future={"a": [None, 1]}, _meta={"k": None})
    target = build([Listing("u", tools=(raw,))], {}).find(Kind.TOOL, "u__x")
    assert target is not None
    assert target.definition == {**raw, "name": "u__x"}
    assert target.raw is raw
    assert target.name == "x"


def test_the_hash_is_over_the_upstreams_own_definition() -> None:
    plain = build([tools("u", "x")], {}).targets(Kind.TOOL)[0]
    unprefixed = build([tools("u", "x")], {"u": BARE}).targets(Kind.TOOL)[0]
    changed = build([Listing("u", tools=(tool("x", description="other"),))], {}).targets(Kind.TOOL)[0]
    assert plain.definition_hash == unprefixed.definition_hash
    assert plain.definition_hash != changed.definition_hash


def test_what_the_operator_says_of_a_tool_stands_behind_its_description_and_changes_no_hash() -> None:
    listing = Listing("api", tools=(tool("old", description="Looks."), tool("new"), tool("bare")))
    noted = replace(listing, notes={"old": "Ends.", "bare": "Ends too."})
    before, after = build([listing], {}).targets(Kind.TOOL), build([noted], {}).targets(Kind.TOOL)
    assert [each.definition.get("description") for each in after] == ["Ends too.", None, "Looks.\n\nEnds."]
    assert [(each.definition_hash, each.raw) for each in after] == [(each.definition_hash, each.raw) for each in before]


def test_a_changed_definition_or_tag_makes_another_version() -> None:
    before = build([tools("u", "x")], {}).version
    assert before != build([Listing("u", tools=(tool("x", description="d"),))], {}).version
    assert before != build([tools("u", "x")], {"u": NamingRule(tags=frozenset({"t"}))}).version


def test_a_bare_name_is_an_alias_only_where_it_is_unique() -> None:
    catalog = build([tools("a", "only", "both"), tools("b", "both")], {})
    assert (found := catalog.find(Kind.TOOL, "only")) is not None
    assert found.key == "a/only"
    assert catalog.find(Kind.TOOL, "both") is None


def test_a_public_name_beats_an_alias() -> None:
    catalog = build([tools("a", "x"), tools("b", "x")], {"a": BARE})
    found = catalog.find(Kind.TOOL, "x")
    assert found is not None
    assert found.upstream == "a"


def test_an_alias_that_differs_from_a_public_name_only_in_case_is_none() -> None:
    catalog = build([tools("a", "x"), tools("b", "X")], {"a": BARE})
    assert catalog.find(Kind.TOOL, "X") is None


def test_two_upstreams_with_one_public_name_lose_it_both_and_loudly() -> None:
    catalog = build([tools("a", "x", "mine"), tools("b", "x")], {"a": BARE, "b": BARE})
    assert names(catalog) == ["mine"]
    assert catalog.find(Kind.TOOL, "x") is None
    assert {problem.upstream for problem in catalog.problems} == {"a", "b"}
    assert "'a/x', 'b/x'" in complaints(catalog)


def test_names_that_differ_only_in_case_are_a_collision() -> None:
    catalog = build([tools("a", "Get", "get", "put")], {})
    assert names(catalog) == ["a__put"]


def test_an_upstream_without_a_prefix_cannot_enter_another_ones_namespace() -> None:
    catalog = build([tools("github", "delete"), tools("evil", "github__delete", "github__new", "ok")], {"evil": BARE})
    assert names(catalog) == ["ok", "github__delete"]
    assert (found := catalog.find(Kind.TOOL, "github__delete")) is not None
    assert found.upstream == "github"
    assert complaints(catalog).count("looks like one of 'github'") == 2


def test_a_separator_in_a_tools_name_does_not_make_it_another_upstreams() -> None:
    catalog = build([tools("a", "y__z"), tools("a-y", "z")], {})
    assert names(catalog) == ["a__y__z", "a-y__z"]
    catalog = build([tools("a", "y__z"), tools("b", "z")], {"b": NamingRule(prefix="a__y")})
    assert names(catalog) == []


def test_a_tool_listed_twice_is_served_once() -> None:
    catalog = build([Listing("a", tools=(tool("x", description="first"), tool("x", description="second")))], {})
    assert [target.definition["description"] for target in catalog.targets(Kind.TOOL)] == ["first"]
    assert "listed twice" in complaints(catalog)


@pytest.mark.parametrize("bad", [None, [], {"name": "x"}, tool("a b"), tool("x", description=3), tool("x", n=2**70)])
def test_one_bad_definition_never_costs_the_others(bad: Any) -> None:
    catalog = build([Listing("a", tools=(bad, tool("good")))], {})
    assert names(catalog) == ["a__good"]
    assert "left out" in complaints(catalog)


def test_complaints_are_bounded_and_show_nothing_invisible() -> None:
    bad = tuple(tool(f"a\u200b{at}") for at in range(5000))
    catalog = build([Listing("a", tools=bad)], {})
    assert len(catalog.problems) == MAX_PROBLEMS + 1
    assert complaints(catalog).isascii()


def test_what_the_operator_excludes_is_not_there_under_any_name() -> None:
    catalog = build([tools("a", "get_x", "drop_x")], {"a": NamingRule(exclude=("drop_*",))})
    assert names(catalog) == ["a__get_x"]
    assert catalog.find(Kind.TOOL, "drop_x") is None
    assert catalog.problems == ()


def test_an_upstreams_own_problems_are_kept() -> None:
    assert complaints(build([Listing("a", problems=("page 101 was not asked for",))], {})).startswith("a: page 101")


def test_a_listed_resource_is_found_by_its_uri() -> None:
    catalog = build([resources("a", "x://one"), templates("b", "x://{id}")], {})
    found = catalog.find(Kind.RESOURCE, "x://one")
    assert found is not None
    assert found.key == "a/x://one"


def test_a_resource_of_a_template_is_named_by_its_uri_and_carries_the_template() -> None:
    catalog = build([templates("a", "x://{id}")], {"a": NamingRule(tags=frozenset({"docs"}))})
    found = catalog.find(Kind.RESOURCE, "x://7")
    assert found is not None
    assert (found.kind, found.key, found.public_name) == (Kind.RESOURCE, "a/x://7", "x://7")
    assert found.raw["uriTemplate"] == "x://{id}"
    assert found.tags == {"docs"}


def test_a_uri_of_two_upstreams_templates_is_nobodys() -> None:
    catalog = build([templates("a", "x://{id}"), templates("b", "x://{+any}")], {})
    assert catalog.find(Kind.RESOURCE, "x://7") is None
    assert (found := catalog.find(Kind.RESOURCE, "x://7/8")) is not None
    assert found.upstream == "b"
    assert "templates of b stand for too" in complaints(catalog)


def test_two_templates_of_one_upstream_are_no_conflict() -> None:
    catalog = build([templates("a", "x://{id}", "x://{+any}")], {})
    assert catalog.find(Kind.RESOURCE, "x://7") is not None
    assert catalog.problems == ()


def test_a_uri_that_two_upstreams_list_is_nobodys_even_through_a_template() -> None:
    catalog = build([resources("a", "x://1"), resources("b", "x://1"), templates("a", "x://{id}")], {})
    assert catalog.find(Kind.RESOURCE, "x://1") is None
    assert catalog.find(Kind.RESOURCE, "x://2") is not None


@pytest.mark.parametrize("uri", ["file:///docs/../etc/passwd", "file:///docs/%2e%2e/etc", "file:///docs\\..\\x"])
def test_a_uri_that_climbs_out_of_its_folder_is_not_found(uri: str) -> None:
    assert build([templates("a", "file:///{+path}")], {}).find(Kind.RESOURCE, uri) is None


def test_an_excluded_uri_does_not_come_back_through_a_template() -> None:
    rule = NamingRule(exclude=("resource:file:///secret/**",))
    catalog = build([templates("a", "file:///{+path}")], {"a": rule})
    assert catalog.find(Kind.RESOURCE, "file:///secret/key") is None
    assert catalog.find(Kind.RESOURCE, "file:///open/key") is not None


def test_a_completion_finds_a_template_by_its_text_and_a_resource_by_its_uri() -> None:
    catalog = build([templates("a", "x://{id}"), resources("a", "y://1")], {})
    assert (found := catalog.find(Kind.TEMPLATE, "x://{id}")) is not None
    assert found.kind is Kind.TEMPLATE
    assert (listed := catalog.find(Kind.TEMPLATE, "y://1")) is not None
    assert listed.kind is Kind.RESOURCE
    assert (made := catalog.find(Kind.TEMPLATE, "x://3")) is not None
    assert made.key == "a/x://3"


def test_templates_are_bounded() -> None:
    catalog = build([templates("a", *(f"x{at}://{{id}}" for at in range(MAX_TEMPLATES + 3)))], {})
    assert len(catalog.targets(Kind.TEMPLATE)) == MAX_TEMPLATES


def test_tools_and_prompts_do_not_share_names() -> None:
    listing = Listing("a", tools=(tool("x"),), prompts=({"name": "x"},))
    catalog = build([listing], {})
    assert (found := catalog.find(Kind.PROMPT, "a__x")) is not None
    assert found.kind is Kind.PROMPT
    assert catalog.find(Kind.RESOURCE, "a__x") is None


def test_fifty_thousand_tools_are_put_together_in_a_moment() -> None:
    listings = [
        Listing(f"u{u}", tools=tuple(tool(f"tool_{at}_{u}", description="d" * 100) for at in range(5000)))
        for u in range(10)
    ]
    start = time.process_time()
    catalog = build(listings, {})
    assert time.process_time() - start < 3  # 0.6 s on a quiet machine
    assert len(catalog.targets(Kind.TOOL)) == 50_000


def test_a_crowd_of_names_that_collide_is_no_more_work_than_others() -> None:
    crowd = tuple(
        tool("".join(c.upper() if at >> i & 1 else c for i, c in enumerate("abcdefghijkl"))) for at in range(4096)
    )
    start = time.process_time()
    assert names(build([Listing("a", tools=crowd)], {})) == []
    assert time.process_time() - start < 1


UPSTREAM = st.sampled_from(["a", "b", "c-d"])
NAME = st.text(alphabet=string.ascii_letters + "_-.1", min_size=1, max_size=70)
PREFIX = st.sampled_from([None, "", "p", "a"])


@settings(max_examples=150)
@given(
    st.dictionaries(UPSTREAM, st.lists(NAME, max_size=6)),
    st.dictionaries(UPSTREAM, PREFIX),
)
def test_every_public_name_finds_its_target_and_every_alias_only_one(
    offered: dict[str, list[str]], prefixes: dict[str, str | None]
) -> None:
    rules = {upstream: NamingRule(prefix=prefix) for upstream, prefix in prefixes.items()}
    listings = [tools(upstream, *offers) for upstream, offers in offered.items()]
    catalog = build(listings, rules)
    shown = catalog.targets(Kind.TOOL)
    assert len({target.public_name.casefold() for target in shown}) == len(shown)
    for target in shown:
        assert catalog.find(Kind.TOOL, target.public_name) is target
        assert len(target.public_name) <= 64
    for name in {name for offers in offered.values() for name in offers}:
        found = catalog.find(Kind.TOOL, name)
        if found is not None and found.public_name != name:
            assert [upstream for upstream, offers in offered.items() if name in offers] == [found.upstream]
    assert build(reversed(listings), rules).version == catalog.version


def test_a_target_is_found_by_its_upstreams_own_name() -> None:
    catalog = build([tools("a", "x", "z"), tools("b", "x")], {"b": BARE})
    for upstream, name in (("a", "x"), ("a", "z"), ("b", "x")):
        found = catalog.at(Kind.TOOL, upstream, name)
        assert found is not None
        assert (found.upstream, found.name) == (upstream, name)
    for upstream, name in (("a", "y"), ("b", "z"), ("c", "x"), ("a", "a__x"), ("", "")):
        assert catalog.at(Kind.TOOL, upstream, name) is None
    assert catalog.at(Kind.PROMPT, "a", "x") is None
