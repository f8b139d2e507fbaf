"""THE WALK: what happens to one request, station by station. Read this first.

An agent comes to the front door; we know who it is and for which task. Here the target is looked up in the catalog,
the policy is asked, the decision is on disk, the guards are run, the credential is fetched, the upstream is called,
and what came back is on disk before the agent hears of it.

Everything a request is judged by is one `Snapshot`: a request reads it once and finishes under it, so it never sees
half an edit. Lists and calls ask the same `decide`.
"""

from __future__ import annotations

from asyncio import CancelledError, Event
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import perf_counter
from typing import Final, Protocol, TypeVar

from anyio import CancelScope

from mcp_gateway.audit.kept import Keeper, Record
from mcp_gateway.audit.log import AuditLog
from mcp_gateway.catalog.catalog import Catalog
from mcp_gateway.catalog.rewrite import upstream_params
from mcp_gateway.catalog.seen import Seen
from mcp_gateway.domain import (
    Answering,
    Assignment,
    Caller,
    Challenge,
    Credential,
    Decision,
    Effect,
    Era,
    Finding,
    Kind,
    Outcome,
    OutcomeStatus,
    Reason,
    Reply,
    Request,
    Sender,
    Standing,
    Target,
    Transport,
    Upstream,
    UpstreamRequest,
    Verb,
)
from mcp_gateway.errors import (
    AgentRefused,
    BadArguments,
    BadRequest,
    Blocked,
    ConsentNeeded,
    GatewayError,
    Gone,
    Misbehaved,
    NotAvailable,
    OverLimit,
    StoreUnavailable,
    TimedOut,
    Unreachable,
)
from mcp_gateway.guards.budget import MOST, Budgets, Reservation, micros
from mcp_gateway.guards.order import Guards
from mcp_gateway.guards.transactions import Held, Transactions
from mcp_gateway.policy.budgets import CURRENCY
from mcp_gateway.policy.compile import Policy
from mcp_gateway.policy.decide import decide, seen_alike, visible_of
from mcp_gateway.policy.inspections import inspections
from mcp_gateway.policy.keeping import keeping
from mcp_gateway.storage.transactions import Spending
from mcp_gateway.upstreams.refusals import Rejected

T = TypeVar("T")

Choose = Callable[[Sequence[Target]], Sequence[Target]]

Clock = Callable[[], datetime]
"""The time, in UTC and aware of it."""

_STATUS_OF: Final[tuple[tuple[type[GatewayError], OutcomeStatus], ...]] = (
    (BadArguments, OutcomeStatus.BAD_ARGUMENTS),
    (BadRequest, OutcomeStatus.BAD_ARGUMENTS),
    (Blocked, OutcomeStatus.BLOCKED),
    (Gone, OutcomeStatus.GONE),
    (OverLimit, OutcomeStatus.OVER_LIMIT),
    (ConsentNeeded, OutcomeStatus.CONSENT_NEEDED),
    (TimedOut, OutcomeStatus.TIMED_OUT),
    (Unreachable, OutcomeStatus.UNREACHABLE),
    (Misbehaved, OutcomeStatus.MISBEHAVED),
    (AgentRefused, OutcomeStatus.CANCELLED),
)


MAX_CALLS_PER_AGENT: Final = 1_000
"""Calls of one agent under way at once: what its upstreams leave unanswered must not take all places there are."""


class Own(Protocol):
    """What exists for each caller, where upstreams list something else to each person."""

    async def prepare(self, caller: Caller) -> None:
        """Have what is listed to this caller, if that can be had in a moment."""
        ...

    def catalog(self, caller: Caller) -> Catalog:
        """What exists for this caller."""
        ...

    def differs(self, upstream: str) -> bool:
        """Whether an upstream may list something else to each person."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """What a request is judged by and served from: replaced as a whole, never edited."""

    catalog: Catalog
    policy: Policy
    guards: Guards
    upstreams: Mapping[str, Upstream]
    credential_for: Callable[[Caller, str], Awaitable[Credential]]
    """See `domain.Broker`."""
    instructions: Mapping[str, str] = field(default_factory=dict)
    """What each upstream says about itself to models, by upstream."""
    extensions: frozenset[str] = frozenset()
    """The protocol extensions that some upstream offers and we can carry."""
    after_refusal: Callable[[Caller, str, Credential, Challenge], Awaitable[Credential | None]] | None = None
    """See `domain.Broker`; None: no credential is better than the one there is."""
    own: Own | None = None
    """None: what exists is the same for everybody."""
    seen: Seen = field(default_factory=Seen)
    """What callers see of it: filled by whoever asks first."""
    senders: Mapping[Kind, Sender] = field(default_factory=dict)
    """By which way calls leave that go to no MCP server."""
    answering: Mapping[str, Answering] = field(default_factory=dict)
    """Who answers for the agent's side, by the upstream that asks; most are not among them."""
    held: frozenset[tuple[Kind, str]] = frozenset()
    """Public names that wait for review: to agents unknown, in the audit held back."""

    def catalog_for(self, caller: Caller) -> Catalog:
        """What exists for this caller."""
        return self.catalog if self.own is None else self.own.catalog(caller)


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list: what this caller may see from `start` on."""

    visible: tuple[Target, ...]
    """What there is on all pages."""
    start: int
    end: int
    _seen: Seen

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is on this one."""
        return self.visible[self.start : self.end]

    @property
    def following(self) -> int | None:
        """Where the next page starts; None: this was the last."""
        return self.end if self.end < len(self.visible) else None

    def json(self) -> bytes:
        """The definitions on it, as a JSON array."""
        return self._seen.page(self.visible, self.start, self.end)


class Gateway:
    """The one way to any target: every front door, every era and every kind of traffic goes through here."""

    def __init__(
        self,
        snapshot: Snapshot,
        audit: AuditLog,
        clock: Clock,
        page_size: int = 1000,
        transactions: Transactions | None = None,
        budgets: Budgets | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """`transactions` and `budgets`: where calls under terms, and under budgets, are counted; without them none of
        those goes ahead. `keeper`: where what calls carry is kept if the policy says so; without it nothing is."""
        self._snapshot = snapshot
        self._is_open = Event()
        self._is_open.set()
        self._audit = audit
        self._clock = clock
        self._page_size = page_size
        self._budgets = budgets
        self._keeper = keeper
        self._under_way: Counter[str] = Counter()
        self._transactions = transactions

    @property
    def snapshot(self) -> Snapshot:
        """What the next request will be judged by."""
        return self._snapshot

    def swap(self, snapshot: Snapshot) -> None:
        """Judge every request from now on by `snapshot`; those under way finish under the one they began with."""
        self._snapshot = snapshot

    def hold(self) -> None:
        """Let requests wait from now on: upstreams are just starting, and an agent may list only once."""
        self._is_open.clear()

    def open(self) -> None:
        """Let requests in, those that wait included."""
        self._is_open.set()

    @property
    def is_open(self) -> bool:
        """Whether requests are let in."""
        return self._is_open.is_set()

    async def opened(self) -> None:
        """Wait until requests are let in."""
        await self._is_open.wait()

    def assignment(self, agent: str) -> Assignment | None:
        """Which tasks the policy lets an agent be on; None for an agent it does not name."""
        return self._snapshot.policy.assignments.get(agent)

    async def ask(self, caller: Caller, request: Request, reply: Reply) -> Outcome:
        """Walk one request for one target from decision to outcome.

        Raises `NotAvailable` for what is unknown or forbidden, `NotNow` and `OverLimit` for what its terms do not let
        through at this moment, `BadArguments` and `OverLimit` from the guards, `UpstreamError` where there is no
        answer, `StoreUnavailable` where the audit cannot be written.
        """
        if not self.is_open:
            await self.opened()
        began_at = perf_counter()
        now = self._snapshot
        target = _target_of(now.catalog_for(caller), request)
        decision, wanted = self._decided(now, caller, request, target)
        held: Held | None = None
        if decision.terms is not None:  # limits, order, approvals, flows, a task's budget: most calls have none
            held = await self._reserve(caller, request, target, decision, reply)
            decision = held.decision
        if target is None or not decision.allowed:
            decision = _in_full(now, request, decision)
            await self._audit.record(caller, request, target, decision, Outcome(OutcomeStatus.REFUSED))
            raise (held and held.refusal) or NotAvailable(wanted, decision)
        looks = inspections(now.policy, caller, request, target, self._clock()) if now.policy.guards else ()
        # Begun here, needed below: what is set aside and what is written down are on disk about the same time.
        pays = now.policy.budgets and not request.is_paid
        paid = self._begin_paying(now, caller, target, request) if pays else None
        opening = self._audit.open(caller, request, target, decision)  # on disk before anything leaves
        opening = opening if paid is None else paid.refunded_unless(opening)
        entry = await (opening if held is None else held.refunded_unless(opening))
        found: tuple[Finding, ...] = ()
        outcome = Outcome(OutcomeStatus.FAILED)  # what the audit keeps should a bug of ours end the walk here
        request, kept = self._overheard(now, caller, request, target) if now.policy.keeps else (request, None)
        self._under_way[caller.agent] += 1
        try:
            self._check_room(caller)
            if looks:
                request, found = await now.guards.look_at_request(looks, target, request)
            now.guards.check_request(caller, target, request)
            if paid is not None:
                await paid.granted()
            if kept is not None:
                kept.sent(request)
            outcome = await _sent(now, caller, target, request, reply, held)
            outcome = now.guards.check_outcome(caller, target, outcome)
            if looks:
                outcome = await now.guards.look_at_outcome(looks, request, outcome, found)
        except (GatewayError, CancelledError) as e:
            # An answer that is blocked was paid for, wherever it came from.
            outcome = replace(_outcome_of(e, found), usage=outcome.usage, cached=outcome.cached, bill=outcome.bill)
            raise
        finally:
            self._under_way[caller.agent] -= 1
            if held is not None or paid is not None or kept is not None or outcome.bill:
                outcome = await _shielded(self._settled(held, paid, kept, request, outcome))
            gateway_ms = (perf_counter() - began_at) * 1000 - outcome.upstream_ms
            closed = self._audit.close(entry, outcome, gateway_ms=gateway_ms)  # on disk before the agent hears of it
            await (_shielded(closed) if outcome.status is OutcomeStatus.CANCELLED else closed)
        return outcome if outcome.status is not OutcomeStatus.WIRE_TASK else replace(outcome, target=target)

    def standing(self, caller: Caller, request: Request) -> Sequence[Standing]:
        """How much is left of the budgets of its own that count this request of the caller; of those shared with
        others nothing is told."""
        now = self._snapshot
        target = _target_of(now.catalog, request) if now.policy.budgets else None
        if target is None or self._budgets is None:
            return ()
        own = [allowance for allowance in now.policy.allowances(caller, target) if allowance.subject]
        return self._budgets.standing(own) if own else ()

    async def permit(self, caller: Caller, request: Request) -> None:
        """Decide again for a request that joins a call under way, and write it down. Raises `NotAvailable`."""
        await self._decide_at_once(caller, request, OutcomeStatus.RESUMED)

    async def subscribe(self, caller: Caller, request: Request) -> None:
        """Decide whether a caller may be told of changes (of a resource, a wire task), and write it down.

        Raises `NotAvailable`.

        Being told is decided again each time: `may_hear`.
        """
        await self.opened()
        await self._decide_at_once(caller, request, OutcomeStatus.OK)

    def may_hear(self, caller: Caller, request: Request, upstream: str) -> bool:
        """Whether a subscriber may be told now that `upstream` says this resource changed; not written down.

        False too where the resource is another upstream's: nobody announces changes of what is not theirs.
        """
        now = self._snapshot
        target = _target_of(now.catalog_for(caller), request)
        is_its_own = target is not None and target.upstream == upstream
        return is_its_own and decide(now.policy, caller, request, target, self._clock()).allowed

    async def note_malformed(self, caller: Caller, method: str, why: str) -> None:
        """Write down that a known agent sent something that cannot be acted on."""
        await self._audit.note("malformed", f"{method:.80}", agent=caller.agent, reason=why[:500])

    async def note_misuse(self, caller: Caller, request: Request) -> None:
        """Write down that something was presented that is not (any more) this caller's to use."""
        decision = Decision(Effect.DENIED, Reason.MISUSE, policy_version=self._snapshot.policy.version)
        await self._audit.record(caller, request, None, decision, Outcome(OutcomeStatus.REFUSED))

    async def list(self, caller: Caller, request: Request, start: int = 0) -> Page:
        """What of one kind this caller may see, from `start` on, written down as one entry."""
        await self._prepared(caller)
        now, visible = self._snapshot, self.visible(caller, request.kind, request.era, request.transport)
        page = Page(visible, start, start + self._page_size, now.seen)
        decision = Decision(Effect.ALLOWED, Reason.LIST, policy_version=now.policy.version)
        outcome = Outcome(OutcomeStatus.OK, {"listed": len(page.targets), "visible": len(visible)})
        await self._audit.record(caller, request, None, decision, outcome)
        return page

    async def search(self, caller: Caller, request: Request, choose: Choose) -> Sequence[Target]:
        """What `choose` picks of the tools this caller may see, written down as one entry like a list."""
        await self._prepared(caller)
        visible = self.visible(caller, request.kind, request.era, request.transport)
        chosen = choose(visible)
        decision = Decision(Effect.ALLOWED, Reason.LIST, policy_version=self._snapshot.policy.version)
        outcome = Outcome(OutcomeStatus.OK, {"found": [t.public_name for t in chosen], "visible": len(visible)})
        await self._audit.record(caller, request, None, decision, outcome)
        return chosen

    async def describe(self, caller: Caller, request: Request) -> Target:
        """One target that this caller may see, written down. Raises `NotAvailable`."""
        await self.opened()
        await self._decide_at_once(caller, request, OutcomeStatus.OK)
        target = self._snapshot.catalog_for(caller).find(request.kind, request.name)
        if target is None:  # the catalog was replaced meanwhile
            raise NotAvailable(request.name, self._snapshot.policy.refusal(Reason.UNKNOWN_TARGET))
        return target

    def visible(
        self, caller: Caller, kind: Kind, era: Era = Era.MODERN, transport: Transport = Transport.HTTP
    ) -> tuple[Target, ...]:
        """Everything of one kind that some call of this caller, come this way, could be allowed; in catalog order."""
        now, at = self._snapshot, self._clock()
        catalog = now.catalog_for(caller)
        request = Request("", Verb.LIST, "", kind, "", {}, era, transport)
        alike = seen_alike(now.policy, caller, request, at) if catalog is now.catalog else None
        found = None if alike is None else now.seen.by(alike)
        if found is None:
            found = now.seen.known(visible_of(now.policy, caller, request, catalog.targets(kind), at))
            if alike is not None:
                now.seen.keep(alike, found)
        return found

    def peek(self, caller: Caller, kind: Kind, name: str) -> Target | None:
        """The target of that name if this caller may see it; nothing is asked and nothing written down."""
        now = self._snapshot
        target = now.catalog_for(caller).find(kind, name)
        request = Request("", Verb.LIST, "", kind, name, {})
        return target if decide(now.policy, caller, request, target, self._clock()).visible else None

    async def _prepared(self, caller: Caller) -> None:
        """Wait until requests are let in, and for what is listed to this caller alone."""
        await self.opened()
        if self._snapshot.own is not None:
            await self._snapshot.own.prepare(caller)

    async def _reserve(
        self, caller: Caller, request: Request, target: Target | None, decision: Decision, reply: Reply
    ) -> Held:
        """Take what the call needs beyond the policy; one that is given up meanwhile has its entry, too."""
        if self._transactions is None:
            raise StoreUnavailable("there is nowhere to keep what calls have used up")
        try:
            return await self._transactions.reserve(
                caller, request, target, decision, reply, _spending(request, decision)
            )
        except (StoreUnavailable, CancelledError) as e:
            await _shielded(self._audit.record(caller, request, target, decision, _outcome_of(e)))
            raise

    def _decided(self, now: Snapshot, caller: Caller, request: Request, target: Target | None) -> tuple[Decision, str]:
        """What the policy says, also of whatever else the request makes use of; and by which name the agent knows
        what was decided about."""
        at = self._clock()
        decision = decide(now.policy, caller, request, target, at)
        for needed in request.needs if decision.allowed else ():
            about_it = decide(now.policy, caller, request, needed, at)
            if about_it.terms is not None and (about_it.terms.offers or about_it.terms.flows):
                # How often a provider does something by itself, nobody sees: it is allowed without more, or not at all.
                about_it = replace(about_it, effect=Effect.DENIED, reason=Reason.CONDITION_UNEVALUABLE, terms=None)
            if not about_it.allowed:
                return about_it, needed.name
        return decision, request.name

    def _begin_paying(self, now: Snapshot, caller: Caller, target: Target, request: Request) -> Reservation | None:
        """Begin to set aside what the call may take from the budgets that count it."""
        if self._budgets is None:
            raise StoreUnavailable("there is nowhere to keep what calls take")
        return self._budgets.begin(now.policy.allowances(caller, target), target, request.expects)

    async def _settled(
        self, held: Held | None, paid: Reservation | None, kept: Record | None, request: Request, outcome: Outcome
    ) -> Outcome:
        """Correct what was set aside to what the call, or the one that this one was paid with, has taken."""
        if paid is not None:
            paid.settle(outcome)
        elif request.is_paid and outcome.bill and self._budgets is not None:
            self._budgets.settle_bill(outcome.bill, outcome.usage)
        if held is not None:
            await held.settle(replace(outcome, usage=None) if request.is_paid else outcome)
        return outcome if kept is None else await kept.closed(outcome)

    def _overheard(
        self, now: Snapshot, caller: Caller, request: Request, target: Target
    ) -> tuple[Request, Record | None]:
        """The request that goes on, and what of it is kept because the policy says so."""
        wanted = keeping(now.policy.keeps, caller, target)
        if wanted is None or self._keeper is None:
            return request, None
        record = self._keeper.record(wanted, caller, request, target)
        return record.listening(request), record

    def _check_room(self, caller: Caller) -> None:
        if self._under_way[caller.agent] > MAX_CALLS_PER_AGENT:
            raise OverLimit(f"at most {MAX_CALLS_PER_AGENT} calls at once")

    async def _decide_at_once(self, caller: Caller, request: Request, allowed: OutcomeStatus) -> None:
        """Decide a request for which no upstream is asked, and write it down with what became of it."""
        now = self._snapshot
        target = _target_of(now.catalog_for(caller), request)
        decision = _in_full(now, request, decide(now.policy, caller, request, target, self._clock()))
        status = allowed if decision.allowed else OutcomeStatus.REFUSED
        await self._audit.record(caller, request, target, decision, Outcome(status))
        if target is None or not decision.allowed:
            raise NotAvailable(request.name, decision)


def _target_of(catalog: Catalog, request: Request) -> Target | None:
    if request.upstream:
        return catalog.at(request.kind, request.upstream, request.name)
    return catalog.find(request.kind, request.name)


def _channel(now: Snapshot, caller: Caller, request: Request, target: Target, reply: Reply) -> Reply:
    """The channel back, with whoever answers for the agent's side in between."""
    answering = now.answering.get(target.upstream)
    return reply if answering is None else answering.reply(caller, request, reply)


def _spending(request: Request, decision: Decision) -> Spending:
    """What a call is thought to take out of its task's budget. What nobody can price is more than there is of money."""
    expects, budget = request.expects, decision.terms and decision.terms.budget
    if expects is None or not budget:
        return Spending()
    is_priced = expects.cost is not None and budget.currency in ("", CURRENCY)
    return Spending(tokens=expects.input + expects.output, cost=micros(expects.cost or 0) if is_priced else MOST)


def _in_full(now: Snapshot, request: Request, decision: Decision) -> Decision:
    """A refusal as the audit has it: what is held back is unknown to agents only."""
    if decision.reason is Reason.UNKNOWN_TARGET and (request.kind, request.name) in now.held:
        return replace(decision, reason=Reason.HELD_BACK)
    return decision


async def _shielded(closed: Awaitable[T]) -> T:
    with CancelScope(shield=True):
        result = await closed
    return result  # noqa: RET504  the type checker takes a scope for something that swallows what leaves it


def _as_the_upstream_knows_it(target: Target, request: Request, credential: Credential) -> UpstreamRequest:
    """The request in the upstream's own names, without the agent's envelope, with the credential for it."""
    params = upstream_params(target, request)
    return UpstreamRequest(request.method, params, credential.headers, target.raw, owner=credential.owner)


async def _sent(
    now: Snapshot, caller: Caller, target: Target, request: Request, reply: Reply, held: Held | None
) -> Outcome:
    """The upstream's answer; asked once more where it refused the credential and the broker has a better one.

    A request refused for its credential has not run, so that sending it again does nothing twice.
    """
    if target.kind in now.senders:  # models and routes: no MCP, and their credentials go in last
        _mark(held, is_sent=True)
        return await now.senders[target.kind].send(caller, target, request)
    upstream, reply = now.upstreams[target.upstream], _channel(now, caller, request, target, reply)
    credential = await now.credential_for(caller, target.upstream)
    try:
        _mark(held, is_sent=True)
        return await upstream.send(_as_the_upstream_knows_it(target, request, credential), reply)
    except Rejected as e:
        if not e.is_about_credentials or now.after_refusal is None:
            raise
        _mark(held, is_sent=False)
        better = await now.after_refusal(caller, target.upstream, credential, Challenge(e.status, e.challenge))
        if better is None:
            raise
    _mark(held, is_sent=True)
    return await upstream.send(_as_the_upstream_knows_it(target, request, better), reply)


def _mark(held: Held | None, *, is_sent: bool) -> None:
    if held is not None:
        held.is_sent = is_sent


def _outcome_of(error: BaseException, found: tuple[Finding, ...] = ()) -> Outcome:
    if isinstance(error, CancelledError):
        return Outcome(OutcomeStatus.CANCELLED, findings=found)
    status = next((status for kind, status in _STATUS_OF if isinstance(error, kind)), OutcomeStatus.FAILED)
    findings = (*found, *error.findings) if isinstance(error, Blocked) else found
    return Outcome(status, result={"message": str(error)}, findings=findings)
