"""Answers of plain APIs, given again while they are good: what is kept for a request, and what becomes of a new one.

`RouteCache` belongs to one API as it is configured and ends with that; `Visit` is one request's way through it. Sends
nothing: whoever does asks a visit what to send, tells it what came, and gives the agent what it says. Policy, guards
and budgets have been asked before a visit begins, on every one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit
from weakref import WeakSet

from mcp_gateway.cache import Cache, Owner
from mcp_gateway.domain import Cached, CacheUse
from mcp_gateway.rest import freshness
from mcp_gateway.rest.freshness import Headers, directives, seconds_in
from mcp_gateway.rest.matching import RoutePattern

CACHED: Final = ("GET", "HEAD")
SAFE: Final = ("GET", "HEAD", "OPTIONS")
MAX_VARIANTS: Final = 8
"""Answers to one URL that differ by what `Vary` names."""

_FAILURES: Final = (500, 502, 503, 504)
_NOT_FOR_CACHES: Final = ("range", "if-match", "if-unmodified-since", "if-range")
"""Requests with these are passed on, and what comes back is not kept."""
_OF_ONE_BODY: Final = ("content-length", "content-encoding", "content-type", "content-range", "transfer-encoding")
"""What a 304 cannot change of an answer whose body stays (RFC 9111 section 3.2)."""
_NAME: Final = "mcp-gateway"


@dataclass(frozen=True, slots=True)
class CacheRules:
    """What an operator said may be kept."""

    routes: tuple[RoutePattern, ...]
    stale_if_error_s: float = 0.0
    """For how long beyond its time an answer is given where the API fails; 0: never."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One whole answer."""

    status: int
    shown: Headers
    """The headers that agents get of it."""
    said: Headers
    """All headers, as the API sent them, names in lower case."""
    body: bytes
    selecting: Mapping[str, str | None]
    """The request headers it depends on, with what they were."""
    age_s: float
    """When it came."""
    kept_at_s: float
    lifetime_s: float
    source: str
    """The request it was the answer to."""

    def age_at(self, now_s: float) -> float:
        """How old it is by now."""
        return self.age_s + max(now_s - self.kept_at_s, 0.0)

    def left_s(self, now_s: float) -> float:
        """For how long it is fresh from now on; below zero: for how long it has not been."""
        return self.lifetime_s - self.age_at(now_s)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as a cache looks at it."""

    owner: Owner
    method: str
    path: str
    """With its query."""
    said: Headers
    """The agent's headers."""
    sent: Headers
    """What the API gets of them, without the credential."""
    has_body: bool
    credential: str
    """A digest of the credential that goes with it; empty: there is none."""
    request_id: str
    route: str = ""
    """Its route, which decides where it goes and what is edited on the way."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An answer that is known without reading one."""

    status: int
    headers: Headers
    body: bytes
    cached: Cached | None = None


@dataclass(frozen=True, slots=True)
class Clocks:
    """Both in seconds."""

    since_the_epoch: Callable[[], float]
    steady: Callable[[], float]
    """Never set back: what is kept does not live longer because somebody corrects the time."""


class RouteCache:
    """What is kept of one API under one configuration."""

    def __init__(
        self, rules: CacheRules, bases: Sequence[str], entries: Cache[tuple[Stored, ...]], clocks: Clocks
    ) -> None:
        """`bases`: where the API is; `entries` is shared with other APIs."""
        self.rules = rules
        self.clocks = clocks
        self._bases = [urlsplit(base) for base in bases]
        self._entries = entries
        # Weak: an answer may still be waiting for the audit when its request is over, and may never go out at all.
        self._visits: WeakSet[Visit] = WeakSet()
        self._is_over = False

    @property
    def largest(self) -> int:
        """The most bytes that are kept of one answer."""
        return self._entries.bounds.largest

    def visit(self, asked: Asked) -> Visit:
        """Begin with one request. It is told what changes for as long as anybody holds it."""
        visit = Visit(self, asked)
        self._visits.add(visit)
        return visit

    def covers(self, method: str, path: str) -> bool:
        """Whether answers to this may be kept, and be given again."""
        return method in CACHED and any(route.matches("GET", path) for route in self.rules.routes)

    def found(self, asked: Asked) -> tuple[Stored | None, bool]:
        """What is kept for such a request, and whether anything is under its URL."""
        variants = self._entries.get(asked.owner, self._key(asked)) or ()
        return next((each for each in variants if _is_selected(each, asked)), None), bool(variants)

    def keep(self, asked: Asked, stored: Stored) -> None:
        """Keep it for who asked, in place of what was there for such a request."""
        if self._is_over:
            return
        variants = self._entries.get(asked.owner, self._key(asked)) or ()
        kept = (stored, *(each for each in variants if not _is_selected(each, asked)))[:MAX_VARIANTS]
        size = sum(len(each.body) + _length_of(each.shown) + _length_of(each.said) for each in kept)
        self._entries.put(asked.owner, self._key(asked), kept, size, (id(self), _place(asked.path)))

    def drop(self, asked: Asked) -> None:
        """Keep nothing of this URL for who asked."""
        self._entries.drop(asked.owner, self._key(asked))

    def changed(self, path: str, headers: Headers) -> None:
        """Something was done to what is there (RFC 9111 section 4.4): forget it for everybody, with whatever query.

        What is just being read may be from before, and is not kept either.
        """
        for place in {_place(path), *self._named_in(headers)}:
            self._entries.forget((id(self), place))
            for visit in self._visits:
                visit.is_outdated = visit.is_outdated or _place(visit.asked.path) == place

    def empty(self) -> None:
        """Something was done to the API, and nobody can tell what to: forget everything, for everybody."""
        self._entries.forget_all(lambda about: isinstance(about, tuple) and about[0] == id(self))
        for visit in self._visits:
            visit.is_outdated = True

    def close(self) -> None:
        """The API is another one now, or gone: keep nothing more of it."""
        self._is_over = True
        self.empty()

    def _key(self, asked: Asked) -> tuple[int, str, str, str]:
        return (id(self), asked.route, asked.path, asked.credential)

    def _named_in(self, headers: Headers) -> list[str]:
        """What else of this API an answer says it is about."""
        found = []
        for written in (headers.get("location", ""), headers.get("content-location", "")):
            try:
                url = urlsplit(written)
            except ValueError:
                continue
            for base in self._bases:
                if url.path.startswith(f"{base.path}/") and url.netloc in ("", base.netloc):
                    found.append(url.path.removeprefix(base.path))
        return found


class Visit:
    """One request's way through a cache."""

    def __init__(self, cache: RouteCache, asked: Asked) -> None:
        self.asked = asked
        self.is_outdated = False
        self._cache = cache
        self._began_s = cache.clocks.since_the_epoch()
        said = asked.said.get("cache-control", asked.said.get("pragma", ""))
        self._wishes = directives(said)
        self._is_for_caches = (
            cache.covers(asked.method, _place(asked.path))
            and not asked.has_body
            and not any(name in asked.said for name in _NOT_FOR_CACHES)
        )
        self._stored, has_others = cache.found(asked) if self._is_for_caches else (None, False)
        self._why = "vary-miss" if has_others else "uri-miss"
        self._conditions: Mapping[str, str] = {}
        self._keeping: Stored | None = None
        self._pieces: list[bytes] = []
        self._room = cache.largest

    def at_once(self) -> Ready | None:
        """The answer, where nobody needs to be asked for it."""
        now_s, stored, wishes = self._cache.clocks.steady(), self._stored, self._wishes
        if stored is not None and self._is_good(stored, now_s):
            return self._ready(stored, CacheUse.HIT, f"hit; ttl={stored.left_s(now_s):.0f}")
        if "only-if-cached" in wishes and self._is_for_caches:
            return Ready(504, {"cache-status": f"{_NAME}; fwd={self._why}; detail=only-if-cached"}, b"")
        if stored is not None:
            self._why = "request" if stored.left_s(now_s) > 0 else "stale"
            if self.asked.method == "GET":
                self._conditions = freshness.conditions(stored.said)
        return None

    def sent(self, headers: dict[str, str]) -> dict[str, str]:
        """What goes to the API instead of `headers`: our own question whether what we have still holds."""
        if not self._conditions:
            return headers
        kept = {name: value for name, value in headers.items() if not name.startswith("if-")}
        return {**kept, **self._conditions}

    def answered(self, status: int, said: Headers, shown: dict[str, str]) -> Ready | None:
        """The API has answered: with what goes on, `shown` completed, or so that an answer is ready.

        Raises `ValueError` for one that speaks of something else than was asked about.
        """
        lowered = {name.lower(): value for name, value in said.items()}
        if self.asked.method not in SAFE:
            if status < 400:
                self._cache.changed(self.asked.path, lowered)
            return None
        if not self._is_for_caches:
            return None
        if status == 304 and self._conditions:
            return self._refreshed(lowered, shown)
        if status in _FAILURES and (ready := self._in_spite_of_failure(f"; fwd-status={status}")) is not None:
            return ready
        self._note(status, lowered, shown)
        return None

    def failed(self) -> Ready | None:
        """The API has not answered: what may be given all the same."""
        return self._in_spite_of_failure("")

    def piece(self, piece: bytes) -> None:
        """Part of the body that goes on."""
        if self._keeping is not None:
            self._room -= len(piece)
            self._pieces.append(piece)
            if self._room < 0:
                self._keeping, self._pieces = None, []
                self._cache.drop(self.asked)

    def to_keep(self) -> Callable[[], None] | None:
        """What keeps the answer, once it may go out; None: it is not to be kept."""
        stored, self._keeping = self._keeping, None
        if stored is None:
            return None
        stored = replace(stored, body=b"".join(self._pieces) or stored.body)
        return lambda: self._keep(stored)

    def unknown(self) -> None:
        """Nobody knows what became of the request: one that was to change something may have changed it."""
        if self.asked.method not in SAFE:
            self._cache.changed(self.asked.path, {})

    def _keep(self, stored: Stored) -> None:
        if not self.is_outdated:
            self._cache.keep(self.asked, stored)

    def _is_good(self, stored: Stored, now_s: float) -> bool:
        """Whether it can be given without asking (section 4), also in the eyes of the agent (section 5.2.1)."""
        wishes, left_s = self._wishes, stored.left_s(now_s)
        oldest_s, least_s = seconds_in(wishes, "max-age"), seconds_in(wishes, "min-fresh") or 0
        if left_s <= 0 or "no-cache" in wishes or "no-store" in wishes:
            return False
        return left_s >= least_s and (oldest_s is None or stored.age_at(now_s) <= oldest_s)

    def _in_spite_of_failure(self, detail: str) -> Ready | None:
        stored, now_s = self._stored, self._cache.clocks.steady()
        most_s = self._cache.rules.stale_if_error_s
        if stored is None or not most_s or not freshness.may_be_stale(stored.said) or "no-cache" in self._wishes:
            return None
        said_s = seconds_in(directives(stored.said.get("cache-control", "")), "stale-if-error")
        if -stored.left_s(now_s) > (most_s if said_s is None else min(said_s, most_s)):
            return None
        return self._ready(stored, CacheUse.STALE, f"fwd={self._why}{detail}; detail=stale-if-error")

    def _refreshed(self, said: Headers, shown: Headers) -> Ready:
        """What we have, with what a 304 says anew of it (section 4.3.4)."""
        stored = self._stored
        if stored is None or not freshness.is_same(stored.said, said):
            self._cache.drop(self.asked)
            raise ValueError("a 304 that speaks of something else than was asked about")
        stored = self._timed(replace(stored, said=_renewed(stored.said, said), shown=_renewed(stored.shown, shown)))
        if self._may_keep(stored.status, stored.said):
            self._keeping = stored
        else:
            self._cache.drop(self.asked)
        return self._ready(stored, CacheUse.REVALIDATED, f"fwd={self._why}; fwd-status=304")

    def _note(self, status: int, said: Headers, shown: dict[str, str]) -> None:
        """Begin to keep an answer that goes on, if it may be kept."""
        how = f"fwd={self._why}"
        if self.asked.method == "GET" and self._may_keep(status, said) and _has_an_end(said):
            names = freshness.selecting(said) or ()
            selecting = {name: self.asked.sent.get(name) for name in names}
            stored = Stored(status, dict(shown), said, b"", selecting, 0.0, 0.0, 0.0, self.asked.request_id)
            self._keeping = self._timed(stored)
            how += "; stored"
        elif self._stored is not None and status < 500:
            self._cache.drop(self.asked)  # what we have holds no longer
        if "age" in said and said["age"].isdigit():
            shown["age"] = said["age"]
        shown["cache-status"] = f"{_NAME}; {how}"

    def _may_keep(self, status: int, said: Headers) -> bool:
        may = freshness.may_be_stored(status, said, is_credentialed=bool(self.asked.credential))
        return may and "no-store" not in self._wishes

    def _timed(self, stored: Stored) -> Stored:
        clocks = self._cache.clocks
        now_s = clocks.since_the_epoch()
        return replace(
            stored,
            age_s=freshness.initial_age_s(stored.said, self._began_s, now_s),
            lifetime_s=freshness.lifetime_s(stored.said, now_s),
            kept_at_s=clocks.steady(),
        )

    def _ready(self, stored: Stored, use: CacheUse, how: str) -> Ready:
        age_s = int(stored.age_at(self._cache.clocks.steady()))
        headers = {**stored.shown, "age": str(age_s), "cache-status": f"{_NAME}; {how}"}
        cached = Cached(use, stored.source, age_s)
        if stored.status == 200 and freshness.is_known_by(self.asked.said, stored.said):
            without = {name: value for name, value in headers.items() if name not in _OF_ONE_BODY}
            return Ready(304, without, b"", cached)
        return Ready(stored.status, headers, b"" if self.asked.method == "HEAD" else stored.body, cached)


def _is_selected(stored: Stored, asked: Asked) -> bool:
    return all(asked.sent.get(name) == value for name, value in stored.selecting.items())


def _has_an_end(said: Headers) -> bool:
    """Whether it can be told that a body came whole (RFC 9112 section 8)."""
    return "content-length" in said or "transfer-encoding" in said


def _renewed(headers: Headers, anew: Headers) -> dict[str, str]:
    """Headers of a kept answer with those of a 304 in their place; its age counts from the 304 on."""
    kept = {name: value for name, value in headers.items() if name not in ("age", "date")}
    return {**kept, **{name: value for name, value in anew.items() if name not in _OF_ONE_BODY}}


def _place(path: str) -> str:
    return path.partition("?")[0]


def _length_of(headers: Headers) -> int:
    return sum(len(name) + len(value) for name, value in headers.items())
