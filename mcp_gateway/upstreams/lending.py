"""The upstreams of the first of several processes, as far as the others may use them: calls, news, what they offer.

Whatever keeps state (a child process, a session of the handshake era) is run by one process only. Each of the others
tells it over a `Link` what it wants; questions of upstreams go back the same way, to the agent's own process.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mcp_gateway.domain import NOTHING, Json, Outcome, UpstreamRequest
from mcp_gateway.errors import AgentRefused, Unreachable, UpstreamError
from mcp_gateway.upstreams.link import FarSide, Link, Told, plain_failure, plain_outcome
from mcp_gateway.upstreams.login_tool import LOGIN_TOOL

CanAnswer = Callable[[Mapping[str, Any], str, Json], bool]
"""Whether an agent with these capabilities can be asked something (method, params)."""


class Lent(Protocol):
    """An upstream that this process runs."""

    async def send(self, request: UpstreamRequest, reply: Any) -> Outcome: ...
    def watch(self, uris: frozenset[str], asker: object = None) -> None: ...
    def follow(self, task_ids: frozenset[str], asker: object = None) -> None: ...
    async def declined(self, uris: frozenset[str]) -> frozenset[str]: ...
    def wake(self) -> None: ...


Upstreams = Callable[[], Mapping[str, Lent]]


class Lending:
    """The side of the process that runs them; `told` is what the others know."""

    def __init__(self, upstreams: Upstreams, can_answer: CanAnswer) -> None:
        self.told: Mapping[str, Told] = {}
        self._upstreams = upstreams
        self._can_answer = can_answer
        self._borrowers: set[Borrower] = set()
        self._all_gone = asyncio.Event()

    async def lend_to(self, end: socket.socket) -> None:
        """Serve one more process; returns at once."""
        borrower = Borrower(self._upstreams, self._can_answer, self._borrowers.discard)
        await borrower.link.connect(end)
        self._borrowers.add(borrower)
        borrower.publish(self.told)

    def publish(self, told: Mapping[str, Told]) -> None:
        """What there is now; each process hears what is another."""
        self.told = told
        for borrower in self._borrowers:
            borrower.publish(told)

    def note_updated(self, upstream: str, uri: str) -> None:
        """A resource changed."""
        for borrower in self._borrowers:
            borrower.note_updated(upstream, uri)

    def note_task(self, upstream: str, params: Json) -> None:
        """How a wire task is doing."""
        for borrower in self._borrowers:
            borrower.note_task(upstream, params)

    async def returned(self, within_s: float) -> None:
        """Wait until nobody borrows any more, or the time is over."""
        deadline = time.monotonic() + within_s
        while self._borrowers and time.monotonic() < deadline:  # noqa: ASYNC110  the other processes end
            await asyncio.sleep(0.02)


class Borrower:
    """One of the other processes."""

    def __init__(self, upstreams: Upstreams, can_answer: CanAnswer, on_gone: Callable[[Borrower], None]) -> None:
        self.link = Link(self.hear, self.gone)
        self._upstreams = upstreams
        self._can_answer = can_answer
        self._on_gone = on_gone
        self._told: Mapping[str, Told] = {}
        self._calls: dict[int, tuple[asyncio.Task[None], FarReply]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._watched: dict[str, frozenset[str]] = {}
        self._followed: dict[str, frozenset[str]] = {}
        self._applied: dict[str, Lent] = {}

    def publish(self, told: Mapping[str, Told]) -> None:
        for name, each in told.items():
            before = self._told.get(name)
            if each != before:
                self.link.tell({"t": "told", "u": name, **each.plain(before)})
        for name in self._told.keys() - told.keys():
            self.link.tell({"t": "gone", "u": name})
        self._told = dict(told)
        self._watch_anew()

    def note_updated(self, upstream: str, uri: str) -> None:
        if self._watched.get(upstream):
            self.link.tell({"t": "updated", "u": upstream, "uri": uri})

    def note_task(self, upstream: str, params: Json) -> None:
        if params.get("taskId") in self._followed.get(upstream, ()):
            self.link.tell({"t": "task", "u": upstream, "p": params})

    def gone(self) -> None:
        """It has ended: nobody waits for its calls, and it wants to hear of nothing."""
        self._on_gone(self)
        for task, _ in list(self._calls.values()):
            task.cancel()
        for name, upstream in self._upstreams().items():
            if name in self._watched or name in self._followed:
                upstream.watch(frozenset(), self)
                upstream.follow(frozenset(), self)

    def hear(self, message: Json) -> None:
        """One thing it wants."""
        match message["t"]:
            case "call":
                reply = FarReply(self.link, message, self._can_answer)
                task = asyncio.get_running_loop().create_task(self._call(message, reply))
                self._calls[message["n"]] = task, reply
                task.add_done_callback(lambda _: self._calls.pop(message["n"], None))
            case "cancel" if message["n"] in self._calls:
                self._calls[message["n"]][0].cancel()
            case "answer" if message["n"] in self._calls:
                self._calls[message["n"]][1].take(message)
            case "watch":
                self._watched[message["u"]] = frozenset(message["uris"])
                self._applied.pop(message["u"], None)
                self._watch_anew()
            case "follow":
                self._followed[message["u"]] = frozenset(message["ids"])
                self._applied.pop(message["u"], None)
                self._watch_anew()
            case "declined":
                asked = asyncio.get_running_loop().create_task(self._declined(message))
                self._others.add(asked)
                asked.add_done_callback(self._others.discard)
            case "wake" if message["u"] in self._upstreams():
                self._upstreams()[message["u"]].wake()

    def _watch_anew(self) -> None:
        """Have upstreams tell what it wants to hear of, those too that are new ones by the same name."""
        for name, upstream in self._upstreams().items():
            wanted = name in self._watched or name in self._followed
            if wanted and self._applied.get(name) is not upstream:
                self._applied[name] = upstream
                upstream.watch(self._watched.get(name, frozenset()), self)
                upstream.follow(self._followed.get(name, frozenset()), self)

    async def _call(self, message: Json, reply: FarReply) -> None:
        name = message["u"]
        answer: Json = {"t": "failed", "why": "unreachable", "message": f"upstream {name!r} failed here"}
        try:
            upstream = self._upstreams().get(name)
            if upstream is None:
                raise Unreachable(name, f"upstream {name!r} is not there any more")
            outcome = await upstream.send(_request_of(message), reply)
            answer = {"t": "done", **plain_outcome(outcome)}
        except (UpstreamError, AgentRefused) as e:
            answer = {"t": "failed", **plain_failure(e)}
        finally:
            self.link.tell({**answer, "n": message["n"]})

    async def _declined(self, message: Json) -> None:
        upstream, uris = self._upstreams().get(message["u"]), frozenset(message["uris"])
        refused = frozenset[str]() if upstream is None else await upstream.declined(uris)
        self.link.tell({"t": "declined", "n": message["n"], "uris": sorted(refused)})


class FarReply:
    """`domain.Reply` of an agent that came to another process."""

    def __init__(self, link: Link, message: Json, can_answer: CanAnswer) -> None:
        told = message["r"]
        self.wants_progress: bool = told["progress"]
        self.log_level: str | None = told["log_level"]
        self.capabilities: Mapping[str, Any] = told["capabilities"]
        self.side: object = FarSide(told["side"])
        self.takes_input_required: bool = told["takes_input_required"]
        self.lacking: Mapping[str, Any] = NOTHING
        self._link = link
        self._number: int = message["n"]
        self._can_answer = can_answer
        self._asked: dict[int, asyncio.Future[Json]] = {}
        self._asked_so_far = 0
        self._waited_s = 0.0
        self._waiting_since = 0.0

    @property
    def waited_s(self) -> float:
        return self._waited_s + (time.monotonic() - self._waiting_since if self._asked else 0.0)

    def can_be_asked(self, method: str, params: Json) -> bool:
        return self._can_answer(self.capabilities, method, params)

    async def progress(self, params: Json) -> None:
        self._tell("progress", p=params)

    async def log(self, params: Json) -> None:
        self._tell("log", p=params)

    def elicited(self, link_id: str) -> None:
        self._tell("elicited", link=link_id)

    async def ask(self, method: str, params: Json) -> Json:
        self._asked_so_far += 1
        number, answer = self._asked_so_far, asyncio.get_running_loop().create_future()
        if not self._asked:
            self._waiting_since = time.monotonic()
        self._asked[number] = answer
        self._tell("ask", q=number, m=method, p=params)
        try:
            found: Json = await answer
        except asyncio.CancelledError:
            self._tell("unask", q=number)
            raise
        finally:
            del self._asked[number]
            if not self._asked:
                self._waited_s += time.monotonic() - self._waiting_since
        return found

    def take(self, message: Json) -> None:
        """What came of a question."""
        answer = self._asked.get(message["q"])
        if answer is None or answer.done():
            return
        if "result" in message:
            answer.set_result(message["result"])
        elif message["why"] == "agent":
            answer.set_exception(AgentRefused(message["code"], message["message"], message["data"]))
        else:
            self.lacking = message["lacking"]
            answer.set_exception(LookupError(message["message"]))

    def _tell(self, what: str, **rest: Any) -> None:
        self._link.tell({"t": what, "n": self._number, **rest})


def _request_of(message: Json) -> UpstreamRequest:
    definition = LOGIN_TOOL if message["login"] else NOTHING
    return UpstreamRequest(message["m"], message["p"], message["h"], definition, message["s"], message["o"])
