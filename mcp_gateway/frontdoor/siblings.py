"""Which of several processes a request belongs to, and handing it on there, connection and all.

What one process keeps in memory only (a handshake-era session, a call that waits for answers, a login on its way)
bears that process's number in its name. Whoever finds another number in a request's head passes the connection on and
is done with it: the request is judged there, from its first byte, as if it had come there.

Some things there may be only one of: what remembers which DPoP proofs were used, the embedded authorization server.
Requests that touch these are the first process's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from starlette.types import Receive, Scope, Send

from mcp_gateway.frontdoor.doorstep import Doorstep, HttpRefusedError
from mcp_gateway.frontdoor.exchange import send_json
from mcp_gateway.frontdoor.head import Lines, head_of
from mcp_gateway.frontdoor.http_exchange import EXCHANGE
from mcp_gateway.jsonrpc import dump

FIRST: Final = 1

_MARK: Final = re.compile(r"([0-9]{1,3})-")
_BELOW_CONNECT: Final = "/connect/"
_STATE: Final = re.compile(rb"(?:^|&)state=([0-9]{1,3})-")
_RETRY: Final = ((b"retry-after", b"1"), (b"connection", b"close"))

PassOn = Callable[[int, int, bytes], None]
"""Passes a connection's descriptor (not its own to close) and what was read from it to a process by its number."""


class Siblings:
    """The processes that share a port, as one of them sees them."""

    def __init__(self, number: int, count: int, pass_on: PassOn) -> None:
        self.mark = f"{number}-"
        """What the names of things begin with that only this process knows."""
        self.is_first = number == FIRST
        self.ids_after = (number - FIRST) << 40
        """What requests to upstreams are numbered from: a server that tells callers apart by progress tokens alone must
        not find one of ours twice. Whole in every JSON reader (RFC 8259 section 6)."""
        self._number = number
        self._count = count
        self._pass_on = pass_on

    def other(self, number: int) -> int:
        """`number` if that is another process, else 0."""
        return number if number != self._number and number <= self._count else 0

    def home_named(self, name: str) -> int:
        """Whose thing bears this name; 0: this process's, or nobody's."""
        return self.other(_number_in(name))

    def home_of(self, scope: Scope) -> int:
        """Which other process a request belongs to, as far as its head tells; 0: none."""
        path: str = scope["path"]
        if path.startswith(_BELOW_CONNECT):
            state = _STATE.search(scope["query_string"])
            number = int(state[1]) if state else _number_in(path.removeprefix(_BELOW_CONNECT))
            return self.other(number or FIRST)
        return self.other(head_of(scope).lines.judged(_number_for))

    async def hand_on(
        self, scope: Scope, receive: Receive, send: Send, doorstep: Doorstep, number: int, body: bytes | None = None
    ) -> None:
        """Have another process answer; `body` is what has been read of it, and None that nothing has."""
        exchange = scope[EXCHANGE]
        if body is None and head_of(scope).lines.values("transfer-encoding"):
            try:  # how much of it has come is not seen from outside
                body = await doorstep.read_body(scope, receive)
            except HttpRefusedError as e:
                await send_json(send, e.refusal.status, dump({"error": e.refusal.text}), e.refusal.headers)
                return
        held = exchange.held if body is None else body
        connection = exchange.give_away()
        if connection is None:
            await send_json(send, 503, dump({"error": "one request at a time, please"}), _RETRY)
            return
        with connection:
            self._pass_on(number, connection.fileno(), _as_it_came(scope, held))


def _number_in(name: str) -> int:
    found = _MARK.match(name)
    return int(found[1]) if found else 0


def _number_for(lines: Lines) -> int:
    """Whose a request is by its header lines."""
    sessions = lines.values("mcp-session-id")
    if sessions:
        return _number_in(sessions[0])
    return FIRST if "dpop" in lines.fields else 0


def _as_it_came(scope: Scope, body: bytes) -> bytes:
    """The request as bytes again; what was sent in chunks gets a length instead."""
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    lines = [b"%b %b HTTP/%b" % (scope["method"].encode(), target, scope["http_version"].encode())]
    is_chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
    lines += [b"%b: %b" % line for line in scope["headers"] if not (is_chunked and line[0] == b"transfer-encoding")]
    lines += [b"content-length: %d" % len(body)] if is_chunked else []
    return b"\r\n".join([*lines, b"", body])
