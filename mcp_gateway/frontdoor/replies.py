"""The channel back to one agent's request: progress, log lines and questions, in the agent's own tokens and levels.

Progress and log lines never wait: an upstream's reader hands a line over and goes on, however slowly the agent reads.
What a transport cannot take is dropped there. Questions wait for the agent's side, as long as the call lasts; how one
gets there and back is the transport's business (`Asker`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final

from mcp_gateway.domain import NOTHING, Json
from mcp_gateway.frontdoor.protocol import LOG_LEVELS, can_answer, capability_for
from mcp_gateway.revisions import META_LOG_LEVEL

QUESTION_TTL_S: Final = 300.0
"""How long a question may wait for a person."""

MAX_ASKED: Final = 64
"""Questions of one call, one after the other: nobody may be asked until they are tired enough to say yes."""

Put = Callable[[Json], None]
"""Takes one message for the agent, at once and without waiting."""

Asker = Callable[[str, Json], "asyncio.Future[Json]"]
"""Begins to ask the agent's side (method, params). Raises `LookupError` where too much is asked."""


class AgentReply:
    """`domain.Reply` for one request: rewrites tokens, filters levels, hands messages to the transport's `put`."""

    # What few calls ever change.
    _asked_so_far = 0
    _asking_since = 0.0
    _waited_s = 0.0
    _progress: float = -inf
    _over = False

    def __init__(
        self,
        put: Put,
        params: Mapping[str, Any],
        session_log_level: str | None = None,
        *,
        capabilities: Mapping[str, Any] = NOTHING,
        asker: Asker | None = None,
        takes_input_required: bool = False,
        side: object = None,
        on_elicited: Callable[[str], None] = lambda link_id: None,
        question_ttl_s: float = QUESTION_TTL_S,
    ) -> None:
        self.capabilities = capabilities
        self.takes_input_required = takes_input_required
        self.side = self if side is None else side
        self.asker = asker
        self.elicited = on_elicited
        self.lacking: Mapping[str, Any] = NOTHING
        self._question_ttl_s = question_ttl_s
        self._asking: set[asyncio.Future[Json]] = set()
        self.attach(put, params, session_log_level)

    @property
    def wants_progress(self) -> bool:
        return self._token is not None

    @property
    def log_level(self) -> str | None:
        return self._level

    @property
    def waited_s(self) -> float:
        return self._waited_s + (time.monotonic() - self._asking_since if self._asking else 0.0)

    async def progress(self, params: Json) -> None:
        """Relay progress under the agent's own token; what does not increase is dropped (utilities/progress)."""
        value = params.get("progress")
        if self._over or self._token is None or not isinstance(value, (int, float)) or value <= self._progress:
            return
        self._progress = value
        self._put(_notification("notifications/progress", {**params, "progressToken": self._token}))

    async def log(self, params: Json) -> None:
        """Relay a log line if the agent asked for its level or a lower one."""
        level = _known_level(params.get("level"))
        if self._over or self._level is None or level is None:
            return
        if LOG_LEVELS.index(level) >= LOG_LEVELS.index(self._level):
            self._put(_notification("notifications/message", params))

    def can_be_asked(self, method: str, params: Json) -> bool:
        """Whether the agent said that its side can answer this."""
        return can_answer(self.capabilities, method, params)

    async def ask(self, method: str, params: Json) -> Json:
        """See `domain.Reply.ask`. A question that its upstream takes back, or nobody answers in time, ends too."""
        if self._over or self.asker is None or not self.can_be_asked(method, params):
            self.lacking = {**self.lacking, **capability_for(self.capabilities, method, params)}
            raise LookupError(f"this agent cannot be asked {method:.60}")
        if self._asked_so_far >= MAX_ASKED:
            raise LookupError(f"one call asks at most {MAX_ASKED} questions")
        answer = self.asker(method, params)
        self._asked_so_far += 1
        expiry = asyncio.get_running_loop().call_later(self._question_ttl_s, answer.cancel)
        if not self._asking:
            self._asking_since = time.monotonic()
        self._asking.add(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if answer.cancelled() and (task is None or not task.cancelling()):
                raise LookupError("nobody answered, or the call this question belonged to is over") from None
            raise
        finally:
            expiry.cancel()
            self._asking.discard(answer)
            if not self._asking:
                self._waited_s += time.monotonic() - self._asking_since

    def attach(self, put: Put, params: Mapping[str, Any], session_log_level: str | None = None) -> None:
        """Speak to the request with these params from now on: its progress token and its log level count."""
        meta = params.get("_meta")
        meta = meta if isinstance(meta, dict) else NOTHING
        token = meta.get("progressToken")
        self._put = put
        self._token = token if type(token) is str or type(token) is int else None
        self._level = session_log_level or _known_level(meta.get(META_LOG_LEVEL))
        self._progress = -inf

    def detach(self) -> None:
        """Say nothing until there is a request again: the one there was has been answered."""
        self.attach(lambda message: None, NOTHING)

    def finish(self) -> None:
        """Send nothing more: the answer is out, and notifications after it would belong to nothing."""
        self._over = True
        for answer in list(self._asking):
            answer.cancel()


def _known_level(level: Any) -> str | None:
    return level if isinstance(level, str) and level in LOG_LEVELS else None


def _notification(method: str, params: Json) -> Json:
    return {"jsonrpc": "2.0", "method": method, "params": params}
