"""The way back to an agent that speaks plain HTTP, written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from anyio import CancelScope


@dataclass
class RecordingRelay:
    """Implements `domain.Relay`."""

    scope: CancelScope = field(default_factory=CancelScope)
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    written: list[bytes] = field(default_factory=list)
    held: list[bytes] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    done: list[Callable[[], None]] = field(default_factory=list)

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        assert not self.status, "begun twice"
        self.status, self.headers = status, dict(headers)

    async def write(self, piece: bytes) -> None:
        assert self.status, "not begun"
        self.written.append(piece)

    def hold(self, piece: bytes) -> None:
        self.held.append(piece)

    def hold_error(self, error: Exception) -> None:
        self.errors.append(error)

    def afterwards(self, do: Callable[[], None]) -> None:
        self.done.append(do)
