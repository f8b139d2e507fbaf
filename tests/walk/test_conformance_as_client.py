"""The official conformance suite judges the gateway as a client: the suite's own servers are its one upstream.

fakes/conformance_agent.py starts the gateway, uses everything it offers, and opens the pages that its person is sent
to. What the suite said is kept in `conformance_as_client/*.json`, as in test_conformance_as_server.py.
"""

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio
import pytest

import fakes.conformance_agent
from fakes.conformance import SCORED, required_of_clients, score_of_client
from fakes.node import requires_node
from tools.conformance import AS_CLIENT

RECORD: Final = "MCP_GATEWAY_RECORD"

NOT_SCORED: Final = [
    "json-schema-2020-12-preservation",
    "auth/client-credentials-basic",
    "auth/client-credentials-jwt",
    "auth/enterprise-managed-authorization",
    "auth/wif-jwt-bearer",
]

AT_ONCE: Final = 2
"""Scenarios: each waits more than it computes."""

NOT_YET: Final[Mapping[str, frozenset[str]]] = {revision: frozenset() for revision in SCORED}
"""What is not passed yet. It must shrink: a scenario in here that passes fails the test."""


PARTS: Final = 4
"""A test for each part: all in one take longer on a busy machine than a test may."""


@pytest.mark.slow
@requires_node
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("revision", SCORED)
async def test_the_suite_passes_with_the_gateway_as_its_client(revision: str, part: int) -> None:
    agent = shlex.join([sys.executable, str(Path(fakes.conformance_agent.__file__))])
    everything = [*required_of_clients(revision), *NOT_SCORED]
    scenarios = everything[part::PARTS]
    found: dict[str, list[int]] = {}
    said: dict[str, str] = {}
    room = anyio.CapacityLimiter(AT_ONCE)

    async def judge(scenario: str) -> None:
        async with room:
            passed, failed, said[scenario] = await score_of_client(agent, scenario, revision)
        found[scenario] = [passed, failed]

    async with anyio.create_task_group() as tasks:
        for scenario in scenarios:
            tasks.start_soon(judge, scenario)
    file = AS_CLIENT / f"{revision}.json"
    recorded = json.loads(file.read_text()) if file.exists() else {}
    if os.environ.get(RECORD):
        recorded = {name: checks for name in everything if (checks := {**recorded, **found}.get(name))}
        AS_CLIENT.mkdir(exist_ok=True)
        file.write_text(json.dumps(recorded).replace("], ", "],\n") + "\n")
    failing = {scenario for scenario, (_, failed) in found.items() if failed}
    assert failing == NOT_YET[revision] & found.keys(), "".join(said[scenario] for scenario in failing)
    then = {name: recorded[name] for name in scenarios}
    assert comparable(found) == comparable(then), f"the docs say otherwise: {RECORD}=1"
    assert recorded.keys() == set(everything)


def comparable(found: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """What is the same in each run: with authorization every request that bears a token is a check of its own, and how
    many there are is a matter of time."""
    return {name: checks[1:] if name.startswith("auth/") else checks for name, checks in found.items()}
