"""An edit while agents are connected: those whose lists changed are told, whichever way they came; others are not."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from fakes.agents import ERAS, agent_over_http, agent_over_stdio, gateway_in, health_of, is_healthy_when, tools_of
from fakes.gateway_process import GatewayProcess
from fakes.in_process import FILES, POLICY
from fakes.waiting import until

WIDER = POLICY.replace('"one/echo"', '"one/echo", "two/echo"')
BROKEN = POLICY.replace("allow = [", "alow = [", 1)


@asynccontextmanager
async def listening(
    gateway: GatewayProcess, agent: str, era: str, door: str
) -> AsyncIterator[tuple[Client, list[str]]]:
    """An agent that has listed once, and what it hears of changes from then on."""
    heard: list[str] = []

    async def hear(message: Any) -> None:
        if "ListChanged" in type(message).__name__:
            heard.append(type(message).__name__)

    async def follow(events: Any) -> None:
        async for event in events:
            await hear(event)

    options = {"message_handler": hear} if era == "legacy" else {}
    connect = agent_over_stdio(gateway.folder, agent, era, **options)
    if door == "http":
        connect = agent_over_http(gateway, agent, era, **options)
    async with connect as client, AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        await tools_of(client)
        if era != "legacy":
            tasks.start_soon(follow, await stack.enter_async_context(client.listen(tools_list_changed=True)))
        heard.clear()
        yield client, heard
        tasks.cancel_scope.cancel()


DOORS = [(era, door) for era in ERAS for door in ("http", "stdio")]


@pytest.mark.slow
async def test_an_edit_is_told_to_whom_it_concerns_at_every_door_in_both_eras(tmp_path: Path) -> None:
    async with gateway_in(tmp_path, FILES) as gateway, AsyncExitStack() as stack:

        async def all_of(agent: str) -> list[tuple[Client, list[str]]]:
            return [await stack.enter_async_context(listening(gateway, agent, *door)) for door in DOORS]

        readers, writers = await all_of("reader"), await all_of("writer")
        (tmp_path / "policies/agents.toml").write_text(WIDER)
        await until(lambda: all(told for _, told in readers), within_s=10)
        for client, told in readers:
            assert await tools_of(client) == {"one__echo", "two__echo"}
            assert len(told) == 1
        for client, told in writers:
            assert await tools_of(client) == {"two__echo"}
            assert told == []


@pytest.mark.slow
async def test_a_broken_edit_shows_in_health_and_log_and_changes_nothing_until_it_is_mended(tmp_path: Path) -> None:
    policy = tmp_path / "policies/agents.toml"
    async with gateway_in(tmp_path, FILES) as gateway, agent_over_http(gateway, "reader", "2026-07-28") as reader:
        policy.write_text(BROKEN)
        await is_healthy_when(gateway, lambda health: health["complaints"] == ["policy"])
        assert (await health_of(gateway))["ok"] is True
        assert await tools_of(reader) == {"one__echo"}
        events = gateway.run("log", "--events", "--json").stdout
        assert "refused: policies/agents.toml:11: unknown key 'alow'" in events
        assert "agents.toml:11: unknown key 'alow'" in gateway.run("check", check=False).stderr
        policy.write_text(WIDER)
        await is_healthy_when(gateway, lambda health: health["complaints"] == [])
        result = await reader.call_tool("two__echo", {})
        assert not result.is_error
