"""Streamed answers of models that guards look at in windows: official SDKs, real HTTP, the real audit and budgets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from fakes.model_gateway import HELLO, POLICY, ModelGateway, model_gateway, plain_client
from fakes.plain_api import PlainApi
from fakes.served import serving
from mcp_gateway.wiring import audit_reader
from mcp_gateway.wiring.stores import spent_budgets

FILLER = "All of this is harmless. "
CARD = "4111 1111 1111 1111"
GUARD = """
[[guard]]
find = ["personal-data/card"]
in = ["results"]
held = "{held}"
then = "{then}"
"""
BUDGET = "\n[budgets.daily]\nper = '1d'\ntokens = 1000000\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def gate(folder: Path, then: str, held: str = "windows", more: str = "") -> AsyncIterator[ModelGateway]:
    policy = POLICY + GUARD.format(then=then, held=held) + more
    async with model_gateway(folder, policy=policy) as gateway:
        yield gateway


def chat(text: str) -> bytes:
    """A provider's answer, head and all."""
    chunks: list[Any] = [{"role": "assistant", "content": ""}]
    chunks += [{"content": text[at : at + 6]} for at in range(0, len(text), 6)]
    base = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-mini"}
    events = [{**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in chunks]
    events.append({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return HEAD + b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"


def messages(text: str) -> bytes:
    usage = {"input_tokens": 20, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-5", "content": []}
    block = {"type": "text", "text": ""}
    deltas = [{"type": "text_delta", "text": text[at : at + 6]} for at in range(0, len(text), 6)]
    events: list[Any] = [
        {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]
    return HEAD + b"".join(b"event: %s\ndata: %s\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)


def openai_of(gateway: ModelGateway) -> openai.AsyncOpenAI:
    base = f"{gateway.origin}/v1"
    return openai.AsyncOpenAI(api_key=gateway.token(), base_url=base, http_client=plain_client(), max_retries=0)


async def said_by(gateway: ModelGateway) -> AsyncIterator[str]:
    async with openai_of(gateway) as client:
        stream = await client.chat.completions.create(model="gpt-5-mini", messages=HELLO, stream=True)  # type: ignore[call-overload]
        async for chunk in stream:
            for choice in chunk.choices:
                yield choice.delta.content or ""


async def test_first_words_come_before_the_last_are_spoken(tmp_path: Path) -> None:
    async with gate(tmp_path, "block") as gateway:
        gateway.first.habit, gateway.first.deltas = "pause", 80
        text = ""
        async for piece in said_by(gateway):
            text += piece
            if "stranger" in text:
                assert not gateway.first.release.is_set()
                break
    assert text.startswith("Hello there, stranger")


async def test_held_whole_nothing_comes_before_the_end(tmp_path: Path) -> None:
    async with gate(tmp_path, "block", "whole") as gateway:
        gateway.first.habit, gateway.first.deltas = "pause", 80
        words = said_by(gateway)
        first = asyncio.ensure_future(anext(words))
        await gateway.first.first_delta.wait()
        done, _ = await asyncio.wait([first], timeout=0.3)
        assert not done
        gateway.first.release.set()
        await first
        async for _ in words:
            pass


async def test_what_is_masked_never_comes_and_the_rest_does(tmp_path: Path) -> None:
    async with gate(tmp_path, "mask") as gateway:
        text = f"{FILLER * 40}card {CARD} ok. {FILLER * 40}"
        gateway.first.habit, gateway.first.raw = "raw", chat(text)
        said = "".join([piece async for piece in said_by(gateway)])
        assert said == text.replace(CARD, "[masked:personal-data/card]")
        [row] = await gateway.ended()
    assert row["ended"] == "ok"


async def test_a_blocked_stream_ends_with_the_reason_is_in_the_audit_and_is_paid_for(tmp_path: Path) -> None:
    async with gate(tmp_path, "block", more=BUDGET) as gateway:
        gateway.first.habit, gateway.first.raw = "raw", chat(f"{FILLER * 400}card {CARD} ok. {FILLER * 100}")
        said = ""
        with pytest.raises(openai.APIError, match="personal-data: card"):
            async for piece in said_by(gateway):
                said += piece
        assert said
        assert (FILLER * 400).startswith(said)
        [row] = await gateway.ended()
        assert (row["ended"], row["t_in"] > 0, row["t_out"] > 0) == ("blocked", True, True)
        with audit_reader(gateway.parts.configuration) as audit:
            [found] = audit.view("guard_findings")
        assert json.loads(found["findings"])[0]["found"] == {"personal-data/card": 1}
        configuration = gateway.parts.configuration
    [spent] = spent_budgets(configuration, None)  # its end is written down when the gateway has ended
    assert row["t_in"] + row["t_out"] in spent


async def test_anthropic_s_sdk_is_told_too(tmp_path: Path) -> None:
    async with gate(tmp_path, "block") as gateway:
        gateway.first.habit, gateway.first.raw = "raw", messages(f"{FILLER * 400}card {CARD} ok. {FILLER * 40}")
        client = anthropic.AsyncAnthropic(
            api_key=gateway.token(), base_url=gateway.origin, http_client=plain_client(), max_retries=0
        )
        said = ""
        with pytest.raises(anthropic.APIError, match="personal-data: card"):
            async with client.messages.stream(model="claude-sonnet-5", max_tokens=9, messages=HELLO) as stream:  # type: ignore[arg-type]
                async for text in stream.text_stream:
                    said += text
        await client.close()
    assert said
    assert (FILLER * 400).startswith(said)


async def test_a_stream_that_is_blocked_at_once_is_an_error_like_any(tmp_path: Path) -> None:
    async with gate(tmp_path, "block") as gateway:
        gateway.first.habit, gateway.first.raw = "raw", chat(CARD)
        with pytest.raises(openai.APIError, match="personal-data: card"):
            async for _ in said_by(gateway):
                pass


async def test_one_guard_that_wants_the_whole_is_enough(tmp_path: Path) -> None:
    async with gate(tmp_path, "block", "windows", GUARD.format(held="whole", then="alert")) as gateway:
        gateway.first.habit, gateway.first.raw = "raw", chat(f"{FILLER * 400}{CARD}")
        with pytest.raises(openai.PermissionDeniedError):
            async for _ in said_by(gateway):
                pass


async def test_a_stream_of_a_plain_api_breaks_off(tmp_path: Path) -> None:
    class Ticker(PlainApi):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                headers = [(b"content-type", b"text/event-stream")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                for text in (*[FILLER * 40] * 400, CARD, FILLER * 40):
                    await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})
                await send({"type": "http.response.body", "body": b""})

    async with serving(Ticker()) as origin:
        policy = POLICY + "[tasks.work.routes]\nallow = ['api: GET /**']\n" + GUARD.format(then="block", held="windows")
        more = f'\n[servers.api]\nrest = "{origin}"\ninclude = ["* /v1/**"]\n'
        async with model_gateway(tmp_path, policy=policy, more=more) as gateway:
            headers = {"authorization": f"Bearer {gateway.token()}"}
            body = b""
            with pytest.raises(httpx2.RemoteProtocolError):
                async with gateway.http.stream("GET", f"{gateway.origin}/rest/api/v1/x", headers=headers) as answer:
                    async for piece in answer.aiter_raw():
                        body += piece
            assert b"4111" not in body
            assert [row["ended"] for row in gateway.rows("route")] == ["blocked"]
