"""A watch on one upstream, and a connection that says yes to everything unless told otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from mcp_gateway.domain import Era, Json, Reply, RpcError, UpstreamRequest
from mcp_gateway.errors import UpstreamError
from mcp_gateway.upstreams.connection import Answer, Greeting
from mcp_gateway.upstreams.watch import Watch


class Watched:
    """A `Watch` and what it said has changed."""

    def __init__(self) -> None:
        self.updated: list[str] = []
        self.dropped: Counter[str] = Counter()
        self.watch = Watch(self.updated.append, self.dropped)


@dataclass
class Stream:
    """One `subscriptions/listen` that is open."""

    notifications: Json
    ended: anyio.Event = field(default_factory=anyio.Event)
    failure: Exception | None = None

    def end(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.ended.set()


class Asked:
    """Implements `connection.Connection`, as far as watching goes."""

    transport = "fake"
    why_broken = ""

    def __init__(self, era: Era, capabilities: Mapping[str, Any] | None = None) -> None:
        self.greeting = Greeting(era, "", capabilities or {})
        self.broken = anyio.Event()
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[str, RpcError | UpstreamError] = {}
        """What it does about a resource but saying yes."""
        self.silent: set[str] = set()
        self.refuses_streams_with: set[str] = set()
        """Resources and kinds for which it refuses a whole stream."""
        self.streams: list[Stream] = []
        self.open: list[Stream] = []

    def break_off(self, why: str) -> None:
        self.broken.set()

    async def ask(self, request: UpstreamRequest, reply: Reply, timeout_s: float) -> Answer:
        uri = request.params["uri"]
        self.asked.append((request.method, uri))
        if uri in self.silent:
            await anyio.sleep_forever()
        answer = self.answers.get(uri, {})
        if isinstance(answer, UpstreamError):
            raise answer
        return answer

    async def listen(self, notifications: Json) -> None:
        stream = Stream(notifications)
        self.streams.append(stream)
        if self.refuses_streams_with & {*notifications, *notifications.get("resourceSubscriptions", ())}:
            raise LookupError("refused")
        self.open.append(stream)
        try:
            await stream.ended.wait()
        finally:
            self.open.remove(stream)
        if stream.failure is not None:
            raise stream.failure
