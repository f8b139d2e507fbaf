"""One call's attempts, against a client that answers from a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from fakes.relays import RecordingRelay
from mcp_gateway.config.models import ModelTarget, ProviderConfig
from mcp_gateway.domain import HttpPart, OutcomeStatus
from mcp_gateway.errors import Misbehaved, TimedOut, Unreachable
from mcp_gateway.models.call import Call, Surroundings
from mcp_gateway.models.health import Health
from mcp_gateway.models.route import Way
from mcp_gateway.models.wires import BY_OP, Op

DONE = b"data: [DONE]\n\n"
WORD = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


@dataclass
class Scripted:
    """One HTTP answer; an exception among the pieces is raised, a number is waited for in seconds."""

    status: int = 200
    pieces: tuple[bytes | Exception | float, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    async def body(self) -> AsyncGenerator[bytes, None]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            if isinstance(piece, float):
                await asyncio.sleep(piece)
                continue
            yield piece

    async def read(self, max_bytes: int) -> bytes | None:
        whole = b"".join([piece async for piece in self.body()])
        return whole if len(whole) <= max_bytes else None


@dataclass
class Script:
    """A client that gives these answers, one after the other."""

    answers: list[Scripted | Exception]
    asked: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def open(
        self, upstream: str, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Scripted]:
        self.asked.append(upstream)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        yield answer


def whole(**members: Any) -> Scripted:
    return Scripted(200, (orjson.dumps({"usage": USAGE, **members}),), {"content-type": "application/json"})


def events(*pieces: bytes | Exception | float) -> Scripted:
    return Scripted(200, pieces, {"content-type": "text/event-stream"})


def lost() -> Unreachable:
    return Unreachable("p", "gone")


def call(
    script: Script,
    relay: RecordingRelay,
    *providers: str,
    stream: bool = False,
    retried: str = "0",
    idle_s: float = 5,
    total_s: float = 5,
) -> Call:
    ways = [
        Way(
            ModelTarget(name, "m"),
            ProviderConfig(name, "openai", "https://x", timeout_s=total_s, idle_timeout_s=idle_s),
        )
        for name in providers or ("p",)
    ]
    around = Surroundings(script, Health(), lambda: 0.0, 1_000, 60)
    body = {"model": "m", "stream": stream}
    http = HttpPart("/v1/chat/completions", {"x-stainless-retry-count": retried}, orjson.dumps(body), body, relay)
    return Call(around, BY_OP[Op.CHAT], http, ways, is_stream=stream, input_tokens=10)


async def test_an_answer_is_held_until_it_is_written_down() -> None:
    relay = RecordingRelay()
    outcome = await call(Script([whole()]), relay).run()
    assert (relay.status, relay.written) == (200, [])
    assert b"usage" in relay.held[0]
    assert outcome.usage is not None
    assert (outcome.usage.input, outcome.usage.output, outcome.usage.model) == (3, 2, "p/m")


async def test_a_kept_connection_that_broke_is_tried_once_more() -> None:
    script = Script([lost(), whole()])
    assert (await call(script, RecordingRelay()).run()).status is OutcomeStatus.OK
    with pytest.raises(Unreachable):
        await call(Script([lost(), lost(), whole()]), RecordingRelay()).run()


async def test_an_sdk_that_tries_again_by_itself_is_not_multiplied() -> None:
    script = Script([lost(), whole()])
    with pytest.raises(Unreachable):
        await call(script, RecordingRelay(), retried="1").run()
    assert script.asked == ["p"]


async def test_the_last_refusal_is_the_agent_s_to_know() -> None:
    relay = RecordingRelay()
    script = Script([Scripted(500), Scripted(429, (b"slow down",), {"retry-after": "9", "set-cookie": "c"})])
    outcome = await call(script, relay, "p", "q").run()
    assert (outcome.status, outcome.usage) == (OutcomeStatus.HTTP_ERROR, None)
    assert (relay.status, relay.headers, relay.held) == (429, {"retry-after": "9"}, [b"slow down"])
    assert [attempt["ended"] for attempt in (outcome.result or {})["attempts"]] == ["500", "429"]


async def test_a_stream_is_not_begun_before_it_says_something() -> None:
    relay = RecordingRelay()
    script = Script([events(b": hello\n\n", lost()), events(WORD, DONE)])
    outcome = await call(script, relay, "p", "q", stream=True, retried="1").run()
    assert outcome.status is OutcomeStatus.OK
    assert relay.written == [WORD]
    assert relay.held == [DONE]


async def test_behind_the_first_word_a_break_is_told_and_charged() -> None:
    relay = RecordingRelay()
    script = Script([events(WORD, lost()), events(WORD, DONE)])
    outcome = await call(script, relay, "p", "q", stream=True).run()
    assert outcome.status is OutcomeStatus.UNREACHABLE
    assert script.asked == ["p"]
    assert [type(error) for error in relay.errors] == [Unreachable]
    assert outcome.usage is not None
    assert outcome.usage.is_estimated


async def test_time_is_limited_for_the_first_event_and_between_events() -> None:
    with pytest.raises(TimedOut):
        await call(Script([events(9.0)]), RecordingRelay(), stream=True, idle_s=0.02).run()
    relay = RecordingRelay()
    outcome = await call(Script([events(WORD, 9.0)]), relay, stream=True, idle_s=0.02).run()
    assert outcome.status is OutcomeStatus.TIMED_OUT
    assert [type(error) for error in relay.errors] == [TimedOut]


async def test_an_answer_in_one_piece_may_take_all_the_time_there_is() -> None:
    slow = Scripted(200, (0.1, orjson.dumps({"usage": USAGE})), {"content-type": "application/json"})
    assert (await call(Script([slow]), RecordingRelay(), idle_s=0.01).run()).status is OutcomeStatus.OK
    never = Scripted(200, (9.0,), {"content-type": "application/json"})
    with pytest.raises(TimedOut):
        await call(Script([never]), RecordingRelay(), total_s=0.02).run()


@pytest.mark.parametrize(
    "answer",
    [
        Scripted(200, (b"x" * 2_000,), {"content-type": "application/json"}),
        Scripted(200, (b"<html>",), {"content-type": "text/html"}),
        Scripted(200, (b"[1]",), {"content-type": "application/json"}),
        Scripted(307, (), {"location": "https://elsewhere.example"}),
        Scripted(401, (b"bad key",)),
        Scripted(400, (b"x" * 2_000_000,)),
        events(),
        events(b": nothing\n\n"),
    ],
)
async def test_what_is_no_answer_is_the_provider_s_fault(answer: Scripted) -> None:
    relay = RecordingRelay()
    with pytest.raises(Misbehaved):
        await call(Script([answer]), relay).run()
    assert relay.status == 0


async def test_a_call_that_is_cut_off_is_charged_once_it_was_sent() -> None:
    relay = RecordingRelay()
    cut = call(Script([events(WORD, 9.0)]), relay, stream=True)
    assert cut.cut_off().usage is None
    with relay.scope:
        asyncio.get_running_loop().call_later(0.05, relay.scope.cancel)
        await cut.run()
    outcome = cut.cut_off()
    assert outcome.status is OutcomeStatus.CANCELLED
    assert outcome.usage is not None
    assert outcome.usage.input == 10
