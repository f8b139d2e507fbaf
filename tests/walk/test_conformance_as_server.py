"""The official conformance suite judges the gateway as a server: two upstreams, both eras on either side, prefixed too.

What each run said is kept in `conformance_as_server/*.json`, of which docs/reference/conformance.md is made. A run that
says something else fails; `MCP_GATEWAY_RECORD=1 pytest tests/walk/test_conformance_as_server.py` writes it down anew,
and `cog -I . -r docs/reference/conformance.md` the table.
"""

import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from fakes.conformance import FIXTURE, SCORED, Score, fixture_server, score
from fakes.gateway_process import serving
from fakes.node import requires_node
from fakes.unprefixed import unprefixed
from tools.conformance import AS_SERVER, falling_short, recorded

RECORD: Final = "MCP_GATEWAY_RECORD"

POLICY: Final = """
[agents.conformance]
tasks = ["everything"]
default_task = "everything"

[tasks.everything]
allow = ["fixture/*", "prompt:fixture/*", "resource:fixture/**", "time/*"]
"""

TASKS: Final = frozenset(
    scenario for scenario in recorded(AS_SERVER / "2026-07-28-bare.json")["others"] if scenario.startswith("tasks-")
)


@dataclass(frozen=True)
class Combination:
    """One run of the suite: its revision decides the agent's era, `era` and `transport` say what the fixture speaks."""

    revision: str
    era: str
    transport: str = "http"
    is_prefixed: bool = True

    @property
    def name(self) -> str:
        return f"{self.revision}-over-{self.era}-{self.transport}{'' if self.is_prefixed else '-unprefixed'}"

    @property
    def agent_era(self) -> str:
        return "modern" if self.revision >= "2026" else "legacy"


COMBINATIONS: Final = [
    *(
        Combination(r, era, transport)
        for r in SCORED
        for era in ("legacy", "modern")
        for transport in ("http", "stdio")
    ),
    *(Combination(r, era, is_prefixed=False) for r in SCORED for era in ("legacy", "modern")),
]

NOT_YET: Final[Mapping[str, frozenset[str]]] = {}
"""What is not passed yet, by the agent's era, by both eras or by a combination's name.

It must shrink: a scenario in here that passes fails the test.
"""

CANNOT: Final[Mapping[str, frozenset[str]]] = {
    # Tasks (SEP-2663): no legacy revision has the extension, so nothing of it is offered over a legacy upstream.
    # The others: the suite knows the upstream's own key of a question, and a legacy question has none.
    "modern over legacy": TASKS
    | {"input-required-result-basic-elicitation", "input-required-result-ignore-extra-params"},
}
"""What no gateway could make of what the upstream's era offers; the same keys."""


def excused(table: Mapping[str, frozenset[str]], combination: Combination) -> frozenset[str]:
    keys = (combination.agent_era, f"{combination.agent_era} over {combination.era}", combination.name)
    return frozenset().union(*(table.get(key, frozenset()) for key in keys))


@asynccontextmanager
async def judged(folder: Path, combination: Combination) -> AsyncIterator[str]:
    """The URL for the suite: a gateway, with a shim that hides the prefix where there is one."""
    prefix = "" if combination.is_prefixed else 'prefix = ""'
    async with upstream(combination) as how:
        servers = f"""
            [gateway]
            anonymous = "conformance"

            [servers.fixture]
            trust = "any"  # the suite lets it offer more meanwhile, and wants to be told
            {how}
            {prefix}

            [servers.time]
            command = ["mcp-server-time", "--local-timezone", "UTC"]
        """
        with serving(folder, {"servers.toml": servers, "policies/agents.toml": POLICY}) as gateway:
            if combination.is_prefixed:
                async with unprefixed(gateway.url, "fixture__") as url:
                    yield url
            else:
                yield gateway.url


@asynccontextmanager
async def upstream(combination: Combination) -> AsyncIterator[str]:
    """How servers.toml reaches the fixture."""
    if combination.transport == "stdio":
        yield f"command = {json.dumps([sys.executable, str(FIXTURE), '--stdio', '--era', combination.era])}"
        return
    async with fixture_server(combination.era) as url:
        yield f'url = "{url}"'


def as_recorded(found: Score) -> dict[str, dict[str, list[int]]]:
    return {
        "scored": {scenario: list(checks) for scenario, checks in found.checks.items()},
        "others": {scenario: list(checks) for scenario, checks in found.others.items()},
    }


async def judged_and_recorded(url: str, revision: str, name: str) -> Score:
    """What the suite says of a URL, written down if that was asked for."""
    found = await score(url, revision)
    if os.environ.get(RECORD):
        AS_SERVER.mkdir(exist_ok=True)
        (AS_SERVER / f"{name}.json").write_text(json.dumps(as_recorded(found)).replace("], ", "],\n") + "\n")
    return found


@pytest.mark.slow
@requires_node
@pytest.mark.parametrize("revision", SCORED)
async def test_what_the_bare_fixture_scores_is_written_down(revision: str) -> None:
    async with fixture_server() as url:
        found = await judged_and_recorded(url, revision, f"{revision}-bare")
    assert as_recorded(found) == recorded(AS_SERVER / f"{revision}-bare.json")


@pytest.mark.slow
@requires_node
@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda combination: combination.name)
async def test_the_suite_passes_through_the_gateway(tmp_path: Path, combination: Combination) -> None:
    async with judged(tmp_path, combination) as url:
        found = await judged_and_recorded(url, combination.revision, combination.name)
    assert len(found.checks) == SCORED[combination.revision], found.output
    bare = recorded(AS_SERVER / f"{combination.revision}-bare.json")
    failing = falling_short(found.checks | found.others, bare["scored"] | bare["others"])
    not_yet = excused(NOT_YET, combination)
    assert failing - not_yet - excused(CANNOT, combination) == set(), found.output
    assert not_yet - failing == set(), "these pass now: take them out of NOT_YET"
    assert as_recorded(found) == recorded(AS_SERVER / f"{combination.name}.json"), f"the docs say otherwise: {RECORD}=1"
