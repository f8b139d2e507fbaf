"""Room in budgets that is set aside before anybody asks for it, so that a call need not wait for a database.

A lease is a few calls' worth, only while a budget has many times as much left. What is on disk is always at least what
calls have taken and may yet take: calls go beyond a budget by no more than without leases, and what was set aside when
a process dies counts as spent, spare room included. Belongs to one event loop; the store is somebody else's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from mcp_gateway.storage.budgets import Draw, Took

CALLS: Final = 8
"""As many calls of the size of the last one a lease has room for."""
IDLE_S: Final = 5.0
"""After which room that nobody uses is given back."""
MAX_LEASES: Final = 1_000

Key = tuple[str, str, int]
"""One window of one budget."""
Renew = Callable[["Lease"], None]


def key_of(draw: Draw) -> Key:
    """The window that a call draws from."""
    return draw.budget, draw.subject, draw.began_at


class Lease:
    """The room in the budgets that count one kind of call."""

    def __init__(self, draws: Sequence[Draw], now_s: float) -> None:
        self.name = f"lease-{secrets.token_hex(8)}"
        self.draws = draws
        self.used_at = now_s
        self.is_renewing = False
        self.is_over = False
        """No more of it is given out."""
        self._free = Took(0)
        self._under_way = Took(0)
        self._unwritten = Took(0)
        self._wanted: Took | None = None

    @property
    def is_low(self) -> bool:
        """Whether it is time for more room."""
        draw = self.draws[0]
        return self._free.tokens < draw.tokens * CALLS // 2 or self._free.cost < draw.cost * CALLS // 2

    @property
    def spare(self) -> Took:
        """What is set aside and nobody's yet."""
        return Took(0, max(self._free.tokens, 0), max(self._free.cost, 0))

    @property
    def is_empty(self) -> bool:
        """Whether nobody would miss it."""
        return self._under_way.calls == 0 and self._unwritten.calls == 0

    def take(self, draws: Sequence[Draw], now_s: float) -> bool:
        """Take room for one call, if there is."""
        tokens, cost = draws[0].tokens, draws[0].cost
        if self.is_over or tokens > self._free.tokens or cost > self._free.cost:
            return False
        self.draws, self.used_at = draws, now_s
        self._free = self._free.plus(0, -tokens, -cost)
        self._under_way = self._under_way.plus(1, tokens, cost)
        return True

    def end(self, draw: Draw, took: Took | None) -> None:
        """A call has ended that had taken room for `draw`; None: its room goes on without it."""
        self._under_way = self._under_way.plus(-1, -draw.tokens, -draw.cost)
        if took is not None:
            self._unwritten = self._unwritten.plus(took.calls, took.tokens, took.cost)
            self._free = self._free.plus(0, draw.tokens - took.tokens, draw.cost - took.cost)

    def begin_renewal(self) -> tuple[Took, Sequence[Draw], Sequence[Draw]]:
        """What is to be written down; what has to stay set aside; and how much more there is to be, if any."""
        self.is_renewing, unwritten, self._unwritten = True, self._unwritten, Took(0)
        if self.is_over:
            self._free = Took(0)
        tokens = max(self._under_way.tokens + self._free.tokens, 0)
        cost = max(self._under_way.cost + self._free.cost, 0)
        stays = [replace(draw, tokens=tokens, cost=cost) for draw in self.draws]
        last, is_wanted = self.draws[0], self.is_low and not self.is_over
        self._wanted = Took(0, last.tokens * CALLS, last.cost * CALLS) if is_wanted else None
        more = [replace(draw, tokens=last.tokens * CALLS, cost=last.cost * CALLS) for draw in self.draws]
        return unwritten, stays, more if is_wanted else ()

    def end_renewal(self, unwritten: Took | None, *, has_more: bool) -> None:
        """Whether there is more room now, where more was wanted; without it budgets are running low.

        `unwritten`: what could not be written down.
        """
        self.is_renewing = False
        if self._wanted is not None and has_more:
            self._free = self._free.plus(0, self._wanted.tokens, self._wanted.cost)
        elif self._wanted is not None or unwritten is not None:
            self.is_over = True
        if unwritten is not None:
            self._unwritten = self._unwritten.plus(unwritten.calls, unwritten.tokens, unwritten.cost)


class Leases:
    """All leases of one process."""

    def __init__(self, renew: Renew) -> None:
        self._renew = renew
        self._leases: dict[tuple[Key, ...], Lease] = {}
        self._asked_at: dict[tuple[Key, ...], float] = {}

    def take(self, draws: Sequence[Draw], now_s: float) -> Lease | None:
        """Room for one call; None: it has to be taken from the budgets themselves."""
        if not all(map(_can_be_leased, draws)):
            return None
        key = tuple(map(key_of, draws))
        lease = self._leases.get(key)
        if lease is None:
            self._note(key, draws, now_s)
            return None
        has_room = lease.take(draws, now_s)
        if lease.is_low and not (lease.is_renewing or lease.is_over):
            self._renew(lease)
        return lease if has_room else None

    def sweep(self, now_s: float) -> bool:
        """Write down what calls took, give back what nobody has used lately; whether any lease is left."""
        for key, lease in list(self._leases.items()):
            lease.is_over = lease.is_over or now_s - lease.used_at > IDLE_S
            if not lease.is_renewing:
                self._renew(lease)
                if lease.is_over and lease.is_empty:
                    del self._leases[key]
        self._asked_at = {key: at for key, at in self._asked_at.items() if now_s - at <= IDLE_S}
        return bool(self._leases or self._asked_at)

    def end_all(self) -> None:
        """Nobody asks any more: have everything written down."""
        for lease in self._leases.values():
            lease.is_over = True
            self._renew(lease)

    def _note(self, key: tuple[Key, ...], draws: Sequence[Draw], now_s: float) -> None:
        """The second call within a short time gets the next ones a lease."""
        is_again = now_s - self._asked_at.get(key, -IDLE_S) < IDLE_S
        if len(self._asked_at) < MAX_LEASES:
            self._asked_at[key] = now_s
        if is_again and len(self._leases) < MAX_LEASES:
            lease = self._leases[key] = Lease(draws, now_s)
            self._renew(lease)


def _can_be_leased(draw: Draw) -> bool:
    """Whether room says all there is to say: calls that take nothing of what is bounded need no room, and yet a
    budget that is used up refuses them; and calls at once are counted in the store."""
    takes_all = (draw.most_tokens is None or draw.tokens > 0) and (draw.most_cost is None or draw.cost > 0)
    return takes_all and draw.most_calls is None and draw.most_at_once is None
