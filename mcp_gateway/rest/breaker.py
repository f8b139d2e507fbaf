"""Which of several addresses of one API to ask now: by weight or by what is under way, not those that keep failing.

After some failures in a row, or when it says `Retry-After`, an address rests; then one call tries it again. Time is an
argument. Belongs to one event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

FAILURES_UNTIL_OPEN: Final = 5
FIRST_REST_S: Final = 2.0
LONGEST_REST_S: Final = 60.0
LONGEST_RETRY_AFTER_S: Final = 300.0

_UNCOUNTED: Final = nullcontext()


@dataclass(slots=True)
class Record:
    """How one of several that do the same has done lately."""

    failures: int = 0
    rests_until: float = 0.0

    def note_failure(self, now_s: float, retry_after_s: float, first_rest_s: float) -> None:
        """It failed, and rests: for as long as it asked for, or, after some failures in a row, longer each time."""
        self.failures += 1
        if retry_after_s > 0:
            self.rests_until = max(self.rests_until, now_s + min(retry_after_s, LONGEST_RETRY_AFTER_S))
        elif self.failures >= FAILURES_UNTIL_OPEN:
            rest_s = first_rest_s * 2 ** min(self.failures - FAILURES_UNTIL_OPEN, 10)
            self.rests_until = now_s + min(rest_s, LONGEST_REST_S)


@dataclass(slots=True)
class _State(Record):
    passed_over: float = 0.0
    """How much it is owed: the one that is owed most is asked next (smooth weighted round robin)."""
    under_way: int = 0


class Breaker:
    """The addresses of one API, with their weights; `by_load`: the one that has least to do for its weight is next."""

    def __init__(self, weights: Sequence[tuple[str, float]], *, by_load: bool = False) -> None:
        self._weights = tuple(weights)
        self._states = {address: _State() for address, _ in weights}
        self._by_load = by_load

    def choose(self, now_s: float, tried: frozenset[str] = frozenset()) -> tuple[str | None, float]:
        """The address to ask, or None and the seconds until one may be asked; one of `tried` is not asked again."""
        there = [(address, weight) for address, weight in self._weights if address not in tried]
        awake = [pair for pair in there if self._states[pair[0]].rests_until <= now_s]
        if not awake:
            wait_s = min((self._states[address].rests_until - now_s for address, _ in there), default=0.0)
            return None, max(wait_s, 0.0)
        if self._by_load:
            awake = self._idlest(awake)
        for address, weight in awake:
            self._states[address].passed_over += weight
        chosen = max((address for address, _ in awake), key=lambda address: self._states[address].passed_over)
        state = self._states[chosen]
        state.passed_over -= sum(weight for _, weight in awake)
        if state.rests_until:
            state.rests_until = now_s + FIRST_REST_S  # this call tries it for all others
        return chosen, 0.0

    def asking(self, address: str) -> AbstractContextManager[None]:
        """Count a request to an address as under way while in here, where anything depends on that."""
        return self._counted(self._states[address]) if self._by_load else _UNCOUNTED

    @contextmanager
    def _counted(self, state: _State) -> Iterator[None]:
        state.under_way += 1
        try:
            yield
        finally:
            state.under_way -= 1

    def _idlest(self, awake: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
        """Those that would have least to do for their weight with one request more."""
        loads = [(self._states[address].under_way + 1) / weight for address, weight in awake]
        least = min(loads)
        return [pair for pair, load in zip(awake, loads, strict=True) if load == least]

    def worked(self, address: str) -> None:
        """It answered."""
        state = self._states[address]
        state.failures, state.rests_until = 0, 0.0

    def failed(self, address: str, now_s: float, retry_after_s: float = 0.0) -> None:
        """It failed in a way that another call would likely meet too."""
        self._states[address].note_failure(now_s, retry_after_s, FIRST_REST_S)


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float:
    """How long a server wants to be left alone (RFC 9110 section 10.2.3); 0 where it does not say.

    `now_s`: seconds since the epoch.

    >>> retry_after_s({"retry-after": "2"}, 0), retry_after_s({"retry-after-ms": "1500"}, 0)
    (2.0, 1.5)
    """
    milliseconds = _number(headers.get("retry-after-ms", ""))  # what the SDKs of model providers go by
    if milliseconds is not None:
        return milliseconds / 1000
    written = headers.get("retry-after", "")
    seconds = _number(written)
    if seconds is not None:
        return seconds
    try:
        return max(parsedate_to_datetime(written).timestamp() - now_s, 0.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _number(text: str) -> float | None:
    text = text.strip()
    return float(text) if len(text) < 12 and text.replace(".", "", 1).isdigit() and text.isascii() else None
