"""How many requests may be under way at once: whoever comes when there is no room is told when to come again.

Belongs to one event loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mcp_gateway.errors import OverLimit

RETRY_AFTER_S: Final = 1.0
"""Requests take about that long; nobody knows better when one ends."""


class Room:
    """The places for requests of one API, or of one of its routes."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._taken = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """One place, for as long as the block lasts. Raises `OverLimit` where none is left."""
        if self._taken >= self._most:
            raise OverLimit(f"{self._name} takes at most {self._most} requests at once", RETRY_AFTER_S)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
