"""Plain HTTP APIs: `/rest/SERVER/...` for an agent's default task, `/task/TASK/rest/SERVER/...` for that one.

An agent's key comes as `Authorization: Bearer` or as `x-api-key`; it goes no further. Here a request becomes facts that
policies can speak of (`args.method`, `args.path`, `args.query`, `args.body`), and the walk's answer HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import ceil
from typing import Final
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from mcp_gateway.config.rest import RestConfig
from mcp_gateway.domain import NOTHING, Caller, HttpPart, Json, Kind, Request, Transport, Verb
from mcp_gateway.errors import (
    BadArguments,
    BadRequest,
    Blocked,
    GatewayError,
    Gone,
    Misbehaved,
    NotAuthenticated,
    NotAvailable,
    OverLimit,
    StoreUnavailable,
    TimedOut,
    Unreachable,
)
from mcp_gateway.frontdoor.doorstep import Doorstep, HttpRefusedError, Refusal
from mcp_gateway.frontdoor.exchange import CHALLENGE, Closers, Headers, send_json
from mcp_gateway.frontdoor.head import Lines, head_of
from mcp_gateway.frontdoor.http_relay import HttpRelay
from mcp_gateway.frontdoor.rate_limits import rate_limits
from mcp_gateway.gateway import Gateway
from mcp_gateway.jsonrpc import dump, parse
from mcp_gateway.rest.editing import Plain, is_json_type
from mcp_gateway.rest.lifecycle import State, draft_of
from mcp_gateway.rest.matching import METHODS
from mcp_gateway.rest.paths import canonical_path, checked_query
from mcp_gateway.rest.routing import route_of
from mcp_gateway.upstreams.connection import SILENT

ROUTE: Final = re.compile(
    rb"(?:/task/(?P<task>[A-Za-z0-9][A-Za-z0-9._-]{0,63}))?/rest/(?P<server>[a-z0-9][a-z0-9_-]{0,31})(?P<path>/.*)",
    re.DOTALL,
)
"""Of the path as it was sent."""

REQUEST_ID: Final = "x-gateway-request-id"
MAX_QUERY_MEMBERS: Final = 1_000

CallerOf = Callable[[Scope, Sequence[str], str | None], Awaitable[Caller]]
"""Who it is by these `Authorization` values, on this task. Raises `NotAuthenticated`, `StoreUnavailable`."""

_STATUS_OF: Final[tuple[tuple[type[GatewayError], int, str], ...]] = (
    (NotAuthenticated, 401, "not authenticated"),
    (NotAvailable, 404, "not found"),
    (Gone, 410, "gone"),
    (Blocked, 403, "blocked by a guard"),
    (BadRequest, 400, "bad request"),
    (BadArguments, 400, "bad request"),
    (OverLimit, 429, "over a limit"),
    (TimedOut, 504, "the API did not answer in time"),
    (Unreachable, 502, "the API cannot be reached"),
    (Misbehaved, 502, "the API answered with something that cannot be passed on"),
    (StoreUnavailable, 503, "the gateway cannot write its audit, so it forwards nothing"),
)
_SILENT: Final = (NotAvailable, StoreUnavailable)
"""Their own words are not for agents."""


class RestDoor:
    """Serves plain routes."""

    def __init__(
        self,
        gateway: Gateway,
        doorstep: Doorstep,
        apis: Callable[[], Mapping[str, RestConfig]],
        closers: Closers,
        new_request_id: Callable[[], str],
    ) -> None:
        self._gateway = gateway
        self._doorstep = doorstep
        self._apis = apis
        self._closers = closers
        self._new_request_id = new_request_id

    @property
    def is_open(self) -> bool:
        """Whether any API is configured; if not, none of this exists."""
        return bool(self._apis())

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, route: Mapping[str, bytes | None], caller_of: CallerOf
    ) -> None:
        """Answer one request."""
        request_id, task = self._new_request_id(), route["task"]
        relay = HttpRelay(send, {REQUEST_ID: request_id}, lambda error: b"")
        try:
            caller = await caller_of(scope, _credentials(scope), None if task is None else task.decode())
            request = await self._request(scope, receive, caller, route, relay, request_id)
            await self._walk(receive, caller, request, relay)
        except HttpRefusedError as e:
            await _refuse(send, e.refusal.status, e.refusal.text, request_id)
        except GatewayError as e:
            # One that is on its way cannot become another: the server hangs up, and its missing end shows why.
            if not relay.has_left:
                await _refuse(send, *_words_for(e), request_id, _headers_for(e, relay))

    async def _walk(self, receive: Receive, caller: Caller, request: Request, relay: HttpRelay) -> None:
        key = self._closers.add(caller, relay.scope.cancel, is_stream=False)
        relay.late_headers = lambda: rate_limits(self._gateway.standing(caller, request))
        try:
            async with relay.watched(receive):
                await self._gateway.ask(caller, request, SILENT)
        finally:
            self._closers.discard(key)
        if relay.is_begun:
            await relay.finish()

    async def _request(
        self,
        scope: Scope,
        receive: Receive,
        caller: Caller,
        route: Mapping[str, bytes | None],
        relay: HttpRelay,
        request_id: str,
    ) -> Request:
        refusal = head_of(scope).lines.judged(_check_contents)
        if refusal is not None:
            raise HttpRefusedError(refusal)
        server, method = (route["server"] or b"").decode(), str(scope["method"])
        body = await self._doorstep.read_body(scope, receive)
        fields, api = head_of(scope).lines.fields, self._apis().get(server)
        try:
            asked = _asked(route["path"] or b"", scope["query_string"], body, fields)
            way = route_of(api.routes, method, asked.path, fields) if api is not None and api.routes else None
            sent, fault = (asked, "") if way is None else way.request.made_in(method, asked)
            facts = _facts(method, asked, sent)
        except (BadRequest, ValueError) as e:
            await self._gateway.note_malformed(caller, f"{method} /rest/{server}", str(e))
            raise BadRequest(str(e)) from e
        is_there = api is not None and method in METHODS and api.admits(method, sent.path)
        full_path = f"{sent.path}?{sent.query}" if sent.query else sent.path
        return Request(
            request_id=request_id,
            verb=Verb.ROUTE,
            method="route",
            kind=Kind.ROUTE,
            name=f"{method} {sent.path}",
            params={"arguments": facts, "_meta": {"traceparent": fields.get("traceparent", "")}},
            transport=Transport.HTTP,
            client=fields.get("user-agent", "")[:200],
            upstream=server if is_there else "",
            needs=(draft_of(server, way.name),) if way is not None and way.life.state is State.DRAFT else (),
            http=HttpPart(full_path, fields, sent.body, sent.json, relay, "" if way is None else way.name, fault),
        )


def _asked(path: bytes, query: bytes, body: bytes, fields: Mapping[str, str]) -> Plain:
    """The request in its one spelling. Raises `BadRequest`."""
    value = parse(body) if body and is_json_type(fields.get("content-type", "")) else None
    return Plain(canonical_path(path), checked_query(query), body, value)


def _facts(method: str, asked: Plain, sent: Plain) -> Json:
    """What conditions see as `args`: the request as it is sent, and beside that the path as it was asked for."""
    members = parse_qs(sent.query, keep_blank_values=True, max_num_fields=MAX_QUERY_MEMBERS)
    shown = {name: values[0] if len(values) == 1 else values for name, values in members.items()}
    facts: Json = {"method": method, "path": sent.path, "query": shown}
    if sent.path != asked.path:
        facts["asked"] = asked.path
    return facts if sent.json is None else {**facts, "body": sent.json}


def _credentials(scope: Scope) -> list[str]:
    head = head_of(scope)
    return [*head.authorization, *(f"Bearer {key}" for key in head.api_keys)]


def _check_contents(lines: Lines) -> Refusal | None:
    if any(value.strip().lower() not in ("", "identity") for value in lines.values("content-encoding")):
        return Refusal(415, "compressed request bodies are not accepted: policy could not see into them")
    if len(lines.values("content-type")) > 1:
        return Refusal(400, "Content-Type is given twice")
    return None


def _words_for(error: GatewayError) -> tuple[int, str]:
    for kind, status, title in _STATUS_OF:
        if isinstance(error, kind):
            return status, title if isinstance(error, _SILENT) else str(error) or title
    return 502, "the gateway could not pass it on"


def _headers_for(error: GatewayError, relay: HttpRelay) -> Mapping[str, str]:
    if isinstance(error, Gone):
        return error.headers
    if not isinstance(error, OverLimit):
        return {}
    wait_s = error.retry_after_s
    wait = {} if wait_s is None else {"retry-after": str(max(ceil(wait_s), 1))}
    return {**relay.late_headers(), **wait}


async def _refuse(send: Send, status: int, text: str, request_id: str, also: Mapping[str, str] = NOTHING) -> None:
    """An error of the gateway's own, told from the API's by its type and a header (RFC 9457)."""
    headers: list[tuple[bytes, bytes]] = [(b"x-gateway-error", b"1"), (REQUEST_ID.encode(), request_id.encode())]
    headers += [(name.encode(), value.encode("latin-1")) for name, value in also.items()]
    body = dump({"title": text, "status": status, "request_id": request_id})
    more: Headers = [*headers, CHALLENGE] if status == 401 else headers
    await send_json(send, status, body, more, b"application/problem+json")
