"""What the official conformance suite said of the gateway, as tables for docs/reference/conformance.md.

The slow tests tests/walk/test_conformance_as_*.py write it down and fail when it changes; this only reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tools.source import ROOT

AS_SERVER: Final = ROOT / "tests" / "walk" / "conformance_as_server"
AS_CLIENT: Final = ROOT / "tests" / "walk" / "conformance_as_client"

Checks = Mapping[str, Sequence[int]]
"""Passed and failed checks by scenario."""


def recorded(path: Path) -> dict[str, dict[str, list[int]]]:
    """What a run said, `scored` and `others` apart; nothing where none was written down."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {"scored": {}, "others": {}}


def falling_short(found: Checks, bare: Checks) -> set[str]:
    """Scenarios with a failed check, or with fewer checks than on the bare fixture: those pass by silence."""
    return {scenario for scenario, (passed, failed) in found.items() if failed or passed < sum(bare[scenario])}


def server_table(revision: str) -> str:
    """A table of what the gateway scores as a server, by how its upstream is reached."""
    bare = recorded(AS_SERVER / f"{revision}-bare.json")
    runs = {path.stem: recorded(path) for path in sorted(AS_SERVER.glob(f"{revision}-over-*.json"))}
    head = ["scenario", "checks", *(_heading(name) for name in runs)]
    rows = [["**scored**", str(len(bare["scored"])), *(_score(run["scored"], bare["scored"]) for run in runs.values())]]
    for part in ("scored", "others"):
        for scenario, checks in bare[part].items():
            said = [_cell(scenario, run[part], checks) for run in runs.values()]
            rows.append([f"`{scenario}`" + ("" if part == "scored" else " (not scored)"), str(sum(checks)), *said])
    return _table(head, rows)


def client_table() -> str:
    """A table of what the gateway scores as a client, by revision."""
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(AS_CLIENT.glob("*.json"))}
    scenarios = list(dict.fromkeys(scenario for run in runs.values() for scenario in run))
    rows = [[f"`{each}`", *(_passed(run.get(each)) for run in runs.values())] for each in scenarios]
    return _table(["scenario", *runs], rows)


def _heading(name: str) -> str:
    """`2026-07-28-over-legacy-http-unprefixed` -> `legacy http, no prefix`."""
    era, transport, *more = name.partition("-over-")[2].split("-")
    return f"{era} {transport}" + (", no prefix" if more else "")


def _score(found: Checks, bare: Checks) -> str:
    return f"**{len(found) - len(falling_short(found, bare))}**"


def _cell(scenario: str, found: Checks, checks: Sequence[int]) -> str:
    if scenario not in found:
        return ""
    is_short = falling_short({scenario: found[scenario]}, {scenario: checks})
    return f"{found[scenario][0]} of {sum(checks)}" if is_short else "yes"


def _passed(checks: Sequence[int] | None) -> str:
    if checks is None:
        return ""
    passed, failed = checks
    return f"{passed} of {passed + failed}" if failed else f"yes ({passed})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
