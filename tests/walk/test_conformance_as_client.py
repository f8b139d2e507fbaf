"""The official conformance suite judges the gateway as a client: the suite's own servers are its one upstream.

fakes/conformance_agent.py starts the gateway and uses everything it offers. What the suite said is kept in
`conformance_as_client/*.json`, as in test_conformance_as_server.py; authorization is not judged here.
"""

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

import fakes.conformance_agent
from fakes.conformance import SCORED, required_of_clients, score_of_client
from fakes.node import requires_node
from tools.conformance import AS_CLIENT

RECORD: Final = "MCP_GATEWAY_RECORD"

NOT_SCORED: Final = ["json-schema-2020-12-preservation"]

NOT_YET: Final[Mapping[str, frozenset[str]]] = {revision: frozenset() for revision in SCORED}
"""What is not passed yet. It must shrink: a scenario in here that passes fails the test."""


@pytest.mark.slow
@requires_node
@pytest.mark.parametrize("revision", SCORED)
async def test_the_suite_passes_with_the_gateway_as_its_client(revision: str) -> None:
    agent = shlex.join([sys.executable, str(Path(fakes.conformance_agent.__file__))])
    found, said = {}, {}
    for scenario in [*required_of_clients(revision), *NOT_SCORED]:
        passed, failed, said[scenario] = await score_of_client(agent, scenario, revision)
        found[scenario] = [passed, failed]
    if os.environ.get(RECORD):
        AS_CLIENT.mkdir(exist_ok=True)
        (AS_CLIENT / f"{revision}.json").write_text(json.dumps(found).replace("], ", "],\n") + "\n")
    failing = {scenario for scenario, (_, failed) in found.items() if failed}
    assert failing == NOT_YET[revision], "".join(said[scenario] for scenario in failing - NOT_YET[revision])
    assert found == json.loads((AS_CLIENT / f"{revision}.json").read_text()), f"the docs say otherwise: {RECORD}=1"
