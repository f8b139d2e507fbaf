"""Calls that wait for their agent to come back with answers: a modern agent over an upstream of the handshake era.

The upstream asks in the middle of a call and keeps it open; the agent can only be asked by answering its request with
`input_required` and hearing from it again in another one (patterns/mrtr). So the call goes on here without a request
of the agent's, until the retry attaches to it, or nobody comes for `TTL_S`, or the credential it hangs on is revoked,
or the gateway stops.

A parked call belongs to one caller, and each way back to it works once. What a retry must match (method, target,
arguments) is the seal's business, see `seals`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_gateway.domain import Caller, Json
from mcp_gateway.frontdoor.exchange import Closers
from mcp_gateway.frontdoor.replies import QUESTION_TTL_S, AgentReply, Put

TTL_S: Final = QUESTION_TTL_S
MAX_PARKED: Final = 1_000
MAX_PARKED_PER_AGENT: Final = 100
MAX_QUESTIONS: Final = 16
"""Unanswered questions of one call."""

GATHER_S: Final = 0.02
"""How long questions are gathered before they are asked; people take longer."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What a parked call asks at once, by key, and the handle that leads back to it."""

    requests: Mapping[str, Json]
    handle: str


@dataclass(frozen=True, slots=True)
class _Question:
    request: Json
    answer: asyncio.Future[Json]


class ParkedCall:
    """One call, whether or not a request of the agent's is attached to it at the moment.

    `on_question` answers the request the call began with; after that, answers go to whoever waits in `turn`. `cancel`
    ends the call itself.
    """

    def __init__(
        self,
        lot: ParkingLot,
        caller: Caller,
        reply: AgentReply,
        on_question: Callable[[Questions], None],
        cancel: Callable[[], None],
    ) -> None:
        self.caller = caller
        self.handle = ""
        self._lot = lot
        self._reply = reply
        self._on_question: Callable[[Questions], None] | None = on_question
        self._cancel = cancel
        self._turn: asyncio.Future[Json | Questions] | None = None
        self._questions: dict[str, _Question] = {}
        self._asked_so_far = 0
        self._answer: Json | None = None
        self._is_about_to_ask = False
        reply.asker = self.ask

    @property
    def has_left(self) -> bool:
        """Whether the request the call began with has been answered with a question."""
        return self._on_question is None

    def ask(self, method: str, params: Json) -> asyncio.Future[Json]:
        """Begin to ask the agent's side. Raises `LookupError` when too much is asked."""
        if len(self._questions) >= MAX_QUESTIONS:
            raise LookupError("too many unanswered questions")
        self._lot.check_room(self)
        self._asked_so_far += 1
        key, answer = f"q{self._asked_so_far}", asyncio.get_running_loop().create_future()
        self._questions[key] = _Question({"method": method, "params": _as_modern(params)}, answer)
        answer.add_done_callback(lambda _: self._questions.pop(key, None))
        self._ask_soon()
        return answer

    def resume(self, responses: Mapping[str, Any]) -> None:
        """Take the agent's answers; unknown keys and answers that are no objects are left aside (patterns/mrtr)."""
        for key, question in list(self._questions.items()):
            response = responses.get(key)
            if isinstance(response, dict) and not question.answer.done():
                question.answer.set_result(response)

    async def turn(self, put: Put, params: Mapping[str, Any]) -> Json | Questions:
        """What the agent's present request is answered with: the call's own answer, or more questions.

        Meanwhile `put` takes what the call says, in the tokens and levels of that request's `params`.
        """
        if self._answer is not None:
            return self._answer
        self._reply.attach(put, params)
        turn: asyncio.Future[Json | Questions] = asyncio.get_running_loop().create_future()
        self._turn = turn
        if self._questions:
            self._ask_soon()
        return await turn

    def finish(self, answer: Json) -> None:
        """The call is over; whoever waits, or comes before the lot forgets it, gets the answer."""
        self._answer = answer
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(answer)

    def give_up(self) -> None:
        """Nobody comes back, or nobody may: the call is cancelled, its questions with it."""
        self._lot.forget(self.handle)
        self._cancel()
        for question in list(self._questions.values()):
            question.answer.cancel()

    def _ask_soon(self) -> None:
        """Ask in a moment, so that questions asked together travel together although they come one by one."""
        if not self._is_about_to_ask:
            self._is_about_to_ask = True
            asyncio.get_running_loop().call_later(GATHER_S, self._ask_now)

    def _ask_now(self) -> None:
        self._is_about_to_ask = False
        waiting = {key: question.request for key, question in self._questions.items() if not question.answer.done()}
        if not waiting or not (self._on_question or (self._turn is not None and not self._turn.done())):
            return  # answered meanwhile, or nobody to ask until the next request comes
        self._reply.detach()
        asked = Questions(waiting, self._lot.park(self))
        if self._on_question is not None:
            on_question, self._on_question = self._on_question, None
            on_question(asked)
        elif self._turn is not None:
            self._turn.set_result(asked)


@dataclass(frozen=True, slots=True)
class _Place:
    call: ParkedCall
    timer: asyncio.TimerHandle
    closer: object


class ParkingLot:
    """All parked calls of one gateway process."""

    def __init__(self, closers: Closers, ttl_s: float = TTL_S, mark: str = "") -> None:
        """`closers`: they end a parked call like a stream, when its credential is revoked or the gateway stops.

        `mark`: what handles begin with.
        """
        self._mark = mark
        self._closers = closers
        self._ttl_s = ttl_s
        self._parked: dict[str, _Place] = {}
        self._count_of: Counter[str] = Counter()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, call: ParkedCall) -> str:
        """Keep `call` until somebody takes it or its time is over; returns the handle that leads to it from now on."""
        self.forget(call.handle)
        call.handle = handle = self._mark + secrets.token_urlsafe(18)
        timer = asyncio.get_running_loop().call_later(self._ttl_s, call.give_up)
        self._parked[handle] = _Place(call, timer, self._closers.add(call.caller, call.give_up))
        self._count_of[call.caller.agent] += 1
        return handle

    def take(self, handle: str, caller: Caller) -> ParkedCall | None:
        """The call a handle leads to, once; None if there is none (any more) or it is somebody else's."""
        place = self._parked.get(handle)
        if place is None or not _is_same(place.call.caller, caller):
            return None
        self.forget(handle)
        return place.call

    def check_room(self, call: ParkedCall) -> None:
        """Raises `LookupError` when `call` has no place and can have none."""
        if call.handle in self._parked:
            return
        if self._is_closed:
            raise LookupError("nobody will answer any more")
        if len(self._parked) >= MAX_PARKED or self._count_of[call.caller.agent] >= MAX_PARKED_PER_AGENT:
            raise LookupError("too many calls are waiting for answers")

    def forget(self, handle: str) -> None:
        """Let a handle lead nowhere; one that is not known is fine."""
        place = self._parked.pop(handle, None)
        if place is not None:
            place.timer.cancel()
            self._closers.discard(place.closer)
            self._count_of[place.call.caller.agent] -= 1
            if not self._count_of[place.call.caller.agent]:
                del self._count_of[place.call.caller.agent]

    def close(self) -> None:
        """Give up everything, and park nothing more: no agent can come back."""
        self._is_closed = True
        for place in list(self._parked.values()):
            place.call.give_up()


def _is_same(one: Caller, other: Caller) -> bool:
    return _who(one) == _who(other)


def _who(caller: Caller) -> tuple[str | None, ...]:
    return caller.agent, caller.person, caller.task, caller.started_id, caller.credential_id


def _as_modern(params: Json) -> Json:
    """A question's params without what only the handshake era has (2025-11-25 client/elicitation, "URL Mode")."""
    return {name: value for name, value in params.items() if name != "elicitationId"}
