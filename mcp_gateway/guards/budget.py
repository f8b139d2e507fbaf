"""Budgets: a call's part is set aside before it is sent, and corrected to what it took when it is over.

A call is let through while its budget is not used up, so at most one reservation goes beyond it. A call that was hung
up on is charged for what came of it; one whose end nobody knows, for all that was set aside. A model without a known
price is never taken for free: a budget that counts money refuses it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from mcp_gateway.domain import Allowance, Outcome, OutcomeStatus, Target, Usage
from mcp_gateway.errors import OverLimit
from mcp_gateway.storage.budgets import MOST, BudgetStore, Draw, Taken

MICROS: Final = 1_000_000

__all__ = ["MOST", "Budgets", "Reservation", "micros"]

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

    async def reserve(
        self, allowances: Sequence[Allowance], target: Target, expects: Usage | None
    ) -> Reservation | None:
        """Set aside what a call may take; None where no budget counts it.

        Raises `OverLimit` where one is used up, `StoreUnavailable`.
        """
        if not allowances:
            return None
        now_s = self._clock().timestamp()
        draws = [_draw(each, target, expects or Usage(cost=0.0), now_s) for each in allowances]
        taking = self._thread.submit(lambda: self.store.take(draws))
        try:
            taken = await asyncio.shield(asyncio.wrap_future(taking))
        except asyncio.CancelledError:
            taking.add_done_callback(self._undo)
            raise
        if not taken.hold:
            raise _used_up(next(each for each in allowances if each.budget == taken.budget), taken.out_of, now_s)
        return Reservation(self, taken.hold, expects)

    @property
    def store(self) -> BudgetStore:
        """The store, opened when it is first needed. Blocks: for threads, and for commands."""
        if self._opened is None:
            self._opened = BudgetStore(self._state)
        return self._opened

    def later(self, work: Callable[[BudgetStore], None]) -> None:
        """Do something in the store, in turn; whoever asks next finds it done."""
        self._thread.submit(lambda: work(self.store)).add_done_callback(_complain)

    def close(self) -> None:
        """Finish what is being done, and close the store."""
        self._thread.shutdown()
        if self._opened is not None:
            self._opened.close()

    def _undo(self, taking: Future[Taken]) -> None:
        """Nobody is left to use what was taken."""
        if not taking.cancelled() and taking.exception() is None and taking.result().hold:
            hold = taking.result().hold
            self.later(lambda store: store.give_back(hold))


@dataclass(frozen=True, slots=True)
class Reservation:
    """What was set aside for one call."""

    budgets: Budgets
    hold: str
    expects: Usage | None

    def settle(self, outcome: Outcome) -> None:
        """The call is over; waits for nothing. Where the store cannot be written, all that was set aside counts."""
        hold, usage = self.hold, outcome.usage
        if usage is not None:
            tokens, cost = usage.input + usage.output, None if usage.cost is None else micros(usage.cost)
            self.budgets.later(lambda store: store.settle(hold, tokens, cost))
        elif outcome.status in _NEVER_SENT:
            self.budgets.later(lambda store: store.give_back(hold))
        elif outcome.status in _END_UNKNOWN:
            self.budgets.later(lambda store: store.settle(hold, None, None))
        else:
            self.budgets.later(lambda store: store.settle(hold, 0, 0))


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
    )


def micros(usd: float) -> int:
    """Millionths of a dollar, rounded up: what costs anything is never free."""
    return -int(-usd * MICROS // 1)


def _complain(done: Future[None]) -> None:
    error = None if done.cancelled() else done.exception()
    if error is not None:
        _log.error("what a call took could not be written down, so all that was set aside counts: %s", error)
