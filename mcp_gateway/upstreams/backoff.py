"""How long to wait before the next attempt: doubling, with jitter, up to a bound."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """A growing wait. The jitter keeps upstreams that died together from coming back in step.

    >>> waits = Backoff(0.5, 60, jitter=lambda: 1.0)
    >>> [waits.next_s() for _ in range(4)]
    [0.5, 1.0, 2.0, 4.0]
    """

    def __init__(self, first_s: float, most_s: float, jitter: Callable[[], float] | None = None) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._jitter = jitter or _between_three_quarters_and_one
        self._wait_s = first_s

    def next_s(self) -> float:
        """The wait before the next attempt."""
        wait_s = self._wait_s
        self._wait_s = min(wait_s * 2, self._most_s)
        return wait_s * self._jitter()

    def reset(self) -> None:
        """Something worked."""
        self._wait_s = self._first_s


def _between_three_quarters_and_one() -> float:
    return 0.75 + random.random() / 4  # noqa: S311 - spreads load, keeps no secret
