"""Pages of lists: whatever is kept, the bytes are those of the very targets that were asked for."""

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.front import Front, parts, snapshot
from fakes.replies import RecordingReply
from mcp_gateway.catalog.seen import Seen
from mcp_gateway.domain import Caller, Era, Json, Kind, Listing, Target, Transport
from mcp_gateway.frontdoor.protocol import Asked

METHODS = {
    "tools/list": (Kind.TOOL, "tools"),
    "prompts/list": (Kind.PROMPT, "prompts"),
    "resources/list": (Kind.RESOURCE, "resources"),
    "resources/templates/list": (Kind.TEMPLATE, "resourceTemplates"),
}
PAGE = 3
TOOLS = ["echo", "second", "hang", "careful", "secret", "get_a", "get_b", "put_a"]
PATTERNS = [*(f"u/{name}" for name in TOOLS), "u/get_*", "u/*", "prompt:u/*", "resource:u/note:///*", "resource:u/**"]
CONDITIONS = [
    "",
    "when = 'agent.name != \"bob\"'",
    "when = 'person == \"ann\"'",
    "when = 'args.x == 1'",
    "when = 'request.era == \"legacy\"'",
]


def target(name: str, description: str = "") -> Target:
    return Target(Kind.TOOL, "u", name, f"u__{name}", {"name": f"u__{name}", "description": description}, "hash")


def as_written(targets: tuple[Target, ...]) -> bytes:
    return orjson.dumps([each.definition for each in targets])


POOL = tuple(target(f"t{n}", "x" * n) for n in range(6))
ASKED = st.tuples(st.sets(st.integers(0, 5)), st.integers(0, 5), st.integers(1, 4))


@given(st.lists(ASKED, max_size=30), st.integers(0, 4), st.integers(0, 6), st.integers(0, 600))
def test_pages_are_what_they_would_be_if_nothing_were_kept(
    asked: list[tuple[set[int], int, int]], lists: int, pages: int, most: int
) -> None:
    seen = Seen(0, lists, pages, most)
    for chosen, start, size in asked:
        targets = seen.known(tuple(POOL[n] for n in sorted(chosen)))
        assert targets == tuple(POOL[n] for n in sorted(chosen))
        assert seen.page(targets, start, start + size) == as_written(targets[start : start + size])
        assert len(seen._lists) <= lists
        assert len(seen._pages) <= pages
        assert sum(len(page) for _, page in seen._pages.values()) == seen._bytes <= most


@given(st.lists(st.tuples(st.integers(0, 20), st.sets(st.integers(0, 5))), max_size=40), st.integers(0, 500))
def test_of_the_lists_that_are_kept_none_is_found_for_another_key(kept: list[tuple[int, set[int]]], most: int) -> None:
    seen, expected = Seen(most), dict[int, tuple[Target, ...]]()
    for key, chosen in kept:
        if seen.by(key) is None:
            expected[key] = tuple(POOL[n] for n in chosen)
            seen.keep(key, expected[key])
        assert seen._targets == sum(len(targets) + 64 for targets in seen._by.values()) <= most
        assert all(seen.by(each) in (None, targets) for each, targets in expected.items())


def test_who_sees_the_very_same_targets_gets_the_very_same_bytes() -> None:
    seen = Seen()
    one, other = seen.known(tuple(iter(POOL))), seen.known(tuple(iter(POOL)))
    assert one is other
    assert seen.page(one, 0, 4) is seen.page(other, 0, 4)


def test_targets_that_are_only_equal_share_nothing() -> None:
    seen = Seen()
    mine, theirs = (seen.known((target("same"),)) for _ in range(2))
    assert mine == theirs
    assert mine is not theirs
    assert seen.page(mine, 0, 1) is not seen.page(theirs, 0, 1)


def test_lists_that_come_and_go_are_never_taken_for_one_another() -> None:
    seen = Seen(max_lists=2, max_pages=2)
    for n in range(500):  # each where the last ones were in memory
        targets = seen.known((target(f"t{n}"),))
        assert seen.page(targets, 0, 10) == as_written(targets)


def random_policy(dice: random.Random) -> str:
    """Two tasks for everybody, each with some lines, some of them conditional."""
    made = ["".join(f'[agents.{name}]\ntasks = ["one", "two"]\n' for name in ("alice", "bob"))]
    for task in ("one", "two"):
        made.append(f"[tasks.{task}]\nallow = {dice.sample(PATTERNS, dice.randrange(4))!r}\n")
        for what in dice.choices(("grant", "deny"), k=dice.randrange(3)):
            tools = dice.sample(PATTERNS, 2)
            made.append(f"[[tasks.{task}.{what}]]\ntools = {tools!r}\n{dice.choice(CONDITIONS)}\n")
    return "".join(made)


async def served(made: Front, caller: Caller, method: str, era: Era) -> list[bytes]:
    """Every page of a list, as it leaves."""
    found, params = [], dict[str, Any]()
    while True:
        asked = Asked(method, params, era, "v", Transport.HTTP)
        found.append(orjson.dumps(await made.answers.answer(caller, asked, RecordingReply())))
        cursor = orjson.loads(found[-1])["result"].get("nextCursor")
        if cursor is None:
            return found
        params = {"cursor": cursor}


def unkept(made: Front, caller: Caller, method: str, era: Era, pages: list[bytes]) -> list[bytes]:
    """The same pages with the definitions put in as they stand in the catalog."""
    kind, member = METHODS[method]
    definitions = [each.definition for each in made.gateway.visible(caller, kind, era)]
    results: list[Json] = [orjson.loads(page)["result"] for page in pages]
    for n, result in enumerate(results):
        result[member] = definitions[n * PAGE : (n + 1) * PAGE]
    return [orjson.dumps({"result": result}) for result in results]


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Front]:
    async with parts(tmp_path, page_size=PAGE) as opened:
        yield opened


@pytest.mark.parametrize("seed", range(12))
async def test_what_is_served_is_what_the_snapshot_in_force_holds(made: Front, seed: int) -> None:
    dice = random.Random(seed)
    callers = [made.caller(agent, task) for agent in ("alice", "bob") for task in ("one", "two")]
    callers += [replace(each, person="ann") for each in callers]
    for _ in range(3):  # a reload each: another policy, other tools
        made.offer(*dice.sample(["get_a", "get_b", "put_a", "new"], 3), policy=random_policy(dice))
        for caller in dice.choices(callers, k=4):
            method, era = dice.choice(list(METHODS)), dice.choice(list(Era))
            pages = await served(made, caller, method, era)
            assert pages == unkept(made, caller, method, era, pages)
            assert pages == await served(made, caller, method, era)


@pytest.mark.parametrize("era", list(Era))
async def test_a_definition_that_changed_is_not_served_as_it_was(made: Front, era: Era) -> None:
    """The names, and so who may see what, are the same; a pin was approved, or an upstream lists something else."""
    policy = '[agents.alice]\ntasks = ["work"]\n[tasks.work]\nallow = ["u/*"]\n'
    for words in ("before", "after"):
        tool = {"name": "echo", "description": words, "inputSchema": {"type": "object"}}
        made.gateway.swap(snapshot(made.u, Listing("u", tools=(tool,)), policy))
        [page] = await served(made, made.caller(), "tools/list", era)
        assert [each["description"] for each in orjson.loads(page)["result"]["tools"]] == [words]
