"""Budgets: a call's part is set aside before it is sent, and corrected to what it took when it is over.

A call is let through while its budget is not used up, so at most one reservation goes beyond it. A call that was hung
up on is charged for what came of it; one whose end nobody knows, for all that was set aside. A model without a known
price is never taken for free: a budget that counts money refuses it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from mcp_gateway.domain import Allowance, Outcome, OutcomeStatus, Standing, Target, Usage
from mcp_gateway.errors import OverLimit, StoreUnavailable
from mcp_gateway.guards.leases import IDLE_S, Key, Lease, Leases, key_of
from mcp_gateway.storage.budgets import MOST, BudgetStore, Crossed, Draw, Renewed, Taken, Took

T = TypeVar("T")

MICROS: Final = 1_000_000
GATHERED_S: Final = 0.05
"""How long the ends of calls are gathered before they are written down, if no other call comes first."""

__all__ = ["MOST", "Budgets", "Reservation", "log_alert", "micros"]

MAX_KNOWN: Final = 10_000
"""Windows whose standing is remembered."""

_NEVER_SENT: Final = (OutcomeStatus.BAD_ARGUMENTS, OutcomeStatus.OVER_LIMIT, OutcomeStatus.REFUSED)
_END_UNKNOWN: Final = (OutcomeStatus.CANCELLED, OutcomeStatus.TIMED_OUT, OutcomeStatus.FAILED)

_log: Final = logging.getLogger(__name__)


class Budgets:
    """Takes from budgets and gives back, off the event loop."""

    def __init__(self, state: Path, clock: Callable[[], datetime]) -> None:
        self._state = state
        self._clock = clock
        self._opened: BudgetStore | None = None
        self._thread = ThreadPoolExecutor(1, "budgets")
        self._ended: deque[Callable[[BudgetStore], None]] = deque()
        self._flushing: asyncio.TimerHandle | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._leases = Leases(self._renew)
        self._known: dict[Key, Took] = {}
        self.on_alert: Callable[[Crossed], None] = log_alert
        """Called once for each window of a budget that is used up so far that operators want to know."""

    def begin(self, allowances: Sequence[Allowance], target: Target, expects: Usage | None) -> Reservation | None:
        """Begin to set aside what a call may take; None where no budget counts it. Waits for nothing.

        Whether there is enough, `Reservation.granted` tells; whatever becomes of the call, it has to be settled.
        """
        if not allowances:
            return None
        now_s = self._clock().timestamp()
        try:
            draws = [_draw(each, target, expects or Usage(cost=0.0), now_s) for each in allowances]
        except OverLimit as e:
            taking: Future[Taken] = Future()
            taking.set_exception(e)
            return Reservation(self, taking, allowances, now_s)
        loop = asyncio.get_running_loop()
        lease = self._leases.take(draws, loop.time())
        if self._sweeping is None:
            self._sweeping = loop.call_later(IDLE_S, self._sweep)
        if lease is not None:
            return Leased(self, lease, draws)
        return Reservation(self, self._thread.submit(self._take, draws), allowances, now_s, draws)

    def standing(self, allowances: Sequence[Allowance]) -> list[Standing]:
        """How much is left of the budgets that count a call, as far as this process knows."""
        now_s, found = self._clock().timestamp(), []
        for each in allowances:
            key = (each.budget, each.subject, int(now_s - now_s % each.per_s))
            used = self._known.get(key)
            resets_s = int(each.per_s - now_s % each.per_s) + 1
            for unit, most in (("calls", each.calls), ("tokens", each.tokens), ("usd-micros", each.cost)):
                if used is None or most is None:
                    continue
                left = most - getattr(used, unit.replace("usd-micros", "cost"))
                found.append(Standing(each.budget, unit, most, max(left, 0), int(each.per_s), resets_s))
        return found

    def learn(self, draws: Sequence[Draw], used: Sequence[Took], spare: Took | None = None) -> None:
        """The store has just said how much is used; `spare` is nobody's yet."""
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        for draw, took in zip(draws, used, strict=True):
            self._known[key_of(draw)] = took if spare is None else took.plus(-1, -spare.tokens, -spare.cost)

    def correct(self, draws: Sequence[Draw], calls: int, tokens: int, cost: int) -> None:
        """That much more (or less) is used than was known."""
        for draw in draws:
            known = self._known.get(key_of(draw))
            if known is not None:
                self._known[key_of(draw)] = known.plus(calls, tokens, cost)

    @property
    def store(self) -> BudgetStore:
        """The store, opened when it is first needed. Blocks: for threads, and for commands."""
        if self._opened is None:
            self._opened = BudgetStore(self._state)
        return self._opened

    def settle_bill(self, bill: str, usage: Usage | None) -> None:
        """What `bill` was set aside for has ended; None: nobody will know what it took, so all of it counts."""
        self.later(lambda store: store.settle(bill, *_took(usage)))

    def later(self, work: Callable[[BudgetStore], None]) -> None:
        """Do something in the store, together with what else comes within a moment; whoever asks next finds it done."""
        self._ended.append(work)
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(GATHERED_S, self.flush)

    def flush(self) -> Future[None]:
        """Do what has gathered."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        done = self._thread.submit(self._end_all)
        done.add_done_callback(_complain)
        return done

    def close(self) -> None:
        """Finish what is being done, and close the store."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._leases.end_all()
        self.flush()
        self._thread.shutdown()
        if self._opened is not None:
            self._opened.close()

    def _sweep(self) -> None:
        self._sweeping = None
        if self._leases.sweep(asyncio.get_running_loop().time()):
            self._sweeping = asyncio.get_running_loop().call_later(IDLE_S, self._sweep)

    def _renew(self, lease: Lease) -> None:
        """Write down what a lease has taken, and have it get more."""
        loop, (unwritten, stays, more) = asyncio.get_running_loop(), lease.begin_renewal()

        def renew() -> tuple[Renewed, list[Crossed]]:
            with self.store.together():
                self._end_all()
                renewed = self.store.renew(lease.name, unwritten, stays, more)
                return renewed, self.crossed_in(self.store, stays)

        def end(done: Future[tuple[Renewed, list[Crossed]]]) -> None:
            if done.cancelled() or done.exception() is not None:
                lease.end_renewal(unwritten, has_more=False)
                return
            renewed, crossed = done.result()
            lease.end_renewal(None, has_more=renewed.has_more)
            self.learn(stays, renewed.used, lease.spare)
            self._tell(crossed)

        def renewed(done: Future[tuple[Renewed, list[Crossed]]]) -> None:
            _complain(done)
            with suppress(RuntimeError):  # the loop is closed: nobody asks any more
                loop.call_soon_threadsafe(end, done)

        self._thread.submit(renew).add_done_callback(renewed)

    def crossed_in(self, store: BudgetStore, draws: Sequence[Draw]) -> list[Crossed]:
        """In the thread: what operators are to be told of; nothing is asked where they are not."""
        return store.crossed(draws) if any(draw.alert_at is not None for draw in draws) else []

    def _tell(self, crossed: Sequence[Crossed]) -> None:
        for each in crossed:
            self.on_alert(each)

    def tell_from_thread(self, loop: asyncio.AbstractEventLoop, crossed: Sequence[Crossed]) -> None:
        """From the thread: `on_alert` is called on the loop."""
        if crossed:
            with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                loop.call_soon_threadsafe(self._tell, crossed)

    def _take(self, draws: Sequence[Draw]) -> Taken:
        """One transaction with what has ended before: a commit costs more than a row."""
        with self.store.together():
            self._end_all()
            return self.store.take(draws)

    def _end_all(self) -> None:
        ended = [self._ended.popleft() for _ in range(len(self._ended))]
        if not ended:
            return
        try:
            with self.store.together():
                for work in ended:
                    work(self.store)
        except StoreUnavailable:
            self._ended.extendleft(reversed(ended))
            raise


class Reservation:
    """What is set aside for one call."""

    _is_granted = False

    def __init__(
        self,
        budgets: Budgets,
        taking: Future[Taken],
        allowances: Sequence[Allowance],
        now_s: float,
        draws: Sequence[Draw] = (),
    ) -> None:
        self._budgets = budgets
        self._draws = draws
        self._taking = taking
        self._allowances = allowances
        self._now_s = now_s

    async def granted(self) -> None:
        """Wait until it is set aside. Raises `OverLimit` where a budget is used up, `StoreUnavailable`."""
        taken = await asyncio.shield(asyncio.wrap_future(self._taking))
        self._budgets.learn(self._draws, taken.used)
        if not taken.hold:
            used_up = next(each for each in self._allowances if each.budget == taken.budget)
            raise _used_up(used_up, taken.out_of, self._now_s)
        self._is_granted = True

    async def refunded_unless(self, opening: Awaitable[T]) -> T:
        """What `opening` gives; if it fails, nothing stays set aside."""
        try:
            return await opening
        except BaseException:
            self._end(None)
            raise

    def settle(self, outcome: Outcome) -> None:
        """The call is over; waits for nothing. Where the store cannot be written, all that was set aside counts."""
        usage = outcome.usage
        if not self._is_granted or (usage is None and outcome.status in _NEVER_SENT):
            self._end(None)
        elif usage is not None:
            self._end(_took(usage))
        elif outcome.bill:
            self._leave_open(outcome.bill)
        else:
            self._end((None, None) if outcome.status in _END_UNKNOWN else (0, 0))

    def _end(self, took: tuple[int | None, int | None] | None) -> None:
        """Tokens and cost it took, each as much as was set aside where it is None; None: it was never sent."""
        if took is None:
            self._with_hold(lambda store, hold: store.give_back(hold))
        else:
            self._with_hold(lambda store, hold: store.settle(hold, *took))
        if self._is_granted:
            self._correct(took)

    def _correct(self, took: tuple[int | None, int | None] | None) -> None:
        """What is known of the budgets follows at once."""
        draw = self._draws[0]
        tokens, cost = (0, 0) if took is None else took
        more = (0 if tokens is None else tokens - draw.tokens, 0 if cost is None else cost - draw.cost)
        self._budgets.correct(self._draws, -1 if took is None else 0, *more)

    def _leave_open(self, bill: str) -> None:
        self._with_hold(lambda store, hold: store.leave_open(hold, bill))

    def _with_hold(self, work: Callable[[BudgetStore, str], None]) -> None:
        """Do it to what was taken, if anything was: taking comes first in the thread."""

        loop = asyncio.get_running_loop()

        def end(store: BudgetStore) -> None:
            if self._taking.exception() is None and self._taking.result().hold:
                work(store, self._taking.result().hold)
                self._budgets.tell_from_thread(loop, self._budgets.crossed_in(store, self._draws))

        self._budgets.later(end)


class Leased(Reservation):
    """The same out of a lease: there already, and ended without the store."""

    def __init__(self, budgets: Budgets, lease: Lease, draws: Sequence[Draw]) -> None:
        self._budgets = budgets
        self._lease = lease
        self._draws = draws
        budgets.correct(draws, 1, draws[0].tokens, draws[0].cost)

    async def granted(self) -> None:
        """It is set aside already."""
        self._is_granted = True

    def _end(self, took: tuple[int | None, int | None] | None) -> None:
        draw = self._draws[0]
        if took is None:
            self._lease.end(draw, Took(0))
        else:
            tokens, cost = took
            self._lease.end(
                draw, Took(1, draw.tokens if tokens is None else tokens, draw.cost if cost is None else cost)
            )

        self._correct(took)

    def _leave_open(self, bill: str) -> None:
        self._lease.end(self._draws[0], None)
        self._budgets.later(lambda store: store.split(self._lease.name, bill, self._draws))


def _took(usage: Usage | None) -> tuple[int | None, int | None]:
    """Tokens and millionths of a dollar; None: as many as were set aside."""
    if usage is None:
        return None, None
    return usage.input + usage.output, None if usage.cost is None else micros(usage.cost)


def _used_up(allowance: Allowance, out_of: str, now_s: float) -> OverLimit:
    wait_s = None if out_of == "calls at once" else allowance.per_s - now_s % allowance.per_s
    return OverLimit(f"the budget {allowance.budget!r} is out of {out_of} for now", wait_s, is_budget=True)


def _draw(allowance: Allowance, target: Target, expects: Usage, now_s: float) -> Draw:
    if allowance.cost is not None and expects.cost is None:
        raise OverLimit(f"the price of {target.name!r} is not known, and a budget counts its cost", is_budget=True)
    return Draw(
        budget=allowance.budget,
        subject=allowance.subject,
        began_at=int(now_s - now_s % allowance.per_s),
        tokens=expects.input + expects.output,
        cost=micros(expects.cost or 0.0),
        most_calls=allowance.calls,
        most_at_once=allowance.concurrent,
        most_tokens=allowance.tokens,
        most_cost=allowance.cost,
        alert_at=allowance.alert_at,
    )


def micros(usd: float) -> int:
    """Millionths of a dollar, rounded up: what costs anything is never free."""
    return -int(-usd * MICROS // 1)


def log_alert(crossed: Crossed) -> None:
    """Tell whoever reads the log."""
    whose = f" of {crossed.subject.replace(chr(10), ', ')}" if crossed.subject else ""
    _log.warning("budget %s%s: %d%% of its %s used up", crossed.budget, whose, crossed.part * 100, crossed.out_of)


def _complain(done: Future[Any]) -> None:
    error = None if done.cancelled() else done.exception()
    if error is not None:
        _log.error("what a call took could not be written down, so all that was set aside counts: %s", error)
