"""What every way of reaching an upstream offers: ask one thing, get one answer.

`stdio`, `http` and `sse` implement `Connection`; `managed` owns one and replaces it when it breaks. A connection is
entered and left in one task (its owner's); any task may `ask` on it.

Knows nothing of how often to retry, of policies, or of agents other than the one `Reply` of each request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import anyio
from anyio.abc import TaskGroup

from mcp_gateway.domain import NOTHING, Era, Json, Reply, RpcError, UpstreamRequest
from mcp_gateway.errors import Unreachable, UpstreamError

Answer = Json | RpcError
"""What an upstream answered: its raw `result`, or its JSON-RPC error."""

MiB: Final = 2**20


Prove = Callable[[str, str, str, str], str]
"""The DPoP proof (RFC 9449) for a token, a method, a URL and a nonce (or nothing); empty: the token has no key."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what an upstream may make us hold or wait for."""

    max_message_bytes: int = 16 * MiB
    """One line on stdio, one SSE event, one JSON body; decoded. A real `tools/list` of 1030 tools has 2 MB."""
    max_answer_bytes: int = 64 * MiB
    """All decoded bytes of one HTTP answer, events before the result included."""
    max_in_flight: int = 4096
    """Calls waiting on one connection."""
    max_unread_bytes: int = 64 * MiB
    """What we hold for a child process that does not read its input."""
    max_noise_bytes: int = 16 * MiB
    """Output that is no message, between two messages. Servers print banners; they do not print this much."""
    max_sessions: int = 256
    """Legacy HTTP sessions of one upstream, one for each credential."""
    max_pages: int = 100
    max_items: int = 10_000
    """Of each kind (tools, prompts, ...)."""
    max_listing_bytes: int = 32 * MiB
    listing_timeout_s: float = 30.0
    connect_timeout_s: float = 10.0
    probe_timeout_s: float = 3.0
    """How long a stdio server may be silent about `server/discover` before it is taken for a legacy one."""
    start_timeout_s: float = 60.0
    """From spawn to the answer of `initialize`; `npx` may be downloading the server meanwhile."""
    follow_s: float = 300.0
    """How long a wire task is followed inside the call of an agent whose era knows none."""
    check_timeout_s: float = 5.0
    """How long an upstream under suspicion may take to answer a ping."""
    admits: Callable[[str, str], bool] | None = None
    """Whether an IP address may be connected to for the host of a URL. None: every one may."""
    ids_after: int = 0
    """Requests over HTTP are numbered from here, and their progress tokens: several processes may ask one server."""
    prove: Prove | None = None
    """Makes proofs for tokens that are bound to a key. None: there are none."""


class TooBusy(Unreachable):
    """A bound of ours: nothing was sent, and it says nothing about the upstream's health."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a server said about itself, and the era it was said in."""

    era: Era
    protocol_version: str
    capabilities: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    instructions: str = ""
    extensions: frozenset[str] = frozenset()
    """What it announced, of the protocol extensions we can carry."""
    notes: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """See `Listing.notes`: only ever a word of the operator's, never of the server's."""


Question = Callable[[str, Json, Reply | None], Awaitable[Json]]
"""Answers a question an upstream asks (`sampling/createMessage`, `elicitation/create`, `roots/list`).

Called with method, params and the reply channel of the call it belongs to; None where that cannot be told for sure.
Returns the result for the upstream; raises `LookupError` where it cannot be answered.
"""


@dataclass(slots=True)
class Listener:
    """What a connection tells its owner: something changed, something was thrown away."""

    on_list_changed: Callable[[str], None] = lambda method: None
    """Called with the notification's method."""
    on_question: Question | None = None
    question_capabilities: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    """What a legacy upstream is told in `initialize` that it may ask."""
    asks: bool = False
    """Whether the upstream has asked something in the middle of a call over a channel that does not tell which call."""
    dropped: Counter[str] = field(default_factory=Counter)
    """What upstreams sent and nobody could use, by kind. Keys come from a fixed set, so this stays small."""
    on_updated: Callable[[Json], None] = lambda params: None
    """Called with the params of `notifications/resources/updated`."""
    on_acknowledged: Callable[[Json], None] = lambda params: None
    """Called with the params of `notifications/subscriptions/acknowledged`."""
    on_gap: Callable[[bool], None] = lambda is_forgotten: None
    """Called when nobody listened to a legacy server's stream for a while; True: and it has forgotten the session."""

    on_elicited: Callable[[Json], None] = lambda params: None
    """Called with the params of `notifications/elicitation/complete`."""

    on_task: Callable[[Json], None] = lambda params: None
    """Called with the params of `notifications/tasks`."""

    on_written: Callable[[], None] = lambda: None
    """Called when a call of a tool of a plain API may have changed something there."""

    def take_news(self, method: object, params: Json) -> None:
        """Take a notification that belongs to no call; must be quick, floods come this way."""
        if method == "notifications/resources/updated":
            self.on_updated(params)
        elif method == "notifications/subscriptions/acknowledged":
            self.on_acknowledged(params)
        elif method == "notifications/tasks":
            self.on_task(params)
        elif method == "notifications/elicitation/complete":
            self.on_elicited(params)
        elif isinstance(method, str) and method.endswith("/list_changed"):
            self.on_list_changed(method)
        else:
            self.dropped["notification"] += 1


class Connection(Protocol):
    """One live way to one upstream, its era negotiated."""

    @property
    def greeting(self) -> Greeting: ...

    @property
    def transport(self) -> str:
        """`stdio`, `http` or `sse`, for operators."""
        ...

    @property
    def broken(self) -> anyio.Event:
        """Set once nothing can be asked any more."""
        ...

    @property
    def why_broken(self) -> str: ...

    def break_off(self, why: str) -> None:
        """Give it up: calls in flight fail with this reason, and nothing can be asked any more."""
        ...

    def carry(self, headers: Mapping[str, str]) -> None:
        """Send these with the gateway's own requests from now on; only over Streamable HTTP."""
        ...

    async def ask(self, request: UpstreamRequest, reply: Reply, timeout_s: float) -> Answer:
        """Ask one thing; progress and log lines go to `reply` before the answer is returned, none after.

        Cancelling the caller cancels the request upstream. Raises `errors.UpstreamError`.
        """
        ...

    async def listen(self, notifications: Json) -> None:
        """Hold a modern `subscriptions/listen` with this filter until the upstream ends it.

        Raises `errors.UpstreamError`, or `LookupError` where the upstream will not have it.
        """
        ...


@asynccontextmanager
async def errands() -> AsyncIterator[TaskGroup]:
    """Tasks that end with the block; an `UpstreamError` of the block comes out as itself, not in a group."""
    failure: UpstreamError | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except UpstreamError as e:
            failure = e
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


class Silent:
    """The reply channel of our own requests, and of agents that speak no MCP: nobody listens, nobody can be asked."""

    side: object = None
    takes_input_required = False
    waited_s = 0.0
    wants_progress = False
    log_level: str | None = None
    capabilities: Mapping[str, Any] = NOTHING
    lacking: Mapping[str, Any] = NOTHING

    def can_be_asked(self, method: str, params: Json) -> bool:
        """Nobody answers."""
        return False

    async def progress(self, params: Json) -> None:
        """Nobody listens."""

    async def log(self, params: Json) -> None:
        """Nobody listens."""

    def elicited(self, link_id: str) -> None:
        """Nobody was asked."""

    async def ask(self, method: str, params: Json) -> Json:
        """Nobody answers."""
        raise LookupError(f"{method}: nobody behind this request can be asked")


SILENT: Final[Reply] = Silent()
