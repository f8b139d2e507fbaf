"""A plain HTTP API as an upstream whose tools are its operations: a call of a tool is one request, sent here.

To everything above it is an upstream like any other: listed, pinned, judged and audited in the same way.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from time import perf_counter, time
from typing import Any, Final

import anyio
import orjson

from mcp_gateway import __version__
from mcp_gateway.config.rest import RestConfig
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import NOTHING, Era, Json, Reply, RpcError, UpstreamRequest
from mcp_gateway.errors import BadArguments, BadRequest, Misbehaved, TimedOut, Unreachable
from mcp_gateway.jsonrpc import Code, parse
from mcp_gateway.rest.breaker import Breaker, retry_after_s
from mcp_gateway.rest.caching import SAFE
from mcp_gateway.rest.editing import Plain, is_json_type
from mcp_gateway.rest.lifecycle import State
from mcp_gateway.rest.openapi import Api, NotOpenApiError, read_openapi
from mcp_gateway.rest.operations import HttpCall, Operation
from mcp_gateway.rest.pointers import EditError
from mcp_gateway.rest.routing import Route, route_of
from mcp_gateway.revisions import MODERN_VERSIONS
from mcp_gateway.upstreams.connection import Answer, Greeting, Limits
from mcp_gateway.upstreams.proving import client_for
from mcp_gateway.upstreams.wire import HttpClient, HttpResponse, WireError

MAX_ERROR_BYTES: Final = 64 * 1024
MAX_ERROR_WORDS: Final = 500
_ERROR_MEMBERS: Final = ("detail", "message", "title", "error_description", "error")
_BUSY: Final = (429, 503)


class RestConnection:
    """See `Connection`. There is nothing to be connected to before the first call."""

    transport: Final = "rest"

    def __init__(self, config: ServerConfig, rest: RestConfig, api: Api, client: HttpClient, limits: Limits) -> None:
        self.broken = anyio.Event()
        self.why_broken = ""
        self.on_written: Callable[[], None] = lambda: None
        """See `Listener.on_written`."""
        self._name = config.name
        self._rest = rest
        self._client = client
        self._limits = limits
        self._breaker = Breaker(rest.targets, by_load=rest.balance == "least-in-flight")
        self._breakers = {
            route.name: Breaker(route.targets, by_load=route.balance == "least-in-flight")
            for route in rest.routes
            if route.targets
        }
        self._problems = api.problems
        self._operations = {operation.name: operation for operation in (*rest.tools, *api.operations)}
        self.greeting = Greeting(Era.MODERN, MODERN_VERSIONS[0], {"tools": {}}, notes=self._notes())

    def break_off(self, why: str) -> None:
        """See `Connection.break_off`."""
        if not self.broken.is_set():
            self.why_broken = why
            self.broken.set()

    def carry(self, headers: Mapping[str, str]) -> None:
        """See `Connection.carry`: nothing is asked here but for a call."""

    async def listen(self, notifications: Json) -> None:
        """An API announces nothing."""
        raise LookupError("a plain API has no notifications")

    async def ask(self, request: UpstreamRequest, reply: Reply, timeout_s: float) -> Answer:
        """See `Connection.ask`."""
        if request.method == "tools/list":
            return {"tools": [operation.definition() for operation in self._offered()]}
        if request.method == "server/discover":
            return {}
        if request.method != "tools/call":
            return RpcError(Code.METHOD_NOT_FOUND, f"{request.method:.60} means nothing to a plain API")
        operation = self._operations.get(str(request.params.get("name")))
        if operation is None:
            return RpcError(Code.INVALID_PARAMS, "there is no such operation")
        try:
            return await self._called(operation, request, timeout_s)
        finally:
            if operation.method not in SAFE:
                self.on_written()  # whatever came back, or did not

    async def _called(self, operation: Operation, request: UpstreamRequest, timeout_s: float) -> Answer:
        try:
            call = operation.call(request.params.get("arguments") or {})
            route = self._route_of(call.method, call.path)
            call = call if route is None else on_route(call, route)
        except (BadArguments, BadRequest) as e:
            return _tool_error(str(e))
        if route is not None and _is_closed(route):
            return _tool_error("this operation is no longer offered")
        with anyio.move_on_after(timeout_s):
            return await self._sent(operation, call, request.headers, route)
        raise TimedOut(self._name, f"upstream {self._name!r} did not answer within {timeout_s:.3g} s")

    def _offered(self) -> Iterator[Operation]:
        """Those that are neither drafts nor retired."""
        for operation in self._operations.values():
            route = self._route_of(operation.method, operation.template)
            if route is None or not _is_closed(route):
                yield operation

    def _notes(self) -> Mapping[str, str]:
        """What operations on a route that is to end say about it."""
        found = {each.name: self._route_of(each.method, each.template) for each in self._operations.values()}
        return {name: words for name, route in found.items() if route is not None and (words := route.life.words())}

    def _route_of(self, method: str, path: str) -> Route | None:
        """A call of a tool has no host and no header of its agent's, so that routes which ask for one are not its."""
        return route_of(self._rest.routes, method, path, NOTHING) if self._rest.routes else None

    async def _sent(
        self, operation: Operation, call: HttpCall, credentials: Mapping[str, str], route: Route | None
    ) -> Answer:
        """The answer of the first address that gives one; only what may be repeated is sent twice."""
        tried: frozenset[str] = frozenset()
        breaker = self._breaker if route is None else self._breakers.get(route.name, self._breaker)
        targets = self._rest.targets if route is None or not route.targets else route.targets
        while True:
            address, wait_s = breaker.choose(perf_counter(), tried)
            if address is None:
                raise Unreachable(self._name, f"upstream {self._name!r} keeps failing; try again in {wait_s:.0f} s")
            tried |= {address}
            try:
                with breaker.asking(address):
                    return await self._answered(breaker, address, call, credentials, route)
            except WireError as e:
                breaker.failed(address, perf_counter())
                may_repeat = operation.is_repeatable and len(tried) <= self._rest.retries
                if not may_repeat or len(tried) == len(targets):
                    raise Unreachable(self._name, f"upstream {self._name!r} {e}") from e

    async def _answered(
        self, breaker: Breaker, address: str, call: HttpCall, credentials: Mapping[str, str], route: Route | None
    ) -> Answer:
        url = f"{address}{call.path}" + (f"?{call.query}" if call.query else "")
        headers = {"accept": "application/json, */*;q=0.5", "user-agent": f"mcp-gateway/{__version__}"}
        for more in (call.headers, credentials):  # in lower case, so that nothing stands beside the credential
            headers |= {name.lower(): value for name, value in more.items()}
        async with self._client.open(call.method, url, headers, call.body) as answer:
            _note(breaker, address, answer)
            return await self._result(answer, route)

    async def _result(self, answer: HttpResponse, route: Route | None) -> Json:
        if 300 <= answer.status < 400:
            return _tool_error(f"HTTP {answer.status}: the API wants to be asked elsewhere, which is not followed")
        if answer.status >= 400:
            body = await answer.read(MAX_ERROR_BYTES)
            return _tool_error(f"HTTP {answer.status}{_words_in(body or b'')}")
        body = await answer.read(self._limits.max_message_bytes)
        if body is None:
            raise Misbehaved(self._name, f"upstream {self._name!r} answered with too large a body")
        kind = _type_of(answer.headers)
        if route is not None and route.answer.body and body and is_json_type(kind):
            body = self._edited(body, route)
        return _tool_result(body, kind)

    def _edited(self, body: bytes, route: Route) -> bytes:
        try:
            return route.answer.body_of(parse(body))
        except (BadRequest, EditError) as e:
            raise Misbehaved(self._name, f"upstream {self._name!r} answered with what cannot be edited: {e}") from e


@asynccontextmanager
async def open_rest(
    config: ServerConfig, rest: RestConfig, limits: Limits, client: HttpClient | None = None
) -> AsyncIterator[RestConnection]:
    """The API with its document read. Raises `Misbehaved` for a document that cannot be."""
    api = Api((), ()) if rest.openapi is None else await anyio.to_thread.run_sync(_read, config.name, rest)
    client = client or client_for(config, limits)
    try:
        yield RestConnection(config, rest, api, client, limits)
    finally:
        await client.close()


def _read(name: str, rest: RestConfig) -> Api:
    path = rest.openapi
    if path is None:
        return Api((), ())
    try:
        return read_openapi(path.read_bytes(), rest.admits)
    except (OSError, NotOpenApiError) as e:
        reason = e.strerror if isinstance(e, OSError) else str(e)
        raise Misbehaved(name, f"upstream {name!r}: {path.name} cannot be used: {reason}") from e


def on_route(call: HttpCall, route: Route) -> HttpCall:
    """A tool's request as its route has it. Raises `BadArguments`, and `BadRequest` as `RequestEdits.made_in` does."""
    is_json = is_json_type(call.headers.get("Content-Type", ""))
    asked = Plain(call.path, call.query, call.body or b"", parse(call.body) if call.body and is_json else None)
    sent, fault = route.request.made_in(call.method, asked)
    if fault:
        raise BadArguments(fault)
    named = {name.lower(): value for name, value in call.headers.items()}
    return HttpCall(call.method, sent.path, sent.query, route.request_headers(named), sent.body or None)


def _is_closed(route: Route) -> bool:
    return route.life.state is State.DRAFT or route.life.is_over(time())


def _note(breaker: Breaker, address: str, answer: HttpResponse) -> None:
    if answer.status in _BUSY or answer.status >= 500:
        breaker.failed(address, perf_counter(), retry_after_s(answer.headers, time()))
    else:
        breaker.worked(address)


def _tool_error(text: str) -> Json:
    return {"resultType": "complete", "content": [{"type": "text", "text": text}], "isError": True}


def _tool_result(body: bytes, media_type: str) -> Json:
    """A body as a tool's result: JSON also as structured content, text as text, anything else as what it is."""
    if not body:
        return {"resultType": "complete", "content": [{"type": "text", "text": "(no content)"}]}
    text = _text_of(body, media_type)
    if text is None:
        return {"resultType": "complete", "content": [_binary(body, media_type)]}
    result: Json = {"resultType": "complete", "content": [{"type": "text", "text": text}]}
    value = _json_in(body)
    return {**result, "structuredContent": value} if isinstance(value, dict) else result


def _text_of(body: bytes, media_type: str) -> str | None:
    is_binary = media_type.startswith(("image/", "audio/", "video/")) or media_type == "application/octet-stream"
    try:
        return None if is_binary else body.decode()
    except UnicodeDecodeError:
        return None


def _binary(body: bytes, media_type: str) -> Json:
    data = base64.b64encode(body).decode()
    kind = media_type.partition("/")[0]
    if kind in ("image", "audio"):
        return {"type": kind, "data": data, "mimeType": media_type}
    resource = {"uri": "rest:body", "mimeType": media_type or "application/octet-stream", "blob": data}
    return {"type": "resource", "resource": resource}


def _json_in(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _words_in(body: bytes) -> str:
    """What an API says went wrong, from the members where that stands (RFC 9457); a page of HTML is not passed on."""
    value = _json_in(body)
    if not isinstance(value, dict):
        return ""
    found = next((value[name] for name in _ERROR_MEMBERS if isinstance(value.get(name), str) and value[name]), "")
    return f": {found[:MAX_ERROR_WORDS]}" if found else ""


def _type_of(headers: Mapping[str, str]) -> str:
    found = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    return found.partition(";")[0].strip().lower()
