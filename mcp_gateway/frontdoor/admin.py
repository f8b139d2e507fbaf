"""Operators' programs over HTTP: start and end tasks, answer calls that wait for a person. Off unless configured.

On an address of this machine of its own, with a key of its own: no agent's credential opens it, and its key opens
nothing that agents use. The routes are in docs/reference/admin.md.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields
from datetime import timedelta
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from mcp_gateway.config.durations import seconds
from mcp_gateway.domain import Budget, Json
from mcp_gateway.errors import BadRequest, StoreUnavailable
from mcp_gateway.frontdoor.desk import Desk, MistakeError, Order, plain_approval, plain_task
from mcp_gateway.frontdoor.doorstep import Doorstep, HttpRefusedError, Refusal
from mcp_gateway.frontdoor.exchange import CHALLENGE, send_json
from mcp_gateway.frontdoor.head import head_of
from mcp_gateway.gateway import Clock
from mcp_gateway.jsonrpc import dump, parse

MAX_BODY_BYTES: Final = 64 * 1024

_ROUTE: Final = re.compile(r"/(?P<what>tasks|approvals)(?:/(?P<id>[0-9A-Za-z]{1,32})(?:/(?P<verb>[a-z]{1,10}))?)?")
_BEARER: Final = re.compile(r"bearer +(\S+)", re.IGNORECASE | re.ASCII)
_BUDGET_KEYS: Final = frozenset(item.name for item in fields(Budget))
_ORDER_KEYS: Final = frozenset({"agent", "task", "context", "for", "person", "budget"})
_SECRET_HEADERS: Final = ((b"cache-control", b"no-store"),)

Answer = tuple[int, Any]


class AdminDoor:
    """The ASGI application of the operators' listener."""

    def __init__(
        self, desk: Desk, key: str, clock: Clock, count_refusal: Callable[[str], None], max_header_bytes: int = 65_536
    ) -> None:
        self._desk = desk
        self._key = hashlib.sha256(key.encode()).digest()
        self._clock = clock
        self._count_refusal = count_refusal
        self._doorstep = Doorstep(max_header_bytes=max_header_bytes, max_body_bytes=MAX_BODY_BYTES)
        self._changes: Mapping[tuple[str, str], Callable[[str, Json], Awaitable[Answer]]] = {
            ("tasks", "extend"): self._extend,
            ("tasks", "end"): lambda task_id, _: self._end(task_id, is_revoked=False),
            ("tasks", "revoke"): lambda task_id, _: self._end(task_id, is_revoked=True),
            ("approvals", "approve"): lambda approval_id, body: self._answer(approval_id, body, yes=True),
            ("approvals", "deny"): lambda approval_id, body: self._answer(approval_id, body, yes=False),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection; anything but HTTP is refused."""
        if scope["type"] != "http":
            return
        try:
            status, value = await self._served(scope, receive)
        except HttpRefusedError as e:
            self._count_refusal(f"admin_{e.refusal.status}")
            await send_json(send, e.refusal.status, dump({"error": e.refusal.text}), e.refusal.headers)
            return
        except MistakeError as e:
            status, value = 400, {"error": str(e), **({"fix": e.fix} if e.fix else {})}
        except BadRequest as e:
            status, value = 400, {"error": str(e)}
        except StoreUnavailable:
            status, value = 503, {"error": "a store cannot be written at the moment; nothing was changed"}
        await send_json(send, status, dump(value), _SECRET_HEADERS)

    async def _served(self, scope: Scope, receive: Receive) -> Answer:
        refusal = self._doorstep.check(scope)
        if refusal is not None:
            raise HttpRefusedError(refusal)
        self._check_key(head_of(scope).authorization)
        route = _ROUTE.fullmatch(scope["path"])
        if route is None:
            raise HttpRefusedError(Refusal(404, "not found"))
        what, name, verb = route["what"], route["id"], route["verb"]
        if scope["method"] == "GET" and verb is None:
            return await self._look(what, name, wants_all=b"all" in scope["query_string"])
        if scope["method"] == "POST":
            return await self._change(what, name, verb, await self._body(scope, receive))
        raise HttpRefusedError(Refusal(405, "method not allowed", ((b"allow", b"GET, POST"),)))

    def _check_key(self, authorization: list[str]) -> None:
        match = _BEARER.fullmatch(authorization[0]) if len(authorization) == 1 else None
        given = hashlib.sha256(match[1].encode("latin-1") if match else b"").digest()
        if not hmac.compare_digest(given, self._key):
            raise HttpRefusedError(Refusal(401, "the admin key is required", (CHALLENGE,)))

    async def _body(self, scope: Scope, receive: Receive) -> Json:
        types = head_of(scope).lines.values("content-type")
        body = await self._doorstep.read_body(scope, receive)
        if not body:
            return {}
        # Another type could be sent by a form on any page.
        if [kind.partition(";")[0].strip().lower() for kind in types] != ["application/json"]:
            raise HttpRefusedError(Refusal(415, "send application/json"))
        value = parse(body)
        if not isinstance(value, dict):
            raise MistakeError("the body must be a JSON object")
        return value

    async def _look(self, what: str, name: str | None, *, wants_all: bool) -> Answer:
        if what == "tasks" and name is None:
            now = self._clock()
            records = await self._desk.tasks()
            return 200, [plain_task(record, now) for record in records if wants_all or record.holds(now)]
        if what == "tasks":
            return 200, await self._desk.told(await self._desk.task(name or ""))
        if name is None:
            return 200, [plain_approval(found) for found in await self._desk.approvals(all_of_them=wants_all)]
        return 200, plain_approval(await self._desk.approval(name))

    async def _change(self, what: str, name: str | None, verb: str | None, body: Json) -> Answer:
        if what == "tasks" and name is None:
            token, record = await self._desk.start(order_of(body))
            return 201, {"token": token, **plain_task(record, self._clock())}
        change = self._changes.get((what, verb or ""))
        if name is None or change is None:
            raise HttpRefusedError(Refusal(404, "not found"))
        return await change(name, body)

    async def _extend(self, task_id: str, body: Json) -> Answer:
        record = await self._desk.extend(task_id, _length(body.get("for")))
        return 200, plain_task(record, self._clock())

    async def _end(self, task_id: str, *, is_revoked: bool) -> Answer:
        record = await self._desk.end(task_id, is_revoked=is_revoked)
        return 200, plain_task(record, self._clock())

    async def _answer(self, approval_id: str, body: Json, *, yes: bool) -> Answer:
        by = body.get("by")
        if not isinstance(by, str) or not by.strip():
            raise MistakeError("'by' is missing: who answers", 'send {"by": "NAME"}')
        return 200, plain_approval(await self._desk.answer(approval_id, yes=yes, by=by))


def order_of(body: Json) -> Order:
    """The task that a body orders. Raises `MistakeError`."""
    unknown = sorted(body.keys() - _ORDER_KEYS)
    if unknown:
        raise MistakeError(f"unknown member {unknown[0]!r}", f"known: {', '.join(sorted(_ORDER_KEYS))}")
    agent, task, person = body.get("agent"), body.get("task"), body.get("person")
    context, budget = body.get("context", {}), body.get("budget", {})
    if not isinstance(agent, str) or not isinstance(task, str) or not (person is None or isinstance(person, str)):
        raise MistakeError("'agent' and 'task' must be texts, and so must 'person'")
    if not isinstance(context, dict) or not isinstance(budget, dict):
        raise MistakeError("'context' and 'budget' must be objects")
    lasts = _length(body["for"]) if "for" in body else None
    return Order(agent, task, context, lasts, person, budget_of(budget))


def budget_of(given: Mapping[str, Any]) -> Budget:
    """A budget from plain values. Raises `MistakeError`."""
    for name, value in given.items():
        is_text = name == "currency"
        if name not in _BUDGET_KEYS or not isinstance(value, str if is_text else int) or isinstance(value, bool):
            raise MistakeError(f"{name!r} cannot be {value!r} in a budget", f"known: {', '.join(sorted(_BUDGET_KEYS))}")
        if isinstance(value, int) and value <= 0:
            raise MistakeError(f"{name!r} must be more than 0 in a budget")
    return Budget(**given)


def _length(text: Any) -> timedelta:
    found = seconds(text) if isinstance(text, str) else None
    if found is None:
        raise MistakeError("'for' must be a length of time, such as 30m")
    return timedelta(seconds=found)
