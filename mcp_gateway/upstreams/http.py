"""One request to an upstream over Streamable HTTP, in either era: a POST out, a JSON body or an event stream back.

What is common to both eras stands here; `sessions` has what only the legacy one needs. Statuses and JSON-RPC error
bodies are told apart: an error of the upstream is an answer, a bare status is not.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from mcp_gateway import jsonrpc
from mcp_gateway.domain import Era, Json, Reply, UpstreamRequest
from mcp_gateway.errors import Misbehaved, Unreachable
from mcp_gateway.upstreams import messages
from mcp_gateway.upstreams.connection import SILENT, Answer, Limits, Listener, TooBusy
from mcp_gateway.upstreams.dialect import CLIENT_INFO, Dialect, ParamHeaders, named_in
from mcp_gateway.upstreams.events import Event, EventParser, EventTooLong
from mcp_gateway.upstreams.messages import NotAMessage
from mcp_gateway.upstreams.peer import MAX_QUESTIONS, answer_question, cancellation_of
from mcp_gateway.upstreams.refusals import (
    EVENTS,
    EraRefused,
    Rejected,
    SessionLost,
    content_type,
    means_session_lost,
    rejected,
    sounds_of_other_era,
    type_in_words,
)
from mcp_gateway.upstreams.relay import Call
from mcp_gateway.upstreams.wire import HttpClient, HttpExchange, HttpResponse, SameHeaders, WireError

_GREETINGS: Final = frozenset({"server/discover", "initialize"})
"""What settles the era, so that a refusal of it says nothing about a change."""

_BASE_HEADERS: Final = {
    "accept": "application/json, text/event-stream",
    "accept-encoding": "gzip",
    "content-type": "application/json",
    "user-agent": f"{CLIENT_INFO['name']}/{CLIENT_INFO['version']}",
}
_MIRRORS: Final = ("mcp-method", "mcp-name", "mcp-param-")
_OURS: Final = frozenset({"connection", "content-length", "host", "transfer-encoding"})
"""Headers that configuration and credentials cannot set: they would change where or how a message is framed."""

MAX_SAME_HEADERS: Final = 256
"""Kept ready for requests that come again; credentials of callers are among them, so not for long and not many."""

MAX_ERROR_BYTES: Final = 2**20
RESUME_ATTEMPTS: Final = 5
RESUME_AFTER_S: Final = 1.0
RESUME_AT_MOST_S: Final = 30.0
ERRAND_TIMEOUT_S: Final = 10.0
"""For messages nobody waits for: cancellations, answers to the upstream's questions, a session's DELETE."""
FAREWELL_S: Final = 1.0
"""How long a connection that ends still waits for cancellations to be taken."""


class _StreamEnded(Exception):
    """An event stream ended before the answer."""


@dataclass(slots=True)
class Exchange:
    """One request and what is known of its answer so far."""

    id: int
    dialect: Dialect
    request: UpstreamRequest
    call: Call
    session_id: str = ""
    new_session_id: str = ""
    last_event_id: str = ""
    resume_after_s: float = RESUME_AFTER_S
    fruitless: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    def note(self, event: Event) -> None:
        """Remember from where, and how soon, the stream can be resumed."""
        if event.id and event.id != self.last_event_id:
            self.last_event_id, self.fruitless = event.id, 0
        if event.retry_ms is not None:
            self.resume_after_s = min(event.retry_ms / 1000, RESUME_AT_MOST_S)


class _Opened:
    """An HTTP exchange whose failures are the upstream's."""

    __slots__ = ("_opening", "_upstream")

    def __init__(self, upstream: str, opening: HttpExchange) -> None:
        self._upstream = upstream
        self._opening = opening

    async def __aenter__(self) -> HttpResponse:
        try:
            return await self._opening.begin()
        except WireError as e:
            raise _unreachable(self._upstream, str(e)) from e

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opening.end()
        if isinstance(error, WireError):
            raise _unreachable(self._upstream, str(error)) from error


class Http:
    """Sends requests to one URL and reads their answers."""

    def __init__(
        self,
        name: str,
        url: str,
        headers: Mapping[str, str],
        client: HttpClient,
        tasks: TaskGroup,
        listener: Listener,
        limits: Limits,
    ) -> None:
        self.name = name
        self.url = url
        self.listener = listener
        self.limits = limits
        self._tasks = tasks
        self._own = headers
        self._static = {**_BASE_HEADERS, **_lowered(headers)}
        self._same: dict[tuple[Any, ...], SameHeaders] = {}
        self._client = client
        self._exchanges: dict[int, Exchange] = {}
        self._last_id = limits.ids_after
        self._questions = 0
        self._farewells: set[anyio.CancelScope] = set()
        self._farewell_said = anyio.Event()
        self._is_closed = False
        self._param_headers = ParamHeaders()

    def __repr__(self) -> str:
        return f"Http({self.name!r})"

    def carry(self, headers: Mapping[str, str]) -> None:
        """Send these with the gateway's own requests from now on, in place of those before."""
        self._static = {**self._static, **_lowered(headers)}

    def begin(self, dialect: Dialect, request: UpstreamRequest, reply: Reply, session_id: str = "") -> Exchange:
        """Prepare one request. Raises `TooBusy` if too many are in flight."""
        if self._is_closed:
            raise self._unreachable("was closed")
        if len(self._exchanges) >= self.limits.max_in_flight:
            raise TooBusy(self.name, f"upstream {self.name!r} has too many calls in flight")
        self._last_id += 1
        call = Call(reply, self.listener.dropped)
        exchange = Exchange(self._last_id, dialect, request, call, session_id)
        exchange.headers = self._headers_of(dialect, request, session_id)
        return exchange

    def _headers_of(self, dialect: Dialect, request: UpstreamRequest, session_id: str) -> dict[str, str]:
        """All headers of one request; the same object for requests whose headers are the same."""
        if dialect.era is Era.MODERN and request.method == "tools/call":
            mirrored = self._param_headers.of(request.params, request.definition)
            if mirrored:
                mirrored = dialect.headers(request.method, request.params) | mirrored
                return self.headers(request.headers, mirrored, session_id)
        credentials = request.headers
        own = () if not credentials or credentials is self._own else tuple(credentials.items())
        key = (request.method, dialect.version, named_in(request.method, request.params), session_id, own)
        same = self._same.get(key)
        if same is None:
            mirrored = {} if request.method == "initialize" else dialect.headers(request.method, request.params)
            same = SameHeaders(self.headers(credentials, mirrored, session_id))
            if len(self._same) >= MAX_SAME_HEADERS:
                del self._same[next(iter(self._same))]
            self._same[key] = same
        return same

    async def run(self, exchange: Exchange) -> Answer:
        """Send it and wait for the answer. Raises `UpstreamError`; cancelling the caller cancels it upstream."""
        request = exchange.request
        message = exchange.dialect.request(exchange.id, request.method, request.params, exchange.call.reply)
        self._exchanges[exchange.id] = exchange
        try:
            try:
                opening = self._client.open("POST", self.url, exchange.headers, jsonrpc.dump(message))
                response, answer = await opening.begin(), None
                try:
                    answer = self._answer_at_once(response, exchange)
                    if answer is None:
                        answer = await self._answer_in(response, exchange)
                    return answer
                finally:
                    opening.end(is_answered=answer is not None)
            except (WireError, _StreamEnded, Unreachable) as e:
                return await self._answer_after(e, exchange)
        except anyio.get_cancelled_exc_class():
            self._tell_cancelled(exchange)
            raise
        finally:
            exchange.call.is_over = True
            del self._exchanges[exchange.id]

    async def close(self) -> None:
        """Begin nothing new: the tasks that errands run in are about to end. Cancellations still go out."""
        self._is_closed = True
        with anyio.move_on_after(FAREWELL_S, shield=True):
            while self._farewells:
                self._farewell_said = anyio.Event()
                await self._farewell_said.wait()
        for scope in self._farewells:
            scope.cancel()

    def run_errand(self, errand: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        """Do something that nobody waits for, if there is still time for it."""
        if not self._is_closed:
            self._tasks.start_soon(errand, *arguments)

    async def post(self, message: Json, headers: Mapping[str, str]) -> None:
        """Send a notification or a response. Raises `UpstreamError`."""
        await self.deliver(headers, jsonrpc.dump(message), self.url)

    async def deliver(self, headers: Mapping[str, str], body: bytes, url: str) -> None:
        """POST what nobody answers in the same exchange. Raises `UpstreamError`."""
        with anyio.move_on_after(ERRAND_TIMEOUT_S):
            async with self.open("POST", headers, body, url) as response:
                if response.status >= 300:
                    raise self._rejected(response)
                return
        raise self._unreachable("did not take a message in time")

    def headers(self, credentials: Mapping[str, str], mirrored: Mapping[str, str], session_id: str) -> dict[str, str]:
        """All headers of one request; the protocol's own win over credentials, credentials over configuration."""
        session = {"mcp-session-id": session_id} if session_id else {}
        if not credentials:
            return {**self._static, **mirrored, **session}
        return {**self._static, **_lowered(credentials), **mirrored, **session}

    def open(
        self, method: str, headers: Mapping[str, str], body: bytes | None = None, url: str | None = None
    ) -> _Opened:
        """Send one HTTP request; what breaks becomes `Unreachable`."""
        return _Opened(self.name, self._client.open(method, url or self.url, headers, body))

    async def hear(self, headers: Mapping[str, str], on_open: Callable[[], None] = lambda: None) -> None:
        """Read the stream of a GET until it ends: what a legacy server says outside any call."""

        def opened() -> None:
            self.listener.on_gap(False)  # what changed before was said to nobody
            on_open()

        async with aclosing(self.events_of_get(headers, opened)) as events:
            async for event in events:
                await self._take_stray(event, headers)

    async def events_of_get(
        self, headers: Mapping[str, str], on_open: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[Event, None]:
        """The events of a GET's stream. Raises `UpstreamError`, `Rejected` where there is no such stream."""
        async with self.open("GET", {**headers, "accept": EVENTS}) as response:
            if response.status >= 300 or content_type(response) != EVENTS:
                raise self._rejected(response)
            on_open()
            async with aclosing(self._events(response, max_bytes=None)) as events:
                async for event in events:
                    yield event

    async def _answer_after(self, error: WireError | _StreamEnded | Unreachable, exchange: Exchange) -> Answer:
        """The answer although its stream broke off, if the server can take that up again. Raises `Unreachable`."""
        # Only an id given by the server makes a stream resumable (2025-11-25 transports, "Resumability").
        if exchange.last_event_id and exchange.dialect.era is Era.LEGACY:
            return await self._resumed(exchange)
        if isinstance(error, Unreachable):
            raise error
        why = str(error) if isinstance(error, WireError) else "ended its stream before the answer"
        raise self._unreachable(why) from error

    def _answer_at_once(self, response: HttpResponse, exchange: Exchange) -> Answer | None:
        """The answer in a plain response that has come whole; None: look closer."""
        if response.status != 200 or content_type(response) != "application/json":
            return None
        body = response.read_at_once(self.limits.max_message_bytes)
        if body is None:
            return None
        exchange.new_session_id = response.headers.get("mcp-session-id", "")
        return self._answer_in_body(body, exchange)

    async def _resumed(self, exchange: Exchange) -> Answer:
        """Take up a stream that broke off, as often as that brings something new."""
        while exchange.fruitless < RESUME_ATTEMPTS:
            exchange.fruitless += 1
            await anyio.sleep(exchange.resume_after_s)
            headers = {**exchange.headers, "accept": EVENTS, "last-event-id": exchange.last_event_id}
            try:
                async with self.open("GET", headers) as response:
                    if response.status >= 300:
                        raise self._rejected(response)
                    return await self._answer_in_stream(response, exchange)
            except Rejected:
                raise
            except (_StreamEnded, Unreachable):
                continue
        raise self._unreachable("ended its stream before the answer")

    async def _answer_in(self, response: HttpResponse, exchange: Exchange) -> Answer:
        if response.status >= 300:
            return await self._answer_in_refusal(response, exchange)
        exchange.new_session_id = response.headers.get("mcp-session-id", "")
        kind = content_type(response)
        if kind == EVENTS:
            return await self._answer_in_stream(response, exchange)
        if kind != "application/json":
            raise self._misbehaved(f"HTTP {response.status} with {type_in_words(response)} in it")
        return self._answer_in_body(await self._body(response, self.limits.max_message_bytes), exchange)

    def _answer_in_body(self, body: bytes, exchange: Exchange) -> Answer:
        answer = self._own_answer(self._read_message(body), exchange)
        if answer is None:
            raise self._misbehaved("an answer to another request")
        return answer

    async def _answer_in_refusal(self, response: HttpResponse, exchange: Exchange) -> Answer:
        """A JSON-RPC error in the body of a 4xx or 5xx is an answer; anything else is only a status."""
        refusal = rejected(self.name, response)
        answer = None
        if response.status >= 400 and content_type(response) == "application/json":
            answer = await self._answer_in_error_body(response, exchange)
        if exchange.session_id and means_session_lost(response.status, answer):
            raise SessionLost(self.name, f"upstream {self.name!r} ended its session")
        is_settled = exchange.request.method not in _GREETINGS
        if answer is not None and is_settled and sounds_of_other_era(exchange.dialect.era, response.status, answer):
            raise EraRefused(self.name, f"upstream {self.name!r} refused this era's requests", answer)
        if answer is None or refusal.is_about_credentials:
            raise refusal
        return answer

    async def _answer_in_error_body(self, response: HttpResponse, exchange: Exchange) -> Answer | None:
        try:
            message = messages.read_message(await self._body(response, MAX_ERROR_BYTES))
            return self._own_answer(message, exchange)
        except (NotAMessage, Misbehaved):
            return None

    async def _answer_in_stream(self, response: HttpResponse, exchange: Exchange) -> Answer:
        is_listening = exchange.request.method == "subscriptions/listen"
        max_bytes = None if is_listening else self.limits.max_answer_bytes
        async with aclosing(self._events(response, max_bytes)) as events:
            async for event in events:
                exchange.note(event)
                answer = await self._take(event, exchange)
                if answer is not None:
                    return answer
        raise _StreamEnded

    async def _take(self, event: Event, exchange: Exchange) -> Answer | None:
        """Act on one event of a request's own stream; the answer, if it is that."""
        message = self._message_in(event, exchange.id)
        if message is None:
            return None
        if messages.is_response(message):
            return self._own_answer(message, exchange)
        if "id" in message:
            self._take_question(message, exchange.headers, exchange.call.reply)
            return None
        method, params = message.get("method"), messages.params_of(message)
        is_strangers = method == "notifications/progress" and _token(params) != exchange.id
        await self._take_notification(method, params, None if is_strangers else exchange.call)
        return None

    async def _take_stray(self, event: Event, headers: Mapping[str, str]) -> None:
        """Act on one event that came outside any request's own stream."""
        message = self._message_in(event, 0)
        if message is None or messages.is_response(message):
            return
        if "id" in message:
            self._take_question(message, headers, self._only_reply(headers.get("mcp-session-id", "")))
            return
        params = messages.params_of(message)
        exchange = self._exchanges.get(_token(params))
        call = exchange.call if exchange is not None else None
        # Servers that do not say which request a progress belongs to send it here; a slow agent must not hold up
        # what comes next.
        with anyio.move_on_after(1):
            await self._take_notification(message.get("method"), params, call)

    async def _take_notification(self, method: object, params: Json, call: Call | None) -> None:
        if method in ("notifications/progress", "notifications/message"):
            if call is None:
                self.listener.dropped["unattributed"] += 1
            elif call.admits(str(method), params):
                await call.relay(str(method), params)
        else:
            self.listener.take_news(method, params)

    def _only_reply(self, session_id: str) -> Reply | None:
        """Whose call a question outside any call's stream is about: sure only while its session has exactly one.

        Many servers put there what a call of theirs wants to know; no other agent may be asked it.
        """
        agents = [
            exchange.call.reply
            for exchange in self._exchanges.values()
            if exchange.session_id == session_id and exchange.call.reply is not SILENT
        ]
        return agents[0] if len(agents) == 1 else None

    def _take_question(self, message: Json, headers: Mapping[str, str], reply: Reply | None) -> None:
        request_id = messages.question_id(message)
        if request_id is None or self._questions >= MAX_QUESTIONS:
            self.listener.dropped["question"] += 1
            return
        self._questions += 1
        self.run_errand(self._answer_question, request_id, message, _without_mirrors(headers), reply)

    async def _answer_question(
        self, request_id: int | str, message: Json, headers: Mapping[str, str], reply: Reply | None
    ) -> None:
        try:
            if message.get("method") == "ping":
                response = jsonrpc.result_message(request_id, {})
            else:
                response = await answer_question(self.listener, request_id, message, reply)
            await self.post(response, headers)
        except Unreachable:
            self.listener.dropped["response"] += 1
        finally:
            self._questions -= 1

    def _tell_cancelled(self, exchange: Exchange) -> None:
        # Modern: closing the stream was the cancellation. Legacy: a disconnect explicitly is not.
        is_told = exchange.dialect.era is Era.LEGACY and exchange.request.method != "initialize"
        if is_told and not self._is_closed:
            # Even while the connection ends: the upstream may be working for nobody.
            scope = anyio.CancelScope(shield=True)
            self._farewells.add(scope)
            self.run_errand(self._post_farewell, scope, cancellation_of(exchange.id), exchange.headers)

    async def _post_farewell(self, scope: anyio.CancelScope, message: Json, headers: Mapping[str, str]) -> None:
        try:
            with scope:
                await self.post(message, headers)
        except Unreachable:
            self.listener.dropped["cancellation"] += 1
        finally:
            self._farewells.discard(scope)
            self._farewell_said.set()

    def _own_answer(self, message: Json, exchange: Exchange) -> Answer | None:
        """The answer in a response, if it is to this exchange. An error without an id answers what it came back on."""
        is_ours = messages.response_id(message) == exchange.id
        if not messages.is_response(message) or not (is_ours or (message.get("id") is None and "error" in message)):
            self.listener.dropped["unknown id"] += 1
            return None
        try:
            return messages.answer_in(message)
        except NotAMessage as e:
            raise self._misbehaved(str(e)) from e

    def _message_in(self, event: Event, request_id: int) -> Json | None:
        """The message an event carries; None for an empty or foreign one."""
        if not event.data or event.name != "message":
            return None
        try:
            return messages.read_message(event.data)
        except NotAMessage as e:
            if e.request_id == request_id:
                raise self._misbehaved(str(e)) from e
            self.listener.dropped["noise"] += 1
            return None

    def _read_message(self, body: bytes) -> Json:
        try:
            return messages.read_message(body)
        except NotAMessage as e:
            raise self._misbehaved(str(e)) from e

    async def _body(self, response: HttpResponse, max_bytes: int) -> bytes:
        """A whole decoded body; counted while it comes, so that a bomb is cut off at the bound."""
        body = await response.read(max_bytes)
        if body is None:
            raise self._misbehaved(f"more than {max_bytes} bytes")
        return body

    async def _events(self, response: HttpResponse, max_bytes: int | None) -> AsyncGenerator[Event, None]:
        parser = EventParser(self.limits.max_message_bytes)
        size = 0
        async with aclosing(response.body()) as body:
            async for piece in body:
                size += len(piece)
                if max_bytes is not None and size > max_bytes:
                    raise self._misbehaved(f"more than {max_bytes} bytes")
                try:
                    for event in parser.feed(piece):
                        yield event
                except EventTooLong as e:
                    raise self._misbehaved(str(e)) from e

    def _rejected(self, response: HttpResponse) -> Rejected:
        return rejected(self.name, response)

    def _unreachable(self, words: str) -> Unreachable:
        return _unreachable(self.name, words)

    def _misbehaved(self, words: str) -> Misbehaved:
        return Misbehaved(self.name, f"upstream {self.name!r} sent {words}")


def _unreachable(upstream: str, words: str) -> Unreachable:
    return Unreachable(upstream, f"upstream {upstream!r} {words}")


def _token(params: Json) -> int:
    """The progress token, if it can be one of ours; else 0, which none is. `True` is not 1."""
    token = params.get("progressToken")
    return token if type(token) is int else 0


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items() if name.lower() not in _OURS}


def _without_mirrors(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a request, without those that mirror its body."""
    return {name: value for name, value in headers.items() if not name.lower().startswith(_MIRRORS)}
