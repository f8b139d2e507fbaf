"""MCP sampling answered by a provider: either era on both sides, under the caller's own policy, budget and audit."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from fakes.model_gateway import POLICY, ModelGateway, model_gateway
from fakes.providers import INPUT_TOKENS, WORDS

pytestmark = pytest.mark.slow

SERVER = Path(__file__).parents[1] / "fakes" / "asking_server.py"
ERAS = ["legacy", "2026-07-28"]
UPSTREAMS = ["modern_http", "legacy_http", "modern_stdio", "legacy_stdio"]
TOOLS = POLICY.replace(
    "[tasks.work.models]",
    f"[tasks.work]\nallow = {json.dumps([f'{name}/*' for name in UPSTREAMS])}\n[tasks.work.models]",
)


@contextmanager
def http_server(era: str) -> Iterator[str]:
    command = [sys.executable, "-W", "ignore", str(SERVER), "--era", era]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    with http_server("modern") as modern, http_server("legacy") as legacy:
        yield {"modern": modern, "legacy": legacy}


def servers(urls: dict[str, str], *lines: str) -> str:
    """All four upstreams with these lines each."""
    tables = []
    for era, url in urls.items():
        command = json.dumps([sys.executable, "-W", "ignore", str(SERVER), "--stdio", "--era", era])
        tables += [
            f'[servers.{era}_http]\nurl = "{url}"',
            *lines,
            f"[servers.{era}_stdio]\ncommand = {command}",
            *lines,
        ]
    return "\n" + "\n".join(tables) + "\n"


@asynccontextmanager
async def agent(gateway: ModelGateway, era: str, **callbacks: Any) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {gateway.token()}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{gateway.origin}/mcp", http_client=http), mode=era, **callbacks) as client,
    ):
        yield client


async def called(client: Client, name: str, arguments: dict[str, Any] | None = None) -> str:
    result = await client.call_tool(name, arguments or {})
    assert not result.is_error, result
    return str(result.content[0].text)  # type: ignore[union-attr]


async def refused(client: Client, name: str) -> str:
    """What a call is refused with, whichever way its upstream's era has for that."""
    try:
        result = await client.call_tool(name, {})
    except MCPError as e:
        return str(e)
    assert result.is_error
    return str(result.content[0].text)  # type: ignore[union-attr]


@asynccontextmanager
async def answering(
    folder: Path, urls: dict[str, str], *lines: str, policy: str = TOOLS
) -> AsyncIterator[ModelGateway]:
    more = servers(urls, *(lines or ('sampling = "answer"', 'sampling_model = "gpt-5-mini"')))
    async with model_gateway(folder, policy=policy, more=more) as gateway:
        await gateway.parts.settled(20)
        yield gateway


async def test_a_model_answers_for_agents_that_have_none(tmp_path: Path, urls: dict[str, str]) -> None:
    async with answering(tmp_path, urls) as gateway:
        for era in ERAS:
            async with agent(gateway, era) as client:
                for upstream in UPSTREAMS:
                    assert await called(client, f"{upstream}__sample") == f"model: {''.join(WORDS)}"
        tools, samples = gateway.rows("call"), gateway.rows("sample")
    assert [row["parent"] for row in samples] == [row["request_id"] for row in tools]
    assert {(row["agent"], row["task"], row["name"]) for row in samples} == {("alice", "work", "gpt-5-mini")}
    assert {(row["ended"], row["t_in"]) for row in samples} == {("ok", INPUT_TOKENS)}
    assert "capital of France" in str(gateway.first.seen[0].json["messages"])


async def test_other_questions_still_reach_the_agent(tmp_path: Path, urls: dict[str, str]) -> None:
    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def roots(context: Any) -> types.ListRootsResult:
        return types.ListRootsResult(roots=[])

    async with answering(tmp_path, urls) as gateway:
        for era in ERAS:
            async with agent(gateway, era, elicitation_callback=elicit, list_roots_callback=roots) as client:
                for upstream in UPSTREAMS:
                    assert await called(client, f"{upstream}__three_at_once") == f"Ada, {''.join(WORDS)}"


async def test_a_model_the_caller_may_not_use_answers_nothing(tmp_path: Path, urls: dict[str, str]) -> None:
    policy = TOOLS.replace('"gpt-5-mini", ', "")
    async with answering(tmp_path, urls, policy=policy) as gateway, agent(gateway, ERAS[1]) as client:
        for upstream in UPSTREAMS:
            assert await refused(client, f"{upstream}__sample")
        assert gateway.first.seen == []


async def test_what_sampling_takes_is_paid_by_the_caller_s_budget(tmp_path: Path, urls: dict[str, str]) -> None:
    policy = f'{TOOLS}\n[budgets.small]\nper = "1d"\ncalls = 1\nby = ["agent"]\n'
    async with answering(tmp_path, urls, policy=policy) as gateway, agent(gateway, ERAS[1]) as client:
        assert await called(client, "modern_http__sample")
        assert "budget" in await refused(client, "modern_http__sample")
        assert [row["ended"] for row in gateway.rows("sample")] == ["ok", "over_limit"]


async def test_a_server_that_is_denied_is_told_nothing_of_sampling(tmp_path: Path, urls: dict[str, str]) -> None:
    async def sample(context: Any, params: Any) -> types.CreateMessageResult:
        raise AssertionError("the agent's model was asked")

    async with answering(tmp_path, urls, 'sampling = "deny"') as gateway:
        for era in ERAS:
            async with agent(gateway, era, sampling_callback=sample) as client:
                for upstream in UPSTREAMS:
                    assert "sampling" not in json.loads(await called(client, f"{upstream}__capabilities"))
                    assert await refused(client, f"{upstream}__sample")
        assert gateway.first.seen == []


async def test_the_agent_s_own_model_is_not_asked_where_ours_answers(tmp_path: Path, urls: dict[str, str]) -> None:
    async def sample(context: Any, params: Any) -> types.CreateMessageResult:
        raise AssertionError("the agent's model was asked")

    async with answering(tmp_path, urls) as gateway, agent(gateway, ERAS[1], sampling_callback=sample) as client:
        assert await called(client, "modern_http__sample") == f"model: {''.join(WORDS)}"
