"""One model call on its way: provider after provider until one answers, then that answer, as it comes.

The commit point is the first event an agent could act on. Before it another provider can take over and the agent never
knows; behind it an answer that breaks off says so in its own wire's words, and never pretends to have ended well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Final, Protocol

import orjson

from mcp_gateway.domain import HttpPart, Json, Outcome, OutcomeStatus, Usage
from mcp_gateway.errors import GatewayError, Misbehaved, TimedOut, Unreachable, UpstreamError
from mcp_gateway.models.framing import EventTooLongError
from mcp_gateway.models.health import Health
from mcp_gateway.models.keeping import Keeping, made_in
from mcp_gateway.models.outgoing import headers_back, outgoing, secrets_of
from mcp_gateway.models.prices import price_of
from mcp_gateway.models.route import Way, is_about_our_key, lets_another_try
from mcp_gateway.models.usage import estimated, usage_in
from mcp_gateway.models.watch import REDACTED, Watch
from mcp_gateway.models.wires import FREE, NOT_TEXT, Operation
from mcp_gateway.rest.breaker import retry_after_s

DRAIN_S: Final = 0.25
"""For the end of the connection behind the last event: with it the connection can be used again."""

REPEATED_WITHIN_S: Final = 1.0

MAX_UNCOMMITTED_BYTES: Final = 1024 * 1024
MAX_ERROR_BYTES: Final = 1024 * 1024

_STATUS_OF: Final[Mapping[type[UpstreamError], OutcomeStatus]] = {
    Unreachable: OutcomeStatus.UNREACHABLE,
    TimedOut: OutcomeStatus.TIMED_OUT,
    Misbehaved: OutcomeStatus.MISBEHAVED,
}


class Answer(Protocol):
    """One HTTP answer, its body not read yet."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def body(self) -> AsyncGenerator[bytes, None]: ...

    async def read(self, max_bytes: int) -> bytes | None: ...


class Client(Protocol):
    """Sends HTTP requests. What breaks is `Unreachable`, from `open` and from the answer alike."""

    def open(
        self, upstream: str, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> AbstractAsyncContextManager[Answer]: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all calls share."""

    client: Client
    health: Health
    now_s: Callable[[], float]
    """Seconds since the epoch."""
    max_answer_bytes: int
    longest_s: float
    """The longest any call may take, whatever its provider's `timeout_s`."""


class _TryNextError(Exception):
    """This provider cannot do it, and another one may."""


class Call:
    """One call. `run` it once."""

    def __init__(
        self,
        around: Surroundings,
        operation: Operation,
        http: HttpPart,
        ways: Sequence[Way],
        *,
        is_stream: bool,
        input_tokens: int,
        keeping: Keeping | None = None,
    ) -> None:
        self._around = around
        self._operation = operation
        self._http = http
        self._ways = ways
        self._is_stream = is_stream
        self._input_tokens = input_tokens
        self._keeping = keeping
        # An SDK that tries again by itself says so.
        self._may_repeat = http.headers.get("x-stainless-retry-count", "0") == "0"
        self._attempts: list[Json] = []
        self._way = ways[0]
        self._watch: Watch | None = None
        self._is_committed = False
        self._is_sent = False
        self._began_at = perf_counter()
        self._status = 0

    @property
    def is_whole(self) -> bool:
        """Whether the answer came to an end of its own; a stream may just stop."""
        return self._watch is None or self._watch.is_over

    async def run(self) -> Outcome:
        """Relay the first answer there is. Raises `UpstreamError` where there is none, and nothing was relayed."""
        for number, way in enumerate(self._ways, start=1):
            self._way, self._is_sent, self._watch = way, False, None
            try:
                return await self._try(way, is_last=number == len(self._ways))
            except _TryNextError:
                continue
        raise AssertionError("the last attempt answers or raises")

    def cut_off(self) -> Outcome:
        """What it was when the agent hung up: charged for as far as it got."""
        return self._cut(OutcomeStatus.CANCELLED, self._usage_so_far() if self._is_sent else None)

    async def _try(self, way: Way, *, is_last: bool) -> Outcome:
        began_at = perf_counter()
        try:
            outcome = await self._answered(way, is_last=is_last)
        except UpstreamError as e:
            self._note(way, type(e).__name__, began_at)
            if self._can_be_repeated(e, began_at):
                return await self._try(way, is_last=is_last)
            self._around.health.failed(way.target, self._around.now_s(), is_dead=not isinstance(e, Misbehaved))
            if self._is_committed:
                return self._broken_off(e)
            if is_last:
                raise
            raise _TryNextError from e
        except _TryNextError:
            self._note(way, str(self._status), began_at)
            raise
        self._note(way, str(self._status), began_at)
        return self._with_attempts(outcome)

    def _can_be_repeated(self, error: UpstreamError, began_at: float) -> bool:
        """Once, for a connection that broke at once: it may have been closed while it was kept."""
        is_quick = perf_counter() - began_at < REPEATED_WITHIN_S
        can = self._may_repeat and isinstance(error, Unreachable) and is_quick and not self._is_committed
        self._may_repeat = False
        return can

    async def _answered(self, way: Way, *, is_last: bool) -> Outcome:
        """One attempt. Raises `_TryNextError`, and `UpstreamError` where nothing usable came."""
        name = way.target.provider
        out = outgoing(self._operation, way, self._http, is_stream=self._is_stream)
        limit_s = min(way.provider.timeout_s, self._around.longest_s)
        head_s = way.provider.idle_timeout_s if self._is_stream else limit_s
        method = self._operation.method
        try:
            async with asyncio.timeout(limit_s), asyncio.timeout(head_s) as idle:
                self._is_sent = True
                async with self._around.client.open(name, method, out.url, out.headers, out.body) as answer:
                    idle.reschedule(None)
                    self._status = answer.status
                    if answer.status >= 300:
                        return await self._refused(way, answer, is_last=is_last)
                    if "text/event-stream" in answer.headers.get("content-type", ""):
                        return await self._stream(way, answer, idle, strips_usage=out.strips_usage, is_last=is_last)
                    return await self._whole(way, answer)
        except TimeoutError as e:
            raise TimedOut(name, f"provider {name!r} did not answer in time") from e

    async def _refused(self, way: Way, answer: Answer, *, is_last: bool) -> Outcome:
        """An answer that is an error: another provider's turn, or the agent's to know."""
        name, around = way.target.provider, self._around
        if answer.status < 400:
            raise Misbehaved(name, f"provider {name!r} wants to be asked elsewhere")  # its key would go along
        if lets_another_try(answer.status, answer.headers):
            pause_s = retry_after_s(answer.headers, around.now_s())
            around.health.failed(way.target, around.now_s(), retry_after_s=pause_s)
            if not is_last:
                raise _TryNextError
        if is_about_our_key(answer.status):
            raise Misbehaved(name, f"provider {name!r} does not take the gateway's key")
        body = await answer.read(MAX_ERROR_BYTES)
        if body is None:
            raise Misbehaved(name, f"provider {name!r} answered with too large an error")
        await self._http.relay.begin(answer.status, headers_back(answer.headers))
        self._http.relay.hold(_without(body, secrets_of(way)))
        return self._outcome(OutcomeStatus.HTTP_ERROR, None)

    async def _whole(self, way: Way, answer: Answer) -> Outcome:
        name = way.target.provider
        body = await answer.read(self._around.max_answer_bytes)
        if body is None:
            raise Misbehaved(name, f"provider {name!r} answered with more than {self._around.max_answer_bytes} bytes")
        value = _object(body)
        if value is None:
            raise Misbehaved(name, f"provider {name!r} answered with something that is no JSON object")
        usage: Usage | None = self._usage_of(value, body)
        bill = ""
        if self._keeping is not None:
            usage, bill = await self._keeping.of_whole(way, value, usage)
        self._around.health.worked(way.target)
        await self._http.relay.begin(answer.status, headers_back(answer.headers))
        self._http.relay.hold(_without(body, secrets_of(way)))
        return self._outcome(OutcomeStatus.OK, usage, {"bytes": len(body)}, bill)

    def _usage_of(self, value: Json, body: bytes) -> Usage:
        usage = usage_in(self._operation.op, value)
        if usage is None or not (usage.input or usage.output or self._operation.op in FREE):
            return estimated(self._input_tokens, 0 if self._operation.op in NOT_TEXT else len(body))
        return usage

    async def _stream(
        self, way: Way, answer: Answer, idle: asyncio.Timeout, *, strips_usage: bool, is_last: bool
    ) -> Outcome:
        """Relay a stream; `idle` runs out when a piece is waited for too long."""
        notes = self._keeping is not None and self._keeping.looks_at(way)
        watch = self._watch = Watch(self._operation, strips_usage=strips_usage, secrets=secrets_of(way), notes=notes)
        relay, ready, idle_s = self._http.relay, b"", way.provider.idle_timeout_s
        now_s = asyncio.get_running_loop().time
        async with aclosing(answer.body()) as body:
            idle.reschedule(now_s() + idle_s)
            async for piece in body:
                idle.reschedule(None)  # the agent's time to read is not the provider's
                ready += self._fed(way, watch, piece)
                if watch.made:
                    await self._note_made(way, watch)
                if self._is_committed or await self._commits(way, answer, watch, ready, is_last=is_last):
                    if ready:
                        await relay.write(ready)
                        ready = b""
                    if watch.is_over:
                        await _drain(body)
                        break
                idle.reschedule(now_s() + idle_s)
        if not self._is_committed:
            raise Misbehaved(way.target.provider, f"provider {way.target.provider!r} answered with an empty stream")
        relay.hold(b"".join(watch.tail) or watch.end())
        return await self._streamed(way, watch)

    async def _note_made(self, way: Way, watch: Watch) -> None:
        """What the events name that the provider keeps is this caller's, before it hears of it."""
        events, watch.made = watch.made, []
        made = [each for event in events for each in made_in(self._operation.op, event)]
        if self._keeping is not None:
            await self._keeping.note(way, made)

    def _fed(self, way: Way, watch: Watch, piece: bytes) -> bytes:
        try:
            return watch.feed(piece)
        except EventTooLongError as e:
            raise Misbehaved(way.target.provider, f"provider {way.target.provider!r} sent {e}") from e

    async def _commits(self, way: Way, answer: Answer, watch: Watch, ready: bytes, *, is_last: bool) -> bool:
        """Whether the agent may see this stream now. Raises `_TryNextError` for one that begins with its failure."""
        if watch.error and not watch.has_content and not is_last:
            self._around.health.failed(way.target, self._around.now_s())
            raise _TryNextError
        if not (watch.has_content or watch.is_over or watch.error or len(ready) > MAX_UNCOMMITTED_BYTES):
            return False
        self._is_committed = True
        await self._http.relay.begin(answer.status, headers_back(answer.headers))
        return True

    async def _streamed(self, way: Way, watch: Watch) -> Outcome:
        """What a stream that came to its end was."""
        if watch.error:
            self._around.health.failed(way.target, self._around.now_s())
        else:
            self._around.health.worked(way.target)
        status = OutcomeStatus.HTTP_ERROR if watch.error else OutcomeStatus.OK
        usage: Usage | None = self._usage_so_far()
        bill = ""
        if self._keeping is not None:
            usage, bill = await self._keeping.of_stream(way, self._usage_so_far(), is_over=watch.is_over)
        return self._outcome(status, usage, bill=bill)

    def _broken_off(self, error: GatewayError) -> Outcome:
        self._http.relay.hold_error(error)
        status = _STATUS_OF.get(type(error), OutcomeStatus.MISBEHAVED)  # type: ignore[arg-type]
        return self._with_attempts(self._cut(status, self._usage_so_far()))

    def _cut(self, status: OutcomeStatus, usage: Usage | None) -> Outcome:
        """What an answer was whose end nobody heard."""
        bill = ""
        if self._keeping is not None:
            usage, bill = self._keeping.of_cut(self._way, usage)
        return self._outcome(status, usage, bill=bill)

    def _usage_so_far(self) -> Usage:
        """What the provider said, or what can be guessed from what came."""
        watch = self._watch
        said = watch.usage if watch is not None else None
        guess = estimated(self._input_tokens, watch.characters if watch is not None else 0)
        if said is None or not (said.input or said.output):
            return guess
        if watch is not None and watch.is_over:
            return said
        return replace(said, output=max(said.output, guess.output), is_estimated=True)

    def _outcome(
        self, status: OutcomeStatus, usage: Usage | None, facts: Mapping[str, Any] | None = None, bill: str = ""
    ) -> Outcome:
        if usage is not None:
            cost = price_of(self._operation, usage, self._way.provider, self._way.target.model)
            usage = replace(usage, cost=cost, model=str(self._way.target))
        result = {"status": self._status, "answered_by": str(self._way.target), **(facts or {})}
        upstream_ms = (perf_counter() - self._began_at) * 1000
        return Outcome(status, result=result, upstream_ms=upstream_ms, usage=usage, bill=bill)

    def _with_attempts(self, outcome: Outcome) -> Outcome:
        return replace(outcome, result={**(outcome.result or {}), "attempts": self._attempts})

    def _note(self, way: Way, ended: str, began_at: float) -> None:
        ms = round((perf_counter() - began_at) * 1000, 1)
        self._attempts.append({"target": str(way.target), "ended": ended, "ms": ms})


async def _drain(body: AsyncIterator[bytes]) -> None:
    with suppress(TimeoutError, UpstreamError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in body:
                pass


def _object(body: bytes) -> Json | None:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _without(body: bytes, secrets: Sequence[bytes]) -> bytes:
    for secret in secrets:
        if secret in body:
            body = body.replace(secret, REDACTED)
    return body
