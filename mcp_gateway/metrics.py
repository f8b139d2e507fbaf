"""Numbers for a monitoring system: how many calls there were, how they ended, how long they took, what they cost.

Filled in where the audit's rows are written (`audit/metered.py`), read by the scrape door. Plain numbers, touched
only on the event loop, so that counting a call takes no lock and a few microseconds; what reads them copies them first.

No series is made by what somebody sends: labels are words of ours, or names that configuration and policy have. Any
other name is `_other`, and so is every name once a family has `MAX_SERIES`. Tools, arguments and persons are no labels.
"""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from mcp_gateway.domain import Caller, Decision, Outcome, OutcomeStatus, Request, Target, Usage

OTHER: Final = "_other"
"""In place of a name that nobody configured. No name of a server, agent or task begins with `_`."""
NONE: Final = "_none"
"""Where there is none: a list has no upstream, an agent may be on no task."""

MAX_SERIES: Final = 2_000
"""Label sets of one family that hold names; those after them are counted together."""
LAG_EVERY_S: Final = 0.25

_REASON: Final = re.compile(r"[a-z0-9_:]{1,64}")
_OWN_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_UPSTREAM_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

_ANSWERED: Final = frozenset(
    {
        OutcomeStatus.OK,
        OutcomeStatus.HTTP_ERROR,
        OutcomeStatus.TOOL_ERROR,
        OutcomeStatus.RPC_ERROR,
        OutcomeStatus.INPUT_REQUIRED,
        OutcomeStatus.WIRE_TASK,
    }
)
"""Of others nobody knows how much of their time was the upstream's."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, what its labels are, and what it says."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    says: str
    bounds: tuple[float, ...] = ()
    """Of a histogram: the upper bounds of its buckets, without infinity."""


CALLS: Final = Family(
    "mcp_gateway_calls",
    "counter",
    ("kind", "agent", "task", "upstream", "decision", "outcome"),
    "Requests that were decided, when they ended.",
)
DENIED: Final = Family(
    "mcp_gateway_denied", "counter", ("agent", "reason"), "Requests that the policy, or the moment, did not allow."
)
UNDER_WAY: Final = Family(
    "mcp_gateway_calls_under_way", "gauge", ("kind", "upstream"), "Calls that were let through and have not ended."
)
OWN_TIME: Final = Family(
    "mcp_gateway_own_seconds",
    "histogram",
    ("kind", "upstream"),
    "The gateway's own part of calls that were answered, but for the audit's last row (see the commits).",
    _OWN_S,
)
UPSTREAM_TIME: Final = Family(
    "mcp_gateway_upstream_seconds",
    "histogram",
    ("kind", "upstream"),
    "The upstream's part of calls that were answered.",
    _UPSTREAM_S,
)
TOKENS: Final = Family(
    "mcp_gateway_model_tokens",
    "counter",
    ("agent", "model", "type"),
    "Tokens of models: `input` and `output` are all; `cache_read`, `cache_write`, `reasoning` are part of those.",
)
COST: Final = Family(
    "mcp_gateway_model_cost_usd", "counter", ("agent", "model"), "What calls of models cost, in US dollars."
)
UNPRICED: Final = Family(
    "mcp_gateway_model_calls_unpriced", "counter", ("agent", "model"), "Calls of models whose price nobody knows."
)
REFUSED: Final = Family(
    "mcp_gateway_refused",
    "counter",
    ("reason",),
    "Requests refused at the door, before they were any call: `http_401`, `http_401:expired`, `http_413`, ...",
)
COMMIT_TIME: Final = Family(
    "mcp_gateway_audit_commit_seconds", "histogram", (), "How long requests waited for a row of the audit.", _OWN_S
)
LAG: Final = Family(
    "mcp_gateway_event_loop_lag_seconds", "histogram", (), "How late a timer of the event loop was.", _OWN_S
)
UPSTREAM_STATE: Final = Family(
    "mcp_gateway_upstream_state", "gauge", ("upstream", "state"), "1 for the state that each upstream is in, else 0."
)
UPSTREAM_RESTARTS: Final = Family(
    "mcp_gateway_upstream_restarts", "counter", ("upstream",), "How often an upstream was started again."
)
AUDIT_WAITING: Final = Family(
    "mcp_gateway_audit_waiting", "gauge", (), "Requests that wait for a row of the audit to be committed."
)
AUDIT_COMMITS: Final = Family(
    "mcp_gateway_audit_commits", "counter", (), "Transactions of the audit; rows that meet share one."
)
AUDIT_HEALTHY: Final = Family(
    "mcp_gateway_audit_healthy", "gauge", (), "1 while the audit can be written; nothing is served without."
)
COMPLAINTS: Final = Family(
    "mcp_gateway_complaints", "gauge", (), "Files that are not in force as they stand; `mcp-gateway status` says why."
)
INFO: Final = Family("mcp_gateway_info", "gauge", ("version", "policy"), "1; the version and policy in force.")

FAMILIES: Final = (
    CALLS,
    DENIED,
    UNDER_WAY,
    OWN_TIME,
    UPSTREAM_TIME,
    TOKENS,
    COST,
    UNPRICED,
    REFUSED,
    UPSTREAM_STATE,
    UPSTREAM_RESTARTS,
    COMMIT_TIME,
    AUDIT_WAITING,
    AUDIT_COMMITS,
    AUDIT_HEALTHY,
    LAG,
    COMPLAINTS,
    INFO,
)


class Spread(NamedTuple):
    """The values of a histogram at one moment."""

    counts: tuple[int, ...]
    """By bucket, not added up; one more than there are bounds."""
    total: float


class Taken(NamedTuple):
    """A family's values at one moment, by the values of its labels."""

    family: Family
    values: Sequence[tuple[tuple[str, ...], float | Spread]]


@dataclass(frozen=True, slots=True)
class Names:
    """What may be a label's value."""

    agents: Collection[str] = frozenset()
    tasks: Collection[str] = frozenset()
    upstreams: Collection[str] = frozenset()
    models: Collection[str] = frozenset()
    """As `provider/model`."""


class _Amount:
    __slots__ = ("value",)

    def __init__(self, family: Family) -> None:
        self.value: float = 0

    def now(self) -> float:
        return self.value


class _Histogram:
    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, family: Family) -> None:
        self._bounds = family.bounds
        self._counts = [0] * (len(family.bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def now(self) -> Spread:
        return Spread(tuple(self._counts), self._total)


Value = TypeVar("Value", bound=_Amount | _Histogram)


class _Series(Generic[Value]):
    """The values of one family, each made when its labels are first met."""

    def __init__(self, family: Family, make: Callable[[Family], Value], metrics: Metrics, most: int) -> None:
        self.family = family
        self._make = make
        self._metrics = metrics
        self._most = most
        self._found: dict[tuple[str, ...], Value] = {}

    def of(self, *labels: str) -> Value:
        found = self._found.get(labels)
        return found if found is not None else self._made(labels)

    def taken(self) -> Taken:
        return Taken(self.family, [(labels, value.now()) for labels, value in self._found.items()])

    def _made(self, labels: tuple[str, ...]) -> Value:
        """Under names that are configured only, and while there is room."""
        named = tuple(map(self._metrics.as_known, self.family.labels, labels))
        if named not in self._found and len(self._found) >= self._most:
            named = tuple(
                OTHER if label in _NAMED else value for label, value in zip(self.family.labels, named, strict=True)
            )
        return self._found.setdefault(named, self._make(self.family))


_NAMED: Final = frozenset({"agent", "task", "upstream", "model", "reason"})
"""Labels whose values are not all known beforehand."""


class Metrics:
    """What has been counted since this process started. Belongs to its event loop."""

    def __init__(self, most: int = MAX_SERIES) -> None:
        self.names = Names()
        """Replaced whenever configuration or policy is."""
        self._calls = _Series(CALLS, _Amount, self, most)
        self._denied = _Series(DENIED, _Amount, self, most)
        self._under_way = _Series(UNDER_WAY, _Amount, self, most)
        self._own_time = _Series(OWN_TIME, _Histogram, self, most)
        self._upstream_time = _Series(UPSTREAM_TIME, _Histogram, self, most)
        self._tokens = _Series(TOKENS, _Amount, self, most)
        self._cost = _Series(COST, _Amount, self, most)
        self._unpriced = _Series(UNPRICED, _Amount, self, most)
        self._refused = _Series(REFUSED, _Amount, self, min(most, 100))
        commit_time, lag = _Series(COMMIT_TIME, _Histogram, self, 1), _Series(LAG, _Histogram, self, 1)
        self._commit_time, self._lag = commit_time.of(), lag.of()
        self._all: tuple[_Series[_Amount] | _Series[_Histogram], ...] = (
            self._calls,
            self._denied,
            self._under_way,
            self._own_time,
            self._upstream_time,
            self._tokens,
            self._cost,
            self._unpriced,
            self._refused,
            commit_time,
            lag,
        )

    def opened(self, request: Request, target: Target | None) -> None:
        """A call was let through; `closed` is told of it, too."""
        self._under_way.of(request.verb, _upstream(target)).value += 1

    def closed(self, request: Request, target: Target | None, outcome: Outcome, gateway_ms: float) -> None:
        """A call that was let through is over."""
        way = request.verb, _upstream(target)
        self._under_way.of(*way).value -= 1
        if outcome.status in _ANSWERED:
            self._own_time.of(*way).observe(max(0.0, gateway_ms) / 1000)
            if outcome.upstream_ms:
                self._upstream_time.of(*way).observe(outcome.upstream_ms / 1000)

    def ended(
        self, caller: Caller, request: Request, target: Target | None, decision: Decision, outcome: Outcome
    ) -> None:
        """A request has got its end, let through or not."""
        upstream = _upstream(target)
        ended = self._calls.of(
            request.verb, caller.agent, caller.task or NONE, upstream, decision.effect, outcome.status
        )
        ended.value += 1
        if not decision.visible:
            self._denied.of(caller.agent, decision.reason).value += 1
        if outcome.usage is not None:
            self._count_usage(caller.agent, outcome.usage)

    def refused(self, reason: str) -> None:
        """A request was refused before anybody knew whose it was."""
        self._refused.of(reason).value += 1

    def committed(self, seconds: float) -> None:
        """A row of the audit was waited for so long."""
        self._commit_time.observe(seconds)

    def as_known(self, label: str, value: str) -> str:
        """The value of a label as it may be shown."""
        if value in (NONE, OTHER):
            return value
        names = self.names
        match label:
            case "agent":
                is_known = value in names.agents
            case "task":
                is_known = value in names.tasks
            case "upstream":
                is_known = value in names.upstreams
            case "model":
                is_known = value in names.models
            case "reason":
                is_known = _REASON.fullmatch(value) is not None
            case _:
                is_known = True
        return str(value) if is_known else OTHER

    def taken(self) -> list[Taken]:
        """Everything as it is now."""
        return [series.taken() for series in self._all]

    async def watch_the_loop(self) -> None:
        """Measure how late timers are, until cancelled."""
        while True:
            due = perf_counter() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._lag.observe(max(0.0, perf_counter() - due))

    def _count_usage(self, agent: str, usage: Usage) -> None:
        model = usage.model or NONE
        for kind, tokens in _tokens(usage):
            if tokens:
                self._tokens.of(agent, model, kind).value += tokens
        if usage.cost is None:
            self._unpriced.of(agent, model).value += 1
        else:
            self._cost.of(agent, model).value += usage.cost


def _upstream(target: Target | None) -> str:
    return NONE if target is None else target.upstream


def _tokens(usage: Usage) -> Iterable[tuple[str, int]]:
    return (
        ("input", usage.input),
        ("output", usage.output),
        ("cache_read", usage.cache_read),
        ("cache_write", usage.cache_write),
        ("reasoning", usage.reasoning),
    )
