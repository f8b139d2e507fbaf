"""Which era a server speaks, and what it says of itself: `server/discover` first, `initialize` where that is unknown.

The rules of PROTOCOL 2.1 (2026-07-28 basic/versioning): a result, or -32022, is the only proof of a modern server;
anything else is answered with the legacy handshake, whose success is the only proof of a legacy one. An outage or a
refused credential proves nothing. Knows no transport: it is given a way to ask.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any, Final

from mcp_gateway.domain import NOTHING, Era, Json, RpcError
from mcp_gateway.errors import Misbehaved, TimedOut, Unreachable
from mcp_gateway.jsonrpc import Code
from mcp_gateway.revisions import LEGACY_VERSIONS
from mcp_gateway.upstreams.connection import Answer, Greeting, Limits
from mcp_gateway.upstreams.dialect import HANDSHAKE, MODERN, Dialect, extensions_in, initialize_params, legacy

Ask = Callable[[Dialect, str, Json, float], Awaitable[Answer]]
"""Asks one thing in one dialect, within seconds."""

MAX_INSTRUCTIONS: Final = 100_000

_log = logging.getLogger(__name__)


class HandshakeRefused(Unreachable):
    """The server answered `initialize` with an error."""


class DiedOfProbe(Unreachable):
    """The child ended while it was asked `server/discover`; worth one more start without that question."""


@dataclass(frozen=True, slots=True)
class Memory:
    """That one server is better not probed: it kept silent, or died. Outlives connections, and us if `kept` does.

    Only this is worth remembering: a server that answers the probe costs one round trip, and will be seen to have
    become modern.
    """

    key: str
    kept: MutableMapping[str, str]

    @property
    def says_legacy(self) -> bool:
        return self.kept.get(self.key) == Era.LEGACY

    def remember_legacy(self) -> None:
        """Skip the probe from now on."""
        self.kept[self.key] = Era.LEGACY

    def forget(self) -> None:
        """Probe again next time."""
        self.kept.pop(self.key, None)


async def greet(
    name: str, ask: Ask, limits: Limits, memory: Memory, capabilities: Mapping[str, Any]
) -> tuple[Dialect, Greeting]:
    """Settle the era over a duplex channel. Raises `UpstreamError`.

    The caller sends `notifications/initialized` if the dialect is legacy.
    """
    is_open = memory.says_legacy
    if not is_open:
        try:
            found = await _discovered_alive(name, ask, limits, memory)
        except TimedOut:
            is_open = True
        else:
            if found is not None:
                return found
    try:
        answer = await ask(HANDSHAKE, "initialize", initialize_params(capabilities), limits.start_timeout_s)
        greeted = greeting_of_initialize(name, answer)
    except Unreachable as e:
        memory.forget()
        if not (is_open and isinstance(e, HandshakeRefused)):
            raise
        # A slow starter reads the probe after we gave it up, is bound to the modern era by it, and refuses this.
        found = await discovered(name, ask, limits.start_timeout_s)
        if found is None:
            raise
        return found
    if is_open:
        memory.remember_legacy()
    return greeted


async def discovered(name: str, ask: Ask, timeout_s: float) -> tuple[Dialect, Greeting] | None:
    """What a modern server says of itself; None if this is not one. Raises `UpstreamError`."""
    answer = await ask(MODERN, "server/discover", {}, timeout_s)
    supported = _supported_versions(answer)
    if isinstance(answer, RpcError) and MODERN.version in supported:
        # Refused, although it names our version: try again with a version it names (basic/versioning), once.
        answer = await ask(MODERN, "server/discover", {}, timeout_s)
        supported = _supported_versions(answer)
    if MODERN.version in supported and isinstance(answer, dict):
        greeting = _greeting(MODERN, answer)
        return replace(MODERN, extensions=greeting.extensions), greeting
    _refuse_unknown_versions(name, answer, supported)
    return None


def greeting_of_initialize(name: str, answer: Answer) -> tuple[Dialect, Greeting]:
    """What a legacy server agreed to. Raises `HandshakeRefused` or `Misbehaved`."""
    if isinstance(answer, RpcError):
        raise HandshakeRefused(name, f"upstream {name!r} refused to initialize (error {answer.code})")
    try:
        dialect = legacy(answer.get("protocolVersion"))
    except LookupError as e:
        raise Misbehaved(name, f"upstream {name!r} speaks {e.args[0]}, which the gateway does not") from e
    return dialect, _greeting(dialect, answer)


async def _discovered_alive(name: str, ask: Ask, limits: Limits, memory: Memory) -> tuple[Dialect, Greeting] | None:
    try:
        return await discovered(name, ask, limits.probe_timeout_s)
    except VersionsUnknown:
        raise
    except Unreachable as e:
        memory.remember_legacy()
        raise DiedOfProbe(name, str(e)) from e


class VersionsUnknown(Unreachable):
    """A modern server none of whose versions we speak."""


def _supported_versions(answer: Answer) -> tuple[str, ...]:
    """The versions a discover result, or a -32022, names."""
    if isinstance(answer, dict):
        named = answer.get("supportedVersions")
    elif answer.code == Code.UNSUPPORTED_VERSION and isinstance(answer.data, dict):
        named = answer.data.get("supported")
    else:
        named = None
    return tuple(version for version in named if isinstance(version, str)) if isinstance(named, list) else ()


def _refuse_unknown_versions(name: str, answer: Answer, supported: tuple[str, ...]) -> None:
    if supported and not set(supported) & {*LEGACY_VERSIONS, MODERN.version}:
        shown = ", ".join(ascii(version[:20]) for version in supported[:5])
        raise VersionsUnknown(name, f"upstream {name!r} speaks only protocol versions we do not: {shown}")


def _greeting(dialect: Dialect, answer: Json) -> Greeting:
    said, instructions = answer.get("capabilities"), answer.get("instructions")
    capabilities = said if isinstance(said, dict) else NOTHING
    return Greeting(
        dialect.era,
        dialect.version,
        capabilities,
        instructions[:MAX_INSTRUCTIONS] if isinstance(instructions, str) else "",
        extensions_in(dialect.era, capabilities),
    )
