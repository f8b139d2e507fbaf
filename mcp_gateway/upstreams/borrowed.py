"""Upstreams that another process of ours runs, as this one uses them; what keeps no state, this one runs, too.

What an upstream offers, and what of it may be served, is told by the first process alone: two that looked for
themselves could find different things, and each approve what it saw first.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio

from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Json, Listing, Outcome, Reply, UpstreamRequest, UpstreamState, UpstreamStatus
from mcp_gateway.errors import AgentRefused, Unreachable
from mcp_gateway.upstreams.connection import TooBusy
from mcp_gateway.upstreams.link import Link, Told, failure_of, outcome_of, plain_failure, side_of
from mcp_gateway.upstreams.login_tool import LOGIN_TOOL
from mcp_gateway.upstreams.managed import STARTING_WAIT_S, ManagedUpstream, Surroundings

MAX_AFTERWARDS: Final = 1_000
"""Calls that are over and whose agents may still be told that what is behind a link is done."""

DECLINED_WAIT_S: Final = 10.0

_SETTLED: Final = (UpstreamState.READY, UpstreamState.DOWN, UpstreamState.NEEDS_LOGIN)


@dataclass(slots=True)
class _Call:
    done: asyncio.Future[Outcome]
    upstream: str
    reply: Reply
    asking: dict[int, asyncio.Task[None]]


class Lender:
    """The process that runs upstreams with a state, as the others see it."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self.told: dict[str, Told] = {}
        self._mine: dict[str, BorrowedUpstream] = {}
        self._link: Link | None = None
        self._is_there = asyncio.Event()
        self._count = 0
        self._calls: dict[int, _Call] = {}
        self._declined: dict[int, asyncio.Future[frozenset[str]]] = {}
        self._afterwards: OrderedDict[int, Reply] = OrderedDict()

    @property
    def is_there(self) -> bool:
        return self._link is not None

    def upstream(self, config: ServerConfig, before: BorrowedUpstream | None) -> BorrowedUpstream:
        """One upstream of this configuration."""
        made = self._mine[config.name] = BorrowedUpstream(config, self._around, self, before)
        return made

    async def connect(self, end: socket.socket) -> None:
        """The process is there (again)."""
        if self._link is not None:
            self._link.close()
            self._lose()
        link = Link(self._hear, lambda: self._lose() if self._link is link else None)
        await link.connect(end)
        self._link = link
        self._is_there.set()
        for upstream in self._mine.values():
            upstream.note_gap()

    def tell(self, message: Json) -> None:
        """Send a message, if anybody is there."""
        if self._link is not None:
            self._link.tell(message)

    async def send(self, upstream: str, request: UpstreamRequest, reply: Reply, timeout_s: float) -> Outcome:
        """See `domain.Upstream.send`."""
        link = await self._link_within(upstream, timeout_s)
        if link.is_full:
            raise TooBusy(upstream, f"upstream {upstream!r} is too busy")
        self._count += 1
        number = self._count
        call = self._calls[number] = _Call(asyncio.get_running_loop().create_future(), upstream, reply, {})
        link.tell(_plain_call(number, upstream, request, reply))
        try:
            return await call.done
        except asyncio.CancelledError:
            link.tell({"t": "cancel", "n": number})
            raise
        finally:
            del self._calls[number]
            for asking in call.asking.values():
                asking.cancel()

    async def declined(self, upstream: str, uris: frozenset[str]) -> frozenset[str]:
        """See `domain.Upstream.declined`."""
        self._count += 1
        number, answer = self._count, asyncio.get_running_loop().create_future()
        self._declined[number] = answer
        self.tell({"t": "declined", "n": number, "u": upstream, "uris": sorted(uris)})
        found = frozenset[str]()
        try:
            with anyio.move_on_after(DECLINED_WAIT_S if self.is_there else 0):
                found = await answer
        finally:
            del self._declined[number]
        return found

    async def _link_within(self, upstream: str, timeout_s: float) -> Link:
        with anyio.move_on_after(min(timeout_s, STARTING_WAIT_S)):
            await self._is_there.wait()
        if self._link is None:
            raise Unreachable(upstream, f"upstream {upstream!r} is starting again")
        return self._link

    def _lose(self) -> None:
        """It is gone, and so is whatever was under way there."""
        self._link = None
        self._is_there = asyncio.Event()
        for call in self._calls.values():
            if not call.done.done():
                call.done.set_exception(
                    Unreachable(call.upstream, f"upstream {call.upstream!r} ended, and starts again")
                )
        for answer in self._declined.values():
            answer.cancel()
        for name in self._mine:
            self._around.on_change(name)

    def _hear(self, message: Json) -> None:
        match message["t"]:
            case "told" | "gone":
                self._hear_of_upstream(message["u"], message)
            case "updated":
                self._around.on_updated(message["u"], message["uri"])
            case "task":
                self._around.on_task(message["u"], message["p"])
            case "elicited":
                reply = self._afterwards.get(message["n"]) or self._reply(message)
                if reply is not None:
                    reply.elicited(message["link"])
            case "declined" if message["n"] in self._declined:
                answer = self._declined[message["n"]]
                if not answer.done():
                    answer.set_result(frozenset(message["uris"]))
            case _ if message["n"] in self._calls:
                self._hear_of_call(self._calls[message["n"]], message)

    def _hear_of_upstream(self, name: str, message: Json) -> None:
        if message["t"] == "gone":
            self.told.pop(name, None)
        else:
            self.told[name] = Told.of(message, self.told.get(name))
        if name in self._mine:
            self._mine[name].note()
        self._around.on_change(name)

    def _reply(self, message: Json) -> Reply | None:
        call = self._calls.get(message["n"])
        return None if call is None else call.reply

    def _hear_of_call(self, call: _Call, message: Json) -> None:
        match message["t"]:
            case "done" | "failed" if not call.done.done():
                self._finish(call, message)
            case "ask":
                self._keep_for_afterwards(message["n"], call.reply)
                asking = asyncio.get_running_loop().create_task(self._ask(call, message))
                call.asking[message["q"]] = asking
                asking.add_done_callback(lambda _: call.asking.pop(message["q"], None))
            case "unask" if message["q"] in call.asking:
                call.asking[message["q"]].cancel()
            case "progress":
                _at_once(call.reply.progress(message["p"]))
            case "log":
                _at_once(call.reply.log(message["p"]))

    def _finish(self, call: _Call, message: Json) -> None:
        if message["t"] == "failed":
            call.done.set_exception(failure_of(call.upstream, message))
            return
        outcome = outcome_of(message)
        if outcome.error is not None:
            self._keep_for_afterwards(message["n"], call.reply)
        call.done.set_result(outcome)

    def _keep_for_afterwards(self, number: int, reply: Reply) -> None:
        self._afterwards[number] = reply
        if len(self._afterwards) > MAX_AFTERWARDS:
            self._afterwards.popitem(last=False)

    async def _ask(self, call: _Call, message: Json) -> None:
        answer: Json
        try:
            answer = {"result": await call.reply.ask(message["m"], message["p"])}
        except AgentRefused as e:
            answer = plain_failure(e)
        except LookupError as e:
            answer = {"why": "nobody", "message": str(e), "lacking": dict(call.reply.lacking)}
        self.tell({"t": "answer", "n": message["n"], "q": message["q"], **answer})


class BorrowedUpstream:
    """One upstream as the rest of this process sees it: implements `domain.Upstream`, and what `Pool` wants of it."""

    def __init__(
        self, config: ServerConfig, around: Surroundings, lender: Lender, before: BorrowedUpstream | None
    ) -> None:
        self.settled = anyio.Event()
        self.finished = anyio.Event()
        self._around = around
        self._lender = lender
        self._uris: frozenset[str] = before._uris if before is not None else frozenset()
        self._tasks: frozenset[str] = before._tasks if before is not None else frozenset()
        self._scope = anyio.CancelScope()
        self._is_wanted = anyio.Event()
        own = replace(around, on_change=lambda name: None)
        self._own: ManagedUpstream = ManagedUpstream(config, own, None if before is None else before._own)
        self._is_own = False
        self.note()

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def config(self) -> ServerConfig:
        return self._own.config

    @config.setter
    def config(self, config: ServerConfig) -> None:
        self._own.config = config

    @property
    def told(self) -> Told | None:
        return self._lender.told.get(self.name)

    @property
    def listing(self) -> Listing | None:
        """What of its list may be served."""
        return None if self.told is None else self.told.listing

    @property
    def offers_login(self) -> bool:
        return self.told is not None and self.told.offers_login

    @property
    def status(self) -> UpstreamStatus:
        """How it is doing now, as far as this process is concerned."""
        if not self.config.enabled or self._is_own:
            return self._own.status
        if self.told is None or not self._lender.is_there:
            return UpstreamStatus(self.name, UpstreamState.STARTING)
        return self.told.status

    def forget_listing(self) -> None:
        """The first process does."""

    def note(self) -> None:
        """There is news of it."""
        told = self.told
        if told is not None and told.status.state in _SETTLED:
            self.settled.set()
        is_own = self.config.rest is not None or (
            self.config.url is not None and told is not None and told.is_stateless
        )
        if is_own != self._is_own:
            self._is_own = is_own
            self._is_wanted.set()
            self.resume()

    def note_gap(self) -> None:
        """Nobody was there to tell what changed: agents read once too often, never too seldom."""
        self.resume()
        if not self._is_own:
            for uri in sorted(self._uris):
                self._around.on_updated(self.name, uri)

    def resume(self) -> None:
        """Be told of what is wanted by whoever tells it now."""
        theirs = (frozenset[str](), frozenset[str]()) if self._is_own else (self._uris, self._tasks)
        own = (self._uris, self._tasks) if self._is_own else (frozenset[str](), frozenset[str]())
        self._own.watch(own[0])
        self._own.follow(own[1])
        self._lender.tell({"t": "watch", "u": self.name, "uris": sorted(theirs[0])})
        self._lender.tell({"t": "follow", "u": self.name, "ids": sorted(theirs[1])})

    async def send(self, request: UpstreamRequest, reply: Reply) -> Outcome:
        """See `domain.Upstream.send`."""
        if self._is_own and request.definition is not LOGIN_TOOL:
            return await self._own.send(request, reply)
        return await self._lender.send(self.name, request, reply, self.config.timeout_s)

    def watch(self, uris: frozenset[str]) -> None:
        """See `domain.Upstream.watch`."""
        if uris != self._uris:
            self._uris = uris
            self.resume()

    def follow(self, task_ids: frozenset[str]) -> None:
        """See `domain.Upstream.follow`."""
        if task_ids != self._tasks:
            self._tasks = task_ids
            self.resume()

    async def declined(self, uris: frozenset[str]) -> frozenset[str]:
        """See `domain.Upstream.declined`."""
        return await (self._own.declined(uris) if self._is_own else self._lender.declined(self.name, uris))

    def wake(self) -> None:
        """Somebody has logged in to it."""
        self._own.wake()
        self._lender.tell({"t": "wake", "u": self.name})

    async def run(self) -> None:
        """Run what of it this process runs itself, until `retire`."""
        try:
            with self._scope:
                if self.config.enabled:
                    await self._is_wanted.wait()
                await self._own.run()
        finally:
            self._own.finished.set()
            self.finished.set()

    async def retire(self) -> None:
        """Take no more calls, then end."""
        if self._is_wanted.is_set():
            await self._own.retire()
        self._scope.cancel()


def _plain_call(number: int, upstream: str, request: UpstreamRequest, reply: Reply) -> Json:
    told = {
        "progress": reply.wants_progress,
        "log_level": reply.log_level,
        "capabilities": dict(reply.capabilities),
        "side": side_of(reply.side),
        "takes_input_required": reply.takes_input_required,
    }
    # No other definition: only upstreams without a state want to see it, and those are asked directly.
    is_login = request.definition is LOGIN_TOOL
    return {
        "t": "call", "n": number, "u": upstream, "m": request.method, "p": dict(request.params), "r": told,
        "h": dict(request.headers), "o": request.owner, "s": request.timeout_s, "login": is_login,
    }  # fmt: skip


def _at_once(relayed: Any) -> None:
    """Run what never waits (`frontdoor.replies`), in the order in which it came."""
    try:
        relayed.send(None)
    except StopIteration:
        return
    relayed.close()
