"""A modern agent's call in as many rounds as it takes: `input_required` answers, and the retries that follow them.

Two ways lead back from a question, and the `requestState` an agent carries says which:

- the upstream is modern too: it holds no state but its own `requestState`, which travels inside ours. Each round is a
  walk of its own, decided and written down anew.
- the upstream is of the handshake era: its call stays open here (`parking`), and the retry attaches to it. The retry
  is decided anew and written down, too; the call keeps the entry it began with.

A `requestState` is bound to who asked, method, target and arguments, ends by itself, and works once (`seals`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from mcp_gateway.domain import Caller, Json, RpcError
from mcp_gateway.errors import BadRequest, GatewayError, Misbehaved, OverLimit
from mcp_gateway.frontdoor.answers import Answers, failed
from mcp_gateway.frontdoor.parking import ParkedCall, ParkingLot, Questions
from mcp_gateway.frontdoor.protocol import CALLS, Asked, can_be_asked
from mcp_gateway.frontdoor.replies import AgentReply
from mcp_gateway.frontdoor.seals import MAX_SEAL_CHARS, SealBrokenError, Seals
from mcp_gateway.frontdoor.wire_errors import answer_to, error_member
from mcp_gateway.jsonrpc import Code, canonical
from mcp_gateway.revisions import META_CAPABILITIES

T = TypeVar("T")

Take = Callable[[bytes, int, int], bool | None]
"""Uses a digest up, with its expiry and the present time: False where it was already, None where nobody can tell any
more. It waits for the disk, so it is called in a thread."""

MAX_ROUNDS: Final = 16
"""Rounds of one call over a modern upstream; the SDKs' own drivers stop at ten."""

_BAD_STATE: Final = "requestState is not valid (any more) for this request"

_CANCELLED: Final = RpcError(Code.INTERNAL_ERROR, "the call was cancelled")


class Channel(Protocol):
    """The request at hand, as its transport sees it."""

    def put(self, message: Json) -> None:
        """Send a notification before the answer."""
        ...

    def answer_early(self, member: Json) -> None:
        """Answer the request now although the work on it goes on."""
        ...

    def cancel(self) -> None:
        """Stop the work on it."""
        ...


class Rounds:
    """Answers modern requests, whatever round they are in."""

    def __init__(self, answers: Answers, lot: ParkingLot, seals: Seals, now_s: Callable[[], float], take: Take) -> None:
        self._answers = answers
        self._lot = lot
        self._seals = seals
        self._now_s = now_s
        self._take = take

    async def answer(self, caller: Caller, asked: Asked, channel: Channel) -> Json | None:
        """The `result` or `error` member; None when the request has been answered with a question already."""
        state = asked.params.get("requestState") if asked.method in CALLS else None
        try:
            if state is not None:
                return await self._resume(caller, asked, channel, state)
            return await self._begin(caller, asked, channel)
        except GatewayError as e:
            return answer_to(e, asked.method, asked.era)

    async def answer_plain(
        self, caller: Caller, asked: Asked, put: Callable[[Json], None], respond: Callable[[Json], T]
    ) -> T:
        """`answer` for the first round of a call whose agent cannot be asked anything, made into a response."""
        params, answers = asked.params, self._answers
        capabilities = params["_meta"][META_CAPABILITIES]
        reply = AgentReply(put, params, capabilities=capabilities, takes_input_required=True, side=caller)
        request = answers.call_of(asked)
        try:
            answer = answers.told(caller, await answers.ask(caller, request, reply), asked, reply)
        except Exception as e:  # noqa: BLE001 - told apart there, a bug of ours is logged
            answer = failed(e, caller, asked.numbered(request.request_id), reply)
        finally:
            reply.finish()
        return respond(self._relayed(caller, asked, answer, 1))

    def waiting(self, caller: Caller, asked: Asked) -> str:
        """The handle of the parked call that a request leads back to; empty: it leads to none. Nothing is used up."""
        state = asked.params.get("requestState") if asked.method in CALLS else None
        try:
            payload = self._seals.open(state, _binding(caller, asked), self._now_s()) if isinstance(state, str) else {}
        except SealBrokenError:
            return ""
        return str(payload.get("park", ""))

    def close(self) -> None:
        """The agents are gone and cannot come back: whatever waits for them ends."""
        self._lot.close()

    async def _begin(self, caller: Caller, asked: Asked, channel: Channel, this_round: int = 1) -> Json | None:
        """The first round, or one more over a modern upstream."""
        capabilities = _capabilities(asked)
        is_call = asked.method in CALLS
        reply = AgentReply(
            channel.put, asked.params, capabilities=capabilities, takes_input_required=is_call, side=caller
        )
        call: ParkedCall | None = None
        if is_call and can_be_asked(capabilities):
            call = ParkedCall(
                self._lot,
                caller,
                reply,
                on_question=lambda it: channel.answer_early(self._asking(caller, asked, it)),
                cancel=channel.cancel,
            )
        answer: Json = {"error": error_member(_CANCELLED)}
        try:
            answer = self._relayed(caller, asked, await self._answers.answer(caller, asked, reply), this_round)
        finally:
            reply.finish()
            if call is not None and call.has_left:
                call.finish(answer)
        return None if call is not None and call.has_left else answer

    async def _resume(self, caller: Caller, asked: Asked, channel: Channel, state: Any) -> Json | None:
        """A later round: back to where the question came from."""
        payload = await self._opened(caller, asked, state)
        responses = asked.params.get("inputResponses")
        given: Mapping[str, Any] = responses if isinstance(responses, dict) else {}
        if "park" not in payload:
            again = replace(asked, inputs=given, state=payload["state"])
            return await self._begin(caller, again, channel, payload["round"] + 1)
        call = self._lot.take(payload["park"], caller)
        if call is None:  # it was given up meanwhile
            await self._answers.note_misuse(caller, asked)
            raise BadRequest(_BAD_STATE)
        return await self._attach(caller, asked, channel, call, given)

    async def _attach(
        self, caller: Caller, asked: Asked, channel: Channel, call: ParkedCall, responses: Mapping[str, Any]
    ) -> Json:
        """Go on with a parked call in this request; without it, or its permission, the call ends."""
        said: Json | Questions | None = None
        try:
            await self._answers.permit(caller, asked)
            call.resume(responses)
            said = await call.turn(channel.put, asked.params)
        finally:
            if said is None:
                call.give_up()
        return self._asking(caller, asked, said) if isinstance(said, Questions) else said

    def _asking(self, caller: Caller, asked: Asked, questions: Questions) -> Json:
        """The answer that asks a parked call's questions."""
        result = {"inputRequests": dict(questions.requests)}
        return self._input_required(caller, asked, result, {"park": questions.handle})

    def _relayed(self, caller: Caller, asked: Asked, answer: Json, this_round: int) -> Json:
        """An answer with an upstream's own `requestState` put into ours; other answers as they are."""
        result = answer.get("result")
        if not isinstance(result, dict) or result.get("resultType") != "input_required":
            return answer
        if this_round > MAX_ROUNDS:
            error = Misbehaved("", f"the upstream asked for input more than {MAX_ROUNDS} times")
            return answer_to(error, asked.method, asked.era)
        payload = {"state": result.get("requestState"), "round": this_round}
        return self._input_required(caller, asked, result, payload)

    def _input_required(self, caller: Caller, asked: Asked, result: Json, payload: Json) -> Json:
        state = self._seals.seal(payload, _binding(caller, asked), self._now_s())
        if len(state) > MAX_SEAL_CHARS:
            error = Misbehaved("", "the upstream's requestState is too large to be handed out")
            return answer_to(error, asked.method, asked.era)
        filled = {name: value for name, value in result.items() if value is not None}
        asking = {**filled, "resultType": "input_required", "requestState": state}
        return {"result": self._answers.stamped(asking, asked.era)}

    async def _opened(self, caller: Caller, asked: Asked, state: Any) -> Json:
        """What a state holds, once. A state that does not hold is written down and refused."""
        try:
            if not isinstance(state, str):
                raise SealBrokenError
            payload = self._seals.open(state, _binding(caller, asked), self._now_s())
            await self._use_up(state)
        except SealBrokenError as e:
            await self._answers.note_misuse(caller, asked)
            raise BadRequest(_BAD_STATE) from e
        return payload

    async def _use_up(self, state: str) -> None:
        """Note that a good state was used. Raises `SealBrokenError` where it had been, `OverLimit` where so many were
        that nobody can tell, `StoreUnavailable`."""
        digest = hashlib.sha256(state.encode()).digest()[:16]
        now_s = int(self._now_s())
        # Nothing is made of a state before it is known to be used for the first time.
        is_first = await asyncio.to_thread(self._take, digest, now_s + self._seals.ttl_s, now_s)
        if is_first is None:
            raise OverLimit("too many calls are being resumed")
        if not is_first:
            raise SealBrokenError


def _capabilities(asked: Asked) -> Mapping[str, Any]:
    meta = asked.params.get("_meta")
    capabilities = meta.get(META_CAPABILITIES) if isinstance(meta, dict) else None
    return capabilities if isinstance(capabilities, dict) else {}


def _binding(caller: Caller, asked: Asked) -> tuple[str, ...]:
    """What a state is good for: this caller, this method and target, these arguments."""
    name = asked.params.get(CALLS[asked.method].name_key)
    arguments = hashlib.sha256(canonical(asked.params.get("arguments"))).hexdigest()
    who = (caller.agent, caller.person or "", caller.task or "", caller.started_id, caller.credential_id)
    return (*who, asked.method, str(name), arguments)
