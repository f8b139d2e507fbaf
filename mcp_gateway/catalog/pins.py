"""Holds back what changed behind our back: only definitions that somebody approved reach the catalog.

An upstream's first listing follows its `trust`: `first-use` approves it, but for what looks wrong; `ask` approves
nothing by itself; `any` switches pins off. Later a definition is served only if it is exactly the approved one. A new
one, a changed one and a renamed one wait; the others of the upstream go on. Listed resources are data: they wait only
where they look wrong. Pure: the pins come in as values, and what is to be written goes out as values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Literal

from mcp_gateway.catalog.likeness import skeleton
from mcp_gateway.catalog.signals import signals_in
from mcp_gateway.config.lock import Pin, UpstreamPins, digest_of
from mcp_gateway.domain import Json, Kind, Listing

Trust = Literal["first-use", "ask", "any"]

MAX_HELD: Final = 2_000
"""Held definitions of one upstream that are kept for review; a hostile one could make up any number."""
INSTRUCTIONS: Final = "instructions"

_LISTS: Final[tuple[tuple[str, str, str], ...]] = (
    (Kind.TOOL, "tools", "name"),
    (Kind.PROMPT, "prompts", "name"),
    (Kind.RESOURCE, "resources", "uri"),
    (Kind.TEMPLATE, "templates", "uriTemplate"),
)
_UNPINNED: Final = Kind.RESOURCE.value


class Why(StrEnum):
    """Why a definition waits."""

    NEW = "new"  # it was not there when the upstream was approved
    CHANGED = "changed"  # another definition was approved under this name
    RENAMED = "renamed"  # it is the definition of a target that is gone, under another name
    LOOK_ALIKE = "look-alike"  # its name could be taken for that of another target
    FLAGGED = "flagged"  # first sight, and something in it looks wrong
    REJECTED = "rejected"  # somebody refused exactly this definition
    FIRST_SIGHT = "first sight"  # the upstream asks for approval of everything


@dataclass(frozen=True, slots=True)
class Held:
    """One definition that waits for somebody to look at it."""

    upstream: str
    key: str
    """As in servers.lock: `tool:NAME`."""
    sha256: str
    why: Why
    definition: Mapping[str, Any]
    signals: tuple[str, ...] = ()
    like: str = ""
    """The target it was renamed from, or looks like."""
    person: str = ""
    """Whose list it is in; empty: everybody's."""

    @property
    def target(self) -> str:
        """How operators write it: `upstream/name`, `prompt:upstream/name`."""
        return written(self.upstream, self.key)


@dataclass(frozen=True, slots=True)
class Sifted:
    """One listing, parted."""

    listing: Listing
    """What may be served."""
    held: tuple[Held, ...] = ()
    fresh: Mapping[str, Pin] | None = None
    """Approved by first use, to be written down; None: nothing new."""


def written(upstream: str, key: str) -> str:
    """A key of servers.lock as policies write targets.

    >>> written("git", "tool:git_log"), written("crm", "prompt:greet")
    ('git/git_log', 'prompt:crm/greet')
    """
    kind, _, name = key.partition(":")
    return f"{upstream}/{name}" if kind == Kind.TOOL else f"{kind}:{upstream}/{name}"


def key_of(target: str) -> tuple[str, str]:
    """Upstream and key of a target as operators write it. Raises `ValueError`.

    >>> key_of("prompt:crm/greet")
    ('crm', 'prompt:greet')
    """
    kinds = (*(kind.value for kind in Kind), INSTRUCTIONS)
    head, colon, rest = target.partition(":")
    kind, rest = (head, rest) if colon and head in kinds else (Kind.TOOL.value, target)
    upstream, slash, name = rest.partition("/")
    if not upstream or not slash or not (name or kind == INSTRUCTIONS):
        raise ValueError(f"{target!r} is not upstream/name")
    return upstream, f"{kind}:{name}"


def sift(
    pins: UpstreamPins | None,
    listing: Listing,
    trust: Trust,
    at: str,
    person: str = "",
    *,
    is_first: bool | None = None,
) -> Sifted:
    """Part a listing into what may be served and what waits; `at` is the time for pins made by first use.

    `is_first`: whether it is the first list of this upstream, or of `person` there; None: if nothing is pinned.
    """
    if trust == "any":
        return Sifted(listing)
    sieve = _Sieve(pins, listing, trust, at, person)
    if is_first is not None:
        sieve.is_first = is_first and trust == "first-use"
    kept: dict[str, Any] = {
        member: tuple(sieve.keep(kind, getattr(listing, member), name)) for kind, member, name in _LISTS
    }
    instructions = listing.instructions if sieve.keeps_instructions(listing.instructions) else ""
    served = replace(listing, instructions=instructions, **kept)
    return Sifted(served, tuple(sieve.held), sieve.fresh or None)


class _Sieve:
    """One listing being judged."""

    def __init__(self, pins: UpstreamPins | None, listing: Listing, trust: Trust, at: str, person: str) -> None:
        self.held: list[Held] = []
        self.fresh: dict[str, Pin] = {}
        self._pins = pins or UpstreamPins()
        self._is_unknown = pins is None or pins.is_only_of_people
        self.is_first = self._is_unknown and trust == "first-use"
        self._upstream, self._at, self._person = listing.upstream, at, person
        offered = {f"{kind}:{raw.get(name)}" for kind, member, name in _LISTS for raw in getattr(listing, member)}
        self._gone = {_body(pin.definition): key for key, pin in self._pins.pins.items() if key not in offered}
        self._likes = {skeleton(key): key for key in self._pins.keys(person)}

    def keep(self, kind: str, definitions: tuple[Json, ...], name: str) -> Iterator[Json]:
        for raw in definitions:
            if self._keeps(f"{kind}:{raw.get(name)}", raw):
                yield raw

    def keeps_instructions(self, text: str) -> bool:
        return not text or self._keeps(f"{INSTRUCTIONS}:", {"instructions": text})

    def _keeps(self, key: str, raw: Json) -> bool:
        try:
            sha256 = digest_of(raw)
        except TypeError:
            return True  # no portable JSON: the catalog leaves it out and says so
        pin = self._pins.pin(key, self._person)
        if pin is not None and pin.sha256 == sha256:
            return True
        signals = tuple(str(signal) for signal in signals_in(raw))
        if self._passes_unpinned(key, pin, signals, sha256):
            if not key.startswith(f"{_UNPINNED}:"):
                self.fresh[key] = Pin(sha256, raw, "first-use", self._at)
            return True
        why, like = self._why(key, pin, raw, sha256, signals)
        if len(self.held) < MAX_HELD:
            self.held.append(Held(self._upstream, key, sha256, why, raw, signals, like, self._person))
        return False

    def _passes_unpinned(self, key: str, pin: Pin | None, signals: tuple[str, ...], sha256: str) -> bool:
        """Whether it may be served although no pin says so: listed resources, and a first listing."""
        if pin is not None or signals or sha256 in self._pins.rejected.get(key, ()):
            return False
        if key.startswith(f"{_UNPINNED}:"):
            return True
        return self.is_first

    def _why(self, key: str, pin: Pin | None, raw: Json, sha256: str, signals: tuple[str, ...]) -> tuple[Why, str]:
        if sha256 in self._pins.rejected.get(key, ()):
            return Why.REJECTED, ""
        if pin is not None:
            return Why.CHANGED, ""
        if signals and (self.is_first or key.startswith(f"{_UNPINNED}:")):
            return Why.FLAGGED, ""
        if (before := self._gone.get(_body(raw))) is not None:
            return Why.RENAMED, written(self._upstream, before)
        if (like := self._likes.get(skeleton(key))) is not None:
            return Why.LOOK_ALIKE, written(self._upstream, like)
        return (Why.FIRST_SIGHT if self._is_unknown else Why.NEW), ""


def _body(definition: Mapping[str, Any]) -> str:
    """What a rename leaves as it is."""
    return digest_of({k: v for k, v in definition.items() if k not in ("name", "title", "uri", "uriTemplate")})


def by_first_use(lock: UpstreamPins | None, fresh: Mapping[str, Pin], person: str = "") -> UpstreamPins:
    """The pins with those of a first listing added; where another process was faster, its pins stay."""
    pins = lock or UpstreamPins()
    for key, pin in fresh.items():
        if pins.pin(key, person) is None:
            pins = pins.with_pin(key, pin, person)
    return pins
