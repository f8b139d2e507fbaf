"""The pins of a running gateway: what is approved, what waits for review, and both on disk.

In force at once is what memory says; the files follow within moments, written in a thread. A first listing that cannot
be written down stays approved until the process ends, and the log says that it is not kept.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from mcp_gateway.catalog.pins import Held, Sifted, Trust, Why, by_first_use, sift, written
from mcp_gateway.config.lock import Lock, Pin, UpstreamPins, read_lock, update_lock
from mcp_gateway.domain import Json, Listing
from mcp_gateway.errors import ConfigInvalid, StoreUnavailable
from mcp_gateway.storage.held import read_held, write_held

WRITE_EVERY_S: Final = 0.5
"""An upstream that changes what it offers all the time must not keep the disk busy."""
MAX_NOTED: Final = 2_000
"""Held definitions of one upstream that get a row of their own in the audit."""
MAX_PEOPLE: Final = 1_000
"""People whose lists are remembered, and of one upstream those who may have pins of their own by first use."""

_log: Final = logging.getLogger(__name__)

Note = Callable[[str, str, Json], Awaitable[None]]
"""Writes one row of the audit: the target, why, and details."""


class PinBook:
    """Belongs to the event loop."""

    def __init__(self, lock_file: Path, state: Path, now: Callable[[], str], lock: Lock) -> None:
        self.lock = lock
        """In force."""
        self._lock_file, self._state, self._now = lock_file, state, now
        self._sifted: dict[str, tuple[Listing, UpstreamPins | None, Trust, Sifted]] = {}
        self._own: dict[tuple[str, str], tuple[Listing, UpstreamPins | None, Trust, Sifted]] = {}
        self._fresh: dict[tuple[str, str], dict[str, Pin]] = {}
        """By upstream and person, or nobody."""
        self._noted: set[tuple[str, str, str]] = set()
        self._count: Counter[str] = Counter()
        self._news: list[Held] = []
        self._written: tuple[Held, ...] | None = None
        self._is_dirty = anyio.Event()

    @property
    def held(self) -> tuple[Held, ...]:
        """Everything that waits for review now."""
        parted = (*self._sifted.values(), *self._own.values())
        return tuple(held for *_, sifted in parted for held in sifted.held)

    def sift(self, listings: Mapping[str, Listing], trust: Mapping[str, Trust]) -> Mapping[str, Sifted]:
        """Part every listing; one that is as it was is not looked at again."""
        self._sifted = {
            name: self._sift(name, listing, trust.get(name, "first-use")) for name, listing in listings.items()
        }
        self._own = {key: parted for key, parted in self._own.items() if key[0] in trust}
        self._take_note()
        return {name: sifted for name, (*_, sifted) in self._sifted.items()}

    def sift_own(self, person: str, listing: Listing, trust: Trust, *, is_new: bool) -> Sifted:
        """Part what an upstream lists to one person: judged by their own pins, and where there are none by those of
        the list that everybody gets. `is_new`: no list of theirs was known before."""
        name = listing.upstream
        pins, known = self.lock.of(name), self._own.pop((name, person), None)
        if known is None or known[0] is not listing or known[1] is not pins or known[2] != trust:
            people = {} if pins is None else pins.people
            is_first = is_new and person not in people and len(people) < MAX_PEOPLE
            sifted = sift(pins, listing, trust, self._now(), person, is_first=is_first)
            known = listing, self._approved_first(name, pins, sifted, person), trust, sifted
        self._own[name, person] = known
        if len(self._own) > MAX_PEOPLE:
            self._own.pop(next(iter(self._own)))
        self._take_note()
        return known[3]

    def reload(self) -> str:
        """Take over what servers.lock says now; tells what that changed, or nothing. Raises `ConfigInvalid`."""
        before, after = self.lock, read_lock(self._lock_file)
        after = _with_fresh(after, self._fresh)
        self.lock = after
        changes = sorted(_changes(before, after))
        return "; ".join(changes[:20]) + (f"; and {len(changes) - 20} more" if len(changes) > 20 else "")

    async def keep(self, note: Note) -> None:
        """Keep the files and the audit up to date until cancelled."""
        while True:
            await self._is_dirty.wait()
            self._is_dirty = anyio.Event()
            await self.flush(note)
            await anyio.sleep(WRITE_EVERY_S)

    async def flush(self, note: Note) -> None:
        """Write what is not written yet."""
        fresh, self._fresh = self._fresh, {}
        held, news, self._news = self.held, self._news, []
        try:
            await anyio.to_thread.run_sync(partial(self._write, fresh, held))
        except (ConfigInvalid, StoreUnavailable) as e:
            _log.error("pins cannot be kept, they hold until this process ends: %s", e)
        try:
            for each in news:
                await note(each.target, f"held back: {each.why.value}", _detail(each))
        except StoreUnavailable as e:
            _log.error("what is held back is not in the audit: %s", e)

    def _sift(self, name: str, listing: Listing, trust: Trust) -> tuple[Listing, UpstreamPins | None, Trust, Sifted]:
        pins, known = self.lock.of(name), self._sifted.get(name)
        if known is not None and known[0] is listing and known[1] is pins and known[2] == trust:
            return known
        sifted = sift(pins, listing, trust, self._now())
        return listing, self._approved_first(name, pins, sifted, ""), trust, sifted

    def _approved_first(self, name: str, pins: UpstreamPins | None, sifted: Sifted, person: str) -> UpstreamPins | None:
        """The pins with those that a first list has brought, in force from now on."""
        if not sifted.fresh:
            return pins
        pins = by_first_use(pins, sifted.fresh, person)
        self.lock = self.lock.with_upstream(name, pins)
        self._fresh.setdefault((name, person), {}).update(sifted.fresh)
        return pins

    def _take_note(self) -> None:
        held = self.held
        for each in held:
            seen = (each.upstream, each.key, each.sha256)
            if seen not in self._noted and self._count[each.upstream] < MAX_NOTED:
                self._noted.add(seen)
                self._count[each.upstream] += 1
                self._news.append(each)
                _log.warning("%s is held back (%s): mcp-gateway pins diff", ascii(each.target), each.why.value)
        if self._fresh or self._news or held != self._written:
            self._is_dirty.set()

    def _write(self, fresh: Mapping[tuple[str, str], Mapping[str, Pin]], held: tuple[Held, ...]) -> None:
        if fresh:
            update_lock(self._lock_file, lambda lock: _with_fresh(lock, fresh))
        if held != self._written:
            write_held(self._state, [asdict(each) for each in held])
            self._written = held


def held_now(state: Path) -> tuple[Held, ...]:
    """What a running gateway held back when it last looked. Raises `StoreUnavailable`."""
    return tuple(
        Held(
            str(entry["upstream"]),
            str(entry["key"]),
            str(entry["sha256"]),
            Why(entry["why"]),
            entry["definition"],
            tuple(entry["signals"]),
            str(entry["like"]),
            str(entry["person"]),
        )
        for entry in read_held(state)
    )


def _with_fresh(lock: Lock, fresh: Mapping[tuple[str, str], Mapping[str, Pin]]) -> Lock:
    for (name, person), pins in fresh.items():
        lock = lock.with_upstream(name, by_first_use(lock.of(name), pins, person))
    return lock


def _changes(before: Lock, after: Lock) -> list[str]:
    """What is approved now and was not, and the other way round."""
    then, now = _approved(before), _approved(after)
    told = [f"approved {written(up, key)} {sha256[:8]}" for up, key, person, sha256 in now - then]
    still = {(up, key, person) for up, key, person, _ in now}
    return told + [f"taken back {written(up, key)}" for up, key, person, _ in then if (up, key, person) not in still]


def _approved(lock: Lock) -> set[tuple[str, str, str, str]]:
    found = set()
    for name, upstream in lock.upstreams.items():
        for person, pins in (("", upstream.pins), *upstream.people.items()):
            found |= {(name, key, person, pin.sha256) for key, pin in pins.items()}
    return found


def _detail(held: Held) -> Json:
    detail: Json = {"sha256": held.sha256, "why": held.why.value, "signals": list(held.signals)}
    return {**detail, "like": held.like} if held.like else detail
