"""What an allowed call still has to meet at its moment: limits, order, approvals, flows, its task's budget.

Only calls whose decision carries `Terms` come here. What they need is taken before anything leaves, in one transaction
on a thread of its own; it is given back if nothing was sent after all, and stays taken otherwise, whatever came of it.
A store that cannot be asked lets nothing through.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from mcp_gateway import jsonrpc
from mcp_gateway.domain import Caller, Decision, Effect, Outcome, OutcomeStatus, Reason, Reply, Request, Target, Terms
from mcp_gateway.errors import AgentError, NotNow, OverLimit, StoreUnavailable
from mcp_gateway.guards.agent_side import answer_of
from mcp_gateway.guards.budget import micros
from mcp_gateway.storage.approvals import Binding
from mcp_gateway.storage.transactions import Found, Spending, TransactionStore, Wanted

LOOK_EVERY_S: Final = 0.25
"""How often a held call looks whether a person has answered."""
MAX_SHOWN_BYTES: Final = 64 * 1024
"""The largest arguments that a person is asked about: they have to be read whole."""

_NOBODY: Final = Binding("", "", None, "", "", "", "", "")
_NOTHING: Final = Spending()
_SUCCEEDED: Final = (OutcomeStatus.OK, OutcomeStatus.WIRE_TASK)

_log: Final = logging.getLogger(__name__)

T = TypeVar("T")
Asking = Callable[[Caller, Target, str, str], Awaitable[None]]
"""Is told of a call that begins to wait, or was answered at the agent's side: who asks, what for, the approval's id,
and `asked`, `approved` or `denied`."""


async def _nobody_is_told(caller: Caller, target: Target, approval: str, what: str) -> None:
    return


class Transactions:
    """The station between the decision and the audit, for calls under terms."""

    def __init__(
        self,
        state: Path,
        clock: Callable[[], datetime],
        approval_wait_s: float,
        on_asking: Asking = _nobody_is_told,
    ) -> None:
        """`state`: the folder of the store, which is made when the first call needs it."""
        self._state = state
        self._clock = clock
        self._approval_wait_s = approval_wait_s
        self._on_asking = on_asking
        self._opened: TransactionStore | None = None
        self._thread = ThreadPoolExecutor(1, "transactions")

    async def reserve(
        self,
        caller: Caller,
        request: Request,
        target: Target | None,
        decision: Decision,
        reply: Reply | None = None,
        spending: Spending = _NOTHING,
    ) -> Held:
        """Take what a call needs, waiting for a person's answer for a bounded time.

        The result's `decision` says whether it may go ahead, its `refusal` what the agent hears otherwise. `spending`
        is what the call is thought to take out of its task's budget (a model call: tokens and cost). Raises
        `StoreUnavailable`.
        """
        terms = decision.terms
        if terms is None or target is None:
            return Held(self, decision, target)
        wanted = self._wanted(caller, request, target, terms, spending)
        if len(wanted.binding.args) > MAX_SHOWN_BYTES:
            return self._refused(decision, target, Found(Reason.APPROVAL_PENDING))
        found = await self._take(wanted)
        if found.refused is Reason.APPROVAL_PENDING and found.approval:
            await self._on_asking(caller, target, found.approval, "asked")
            found = await self._answered(caller, target, wanted, found, reply)
        if found.refused is not None:
            return self._refused(decision, target, found)
        allowed = replace(decision, grant=found.grant or decision.grant, approval=found.approval)
        return Held(self, allowed, target, hold=found.hold, spending=wanted.spending)

    def foreseen(self, caller: Caller, request: Request, target: Target, terms: Terms) -> Found:
        """What would become of a call at this moment; nothing is taken, and nobody asked. Blocks."""
        return self.store.would(self._wanted(caller, request, target, terms, _NOTHING))

    def now(self) -> int:
        """The time, in microseconds since the epoch."""
        return int(self._clock().timestamp() * 1_000_000)

    @property
    def store(self) -> TransactionStore:
        """The store, opened when it is first needed. Blocks: for threads, and for commands."""
        if self._opened is None:
            self._opened = TransactionStore(self._state)
        return self._opened

    async def in_thread(self, work: Callable[[TransactionStore], T], undo: Callable[[T], object] | None = None) -> T:
        """Do something in the store, in turn. Once begun it is done; `undo` gets what nobody waits for any more."""
        doing = asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self.store))
        try:
            return await asyncio.shield(doing)
        except asyncio.CancelledError:
            doing.add_done_callback(lambda done: _undo(done, undo))
            raise

    def close(self) -> None:
        """Finish what is being done, and close the store."""
        self._thread.shutdown()
        if self._opened is not None:
            self._opened.close()

    def _wanted(self, caller: Caller, request: Request, target: Target, terms: Terms, spending: Spending) -> Wanted:
        size = len(jsonrpc.canonical(dict(request.arguments))) if terms.budget and terms.budget.bytes else 0
        can_wait = any(offer.needs_approval for offer in terms.offers) or any(f.needs_approval for f in terms.flows)
        binding = _binding(caller, request, target, terms) if can_wait else _NOBODY
        return Wanted(terms, self.now(), target.key, binding, replace(spending, bytes=spending.bytes + size))

    async def _take(self, wanted: Wanted) -> Found:
        def give_back(found: Found) -> None:
            if found.refused is None:
                self._thread.submit(lambda: self.store.refund(found.hold))

        return await self.in_thread(lambda store: store.reserve(wanted), give_back)

    async def _answered(
        self, caller: Caller, target: Target, wanted: Wanted, found: Found, reply: Reply | None
    ) -> Found:
        """Hold the call until a person has answered, for as long as the agent can be expected to wait."""
        yes = await answer_of(reply, wanted.binding) if found.agent_side and reply is not None else None
        if yes is not None:
            await self._on_asking(caller, target, found.approval, "approved" if yes else "denied")
            by, now = f"the agent's side ({caller.agent})", self.now()
            await self.in_thread(lambda store: store.answer(found.approval, yes=yes, by=by, now=now, agent_side=True))
            return await self._take(replace(wanted, at=now))
        try:
            async with asyncio.timeout(self._approval_wait_s):
                # The answer comes from another process, as a rule: there is nothing to be told of it by.
                while await self.in_thread(lambda store: store.approval_state(found.approval)) == "pending":  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_EVERY_S)
        except TimeoutError:
            return found
        return await self._take(replace(wanted, at=self.now()))

    def _refused(self, decision: Decision, target: Target, found: Found) -> Held:
        reason = found.refused or Reason.FLOW
        denied = replace(
            decision,
            effect=Effect.DENIED,
            reason=reason,
            grant=found.grant or decision.grant,
            terms=None,
            approval=found.approval,
        )
        return Held(self, denied, target, refusal=_refusal(reason, found))


@dataclass(slots=True)
class Held:
    """What was taken for one call, and whether it may go ahead."""

    _transactions: Transactions
    decision: Decision
    target: Target | None
    refusal: AgentError | None = None
    hold: str = ""
    """Empty: nothing was taken."""
    spending: Spending = field(default_factory=Spending)
    is_sent: bool = False
    """Whether anything can have left for the upstream. From then on what was taken stays taken."""

    def spend(self, *, tokens: int = 0, cost: int = 0) -> None:
        """What the call really took, where that is known only afterwards; counted when it is settled."""
        self.spending = replace(self.spending, tokens=tokens, cost=cost)

    async def refunded_unless(self, done: Awaitable[T]) -> T:
        """What `done` returns; if it fails, nothing was sent and what was taken is given back."""
        try:
            return await done
        except BaseException:
            await self.settle(Outcome(OutcomeStatus.FAILED))
            raise

    async def settle(self, outcome: Outcome) -> None:
        """The call is over. Where the store cannot be written, what was taken stays taken."""
        try:
            await self._settle(outcome)
        except StoreUnavailable as e:
            _log.error("what a call has used could not be settled, so all it might have used counts: %s", e)

    async def _settle(self, outcome: Outcome) -> None:
        terms, target, hold = self.decision.terms, self.target, self.hold
        if not hold or terms is None or target is None:
            return
        self.hold = ""
        if not self.is_sent:
            await self._transactions.in_thread(lambda store: store.refund(hold))
            return
        at, marks = self._transactions.now(), terms.marks if outcome.status in _SUCCEEDED else ()
        spent = self._spent(outcome, terms)
        await self._transactions.in_thread(
            lambda store: store.settle(hold, terms.scope, at, target.key, marks=marks, spent=spent)
        )

    def _spent(self, outcome: Outcome, terms: Terms) -> Spending:
        """What it took, as far as it said; what it did not say it took as it was thought to."""
        spending, usage = self.spending, outcome.usage
        if usage is not None:
            cost = spending.cost if usage.cost is None else micros(usage.cost)
            spending = replace(spending, tokens=usage.input + usage.output, cost=cost)
        if terms.budget is None or terms.budget.bytes is None or outcome.result is None:
            return spending
        return replace(spending, bytes=spending.bytes + len(jsonrpc.dump(outcome.result)))


def _binding(caller: Caller, request: Request, target: Target, terms: Terms) -> Binding:
    """What an approval of this call is good for: change anything of it and it is another call."""
    args = jsonrpc.canonical(dict(request.arguments))
    args_sha256 = hashlib.sha256(args).hexdigest()
    task, person = caller.task or "", caller.person
    parts = [terms.scope, caller.agent, person, task, target.kind, target.key, target.definition_hash, args_sha256]
    digest = hashlib.sha256(jsonrpc.canonical(parts)).hexdigest()
    return Binding(digest, caller.agent, person, task, caller.started_id, target.key, args.decode(), args_sha256)


def _refusal(reason: Reason, found: Found) -> AgentError:
    """What the agent hears: what it can do about it, and nothing of the policy."""
    match reason:
        case Reason.LIMIT_REACHED:
            when = "" if found.retry_in_s is None else f"; try again in {_shown(found.retry_in_s)}"
            return OverLimit(f"the limit for this is used up for now{when}")
        case Reason.BUDGET_SPENT:
            return OverLimit(f"this task has used up its {found.wanted}")
        case Reason.OUT_OF_ORDER:
            first = found.wanted.rpartition("/")[2]
            return NotNow(
                f"not yet: {'another call' if '*' in first else first} has to come first, with the same values"
            )
        case Reason.APPROVAL_DENIED:
            return NotNow("a person has declined this call; nothing was sent")
        case Reason.APPROVAL_PENDING if not found.approval:
            return NotNow("this needs a person's approval, and it is too large, or too much waits for one already")
        case Reason.APPROVAL_PENDING:
            told = f"waiting for a person's approval (id {found.approval}); nothing was sent"
            return NotNow(f"{told}. Ask for exactly the same again later: once approved, it goes through")
    return NotNow("not any more in this task, after what it has read")


def _shown(seconds: float) -> str:
    """Rounded up: whoever waits that long is not told to wait again.

    >>> _shown(59.2), _shown(61)
    ('60 s', '2 min')
    """
    whole = int(-(-seconds // 1))
    return f"{whole} s" if whole <= 60 else f"{-(-whole // 60)} min"


def _undo(done: asyncio.Future[Any], undo: Callable[[Any], object] | None) -> None:
    error = None if done.cancelled() else done.exception()
    if undo is not None and error is None and not done.cancelled():
        undo(done.result())
