"""What real upstreams do wrong, behind a real gateway: forgotten sessions, a changed era, odd lists and streams."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from mcp import Client
from mcp.shared.exceptions import MCPError

from fakes.agents import ERAS, gateway_in, is_healthy_when, tools_of
from fakes.conformance import fixture_server
from fakes.gateway_process import GatewayProcess
from fakes.raw_http import (
    Answerer,
    Asked,
    LegacyServer,
    RawHttp,
    answering,
    discovers,
    event,
    http,
    result_for,
    scripted,
    stream_start,
)
from fakes.waiting import until

pytestmark = pytest.mark.slow

POLICY = """
[agents.agent]
tasks = ["everything"]
default_task = "everything"

[tasks.everything]
allow = ["up/*"]
"""

Answer = Callable[[Asked], bytes | None]


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object"}, **more}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], **more}


def files(url: str) -> dict[str, str]:
    servers = f'[gateway]\nanonymous = "agent"\n[servers.up]\nurl = "{url}"\n'
    return {"servers.toml": servers, "policies/agents.toml": POLICY}


def modern(tools: list[Any] | Answer, call: Answer | None = None) -> Answerer:
    """A modern server with these tools; `call` answers their calls."""

    def lists(asked: Asked) -> bytes | None:
        if asked.rpc_method != "tools/list":
            return None
        return tools(asked) if callable(tools) else result_for(asked, {"tools": tools, "resultType": "complete"})

    def calls(asked: Asked) -> bytes | None:
        return call(asked) if call is not None and asked.rpc_method == "tools/call" else None

    return scripted([discovers({"tools": {}}), lists, calls])


@dataclass
class Legacy(LegacyServer):
    """A legacy server with one tool, `echo`, and maybe another way to answer its call."""

    capabilities: dict[str, Any] = field(default_factory=lambda: {"tools": {}})
    on_call: Answer = field(default=lambda asked: result_for(asked, said("done")))

    def _answer(self, asked: Asked) -> bytes:
        usual = super()._answer(asked)
        is_answered = usual.startswith(b"HTTP/1.1 200") and asked.method == "POST"
        if is_answered and asked.rpc_method == "tools/list":
            return result_for(asked, {"tools": [tool("echo")]})
        if is_answered and asked.rpc_method == "tools/call":
            return self.on_call(asked) or b""
        return usual


@asynccontextmanager
async def agent_before(server: Answerer, folder: Path, era: str) -> AsyncIterator[Client]:
    """An agent of a gateway with that one upstream."""
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(answering(server))
        gateway = await stack.enter_async_context(gateway_in(folder, files(up.url)))
        yield await stack.enter_async_context(Client(gateway.url, mode=era))


async def text_of_call(agent: Client, name: str = "up__echo") -> str:
    return str((await agent.call_tool(name, {})).content[0].text)


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_in_a_forgotten_session_is_made_again_in_a_new_one(tmp_path: Path, era: str) -> None:
    legacy = Legacy()
    async with agent_before(legacy, tmp_path, era) as agent:
        assert await text_of_call(agent) == "done"
        legacy.sessions.clear()
        assert await text_of_call(agent) == "done"
    assert legacy.opened == 2
    assert [session for session, _ in legacy.called] == ["s1", "s2"]


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_that_may_have_run_is_not_made_again(tmp_path: Path, era: str) -> None:
    legacy = Legacy(on_call=lambda asked: None)  # it takes the call, and hangs up without an answer
    async with agent_before(legacy, tmp_path, era) as agent:
        result = await agent.call_tool("up__echo", {})
    assert result.is_error
    assert len(legacy.called) == 1


@pytest.mark.parametrize("before, after", [("legacy", "modern"), ("modern", "legacy")])
async def test_an_upstream_that_changed_its_era_answers_again(
    tmp_path: Path, free_port: int, before: str, after: str
) -> None:
    async with AsyncExitStack() as stack:
        async with fixture_server(before, free_port) as url:
            gateway = await stack.enter_async_context(gateway_in(tmp_path, files(url)))
            await answers_in_both_eras(gateway)
        async with fixture_server(after, free_port):
            await answers_in_both_eras(gateway)


async def answers_in_both_eras(gateway: GatewayProcess) -> None:
    for era in ERAS:
        async with Client(gateway.url, mode=era) as agent:
            await until(lambda agent=agent: is_answered(agent), within_s=20, every_s=0.1)


async def is_answered(agent: Client) -> bool:
    try:
        return "simple text" in await text_of_call(agent, "up__test_simple_text")
    except MCPError:
        return False


async def test_a_stream_that_ends_at_once_is_opened_again_ever_more_slowly(tmp_path: Path) -> None:
    opened: list[float] = []
    legacy = Legacy(get_answer=stream_start())

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method == "GET":
            opened.append(asyncio.get_running_loop().time())
        await legacy(asked, writer)

    async with answering(answer) as up, gateway_in(tmp_path, files(up.url)) as gateway:
        await until(lambda: len(opened) >= 4, within_s=20, every_s=0.1)
        async with Client(gateway.url, mode="legacy") as agent:
            assert await text_of_call(agent) == "done"
    waits = [after - before for before, after in pairwise(opened)]
    assert waits[0] > 0.5
    assert waits[2] > waits[1] > waits[0]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("upstream", ["modern", "legacy"])
async def test_an_event_of_three_megabytes_arrives_whole(tmp_path: Path, upstream: str, era: str) -> None:
    text = "0123456789abcdef" * 200_000

    def streamed(asked: Asked) -> bytes:
        result = said(text, resultType="complete")
        return stream_start() + event({"jsonrpc": "2.0", "id": asked.message["id"], "result": result})

    server = modern([tool("echo")], streamed) if upstream == "modern" else Legacy(on_call=streamed)
    async with agent_before(server, tmp_path, era) as agent:
        assert await text_of_call(agent) == text


async def test_a_list_of_three_megabytes_in_one_event_is_listed(tmp_path: Path) -> None:
    tools = [tool(f"t{number}", description="0123456789abcdef" * 200) for number in range(1_000)]

    def streamed(asked: Asked) -> bytes:
        result = {"tools": tools, "resultType": "complete"}
        return stream_start() + event({"jsonrpc": "2.0", "id": asked.message["id"], "result": result})

    async with agent_before(modern(streamed), tmp_path, "2026-07-28") as agent:
        assert len(await tools_of(agent)) == len(tools)


@pytest.mark.parametrize("era", ERAS)
async def test_a_result_without_a_type_is_complete(tmp_path: Path, era: str) -> None:
    server = modern([tool("echo")], lambda asked: result_for(asked, said("bare")))
    async with agent_before(server, tmp_path, era) as agent:
        result = await agent.call_tool("up__echo", {})
    assert result.content[0].text == "bare"
    assert result.model_dump(by_alias=True).get("resultType", "complete") == "complete"


INVALID: list[Any] = [
    {"name": "no_schema"},
    {"name": "schema_is_text", "inputSchema": "object"},
    {"name": "not_of_objects", "inputSchema": {"type": "array"}},
    tool("a b"),
    tool("bad_header", inputSchema={"type": "object", "properties": {"a": {"type": "string", "x-mcp-header": ""}}}),
    {"inputSchema": {"type": "object"}},
    "not even an object",
]


async def test_invalid_tools_are_left_out_and_named_and_the_rest_stays(tmp_path: Path) -> None:
    tools = [tool("first"), *INVALID, tool("last")]
    async with answering(modern(tools)) as up, gateway_in(tmp_path, files(up.url)) as gateway:
        assert await names_shown_by(gateway) == {"up__first", "up__last"}
        told = await to_thread.run_sync(last_words, gateway)
    for name in ("no_schema", "schema_is_text", "not_of_objects", "a b", "bad_header"):
        assert name in told


async def names_shown_by(gateway: GatewayProcess) -> set[str]:
    async with Client(gateway.url, mode="2026-07-28") as agent:
        return await tools_of(agent)


def last_words(gateway: GatewayProcess) -> str:
    """End the gateway and return what it had to say to its operator."""
    gateway.process.terminate()
    return gateway.process.communicate()[1]


async def test_cursors_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    def page(asked: Asked) -> bytes:
        here = {"": 0, "a": 1, "b": 2}[asked.message["params"].get("cursor", "")]
        following = {0: "a", 1: "b", 2: "a"}[here]
        return result_for(asked, {"tools": [tool(f"t{here}")], "nextCursor": following, "resultType": "complete"})

    async with answering(modern(page, lambda asked: result_for(asked, said("done")))) as up:
        async with gateway_in(tmp_path, files(up.url)) as gateway, Client(gateway.url, mode="legacy") as agent:
            assert await tools_of(agent) == {"up__t0", "up__t1", "up__t2"}
            assert await text_of_call(agent, "up__t2") == "done"
        assert pages_asked_for(up) <= 4


def pages_asked_for(up: RawHttp) -> int:
    return len(up.asked_for("tools/list"))


async def test_an_upstream_that_answers_nothing_but_errors_is_down_and_the_gateway_is_not(tmp_path: Path) -> None:
    async def broken(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(http(500, b"<html>", "text/html"))

    async with answering(broken) as up, gateway_in(tmp_path, files(up.url)) as gateway:
        await is_healthy_when(gateway, lambda health: health["upstreams"] == {"down": 1})
        async with Client(gateway.url, mode="legacy") as agent:
            assert await tools_of(agent) == set()
