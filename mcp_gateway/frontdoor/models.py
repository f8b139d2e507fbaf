"""Models over the OpenAI and Anthropic wires: `/v1/...` for an agent's default task, `/task/TASK/v1/...` for that one.

An agent's key comes as `Authorization: Bearer` or, as Anthropic's SDKs send it, as `x-api-key`; both at once are
refused. Everything else is the walk's business: here a body becomes facts, and the walk's answer HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import unquote

from starlette.types import Receive, Scope, Send

from mcp_gateway.config.models import Models, Wire
from mcp_gateway.domain import Caller, HttpPart, Json, Kept, Kind, Request, Target, Transport, Usage, Verb
from mcp_gateway.errors import BadRequest, Blocked, GatewayError, OverLimit
from mcp_gateway.frontdoor.doorstep import Doorstep, HttpRefusedError, Refusal
from mcp_gateway.frontdoor.exchange import Closers, send_json
from mcp_gateway.frontdoor.head import Lines, head_of
from mcp_gateway.frontdoor.http_exchange import EXCHANGE
from mcp_gateway.frontdoor.http_relay import HttpRelay
from mcp_gateway.frontdoor.model_errors import Trouble, body_of, event_of, headers_of, trouble_of, unknown_model
from mcp_gateway.frontdoor.model_state import StateDesk, UnknownStateError, body_of_state, facts_of_state, query_of
from mcp_gateway.frontdoor.rate_limits import rate_limits
from mcp_gateway.gateway import Gateway
from mcp_gateway.jsonrpc import dump, parse
from mcp_gateway.models.asked import read
from mcp_gateway.models.outgoing import PASSED_ON
from mcp_gateway.models.sender import expected
from mcp_gateway.models.wires import BY_PATH, Operation, state_operations
from mcp_gateway.upstreams.connection import SILENT

ROUTE: Final = re.compile(
    rb"(?:/task/(?P<task>[A-Za-z0-9][A-Za-z0-9._-]{0,63}))?(?P<path>/v1/[A-Za-z0-9._:/@%-]{1,250})"
)
"""Of the path as it was sent."""

REQUEST_ID: Final = "x-gateway-request-id"
_LIST: Final = "/v1/models"
_NOT_FOUND: Final = Trouble(404, "not_found", "there is nothing here")
_HEADERS_OF_USE: Final = (*PASSED_ON, "x-stainless-retry-count", "cache-control")

CallerOf = Callable[[Scope, Sequence[str], str | None], Awaitable[Caller]]
"""Who it is by these `Authorization` values, on this task. Raises `NotAuthenticated`, `StoreUnavailable`."""


class ModelsDoor:
    """Serves the model wires."""

    def __init__(
        self,
        gateway: Gateway,
        doorstep: Doorstep,
        models: Callable[[], Models],
        closers: Closers,
        new_request_id: Callable[[], str],
        desk: StateDesk,
    ) -> None:
        self._gateway = gateway
        self._doorstep = doorstep
        self._models = models
        self._closers = closers
        self._new_request_id = new_request_id
        self._desk = desk

    @property
    def is_open(self) -> bool:
        """Whether any model is configured; if not, none of this exists."""
        return bool(self._models().offered)

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, route: Mapping[str, bytes | None], caller_of: CallerOf
    ) -> None:
        """Answer one request of either wire."""
        path, task = (route["path"] or b"").decode(), route["task"]
        wire, request_id = wire_of(path, scope), self._new_request_id()
        try:
            caller = await caller_of(scope, _credentials(scope), None if task is None else task.decode())
            trouble = await self._answer(scope, receive, send, caller, path, request_id)
        except HttpRefusedError as e:
            trouble = Trouble(e.refusal.status, "gateway_bad_request", e.refusal.text)
        except GatewayError as e:
            trouble = trouble_of(e)
        if trouble is not None:
            headers = [*headers_of(trouble), (REQUEST_ID.encode(), request_id.encode())]
            await send_json(send, trouble.status, body_of(trouble, wire, request_id), headers)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, path: str, request_id: str
    ) -> Trouble | None:
        """Answer, or tell why not."""
        if path == _LIST or path.startswith(f"{_LIST}/"):
            if scope["method"] != "GET":
                return Trouble(405, "method_not_allowed", "GET is the only method here")
            return await self._list(scope, send, caller, unquote(path[len(_LIST) + 1 :]), request_id)
        operation = BY_PATH.get(path)
        if operation is None:
            return await self._state(scope, receive, send, caller, path, request_id)
        if scope["method"] != "POST":
            return Trouble(405, "method_not_allowed", "POST is the only method here")
        return await self._call(scope, receive, send, caller, operation, path, request_id)

    async def _call(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        caller: Caller,
        operation: Operation,
        path: str,
        request_id: str,
    ) -> Trouble | None:
        refusal = head_of(scope).lines.judged(_check_contents)
        if refusal is not None:
            raise HttpRefusedError(refusal)
        body = await self._doorstep.read_body(scope, receive)
        models = self._models()
        try:
            value = parse(body)
            asked = read(operation, body, value)
            kept = await self._desk.referred_to(caller, asked, models)
        except BadRequest as e:
            await self._gateway.note_malformed(caller, path, str(e))
            return trouble_of(e)
        except UnknownStateError as e:
            await self._desk.note_misuse(caller, request_id, asked.model, e)
            return e.trouble(is_in_body=True)
        relay = _relay(send, operation, request_id)
        http = _http_part(scope, relay, operation, path, body, value, kept)
        facts = self._desk.facts_of(asked, value, models)
        request = self._request(
            http, scope, request_id, facts, needs=asked.needs, expects=expected(models, asked, kept)
        )
        return await self._walk(scope, receive, caller, request, relay)

    async def _state(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, path: str, request_id: str
    ) -> Trouble | None:
        """Answer for something that a provider keeps, if any may keep something."""
        models, kept = self._models(), None
        is_any = any(provider.stateful and provider.enabled for provider in models.providers.values())
        found = state_operations(path) if is_any else {}
        operation = found.get(scope["method"])
        if operation is None:
            return Trouble(405, "method_not_allowed", f"here there is {', '.join(found)}") if found else _NOT_FOUND
        if operation.has_body and (refusal := head_of(scope).lines.judged(_check_contents)) is not None:
            raise HttpRefusedError(refusal)
        body = await self._doorstep.read_body(scope, receive)
        try:
            value, query = body_of_state(operation, body), query_of(scope)
            if operation.is_about_kept:
                kept = await self._desk.by_id(caller, operation, path, models)
            model = self._desk.model_for(caller, operation, scope, models) if kept is None else kept.model
        except BadRequest as e:
            await self._gateway.note_malformed(caller, path, str(e))
            return trouble_of(e)
        except UnknownStateError as e:
            await self._desk.note_misuse(caller, request_id, "", e)
            return e.trouble(is_in_body=False)
        whole_path = f"{path}?{query}" if query else path
        things = () if kept is None else (kept,)
        relay = _relay(send, operation, request_id)
        http = _http_part(scope, relay, operation, whole_path, body, value, things)
        facts = facts_of_state(operation, model, kept, query, body)
        request = self._request(http, scope, request_id, facts, is_paid=True)
        return await self._walk(scope, receive, caller, request, relay)

    async def _walk(
        self, scope: Scope, receive: Receive, caller: Caller, request: Request, relay: HttpRelay
    ) -> Trouble | None:
        key = self._closers.add(caller, relay.scope.cancel, is_stream=False)
        relay.late_headers = lambda: rate_limits(self._gateway.standing(caller, request))
        try:
            async with relay.watched(receive, scope.get(EXCHANGE)):
                await self._gateway.ask(caller, request, SILENT)
        except GatewayError as e:
            if not relay.has_left:
                trouble = trouble_of(e, request.name)
                is_over = isinstance(e, OverLimit) and e.is_budget
                return replace(trouble, headers=relay.late_headers()) if is_over else trouble
            if isinstance(e, Blocked):  # a stream that guards look at in windows: it ends with the reason
                relay.hold_error(e)
                await relay.finish()
            # Any other that is on its way cannot become another: the server hangs up, and its missing end shows why.
            return None
        finally:
            self._closers.discard(key)
        if relay.is_begun:
            await relay.finish()
        return None if relay.is_begun else Trouble(499, "gateway_cancelled", "the call was cancelled")

    def _request(
        self,
        http: HttpPart,
        scope: Scope,
        request_id: str,
        facts: Json,
        *,
        needs: tuple[Target, ...] = (),
        expects: Usage | None = None,
        is_paid: bool = False,
    ) -> Request:
        fields = head_of(scope).lines.fields
        return Request(
            request_id=request_id,
            verb=Verb.MODEL,
            method="model",
            kind=Kind.MODEL,
            name=facts["model"],
            params={"arguments": facts, "_meta": {"traceparent": fields.get("traceparent", "")}},
            transport=Transport.HTTP,
            client=fields.get("user-agent", "")[:200],
            needs=needs,
            http=http,
            expects=expects,
            is_paid=is_paid,
        )

    async def _list(self, scope: Scope, send: Send, caller: Caller, name: str, request_id: str) -> Trouble | None:
        """What this caller may ask for by this wire; with a name, that one."""
        wire = wire_of(_LIST, scope)
        request = Request(request_id, Verb.LIST, "models/list", Kind.MODEL, name, {})
        page = await self._gateway.list(caller, request)
        shown = [target for target in page.targets if wire in target.definition["wires"]]
        if name:
            shown = [target for target in shown if target.name == name]
            if not shown:
                return unknown_model(name)
        items = [_item(target, wire) for target in shown]
        await send_json(send, 200, dump(items[0] if name else _list_of(items, wire)))
        return None


def _relay(send: Send, operation: Operation, request_id: str) -> HttpRelay:
    def event(error: Exception) -> bytes:
        return event_of(trouble_of(error), operation.wire, operation.op, request_id)

    return HttpRelay(send, {REQUEST_ID: request_id}, event)


def _http_part(
    scope: Scope, relay: HttpRelay, operation: Operation, path: str, body: bytes, value: Any, kept: tuple[Kept, ...]
) -> HttpPart:
    fields = head_of(scope).lines.fields
    headers: dict[str, str] = {name: fields[name] for name in _HEADERS_OF_USE if name in fields}
    return HttpPart(path, headers, body, value, relay, method=operation.method, kept=kept)


def wire_of(path: str, scope: Scope) -> Wire:
    """In whose words to answer: told by the path, and where both wires have one, by the version Anthropic's send."""
    operation = BY_PATH.get(path) or next(iter(state_operations(path).values()), None)
    if operation is not None:
        return operation.wire
    return "anthropic" if "anthropic-version" in head_of(scope).lines.fields else "openai"


def _credentials(scope: Scope) -> list[str]:
    head = head_of(scope)
    return [*head.authorization, *(f"Bearer {key}" for key in head.api_keys)]


def _check_contents(lines: Lines) -> Refusal | None:
    types = lines.values("content-type")
    if len(types) != 1 or types[0].split(";", 1)[0].strip().lower() != "application/json":
        return Refusal(415, "Content-Type must be application/json")
    if any(value.strip().lower() not in ("", "identity") for value in lines.values("content-encoding")):
        return Refusal(415, "compressed request bodies are not accepted")
    return None


def _item(target: Target, wire: Wire) -> Json:
    if wire == "anthropic":
        born = "1970-01-01T00:00:00Z"
        return {"type": "model", "id": target.name, "display_name": target.name, "created_at": born}
    return {"id": target.name, "object": "model", "created": 0, "owned_by": "mcp-gateway"}


def _list_of(items: list[Json], wire: Wire) -> Json:
    if wire == "openai":
        return {"object": "list", "data": items}
    first: Any = items[0]["id"] if items else None
    last: Any = items[-1]["id"] if items else None
    return {"data": items, "has_more": False, "first_id": first, "last_id": last}
