"""The command line as an agent: pages, progress, questions and errors, over streams that play the gateway."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from mcp_gateway.cli.agent_session import MAX_ROUNDS, AgentSession, Refused

Answer = Callable[[dict[str, Any]], list[dict[str, Any]]]


@asynccontextmanager
async def gateway(answer: Answer) -> AsyncIterator[Any]:
    """Streams to something that answers each request with messages, `id` filled in."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs)

    async def play() -> None:
        while line := await reader.readline():
            request = json.loads(line)
            for message in answer(request):
                whole = {"jsonrpc": "2.0", **message}
                writer.write(
                    json.dumps(whole if "method" in whole else {**whole, "id": request["id"]}).encode() + b"\n"
                )

    streams = await asyncio.open_connection(sock=ours)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(play)
        yield streams
        tasks.cancel_scope.cancel()
    streams[1].close()
    writer.close()


async def test_every_page_is_read() -> None:
    pages = {None: {"tools": [{"name": "a"}], "nextCursor": "2"}, "2": {"tools": [{"name": "b"}]}}
    async with gateway(lambda request: [{"result": pages[request["params"].get("cursor")]}]) as streams:
        assert [tool["name"] for tool in await AgentSession(streams).listed("tools/list", "tools")] == ["a", "b"]


async def test_progress_is_told_and_other_notifications_are_passed_over() -> None:
    told: list[str] = []
    messages = [
        {"method": "notifications/progress", "params": {"progress": 1, "total": 2, "message": "half"}},
        {"method": "notifications/message", "params": {}},
        {"result": {"done": True}},
    ]
    async with gateway(lambda request: messages) as streams:
        assert await AgentSession(streams, on_progress=told.append).ask("tools/call", {}) == {"done": True}
    assert told == ["half 1/2"]


async def test_a_question_is_answered_and_the_call_goes_on() -> None:
    def answer(request: dict[str, Any]) -> list[dict[str, Any]]:
        params = request["params"]
        if "inputResponses" not in params:
            assert params["_meta"]["io.modelcontextprotocol/clientCapabilities"] == {"elicitation": {}}
            asking = {"method": "elicitation/create", "params": {"message": "which?"}}
            return [{"result": {"resultType": "input_required", "inputRequests": {"q": asking}, "requestState": "s"}}]
        return [{"result": {"got": params["inputResponses"], "state": params["requestState"]}}]

    async with gateway(answer) as streams:
        session = AgentSession(streams, lambda question: {"action": "accept", "content": question["params"]})
        result = await session.ask("tools/call", {"name": "x"})
    assert result == {"got": {"q": {"action": "accept", "content": {"message": "which?"}}}, "state": "s"}


async def test_questions_without_end_are_ended() -> None:
    asking = {"result": {"resultType": "input_required", "inputRequests": {}}}
    async with gateway(lambda request: [asking]) as streams:
        with pytest.raises(Refused, match=str(MAX_ROUNDS)):
            await AgentSession(streams, lambda question: {}).ask("tools/call", {})


async def test_an_error_and_a_gateway_that_ends_are_refusals() -> None:
    async with gateway(lambda request: [{"error": {"code": -32602, "message": "Unknown tool: x"}}]) as streams:
        with pytest.raises(Refused, match="Unknown tool") as raised:
            await AgentSession(streams).ask("tools/call", {})
        assert raised.value.code == -32602
    ours, theirs = socket.socketpair()
    streams = await asyncio.open_connection(sock=ours)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(Refused, match="has ended"):
        await AgentSession(streams).ask("ping", {})
    streams[1].close()
    theirs.close()
