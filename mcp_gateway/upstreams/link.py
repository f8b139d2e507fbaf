"""What two processes of ours say to each other of upstreams that only one of them runs: JSON, a line a message.

The other end is this very program and nobody else can reach the socket, so what comes is taken as it is.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import orjson

from mcp_gateway.domain import Caller, Era, Json, Listing, Outcome, OutcomeStatus, RpcError, UpstreamState
from mcp_gateway.domain import UpstreamStatus as Status
from mcp_gateway.errors import AgentRefused, LoginNeeded, Misbehaved, TimedOut, Unreachable, UpstreamError
from mcp_gateway.jsonrpc import canonical
from mcp_gateway.upstreams.connection import TooBusy
from mcp_gateway.upstreams.refusals import Rejected

MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
"""What may wait for the other process to read it; beyond it nothing more is asked of it."""

_LISTS: Final = ("tools", "prompts", "resources", "templates", "problems")


class Link(asyncio.Protocol):
    """One end."""

    def __init__(self, heard: Callable[[Json], None], lost: Callable[[], None]) -> None:
        """`heard` is called with each message, `lost` once, when the other end is gone."""
        self._heard = heard
        self._lost = lost
        self._transport: asyncio.Transport
        self._begun: list[bytes] = []

    async def connect(self, end: socket.socket) -> None:
        """Begin, over one end of a pair of sockets; `heard` may be called before this returns."""
        end.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self, sock=end)

    @property
    def is_full(self) -> bool:
        """Whether the other process does not read."""
        return self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES

    def tell(self, message: Json) -> None:
        """Send one message; to nobody, once the link is lost."""
        if not self._transport.is_closing():
            self._transport.write(orjson.dumps(message) + b"\n")

    def close(self) -> None:
        """Say no more."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def data_received(self, data: bytes) -> None:
        first, *lines = data.split(b"\n")
        self._begun.append(first)
        for line in lines:
            whole, self._begun = b"".join(self._begun), [line]
            self._heard(orjson.loads(whole))


@dataclass(frozen=True, slots=True)
class Told:
    """What one process tells the others of an upstream."""

    status: Status
    listing: Listing | None = None
    """What of its list may be served."""
    held: tuple[str, ...] = ()
    """What of its list may not, as in servers.lock."""
    offers_login: bool = False

    @property
    def is_stateless(self) -> bool:
        """Whether any process can talk to it by itself: nothing of one request is needed for the next (2026-07-28)."""
        return self.status.era is Era.MODERN and self.status.transport == "http"

    def plain(self, before: Told | None) -> Json:
        """As a message; a list that was told before is left out."""
        plain: Json = {"status": asdict(self.status), "held": self.held, "login": self.offers_login}
        if before is None or before.listing is not self.listing:
            plain["listing"] = None if self.listing is None else _plain_listing(self.listing)
        return plain

    @classmethod
    def of(cls, plain: Json, before: Told | None) -> Told:
        """What `plain` has said."""
        status = Status(**plain["status"])
        era = None if status.era is None else Era(status.era)
        listing = None if before is None else before.listing
        if plain.get("listing") is not None:
            listing = _listing_of(plain["listing"])
        elif "listing" in plain and status.state != UpstreamState.STARTING:  # or it offers, for now, what it did before
            listing = None
        status = replace(status, state=UpstreamState(status.state), era=era)
        return cls(status, listing, tuple(plain["held"]), plain["login"])


def plain_outcome(outcome: Outcome) -> Json:
    """An upstream's answer as a message."""
    error = None if outcome.error is None else asdict(outcome.error)
    return {"status": outcome.status, "result": outcome.result, "error": error, "ms": outcome.upstream_ms}


def outcome_of(plain: Json) -> Outcome:
    """What `plain_outcome` has said."""
    error = None if plain["error"] is None else RpcError(**plain["error"])
    return Outcome(OutcomeStatus(plain["status"]), result=plain["result"], error=error, upstream_ms=plain["ms"])


def plain_failure(error: UpstreamError | AgentRefused) -> Json:
    """Why there is no answer, as a message."""
    plain: Json = {"why": "unreachable", "message": str(error)}
    if isinstance(error, AgentRefused):
        return {**plain, "why": "agent", "code": error.rpc_code, "data": error.data}
    if isinstance(error, Rejected):
        return {**plain, "why": "rejected", "status": error.status, "challenge": error.challenge}
    return {**plain, "why": next((why for why, kind in _FAILURES.items() if isinstance(error, kind)), "unreachable")}


def failure_of(upstream: str, plain: Json) -> UpstreamError | AgentRefused:
    """What `plain_failure` has said."""
    if plain["why"] == "agent":
        return AgentRefused(plain["code"], plain["message"], plain["data"])
    if plain["why"] == "rejected":
        return Rejected(upstream, plain["message"], plain["status"], plain["challenge"])
    return _FAILURES[plain["why"]](upstream, plain["message"])


class FarSide:
    """Who made a request in another process (`domain.Reply.side`); equal to whoever is the same, there or here."""

    __slots__ = ("_word",)

    def __init__(self, word: str) -> None:
        """`word`: from `side_of`."""
        self._word = word

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FarSide):
            return self._word == other._word
        return isinstance(other, Caller) and self._word == side_of(other)

    __hash__ = None  # type: ignore[assignment]  # sides are compared, and could not be found by one


def side_of(side: object) -> str:
    """A word that is the same for two requests exactly if who made them is (`domain.Reply.side`)."""
    if not isinstance(side, Caller):
        return f"only {id(side)} of {os.getpid()}"
    plain = asdict(replace(side, claims={}, started=None, expires_at=0.0))
    claims = canonical(dict(side.claims)).decode()
    return canonical([plain, claims, side.started_id, str(side.expires_at)]).decode()


_FAILURES: Final[dict[str, type[UpstreamError]]] = {
    "busy": TooBusy,
    "timed out": TimedOut,
    "misbehaved": Misbehaved,
    "login needed": LoginNeeded,
    "unreachable": Unreachable,
}


def _plain_listing(listing: Listing) -> Json:
    lists: Json = {name: getattr(listing, name) for name in _LISTS}
    rest = {"upstream": listing.upstream, "instructions": listing.instructions, "ttl_ms": listing.ttl_ms}
    return {**lists, **rest, "capabilities": dict(listing.capabilities), "extensions": sorted(listing.extensions)}


def _listing_of(plain: Json) -> Listing:
    lists: dict[str, Any] = {name: tuple(plain[name]) for name in _LISTS}
    return Listing(**{**plain, **lists, "extensions": frozenset(plain["extensions"])})
