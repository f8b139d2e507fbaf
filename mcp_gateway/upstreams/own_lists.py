"""What an upstream lists to each person who has a login of their own there: asked for with that login, kept, bounded.

A list belongs to its owner and is shown to nobody else. It is asked for when an agent of theirs lists, again once the
upstream has said that something changed or after a while; meanwhile the old one serves. Kept over a restart, with the
list that those see who have no login, and dropped when the login is over. Knows nothing of pins and of how logins work.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import anyio
import anyio.to_thread

from mcp_gateway import jsonrpc
from mcp_gateway.domain import Caller, Credential, Listing
from mcp_gateway.errors import BadRequest, GatewayError, StoreUnavailable, UpstreamError
from mcp_gateway.storage.lists import ListRow, ListStore
from mcp_gateway.upstreams.managed import ManagedUpstream

MAX_LISTS: Final = 2_000
MAX_BYTES: Final = 256 * 1024 * 1024
"""Of all lists together, as JSON. The one that was used least recently gives way."""

WAIT_S: Final = 5.0
"""How long lists wait for a person's own one that nobody has asked for yet, from when it is asked for."""

REFRESH_S: Final = 300.0
CHANGED_S: Final = 1.0
"""How old a list is before it is asked for again: usually, and once its upstream has said that something changed."""

FAILED_S: Final = 30.0
NOBODY_S: Final = 2.0
"""How long to leave it alone where the upstream gave none, or there is no login."""

WRITE_EVERY_S: Final = 0.5

_log: Final = logging.getLogger(__name__)

Key = tuple[str, str]
"""Upstream and owner."""


@dataclass(slots=True, eq=False)
class OwnList:
    """One owner's list at one upstream."""

    listing: Listing
    reached: str
    size: int
    is_first: bool
    """Whether it is the first one that is known of them."""
    fetched_at: float = float("-inf")
    """On the loop's clock; before all time: it is from an earlier run."""
    changes: int = 0
    """What the upstream's count of changes was."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the lists need of others."""

    upstreams: Callable[[], Mapping[str, ManagedUpstream]]
    owner: Callable[[Caller, str], str]
    """Whose login a caller's calls to an upstream go out with."""
    credential: Callable[[Caller, str], Awaitable[Credential | None]]
    """Their credential; None where they have no login there, or it is of no use now. Raises `GatewayError`."""
    on_change: Callable[[str], None]
    """Called with an upstream's name when somebody's list of it is another."""


class OwnLists:
    """Belongs to the event loop."""

    def __init__(self, store: ListStore, around: Surroundings) -> None:
        self.version = 0
        """Another one after every change of any list."""
        self._store, self._around = store, around
        self._reached: dict[str, str] = {}
        self._own: dict[Key, OwnList] = {}
        self._bytes = 0
        self._fetching: dict[Key, tuple[asyncio.Task[None], float]] = {}
        """With the time at which it began."""
        self._not_before: dict[Key, float] = {}
        self._waiting: dict[Key, Caller] = {}
        self._unwritten: dict[Key, ListRow | None] = {}
        self._shared: dict[str, Listing] = {}
        self._is_dirty = asyncio.Event()

    @property
    def upstreams(self) -> Collection[str]:
        """Those whose lists differ by person; mostly none."""
        return self._reached

    def apply(self, upstreams: Mapping[str, str | None]) -> None:
        """Keep lists of these upstreams from now on: name and URL."""
        self._reached = {name: hashlib.sha256((url or "").encode()).hexdigest()[:16] for name, url in upstreams.items()}
        for key, own in list(self._own.items()):
            if self._reached.get(key[0]) != own.reached:
                self._drop(key)

    async def recall(self) -> None:
        """Take up what an earlier run has kept."""
        if not self._reached:
            return
        try:
            rows = await anyio.to_thread.run_sync(self._store.all)
        except StoreUnavailable as e:
            _log.error("lists kept by an earlier run cannot be used: %s", e)
            return
        for row in rows:
            listing = _read(row)
            if listing is None or row.reached != self._reached.get(row.upstream):
                continue
            if row.owner:
                self._put((row.upstream, row.owner), OwnList(listing, row.reached, len(row.listing), is_first=False))
            elif (upstream := self._around.upstreams().get(row.upstream)) is not None and upstream.listing is None:
                self._shared[row.upstream] = upstream.listing = listing

    def of(self, caller: Caller) -> list[tuple[str, str, OwnList]]:
        """The lists of a caller's owner, with the names of upstream and owner; none of upstreams not listed to them."""
        keys = ((name, self._around.owner(caller, name)) for name in self._reached)
        return [(*key, own) for key in keys if (own := self._own.get(key)) is not None]

    async def prepare(self, caller: Caller) -> None:
        """Have this caller's own lists, if they can be had in a moment."""
        waits = [task for name in self._reached if (task := self._due(caller, name)) is not None]
        if waits:
            await asyncio.wait(waits, timeout=WAIT_S)

    def note_login(self, upstream: str) -> None:
        """Somebody has logged in to an upstream: whoever was seen to have no login there may have one now."""
        for key, caller in list(self._waiting.items()):
            if key[0] == upstream:
                self._not_before.pop(key, None)
                self._due(caller, upstream)

    def note_shared(self, upstream: str, listing: Listing | None) -> None:
        """What those see who have no login of their own."""
        if upstream in self._reached and listing is not None and self._shared.get(upstream) is not listing:
            self._shared[upstream] = listing
            self._write((upstream, ""), listing)

    async def keep(self) -> None:
        """Keep the file up to date until cancelled."""
        try:
            while True:
                await self._is_dirty.wait()
                self._is_dirty.clear()
                await self._flush()
                await asyncio.sleep(WRITE_EVERY_S)
        finally:
            for task, _ in self._fetching.values():
                task.cancel()
            with anyio.CancelScope(shield=True):
                await self._flush()
                self._store.close()

    def _due(self, caller: Caller, name: str) -> asyncio.Task[None] | None:
        """The search that a caller has to wait for; None: there is a list, or there is none to be had now."""
        key = (name, self._around.owner(caller, name))
        own, now = self._own.get(key), asyncio.get_running_loop().time()
        if own is not None and not self._is_stale(name, own, now):
            return None
        if key not in self._fetching and now < self._not_before.get(key, 0.0):
            return None
        task, began_at = self._fetching.get(key) or self._begun(key, caller, now)
        has_none = own is None or own.fetched_at < 0
        # An upstream that hangs costs the first lists a moment, and not each of them.
        return task if has_none and now < began_at + WAIT_S else None

    def _begun(self, key: Key, caller: Caller, now: float) -> tuple[asyncio.Task[None], float]:
        task = asyncio.create_task(self._fetch(key, caller))
        task.add_done_callback(lambda _: self._fetching.pop(key, None))
        self._fetching[key] = task, now
        return task, now

    def _is_stale(self, name: str, own: OwnList, now: float) -> bool:
        upstream, age_s = self._around.upstreams().get(name), now - own.fetched_at
        has_changed = upstream is not None and upstream.changes != own.changes
        return age_s > (CHANGED_S if has_changed else max(REFRESH_S, own.listing.ttl_ms / 1000))

    async def _fetch(self, key: Key, caller: Caller) -> None:
        upstream = self._around.upstreams().get(key[0])
        known = self._own.get(key)
        try:
            credential = await self._around.credential(caller, key[0])
            if credential is None or upstream is None:
                self._note_nobody(key, caller)
                return
            changes = upstream.changes
            listing = await upstream.listed_for(credential, None if known is None else known.listing)
        except (GatewayError, UpstreamError) as e:
            self._wait(key, FAILED_S)
            _log.warning("upstream %s: the list of %s cannot be had now: %s", *key, e)
            return
        self._waiting.pop(key, None)
        now = asyncio.get_running_loop().time()
        if known is not None and known.listing == listing:
            known.fetched_at, known.changes = now, changes
            return
        content = _written(listing)
        self._put(key, OwnList(listing, self._reached.get(key[0], ""), len(content), known is None, now, changes))
        self._write(key, listing, content)
        self._around.on_change(key[0])

    def _note_nobody(self, key: Key, caller: Caller) -> None:
        self._wait(key, NOBODY_S)
        if len(self._waiting) >= MAX_LISTS:
            self._waiting.pop(next(iter(self._waiting)))
        self._waiting[key] = replace(caller, token="")
        if key in self._own:
            self._drop(key)
            self._around.on_change(key[0])

    def _wait(self, key: Key, wait_s: float) -> None:
        if len(self._not_before) >= MAX_LISTS:
            self._not_before.pop(next(iter(self._not_before)))
        self._not_before[key] = asyncio.get_running_loop().time() + wait_s

    def _put(self, key: Key, own: OwnList) -> None:
        self._forget(key)
        self._own[key] = own
        self._bytes += own.size
        while len(self._own) > MAX_LISTS or (self._bytes > MAX_BYTES and len(self._own) > 1):
            self._forget(next(iter(self._own)))
        self.version += 1

    def _drop(self, key: Key) -> None:
        self._forget(key)
        self._unwritten[key] = None
        self._is_dirty.set()
        self.version += 1

    def _forget(self, key: Key) -> None:
        own = self._own.pop(key, None)
        self._bytes -= 0 if own is None else own.size

    def _write(self, key: Key, listing: Listing, content: bytes = b"") -> None:
        content = content or _written(listing)
        self._unwritten[key] = ListRow(*key, self._reached.get(key[0], ""), content, time.time())
        self._is_dirty.set()

    async def _flush(self) -> None:
        pending, self._unwritten = self._unwritten, {}
        if not pending:
            return
        rows = [row for row in pending.values() if row is not None]
        gone = [key for key, row in pending.items() if row is None]
        try:
            await anyio.to_thread.run_sync(self._store.put, rows, gone)
        except StoreUnavailable as e:
            _log.error("lists cannot be kept over a restart: %s", e)


def _written(listing: Listing) -> bytes:
    plain = {each.name: getattr(listing, each.name) for each in fields(Listing)}
    mappings = {"capabilities": dict(listing.capabilities), "notes": dict(listing.notes)}
    return jsonrpc.dump({**plain, **mappings, "extensions": sorted(listing.extensions)})


def _read(row: ListRow) -> Listing | None:
    """The listing of a row; None where it is not one."""
    try:
        plain: Any = jsonrpc.parse(row.listing)
        lists = {name: tuple(plain[name]) for name in ("tools", "prompts", "resources", "templates", "problems")}
        return Listing(**{**plain, **lists, "extensions": frozenset(plain["extensions"]), "upstream": row.upstream})
    except (BadRequest, KeyError, TypeError) as e:
        _log.error("a list of %s kept by an earlier run cannot be used: %s", row.upstream, type(e).__name__)
        return None
