"""An ASGI proxy that lets a program with fixed tool names use a gateway that puts a prefix before one upstream's names.

The official conformance suite asks for `test_simple_text`; the gateway offers `fixture__test_simple_text`. What goes
to the gateway gets the prefix wherever a name stands (params, completion references, `Mcp-Name`); what comes back
loses it. Names of other upstreams stay as they are, and everything else passes untouched.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import httpx2
from starlette.types import Receive, Scope, Send

from fakes.served import serving

Headers = list[tuple[bytes, bytes]]

_NAMED: Final = frozenset({"tools/call", "prompts/get"})
_LISTS: Final = ("tools", "prompts")
_OF_ONE_HOP: Final = frozenset(
    {b"connection", b"content-length", b"keep-alive", b"transfer-encoding", b"accept-encoding", b"date", b"server"}
)
_BASE64: Final = ("=?base64?", "?=")
"""How a header carries what is not visible ASCII (transports/streamable-http "Value Encoding")."""


@asynccontextmanager
async def unprefixed(url: str, prefix: str) -> AsyncIterator[str]:
    """The URL under which the gateway at `url` seems to offer the upstream's own names."""
    client = httpx2.AsyncClient(timeout=None, trust_env=False)
    async with client, serving(Unprefixed(client, url, prefix)) as origin:
        yield f"{origin}/mcp"


class Unprefixed:
    """The proxy; an answer is passed on line by line as it comes, and given up when the asker hangs up."""

    def __init__(self, client: httpx2.AsyncClient, url: str, prefix: str) -> None:
        self._client = client
        self._url = url
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await _whole(receive)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
            await self._pass(scope, body, send)
            tasks.cancel_scope.cancel()

    async def _pass(self, scope: Scope, body: bytes, send: Send) -> None:
        message = _parsed(body)
        named = isinstance(message, dict) and message.get("method") in _NAMED
        headers = [
            (name, self._in_header(value) if named and name == b"mcp-name" else value)
            for name, value in _of_this_message(scope["headers"])
        ]
        content = _edited(body, lambda sent: with_prefix(sent, self._prefix))
        # Built by hand: the client's own build_request would add headers that the asker did not send.
        request = httpx2.Request(scope["method"], self._url, headers=headers, content=content or None)
        answer = await self._client.send(request, stream=True)
        try:
            start = {"type": "http.response.start", "status": answer.status_code}
            await send({**start, "headers": list(_of_this_message(answer.headers.raw))})
            async for piece in self._unprefixed(answer):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            with anyio.CancelScope(shield=True):
                await answer.aclose()

    async def _unprefixed(self, answer: httpx2.Response) -> AsyncIterator[bytes]:
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            yield _edited(await answer.aread(), self._without)
            return
        async for line in answer.aiter_lines():
            data = line.removeprefix("data:")
            edited = line if data == line else "data: " + _edited(data.strip().encode(), self._without).decode()
            yield f"{edited}\n".encode()

    def _without(self, message: Any) -> Any:
        return without_prefix(message, self._prefix)

    def _in_header(self, value: bytes) -> bytes:
        """The name with its prefix, in the encoding it came in; what is no name stays none."""
        text = value.decode("latin-1")
        start, end = _BASE64
        if text.startswith(start) and text.endswith(end):
            try:
                name = base64.b64decode(text[len(start) : -len(end)], validate=True)
            except binascii.Error:
                return value
            return f"{start}{base64.b64encode(self._prefix.encode() + name).decode()}{end}".encode("latin-1")
        return (self._prefix + text).encode("latin-1") if text else value


def with_prefix(message: Any, prefix: str) -> Any:
    """A message to the gateway, with the gateway's names.

    >>> with_prefix({"method": "tools/call", "params": {"name": "echo"}}, "u__")["params"]
    {'name': 'u__echo'}
    """
    params = message.get("params") if isinstance(message, dict) else None
    if not isinstance(params, dict):
        return message
    if message.get("method") in _NAMED and isinstance(params.get("name"), str):
        params = {**params, "name": prefix + params["name"]}
    reference = params.get("ref")
    if isinstance(reference, dict) and isinstance(reference.get("name"), str):
        params = {**params, "ref": {**reference, "name": prefix + reference["name"]}}
    return {**message, "params": params}


def without_prefix(message: Any, prefix: str) -> Any:
    """A message of the gateway, with the upstream's own names.

    >>> without_prefix({"result": {"tools": [{"name": "u__echo"}, {"name": "v__echo"}]}}, "u__")["result"]
    {'tools': [{'name': 'echo'}, {'name': 'v__echo'}]}
    """
    result = message.get("result") if isinstance(message, dict) else None
    if not isinstance(result, dict):
        return message
    lists = {
        member: [{**entry, "name": entry["name"].removeprefix(prefix)} for entry in result[member]]
        for member in _LISTS
        if member in result
    }
    return {**message, "result": {**result, **lists}}


def _edited(data: bytes, edit: Callable[[Any], Any]) -> bytes:
    message = _parsed(data)
    after = edit(message)
    return data if after == message else json.dumps(after).encode()


def _parsed(data: bytes) -> Any:
    """The JSON, or None where it is none (a test may send just that)."""
    try:
        return json.loads(data)
    except ValueError:
        return None


def _of_this_message(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    # RFC 9110 section 5.5: blanks around a value are no part of it, and h11 refuses to send them.
    return [(name, value.strip(b" \t")) for name, value in headers if name.lower() not in _OF_ONE_HOP]


async def _whole(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
