"""The answer to one POST: plain JSON if nothing comes before it, an event stream otherwise.

No task per call: a call that is answered quickly and says nothing on the way runs in the ASGI task alone. Our own
connection tells when the agent hangs up; over any other ASGI server a watcher for that starts when a call takes longer
than `WATCH_AFTER_S`. A writer of events starts with the first progress or log line, or after `PING_EVERY_S` of silence
so that no proxy closes the connection.

The writer drops what a slow reader leaves unread beyond `MAX_UNSENT` messages or `MAX_UNSENT_BYTES`, the oldest first.
The answer is never dropped, but a reader that does not take it within `SEND_TIMEOUT_S` is hung up on. Questions are not
dropped either, but a reader that is far behind is asked nothing more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

import anyio
from starlette.types import Receive, Send

from mcp_gateway.domain import Caller, Json
from mcp_gateway.jsonrpc import dump
from mcp_gateway.timers import shared_timer

WATCH_AFTER_S: Final = 0.05
PING_EVERY_S: Final = 15.0
SEND_TIMEOUT_S: Final = 30.0
DRAIN_S: Final = 10
"""How long calls under way may take to finish once the gateway is told to stop."""
MAX_UNSENT: Final = 256
MAX_UNSENT_BYTES: Final = 1024 * 1024
MAX_NEWS: Final = 2_000
"""Different pieces of news unsent; no agent can subscribe to that much."""

CHALLENGE: Final = (b"www-authenticate", b'Bearer realm="mcp_gateway", error="invalid_token"')
"""What every 401 carries (RFC 9110 section 15.5.2, RFC 6750 section 3)."""

Headers = Sequence[tuple[bytes, bytes]]

_SSE_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)

_OK_JSON: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"

_PING: Final = b": ping\n\n"


class Connected(Protocol):
    """What our own server's connection offers beyond ASGI."""

    def on_hang_up(self, call: Callable[[], None] | None) -> None:
        """Have something called when the agent goes away; None: nothing any more."""
        ...

    def respond(self, head: bytes, body: bytes) -> bool:
        """Answer whole and at once; False where `send` is the way."""
        ...


class Closers:
    """What to call when a credential stops holding: ends every stream and long call that hangs on it."""

    def __init__(self) -> None:
        self._open: dict[object, _Open] = {}
        self._is_closing = False

    def add(self, caller: Caller, close: Callable[[], object], *, is_stream: bool = True) -> object:
        """Register something that lives on; returns the key to `discard` it with.

        `is_stream`: it would never end by itself, so a gateway that stops has to end it.
        """
        key = _Open(caller, close, is_stream)
        self._open[key] = key
        if self._is_closing and is_stream:
            asyncio.get_running_loop().call_soon(close)
        return key

    def discard(self, key: object) -> None:
        """Forget something that has ended; unknown keys are fine."""
        self._open.pop(key, None)

    def close_where(self, ends: Callable[[Caller], bool]) -> None:
        """End everything of the callers for whom `ends` is true; each credential, and task, is asked about once."""
        answers: dict[tuple[str, str, str], bool] = {}
        for one in list(self._open.values()):
            who = (one.caller.agent, one.caller.credential_id, one.caller.started_id)
            if who not in answers:
                answers[who] = ends(one.caller)
            if answers[who]:
                one.close()

    def close_expired(self, now_s: float) -> None:
        """End the streams of callers whose credential has ended by now; calls under way may still be answered."""
        for one in list(self._open.values()):
            if one.is_stream and one.caller.expires_at <= now_s:
                one.close()

    def close_streams(self) -> None:
        """The gateway stops: end what would not end by itself, from now on. Calls under way may still be answered."""
        self._is_closing = True
        for one in list(self._open.values()):
            if one.is_stream:
                one.close()


@dataclass(eq=False, slots=True)
class _Open:
    caller: Caller
    close: Callable[[], object]
    is_stream: bool


def sse_event(message: Json) -> bytes:
    """One JSON-RPC message as an SSE frame."""
    return b"event: message\ndata: " + dump(message) + b"\n\n"


async def send_json(
    send: Send, status: int, body: bytes, headers: Headers = (), content_type: bytes = b"application/json"
) -> None:
    """A whole HTTP response in two ASGI messages."""
    start = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


async def over_or_hung_up(over: asyncio.Event, receive: Receive) -> bool:
    """Wait until `over` is set (False) or the agent hangs up (True)."""
    watcher = asyncio.create_task(_hang_up(receive))
    ender = asyncio.create_task(over.wait())
    try:
        await asyncio.wait({watcher, ender}, return_when=asyncio.FIRST_COMPLETED)
        return not over.is_set()
    finally:
        watcher.cancel()
        ender.cancel()


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """An SSE response that is written to without waiting and drained by a task of its own."""

    def __init__(self, send: Send, headers: Headers = ()) -> None:
        self._send = send
        self._headers = headers
        self._unsent: deque[bytes] = deque()
        self._news: dict[bytes, None] = {}
        self._unsent_bytes = 0
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._last: bytes | None = None
        self._ended = False

    @property
    def started(self) -> bool:
        """Whether the response is committed to being a stream."""
        return self._task is not None

    def start(self) -> None:
        """Commit to a stream and begin to drain it."""
        if self._task is None:
            self._task = asyncio.create_task(self._drain())

    def put(self, message: Json) -> None:
        """Queue one message; the oldest unsent ones give way when the reader is too far behind."""
        event = sse_event(message)
        self._unsent.append(event)
        self._unsent_bytes += len(event)
        while len(self._unsent) > MAX_UNSENT or self._unsent_bytes > MAX_UNSENT_BYTES:
            self._unsent_bytes -= len(self._unsent.popleft())
        self._wake.set()
        self.start()

    def keep(self, message: Json) -> None:
        """Queue one message that is not dropped. Raises `LookupError` when the reader is too far behind."""
        if self._kept_bytes > MAX_UNSENT_BYTES:
            raise LookupError("the agent does not read what it is asked")
        event = sse_event(message)
        self._kept.append(event)
        self._kept_bytes += len(event)
        self._wake.set()
        self.start()

    def put_once(self, message: Json) -> None:
        """Queue news that says the same however often it is said: not again while it is unsent."""
        if len(self._news) < MAX_NEWS:
            self._news[sse_event(message)] = None
        self._wake.set()
        self.start()

    async def end(self, message: Json | None = None) -> None:
        """Send `message` last, if there is one, and close; a reader that does not take it is hung up on."""
        self._last = None if message is None else sse_event(message)
        self._ended = True
        self._wake.set()
        if self._task is None:
            return
        with anyio.move_on_after(SEND_TIMEOUT_S, shield=True):
            await asyncio.wait([self._task])
        await self.abandon()

    async def abandon(self) -> None:
        """Send nothing more, not even what is queued; the server then closes the connection."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @property
    def _has_unsent(self) -> bool:
        return bool(self._unsent or self._news or self._kept)

    async def _drain(self) -> None:
        headers = [*_SSE_HEADERS, *self._headers]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        while not self._ended or self._has_unsent:
            if not self._has_unsent:
                await self._pause()
            chunk = b"".join(self._take()) or _PING
            if chunk is not _PING or not self._ended:
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send({"type": "http.response.body", "body": self._last or b"", "more_body": False})

    async def _pause(self) -> None:
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(PING_EVERY_S):
                await self._wake.wait()

    def _take(self) -> list[bytes]:
        taken = [*self._unsent, *self._news, *self._kept]
        self._unsent.clear()
        self._news.clear()
        self._kept.clear()
        self._unsent_bytes = self._kept_bytes = 0
        return taken


class Exchange:
    """One POST and its answer."""

    # What few exchanges ever change.
    due = 0.0
    as_event = False
    """Whether the answer is to be an event of a stream although nothing comes before it."""
    _stream: EventStream | None = None
    _task: asyncio.Task[Any] | None = None
    _is_cancelled = False
    _is_watched = True
    _began_at = 0.0
    _watcher: asyncio.Task[None] | None = None
    _early: asyncio.Task[None] | None = None
    _is_revoked = False

    def __init__(
        self, receive: Receive, send: Send, headers: Headers = (), connection: Connected | None = None
    ) -> None:
        """`connection`: the other end as our own server knows it, where that is who serves."""
        self._receive = receive
        self._send = send
        self._headers = headers
        self._connection = connection

    def add_headers(self, headers: Headers) -> None:
        """Send these with the answer too, if it has not begun."""
        self._headers = (*self._headers, *headers)

    def put(self, message: Json) -> None:
        """Send a notification before the answer: the response becomes an event stream."""
        self._events().put(message)

    def ask(self, message: Json) -> None:
        """Send a question before the answer. Raises `LookupError` where the agent does not read."""
        self._events().keep(message)

    def answer_early(self, status: int, message: Json) -> None:
        """Answer now, although the work goes on; what it returns finds no reader here."""
        shared_timer().discard(self)
        self._early = asyncio.create_task(self._send_early((status, message)))

    def cancel(self) -> None:
        """Stop working on the answer: nobody wants it any more."""
        if not self._is_cancelled:
            self._is_cancelled = True
            if self._task is not None:
                self._task.cancel()

    def revoke(self) -> None:
        """Stop working on the answer: whoever asked may not have it any more."""
        self._is_revoked = True
        self.cancel()

    async def run(
        self,
        work: Callable[[], Awaitable[tuple[int, Json] | None]],
        closers: Closers,
        caller: Caller,
        *,
        hang_up_cancels: bool,
    ) -> None:
        """Await `work` for (HTTP status, message) and send it; None: it was answered early.

        `hang_up_cancels`: a closed connection cancels the work (modern, transports "Disconnection"); where it does
        not (legacy), the work goes on and its answer finds no reader.
        """
        key = closers.add(caller, self.revoke, is_stream=False)
        timer = shared_timer()
        self._begin(timer.loop.time(), hang_up_cancels)
        timer.add(self)
        answer = None
        try:
            if not self._is_cancelled:
                self._task = asyncio.current_task()
                answer = await work()
        except asyncio.CancelledError:
            # The same as a cancel scope, at a fifth of its cost. Somebody else's cancellation, which may have come as
            # well, goes its way (as `asyncio.timeout` does it).
            if not self._is_cancelled or self._task is None or self._task.uncancel() > 0:
                await self._abandon()
                raise
        except BaseException:
            await self._abandon()
            raise
        finally:
            self._task = None
            timer.discard(self)
            closers.discard(key)
            if self._connection is not None:
                self._connection.on_hang_up(None)
            if self._watcher is not None:
                await self._stop_watching()
        if self._early is not None:
            await self._early
        elif answer is None or self._stream is not None or not self._is_sent_whole(*answer):
            await self._finish(answer)

    def look(self, now: float) -> bool:
        """It takes longer: watch for the agent hanging up, and later keep proxies from doing so."""
        if not self._is_watched:
            self._is_watched = True
            self._watcher = asyncio.create_task(self._cancel_on_hang_up())
            self.due = self._began_at + PING_EVERY_S
            return False
        self._events().start()
        return True

    def _begin(self, now: float, hang_up_cancels: bool) -> None:
        self._began_at = now
        self.due = now + PING_EVERY_S
        if hang_up_cancels and self._connection is not None:
            self._connection.on_hang_up(self.cancel)
        elif hang_up_cancels:
            self._is_watched, self.due = False, now + WATCH_AFTER_S

    async def _send_early(self, answer: tuple[int, Json]) -> None:
        await self._stop_watching()
        await self._finish(answer)

    def _events(self) -> EventStream:
        if self._stream is None:
            self._stream = EventStream(self._send, self._headers)
        return self._stream

    async def _abandon(self) -> None:
        if self._stream is not None:
            await self._stream.abandon()

    async def _finish(self, answer: tuple[int, Json] | None) -> None:
        if self._stream is not None and self._stream.started:
            await self._stream.end(answer[1] if answer else None)
        elif answer is not None and self.as_event:
            headers = [*_SSE_HEADERS[1:], *self._headers]
            await send_json(self._send, 200, sse_event(answer[1]), headers, b"text/event-stream")
        elif answer is not None:
            await send_json(self._send, answer[0], dump(answer[1]), self._headers)
        elif self._is_revoked:
            body = dump({"error": "the bearer token is not valid any more"})
            await send_json(self._send, 401, body, [CHALLENGE, *self._headers])
        else:
            # Cancelled before anything was sent. Whoever still reads gets a response without a body: there is no
            # answer to the request, and HTTP needs one.
            await send_json(self._send, 202, b"", self._headers)

    def _is_sent_whole(self, status: int, message: Json) -> bool:
        """Answer without waiting for anybody, where that can be done; as nearly all calls are."""
        if status != 200 or self._connection is None or self.as_event:
            return False
        return self._connection.respond(self._head(), dump(message))

    def _head(self) -> bytes:
        return b"".join((_OK_JSON, *(b"%b: %b\r\n" % line for line in self._headers))) if self._headers else _OK_JSON

    async def _cancel_on_hang_up(self) -> None:
        await _hang_up(self._receive)
        self.cancel()

    async def _stop_watching(self) -> None:
        if self._watcher is not None and not self._watcher.done():
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
