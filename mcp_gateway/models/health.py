"""Which models of which providers are worth asking right now, learnt from how they answered.

After some failures in a row, or when a provider says `Retry-After`, a model is left alone for a while; then one call
tries it again. Time is an argument. Belongs to one event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mcp_gateway.config.models import ModelTarget
from mcp_gateway.rest.breaker import FAILURES_UNTIL_OPEN, Record

FIRST_REST_S: Final = 5.0
MAX_KNOWN: Final = 10_000


@dataclass(slots=True)
class _State(Record):
    is_dead: bool = False
    """It did not answer at all, so that asking it would only cost time."""


class Health:
    """How each target has done lately; one that is not known is well."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], _State] = {}

    def worked(self, target: ModelTarget) -> None:
        """It answered."""
        self._states.pop((target.provider, target.model), None)

    def failed(self, target: ModelTarget, now_s: float, *, retry_after_s: float = 0.0, is_dead: bool = False) -> None:
        """It failed in a way that another call would likely meet too. `is_dead`: it did not even answer."""
        state = self._state(target)
        state.is_dead = is_dead
        state.note_failure(now_s, retry_after_s, FIRST_REST_S)

    def worth_trying(self, targets: Sequence[ModelTarget], now_s: float) -> tuple[list[ModelTarget], float]:
        """The targets to ask, in their order, and, where there is none, the seconds until one will be.

        Those at rest are left out while others are left; a target whose rest is over is tried by one call, which puts
        it to rest again for the others until that call has ended. If all rest, those that at least answer are tried.
        """
        awake = [target for target in targets if self._rests_for(target, now_s) <= 0]
        for target in awake:
            self._let_one_try(target, now_s)
        answering = [target for target in targets if not self._is_dead(target)]
        wait_s = min((self._rests_for(target, now_s) for target in targets), default=0.0)
        return awake or answering, 0.0 if awake or answering else max(wait_s, 0.0)

    def _let_one_try(self, target: ModelTarget, now_s: float) -> None:
        state = self._states.get((target.provider, target.model))
        if state is not None and state.rests_until:
            state.rests_until = now_s + FIRST_REST_S

    def _rests_for(self, target: ModelTarget, now_s: float) -> float:
        state = self._states.get((target.provider, target.model))
        return 0.0 if state is None else state.rests_until - now_s

    def _is_dead(self, target: ModelTarget) -> bool:
        state = self._states.get((target.provider, target.model))
        return state is not None and state.is_dead and state.failures >= FAILURES_UNTIL_OPEN

    def _state(self, target: ModelTarget) -> _State:
        if len(self._states) >= MAX_KNOWN:
            self._states.clear()
        return self._states.setdefault((target.provider, target.model), _State())
