"""A whole gateway, scraped over a socket as Prometheus does it, after agents who behaved and agents who did not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from fakes.model_gateway import HELLO, POLICY, ModelGateway, model_gateway
from fakes.providers import INPUT_TOKENS, OUTPUT_TOKENS
from fakes.waiting import until
from mcp_gateway.frontdoor.exchange import Closers
from mcp_gateway.frontdoor.http_server import Server, listening_socket

ADMIN_KEY = "0123456789abcdef0123456789abcdef"
METRICS_KEY = "fedcba9876543210fedcba9876543210"
GATEWAY = f"""
[gateway]
admin = "127.0.0.1:0"
admin_key = "{ADMIN_KEY}"
metrics_key = "{METRICS_KEY}"
"""

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@asynccontextmanager
async def operators_door(gateway: ModelGateway) -> AsyncIterator[str]:
    """Where the operators' listener of a gateway is."""
    listener = listening_socket("127.0.0.1", 0)
    server = Server(gateway.parts.admin_door(gateway.tasks), Closers(), 64 * 1024)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def scraped(gateway: ModelGateway, url: str) -> Samples:
    response = await gateway.http.get(f"{url}/metrics", headers={"authorization": f"Bearer {METRICS_KEY}"})
    assert response.status_code == 200, response.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of all samples of that name with these labels."""
    return sum(number for (found, has), number in samples.items() if found == name and has >= labels.items())


async def test_calls_of_models_are_there_with_their_tokens_and_times(tmp_path: Path) -> None:
    async with model_gateway(tmp_path, more=GATEWAY) as gateway, operators_door(gateway) as url:
        for _ in range(3):
            assert (await gateway.chat()).status_code == 200
        assert (await gateway.chat("claude-sonnet-5", "bob")).status_code == 404
        assert (await gateway.http.post(f"{gateway.origin}/v1/chat/completions", json={})).status_code == 401
        found = await scraped(gateway, url)
    ended = {"kind": "model", "upstream": "models"}
    assert value(found, "mcp_gateway_calls_total", agent="alice", task="work", outcome="ok", **ended) == 3
    assert value(found, "mcp_gateway_calls_total", agent="bob", decision="denied") == 1
    assert value(found, "mcp_gateway_denied_total", agent="bob", reason="no_grant") == 1
    assert value(found, "mcp_gateway_own_seconds_count", **ended) == 3
    assert value(found, "mcp_gateway_upstream_seconds_count", **ended) == 3
    assert 0 < value(found, "mcp_gateway_upstream_seconds_sum", **ended) < 30
    tokens = {"agent": "alice", "model": "openai/gpt-5-mini"}
    assert value(found, "mcp_gateway_model_tokens_total", type="input", **tokens) == 3 * INPUT_TOKENS
    assert value(found, "mcp_gateway_model_tokens_total", type="output", **tokens) == 3 * OUTPUT_TOKENS
    assert value(found, "mcp_gateway_model_cost_usd_total", **tokens) > 0
    assert value(found, "mcp_gateway_refused_total", reason="http_401") == 1
    assert value(found, "mcp_gateway_calls_under_way") == 0
    assert value(found, "mcp_gateway_audit_healthy") == 1
    assert value(found, "process_resident_memory_bytes") > 0


async def test_a_call_under_way_is_seen(tmp_path: Path) -> None:
    async with model_gateway(tmp_path, more=GATEWAY) as gateway, operators_door(gateway) as url:
        gateway.first.habit = "hang"
        asking = asyncio.ensure_future(gateway.chat())
        await until(lambda: len(gateway.first.seen) == 1)
        found = await scraped(gateway, url)
        assert value(found, "mcp_gateway_calls_under_way", kind="model", upstream="models") == 1
        gateway.first.release.set()
        await asking
        assert value(await scraped(gateway, url), "mcp_gateway_calls_under_way") == 0


async def test_hostile_names_make_no_series(tmp_path: Path) -> None:
    """Neither models and tools that do not exist, tasks in paths, programs' names nor arguments."""
    canary = 'canary"} 1\n# HELP'
    async with model_gateway(tmp_path, more=GATEWAY) as gateway, operators_door(gateway) as url:

        async def attack(number: int) -> None:
            name = f"{canary}-{number}"
            await gateway.chat(name)
            await gateway.post(f"/task/canary-{number}/v1/chat/completions", {"model": "gpt-5-mini", "messages": HELLO})
            await gateway.post(f"/canary-{number}", {})
            client = {"name": name, "version": "1"}
            meta = {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": client,
            }
            tool = f"canary_{number}"
            called = {"name": tool, "arguments": {"q": name}, "_meta": meta}
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": called}
            lines = {"mcp_protocol_version": "2026-07-28", "mcp_method": "tools/call", "mcp_name": tool}
            await gateway.post(f"/mcp/canary-{number}", message, **lines)
            accept = "application/json, text/event-stream"
            answer = await gateway.post("/mcp", message, accept=accept, **lines)
            assert tool in answer.text
            refused = await gateway.http.get(f"{gateway.origin}/mcp", headers={"authorization": f"Bearer {name[:6]}"})
            assert refused.status_code == 401

        for number in range(3):
            await attack(number)
        before = await scraped(gateway, url)
        for number in range(3, 30):
            await attack(number)
        after = await scraped(gateway, url)
    assert after.keys() == before.keys()
    assert value(after, "mcp_gateway_denied_total", agent="alice") >= 60
    assert "canary" not in str(after)


async def test_its_key_does_nothing_else_and_agents_cannot_read_it(tmp_path: Path) -> None:
    async with model_gateway(tmp_path, more=GATEWAY) as gateway, operators_door(gateway) as url:
        with_its_key = {"authorization": f"Bearer {METRICS_KEY}"}
        as_alice = {"authorization": f"Bearer {gateway.token()}"}
        assert (await gateway.http.get(f"{url}/tasks", headers=with_its_key)).status_code == 401
        assert (await gateway.http.get(f"{url}/approvals", headers=with_its_key)).status_code == 401
        assert (await gateway.http.get(f"{url}/metrics", headers=as_alice)).status_code == 401
        assert (await gateway.http.get(f"{url}/metrics")).status_code == 401
        at_the_agents_door = await gateway.http.get(f"{gateway.origin}/metrics", headers=with_its_key)
        assert at_the_agents_door.status_code in (401, 404)


async def test_without_its_key_there_is_no_such_page(tmp_path: Path) -> None:
    without = GATEWAY.replace(f'metrics_key = "{METRICS_KEY}"', "")
    async with model_gateway(tmp_path, policy=POLICY, more=without) as gateway, operators_door(gateway) as url:
        as_operator = {"authorization": f"Bearer {ADMIN_KEY}"}
        assert (await gateway.http.get(f"{url}/metrics", headers=as_operator)).status_code == 404
