"""Handshake-era agents over Streamable HTTP (2024-11-05 to 2025-11-25): sessions, an event stream beside the calls.

A session belongs to the agent, credential and task that opened it; anyone else gets the answer an unknown session
gets. A closed connection does not cancel a call here, `notifications/cancelled` does (2025-11-25 transports).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict, deque
from typing import Final

from starlette.types import Receive, Scope, Send

from mcp_gateway.domain import Caller, Era, Json, Kind, RpcError, Transport
from mcp_gateway.errors import BadRequest, GatewayError, OverLimit
from mcp_gateway.frontdoor.answers import Answers
from mcp_gateway.frontdoor.challenges import NO_CHALLENGES, Challenges
from mcp_gateway.frontdoor.doorstep import would_rather_have_events
from mcp_gateway.frontdoor.exchange import Closers, EventStream, Exchange, over_or_hung_up, send_json
from mcp_gateway.frontdoor.head import head_of
from mcp_gateway.frontdoor.http_exchange import EXCHANGE
from mcp_gateway.frontdoor.listen import Bulletin
from mcp_gateway.frontdoor.protocol import Answer, Ask, Notice
from mcp_gateway.frontdoor.replies import AgentReply
from mcp_gateway.frontdoor.session import Session, elicitation_complete
from mcp_gateway.frontdoor.subscriber import Subscriber, lasting
from mcp_gateway.frontdoor.updates import UPDATED
from mcp_gateway.frontdoor.wire_errors import answer_to
from mcp_gateway.jsonrpc import Code, dump, error_message

SESSION_HEADER: Final = b"mcp-session-id"
MAX_SESSIONS: Final = 10_000
MAX_SESSIONS_PER_AGENT: Final = 1_000
MAX_UNTOLD_LINKS: Final = 16
IDLE_S: Final = 30 * 60
"""A session nobody has used for this long is forgotten; its agent is told 404 and initialises again."""


class HttpSession(Session):
    """A session with the stream its agent may keep open beside its calls."""

    def __init__(self, session_id: str, caller: Caller) -> None:
        super().__init__(session_id, caller, Transport.HTTP)
        self.subscriber: Subscriber = Subscriber(
            lambda: lasting(caller),
            Era.LEGACY,
            Transport.HTTP,
            tuple(Kind),
            self.tell,
            self.tell_updated,
            is_listening=False,
        )
        self.closing_key: object = None
        self.used_at = time.monotonic()
        self._untold: set[str] = set()
        self._untold_links: deque[str] = deque(maxlen=MAX_UNTOLD_LINKS)
        self._stream: EventStream | None = None
        self._over: asyncio.Event | None = None

    @property
    def is_in_use(self) -> bool:
        """Whether its agent waits for something: an answer, or the next notification."""
        return self._stream is not None or self.has_in_flight

    def tell(self, method: str) -> None:
        """Send a notification on the standalone stream, or keep it until there is one. The same one is kept once."""
        if self._stream is None:
            self._untold.add(method)
        else:
            self._stream.put_once({"jsonrpc": "2.0", "method": method})

    def tell_updated(self, uri: str) -> None:
        """Say on the standalone stream that a resource changed; asked to only while there is one."""
        if self._stream is not None:
            self._stream.put_once({"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": uri}})

    def tell_elicited(self, link_id: str) -> None:
        """Say on the standalone stream that what went on behind a link is done, or keep it until there is one."""
        if self._stream is None:
            self._untold_links.append(link_id)
        else:
            self._stream.put_once(elicitation_complete(link_id))

    def attach(self, stream: EventStream, over: asyncio.Event) -> None:
        """Use `stream` from now on; an earlier one is closed, since a message may go to one stream only."""
        if self._over is not None:
            self._over.set()
        self._stream, self._over = stream, over
        for method in sorted(self._untold):
            self.tell(method)
        self._untold.clear()
        while self._untold_links:
            self.tell_elicited(self._untold_links.popleft())

    def detach(self, stream: EventStream) -> None:
        """`stream` is closed."""
        if self._stream is stream:
            self._stream = self._over = None
            self.subscriber.is_listening = False

    def end(self) -> None:
        """Stop everything that hangs on the session."""
        self.cancel_all()
        if self._over is not None:
            self._over.set()


class LegacyDoor:
    """Serves handshake-era requests whose caller is known and whose body, if any, is parsed."""

    def __init__(
        self,
        answers: Answers,
        bulletin: Bulletin,
        closers: Closers,
        challenges: Challenges = NO_CHALLENGES,
        mark: str = "",
    ) -> None:
        """`mark`: what the ids of sessions begin with."""
        self._mark = mark
        self._answers = answers
        self._challenges = challenges
        self._bulletin = bulletin
        self._closers = closers
        self._sessions: OrderedDict[str, HttpSession] = OrderedDict()

    async def serve_post(
        self, scope: Scope, receive: Receive, send: Send, caller: Caller, message: Ask | Notice | Answer
    ) -> None:
        """Answer one POST."""
        if isinstance(message, Ask) and message.method == "initialize":
            await self._open(scope, receive, send, caller, message)
            return
        session = await self._session_of(scope, send, caller)
        if session is None:
            return
        if isinstance(message, Ask):
            await self._answer(scope, receive, send, session, message, caller)
            return
        if isinstance(message, Notice):
            self._note(session, message)
        else:
            session.take_answer(message)
        await send_json(send, 202, b"")

    async def serve_get(self, scope: Scope, receive: Receive, send: Send, caller: Caller) -> None:
        """Keep the standalone stream open until the agent or the session goes."""
        session = await self._session_of(scope, send, caller)
        if session is None:
            return
        stream, over = EventStream(send, [(SESSION_HEADER, session.id.encode())]), asyncio.Event()
        stream.start()
        session.attach(stream, over)
        self._bulletin.resume(session.subscriber)
        key = self._closers.add(caller, over.set)
        try:
            await over_or_hung_up(over, receive)
        finally:
            session.detach(stream)
            self._closers.discard(key)
            await stream.end()

    async def serve_delete(self, scope: Scope, send: Send, caller: Caller) -> None:
        """End a session."""
        session = await self._session_of(scope, send, caller)
        if session is not None:
            self._forget(session)
            await send_json(send, 200, b"")

    def sweep(self) -> None:
        """Forget sessions nobody has used for `IDLE_S`. They stand in the order of their last use."""
        oldest_kept = time.monotonic() - IDLE_S
        while self._sessions and (session := next(iter(self._sessions.values()))).used_at < oldest_kept:
            if session.is_in_use:
                self._touch(session)
            else:
                self._forget(session)

    async def _open(self, scope: Scope, receive: Receive, send: Send, caller: Caller, message: Ask) -> None:
        session = HttpSession(self._mark + secrets.token_urlsafe(24), caller)
        try:
            session.initialize(message.params)
            self._keep(session)
        except BadRequest as e:
            await _refuse(send, 400, message.id, str(e), e.rpc_code)
            return
        except OverLimit as e:
            await _refuse(send, 503, message.id, str(e))
            return
        await self._answer(scope, receive, send, session, message, caller)

    def _keep(self, session: HttpSession) -> None:
        """Remember a new session. Raises `OverLimit`."""
        self.sweep()
        if len(self._sessions) >= MAX_SESSIONS or self._sessions_of(session.caller) >= MAX_SESSIONS_PER_AGENT:
            raise OverLimit("too many open sessions")
        self._bulletin.subscribe(session.subscriber)
        self._sessions[session.id] = session
        # It ends with its credential: until then upstreams are kept busy for what it subscribed to.
        session.closing_key = self._closers.add(session.caller, lambda: self._forget(session), is_stream=False)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, session: HttpSession, message: Ask, caller: Caller
    ) -> None:
        exchange = Exchange(receive, send, [(SESSION_HEADER, session.id.encode())], scope.get(EXCHANGE))
        exchange.as_event = head_of(scope).lines.judged(would_rather_have_events)
        reply = AgentReply(
            exchange.put,
            message.params,
            session.log_level,
            capabilities=session.capabilities,
            side=caller,
            on_elicited=session.tell_elicited,
            asker=lambda method, params: self._ask(session, exchange, method, params),
        )

        async def work() -> tuple[int, Json]:
            try:
                answer = await self._answers.answer(caller, session.asked(message), reply)
            finally:
                reply.finish()
            step_up = self._challenges.step_up(scope["path"], answer) if "error" in answer else ()
            exchange.add_headers(step_up)
            return 403 if step_up else 200, {"jsonrpc": "2.0", "id": message.id, **answer}

        try:
            if message.method == "logging/setLevel":
                session.set_log_level(message.params)
            session.begin(message.id, exchange.cancel)
        except GatewayError as e:
            answer = answer_to(e, message.method, Era.LEGACY)
            await send_json(send, 200, dump({"jsonrpc": "2.0", "id": message.id, **answer}))
            return
        try:
            await exchange.run(work, self._closers, caller, hang_up_cancels=False)
        finally:
            session.finish(message.id)

    def _ask(self, session: HttpSession, exchange: Exchange, method: str, params: Json) -> asyncio.Future[Json]:
        """Ask on the stream of the call that asks. Nobody can answer once the gateway stops: then nobody waits."""
        answer = session.ask(exchange.ask, method, params)
        key = self._closers.add(session.caller, answer.cancel)
        answer.add_done_callback(lambda _: self._closers.discard(key))
        return answer

    def _note(self, session: HttpSession, message: Notice) -> None:
        if message.method == "notifications/cancelled":
            session.cancel(message.params)

    async def _session_of(self, scope: Scope, send: Send, caller: Caller) -> HttpSession | None:
        """The session a request names, if it is this caller's; otherwise the refusal is sent."""
        named = [value for name, value in scope["headers"] if name == SESSION_HEADER]
        if len(named) != 1:
            await _refuse(send, 400, None, "one Mcp-Session-Id header is needed: initialize first")
            return None
        session = self._sessions.get(named[0].decode("latin-1"))
        if session is None or not session.belongs_to(caller):
            await self._answers.note_foreign_session(caller)
            await _refuse(send, 404, None, "session not found: initialize again")
            return None
        self._touch(session)
        return session

    def _touch(self, session: HttpSession) -> None:
        session.used_at = time.monotonic()
        self._sessions.move_to_end(session.id)

    def _sessions_of(self, caller: Caller) -> int:
        return sum(1 for session in self._sessions.values() if session.caller.agent == caller.agent)

    def _forget(self, session: HttpSession) -> None:
        self._sessions.pop(session.id, None)
        self._bulletin.unsubscribe(session.subscriber)
        self._closers.discard(session.closing_key)
        session.end()


async def _refuse(
    send: Send, status: int, request_id: str | int | None, message: str, code: int = Code.INVALID_REQUEST
) -> None:
    await send_json(send, status, dump(error_message(request_id, RpcError(code, message))))
