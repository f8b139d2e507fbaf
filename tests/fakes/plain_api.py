"""A plain HTTP API that remembers every request it got, byte for byte, and answers as its path says."""

import json
from dataclasses import dataclass, field

import anyio
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

OPENAPI = """
openapi: 3.1.0
info: {title: Orders, version: "1"}
paths:
  /v1/orders/{id}:
    get:
      operationId: get_order
      description: Look an order up.
      parameters:
        - {name: id, in: path, required: true, schema: {type: string}}
        - {name: expand, in: query, schema: {type: array, items: {type: string}}}
  /v1/orders:
    post:
      operationId: create_order
      requestBody:
        required: true
        content: {application/json: {schema: {type: object, required: [amount], properties: {amount: {type: number}}}}}
  /v1/admin: {delete: {operationId: delete_everything}}
"""


@dataclass
class Seen:
    """One request."""

    method: str
    path: str
    """As it was sent."""
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass
class PlainApi:
    """ASGI. `/v1/status/N` answers so, `/v1/slow` never, `/v1/stream` in pieces, `/v1/broken/N` in
    N pieces without an end, anything else in JSON."""

    seen: list[Seen] = field(default_factory=list)
    slow: anyio.Event = field(default_factory=anyio.Event)
    fail_times: int = 0
    """So many requests from now on get no answer: their connection breaks."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await Request(scope, receive).body()
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["raw_path"].decode()
        self.seen.append(Seen(scope["method"], path, scope["query_string"].decode(), headers, body))
        if self.fail_times:
            self.fail_times -= 1
            raise ConnectionError("on purpose")
        if path == "/v1/slow":
            self.slow.set()
            await anyio.sleep_forever()
        await self._answer(send, path)

    async def _answer(self, send: Send, path: str) -> None:
        status = int(path.rpartition("/")[2]) if path.startswith("/v1/status/") else 200
        headers = [(b"content-type", b"application/json"), (b"x-backend", b"canary"), (b"set-cookie", b"a=canary")]
        headers += [(b"etag", b'"7"'), (b"location", b"http://169.254.169.254/"), (b"server", b"canary")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if path == "/v1/stream":
            for number in range(3):
                await send({"type": "http.response.body", "body": b"%d\n" % number, "more_body": True})
        elif path.startswith("/v1/broken/"):
            for _ in range(int(path.rpartition("/")[2])):
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            raise ConnectionError("on purpose")
        elif path == "/v1/huge":
            for _ in range(64):
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        else:
            said = {"path": path} if status < 400 else {"detail": "it says so", "secret": "canary"}
            await send({"type": "http.response.body", "body": json.dumps(said).encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})
