"""One agent that listens: who it is, the way it came, and what it wants to hear of.

A listening agent is a session of the handshake era or one `subscriptions/listen`. It is told through plain functions
that never wait; what a slow reader costs is the transport's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from mcp_gateway.domain import Caller, Era, Json, Kind, Request, Transport

CurrentCaller = Callable[[], Caller]
"""Who is listening, as the policy in force says now: an agent's default task may change with the policy."""

Tell = Callable[[str], None]
"""Takes the method of a list-changed notification, or the URI of a resource that changed, at once."""

Likeness = tuple[str | None, ...]


def lasting(caller: Caller) -> Caller:
    """A caller as it is judged for as long as it listens.

    What it hangs on is ended by `Closers` when its started task is over; the task may have been extended meanwhile, so
    the end it had at the beginning counts no more.
    """
    if caller.started is None:
        return caller
    return replace(caller, started=replace(caller.started, expires=datetime.max.replace(tzinfo=UTC)))


def _tell_nobody(uri: str) -> None:
    """For those who subscribe to no resources."""


def _tell_nothing(params: Json) -> None:
    """For those who follow no tasks."""


@dataclass(eq=False, slots=True)
class Subscriber:
    """Everything that is remembered of one that listens."""

    caller: CurrentCaller
    era: Era
    transport: Transport
    kinds: tuple[Kind, ...]
    tell: Tell
    tell_updated: Tell = _tell_nobody
    is_listening: bool = True
    """Whether it can be told now. Otherwise what it would have been told of its resources is kept in `missed`."""
    is_over: bool = False
    """Whether it has ended for good: nothing may be subscribed to for it any more."""
    seen: dict[Kind, bytes] = field(default_factory=dict)
    """What its lists looked like when it was last told."""
    uris: set[str] = field(default_factory=set)
    """The resources it subscribed to, as it wrote them."""
    missed: dict[tuple[str, str], None] = field(default_factory=dict)
    """Upstream and URI of what changed while it did not listen, in order."""
    tell_task: Callable[[Json], None] = _tell_nothing
    tasks: dict[tuple[str, str], tuple[str, Request]] = field(default_factory=dict)
    """The wire tasks it follows: by upstream and the id there, the id it knows and the request that was decided."""
    missed_tasks: dict[str, Json] = field(default_factory=dict)
    """The last news of each while it did not listen, by the id it knows."""
    agent: str = field(init=False)

    def __post_init__(self) -> None:
        self.agent = self.caller().agent

    def likeness_of(self, caller: Caller) -> Likeness:
        """Subscribers of equal likeness are judged alike: a thousand sessions of one agent are worked out once."""
        who = (caller.agent, caller.task, caller.started_id, caller.person, caller.credential_id)
        return (*who, self.era, self.transport)
