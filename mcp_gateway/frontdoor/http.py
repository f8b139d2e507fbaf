"""The HTTP front door: routes, who may come in, and which era a request belongs to.

Order on every request: doorstep (host, origin, sizes), identity, task, body, era. `/mcp` serves an agent on its
default task, `/mcp/<task>` on that one; a task the agent does not have is as unknown as any other path. The token of
a started task (`Mcp-Gateway-Task`, or the credential itself) says which task it is whatever the endpoint says.
`/health` and `/ready` tell nobody's names: anyone may ask them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from mcp_gateway.audit.log import AuditLog
from mcp_gateway.domain import Caller, Era, Json, RpcError, Strength
from mcp_gateway.errors import BadRequest, IdentityUnavailable, NoAgent, NotAuthenticated, StoreUnavailable
from mcp_gateway.frontdoor.challenges import NO_CHALLENGES, Challenges
from mcp_gateway.frontdoor.connect import ConnectPages
from mcp_gateway.frontdoor.doorstep import Doorstep, HttpRefusedError, Refusal, accepts
from mcp_gateway.frontdoor.exchange import send_json
from mcp_gateway.frontdoor.head import Head, head_of
from mcp_gateway.frontdoor.http_exchange import EXCHANGE
from mcp_gateway.frontdoor.legacy import SESSION_HEADER, LegacyDoor
from mcp_gateway.frontdoor.login_pages import LoginPages
from mcp_gateway.frontdoor.models import ROUTE as MODEL_ROUTE
from mcp_gateway.frontdoor.models import ModelsDoor
from mcp_gateway.frontdoor.modern import ModernDoor
from mcp_gateway.frontdoor.plain import Way, call_in, way_of
from mcp_gateway.frontdoor.protocol import Answer, Ask, Notice, has_modern_envelope, read_message, readable_id
from mcp_gateway.frontdoor.rest import ROUTE as REST_ROUTE
from mcp_gateway.frontdoor.rest import RestDoor
from mcp_gateway.frontdoor.siblings import FIRST, Siblings
from mcp_gateway.frontdoor.wire_errors import answer_to
from mcp_gateway.gateway import Clock, Gateway
from mcp_gateway.identity.task import task_for
from mcp_gateway.identity.verify import Identity, Shown, Verifier
from mcp_gateway.jsonrpc import dump, error_message, parse
from mcp_gateway.revisions import LEGACY_VERSIONS
from mcp_gateway.storage.stamped import once_unlocked

_logger: Final = logging.getLogger(__name__)

# Of the path as it was sent: what no name of a task needs (escapes, dots, a second slash) is not decoded first.
_ROUTE: Final = re.compile(rb"/mcp(?:/(?P<task>[A-Za-z0-9][A-Za-z0-9._-]{0,63}))?/?")

_RETRY_AFTER: Final = ((b"retry-after", b"5"),)

Health = Callable[[], Mapping[str, Any]]
"""How the parts are doing; `ok` tells whether the gateway serves, `ready` whether all of it has come up."""


class HttpDoor:
    """The ASGI application."""

    def __init__(
        self,
        gateway: Gateway,
        doorstep: Doorstep,
        verifier: Verifier,
        audit: AuditLog,
        doors: tuple[ModernDoor, LegacyDoor],
        health: Health,
        clock: Clock,
        challenges: Challenges = NO_CHALLENGES,
        pages: LoginPages | None = None,
        consent: ConnectPages | None = None,
        models: ModelsDoor | None = None,
        rest: RestDoor | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        self._siblings = siblings
        self._consent = consent
        self._gateway = gateway
        self._doorstep = doorstep
        self._verifier = verifier
        self._audit = audit
        self._modern, self._legacy = doors
        self._health = health
        self._clock = clock
        self._challenges = challenges
        self._pages = pages
        self._models = models
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection; anything but HTTP is refused."""
        if scope["type"] != "http":
            return
        try:
            if self._siblings is not None and (home := self._home_of(scope, self._siblings)):
                await self._siblings.hand_on(scope, receive, send, self._doorstep, home)
                return
            way = way_of(scope, self._doorstep, _ROUTE)
            plain = None if way is None else self._plainly(scope, receive, send, way)
            await (self._serve(scope, receive, send) if plain is None else plain)
        except Exception:
            _logger.exception("a bug of ours ended an HTTP request")
            with suppress(RuntimeError):  # a response has begun, there is no second one: the server hangs up
                await send_json(send, 500, dump({"error": "internal error"}))

    def _home_of(self, scope: Scope, siblings: Siblings) -> int:
        """Which other process a request has to be answered by; 0: none."""
        if self._pages is not None and self._pages.owns(scope["path"]):
            return siblings.other(FIRST)
        return siblings.home_of(scope)

    def _plainly(self, scope: Scope, receive: Receive, send: Send, way: Way) -> Awaitable[None] | None:
        """What serves a tool call whose head was judged before; None, and nothing has happened, if it is not plain."""
        exchange = scope[EXCHANGE]
        body = exchange.take_whole()
        if body is None:
            return None
        call = call_in(body, way) if len(body) <= self._doorstep.max_body_bytes else None
        caller = None if call is None or not self._modern.takes_plain(way.tool) else self._plain_caller(scope, way)
        if call is None or caller is None:
            exchange.give_back(body)
            return None
        return self._modern.serve_plain(scope, receive, send, caller, *call)

    def _plain_caller(self, scope: Scope, way: Way) -> Caller | None:
        """Who asks; None for somebody who is to be refused."""
        head, now, verifier = head_of(scope), self._clock(), self._verifier
        try:
            if verifier.answers_at_once:
                who: Identity | None = verifier.identify(head.authorization, now)
            else:
                who = verifier.at_hand(_shown(scope, way.task), now)
            return None if who is None else self._as_before(who, head, way, now)
        except (NotAuthenticated, StoreUnavailable):
            return None

    def _as_before(self, who: Identity, head: Head, way: Way, now: datetime) -> Caller | None:
        """`_as`, on a task of its own: the caller there was the last time, if all that it follows from is the same."""
        assignment = self._gateway.assignment(who.agent)
        if way.known is not None and way.known[0] is who and way.known[1] is assignment:
            return way.known[2]
        if way.task is not None and (assignment is None or way.task not in assignment.tasks):
            return None
        caller = self._as(who, head, way.task, now)
        if caller.started is None and not (who.claims or head.task_tokens):  # those are true for a time
            way.known = (who, assignment, caller)
        return caller

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._doorstep.check(scope)
        if refusal is not None:
            await self._refuse(send, refusal)
        elif scope["path"] in ("/health", "/ready"):
            await self._tell_health(scope, send)
        elif (metadata := self._challenges.metadata(scope["path"])) is not None:
            await self._tell(scope, send, 200, metadata)
        elif self._pages is not None and self._pages.owns(scope["path"]):
            await self._pages.serve(scope, receive, send)
        elif (route := _ROUTE.fullmatch(scope["raw_path"])) is None:
            await self._beside_mcp(scope, receive, send)
        else:
            await self._admit(scope, receive, send, None if route["task"] is None else route["task"].decode())

    async def _beside_mcp(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._consent is not None and scope["path"].startswith("/connect/"):
            await self._consent.serve(scope, receive, send, self._doorstep)
        elif self._models is not None and self._models.is_open and (way := MODEL_ROUTE.fullmatch(scope["raw_path"])):
            await self._models.serve(scope, receive, send, way.groupdict(), self._caller_on)
        elif self._rest is not None and self._rest.is_open and (way := REST_ROUTE.fullmatch(scope["raw_path"])):
            await self._rest.serve(scope, receive, send, way.groupdict(), self._caller_on)
        else:
            await self._refuse(send, Refusal(404, "not found"))

    async def _admit(self, scope: Scope, receive: Receive, send: Send, task: str | None) -> None:
        """Find out who asks and for which task."""
        try:
            caller = await self._caller(scope, task)
        except NotAuthenticated as e:
            await self._refuse(send, Refusal(401, str(e), self._challenges.unauthenticated(e, task), e.fault))
            return
        except NoAgent as e:
            await self._refuse(send, Refusal(403, str(e), why=e.fault))
            return
        except (StoreUnavailable, IdentityUnavailable):
            await self._refuse(send, Refusal(503, "identities cannot be checked at the moment", _RETRY_AFTER))
            return
        if task is not None and not self._has_task(caller.agent, task):
            await self._refuse(send, Refusal(404, "not found"))
        elif scope["method"] == "POST":
            await self._post(scope, receive, send, caller)
        else:
            await self._beside_the_calls(scope, receive, send, caller)

    async def _caller_on(self, scope: Scope, authorization: Sequence[str], task: str | None) -> Caller:
        """The caller, on a task that is its own. Raises `NotAuthenticated` for any other."""
        try:
            caller = await self._caller(scope, task, authorization)
            if task is not None and not self._has_task(caller.agent, task):
                raise NotAuthenticated("there is no such task for this key")
        except (NotAuthenticated, NoAgent) as e:  # these doors answer in their own words, but it counts here
            status = 403 if isinstance(e, NoAgent) else 401
            self._audit.count_refusal(Refusal(status, str(e), why=e.fault).reason)
            raise
        return caller

    async def _caller(self, scope: Scope, task: str | None, authorization: Sequence[str] | None = None) -> Caller:
        """Who asks, after asking whoever has to be asked.

        `authorization`: what stands for that header's values, where a credential came another way.
        """
        head, now, verifier = head_of(scope), self._clock(), self._verifier
        given = head.authorization if authorization is None else authorization
        if verifier.answers_at_once:
            who = await once_unlocked(lambda: verifier.identify(given, now))
        else:
            who = await verifier.admit(replace(_shown(scope, task), authorization=given), now)
        return await once_unlocked(lambda: self._as(who, head, task, now))

    def _as(self, who: Identity, head: Head, task: str | None, now: datetime) -> Caller:
        started = self._verifier.started_task(who, head.task_tokens, now)
        return Caller(
            agent=who.agent,
            task=task_for(self._gateway.assignment(who.agent), task) if started is None else started.task,
            person=who.person if started is None or started.person is None else started.person,
            expires_at=who.expires_at,
            strength=who.strength,
            claims=who.claims,
            credential_id=who.credential_id,
            started=started,
            token=_exchangeable(who, head),
        )

    def _has_task(self, agent: str, task: str) -> bool:
        assignment = self._gateway.assignment(agent)
        return assignment is not None and task in assignment.tasks

    async def _post(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        refusal = self._doorstep.check_post(scope)
        if refusal is not None:
            await self._refuse(send, refusal)
            return
        body = b""
        try:
            body = await self._doorstep.read_body(scope, receive)
            message, refused = _read(body)
            if message is None:
                await self._gateway.note_malformed(caller, "", refused["error"]["message"])
        except HttpRefusedError as e:
            await self._refuse(send, e.refusal)
            return
        except StoreUnavailable as e:
            message, refused = None, {"jsonrpc": "2.0", "id": None, **answer_to(e, "", Era.LEGACY)}
        if message is None:
            await send_json(send, 400, dump(refused))
        elif self._siblings is not None and (home := self._siblings.home_named(self._modern.waiting(caller, message))):
            await self._siblings.hand_on(scope, receive, send, self._doorstep, home, body)
        elif _is_modern(scope, message):
            await self._modern.serve(scope, receive, send, caller, message)
        else:
            await self._legacy.serve_post(scope, receive, send, caller, message)

    async def _beside_the_calls(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        """GET and DELETE exist for handshake-era sessions only."""
        in_session = any(name == SESSION_HEADER for name, _ in scope["headers"])
        version = _version(scope)
        if not in_session or (version is not None and version not in LEGACY_VERSIONS):
            await self._refuse(send, Refusal(405, "POST is the only method here", ((b"allow", b"POST"),)))
        elif scope["method"] == "DELETE":
            await self._legacy.serve_delete(scope, send, caller)
        elif scope["method"] == "GET" and accepts(head_of(scope).lines, "text/event-stream"):
            await self._legacy.serve_get(scope, receive, send, caller)
        elif scope["method"] == "GET":
            await self._refuse(send, Refusal(406, "Accept must list text/event-stream"))
        else:
            await self._refuse(send, Refusal(405, "method not allowed", ((b"allow", b"GET, POST, DELETE"),)))

    async def _tell_health(self, scope: Scope, send: Send) -> None:
        health = self._health()
        good = health["ok"] if scope["path"] == "/health" else health["ok"] and health["ready"]
        await self._tell(scope, send, 200 if good else 503, health)

    async def _tell(self, scope: Scope, send: Send, status: int, document: Mapping[str, Any]) -> None:
        """Something anybody may read."""
        if scope["method"] not in ("GET", "HEAD"):
            await self._refuse(send, Refusal(405, "method not allowed", ((b"allow", b"GET, HEAD"),)))
            return
        await send_json(send, status, dump(document), ((b"cache-control", b"no-store"),))

    async def _refuse(self, send: Send, refusal: Refusal) -> None:
        self._audit.count_refusal(refusal.reason)
        await send_json(send, refusal.status, dump({"error": refusal.text}), refusal.headers)


def _shown(scope: Scope, task: str | None) -> Shown:
    head, peer = head_of(scope), scope.get("client") or ("", 0)
    return Shown(head.authorization, task, scope["method"], head.lines.values, peer[0])


def _exchangeable(who: Identity, head: Head) -> str:
    """The token that a broker may exchange for one of an upstream's: a person's own, and bound to nobody's key."""
    if who.strength is not Strength.TOKEN or not who.person or not head.authorization:
        return ""
    return head.authorization[0].partition(" ")[2].strip()


def _read(body: bytes) -> tuple[Ask | Notice | Answer | None, Json]:
    """The one message in a body, or None and the JSON-RPC error that refuses it."""
    value: Any = None
    try:
        value = parse(body)
        return read_message(value), {}
    except BadRequest as e:
        return None, error_message(readable_id(value), RpcError(e.rpc_code, str(e)))


def _is_modern(scope: Scope, message: Ask | Notice | Answer) -> bool:
    """Which era a POST belongs to.

    The body is the source of truth: a modern envelope makes a request modern whatever its headers say (and the
    modern door then checks those). Without one, only a version header that no handshake knows makes it modern.
    """
    if isinstance(message, Ask) and message.method != "initialize" and has_modern_envelope(message.params):
        return True
    version = _version(scope)
    return version is not None and version not in LEGACY_VERSIONS


def _version(scope: Scope) -> str | None:
    values = head_of(scope).lines.values("mcp-protocol-version")
    return values[0] if values else None
