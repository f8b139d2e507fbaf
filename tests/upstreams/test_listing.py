"""Lists are fetched whole, within bounds, and one bad item costs none of the others."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest

from mcp_gateway.domain import Era, Json, Listing, RpcError
from mcp_gateway.errors import TimedOut
from mcp_gateway.upstreams.connection import Answer, Greeting, Limits
from mcp_gateway.upstreams.listing import MAX_TTL_MS, fetch_listing

LIMITS = Limits(max_pages=5, max_items=10, max_listing_bytes=10_000, listing_timeout_s=5)
ALL = Greeting(Era.MODERN, "2026-07-28", {"tools": {}, "prompts": {}, "resources": {}}, "read me")
TOOLS_ONLY = Greeting(Era.MODERN, "2026-07-28", {"tools": {}})


def tool(name: Any, **more: Any) -> Json:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


def pages(*answers: Answer) -> Callable[[str, Json], Awaitable[Answer]]:
    """Answers one after the other."""
    rest = iter(answers)

    async def ask(method: str, params: Json) -> Answer:
        return next(rest)

    return ask


async def listed(
    *answers: Answer, greeting: Greeting = TOOLS_ONLY, limits: Limits = LIMITS, http: bool = False
) -> Listing:
    return await fetch_listing("up", pages(*answers), greeting, limits, over_http=http)


async def test_everything_a_server_has_is_listed_as_it_came() -> None:
    listing = await listed(
        {"tools": [tool("a", **{"x-new": None, "execution": {}})], "ttlMs": 500},
        {"prompts": [{"name": "p"}], "ttlMs": 300},
        {"resources": [{"uri": "r://1"}], "ttlMs": 900},
        {"resourceTemplates": [{"uriTemplate": "r://{x}"}], "ttlMs": 400},
        greeting=ALL,
    )
    assert listing.tools == (tool("a", **{"x-new": None, "execution": {}}),)
    assert [listing.prompts, listing.resources, listing.templates] == [
        ({"name": "p"},),
        ({"uri": "r://1"},),
        ({"uriTemplate": "r://{x}"},),
    ]
    assert (listing.ttl_ms, listing.instructions, listing.problems) == (300, "read me", ())


async def test_kinds_without_a_capability_are_not_asked_for() -> None:
    assert (await listed({"tools": []})).tools == ()
    assert (await listed(greeting=replace(TOOLS_ONLY, capabilities={}))).tools == ()


async def test_pages_are_followed_and_an_empty_cursor_is_a_cursor() -> None:
    asked: list[Json] = []
    answers = iter([{"tools": [tool("a")], "nextCursor": ""}, {"tools": [tool("b")], "nextCursor": "2"}, {"tools": []}])

    async def ask(method: str, params: Json) -> Answer:
        asked.append(params)
        return next(answers)

    listing = await fetch_listing("up", ask, TOOLS_ONLY, LIMITS, over_http=False)
    assert [t["name"] for t in listing.tools] == ["a", "b"]
    assert asked == [{}, {"cursor": ""}, {"cursor": "2"}]


async def test_a_cursor_that_comes_twice_ends_the_list() -> None:
    listing = await listed(*({"tools": [tool(f"t{i}")], "nextCursor": "same"} for i in range(9)))
    assert [t["name"] for t in listing.tools] == ["t0", "t1"]
    assert "same cursor" in listing.problems[0]


async def test_pages_without_end_are_cut_off() -> None:
    listing = await listed(*({"tools": [tool(f"t{i}")], "nextCursor": str(i)} for i in range(9)))
    assert len(listing.tools) == LIMITS.max_pages
    assert "more than 5 pages" in listing.problems[0]


async def test_items_without_end_are_cut_off() -> None:
    listing = await listed({"tools": [tool(f"t{i}") for i in range(50)]})
    assert len(listing.tools) == LIMITS.max_items
    assert "more than 10 items" in listing.problems[0]


async def test_a_list_too_large_is_cut_off() -> None:
    listing = await listed({"tools": [tool("a")], "nextCursor": "1"}, {"tools": [tool("b", description="x" * 10_000)]})
    assert [t["name"] for t in listing.tools] == ["a"]
    assert "bytes" in listing.problems[0]


BAD_TOOLS = [
    "tool",
    None,
    {},
    tool(""),
    tool(7),
    tool("a b"),
    tool("x" * 129),
    tool("а"),
    tool("a\u200b"),
    {"name": "n"},
    {"name": "n", "inputSchema": {}},
    {"name": "n", "inputSchema": {"type": "array"}},
    {"name": "n", "inputSchema": []},
]


@pytest.mark.parametrize("bad", BAD_TOOLS, ids=repr)
async def test_one_bad_tool_is_named_and_costs_none_of_the_others(bad: Any) -> None:
    listing = await listed({"tools": [tool("a"), bad, tool("b")]})
    assert [t["name"] for t in listing.tools] == ["a", "b"]
    assert len(listing.problems) == 1


async def test_of_two_tools_with_one_name_the_first_counts() -> None:
    listing = await listed({"tools": [tool("a", title="1"), tool("a", title="2")]})
    assert [t["title"] for t in listing.tools] == ["1"]
    assert "listed twice" in listing.problems[0]


async def test_a_bad_header_annotation_costs_the_tool_only_where_headers_are_sent() -> None:
    bad = tool("a")
    bad["inputSchema"]["properties"] = {"x": {"type": "string", "x-mcp-header": "a\r\nb"}}
    assert (await listed({"tools": [bad]}, http=True)).tools == ()
    assert (await listed({"tools": [bad]}, http=False)).tools == (bad,)


async def test_a_kind_that_fails_costs_only_itself() -> None:
    listing = await listed(
        RpcError(-32603, "broken\x1b[31m"),
        {"prompts": "none"},
        {"resources": [{"uri": "r://1"}]},
        RpcError(-32601, "no templates"),
        greeting=ALL,
    )
    assert listing.resources == ({"uri": "r://1"},)
    assert len(listing.problems) == 2
    assert "\x1b" not in "".join(listing.problems)


@pytest.mark.parametrize("uri", ["", "x" * 5000, "r://\u202e", "r://\n", None])
async def test_resources_that_cannot_be_named_are_left_out(uri: Any) -> None:
    greeting = replace(TOOLS_ONLY, capabilities={"resources": {}})
    listing = await listed(
        {"resources": [{"uri": uri}, {"uri": "r://1"}]}, {"resourceTemplates": []}, greeting=greeting
    )
    assert listing.resources == ({"uri": "r://1"},)


@pytest.mark.parametrize(("ttl", "counts"), [(None, 0), (-5, 0), (True, 0), ("9", 0), (10**12, MAX_TTL_MS), (7, 7)])
async def test_odd_lifetimes_are_made_harmless(ttl: Any, counts: int) -> None:
    assert (await listed({"tools": [], "ttlMs": ttl})).ttl_ms == counts


async def test_a_list_that_never_comes_is_a_timeout_and_half_a_list_counts() -> None:
    async def ask(method: str, params: Json) -> Answer:
        if method == "tools/list" and gives_tools:
            return {"tools": [tool("a")]}
        await anyio.sleep_forever()
        raise AssertionError

    limits = replace(LIMITS, listing_timeout_s=0.05)
    gives_tools = True
    listing = await fetch_listing("up", ask, ALL, limits, over_http=False)
    assert [t["name"] for t in listing.tools] == ["a"]
    assert "cut off" in listing.problems[0]
    gives_tools = False
    with pytest.raises(TimedOut):
        await fetch_listing("up", ask, ALL, limits, over_http=False)


async def test_problems_are_bounded_too() -> None:
    limits = replace(LIMITS, max_listing_bytes=10**7)
    listing = await listed({"tools": [{} for _ in range(1000)]}, limits=limits)
    assert len(listing.problems) == 101


async def test_a_kind_that_is_refused_stays_as_it_was_and_the_fault_is_named() -> None:
    before = Listing("up", tools=(tool("a"), tool("b")), prompts=({"name": "old"},))
    broken, prompts = RpcError(-32603, "database is gone"), {"prompts": [{"name": "new"}]}
    greeting = replace(ALL, capabilities={"tools": {}, "prompts": {}})
    answers: list[Answer] = [{"tools": [tool("c")], "nextCursor": "2"}, broken, prompts]
    listing = await fetch_listing("up", pages(*answers), greeting, LIMITS, over_http=False, before=before)
    assert (listing.tools, listing.prompts) == (before.tools, ({"name": "new"},))
    assert listing.problems == ("tools/list: error -32603: 'database is gone'; the 2 it listed before stay",)
    listing = await fetch_listing("up", pages({"tools": []}), TOOLS_ONLY, LIMITS, over_http=False, before=before)
    assert listing.tools == ()
