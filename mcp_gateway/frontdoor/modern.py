"""Requests of MCP 2026-07-28 over HTTP: one POST, one answer, nothing remembered in between.

Headers are checked against the body before anything happens (streamable-http "Server Validation"); the body remains
the source of truth.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from mcp_gateway.domain import Caller, Era, Json, Kind, RpcError, Target, Transport
from mcp_gateway.errors import GatewayError
from mcp_gateway.frontdoor.answers import speaks
from mcp_gateway.frontdoor.challenges import NO_CHALLENGES, Challenges
from mcp_gateway.frontdoor.exchange import Closers, Exchange, send_json
from mcp_gateway.frontdoor.head import Lines, head_of
from mcp_gateway.frontdoor.http_exchange import EXCHANGE
from mcp_gateway.frontdoor.listen import Bulletin
from mcp_gateway.frontdoor.protocol import (
    CALLS,
    Answer,
    Ask,
    Asked,
    Notice,
    client_name,
    has_modern_envelope,
    has_plain_envelope,
)
from mcp_gateway.frontdoor.rounds import Rounds
from mcp_gateway.frontdoor.wire_errors import answer_to, http_status
from mcp_gateway.frontdoor.wire_tasks import WIRE_TASK_VERBS
from mcp_gateway.gateway import Gateway, Snapshot
from mcp_gateway.jsonrpc import Code, dump, error_message
from mcp_gateway.revisions import META_CLIENT, META_VERSION, MODERN_VERSIONS
from mcp_gateway.upstreams import sdk
from mcp_gateway.upstreams.sdk import decode_header_value, refuse_envelope, refuse_param_headers, refuse_version

MAX_TOOLS_KNOWN: Final = 20_000
_PARAM_PREFIX: Final = "mcp-param-"
_ROUTING: Final = ("mcp-protocol-version", "mcp-method", "mcp-name")

# streamable-http "Value Encoding": anything else comes in the Base64 form. What a byte beyond ASCII means is anybody's
# guess, and one intermediary's guess could differ from ours.
_VISIBLE: Final = re.compile(r"[\x20-\x7e]*")

_ONE_REQUEST: Final = RpcError(Code.INVALID_REQUEST, "the body must be one JSON-RPC request or notification")


class ModernDoor:
    """Serves modern POSTs whose caller is known and whose body is parsed."""

    def __init__(
        self,
        gateway: Gateway,
        rounds: Rounds,
        bulletin: Bulletin,
        closers: Closers,
        challenges: Challenges = NO_CHALLENGES,
    ) -> None:
        self._gateway = gateway
        self._challenges = challenges
        self._rounds = rounds
        self._bulletin = bulletin
        self._closers = closers
        self._mirrored = _Mirrored()
        self._taken: set[str] = set()
        """The tools that `serve_plain` may have, as far as they were called; true of one snapshot only."""
        self._taken_of: Snapshot | None = None

    async def serve(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, message: Ask | Notice | Answer
    ) -> None:
        """Answer one POST."""
        if not isinstance(message, Ask):
            await self._take(scope, send, message)
            return
        await self._gateway.opened()  # or the headers of a tool that is not there yet would go unchecked
        lines = head_of(scope).lines
        is_plain = _is_plain(message, lines)
        if not is_plain:
            await sdk.loaded()
        refusal = self._refusal(caller, message, lines, is_plain=is_plain)
        if refusal is not None:
            await self._gateway.note_malformed(caller, message.method, refusal.message)
            await _refuse(send, message.id, refusal)
        elif message.method == "subscriptions/listen":
            await self._listen(receive, send, caller, message)
        else:
            await self._answer(scope, receive, send, caller, message)

    def waiting(self, caller: Caller, message: Ask | Notice | Answer) -> str:
        """The name of the call that waits for this request, whichever process holds it; empty: none does."""
        if (
            not isinstance(message, Ask)
            or "requestState" not in message.params
            or not has_modern_envelope(message.params)
        ):
            return ""
        return self._rounds.waiting(caller, _asked(message))

    def takes_plain(self, tool: str) -> bool:
        """Whether `serve_plain` may have calls of this tool: there is one, whose headers need no look at its arguments.

        What no upstream offers goes the long way: it may be a tool of the gateway's own (`discovery`).
        """
        now = self._gateway.snapshot
        if now is not self._taken_of:
            self._taken_of, self._taken = now, set()
        if tool not in self._taken:
            target = now.catalog.find(Kind.TOOL, tool)
            if target is None or (now.own is not None and now.own.differs(target.upstream)):
                return False
            if self._mirrored.mirrors_arguments(target):
                return False
            self._taken.add(tool)
        return self._gateway.is_open

    def serve_plain(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, request_id: str | int, asked: Asked
    ) -> Awaitable[None]:
        """Answer a tool call that `plain` has recognised; its agent cannot be asked anything."""
        exchange = Exchange(receive, send, connection=scope.get(EXCHANGE))

        def respond(answer: Json) -> tuple[int, Json]:
            if "error" in answer:
                exchange.add_headers(self._challenges.step_up(scope["path"], answer))
            return _response(answer, request_id)

        work = partial(self._rounds.answer_plain, caller, asked, exchange.put, respond)
        return exchange.run(work, self._closers, caller, hang_up_cancels=True)

    async def _take(self, scope: Scope, send: Send, message: Notice | Answer) -> None:
        """The core protocol defines no notification to a modern server: they are accepted and mean nothing."""
        version = "".join(head_of(scope).lines.values("mcp-protocol-version"))
        unsupported = None if version in MODERN_VERSIONS else refuse_version(version)
        if isinstance(message, Answer):
            await _refuse(send, None, _ONE_REQUEST)
        elif unsupported is not None:
            await _refuse(send, None, unsupported)
        else:
            await send_json(send, 202, b"")

    async def _listen(self, receive: Receive, send: Send, caller: Caller, message: Ask) -> None:
        try:
            await self._bulletin.stream(receive, send, caller, message, self._closers)
        except GatewayError as e:
            error = answer_to(e, message.method, Era.MODERN)["error"]
            await _refuse(send, message.id, RpcError(error["code"], error["message"], error.get("data")))

    async def _answer(self, scope: Scope, receive: Receive, send: Send, caller: Caller, message: Ask) -> None:
        asked = _asked(message)
        exchange = Exchange(receive, send, connection=scope.get(EXCHANGE))
        channel = _Channel(exchange, message.id)

        async def work() -> tuple[int, Json] | None:
            answer = await self._rounds.answer(caller, asked, channel)
            if answer is not None and "error" in answer:
                exchange.add_headers(self._challenges.step_up(scope["path"], answer))
            return None if answer is None else channel.response(answer)

        await exchange.run(work, self._closers, caller, hang_up_cancels=True)

    def _refusal(self, caller: Caller, message: Ask, lines: Lines, *, is_plain: bool) -> RpcError | None:
        """Check headers against the body: why the request goes nowhere, if so."""
        fault = lines.judged(_fault_in)
        if fault:
            return RpcError(Code.HEADER_MISMATCH, fault)
        if not is_plain:
            body = {"method": message.method, "params": message.params}
            refusal = refuse_envelope(body, lines.fields)
            if refusal is not None:
                return refusal
        if not speaks(Era.MODERN, message.method) and message.method != "subscriptions/listen":
            return RpcError(Code.METHOD_NOT_FOUND, "Method not found", message.method)
        if message.method in WIRE_TASK_VERBS and not _names_its_task(message, lines.fields):
            return RpcError(Code.HEADER_MISMATCH, "mcp-name header does not match params.taskId")
        return self._param_headers(caller, message, lines)

    def _param_headers(self, caller: Caller, message: Ask, lines: Lines) -> RpcError | None:
        """Check `Mcp-Param-*` headers against the arguments they mirror, for a tool this caller may see.

        For any other tool there is nothing to check: the walk will answer that it is unknown.
        """
        name, arguments = message.params.get("name"), message.params.get("arguments")
        if message.method != "tools/call" or not isinstance(name, str):
            return None
        target = self._gateway.snapshot.catalog_for(caller).find(Kind.TOOL, name)
        if target is None or not (self._mirrored.mirrors_arguments(target) or lines.judged(_has_param_headers)):
            return None
        if self._gateway.peek(caller, Kind.TOOL, name) is None:
            return None
        given: Mapping[str, Any] = arguments if isinstance(arguments, dict) else {}
        return refuse_param_headers(target.raw.get("inputSchema"), given, _Folded(list(lines.text)))


class _Mirrored:
    """Which tools want arguments in headers: told by their schema, which is looked through once."""

    def __init__(self) -> None:
        self._known: dict[str, bool] = {}

    def mirrors_arguments(self, target: Target) -> bool:
        known = self._known.get(target.definition_hash)
        if known is None:
            if len(self._known) >= MAX_TOOLS_KNOWN:
                self._known.clear()
            known = self._known[target.definition_hash] = b'"x-mcp-header"' in dump(target.raw.get("inputSchema"))
        return known


class _Channel:
    """`rounds.Channel` for one POST."""

    def __init__(self, exchange: Exchange, request_id: str | int) -> None:
        self.put = exchange.put
        self.cancel = exchange.cancel
        self._exchange = exchange
        self._request_id = request_id

    def answer_early(self, member: Json) -> None:
        self._exchange.answer_early(*self.response(member))

    def response(self, member: Json) -> tuple[int, Json]:
        """HTTP status and JSON-RPC message for a `result` or `error` member."""
        return _response(member, self._request_id)


class _Folded(dict[str, str]):
    """Header lines as the mapping the SDK's check wants, whose `items` still shows duplicates."""

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        super().__init__(lines)
        self._lines = lines

    def items(self) -> Any:
        return self._lines


def _asked(message: Ask) -> Asked:
    meta = message.params["_meta"]
    return Asked(
        method=message.method,
        params=message.params,
        era=Era.MODERN,
        version=meta[META_VERSION],
        transport=Transport.HTTP,
        client=client_name(meta.get(META_CLIENT)),
    )


def _response(member: Json, request_id: str | int) -> tuple[int, Json]:
    error = member.get("error")
    status = 200 if error is None else http_status(RpcError(error["code"], ""))
    return status, {"jsonrpc": "2.0", "id": request_id, **member}


def _mirrors_body(header: str) -> bool:
    return header in _ROUTING or header.startswith(_PARAM_PREFIX)


def _names_its_task(message: Ask, headers: Mapping[str, str]) -> bool:
    """SEP-2663, "Routing Headers". The SDK's own check knows the methods of the core protocol only."""
    task_id = message.params.get("taskId")
    return task_id is None or decode_header_value(headers.get("mcp-name")) == task_id


def _fault_in(lines: Lines) -> str:
    """What is wrong with the headers that mirror a body, whatever the body."""
    duplicated = next((name for name in _ROUTING if len(lines.values(name)) > 1), "")
    if duplicated:
        return f"{duplicated} header appears more than once"
    unreadable = next((name for name, value in lines.text if _mirrors_body(name) and not _VISIBLE.fullmatch(value)), "")
    return f"{unreadable} header holds more than visible ASCII" if unreadable else ""


def _has_param_headers(lines: Lines) -> bool:
    return any(name.startswith(_PARAM_PREFIX) for name, _ in lines.text)


def _is_plain(message: Ask, lines: Lines) -> bool:
    """Whether the headers say plainly what the body says; if not, the SDK's full ladder has the word."""
    fields, call = lines.fields, CALLS.get(message.method)
    return (
        has_plain_envelope(message.params)
        and fields.get("mcp-protocol-version") == message.params["_meta"][META_VERSION]
        and fields.get("mcp-method") == message.method
        and (call is None or _is_plainly_named(message.params.get(call.name_key), fields.get("mcp-name")))
    )


def _is_plainly_named(name: Any, header: str | None) -> bool:
    # streamable-http "Value Encoding": what begins so might stand for another name.
    return isinstance(name, str) and header == name and not name.startswith("=?")


async def _refuse(send: Send, request_id: str | int | None, error: RpcError) -> None:
    await send_json(send, http_status(error), dump(error_message(request_id, error)))
