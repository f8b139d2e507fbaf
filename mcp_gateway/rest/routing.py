"""Which route of an API a request is on, by method, path, host and header; the first that speaks of it has it.

A route says in which state of its life it is, where its requests go and what is edited on the way. A request that no
route speaks of passes as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from mcp_gateway.domain import NOTHING
from mcp_gateway.rest.editing import NO_ANSWER_EDITS, NO_REQUEST_EDITS, AnswerEdits, RequestEdits
from mcp_gateway.rest.lifecycle import Life
from mcp_gateway.rest.matching import RoutePattern

_OF_PARTS: Final = ("range", "if-range")

Balance = Literal["weight", "least-in-flight"]
BALANCES: Final[tuple[Balance, ...]] = ("weight", "least-in-flight")


@dataclass(frozen=True, slots=True)
class Route:
    """One `[servers.NAME.route.ROUTE]`."""

    name: str
    match: tuple[RoutePattern, ...]
    """Over methods and paths as agents ask for them."""
    hosts: frozenset[str] = frozenset()
    """In lower case, without a port; empty: any."""
    headers: Mapping[str, frozenset[str]] = field(default_factory=lambda: NOTHING)
    """By name in lower case: one of these values has to be there."""
    life: Life = field(default_factory=Life)
    request: RequestEdits = NO_REQUEST_EDITS
    answer: AnswerEdits = NO_ANSWER_EDITS
    targets: tuple[tuple[str, float], ...] = ()
    """Base URLs with their weights; none: those of the API."""
    balance: Balance = "weight"
    max_concurrent: int | None = None

    def request_headers(self, passed: Mapping[str, str]) -> dict[str, str]:
        """The agent's headers that pass, as they are sent: no part of an answer that is to be edited is asked for."""
        made = self.request.headers.made_in(passed)
        return {name: value for name, value in made.items() if not (self.answer.body and name in _OF_PARTS)}

    @property
    def edits_answers(self) -> bool:
        """Whether an answer is anything but passed on."""
        return self.life.is_told or self.answer != NO_ANSWER_EDITS

    def is_of(self, method: str, path: str, fields: Mapping[str, str]) -> bool:
        """Whether a request is on it."""
        if not any(pattern.matches(method, path) for pattern in self.match):
            return False
        if self.hosts and _host_in(fields) not in self.hosts:
            return False
        return all(fields.get(name, "") in values for name, values in self.headers.items())


def route_of(routes: Iterable[Route], method: str, path: str, fields: Mapping[str, str]) -> Route | None:
    """The route a request is on; `fields`: the agent's headers by name in lower case."""
    return next((route for route in routes if route.is_of(method, path, fields)), None)


def _host_in(fields: Mapping[str, str]) -> str:
    """The host without its port.

    >>> _host_in({"host": "V2.example:8443"})
    'v2.example'
    """
    host = fields.get("host", "").lower()
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host
