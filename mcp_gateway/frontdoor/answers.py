"""What each MCP method is answered with, in the words of the agent's era.

The only file that knows both MCP's methods and the gateway. It shapes: names of result members, `resultType`, cache
hints, cursors, server info. It decides nothing: every target goes through `Gateway`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from orjson import Fragment

from mcp_gateway import __version__
from mcp_gateway.catalog.pages import Cursors
from mcp_gateway.domain import (
    Caller,
    Era,
    Json,
    Kind,
    Outcome,
    OutcomeStatus,
    Reason,
    Reply,
    Request,
    RpcError,
    UpstreamState,
    Verb,
)
from mcp_gateway.errors import (
    BadRequest,
    ConsentNeeded,
    GatewayError,
    Misbehaved,
    NotAvailable,
    StoreUnavailable,
    Unreachable,
)
from mcp_gateway.frontdoor.consent import consent_answer
from mcp_gateway.frontdoor.discovery import TOOLS, Discovery
from mcp_gateway.frontdoor.protocol import CALLS, LISTS, Asked, CallMethod, negotiate_legacy
from mcp_gateway.frontdoor.seals import SealBrokenError
from mcp_gateway.frontdoor.subscriber import Subscriber
from mcp_gateway.frontdoor.updates import Updates
from mcp_gateway.frontdoor.wire_errors import (
    INTERNAL_ERROR,
    UNKNOWN_TASK,
    URL_ELICITATION_REQUIRED,
    answer_to,
    error_member,
    upstream_error,
)
from mcp_gateway.frontdoor.wire_tasks import NEEDED, WIRE_TASK_VERBS, WireTask, WireTasks, declared, told
from mcp_gateway.gateway import Gateway
from mcp_gateway.jsonrpc import Code
from mcp_gateway.revisions import LEGACY_VERSIONS, META_SERVER, MODERN_VERSIONS, WIRE_TASKS
from mcp_gateway.telemetry import request_log

SERVER_INFO: Final[Json] = {"name": "mcp_gateway", "title": "MCP Gateway", "version": __version__}

_CHANGES: Final[Json] = {"listChanged": True}

CAPABILITIES: Final[Json] = {
    "tools": _CHANGES,
    "prompts": _CHANGES,
    "resources": {**_CHANGES, "subscribe": True},
    "completions": {},
    "logging": {},
}
"""The same for everybody: it says nothing about what a caller may see."""

MAX_INSTRUCTIONS_CHARS: Final = 2_000
"""Per upstream. Instructions go into every agent's context, and an upstream writes them."""

MAX_TTL_MS: Final = 24 * 3600 * 1000

MAX_LINKS: Final = 16

_A_LINK: Final = {"mode": "url", "url": "https://example.invalid/"}

_OF_THE_HANDSHAKE: Final = ("initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe")

_AWAY: Final = (UpstreamState.STARTING, UpstreamState.DOWN, UpstreamState.NEEDS_LOGIN)

_BUG: Final = "a bug of ours ended a request"

_ENVELOPE_OF_MODERN: Final = ("resultType", "ttlMs", "cacheScope")


class MalformedError(BadRequest):
    """A request that was refused before the walk began, so that no entry of the audit speaks of it yet."""


class Answers:
    """Answers any request/response method; streams (`subscriptions/listen`) belong to the transports."""

    def __init__(
        self,
        gateway: Gateway,
        cursors: Cursors,
        new_request_id: Callable[[], str],
        wire_tasks: WireTasks,
        updates: Updates,
        search_above: int = 0,
    ) -> None:
        self._gateway = gateway
        self._discovery = Discovery(gateway, search_above) if search_above else None
        self._cursors = cursors
        self._wire_tasks = wire_tasks
        self._updates = updates
        self._new_request_id = new_request_id
        self._others: Mapping[str, Callable[[Caller, Asked, Reply], Awaitable[Json]]] = {
            "server/discover": self._discover,
            "initialize": self._initialize,
            "completion/complete": self._complete,
            **dict.fromkeys(WIRE_TASK_VERBS, self._wire_task),
            "ping": _nothing,
            "logging/setLevel": _nothing,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
        }

    async def answer(self, caller: Caller, asked: Asked, reply: Reply) -> Json:
        """The `result` or `error` member that answers one request. Raises for cancellation only."""
        asked = self._numbered(asked)
        try:
            if (call := CALLS.get(asked.method)) is not None:
                return await self._call(caller, asked, call, reply)
            return await self._answer(caller, asked, reply)
        except MalformedError as e:
            await self._gateway.note_malformed(caller, asked.method, str(e))
            return answer_to(e, asked.method, asked.era)
        except Exception as e:  # noqa: BLE001 - told apart there, a bug of ours is logged
            return failed(e, caller, asked, reply)

    def call_of(self, asked: Asked) -> Request:
        """The request that a tool call stands for which is known to be well-formed; to be asked, and told of."""
        params = asked.params
        return Request(
            self._new_request_id(), Verb.CALL, "tools/call", Kind.TOOL, params["name"], params, asked.era,
            asked.transport, asked.client,
        )  # fmt: skip

    def ask(self, caller: Caller, request: Request, reply: Reply) -> Awaitable[Outcome]:
        """The walk of one request; see `Gateway.ask`."""
        return self._gateway.ask(caller, request, reply)

    async def _answer(self, caller: Caller, asked: Asked, reply: Reply) -> Json:
        if not speaks(asked.era, asked.method):
            raise MalformedError("Method not found", Code.METHOD_NOT_FOUND, asked.method)
        if asked.method in LISTS:
            return {"result": self.stamped(await self._list(caller, asked), asked.era)}
        return await self._others[asked.method](caller, asked, reply)

    async def _call(self, caller: Caller, asked: Asked, call: CallMethod, reply: Reply) -> Json:
        if self._discovery is not None:
            asked = self._undone(self._discovery, asked)
        name, arguments = asked.params.get(call.name_key), asked.params.get("arguments")
        if not isinstance(name, str):
            raise MalformedError(f"params.{call.name_key} must be a string")
        if not (arguments is None or isinstance(arguments, dict)):
            raise MalformedError("params.arguments must be an object")
        if self._discovery is not None and call.kind is Kind.TOOL and self._discovery.answers(name):
            found = await self._discovery.answer(caller, self._request(asked, Verb.SEARCH, call.kind, name))
            return {"result": self.stamped(found, asked.era)}
        outcome = await self._gateway.ask(caller, self._request(asked, call.verb, call.kind, name), reply)
        return self.told(caller, outcome, asked, reply)

    def told(self, caller: Caller, outcome: Outcome, asked: Asked, reply: Reply) -> Json:
        """The `result` or `error` member for what came of a call. Raises `Misbehaved`."""
        if outcome.target is not None and outcome.result is not None:
            task = self._wire_tasks.given(caller, outcome.target, outcome.result)
            return {"result": self.stamped(task, asked.era)}
        return self._relayed(outcome, asked, reply)

    def _undone(self, discovery: Discovery, asked: Asked) -> Asked:
        try:
            return discovery.undone(asked)
        except BadRequest as e:
            raise MalformedError(str(e)) from e

    async def _wire_task(self, caller: Caller, asked: Asked, reply: Reply) -> Json:
        """What is asked about a tool call that became a wire task (SEP-2663), decided anew for its tool."""
        if not declared(reply.capabilities):
            raise MalformedError("Missing required client capability", Code.MISSING_CAPABILITY, NEEDED)
        task_id, responses = asked.params.get("taskId"), asked.params.get("inputResponses")
        if not isinstance(task_id, str):
            raise MalformedError("params.taskId must be a string")
        if asked.method == "tasks/update" and not isinstance(responses, dict):
            raise MalformedError("params.inputResponses must be an object")
        task = await self._opened(caller, asked, task_id)
        request = self._request(asked, WIRE_TASK_VERBS[asked.method], Kind.TOOL, task.tool)
        request = replace(request, upstream=task.upstream, params={**asked.params, "taskId": task.id})
        answer = self._relayed(await self._ask_about(caller, request, reply), asked, reply)
        return {"result": told(answer["result"], task_id)} if "result" in answer else answer

    async def _opened(self, caller: Caller, asked: Asked, task_id: str) -> WireTask:
        """The wire task of an id. One that is altered, borrowed or too old is written down and unknown."""
        try:
            return self._wire_tasks.opened(caller, task_id)
        except SealBrokenError as e:
            await self.note_misuse(caller, asked)
            raise BadRequest(UNKNOWN_TASK) from e

    async def _ask_about(self, caller: Caller, request: Request, reply: Reply) -> Outcome:
        try:
            return await self._gateway.ask(caller, request, reply)
        except NotAvailable as e:
            # A tool that is unknown because its upstream has not come up yet says nothing of the task: an agent that
            # heard "unknown" would give it up.
            upstream = self._gateway.snapshot.upstreams.get(request.upstream)
            if e.decision.reason is not Reason.UNKNOWN_TARGET or upstream is None or upstream.status.state not in _AWAY:
                raise
            raise Unreachable(request.upstream, f"upstream {request.upstream!r} is not up") from e

    async def _complete(self, caller: Caller, asked: Asked, reply: Reply) -> Json:
        ref, argument = asked.params.get("ref"), asked.params.get("argument")
        if not isinstance(ref, dict) or not isinstance(argument, dict):
            raise MalformedError("params.ref and params.argument must be objects")
        kind = {"ref/prompt": Kind.PROMPT, "ref/resource": Kind.TEMPLATE}.get(str(ref.get("type")))
        name = ref.get("name" if kind is Kind.PROMPT else "uri")
        if kind is None or not isinstance(name, str):
            raise MalformedError("params.ref must be a ref/prompt with a name or a ref/resource with a uri")
        outcome = await self._gateway.ask(caller, self._request(asked, Verb.COMPLETE, kind, name), reply)
        return self._relayed(outcome, asked, reply)

    async def _list(self, caller: Caller, asked: Asked) -> Json:
        kind, member = LISTS[asked.method]
        await self._gateway.opened()
        now = self._gateway.snapshot
        scope = (
            now.catalog_for(caller).version,
            now.policy.version,
            caller.agent,
            caller.person or "",
            caller.task or "",
            caller.started_id,
            kind.value,
        )
        cursor = asked.params.get("cursor")
        if not (cursor is None or isinstance(cursor, str)):
            raise MalformedError("params.cursor must be a string")
        try:
            start = self._cursors.open(cursor, scope) if cursor else 0
        except BadRequest:
            await self.note_misuse(caller, asked)
            raise
        page = await self._gateway.list(caller, self._request(asked, Verb.LIST, kind, ""), start)
        if kind is Kind.TOOL and self._discovery is not None and self._discovery.stands_for(len(page.visible)):
            return {member: list(TOOLS), "ttlMs": 0, "cacheScope": "private"}
        # Written before, as a rule: whoever looks into an answer of ours finds no list there, but its bytes.
        result: Json = {member: Fragment(page.json())}
        if page.following is not None:
            result["nextCursor"] = self._cursors.seal(page.following, scope)
        # caching.mdx: a list filtered by who asks is nobody else's.
        return {**result, "ttlMs": 0, "cacheScope": "private"}

    async def _subscribe(self, caller: Caller, asked: Asked, reply: Reply) -> Json:
        uri, subscriber = _resource_of(asked)
        request = self._request(asked, Verb.SUBSCRIBE, Kind.RESOURCE, uri)
        await self._updates.subscribe(caller, request, subscriber)
        return {"result": {}}

    async def _unsubscribe(self, caller: Caller, asked: Asked, reply: Reply) -> Json:
        uri, subscriber = _resource_of(asked)
        self._updates.unsubscribe(subscriber, uri)
        return {"result": {}}

    async def _discover(self, caller: Caller, asked: Asked, reply: Reply) -> Json:
        result: Json = {
            "supportedVersions": list(MODERN_VERSIONS),
            "capabilities": self._capabilities(asked.era),
            "ttlMs": 0,
            "cacheScope": "private",
        }
        if instructions := self._instructions(caller, asked):
            result["instructions"] = instructions
        return {"result": self.stamped(result, asked.era)}

    async def _initialize(self, caller: Caller, asked: Asked, reply: Reply) -> Json:
        result: Json = {
            "protocolVersion": negotiate_legacy(asked.params.get("protocolVersion")),
            "capabilities": self._capabilities(asked.era),
            "serverInfo": SERVER_INFO,
        }
        if instructions := self._instructions(caller, asked):
            result["instructions"] = instructions
        return {"result": result}

    def _capabilities(self, era: Era) -> Json:
        """What the gateway can do, with the extensions that it has an upstream for; the same for every caller."""
        carried = self._gateway.snapshot.extensions - (set() if era is Era.MODERN else {WIRE_TASKS})
        return {**CAPABILITIES, "extensions": {name: {} for name in sorted(carried)}} if carried else CAPABILITIES

    def _instructions(self, caller: Caller, asked: Asked) -> str:
        """What the upstreams this caller can see say about themselves."""
        way = (asked.era, asked.transport)
        seen = {target.upstream for kind in Kind for target in self._gateway.visible(caller, kind, *way)}
        texts = self._gateway.snapshot.instructions
        return "\n\n".join(f"## {name}\n{texts[name][:MAX_INSTRUCTIONS_CHARS]}" for name in sorted(seen & set(texts)))

    def _request(self, asked: Asked, verb: Verb, kind: Kind, name: str) -> Request:
        # By place: every call passes here, and names take twice as long.
        return Request(
            asked.request_id, verb, asked.method, kind, name, asked.params, asked.era, asked.transport, asked.client,
            asked.session, asked.inputs, asked.state,
        )  # fmt: skip

    def _relayed(self, outcome: Outcome, asked: Asked, reply: Reply) -> Json:
        if outcome.error is not None:
            links = _links_to_open(outcome.error, reply)
            if links:
                return {"result": {"resultType": "input_required", "inputRequests": links}}
            return {"error": upstream_error(outcome.error, asked.method, asked.era, reply.lacking)}
        result = outcome.result or {}
        if outcome.status is OutcomeStatus.INPUT_REQUIRED or asked.method == "tasks/get":
            _check_questions(result, reply)
        if outcome.status is OutcomeStatus.INPUT_REQUIRED:
            return {"result": result}
        if result.get("resultType", "complete") != "complete":
            raise Misbehaved("", "the upstream answered with something this gateway had not said it can take")
        if asked.method == "resources/read" and asked.era is Era.MODERN:
            result = {**result, "ttlMs": _clamped_ttl(result.get("ttlMs")), "cacheScope": "private"}
        return {"result": self.stamped(result, asked.era)}

    async def permit(self, caller: Caller, asked: Asked) -> None:
        """Decide a retry that attaches to a call under way, and write that down. Raises `NotAvailable`."""
        call = CALLS[asked.method]
        asked = asked if self._discovery is None else self._undone(self._discovery, asked)
        name = str(asked.params.get(call.name_key))
        await self._gateway.permit(caller, self._request(self._numbered(asked), call.verb, call.kind, name))

    async def note_foreign_session(self, caller: Caller) -> None:
        """Write down that a session was named which is not (any more) this caller's. It gets nothing either way."""
        with suppress(StoreUnavailable):
            await self._gateway.note_malformed(caller, "", "a session that is not (any more) this caller's")

    async def note_misuse(self, caller: Caller, asked: Asked) -> None:
        """Write down that something was presented that is not this caller's to use."""
        call = CALLS.get(asked.method)
        verb, kind = (call.verb, call.kind) if call else _kind_of_misuse(asked.method)
        name = str(asked.params.get(call.name_key)) if call else ""
        await self._gateway.note_misuse(caller, self._request(self._numbered(asked), verb, kind, name))

    def _numbered(self, asked: Asked) -> Asked:
        return asked if asked.request_id else asked.numbered(self._new_request_id())

    def stamped(self, result: Json, era: Era) -> Json:
        """The result with what its era's envelope needs, and without what it does not know."""
        meta = result.get("_meta")
        others = {k: v for k, v in meta.items() if k != META_SERVER} if isinstance(meta, dict) else {}
        if era is Era.MODERN:
            kind = result.get("resultType") or "complete"
            return {**result, "resultType": kind, "_meta": {**others, META_SERVER: SERVER_INFO}}
        plain = {k: v for k, v in result.items() if k not in _ENVELOPE_OF_MODERN and k != "_meta"}
        return {**plain, "_meta": others} if others else plain


def _resource_of(asked: Asked) -> tuple[str, Subscriber]:
    """What an agent subscribes to, and the session that hears of it."""
    uri = asked.params.get("uri")
    if not isinstance(uri, str) or asked.subscriber is None:
        raise MalformedError("params.uri must be a string")
    return uri, asked.subscriber


def _kind_of_misuse(method: str) -> tuple[Verb, Kind]:
    """What a request that names no target was about: a wire task, or a list."""
    if method in WIRE_TASK_VERBS:
        return WIRE_TASK_VERBS[method], Kind.TOOL
    return Verb.LIST, LISTS[method][0]


def _check_questions(result: Json, reply: Reply) -> None:
    """An upstream may only ask what it was told this agent can answer (patterns/mrtr)."""
    for question in (result.get("inputRequests") or {}).values():
        if not reply.can_be_asked(question["method"], question.get("params") or {}):
            raise Misbehaved("", "the upstream asked for something this agent had not said it can give")


def _links_to_open(error: RpcError, reply: Reply) -> Json:
    """The questions in a legacy upstream's "open these links first" (-32042), for an agent that can be asked so.

    Raises `Misbehaved` where there is no link among them that a person may be sent to.
    """
    if error.code != URL_ELICITATION_REQUIRED or not reply.takes_input_required:
        return {}
    if not reply.can_be_asked("elicitation/create", _A_LINK):
        return {}
    links = error.data.get("elicitations") if isinstance(error.data, dict) else None
    asked = [{**link, "mode": "url"} for link in links if isinstance(link, dict)] if isinstance(links, list) else []
    plain = [{key: value for key, value in link.items() if key != "elicitationId"} for link in asked]
    good = [link for link in plain if reply.can_be_asked("elicitation/create", link)]
    if not good:
        raise Misbehaved("", "the upstream wants a person to open links, and sent none that is safe to open")
    return {f"link{n}": {"method": "elicitation/create", "params": link} for n, link in enumerate(good[:MAX_LINKS], 1)}


def speaks(era: Era, method: str) -> bool:
    """Whether a method exists in an era (basic/index: 2026-07-28 removed the handshake, ping and setLevel)."""
    if method in CALLS or method in LISTS or method == "completion/complete":
        return True
    if era is Era.MODERN:
        return method == "server/discover" or method in WIRE_TASK_VERBS
    return method in _OF_THE_HANDSHAKE


def supported_versions() -> tuple[str, ...]:
    """Every revision the front door speaks, newest first."""
    return MODERN_VERSIONS + LEGACY_VERSIONS


def failed(error: Exception, caller: Caller, asked: Asked, reply: Reply) -> Json:
    """The answer where there is no outcome, whichever way a request came.

    Of a bug of ours the agent learns that it happened, operators what and to whom; the walk has closed its entry.
    """
    if isinstance(error, ConsentNeeded):
        return consent_answer(error, asked, reply)
    if isinstance(error, GatewayError):
        return answer_to(error, asked.method, asked.era)
    request_log(asked.request_id, agent=caller.agent, method=asked.method).error(_BUG, exc_info=error)
    return {"error": error_member(INTERNAL_ERROR)}


async def _nothing(caller: Caller, asked: Asked, reply: Reply) -> Json:
    return {"result": {}}


def _clamped_ttl(ttl_ms: Any) -> int:
    """An upstream's ttl in bounds: a day is long enough for anybody, and nonsense counts as none."""
    return min(max(ttl_ms, 0), MAX_TTL_MS) if isinstance(ttl_ms, int) and not isinstance(ttl_ms, bool) else 0
