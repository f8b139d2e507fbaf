"""The fixture that the gateway is judged with passes the official suite by itself."""

import sys

import pytest
from mcp import Client, StdioServerParameters

from fakes.conformance import FIXTURE, SCORED, fixture_server, score
from fakes.node import requires_node


@pytest.mark.slow
@requires_node
@pytest.mark.parametrize("revision", SCORED)
async def test_the_fixture_passes_every_scenario_of_a_revision(revision: str) -> None:
    async with fixture_server() as url:
        found = await score(url, revision)
    assert found.failing == [], found.output
    assert len(found.checks) == SCORED[revision]


@pytest.mark.slow
@requires_node
@pytest.mark.parametrize(("era", "revision"), [("legacy", "2025-11-25"), ("modern", "2026-07-28")])
async def test_a_fixture_of_one_era_passes_every_scenario_of_that_era(era: str, revision: str) -> None:
    async with fixture_server(era) as url:
        found = await score(url, revision)
    assert found.failing == [], found.output


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_fixture_speaks_both_eras_over_stdio(mode: str) -> None:
    command = StdioServerParameters(command=sys.executable, args=[str(FIXTURE), "--stdio"])
    async with Client(command, mode=mode) as client:
        listed = await client.list_tools()
        called = await client.call_tool("test_simple_text", {})
    assert len(listed.tools) >= 28
    assert called.content[0].text == "This is a simple text response for testing."
