"""How long a large policy takes to compile, and to ask: `python benchmarks/policy.py`.

5,000 grants in 1,000 tasks of 1,000 agents, 4,000 of them under conditions of their own, and 10,000 tools.
"""

from __future__ import annotations

import random
import sys
import time
from datetime import UTC, datetime

from mcp_gateway.domain import Caller, Kind, Request, Target, Verb
from mcp_gateway.policy.compile import compile_policy
from mcp_gateway.policy.decide import decide
from mcp_gateway.policy.document import from_sources

AGENTS, UPSTREAMS, TOOLS = 1_000, 100, 100


def written(seed: int) -> dict[str, str]:
    """Two files; another seed is another policy."""
    chance = random.Random(seed)  # noqa: S311
    agents, tasks = [], []
    for n in range(AGENTS):
        tool = [f"u{chance.randrange(UPSTREAMS)}/tool_{chance.randrange(TOOLS)}" for _ in range(5)]
        agents.append(f'[agents.a{n}]\ntasks = ["t{n}"]\ndefault_task = "t{n}"\n')
        tasks.append(f'[tasks.t{n}]\nallow = ["{tool[0].rpartition("_")[0]}_*"]\n')
        for each in tool[1:]:
            when = f'args.amount <= {chance.randrange(1000)} && agent.name == "a{n}"'
            tasks.append(f"[[tasks.t{n}.grant]]\ntools = ['{each}']\nwhen = '{when}'\n")
    return {"agents.toml": "\n".join(agents), "tasks.toml": "\n".join(tasks)}


def targets() -> list[Target]:
    return [
        Target(Kind.TOOL, f"u{u}", f"tool_{n}", f"u{u}__tool_{n}", {"name": f"tool_{n}"}, "")
        for u in range(UPSTREAMS)
        for n in range(TOOLS)
    ]


def timed(what: str, began: float) -> None:
    sys.stdout.write(f"{what}: {time.perf_counter() - began:.2f} s\n")


def main() -> None:
    began = time.perf_counter()
    policy = compile_policy(from_sources(written(1)))
    timed("compiled from nothing", began)
    began = time.perf_counter()
    compile_policy(from_sources({**written(1), "more.toml": "# a remark\n"}))
    timed("compiled again after an edit", began)
    there, now = targets(), datetime.now(UTC)
    listing = Request("", Verb.LIST, "", Kind.TOOL, "", {})
    for what in ("first list of 10,000 tools", "next"):
        began = time.perf_counter()
        sum(decide(policy, Caller("a7", "t7"), listing, target, now).visible for target in there)
        timed(what, began)


if __name__ == "__main__":
    main()
