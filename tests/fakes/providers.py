"""A model provider that speaks the OpenAI and the Anthropic wires from a script, and misbehaves on demand.

It writes down every request byte for byte. What it says is plain: the text `Hello there, stranger.`, or a call of the
first tool it was given. Habits (`habit`) are how it misbehaves, for all requests or for the next ones only (`next`).
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

WORDS = ["Hello", " there", ",", " stranger", "."]
INPUT_TOKENS, OUTPUT_TOKENS, CACHED_TOKENS = 20, 7, 4
REQUEST_ID = "req_of_the_provider"


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else {}

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name]
        return found[0] if found else None


@dataclass
class Provider:
    """What a scripted provider has seen, and how it is to behave."""

    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    habit: str = ""
    next: deque[str] = field(default_factory=deque)
    """Habits of the next requests, one each; they come before `habit`."""
    release: asyncio.Event = field(default_factory=asyncio.Event)
    """What `hang` waits for."""
    hung_up: int = 0
    """Connections that the other side closed while an answer was under way."""
    usage_scale: int = 1
    deltas: int = 1
    """How often the words are said."""
    raw: bytes = b""
    """What `raw` answers, head and all."""
    arguments: str = '{"city":"Rome"}'
    """Of the tool that whole chats call."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What it keeps, by id: responses that were not asked not to be kept, conversations, containers."""
    first_delta: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def openai_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """A provider on a port of its own, until the block is left."""
    fake = Provider()
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_serve(fake, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _serve(fake: Provider, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while (seen := await _request(reader)) is not None:
            fake.seen.append(seen)
            habit = fake.next.popleft() if fake.next else fake.habit
            if not await _answer(fake, habit, seen, writer):
                break
    except (ConnectionError, asyncio.IncompleteReadError):
        fake.hung_up += 1
    finally:
        writer.transport.abort()


async def _request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    return Seen(method, path, headers, await reader.readexactly(length))


async def _answer(fake: Provider, habit: str, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """Answer one request; whether the connection is good for another."""
    if habit == "reset":
        return False
    if habit == "raw":
        writer.write(fake.raw)
        await writer.drain()
        return False
    if habit == "hang":
        await fake.release.wait()
    if habit.startswith("status:"):
        return await _refuse(habit, seen, writer)
    if habit != "forgets" and (kept := _of_kept(fake, seen)) is not None:
        status, body = kept[0], json.dumps(kept[1]).encode()
        writer.write(_head(status, "application/json", [("Content-Length", str(len(body))), *_extra()]))
        writer.write(body)
        await writer.drain()
        return True
    if seen.json.get("stream") or "stream=true" in seen.path:
        return await _stream(fake, habit, seen, writer)
    body = b"<html>no JSON</html>" if habit == "html" else json.dumps(whole(fake, habit, seen)).encode()
    pieces = [bytes([byte]) for byte in body] if habit == "bytes" else [body]
    writer.write(_head(200, "application/json", [("Content-Length", str(len(body))), *_extra()]))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    return True


def _of_kept(fake: Provider, seen: Seen) -> tuple[int, Any] | None:
    """The answer to a request about something that is kept; None: it is no such request."""
    path, *parts = seen.path.partition("?")[0].removeprefix("/v1/").split("/")
    if path not in ("responses", "conversations") or parts == ["input_tokens"] or (path == "responses" and not parts):
        return None
    if not parts:
        conversation = {"id": f"conv_{len(fake.kept) + 1}", "object": "conversation", "created_at": 1, "metadata": {}}
        fake.kept[conversation["id"]] = conversation
        return 200, conversation
    kept = fake.kept.get(parts[0])
    if kept is None:
        return 404, {"error": {"message": "not here", "type": "invalid_request_error", "param": None, "code": None}}
    if seen.method == "DELETE" and len(parts) == 1:
        del fake.kept[parts[0]]
        return 200, {"id": parts[0], "object": f"{path.removesuffix('s')}.deleted", "deleted": True}
    if parts[1:] == ["cancel"]:
        kept["status"] = "cancelled"
    if len(parts) > 1 and parts[1] != "cancel":
        item = {"type": "message", "id": "msg_1", "role": "user", "content": []}
        return 200, {"object": "list", "data": [item], "first_id": "msg_1", "last_id": "msg_1", "has_more": False}
    return None if "stream=true" in seen.path else (200, kept)


async def _refuse(habit: str, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """`status:429`, with more headers as `status:429:retry-after=7`."""
    _, status, *headers = habit.split(":")
    key = seen.header("authorization") or seen.header("x-api-key") or ""
    error = {"type": "rate_limit_error", "message": f"no, {key}", "code": "of_the_provider"}
    body = json.dumps({"type": "error", "error": error}).encode()
    more = [tuple(header.split("=")) for header in headers]
    writer.write(_head(int(status), "application/json", [("Content-Length", str(len(body))), *_extra(), *more]))
    writer.write(body)
    await writer.drain()
    return True


def _extra() -> list[tuple[str, str]]:
    """What no agent should get, and what it should."""
    return [
        ("Set-Cookie", "canary=cookie"),
        ("Server", "canary-server"),
        ("OpenAI-Organization", "canary-organization"),
        ("x-ratelimit-remaining-tokens", "canary-limit"),
        ("request-id", REQUEST_ID),
        ("x-request-id", REQUEST_ID),
    ]


def _head(status: int, content_type: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return f"HTTP/1.1 {status} OK\r\nContent-Type: {content_type}\r\n{lines}\r\n".encode("latin-1")


def whole(fake: Provider, habit: str, seen: Seen) -> Any:
    """The answer as one JSON object."""
    asked, text = seen.json, "".join(WORDS)
    if seen.path.endswith("/input_tokens"):
        return {"object": "response.input_tokens", "input_tokens": INPUT_TOKENS}
    model = asked["model"]
    if seen.path.endswith("/count_tokens"):
        return {"input_tokens": INPUT_TOKENS}
    if seen.path.endswith("/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}]
        usage = {"prompt_tokens": INPUT_TOKENS, "total_tokens": INPUT_TOKENS}
        return {"object": "list", "data": data, "model": model, "usage": usage}
    if seen.path.endswith("/messages"):
        return _message(fake, habit, asked, text)
    if seen.path.endswith("/moderations"):
        return {"id": "modr-1", "model": model, "results": [{"flagged": False}]}
    if seen.path.endswith("/images/generations"):
        usage = {} if habit == "no_usage" else {"usage": _response_usage(fake)}
        return {"created": 1, "data": [{"b64_json": "A" * 100_000}], **usage}
    if seen.path == "/v1/completions":
        choices = [{"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}]
        answer = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model, "choices": choices}
        return {**answer, "usage": _chat_usage(fake)}
    if seen.path.endswith("/responses"):
        return _kept_response(fake, habit, asked, text)
    tool = _tool_of(asked)
    if tool and asked["messages"][-1]["role"] != "tool":
        function = {"name": tool, "arguments": fake.arguments}
        calls = [{"id": "call_1", "type": "function", "function": function}]
        message: Any = {"role": "assistant", "content": None, "tool_calls": calls}
        finish = "tool_calls"
    else:
        message, finish = {"role": "assistant", "content": text}, "stop"
    choices = [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}]
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "choices": choices}
    return answer if habit == "no_usage" else {**answer, "usage": _chat_usage(fake)}


def _tool_of(asked: Any) -> str:
    tools = asked.get("tools") or []
    return next((t.get("name") or t.get("function", {}).get("name") for t in tools), "")


def _chat_usage(fake: Provider) -> Any:
    n = fake.usage_scale
    return {
        "prompt_tokens": INPUT_TOKENS * n,
        "completion_tokens": OUTPUT_TOKENS * n,
        "total_tokens": (INPUT_TOKENS + OUTPUT_TOKENS) * n,
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS * n},
    }


def _response_usage(fake: Provider) -> Any:
    n = fake.usage_scale
    return {
        "input_tokens": INPUT_TOKENS * n,
        "output_tokens": OUTPUT_TOKENS * n,
        "total_tokens": (INPUT_TOKENS + OUTPUT_TOKENS) * n,
        "input_tokens_details": {"cached_tokens": CACHED_TOKENS * n, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 2 * n},
    }


def _message_usage(fake: Provider) -> Any:
    n = fake.usage_scale
    return {
        "input_tokens": (INPUT_TOKENS - CACHED_TOKENS) * n,
        "cache_read_input_tokens": CACHED_TOKENS * n,
        "cache_creation_input_tokens": 0,
        "output_tokens": OUTPUT_TOKENS * n,
    }


def _message(fake: Provider, habit: str, asked: Any, text: str) -> Any:
    tool = _tool_of(asked)
    last = asked["messages"][-1]["content"]
    is_told = isinstance(last, list) and any(block.get("type") == "tool_result" for block in last)
    content: Any = [{"type": "text", "text": text}]
    if tool and not is_told:
        content = [{"type": "tool_use", "id": "toolu_1", "name": tool, "input": {"city": "Rome"}}]
    answer = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "content": content,
        "stop_reason": "tool_use" if tool and not is_told else "end_turn",
        "stop_sequence": None,
    }
    if asked.get("container") or any("code_execution" in t.get("type", "") for t in asked.get("tools") or ()):
        answer["container"] = {"id": "container_1", "expires_at": "2100-01-01T00:00:00Z"}
    return answer if habit == "no_usage" else {**answer, "usage": _message_usage(fake)}


def _kept_response(fake: Provider, habit: str, asked: Any, text: str) -> Any:
    """A response under an id of its own, where it was not asked not to keep it; one in the background is queued."""
    answer = _response(fake, habit, asked["model"], "completed", text)
    if asked.get("store") is False:
        return answer
    answer["id"] = f"resp_{len(fake.kept) + 2}"
    answer["output"][0]["id"] = f"msg_{len(fake.kept) + 2}"
    if asked.get("background"):
        answer |= {"status": "queued", "output": [], "usage": None}
    fake.kept[answer["id"]] = answer
    return answer


def complete(fake: Provider, id_: str) -> None:
    """A response in the background has ended."""
    kept = fake.kept[id_]
    fake.kept[id_] = {**_response(fake, "", kept["model"], "completed", "".join(WORDS)), "id": id_}


def _response(fake: Provider, habit: str, model: str, status: str, text: str) -> Any:
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": "msg_1", "status": status, "role": "assistant", "content": [part]}
    answer = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": model,
        "status": status,
        "output": [item] if text else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    return answer if habit == "no_usage" or not text else {**answer, "usage": _response_usage(fake)}


async def _stream(fake: Provider, habit: str, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    if habit == "silent":
        await fake.release.wait()
    writer.write(_head(200, "text/event-stream; charset=utf-8", [("Transfer-Encoding", "chunked"), *_extra()]))
    size = 1 if habit == "bytes" else 0
    events = events_of(fake, habit, seen)
    for number, event in enumerate(events):
        if habit == "break" and number == len(events) // 2:
            return False
        if habit == "pause" and number == len(events) // 2:
            fake.first_delta.set()
            await fake.release.wait()
        for piece in [event[at : at + size] for at in range(0, len(event), size)] if size else [event]:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            if size:
                await asyncio.sleep(0)
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def events_of(fake: Provider, habit: str, seen: Seen) -> list[bytes]:
    """The stream as the events it consists of."""
    asked = seen.json
    if seen.path.endswith("/messages"):
        events = _message_events(fake, habit, asked)
    elif "/responses" in seen.path:
        events = _response_events(fake, habit, asked)
    else:
        events = _chat_events(fake, habit, asked, seen.path)
    if habit == "crlf":
        return [event.replace(b"\n", b"\r\n") for event in events]
    return events


def _data(value: Any, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()


def _chat_events(fake: Provider, habit: str, asked: Any, seen_path: str = "") -> list[bytes]:
    def chunk(choices: Any, **more: Any) -> bytes:
        return _data({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": asked["model"],
                      "choices": choices, **more})  # fmt: skip

    def choice(delta: Any, finish: str | None = None) -> Any:
        return [{"index": 0, "delta": delta, "finish_reason": finish}]

    if seen_path == "/v1/completions":
        choices = [[{"index": 0, "text": word, "finish_reason": None}] for word in WORDS]
        usage = chunk([], usage=_chat_usage(fake))
        return [*map(chunk, choices), *([usage] if "stream_options" in asked else []), b"data: [DONE]\n\n"]
    if habit == "error_first":
        return [_data({"error": {"message": "overloaded", "type": "server_error", "code": "overloaded"}})]
    tool = _tool_of(asked)
    if tool and asked["messages"][-1]["role"] != "tool":
        function = {"name": tool, "arguments": ""}
        first = {"role": "assistant", "tool_calls": [{"index": 0, "id": "call_1", "type": "function",
                                                      "function": function}]}  # fmt: skip
        rest = [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in ('{"city"', ':"Rome"}')]
        events = [chunk(choice(delta)) for delta in (first, *rest)] + [chunk(choice({}, "tool_calls"))]
    else:
        deltas = [{"content": word} for word in WORDS * fake.deltas]
        events = [chunk(choice(d)) for d in ({"role": "assistant", "content": ""}, *deltas)]
        events.append(chunk(choice({}, "stop")))
    if habit == "error_last":
        return [*events[:3], _data({"error": {"message": "overloaded", "type": "server_error", "code": "x"}})]
    wants_usage = (asked.get("stream_options") or {}).get("include_usage") and habit != "no_usage"
    if wants_usage:
        events.append(chunk([], usage=_chat_usage(fake)))
    return [*events, b"data: [DONE]\n\n"]


def _message_events(fake: Provider, habit: str, asked: Any) -> list[bytes]:
    def event(name: str, **more: Any) -> bytes:
        return _data({"type": name, **more}, name)

    usage = {} if habit == "no_usage" else {"usage": {**_message_usage(fake), "output_tokens": 1}}
    message = {**_message(fake, "no_usage", {**asked, "tools": []}, ""), "content": [], "stop_reason": None}
    message["usage"] = {"input_tokens": 0, "output_tokens": 0}
    begin = [event("message_start", message={**message, **usage}), event("ping")]
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    if habit == "error_first":
        return [*begin, error]
    tool = _tool_of(asked)
    last = asked["messages"][-1]["content"]
    is_told = isinstance(last, list) and any(block.get("type") == "tool_result" for block in last)
    if tool and not is_told:
        block: Any = {"type": "tool_use", "id": "toolu_1", "name": tool, "input": {}}
        deltas: Any = [{"type": "input_json_delta", "partial_json": part} for part in ('{"city"', ':"Rome"}')]
    else:
        block = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": word} for word in WORDS * fake.deltas]
    body = [event("content_block_start", index=0, content_block=block)]
    body += [event("content_block_delta", index=0, delta=delta) for delta in deltas]
    body.append(event("content_block_stop", index=0))
    if habit == "error_last":
        return [*begin, *body[:2], error]
    delta = {"stop_reason": "tool_use" if tool and not is_told else "end_turn", "stop_sequence": None}
    container = _message(fake, habit, asked, "").get("container")
    delta |= {"container": container} if container else {}
    told = {} if habit == "no_usage" else {"usage": {"output_tokens": OUTPUT_TOKENS * fake.usage_scale}}
    return [*begin, *body, event("message_delta", delta=delta, **(told or {"usage": {"output_tokens": 0}})),
            event("message_stop")]  # fmt: skip


def _response_events(fake: Provider, habit: str, asked: Any) -> list[bytes]:
    number = iter(range(1000))

    def event(name: str, **more: Any) -> bytes:
        return _data({"type": name, "sequence_number": next(number), **more}, name)

    model, text = asked.get("model", "gpt-5-mini"), "".join(WORDS)
    if asked.get("store") is not False:
        fake.kept["resp_1"] = _response(fake, habit, model, "completed", text)
    begin = [event("response.created", response=_response(fake, habit, model, "in_progress", ""))]
    error = event("error", code="server_error", message="overloaded", param=None)
    if habit == "error_first":
        return [*begin, error]
    item = {"type": "message", "id": "msg_1", "status": "in_progress", "role": "assistant", "content": []}
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    body = [event("response.output_item.added", output_index=0, item=item)]
    body.append(event("response.content_part.added", **where, part=part))
    body += [event("response.output_text.delta", **where, delta=w, logprobs=[]) for w in WORDS * fake.deltas]
    if habit == "error_last":
        return [*begin, *body, error]
    body.append(event("response.output_text.done", **where, text=text, logprobs=[]))
    end = event("response.completed", response=_response(fake, habit, model, "completed", text))
    return [*begin, *body, end]
