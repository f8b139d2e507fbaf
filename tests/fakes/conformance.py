"""The official conformance suite, run against a server or a client and read back as numbers."""

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import anyio

from fakes.node import node_modules, npm_command

FIXTURE: Final = Path(__file__).with_name("conformance_server.py")
SCORED: Final = {"2025-11-25": 30, "2026-07-28": 37}
"""How many scenarios each revision requires of a server. The others are run and reported, and count for nothing."""

_LINE: Final = re.compile(r"^[✓✗] (?P<scenario>[\w/-]+): (?P<passed>\d+) passed, (?P<failed>\d+) failed", re.MULTILINE)
_NOT_SCORED: Final = re.compile(r"^  [✓✗] (?P<scenario>[\w/-]+) \(", re.MULTILINE)
_CLIENT: Final = re.compile(r"^Passed: (?P<passed>\d+)/\d+, (?P<failed>\d+) failed, (?P<warnings>\d+) warnings", re.M)


@dataclass(frozen=True)
class Score:
    """Checks passed and failed, by scenario."""

    checks: dict[str, tuple[int, int]]
    """Of the scenarios that count."""
    output: str
    others: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of those that are run and not scored: extensions, and what the suite's own fixture could not pass."""

    @property
    def failing(self) -> list[str]:
        return [scenario for scenario, (_, failed) in self.checks.items() if failed]

    def fewer_checks_than(self, other: "Score") -> dict[str, tuple[int, int]]:
        """Scenarios in which fewer checks ran than there: a capability that is not advertised passes by silence."""
        counts = {scenario: (sum(ran), sum(other.checks[scenario])) for scenario, ran in self.checks.items()}
        return {scenario: (here, there) for scenario, (here, there) in counts.items() if here < there}


async def score(url: str, revision: str) -> Score:
    """Run everything a revision requires of a server against `url`; about five seconds."""
    command = npm_command("@modelcontextprotocol/conformance", "server", "--url", url, "--requirements", revision)
    ran = await anyio.run_process(command, check=False, stderr=subprocess.STDOUT)
    output = ran.stdout.decode()
    left_out = set(_NOT_SCORED.findall(output))
    found = {line["scenario"]: (int(line["passed"]), int(line["failed"])) for line in _LINE.finditer(output)}
    scored = {scenario: checks for scenario, checks in found.items() if scenario not in left_out}
    return Score(scored, output, {scenario: checks for scenario, checks in found.items() if scenario in left_out})


def required_of_clients(revision: str) -> list[str]:
    """What a revision requires of a client."""
    folder = node_modules()
    assert folder is not None, "mark the test with requires_node"
    file = folder / "@modelcontextprotocol" / "conformance" / "requirements" / f"{revision}.yaml"
    [section] = re.findall(r"^client:\n((?:  - .*\n)+)", file.read_text(), re.MULTILINE)
    return [line.removeprefix("  - ") for line in section.splitlines()]


async def score_of_client(command: str, scenario: str, revision: str) -> tuple[int, int, str]:
    """Checks passed and failed (warnings count as failed), and what the suite said."""
    words = ("client", "--command", command, "--scenario", scenario, "--spec-version", revision, "--force")
    ran = await anyio.run_process(
        npm_command("@modelcontextprotocol/conformance", *words), check=False, stderr=subprocess.STDOUT
    )
    output = ran.stdout.decode()
    found = _CLIENT.search(output)
    assert found is not None, output
    return int(found["passed"]), int(found["failed"]) + int(found["warnings"]), output


@asynccontextmanager
async def fixture_server(era: str = "both", port: int = 0) -> AsyncIterator[str]:
    """The URL of the conformance fixture, served by a process of its own until the block is left; 0: any free port."""
    command = [sys.executable, str(FIXTURE), "--port", str(port), "--era", era]
    process = await anyio.open_process(command, stderr=None)
    try:
        assert process.stdout is not None
        with anyio.fail_after(20):
            port = int(await process.stdout.receive())
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        with anyio.move_on_after(5, shield=True):
            await process.wait()
        with anyio.CancelScope(shield=True):
            await process.aclose()
