"""The command line as an agent: through the gateway that runs, or one in this process; policy, audit and all.

There is no other way to a tool from here. What an operator asks as an agent is decided, and written down, as that
agent's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import typer

from mcp_gateway import __version__
from mcp_gateway.cli.shared import MAX_LINE, NotShared, Streams, attached, hello_of
from mcp_gateway.cli.shared import Refused as NotTaken
from mcp_gateway.config.servers import Configuration
from mcp_gateway.config.toml_lines import did_you_mean
from mcp_gateway.domain import Json
from mcp_gateway.errors import Complaint, ConfigInvalid
from mcp_gateway.jsonrpc import dump, parse
from mcp_gateway.policy.assigned import check_agent
from mcp_gateway.policy.compile import Policy
from mcp_gateway.revisions import META_CAPABILITIES, META_CLIENT, META_VERSION, MODERN_VERSIONS
from mcp_gateway.wiring import Load, policy_of, running

MAX_ROUNDS: Final = 20

Answering = Callable[[Mapping[str, Any]], Json]
"""Answers one question of an upstream (`elicitation/create` and its params)."""


class Refused(Exception):
    """The gateway answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class AgentSession:
    """One agent's conversation; one request at a time."""

    def __init__(
        self, streams: Streams, answering: Answering | None = None, on_progress: Callable[[str], None] | None = None
    ) -> None:
        self._reader, self._writer = streams
        self._answering = answering
        self._on_progress = on_progress
        self._last_id = 0

    async def ask(self, method: str, params: Json) -> Json:
        """The result of one request, questions of upstreams answered on the way. Raises `Refused`."""
        more: Json = {}
        for _ in range(MAX_ROUNDS):
            result = await self._asked(method, {**params, **more})
            if result.get("resultType") != "input_required" or self._answering is None:
                return result
            questions: Mapping[str, Any] = result.get("inputRequests") or {}
            answers = {name: self._answering(question) for name, question in questions.items()}
            more = {"inputResponses": answers, "requestState": result.get("requestState")}
        raise Refused(0, f"the upstream asked for input more than {MAX_ROUNDS} times")

    async def listed(self, method: str, key: str) -> list[Json]:
        """Every page of a list."""
        found: list[Json] = []
        cursor: Json = {}
        while True:
            result = await self.ask(method, cursor)
            found += result.get(key) or []
            if not result.get("nextCursor"):
                return found
            cursor = {"cursor": result["nextCursor"]}

    async def _asked(self, method: str, params: Json) -> Json:
        self._last_id += 1
        capabilities: Json = {"elicitation": {}} if self._answering else {}
        meta = {
            META_VERSION: MODERN_VERSIONS[0],
            META_CAPABILITIES: capabilities,
            META_CLIENT: {"name": "mcp-gateway command line", "version": __version__},
            "progressToken": self._last_id,
        }
        message = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": {**params, "_meta": meta}}
        self._writer.write(dump(message) + b"\n")
        await self._writer.drain()
        while line := await self._reader.readline():
            answer = parse(line)
            if answer.get("id") == self._last_id and "method" not in answer:
                return _result(answer)
            self._note(answer)
        raise Refused(0, "the gateway has ended")

    def _note(self, message: Json) -> None:
        if message.get("method") == "notifications/progress" and self._on_progress is not None:
            told = message.get("params") or {}
            of = f"/{told['total']:g}" if isinstance(told.get("total"), (int, float)) else ""
            done = f"{told['progress']:g}{of}" if isinstance(told.get("progress"), (int, float)) else ""
            self._on_progress(f"{told.get('message') or ''} {done}".strip())


def agent_meant(configuration: Configuration, policy: Policy, agent: str, task: str | None) -> str:
    """The agent to speak as: the one that was named, else the only one there is.

    Raises `ConfigInvalid` for one the policy does not name, `typer.BadParameter` where it has to be said which.
    """
    if not agent and len(policy.assignments) == 1:
        agent = next(iter(policy.assignments))
    if not agent:
        raise typer.BadParameter(f"say as which agent: --agent NAME ({did_you_mean('', policy.assignments)})")
    check_agent(configuration, policy, agent, task)
    return agent


@asynccontextmanager
async def speaking_as(
    configuration: Configuration, agent: str, task: str | None, load_again: Load
) -> AsyncIterator[Streams]:
    """Streams of that agent: attached to the gateway that runs, else to one that runs as long as this is entered."""
    agent = agent_meant(configuration, policy_of(configuration), agent, task)
    try:
        streams = await attached(configuration, hello_of(configuration, "agent", agent, task, "command line"))
    except NotShared:
        async with _by_itself(agent, task, load_again) as streams:
            yield streams
        return
    except NotTaken as e:
        where = str(configuration.settings.policies)
        raise ConfigInvalid([Complaint(where, 0, f"the gateway that runs says: {e}", e.fix)]) from e
    try:
        yield streams
    finally:
        streams[1].close()


@asynccontextmanager
async def _by_itself(agent: str, task: str | None, load_again: Load) -> AsyncIterator[Streams]:
    ours, theirs = socket.socketpair()
    async with running(load_again) as parts, anyio.create_task_group() as tasks:
        reader, writer = await asyncio.open_connection(sock=theirs, limit=MAX_LINE)
        tasks.start_soon(parts.stdio_door(agent, task).serve, reader, writer)
        streams = await asyncio.open_connection(sock=ours, limit=MAX_LINE)
        try:
            yield streams
        finally:
            streams[1].close()
            writer.close()
            tasks.cancel_scope.cancel()


def _result(answer: Json) -> Json:
    error = answer.get("error")
    if isinstance(error, dict):
        raise Refused(int(error.get("code", 0)), str(error.get("message", "")))
    result = answer.get("result")
    return result if isinstance(result, dict) else {}
