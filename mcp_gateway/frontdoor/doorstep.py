"""Checks on an HTTP request before anybody asks who sent it: host, origin, sizes, content type.

Pure but for reading the body. Refusals name the rule and nothing else; they are counted, since nobody is known yet
to write an entry about.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.types import Receive, Scope

from mcp_gateway.frontdoor.head import Lines, head_of
from mcp_gateway.frontdoor.http_exchange import EXCHANGE

_LOOPBACK_HOST: Final = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_LOOPBACK_ORIGIN: Final = re.compile(rf"https?://{_LOOPBACK_HOST.pattern}", re.IGNORECASE)

BODY_TIMEOUT_S: Final = 30.0
"""How long a body may take to arrive. Tool arguments are small; a sender this slow is broken or hostile."""

MAX_HEADER_LINES: Final = 100
MAX_TARGET_BYTES: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP answer to a request that goes no further."""

    status: int
    text: str
    headers: tuple[tuple[bytes, bytes], ...] = ()
    why: str = ""
    """What was wrong, where the audit should know more than the status says."""

    @property
    def reason(self) -> str:
        """What the audit counts it under."""
        return f"http_{self.status}" + (f":{self.why}" if self.why else "")


class HttpRefusedError(Exception):
    """Raised where a check fails while reading; carries the answer."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


class Doorstep:
    """The rules one listening address has for whoever knocks."""

    def __init__(
        self,
        *,
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        loopback: bool = True,
        max_header_bytes: int = 64 * 1024,
        max_body_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        self._hosts = frozenset(host.lower() for host in allowed_hosts)
        self._origins = frozenset(origin.lower() for origin in allowed_origins)
        self._loopback = loopback
        self._max_header_bytes = max_header_bytes
        self.max_body_bytes = max_body_bytes

    def check(self, scope: Scope) -> Refusal | None:
        """Host, Origin and header sizes, on every route and method."""
        head = head_of(scope)
        if head.count > MAX_HEADER_LINES or head.size > self._max_header_bytes:
            return Refusal(431, "request headers too large")
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > MAX_TARGET_BYTES:
            return Refusal(414, "request target too long")
        return head.lines.judged(self._check_sender)

    def check_post(self, scope: Scope) -> Refusal | None:
        """Content type and encoding of a POST, and that its sender can read either form of answer."""
        return head_of(scope).lines.judged(_check_contents)

    def takes(self, scope: Scope) -> bool:
        """Whether a body of the declared length is welcome."""
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        return all(_is_length(length) and int(length) <= self.max_body_bytes for length in lengths)

    async def read_body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, within the size and time allowed. Raises `HttpRefusedError`."""
        if not self.takes(scope):
            raise HttpRefusedError(Refusal(413, f"request body over {self.max_body_bytes} bytes"))
        exchange = scope.get(EXCHANGE)
        if exchange is not None and exchange.has_whole_body:
            return await self._read(receive)  # it is here: nothing to wait for
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await self._read(receive)
        except TimeoutError as e:
            raise HttpRefusedError(Refusal(408, "request body took too long", ((b"connection", b"close"),))) from e

    async def _read(self, receive: Receive) -> bytes:
        message = await receive()
        body: bytes = message.get("body", b"")
        if not message.get("more_body", False) and len(body) <= self.max_body_bytes:
            return body
        whole = bytearray(body)
        while message.get("more_body", False) and len(whole) <= self.max_body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise HttpRefusedError(Refusal(400, "connection closed before the body was complete"))
            whole += message.get("body", b"")
        if len(whole) > self.max_body_bytes:
            raise HttpRefusedError(Refusal(413, f"request body over {self.max_body_bytes} bytes"))
        return bytes(whole)

    def _check_sender(self, lines: Lines) -> Refusal | None:
        return self._check_host(lines.values("host")) or self._check_origin(lines.values("origin"))

    def _check_host(self, hosts: Sequence[str]) -> Refusal | None:
        """RFC 9112 section 3.2: exactly one Host. DNS rebinding shows in a Host that is not ours."""
        if len(hosts) != 1:
            return Refusal(400, "exactly one Host header is needed")
        host = hosts[0].lower()
        if host in self._hosts or host.rsplit(":", 1)[0] in self._hosts:
            return None
        if self._loopback and _LOOPBACK_HOST.fullmatch(host):
            return None
        return Refusal(421, "this host is not served here")

    def _check_origin(self, origins: Sequence[str]) -> Refusal | None:
        """transports "Security Warning": an Origin that is present must be one we know. Programs send none."""
        if not origins:
            return None
        if len(origins) == 1:
            origin = origins[0].lower()
            if origin in self._origins or (self._loopback and _LOOPBACK_ORIGIN.fullmatch(origin)):
                return None
        return Refusal(403, "this origin may not call the gateway")


def accepts(lines: Lines, media_type: str) -> bool:
    """Whether the Accept header admits a media type. No Accept header admits nothing here: MCP requires one."""
    major = media_type.split("/", 1)[0]
    ranges = [part.split(";", 1)[0].strip().lower() for value in lines.values("accept") for part in value.split(",")]
    return any(given in (media_type, f"{major}/*", "*/*") for given in ranges)


def would_rather_have_events(lines: Lines) -> bool:
    """Whether the Accept header names event streams before JSON, so that even a lone answer comes as an event."""
    accept = ",".join(lines.values("accept")).lower()
    events, json = accept.find("text/event-stream"), accept.find("application/json")
    return 0 <= events < json


def _check_contents(lines: Lines) -> Refusal | None:
    types = lines.values("content-type")
    if len(types) != 1 or types[0].split(";", 1)[0].strip().lower() != "application/json":
        return Refusal(415, "Content-Type must be application/json")
    if any(value.strip().lower() not in ("", "identity") for value in lines.values("content-encoding")):
        return Refusal(415, "compressed request bodies are not accepted", ((b"accept-encoding", b"identity"),))
    if not (accepts(lines, "application/json") and accepts(lines, "text/event-stream")):
        return Refusal(406, "Accept must list application/json and text/event-stream")
    return None


def _is_length(value: bytes) -> bool:
    """RFC 9110 section 8.6: ASCII digits. Nineteen of them are more than any limit, and int() takes no 5000."""
    return value.isdigit() and len(value) < 20
