"""One upstream, kept alive: opened, listed, watched, reopened with growing waits, and closed, all by one owner task.

Any task may `send`; only the owner opens and closes, because cancel scopes have to be left where they were entered.
A dead, slow or hanging upstream costs its own callers a clear error at once and nobody else anything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from math import inf
from time import perf_counter
from typing import Any, Final

import anyio

from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import (
    NOTHING,
    Challenge,
    Credential,
    Era,
    Json,
    Listing,
    Outcome,
    OutcomeStatus,
    OwnCredentials,
    Reply,
    RpcError,
    UpstreamRequest,
    UpstreamState,
    UpstreamStatus,
)
from mcp_gateway.errors import LoginNeeded, TimedOut, Unreachable, UpstreamError
from mcp_gateway.jsonrpc import Code
from mcp_gateway.upstreams.backoff import Backoff
from mcp_gateway.upstreams.bridge import is_complete, named, nobody, until_complete
from mcp_gateway.upstreams.connect import Opener, memory_of, open_connection
from mcp_gateway.upstreams.connection import (
    SILENT,
    Answer,
    Connection,
    Limits,
    Listener,
    Question,
    TooBusy,
    errands,
)
from mcp_gateway.upstreams.elicited import Elicited
from mcp_gateway.upstreams.handshake import DiedOfProbe
from mcp_gateway.upstreams.listening import Listening
from mcp_gateway.upstreams.listing import fetch_listing
from mcp_gateway.upstreams.login_tool import LOGIN_TOOL, login_result
from mcp_gateway.upstreams.redact import without_secrets
from mcp_gateway.upstreams.refusals import Rejected
from mcp_gateway.upstreams.watch import Watch, keep_subscribed

FIRST_WAIT_S: Final = 0.5
MOST_WAIT_S: Final = 60.0
LONG_ENOUGH_S: Final = 30.0
"""An upstream that was ready for so long starts again with the first wait; one that flaps waits ever longer."""

STARTING_WAIT_S: Final = 10.0
"""How long a call waits for an upstream that is starting."""

FAILURES_BEFORE_CHECK: Final = 3
"""Calls in a row that got no answer over HTTP before the upstream has to prove itself; one is enough for a child,
which cannot have a bad connection."""

DRAIN_S: Final = 5.0
"""How long calls in flight may go on after their upstream was taken out of the configuration."""

RELIST_AFTER_S: Final = 0.1
RELIST_GAP_S: Final = 0.2
RELIST_GAP_AT_MOST_S: Final = 30.0
RELIST_QUIET_S: Final = 5.0
"""News of changes come in bursts, and from a hostile server without end. Looking at its lists costs everybody: after
the first look there is a moment of rest, and ever more of it while the news go on without a pause of `RELIST_QUIET_S`.
"""

LOGIN_LOOK_S: Final = 30.0
"""How often an upstream that needs a login is tried without anybody saying that there is one."""

LOGIN_STAYS_S: Final = 600.0
"""How long the login tool can still be called once there are others: as long as a login may take."""

OWN_LOOK_S: Final = 15.0
"""How often we see whether our own requests have to go with another credential: well within the time that tokens are
renewed ahead."""

MAX_DETAIL_CHARS: Final = 2000

NO_CREDENTIAL: Final = Credential()

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all upstreams of a pool share."""

    on_change: Callable[[str], None] = lambda name: None
    limits: Limits = field(default_factory=Limits)
    remembered: MutableMapping[str, str] = field(default_factory=dict)
    on_question: Question | None = None
    question_capabilities: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    open: Opener = open_connection
    on_updated: Callable[[str, str], None] = lambda name, uri: None
    own: OwnCredentials | None = None
    on_task: Callable[[str, Json], None] = lambda name, params: None
    on_written: Callable[[str], None] = lambda name: None


class ManagedUpstream:
    """One upstream as the rest of the gateway sees it: implements `domain.Upstream`."""

    def __init__(self, config: ServerConfig, around: Surroundings, before: ManagedUpstream | None = None) -> None:
        self.config = config
        self.listing: Listing | None = before.listing if before is not None else None
        self.settled = anyio.Event()
        self.finished = anyio.Event()
        self.changes = 0
        """How often it has said, or may have said unheard, that its lists are others."""
        self._around = around
        self._before = before
        self._state = UpstreamState.STARTING if config.enabled else UpstreamState.DISABLED
        self._moved = anyio.Event()
        self._connection: Connection | None = None
        self._era: Era | None = None
        self._version = ""
        self._transport = ""
        self._why = ""
        self._detail = ""
        self._retry_at = 0.0
        self._starts = 0
        self._failures = 0
        self._suspected = anyio.Event()
        self._changed = anyio.Event()
        self._in_flight = 0
        self._drained = anyio.Event()
        self._scope = anyio.CancelScope()
        self._woken = anyio.Event()
        self._refusal: Rejected | None = None
        self._own = Credential()
        self._login_until = 0.0
        self._backoff = Backoff(FIRST_WAIT_S, MOST_WAIT_S)
        self._elicited = Elicited(named(config.name, around.on_question or nobody))
        on_question = None if around.on_question is None else self._elicited.ask
        self.listener = Listener(self._note_list_changed, on_question, _asked_by(config, around))
        self.listener.on_task = lambda params: around.on_task(config.name, params)
        self.listener.on_written = lambda: around.on_written(config.name)
        self.listener.on_elicited = self._elicited.note_complete
        # The one this replaces was asked for the same.
        self.watched: Watch = before.watched if before is not None else self._new_watch()
        self.listener.on_updated = self.watched.note_updated
        self.listener.on_gap = self.watched.note_gap

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def offers_login(self) -> bool:
        """Whether the login tool is listed: nothing else is known, or somebody may be in the middle of calling it."""
        return anyio.current_time() < self._login_until

    @property
    def status(self) -> UpstreamStatus:
        """How it is doing now."""
        is_down = self._state is UpstreamState.DOWN
        return UpstreamStatus(
            self.name,
            self._state,
            self._era,
            self._version,
            self._transport,
            self._detail,
            max(0.0, self._retry_at - anyio.current_time()) if is_down else None,
            max(0, self._starts - 1),
        )

    def send(self, request: UpstreamRequest, reply: Reply) -> Coroutine[Any, Any, Outcome]:
        """Send one request, questions to the agent's side included; see `domain.Upstream.send`.

        The timeout is hard, whatever progress there is; time spent waiting for the agent's side does not count.
        """
        return self._send_once(request, reply, follows=True)

    async def _followed(self, outcome: Outcome, request: UpstreamRequest, reply: Reply) -> Outcome:
        """What comes of an outcome that is not the last word."""
        follow_s = self._around.limits.follow_s
        outcome = await until_complete(
            self.name, lambda asked: self._send_once(asked, reply), request, reply, outcome, follow_s
        )
        self._elicited.note_refusal(outcome.error, reply)
        return outcome

    async def listed_for(self, credential: Credential, before: Listing | None) -> Listing:
        """What it lists to the owner of a credential; `before`: what it listed to them last. Raises `UpstreamError`."""
        timeout_s = self._around.limits.listing_timeout_s
        if self._state is UpstreamState.NEEDS_LOGIN:
            await self._logged_in(timeout_s)
        connection = self._connection or await self._connection_within(timeout_s)
        return await self._listed(connection, credential, before)

    def watch(self, uris: frozenset[str], asker: object = None) -> None:
        """See `domain.Upstream.watch`. `asker`: another process that wants this, besides our own agents."""
        self.watched.want(uris, asker)

    def follow(self, task_ids: frozenset[str], asker: object = None) -> None:
        """See `domain.Upstream.follow`."""
        self.watched.follow(task_ids, asker)

    def forget_listing(self) -> None:
        """What was listed belongs to another server."""
        self.listing = None

    async def declined(self, uris: frozenset[str]) -> frozenset[str]:
        """See `domain.Upstream.declined`."""
        return await self.watched.declined(uris)

    def _new_watch(self) -> Watch:
        return Watch(lambda uri: self._around.on_updated(self.name, uri), self.listener.dropped)

    async def _send_once(self, request: UpstreamRequest, reply: Reply, *, follows: bool = False) -> Outcome:
        started_at = perf_counter()
        timeout_s = self.config.timeout_s if request.timeout_s is None else request.timeout_s
        if self._state is UpstreamState.NEEDS_LOGIN:
            await self._logged_in(timeout_s)
        if request.definition is LOGIN_TOOL:
            return Outcome(OutcomeStatus.OK, login_result(self.name))
        connection = self._connection or await self._connection_within(timeout_s)
        self._in_flight += 1
        try:
            answer = await connection.ask(request, reply, timeout_s - (perf_counter() - started_at))
            if isinstance(answer, RpcError) and answer.code == Code.HEADER_MISMATCH and request.method == "tools/call":
                answer = await self._ask_again(answer, connection, request, reply, started_at + timeout_s)
        except (Unreachable, TimedOut) as e:
            self._note_failure(connection, e)
            raise
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._drained.set()
        self._failures = 0
        outcome = outcome_of(request.method, answer, (perf_counter() - started_at) * 1000)
        is_last = not follows or is_complete(outcome, request.method)
        return outcome if is_last else await self._followed(outcome, request, reply)

    async def run(self) -> None:
        """Own the connection until `retire`, or until the task is cancelled."""
        try:
            with self._scope:
                await self._predecessor_gone()
                if self.config.enabled:
                    await self._keep_alive()
        finally:
            self._connection = None
            if self.config.enabled:
                self._become(UpstreamState.CLOSED)
            with anyio.CancelScope(shield=True):
                # Whoever comes after this one waits for all that were before it.
                await self._predecessor_gone()
            self.finished.set()

    def wake(self) -> None:
        """Somebody has logged in to it: if that is what it waited for, try again now."""
        self._woken.set()

    async def retire(self) -> None:
        """Take no more calls, let those in flight finish within `DRAIN_S`, then close."""
        self._connection = None
        self._become(UpstreamState.CLOSED)
        self._drained = anyio.Event()
        if self._in_flight:
            with anyio.move_on_after(DRAIN_S):
                await self._drained.wait()
        self._scope.cancel()

    async def _predecessor_gone(self) -> None:
        """Wait for the one this replaces: two of one server at once could fight over a port, a lock, a database."""
        if self._before is not None:
            await self._before.finished.wait()
            self._before = None

    async def _keep_alive(self) -> None:
        while True:
            try:
                await self._live()
            except LoginNeeded as e:
                await self._wait_for_login(e)
            except UpstreamError as e:
                await self._wait_down(e)

    async def _live(self) -> None:
        """Open, list, serve until it breaks. Always ends in an `UpstreamError`."""
        try:
            await self._open_and_serve()
        except DiedOfProbe:
            # Now known not to bear the question; it is not asked again.
            await self._open_and_serve()
        except Rejected as e:
            if not e.is_about_credentials or self.config.auth is None or self._around.own is None:
                raise
            self._refusal = e
            # What comes of it is what `own` tells from now on.
            await self._around.own.own_after_refusal(self.name, self._own, Challenge(e.status, e.challenge))
            await self._open_and_serve()

    async def _own_credential(self) -> Credential:
        """What our own requests go with; nothing but what the configuration says, for most."""
        if self.config.auth is None or self._around.own is None:
            return Credential()
        return await self._around.own.own(self.name)

    async def _wait_for_login(self, error: LoginNeeded) -> None:
        """Until somebody has logged in; looks by itself now and then. What was listed stays listed."""
        self._why = str(error).removeprefix(f"upstream {self.name!r} ")
        if self.listing is None:
            self._login_until = inf
        self._become(UpstreamState.NEEDS_LOGIN, self._why)
        _log.warning("upstream %s %s", self.name, self._why)
        self._woken = anyio.Event()
        with anyio.move_on_after(LOGIN_LOOK_S):
            await self._woken.wait()

    async def _keep_credential(self, connection: Connection) -> None:
        """Have our own requests go with a credential that holds, for as long as the connection lives."""
        while self.config.auth is not None:
            await anyio.sleep(OWN_LOOK_S)
            if 0 < self._login_until < anyio.current_time():
                self._login_until = 0.0
                self._announce()  # nobody is on the way any more
            try:
                fresh = await self._own_credential()
            except UpstreamError as e:
                _log.info("upstream %s: no credential for our own requests: %s", self.name, e)
                continue
            if fresh.headers and fresh.headers != self._own.headers:
                self._own = fresh
                connection.carry(fresh.headers)

    async def _open_and_serve(self) -> None:
        self._become(UpstreamState.STARTING)
        self._starts += 1
        memory = memory_of(self.config, self._around.remembered)
        self._own = await self._own_credential()
        config = carrying(self.config, self._own)
        opening = self._around.open(config, self.listener, self._around.limits, memory)
        async with opening as connection:
            self._changed = anyio.Event()
            listing = await self._listed(connection)
            self._login_until = min(self._login_until, anyio.current_time() + LOGIN_STAYS_S)
            self._publish(connection, listing)
            self._refusal = None
            ready_at = anyio.current_time()
            try:
                await self._tend(connection)
            finally:
                self._connection = None
                if anyio.current_time() - ready_at > LONG_ENOUGH_S:
                    self._backoff.reset()

    async def _tend(self, connection: Connection) -> None:
        """Do what a live connection needs until it breaks."""
        async with errands() as tasks:
            tasks.start_soon(self._check_when_suspected, connection)
            tasks.start_soon(self._relist_when_changed, connection)
            tasks.start_soon(self._keep_listening, connection)
            tasks.start_soon(self._keep_credential, connection)
            await connection.broken.wait()
            # Closing it takes a moment: whoever asks meanwhile is told why, not that it is ready.
            self._connection = None
            self._why, self._retry_at = connection.why_broken, anyio.current_time()
            self._become(UpstreamState.DOWN, self._why)
            raise Unreachable(self.name, f"upstream {self.name!r} {connection.why_broken}")

    async def _wait_down(self, error: UpstreamError) -> None:
        wait_s = self._backoff.next_s()
        self._retry_at = anyio.current_time() + wait_s
        self._why = str(error).removeprefix(f"upstream {self.name!r} ")
        said = "\n".join(getattr(error, "__notes__", ())).strip()
        text = f"{self._why}; it said last: {said}" if said else self._why
        self._become(UpstreamState.DOWN, without_secrets(text, _secrets_of(self.config))[-MAX_DETAIL_CHARS:])
        _log.warning("upstream %s is down: %s; next try in %.1f s", self.name, self._detail, wait_s)
        await anyio.sleep(wait_s)

    async def _listed(
        self, connection: Connection, own: Credential = NO_CREDENTIAL, before: Listing | None = None
    ) -> Listing:
        """What it lists to us, or to the owner of a credential."""
        timeout_s = self._around.limits.listing_timeout_s

        async def ask(method: str, params: Json) -> Answer:
            asked = UpstreamRequest(method, params, own.headers, owner=own.owner)
            return await connection.ask(asked, SILENT, timeout_s)

        over_http = connection.transport == "http" and connection.greeting.era is Era.MODERN
        limits = self._around.limits
        if own is NO_CREDENTIAL:
            before = self.listing
        return await fetch_listing(self.name, ask, connection.greeting, limits, over_http=over_http, before=before)

    def _publish(self, connection: Connection, listing: Listing) -> None:
        self.listing = listing
        self._connection = connection
        self._era, self._version = connection.greeting.era, connection.greeting.protocol_version
        self._transport = connection.transport
        self._failures = 0
        self._become(UpstreamState.READY, "; ".join(listing.problems)[:MAX_DETAIL_CHARS])

    def _become(self, state: UpstreamState, detail: str | None = None) -> None:
        self._state = state
        self._detail = self._detail if detail is None else detail
        if state in (UpstreamState.READY, UpstreamState.DOWN, UpstreamState.NEEDS_LOGIN):
            self.settled.set()
        self._announce()

    def _announce(self) -> None:
        moved, self._moved = self._moved, anyio.Event()
        moved.set()
        self._around.on_change(self.name)

    async def _connection_within(self, timeout_s: float) -> Connection:
        with anyio.move_on_after(min(timeout_s, STARTING_WAIT_S)):
            while self._state is UpstreamState.STARTING:
                await self._moved.wait()
        if self._connection is None:
            raise Unreachable(self.name, self._words_for_absence())
        return self._connection

    async def _logged_in(self, timeout_s: float) -> None:
        """Somebody with a login calls: wait until it has been tried. Raises what the upstream said to it."""
        self.wake()
        with anyio.move_on_after(min(timeout_s, STARTING_WAIT_S)):
            moved = self._moved
            await moved.wait()
            while self._is_starting():
                await self._moved.wait()
        if self._state is UpstreamState.NEEDS_LOGIN:
            raise self._refusal or Unreachable(self.name, self._words_for_absence())

    def _words_for_absence(self) -> str:
        if self._state is UpstreamState.DOWN:
            wait_s = max(0.0, self._retry_at - anyio.current_time())
            return f"upstream {self.name!r} is down: {self._why}; next try in {wait_s:.0f} s"
        return f"upstream {self.name!r} is " + ("still starting" if self._is_starting() else str(self._state))

    def _is_starting(self) -> bool:
        return self._state is UpstreamState.STARTING

    async def _ask_again(
        self, answer: Answer, connection: Connection, request: UpstreamRequest, reply: Reply, deadline: float
    ) -> Answer:
        """The answer to a call that was refused by its headers, which never ran: the tool's schema names other headers
        by now (2026-07-28 transports, "Client Behavior")."""
        fresh = await self._fresh_definition(connection, str(request.params.get("name")), deadline)
        if fresh is None or fresh == request.definition:
            return answer
        return await connection.ask(replace(request, definition=fresh), reply, deadline - perf_counter())

    async def _fresh_definition(self, connection: Connection, tool: str, deadline: float) -> Json | None:
        """What a tool is by now; None if it is not listed any more, or that is not known in time."""
        self._changed.set()
        with anyio.move_on_after(deadline - perf_counter()):
            listing = await self._listed(connection)
            return next((found for found in listing.tools if found["name"] == tool), None)
        return None

    def _note_failure(self, connection: Connection, error: UpstreamError) -> None:
        """Suspect the upstream; a bound of ours, a credential it refused, or a 4xx says nothing about its health."""
        if isinstance(error, TooBusy) or (isinstance(error, Rejected) and error.status < 500):
            return
        self._failures += 1
        if connection.transport == "stdio" or self._failures >= FAILURES_BEFORE_CHECK:
            self._suspected.set()

    def _note_list_changed(self, method: str) -> None:
        self.changes += 1
        self._changed.set()

    def _note_gap(self) -> None:
        self.changes += 1
        self._changed.set()  # what changed while nobody listened is only seen by looking

    async def _check_when_suspected(self, connection: Connection) -> None:
        """The breaker: an upstream under suspicion that does not answer a ping is given up, and reopened later."""
        method = "server/discover" if connection.greeting.era is Era.MODERN else "ping"
        while True:
            self._suspected = anyio.Event()
            await self._suspected.wait()
            try:
                await connection.ask(UpstreamRequest(method, {}), SILENT, self._around.limits.check_timeout_s)
            except TooBusy:
                continue  # full of calls: each that is not answered in time makes room, and suspects it again
            except UpstreamError as e:
                connection.break_off(str(e).removeprefix(f"upstream {self.name!r} "))
                return
            self._failures = 0

    async def _relist_when_changed(self, connection: Connection) -> None:
        gaps = Backoff(RELIST_GAP_S, RELIST_GAP_AT_MOST_S)
        while True:
            quiet_since = anyio.current_time()
            await self._changed.wait()
            if anyio.current_time() - quiet_since > RELIST_QUIET_S:
                gaps.reset()
            await anyio.sleep(RELIST_AFTER_S)
            self._changed = anyio.Event()
            try:
                listing = await self._listed(connection)
            except UpstreamError as e:
                self._note_failure(connection, e)
                if isinstance(e, Rejected) and e.is_about_credentials and self.config.auth is not None:
                    connection.break_off("does not take the gateway's credential any more")
            else:
                if listing != self.listing and self._connection is connection:
                    self._publish(connection, listing)
            await anyio.sleep(gaps.next_s())

    async def _keep_listening(self, connection: Connection) -> None:
        """Be told of changed lists and watched resources."""
        with self.watched.over(connection.greeting.capabilities):
            if connection.greeting.era is Era.LEGACY:
                await keep_subscribed(self.watched, connection)
            else:
                listening = Listening(self.watched, connection, self._note_gap)
                self.listener.on_acknowledged = listening.note_acknowledged
                await listening.keep()


def carrying(config: ServerConfig, own: Credential) -> ServerConfig:
    """A configuration whose requests go with a credential, if there is one."""
    return replace(config, headers={**config.headers, **own.headers}) if own.headers else config


def outcome_of(method: str, answer: Answer, upstream_ms: float) -> Outcome:
    """How a call that was answered ended; the raw result is passed on untouched, questions and wire tasks too."""
    if isinstance(answer, RpcError):
        return Outcome(OutcomeStatus.RPC_ERROR, error=answer, upstream_ms=upstream_ms)
    if answer.get("resultType") == "input_required":
        return Outcome(OutcomeStatus.INPUT_REQUIRED, result=answer, upstream_ms=upstream_ms)
    if answer.get("resultType") == "task" and method == "tools/call":
        return Outcome(OutcomeStatus.WIRE_TASK, result=answer, upstream_ms=upstream_ms)
    is_tool_error = method == "tools/call" and answer.get("isError") is True
    status = OutcomeStatus.TOOL_ERROR if is_tool_error else OutcomeStatus.OK
    return Outcome(status, result=answer, upstream_ms=upstream_ms)


def _secrets_of(config: ServerConfig) -> list[str]:
    """Values that were resolved from elsewhere and must not show."""
    hidden = [word for word in config.command or () if word not in config.shown]
    return [*config.env.values(), *config.headers.values(), *hidden]


def _asked_by(config: ServerConfig, around: Surroundings) -> Mapping[str, Any]:
    """What a legacy server is told that it may ask."""
    asked = around.question_capabilities
    return {name: asked[name] for name in asked if name != "sampling" or config.sampling != "deny"}
