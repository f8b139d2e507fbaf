"""The catalog as each caller gets it, where upstreams list something else to each person."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final

from mcp_gateway import jsonrpc
from mcp_gateway.catalog.catalog import Catalog
from mcp_gateway.catalog.pinbook import PinBook
from mcp_gateway.catalog.pins import Trust
from mcp_gateway.config.lock import Lock
from mcp_gateway.domain import Caller, Listing
from mcp_gateway.upstreams.own_lists import OwnLists

MAX_CATALOGS: Final = 64
"""People who are listed the same share one."""

MAX_CALLERS: Final = 10_000

Who = tuple[str, str | None, object]
"""Agent, person and the person's issuer."""

Lists = tuple[tuple[str, str], ...]
"""Upstreams that list something else than to everybody, each with a digest of that."""


class OwnCatalogs:
    """Implements `gateway.Own` for one snapshot; made of the lists as they are when somebody asks."""

    def __init__(
        self,
        shared: Catalog,
        listings: Mapping[str, Listing],
        lists: OwnLists,
        pins: PinBook,
        trust: Mapping[str, Trust],
        build: Callable[[Mapping[str, Listing]], Catalog],
        completed: Callable[[Listing], Listing] = lambda listing: listing,
    ) -> None:
        """`listings`: what `shared` was built of; `build` makes a catalog of others in their place; `completed`: one
        person's list with what of it is the gateway's own, behind the pins."""
        self._completed = completed
        self._shared, self._listings, self._lists = shared, listings, lists
        self._pins, self._trust, self._build = pins, trust, build
        self._seen: tuple[int, Lock] = (-1, pins.lock)
        self._by_caller: dict[Who, Lists] = {}
        self._by_lists: dict[Lists, Catalog] = {(): shared}
        self._digests: dict[int, tuple[Listing, str]] = {}

    async def prepare(self, caller: Caller) -> None:
        """Have this caller's own lists, if they can be had in a moment."""
        await self._lists.prepare(caller)

    def catalog(self, caller: Caller) -> Catalog:
        """What exists for this caller; the shared catalog for those who have no list of their own."""
        if self._seen[0] != self._lists.version or self._seen[1] is not self._pins.lock:
            self._by_caller.clear()
            self._digests.clear()
        who = (caller.agent, caller.person, caller.claims.get("iss") if caller.person else None)
        lists = self._by_caller.get(who)
        found = None if lists is None else self._by_lists.get(lists)
        if found is None:
            if len(self._by_caller) >= MAX_CALLERS:
                self._by_caller.clear()
                self._digests.clear()
            self._by_caller[who], found = self._made(caller)
        self._seen = self._lists.version, self._pins.lock
        return found

    def differs(self, upstream: str) -> bool:
        """Whether an upstream may list something else to each person."""
        return upstream in self._lists.upstreams

    def is_of(self, shared: Catalog) -> bool:
        """Whether these are still the ones that go with a catalog."""
        return self._shared is shared

    def _made(self, caller: Caller) -> tuple[Lists, Catalog]:
        own: dict[str, Listing] = {}
        for name, owner, each in self._lists.of(caller):
            trust = self._trust.get(name, "first-use")
            sifted = self._pins.sift_own(owner, each.listing, trust, is_new=each.is_first)
            own[name] = self._completed(sifted.listing)
        differing = {name: listing for name, listing in own.items() if not self._is_shared(listing)}
        key = tuple(sorted((name, self._digest(listing)) for name, listing in differing.items()))
        found = self._by_lists.pop(key, None) or self._build({**self._listings, **differing})
        if len(self._by_lists) >= MAX_CATALOGS:
            self._by_lists.pop(next(iter(self._by_lists)))
        self._by_lists[key] = found  # the last one is the one that was made or asked for last
        return key, found

    def _is_shared(self, listing: Listing) -> bool:
        shared = self._listings.get(listing.upstream)
        return shared is not None and self._digest(shared) == self._digest(listing)

    def _digest(self, listing: Listing) -> str:
        known = self._digests.get(id(listing))
        if known is None:
            parts = [listing.tools, listing.prompts, listing.resources, listing.templates]
            known = self._digests[id(listing)] = listing, sha256(jsonrpc.dump(parts)).hexdigest()
        return known[1]
