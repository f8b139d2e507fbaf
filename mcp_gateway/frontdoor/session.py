"""What a handshake-era agent and we remember of each other: one object per HTTP session or stdio connection."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from mcp_gateway.domain import NOTHING, Caller, Era, Json, Transport
from mcp_gateway.errors import AgentRefused, BadRequest, OverLimit
from mcp_gateway.frontdoor.protocol import (
    LOG_LEVELS,
    Answer,
    Ask,
    Asked,
    client_name,
    negotiate_legacy,
    without_wire_tasks,
)
from mcp_gateway.frontdoor.subscriber import Subscriber
from mcp_gateway.jsonrpc import Code, dump

MAX_IN_FLIGHT: Final = 1_000
"""Requests one session may have open at once."""

DEFAULT_LOG_LEVEL: Final = "info"
"""Until an agent sets a level, what is sent is ours to decide (2025-11-25 utilities/logging)."""


MAX_CAPABILITIES_BYTES: Final = 64 * 1024
"""What an agent says it can do is kept as long as its session; real ones are some hundred bytes."""

MAX_QUESTIONS: Final = 64
"""Questions one agent may have unanswered at once."""


def elicitation_complete(link_id: str) -> Json:
    """The notification that what went on behind a link is done (2025-11-25 client/elicitation)."""
    params = {"elicitationId": link_id}
    return {"jsonrpc": "2.0", "method": "notifications/elicitation/complete", "params": params}


class Session:
    """State of one handshake-era connection."""

    def __init__(self, session_id: str, caller: Caller, transport: Transport) -> None:
        self.id = session_id
        self.caller = caller
        self.transport = transport
        self.version = ""
        self.client = ""
        self.log_level = DEFAULT_LOG_LEVEL
        self.capabilities: Mapping[str, Any] = NOTHING
        self.subscriber: Subscriber | None = None
        self._questions: dict[str, asyncio.Future[Json]] = {}
        self._asked_so_far = 0
        self._is_deaf = False
        self._in_flight: dict[str | int, Callable[[], None]] = {}

    @property
    def is_initialized(self) -> bool:
        """Whether `initialize` has been answered."""
        return bool(self.version)

    @property
    def has_in_flight(self) -> bool:
        """Whether a request is being worked on."""
        return bool(self._in_flight)

    def belongs_to(self, caller: Caller) -> bool:
        """Whether `caller` is who opened it: same agent, same credential, same task, started as the same one."""
        mine, theirs = self.caller, caller
        is_same_agent = (mine.agent, mine.credential_id) == (theirs.agent, theirs.credential_id)
        return is_same_agent and (mine.task, mine.started_id) == (theirs.task, theirs.started_id)

    def initialize(self, params: dict[str, Any]) -> None:
        """Take the agent's handshake. Raises `BadRequest` for capabilities too large to be kept."""
        capabilities = params.get("capabilities")
        if isinstance(capabilities, dict) and len(dump(capabilities)) > MAX_CAPABILITIES_BYTES:
            raise BadRequest(f"params.capabilities may have {MAX_CAPABILITIES_BYTES} bytes")
        self.version = negotiate_legacy(params.get("protocolVersion"))
        self.client = client_name(params.get("clientInfo"))
        self.capabilities = without_wire_tasks(capabilities) if isinstance(capabilities, dict) else NOTHING

    def ask(self, put: Callable[[Json], None], method: str, params: Json) -> asyncio.Future[Json]:
        """Ask the agent something; `put` sends it. Raises `LookupError` while too much is unanswered.

        Cancelling the future tells the agent that nobody waits any more.
        """
        if self._is_deaf:
            raise LookupError("nobody will answer any more")
        if len(self._questions) >= MAX_QUESTIONS:
            raise LookupError("too many unanswered questions")
        self._asked_so_far += 1
        question_id = f"gateway-{self._asked_so_far}"
        if params.get("mode") == "url":  # this era wants an id for what goes on behind a link (2025-11-25 elicitation)
            params = {"elicitationId": secrets.token_urlsafe(12), **params}
        put({"jsonrpc": "2.0", "id": question_id, "method": method, "params": params})
        answer: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._questions[question_id] = answer
        answer.add_done_callback(lambda done: self._forget_question(question_id, done, put))
        return answer

    def hear_no_more(self) -> None:
        """No answer can come from now on: those that are waited for never will."""
        self._is_deaf = True
        for answer in list(self._questions.values()):
            answer.cancel()

    def take_answer(self, given: Answer) -> None:
        """The agent's answer to a question; one to nothing we asked is left aside."""
        answer = self._questions.get(str(given.id))
        if answer is None or answer.done():
            return
        if given.error is None:
            answer.set_result(given.result or {})
            return
        code, message = given.error.get("code"), given.error.get("message")
        answer.set_exception(AgentRefused(code if isinstance(code, int) else -1, f"{message!s:.500}"))

    def _forget_question(self, question_id: str, answer: asyncio.Future[Json], put: Callable[[Json], None]) -> None:
        self._questions.pop(question_id, None)
        if answer.cancelled():
            params = {"requestId": question_id, "reason": "nobody waits for the answer any more"}
            with suppress(LookupError):  # an agent that does not read need not hear of it
                put({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        else:
            answer.exception()  # seen: whoever asked may have gone at the very moment the answer came

    def set_log_level(self, params: dict[str, Any]) -> None:
        """`logging/setLevel`. Raises `BadRequest` for a level that does not exist."""
        level = params.get("level")
        if level not in LOG_LEVELS:
            raise BadRequest(f"params.level must be one of {', '.join(LOG_LEVELS)}")
        self.log_level = level

    def begin(self, request_id: str | int, cancel: Callable[[], None]) -> None:
        """Note that a request is being worked on.

        Raises `BadRequest` (-32600) while its id is in use, `OverLimit` beyond `MAX_IN_FLIGHT`.
        """
        if request_id in self._in_flight:
            raise BadRequest("this id belongs to a request still being worked on", Code.INVALID_REQUEST)
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            raise OverLimit(f"at most {MAX_IN_FLIGHT} requests at once")
        self._in_flight[request_id] = cancel

    def finish(self, request_id: str | int) -> None:
        """The request's work is over."""
        self._in_flight.pop(request_id, None)

    def cancel(self, params: dict[str, Any]) -> None:
        """`notifications/cancelled`: stop that request if it is still being worked on."""
        request_id = params.get("requestId")
        if isinstance(request_id, (str, int)) and (cancel := self._in_flight.get(request_id)) is not None:
            cancel()

    def cancel_all(self) -> None:
        """The session ends."""
        for cancel in list(self._in_flight.values()):
            cancel()

    def asked(self, message: Ask) -> Asked:
        """The request with what this session knows."""
        return Asked(
            method=message.method,
            params=message.params,
            era=Era.LEGACY,
            version=self.version,
            transport=self.transport,
            client=self.client,
            session=self.id,
            subscriber=self.subscriber,
        )
