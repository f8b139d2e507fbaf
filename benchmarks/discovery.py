"""Does a search find the right tool, and what does it save: `python benchmarks/discovery.py SERVERS.LOCK [held_out]`.

The catalog is a servers.lock, so any can be measured: name the servers in a servers.toml and let
`mcp-gateway pins approve --all --ask` write what they offer. The queries in discovery_queries.toml are about the servers
that docs/reference/discovery.md names; those whose tools are not in the catalog are left out and counted.
"""

from __future__ import annotations

import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

from mcp_gateway.catalog.catalog import build
from mcp_gateway.catalog.search import ToolIndex, tokens_of
from mcp_gateway.config.lock import read_lock
from mcp_gateway.domain import Kind, Listing, Target
from mcp_gateway.frontdoor.discovery import TOOLS, summary

AT = (1, 3, 5, 10)


def targets_of(path: Path) -> tuple[Target, ...]:
    """Every tool in a servers.lock, under the names agents see."""
    listings = [
        Listing(name, tools=tuple(dict(pin.definition) for key, pin in pins.pins.items() if key.startswith("tool:")))
        for name, pins in read_lock(path).upstreams.items()
    ]
    return build(listings, {}).targets(Kind.TOOL)


def queries(part: str) -> Mapping[str, list[str]]:
    text = (Path(__file__).parent / "discovery_queries.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)[part])


def main() -> None:
    targets = targets_of(Path(sys.argv[1]))
    there = {target.key for target in targets}
    part = sys.argv[2] if len(sys.argv) > 2 else "queries"
    asked = {query: right for query, right in queries(part).items() if set(right) & there}
    began = time.perf_counter()
    index = ToolIndex(targets)
    built_s = time.perf_counter() - began
    began = time.perf_counter()
    found = {query: index.find(query, targets, max(AT)) for query in asked}
    took_ms = (time.perf_counter() - began) * 1000 / len(asked)
    say(f"{len(targets)} tools of {len({target.upstream for target in targets})} servers; {len(asked)} queries")
    for at in AT:
        hits = sum(any(target.key in right for target in found[query][:at]) for query, right in asked.items())
        say(f"recall@{at}: {hits / len(asked):.0%} ({hits} of {len(asked)})")
    listed = sum(tokens_of(target.definition) for target in targets)
    offered = sum(tokens_of(tool) for tool in TOOLS)
    answer = sum(sum(tokens_of(summary(t)) for t in hits[:5]) for hits in found.values()) / len(found)
    described = sum(tokens_of(hits[0].definition) for hits in found.values() if hits) / len(found)
    say(f"tokens (estimated): the whole list {listed}; the three tools {offered}; a search {answer:.0f} on average; ")
    say(f"one description {described:.0f}. One task with two searches and two descriptions: ", end="")
    say(f"{offered + 2 * answer + 2 * described:.0f}, {1 - (offered + 2 * (answer + described)) / listed:.1%} saved")
    say(f"index built in {built_s:.2f} s, a search takes {took_ms:.1f} ms")
    for query, right in asked.items():
        if not any(target.key in right for target in found[query][:5]):
            say(f"missed: {query!r} wants {right}; found {[target.key for target in found[query][:5]]}")


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)


if __name__ == "__main__":
    main()
