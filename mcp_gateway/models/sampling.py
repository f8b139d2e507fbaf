"""Upstreams that ask for a model in the middle of a call (MCP sampling): refused, or answered by a provider of ours.

The answer is a model call like any other, by the caller whose tool is at work: same policy, same budgets, an entry of
its own in the audit, with the tool's call as its parent. A model call never leads to another question, so there is no
sampling inside sampling. Sampling is deprecated (SEP-2577); it is answered for servers that still need it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final

import orjson
from anyio import CancelScope

from mcp_gateway.config.models import Models
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Caller, HttpPart, Json, Kind, Outcome, Reply, Request, Target, Verb
from mcp_gateway.errors import AgentRefused, BadRequest, GatewayError, NotAvailable, OverLimit
from mcp_gateway.models.asked import read
from mcp_gateway.models.sender import expected
from mcp_gateway.models.translate import INVALID, from_anthropic, from_openai, to_anthropic, to_openai
from mcp_gateway.models.wires import BY_OP, Op

SAMPLING: Final = "sampling/createMessage"
REFUSED: Final = -1
"""MCP's code for a person, or here a policy, that says no."""
INTERNAL: Final = -32603

_PATH_OF: Final = {Op.CHAT: "/v1/chat/completions", Op.MESSAGES: "/v1/messages"}

Walk = Callable[[Caller, Request], Awaitable[Outcome]]
"""`Gateway.ask` without a channel back."""

Visible = Callable[[Caller], Sequence[Target]]
"""The models a caller may ask for."""

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answerer:
    """What answers take."""

    walk: Walk
    visible: Visible
    models: Callable[[], Models]
    new_request_id: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Sampling:
    """`domain.Answering` for one upstream that does not have its questions to a model passed on to the agent."""

    server: ServerConfig
    answerer: Answerer | None
    """None: such questions are refused."""

    def reply(self, caller: Caller, request: Request, reply: Reply) -> Reply:
        """The channel back for one call, with sampling taken out of it or answered here."""
        return _Replying(self, caller, request, reply)


class _Replying:
    """`domain.Reply` of the agent's own, but for sampling."""

    def __init__(self, sampling: Sampling, caller: Caller, request: Request, inner: Reply) -> None:
        self._sampling = sampling
        self._caller = caller
        self._request = request
        self._inner = inner
        self._calls = 0
        self._under_way = 0
        self._since = self._answering_s = 0.0
        others = {name: value for name, value in inner.capabilities.items() if name != "sampling"}
        self.capabilities: Mapping[str, Any] = others if self._refuses else {**others, "sampling": {"tools": {}}}
        self.progress = inner.progress
        self.log = inner.log
        self.elicited = inner.elicited

    @property
    def _refuses(self) -> bool:
        return self._sampling.answerer is None

    @property
    def side(self) -> object:
        return self._inner.side

    @property
    def lacking(self) -> Mapping[str, Any]:
        return self._inner.lacking

    @property
    def wants_progress(self) -> bool:
        return self._inner.wants_progress

    @property
    def log_level(self) -> str | None:
        return self._inner.log_level

    @property
    def waited_s(self) -> float:
        now = perf_counter() - self._since if self._under_way else 0.0
        return self._inner.waited_s + self._answering_s + now

    @property
    def takes_input_required(self) -> bool:
        """Where questions are answered here, each is asked by itself: the others still reach the agent, one by one."""
        return self._refuses and self._inner.takes_input_required

    def can_be_asked(self, method: str, params: Json) -> bool:
        if method == SAMPLING:
            return not self._refuses
        return self._inner.can_be_asked(method, params)

    async def ask(self, method: str, params: Json) -> Json:
        """See `domain.Reply.ask`."""
        if method != SAMPLING:
            return await self._inner.ask(method, params)
        answerer = self._sampling.answerer
        if answerer is None:
            raise LookupError("this server's questions to models are refused")
        self._calls += 1
        if self._calls > self._sampling.server.sampling_max_calls:
            most = self._sampling.server.sampling_max_calls
            raise AgentRefused(REFUSED, f"one call may ask a model at most {most} times")
        self._since = self._since if self._under_way else perf_counter()
        self._under_way += 1
        try:
            return await _answer(answerer, self._sampling.server, self._caller, self._request, params)
        finally:
            self._under_way -= 1
            self._answering_s += 0.0 if self._under_way else perf_counter() - self._since


async def _answer(answerer: Answerer, server: ServerConfig, caller: Caller, request: Request, params: Json) -> Json:
    """The result of `sampling/createMessage`. Raises `AgentRefused`, in words the upstream may see."""
    _log.info("upstream %s asked for a model by sampling, which is deprecated", server.name)
    model = _choose(answerer.visible(caller), params.get("modelPreferences"), server.sampling_model)
    if model is None:
        raise AgentRefused(REFUSED, "there is no model for this")
    op = Op.CHAT if "openai" in model.definition["wires"] else Op.MESSAGES
    body = _body(op, params, model.name, server.sampling_max_tokens)
    relay = _Collected()
    asking = _request(answerer, op, body, relay, request)
    try:
        await answerer.walk(caller, asking)
    except (NotAvailable, OverLimit, BadRequest) as e:
        message = "a model may not be used here" if isinstance(e, NotAvailable) else str(e)
        raise AgentRefused(REFUSED, message) from e
    except GatewayError as e:
        raise AgentRefused(INTERNAL, "the model cannot be asked at the moment") from e
    return _result(op, relay, has_tools=bool(params.get("tools")))


def _choose(models: Sequence[Target], preferences: Any, default: str) -> Target | None:
    """The model that the hints mean, of those the caller may use: by name, else by part of one; else the default."""
    by_name = {model.name: model for model in models}
    hints = preferences.get("hints") if isinstance(preferences, dict) else None
    for hint in hints if isinstance(hints, list) else ():
        name = hint.get("name") if isinstance(hint, dict) else None
        if not isinstance(name, str) or not name:
            continue
        if name in by_name:
            return by_name[name]
        alike = sorted(known for known in by_name if name.casefold() in known.casefold())
        if alike:
            return by_name[alike[0]]
    return by_name.get(default)


def _body(op: Op, params: Json, model: str, most_tokens: int) -> Json:
    wanted = params.get("maxTokens")
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise AgentRefused(INVALID, "maxTokens must be a whole number above zero")
    translate = to_openai if op is Op.CHAT else to_anthropic
    return translate(params, model, min(wanted, most_tokens))


def _request(answerer: Answerer, op: Op, body: Json, relay: _Collected, request: Request) -> Request:
    raw = orjson.dumps(body)
    asked = read(BY_OP[op], raw, body)
    return Request(
        request_id=answerer.new_request_id(),
        verb=Verb.SAMPLE,
        method="model",
        kind=Kind.MODEL,
        name=asked.model,
        params={"arguments": asked.facts, "_meta": request.params.get("_meta") or {}},
        era=request.era,
        transport=request.transport,
        client=request.client,
        session=request.session,
        needs=asked.needs,
        parent=request.request_id,
        http=HttpPart(_PATH_OF[op], {}, raw, body, relay),
        expects=expected(answerer.models(), asked),
    )


def _result(op: Op, relay: _Collected, *, has_tools: bool) -> Json:
    if relay.status != 200:
        raise AgentRefused(INTERNAL, "the model's provider refused the question")
    answer = orjson.loads(b"".join(relay.body))
    try:
        return (from_openai if op is Op.CHAT else from_anthropic)(answer, has_tools=has_tools)
    except GatewayError as e:
        raise AgentRefused(INTERNAL, str(e)) from e


@dataclass(slots=True)
class _Collected:
    """`domain.Relay` that keeps the answer."""

    status: int = 0
    body: list[bytes] = field(default_factory=list)
    scope: CancelScope = field(default_factory=CancelScope)

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status

    async def write(self, piece: bytes) -> None:
        self.body.append(piece)

    def hold(self, piece: bytes) -> None:
        self.body.append(piece)

    def hold_error(self, error: Exception) -> None:
        self.status = 502

    def afterwards(self, do: Callable[[], None]) -> None:
        """Answers to upstreams' questions are not kept."""
