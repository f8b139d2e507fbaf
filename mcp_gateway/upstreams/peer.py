"""JSON-RPC over one duplex channel: requests out, answers back to whoever asked, everything else sorted or dropped.

Used over a child's stdin and stdout, and over legacy HTTP+SSE. Ids and progress tokens are our own integers, so two
agents' equal ids cannot meet here. Waiting, relaying and cancelling all happen in the task that asked; `receive` has
no I/O, so messages are taken in the order they came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from anyio.abc import TaskGroup

from mcp_gateway import jsonrpc
from mcp_gateway.domain import Era, Json, Reply, RpcError
from mcp_gateway.errors import AgentRefused, Misbehaved, TimedOut, UpstreamError
from mcp_gateway.jsonrpc import Code
from mcp_gateway.upstreams import messages
from mcp_gateway.upstreams.connection import SILENT, Answer, Limits, Listener, TooBusy
from mcp_gateway.upstreams.dialect import Dialect
from mcp_gateway.upstreams.messages import NotAMessage
from mcp_gateway.upstreams.patience import patience, shown_s
from mcp_gateway.upstreams.relay import Call

MAX_UNRELAYED: Final = 256
"""Progress and log lines of one call that its agent has not taken yet; the oldest goes first."""

MAX_QUESTIONS: Final = 1_000
"""Questions of one upstream being answered at once: as many calls may wait for their agents, in the front door."""

STRAY_S: Final = 10.0
"""How long a call that was given up may still ask something: not every server takes notice of a cancellation."""

MAX_STRAYS: Final = 10_000

SET_LEVEL_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Stray:
    """A call that was given up and that its upstream may still work on: whose it was, and how long it counts."""

    side: object
    timer: asyncio.TimerHandle


class _Waiting:
    """One request without an answer yet."""

    __slots__ = ("_bell", "answer", "call", "error", "unanswered", "unrelayed")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.unanswered = 0
        self.answer: Answer | None = None
        self.error: UpstreamError | None = None
        self.unrelayed: deque[tuple[str, Json]] = deque(maxlen=MAX_UNRELAYED)
        self._bell: asyncio.Future[None] | None = None

    def settle(self, answer: Answer | None = None, error: UpstreamError | None = None) -> None:
        """The first outcome counts."""
        if not self.call.is_over:
            self.call.is_over = True
            self.answer, self.error = answer, error
            self.ring()

    def ring(self) -> None:
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    async def outcome(self) -> Answer:
        """Relay until there is an answer, and return it."""
        loop = asyncio.get_running_loop()
        while True:
            while self.unrelayed:
                await self.call.relay(*self.unrelayed.popleft())
            if self.error is not None:
                raise self.error
            if self.answer is not None:
                return self.answer
            self._bell = loop.create_future()
            await self._bell


class Peer:
    """The other end of a duplex channel.

    `send` takes one encoded message without its line end and does not wait; it raises `UpstreamError` when the
    channel can take no more. `tasks` runs the answers to the upstream's own questions. `on_changed` is called when
    `is_asking` or `has_strays_besides` may be another.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[bytes], None],
        tasks: TaskGroup,
        listener: Listener,
        limits: Limits,
        on_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._send = send
        self._tasks = tasks
        self._listener = listener
        self._limits = limits
        self._waiting: dict[int, _Waiting] = {}
        self._last_id = 0
        self._questions = 0
        self._asking = 0
        self._last_asked: _Waiting | None = None
        self._going_on: list[asyncio.Future[None]] = []
        self._answered = 0
        self._inside = 0
        self._strays: dict[int, _Stray] = {}
        self._on_changed = on_changed
        self._closed: UpstreamError | None = None

    @property
    def is_asking(self) -> bool:
        """Whether the upstream waits for the answer to a question about a call."""
        return self._asking > 0

    @property
    def calls_asked(self) -> int:
        """How many calls wait for their agent's answer; none counts while one of them is about to go on."""
        return -1 if self._answered else self._asked_now()

    def has_strays_besides(self, side: object) -> bool:
        """Whether a call of another side, which was given up, may still be at work, and may still ask."""
        return any(stray.side != side for stray in self._strays.values())

    async def ask(
        self,
        dialect: Dialect,
        method: str,
        params: Mapping[str, Any],
        reply: Reply,
        timeout_s: float | None,
        *,
        cancellable: bool = True,
        send: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Send one request and wait for its answer. Raises `UpstreamError`.

        `timeout_s` counts from now, whatever progress there is. `send`: how this request and its cancellation go
        out, where they need another way than the rest. `cancellable=False` is for `initialize`, which must
        not be cancelled (basic/utilities/cancellation), and for a probe nobody may understand.
        """
        send = send or self._send
        if self._closed is not None:
            raise self._closed
        if len(self._waiting) >= self._limits.max_in_flight:
            raise TooBusy(self._name, f"upstream {self._name!r} has too many calls in flight")
        self._last_id += 1
        request_id = self._last_id
        waiting = _Waiting(Call(reply, self._listener.dropped))
        data = jsonrpc.dump(dialect.request(request_id, method, params, reply))
        self._waiting[request_id] = waiting
        try:
            send(data)
            return await self._answer_of(waiting, timeout_s)
        finally:
            del self._waiting[request_id]
            waiting.call.is_over = True
            if cancellable and waiting.answer is None and waiting.error is None:
                self._note_stray(dialect, request_id, reply)
                self._tell_cancelled(request_id, send)

    async def set_level(self, dialect: Dialect, level: str, send: Callable[[bytes], None] | None = None) -> None:
        """Ask for log lines from this level up. A server that does not answer that may still answer the call."""
        try:
            await self.ask(dialect, "logging/setLevel", {"level": level}, SILENT, SET_LEVEL_TIMEOUT_S, send=send)
        except (TimedOut, Misbehaved):
            self._listener.dropped["level"] += 1

    def notify(self, method: str, params: Json | None = None) -> None:
        """Send a notification."""
        self._send(jsonrpc.dump(notification(method, params)))

    def receive(self, data: bytes) -> bool:
        """Take one message from the channel. False: it was none, and was dropped."""
        try:
            message = messages.read_message(data)
        except NotAMessage as e:
            self._listener.dropped["noise"] += 1
            return self._fail_if_ours(e)
        if messages.is_response(message):
            self._take_response(message)
        elif "id" in message:
            self._take_question(message)
        else:
            self._take_notification(message.get("method"), messages.params_of(message))
        return True

    def fail(self, request_id: int, error: UpstreamError) -> None:
        """End one request: its message could not be delivered."""
        waiting = self._waiting.get(request_id)
        if waiting is not None:
            waiting.settle(error=error)

    def close(self, error: UpstreamError) -> None:
        """End every request, and refuse new ones, with this error."""
        if self._closed is None:
            self._closed = error
            for waiting in self._waiting.values():
                waiting.settle(error=error)
            for request_id in list(self._strays):
                self._forget_stray(request_id)

    async def _answer_of(self, waiting: _Waiting, timeout_s: float | None) -> Answer:
        if timeout_s is None:
            return await waiting.outcome()
        with patience(timeout_s, waiting.call.reply):
            return await waiting.outcome()
        raise TimedOut(self._name, f"upstream {self._name!r} did not answer within {shown_s(timeout_s)} s")

    def _tell_cancelled(self, request_id: int, send: Callable[[bytes], None]) -> None:
        try:
            send(jsonrpc.dump(cancellation_of(request_id)))
        except UpstreamError:
            self._listener.dropped["cancellation"] += 1

    def _note_stray(self, dialect: Dialect, request_id: int, reply: Reply) -> None:
        may_ask = dialect.era is Era.LEGACY and reply is not SILENT  # a modern upstream asks by answering
        if may_ask and self._closed is None and len(self._strays) < MAX_STRAYS:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(STRAY_S, self._forget_stray, request_id)
            self._strays[request_id] = _Stray(reply.side, timer)

    def _forget_stray(self, request_id: int) -> None:
        """It was answered after all, or would have asked by now."""
        stray = self._strays.pop(request_id, None)
        if stray is not None:
            stray.timer.cancel()
            self._on_changed()

    def _fail_if_ours(self, fault: NotAMessage) -> bool:
        if fault.request_id is None:
            return False
        self.fail(fault.request_id, self._misbehaved(str(fault)))
        return True

    def _misbehaved(self, why: str) -> Misbehaved:
        return Misbehaved(self._name, f"upstream {self._name!r} sent an answer that breaks the protocol: {why}")

    def _take_response(self, message: Json) -> None:
        request_id = messages.response_id(message)
        waiting = self._waiting.get(request_id) if request_id is not None else None
        if waiting is None or waiting.call.is_over:
            self._listener.dropped["unknown id"] += 1
            self._forget_stray(request_id or 0)
            return
        try:
            waiting.settle(messages.answer_in(message))
        except NotAMessage as e:
            waiting.settle(error=self._misbehaved(str(e)))

    def _take_notification(self, method: object, params: Json) -> None:
        if method == "notifications/progress":
            token = params.get("progressToken")
            self._offer(self._waiting.get(token) if type(token) is int else None, method, params)
        elif method == "notifications/message":
            self._offer(self._only_call(), method, params)
        else:
            self._listener.take_news(method, params)

    def _offer(self, waiting: _Waiting | None, method: str, params: Json) -> None:
        if waiting is None:
            self._listener.dropped["unattributed"] += 1
        elif waiting.call.admits(method, params):
            if len(waiting.unrelayed) == MAX_UNRELAYED:
                self._listener.dropped["overflow"] += 1
            waiting.unrelayed.append((method, params))
            waiting.ring()

    def _only_call(self) -> _Waiting | None:
        """The call a log line belongs to: sure only while there is exactly one, so no other agent may get it."""
        agents = self._calls_of_agents()
        return agents[0] if len(agents) == 1 else None

    def _asking_call(self) -> _Waiting | None:
        """The call a question is about: the only one at work, or if none is, the one that asked last; else None.

        The channel carries no sign of the call a question came from. A call with an unanswered question is not at
        work, so it can only have asked more at once. One that was given up counts for as long as it may be at work.
        """
        agents = self._calls_of_agents()
        at_work = [each for each in agents if not each.unanswered]
        found = at_work[0] if len(at_work) == 1 else None
        if not at_work and self._last_asked in agents:
            found = self._last_asked
        return None if found is None or self.has_strays_besides(found.call.reply.side) else found

    async def _go_on(self, waiting: _Waiting) -> None:
        """Wait until a call whose last question has been answered may go on: when no other is at work."""
        self._answered += 1
        try:
            while waiting.unanswered == 1 and not waiting.call.is_over and self._inside > self._asked_now():
                turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._going_on.append(turn)
                await turn
        finally:
            self._answered -= 1

    def note_inside(self, calls: int) -> None:
        """See `turns.Channel`."""
        self._inside = calls
        self._let_go_on()

    def _asked_now(self) -> int:
        return sum(each.unanswered > 0 for each in self._calls_of_agents())

    def _let_go_on(self) -> None:
        """A call has ended or waits: see whether one that was answered may go on."""
        going_on, self._going_on = self._going_on, []
        for turn in going_on:
            if not turn.done():
                turn.set_result(None)

    def _calls_of_agents(self) -> list[_Waiting]:
        return [waiting for waiting in self._waiting.values() if waiting.call.reply is not SILENT]

    def _take_question(self, message: Json) -> None:
        request_id = messages.question_id(message)
        if request_id is None:
            self._listener.dropped["question"] += 1
        elif message.get("method") == "ping":
            self._respond(jsonrpc.result_message(request_id, {}))
        elif self._listener.on_question is None or self._questions >= MAX_QUESTIONS:
            self._listener.dropped["question"] += 1
            self._respond(jsonrpc.error_message(request_id, refusal_of(message.get("method"))))
        else:
            self._questions += 1
            # A question outside any call (many servers ask for roots once they are initialized) says nothing of calls.
            self._listener.asks = self._listener.asks or bool(self._calls_of_agents())
            self._tasks.start_soon(self._answer_question, request_id, message, self._begin_asking())

    def _begin_asking(self) -> _Waiting | None:
        waiting = self._asking_call()
        if waiting is not None:
            waiting.unanswered += 1
            self._last_asked = waiting
            self._asking += 1
            self._let_go_on()
            self._on_changed()
        return waiting

    async def _answer_question(self, request_id: int | str, message: Json, waiting: _Waiting | None) -> None:
        reply = waiting.call.reply if waiting is not None else None
        try:
            response = await answer_question(self._listener, request_id, message, reply)
            if waiting is not None:
                await self._go_on(waiting)
            self._respond(response)
        finally:
            self._questions -= 1
            if waiting is not None:
                waiting.unanswered -= 1
                self._asking -= 1
                self._on_changed()

    def _respond(self, message: Json) -> None:
        try:
            self._send(jsonrpc.dump(message))
        except UpstreamError:
            self._listener.dropped["response"] += 1


def notification(method: str, params: Json | None = None) -> Json:
    """A JSON-RPC notification."""
    return {"jsonrpc": "2.0", "method": method} | ({"params": params} if params is not None else {})


def cancellation_of(request_id: int) -> Json:
    """The notification that ends one of our requests, where closing a stream does not."""
    return notification("notifications/cancelled", {"requestId": request_id, "reason": "the caller stopped waiting"})


async def answer_question(listener: Listener, request_id: int | str, message: Json, reply: Reply | None) -> Json:
    """The JSON-RPC response to an upstream's question, asked of whoever is plugged in."""
    method = message.get("method")
    if listener.on_question is None or not isinstance(method, str):
        return jsonrpc.error_message(request_id, refusal_of(method))
    try:
        return jsonrpc.result_message(
            request_id, await listener.on_question(method, messages.params_of(message), reply)
        )
    except LookupError as e:
        return jsonrpc.error_message(request_id, RpcError(Code.METHOD_NOT_FOUND, str(e)))
    except AgentRefused as e:
        return jsonrpc.error_message(request_id, RpcError(e.rpc_code, str(e), e.data))


def refusal_of(method: object) -> RpcError:
    """What an upstream hears when it asks something nobody here answers."""
    return RpcError(Code.METHOD_NOT_FOUND, f"the gateway does not answer {str(method)[:60]!r}")
