"""One agent on the standard streams, in whichever era it speaks; the identity comes from how the process was started.

Messages are lines of JSON; `streams` has where they come from. A request that carries 2026-07-28's envelope is modern,
any other belongs to the handshake (basic/index, dual-era servers). Cancellation is `notifications/cancelled` in both
eras. When stdin ends, what was asked before is still answered within `DRAIN_S`, so that requests can be piped in, but
calls that wait for an answer of the agent's side end at once; when stdout ends, everything does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from mcp_gateway.domain import Era, Json, Kind, RpcError, Transport
from mcp_gateway.errors import BadRequest, GatewayError
from mcp_gateway.frontdoor.answers import SERVER_INFO, Answers
from mcp_gateway.frontdoor.listen import Bulletin, Listening
from mcp_gateway.frontdoor.protocol import (
    Answer,
    Ask,
    Asked,
    client_name,
    has_modern_envelope,
    has_plain_envelope,
    read_message,
    readable_id,
)
from mcp_gateway.frontdoor.replies import AgentReply
from mcp_gateway.frontdoor.rounds import Rounds
from mcp_gateway.frontdoor.session import Session, elicitation_complete
from mcp_gateway.frontdoor.streams import Sink, Source
from mcp_gateway.frontdoor.subscriber import CurrentCaller, Subscriber
from mcp_gateway.frontdoor.updates import UPDATED
from mcp_gateway.frontdoor.wire_errors import INTERNAL_ERROR, answer_to
from mcp_gateway.jsonrpc import Code, dump, error_message, parse
from mcp_gateway.revisions import META_CLIENT, META_VERSION
from mcp_gateway.upstreams.sdk import refuse_envelope

MAX_UNSENT: Final = 4_096
MAX_UNSENT_BYTES: Final = 16 * 1024 * 1024
"""Lines and bytes kept for an agent that does not read. Beyond either notifications are dropped, answers never; and
beyond the bytes nothing more is read from it."""

DRAIN_S: Final = 5.0
"""How long answers may take once stdin has ended."""

_CHUNK: Final = 64 * 1024


class StdioDoor:
    """Serves one agent until its stdin ends."""

    def __init__(
        self, answers: Answers, rounds: Rounds, bulletin: Bulletin, caller: CurrentCaller, max_line_bytes: int
    ) -> None:
        self._answers = answers
        self._rounds = rounds
        self._bulletin = bulletin
        self._caller = caller
        self._max_line_bytes = max_line_bytes
        self._session = Session("stdio", caller(), Transport.STDIO)

    async def serve(self, reader: Source, writer: Sink) -> None:
        """Read and answer until the end of stdin, or until nobody reads the answers."""
        outbox = _Outbox(writer)
        told = self._session.subscriber = Subscriber(
            self._caller,
            Era.LEGACY,
            Transport.STDIO,
            tuple(Kind),
            self._tell(outbox),
            lambda uri: outbox.put_once({"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": uri}}),
        )
        self._bulletin.subscribe(told)
        try:
            async with anyio.create_task_group() as lasting:
                lasting.start_soon(_drain, outbox, lasting)
                with anyio.CancelScope() as grace:
                    async with anyio.create_task_group() as calls:
                        async for line in _lines(reader, self._max_line_bytes):
                            self._take(line, outbox, calls, lasting)
                            await outbox.has_room()
                        grace.deadline = anyio.current_time() + DRAIN_S
                        self._session.hear_no_more()
                        self._rounds.close()
                with anyio.move_on_after(DRAIN_S):
                    await outbox.is_sent()
                lasting.cancel_scope.cancel()
        finally:
            self._bulletin.unsubscribe(told)

    def _tell(self, outbox: _Outbox) -> Callable[[str], None]:
        def tell(method: str) -> None:
            if self._session.is_initialized:
                outbox.put_once({"jsonrpc": "2.0", "method": method})

        return tell

    def _take(self, line: bytes | None, outbox: _Outbox, calls: TaskGroup, lasting: TaskGroup) -> None:
        """Begin to answer one line; None stands for one that was too long."""
        value = None
        try:
            if line is None:
                raise BadRequest(f"a message is at most {self._max_line_bytes} bytes", Code.INVALID_REQUEST)
            value = parse(line)
            message = read_message(value)
        except BadRequest as e:
            outbox.put_answer(error_message(readable_id(value), RpcError(e.rpc_code, str(e))))
            return
        if isinstance(message, Ask):
            self._begin(message, outbox, calls, lasting)
        elif isinstance(message, Answer):
            self._session.take_answer(message)
        elif message.method == "notifications/cancelled":
            self._session.cancel(message.params)

    def _begin(self, message: Ask, outbox: _Outbox, calls: TaskGroup, lasting: TaskGroup) -> None:
        scope = anyio.CancelScope()
        try:
            asked = self._asked(message)
            self._session.begin(message.id, scope.cancel)
        except GatewayError as e:
            answer = answer_to(e, message.method, _era_of(message))
            outbox.put_answer({"jsonrpc": "2.0", "id": message.id, **answer})
            return
        if asked.era is Era.MODERN and asked.method == "subscriptions/listen":
            lasting.start_soon(self._listen, message, outbox, scope)
        else:
            calls.start_soon(self._answer, message, asked, outbox, scope)

    def _asked(self, message: Ask) -> Asked:
        """The request in its era; raises `BadRequest` where its era does not allow it."""
        if _era_of(message) is Era.MODERN:
            return _modern(message)
        if message.method == "initialize":
            self._session.initialize(message.params)
        elif not self._session.is_initialized and message.method != "ping":
            # Also what a modern agent's probe without an envelope gets; -32602 as the SDKs answer it.
            raise BadRequest("initialize first, or send the 2026-07-28 envelope in params._meta")
        elif message.method == "logging/setLevel":
            self._session.set_log_level(message.params)
        return self._session.asked(message)

    async def _answer(self, message: Ask, asked: Asked, outbox: _Outbox, scope: anyio.CancelScope) -> None:
        channel = _Channel(self._session, outbox, message.id, scope)
        try:
            with scope:
                if asked.era is Era.MODERN:
                    answer = await self._rounds.answer(self._caller(), asked, channel)
                else:
                    answer = await self._answer_legacy(message, asked, outbox)
                if answer is not None:
                    channel.answer_early(answer)
        finally:
            channel.finish()

    async def _answer_legacy(self, message: Ask, asked: Asked, outbox: _Outbox) -> Json:
        session, caller = self._session, self._caller()
        reply = AgentReply(
            outbox.put,
            message.params,
            session.log_level,
            capabilities=session.capabilities,
            asker=lambda method, params: session.ask(outbox.put_answer, method, params),
            side=caller,
            on_elicited=lambda link_id: outbox.put(elicitation_complete(link_id)),
        )
        try:
            return await self._answers.answer(caller, asked, reply)
        finally:
            reply.finish()

    async def _listen(self, message: Ask, outbox: _Outbox, scope: anyio.CancelScope) -> None:
        listening = Listening(message, SERVER_INFO)
        subscriber = Subscriber(
            caller=self._caller,
            era=Era.MODERN,
            transport=Transport.STDIO,
            kinds=listening.kinds,
            tell=lambda method: outbox.put_once(listening.notification(method)),
            tell_updated=lambda uri: outbox.put_once(listening.update(uri)),
            tell_task=lambda params: outbox.put(listening.task(params)),
            is_listening=False,
        )
        try:
            with scope:
                outbox.put_answer(await self._bulletin.open(listening, subscriber))
                self._bulletin.resume(subscriber)
                await anyio.sleep_forever()
        except GatewayError as e:
            outbox.put_answer({"jsonrpc": "2.0", "id": message.id, **answer_to(e, message.method, Era.MODERN)})
        finally:
            self._bulletin.unsubscribe(subscriber)
            self._session.finish(message.id)


class _Channel:
    """`rounds.Channel` for one request on the standard streams."""

    def __init__(self, session: Session, outbox: _Outbox, request_id: str | int, scope: anyio.CancelScope) -> None:
        self.put = outbox.put
        self.cancel = scope.cancel
        self._session = session
        self._outbox = outbox
        self._request_id = request_id
        self._is_open = True

    def answer_early(self, member: Json) -> None:
        self._outbox.put_answer({"jsonrpc": "2.0", "id": self._request_id, **member})
        self.finish()

    def finish(self) -> None:
        """The request is answered, or never will be: its id is free again."""
        if self._is_open:
            self._is_open = False
            self._session.finish(self._request_id)


class _Outbox:
    """Lines for the agent, written by one task so that they never mix."""

    def __init__(self, writer: Sink) -> None:
        self._writer = writer
        self._lines: deque[bytes] = deque()
        self._news: dict[bytes, None] = {}
        self._unsent_bytes = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._sent = asyncio.Event()
        self._room.set()
        self._sent.set()

    def put(self, message: Json) -> None:
        """Queue a notification, unless the agent has stopped reading."""
        if len(self._lines) < MAX_UNSENT and self._unsent_bytes < MAX_UNSENT_BYTES:
            self.put_answer(message)

    def put_once(self, message: Json) -> None:
        """Queue news that says the same however often it is said: not again while it is unsent."""
        line = dump(message) + b"\n"
        if line not in self._news and len(self._news) < MAX_UNSENT and self._unsent_bytes < MAX_UNSENT_BYTES:
            self._news[line] = None
            self._note_unsent(line)

    def put_answer(self, message: Json) -> None:
        """Queue a message that must not be lost."""
        try:
            line = dump(message) + b"\n"
        except TypeError:  # something an upstream's error carries and JSON has no exact form for
            line = dump(error_message(message.get("id"), INTERNAL_ERROR)) + b"\n"
        self._lines.append(line)
        self._note_unsent(line)

    def _note_unsent(self, line: bytes) -> None:
        self._unsent_bytes += len(line)
        self._sent.clear()
        self._wake.set()
        if self._unsent_bytes >= MAX_UNSENT_BYTES:
            self._room.clear()

    async def has_room(self) -> None:
        """Let others work; then wait while the agent is too far behind with reading."""
        await checkpoint()
        await self._room.wait()

    async def is_sent(self) -> None:
        """Wait until all that was queued is written."""
        await self._sent.wait()

    async def drain(self) -> None:
        """Write what is queued, for ever. Raises `ConnectionError` once nobody will ever read it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._lines or self._news:
                chunk = self._take()
                self._writer.write(chunk)
                await self._writer.drain()
                self._unsent_bytes -= len(chunk)
                if self._unsent_bytes < MAX_UNSENT_BYTES:
                    self._room.set()
            self._sent.set()

    def _take(self) -> bytes:
        lines: list[bytes] = []
        size = 0
        while (self._lines or self._news) and size < _CHUNK:
            lines.append(self._lines.popleft() if self._lines else self._first_news())
            size += len(lines[-1])
        return b"".join(lines)

    def _first_news(self) -> bytes:
        line = next(iter(self._news))
        del self._news[line]
        return line


async def _drain(outbox: _Outbox, lasting: TaskGroup) -> None:
    """Write the outbox; end everything when the agent does not read any more."""
    with suppress(ConnectionError):
        await outbox.drain()
    lasting.cancel_scope.cancel()


async def _lines(reader: Source, max_bytes: int) -> AsyncIterator[bytes | None]:
    """Lines in linear time; None for one longer than `max_bytes`, which is skipped whole. Blank lines are nothing.

    What stands after the last line feed is a line too: an unfinished JSON object can be taken for no other.
    """
    held, is_too_long = bytearray(), False
    while chunk := await reader.read(_CHUNK):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line = _line(held + end, max_bytes, is_too_long=is_too_long)
            held, is_too_long = bytearray(), False
            if line != b"":
                yield line
        held += rest
        if len(held) > max_bytes:
            held, is_too_long = bytearray(), True
    if (last := _line(held, max_bytes, is_too_long=is_too_long)) != b"":
        yield last


def _line(raw: bytearray, max_bytes: int, *, is_too_long: bool) -> bytes | None:
    return None if is_too_long or len(raw) > max_bytes else bytes(raw.strip())


def _era_of(message: Ask) -> Era:
    is_modern = has_modern_envelope(message.params) and message.method != "initialize"
    return Era.MODERN if is_modern else Era.LEGACY


def _modern(message: Ask) -> Asked:
    if not has_plain_envelope(message.params):
        refusal = refuse_envelope({"method": message.method, "params": message.params}, None)
        if refusal is not None:
            raise BadRequest(refusal.message, refusal.code, refusal.data)
    meta = message.params["_meta"]
    return Asked(
        method=message.method,
        params=message.params,
        era=Era.MODERN,
        version=meta[META_VERSION],
        transport=Transport.STDIO,
        client=client_name(meta.get(META_CLIENT)),
        session="stdio",
    )
