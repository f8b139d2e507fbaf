"""An upstream that answers from a script: progress, log lines, errors, and silence until it is told otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mcp_gateway.domain import Json, Outcome, OutcomeStatus, Reply, UpstreamRequest, UpstreamState, UpstreamStatus

Answering = Callable[[UpstreamRequest, Reply], Awaitable[Outcome]]


def text(words: str, **more: Any) -> Outcome:
    """A tool result that says `words`."""
    return Outcome(OutcomeStatus.OK, {"content": [{"type": "text", "text": words}], **more})


async def echo(request: UpstreamRequest, reply: Reply) -> Outcome:
    """Says its own name and arguments, in the shape of the method that asked."""
    if request.method == "resources/read":
        contents = [{"uri": request.params["uri"], "text": "contents"}]
        return Outcome(OutcomeStatus.OK, {"contents": contents})
    if request.method == "prompts/get":
        return Outcome(OutcomeStatus.OK, {"messages": []})
    if request.method == "completion/complete":
        return Outcome(OutcomeStatus.OK, {"completion": {"values": ["one"], "hasMore": False}})
    return text(str(request.params.get("arguments")))


@dataclass
class FakeUpstream:
    """Implements `domain.Upstream`. `script` says how each tool, prompt or URI is answered; others are echoed."""

    name: str
    script: dict[str, Answering] = field(default_factory=dict)
    asked: list[UpstreamRequest] = field(default_factory=list)
    cancelled: list[UpstreamRequest] = field(default_factory=list)

    @property
    def status(self) -> UpstreamStatus:
        return UpstreamStatus(self.name, UpstreamState.READY)

    watched: frozenset[str] = frozenset()
    followed: frozenset[str] = frozenset()
    refuses: frozenset[str] = frozenset()
    """Resources whose changes it does not announce."""

    def watch(self, uris: frozenset[str]) -> None:
        self.watched = uris

    def follow(self, task_ids: frozenset[str]) -> None:
        self.followed = task_ids

    async def declined(self, uris: frozenset[str]) -> frozenset[str]:
        return uris & self.refuses

    async def send(self, request: UpstreamRequest, reply: Reply) -> Outcome:
        self.asked.append(request)
        named = [request.params[key] for key in ("name", "uri", "taskId") if key in request.params]
        answering = self.script.get(str(named[0]) if named else "", echo)
        try:
            return await answering(request, reply)
        except asyncio.CancelledError:
            self.cancelled.append(request)
            raise


class Hanging:
    """Answers when it is `released`; meanwhile the test can speak through the replies of the calls that wait."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.released = asyncio.Event()

    async def __call__(self, request: UpstreamRequest, reply: Reply) -> Outcome:
        self.replies.append(reply)
        await self.released.wait()
        return text("released")


def raising(error: Exception) -> Answering:
    """Fails with `error` instead of answering."""

    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        raise error

    return answering


def answering_with(outcome: Outcome) -> Answering:
    """Answers with `outcome`, whatever it is asked."""

    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        return outcome

    return answering


def progressing(*params: Json, then: str = "done") -> Answering:
    """Reports each of `params` as progress, then answers."""

    async def answering(request: UpstreamRequest, reply: Reply) -> Outcome:
        for each in params:
            await reply.progress(each)
        return text(then)

    return answering
