"""Two hundred agents at once over three upstreams, with equal ids and progress tokens: each gets what is its own.

Every call carries a nonce that names its caller; whatever comes back must carry the same one. The quick run makes a
few thousand calls, the slow one a hundred thousand; for a million, by hand (about ten minutes):

    MCP_GATEWAY_ISOLATION_CALLS=1000000 pytest -m slow -o faulthandler_timeout=0 tests/walk/test_isolation.py
"""

import asyncio
import json
import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from fakes import nonce_server
from fakes.gateway_process import WORKERS, GatewayProcess, serving
from fakes.quick_agent import QuickAgent
from fakes.waiting import until
from mcp_gateway.identity.keys import Keys

AGENTS: Final = 200
QUICK_CALLS: Final = 3_000
SLOW_CALLS: Final = int(os.environ.get("MCP_GATEWAY_ISOLATION_CALLS", "100000"))
UPSTREAMS: Final = ("modern", "legacy", "stdio")
TOKEN: Final = "progress"
CANCELLED_OF_1000: Final = 30
WITH_PROGRESS_OF_1000: Final = 300

POLICY: Final = """
[tasks.count]
allow = ["modern/*", "legacy/*", "stdio/*"]
"""


@dataclass
class Tally:
    """What two hundred agents saw."""

    calls: int = 0
    wrong: list[str] = field(default_factory=list)
    hung: dict[str, set[str]] = field(default_factory=lambda: {upstream: set() for upstream in UPSTREAMS})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_over_nonce_servers(tmp_path_factory, WORKERS) as running:
        yield running


@contextmanager
def gateway_over_nonce_servers(factory: pytest.TempPathFactory, workers: int) -> Iterator[GatewayProcess]:
    names = "\n".join(f'[agents.{name}]\ntasks = ["count"]\ndefault_task = "count"' for name in agent_names())
    with nonce_servers() as ports:
        servers = f"""
            [servers.modern]
            url = "http://127.0.0.1:{ports["modern"]}/mcp"
            [servers.legacy]
            url = "http://127.0.0.1:{ports["legacy"]}/mcp"
            [servers.stdio]
            command = {json.dumps([sys.executable, nonce_server.__file__, "stdio"])}
        """
        files = {"servers.toml": servers, "policies/agents.toml": names + POLICY}
        with serving(factory.mktemp("isolation"), files, workers=workers) as running:
            yield running


@contextmanager
def nonce_servers() -> Iterator[dict[str, int]]:
    """The ports of the two upstreams that are reached over HTTP."""
    processes = {
        era: subprocess.Popen([sys.executable, nonce_server.__file__, era], stdout=subprocess.PIPE, text=True)
        for era in ("modern", "legacy")
    }
    try:
        yield {era: int(process.stdout.readline()) for era, process in processes.items() if process.stdout}
    finally:
        for process in processes.values():
            process.terminate()
            process.communicate()


def agent_names() -> list[str]:
    return [f"agent{number:03}" for number in range(AGENTS)]


async def test_colliding_ids_tokens_and_cancellations_never_meet(gateway: GatewayProcess) -> None:
    await check_isolation(gateway, QUICK_CALLS, "quick")


@pytest.mark.slow
async def test_nothing_is_misrouted_in_a_hundred_thousand_calls(gateway: GatewayProcess) -> None:
    await check_isolation(gateway, SLOW_CALLS, "slow")


@pytest.mark.slow
async def test_nothing_meets_over_two_workers_either(tmp_path_factory: pytest.TempPathFactory) -> None:
    with gateway_over_nonce_servers(tmp_path_factory, 2) as gateway:
        await check_isolation(gateway, QUICK_CALLS, "workers")


async def check_isolation(gateway: GatewayProcess, calls: int, run: str) -> None:
    tally = Tally()
    keys = Keys(gateway.folder / ".mcp-gateway")
    agents = {name: keys.create(name, None, datetime.now(UTC))[0] for name in agent_names()}
    async with asyncio.TaskGroup() as tasks:
        for number, (name, key) in enumerate(agents.items()):
            agent = QuickAgent(gateway.url, key, is_modern=number % 2 == 0)
            tasks.create_task(use(agent, f"{name}-{run}", calls // AGENTS, tally))
    assert tally.wrong == []
    assert tally.calls == calls // AGENTS * AGENTS
    async with QuickAgent(gateway.url, agents["agent000"], is_modern=True) as accountant:
        for upstream, hung in tally.hung.items():
            await check_account(accountant, upstream, hung, run)
    check_audit(gateway, tally, run)


async def use(agent: QuickAgent, name: str, calls: int, tally: Tally) -> None:
    """Make calls one after the other; all agents count their ids from 1 and use one progress token."""
    chance = random.Random(name)
    async with agent:
        for number in range(1, calls + 1):
            nonce, upstream = f"{name}-{number}", chance.choice(UPSTREAMS)
            tally.calls += 1
            if (kind := chance.randrange(1000)) < CANCELLED_OF_1000:
                tally.hung[upstream].add(nonce)
                await cancel_one(agent, number, f"{upstream}__hang", nonce, tally)
            else:
                token = TOKEN if kind < CANCELLED_OF_1000 + WITH_PROGRESS_OF_1000 else None
                await ask_one(agent, number, f"{upstream}__work", nonce, token, tally)


async def ask_one(agent: QuickAgent, id_: int, tool: str, nonce: str, token: str | None, tally: Tally) -> None:
    messages = await agent.call(id_, tool, {"nonce": nonce}, token)
    tally.wrong += faults(messages, id_, nonce, token)


def faults(messages: list[Any], id_: int, nonce: str, token: str | None) -> list[str]:
    """What in an answer is another call's, or missing."""
    *told, answer = messages
    text = answer.get("result", {}).get("content", [{}])[0].get("text")
    wrong = [] if (answer["id"], text) == (id_, nonce) else [f"{nonce} was answered {answer}"]
    steps = [(message["params"]["progressToken"], message["params"]["message"]) for message in told]
    expected = [(token, nonce)] * nonce_server.STEPS if token else []
    return wrong if steps == expected else [*wrong, f"{nonce} was told {told}"]


async def cancel_one(agent: QuickAgent, id_: int, tool: str, nonce: str, tally: Tally) -> None:
    """Begin a call that never ends, hear its own progress, and cancel it in the way of the agent's era."""
    async with agent.calling(id_, tool, {"nonce": nonce}, TOKEN) as messages:
        first = await anext(messages)
        if first.get("params", {}).get("message") != nonce:
            tally.wrong.append(f"{nonce} was told {first}")
        if not agent.is_modern:
            await agent.notify("notifications/cancelled", {"requestId": id_})
        agent.hang_up()


async def check_account(agent: QuickAgent, upstream: str, hung: set[str], run: str) -> None:
    """The upstream was told of every cancelled call and of no other, and saw each call once."""

    async def account() -> Any:
        [answer] = await agent.call(1, f"{upstream}__account", {})
        return json.loads(answer["result"]["content"][0]["text"])

    async def all_cancelled() -> bool:
        return hung <= set((await account())["cancelled"])

    await until(all_cancelled, within_s=10)
    seen = await account()
    assert {nonce for nonce in seen["cancelled"] if f"-{run}-" in nonce} == hung
    assert seen["twice"] == []
    assert seen["shared"] == {"ids": 0, "tokens": 0}


def check_audit(gateway: GatewayProcess, tally: Tally, run: str) -> None:
    """Each call stands in the audit once, under its own agent, with the outcome it had."""
    question = """
        SELECT outcome, count(*), sum(instr(args, agent || '-') = 0), count(DISTINCT args)
        FROM calls WHERE name IN ('work', 'hang') AND instr(args, ?) GROUP BY outcome
    """
    with sqlite3.connect(f"file:{gateway.folder / 'audit.db'}?mode=ro", uri=True) as audit:
        rows = audit.execute(question, (f"-{run}-",)).fetchall()
    cancelled = sum(len(hung) for hung in tally.hung.values())
    found = Counter({outcome: count for outcome, count, _, _ in rows})
    assert found == {"ok": tally.calls - cancelled, "cancelled": cancelled}
    assert [(foreign, distinct) for _, _, foreign, distinct in rows] == [(0, count) for _, count, _, _ in rows]
