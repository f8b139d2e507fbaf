"""Answers kept in memory for a while: each for one principal only, in bounds for each of them and for all together.

Nothing here is an authorisation: whoever takes an answer out has decided before that its caller may have it. What has
not been used for longest goes first. Belongs to one event loop.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from mcp_gateway.domain import Caller

MIB: Final = 1024 * 1024
OVERHEAD_BYTES: Final = 512
"""What keeping anything takes beside its own bytes, about: small answers must not fill memory unseen."""

Owner = tuple[str, ...]
"""Whose an answer is: nobody else is ever given it."""
Kept = TypeVar("Kept")

_digest_key: Final = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept."""

    max_bytes: int = 64 * MIB
    max_bytes_each: int = 8 * MIB
    """For one principal."""
    max_entries: int = 20_000
    max_entries_each: int = 2_000

    @property
    def largest(self) -> int:
        """The most bytes that one answer may have."""
        return min(MIB, self.max_bytes_each)


@dataclass(slots=True)
class _Group:
    """What belongs together, the least recently used first."""

    places: OrderedDict[tuple[Owner, Hashable], None]
    size: int = 0


@dataclass(frozen=True, slots=True)
class _Item(Generic[Kept]):
    value: Kept
    size: int
    about: Hashable


class Cache(Generic[Kept]):
    """What is kept, by whose it is and what it answers."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._items: OrderedDict[tuple[Owner, Hashable], _Item[Kept]] = OrderedDict()
        self._owners: dict[Owner, _Group] = {}
        self._subjects: dict[Hashable, set[tuple[Owner, Hashable]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def size(self) -> int:
        """Bytes that are kept, about."""
        return self._size

    def get(self, owner: Owner, key: Hashable) -> Kept | None:
        """What is kept for this owner; it counts as used."""
        place = (owner, key)
        item = self._items.get(place)
        if item is None:
            return None
        self._items.move_to_end(place)
        self._owners[owner].places.move_to_end(place)
        return item.value

    def put(self, owner: Owner, key: Hashable, value: Kept, size: int, about: Hashable = None) -> bool:
        """Keep it in place of what was there; tells whether it is kept. `about`: what `forget` names it by."""
        place, size = (owner, key), size + OVERHEAD_BYTES
        self._drop(place)
        if size > min(self.bounds.max_bytes, self.bounds.max_bytes_each):
            return False
        group = self._owners.setdefault(owner, _Group(OrderedDict()))
        self._items[place] = _Item(value, size, about)
        group.places[place] = None
        group.size += size
        self._size += size
        self._subjects.setdefault(about, set()).add(place)
        self._make_room(group)
        return True

    def drop(self, owner: Owner, key: Hashable) -> None:
        """Keep it no longer."""
        self._drop((owner, key))

    def forget(self, about: Hashable) -> None:
        """Keep nothing more about this, whosoever it is."""
        for place in list(self._subjects.get(about, ())):
            self._drop(place)

    def forget_all(self, is_meant: Callable[[Hashable], bool]) -> None:
        """Keep nothing more about whatever is meant; looks at everything."""
        for about in [about for about in self._subjects if is_meant(about)]:
            self.forget(about)

    def _make_room(self, group: _Group) -> None:
        bounds = self.bounds
        while group.size > bounds.max_bytes_each or len(group.places) > bounds.max_entries_each:
            self._drop(next(iter(group.places)))
        while self._size > bounds.max_bytes or len(self._items) > bounds.max_entries:
            self._drop(next(iter(self._items)))

    def _drop(self, place: tuple[Owner, Hashable]) -> None:
        item = self._items.pop(place, None)
        if item is None:
            return
        owner, self._size = place[0], self._size - item.size
        group = self._owners[owner]
        group.size -= item.size
        del group.places[place]
        if not group.places:
            del self._owners[owner]
        same = self._subjects[item.about]
        same.discard(place)
        if not same:
            del self._subjects[item.about]


def owner_of(caller: Caller) -> Owner:
    """The principal an answer is kept for."""
    return (caller.agent, caller.person or "", caller.task or "", caller.started_id, caller.credential_id)


def digest_of(credential: Mapping[str, str]) -> str:
    """What tells one credential from another, and nothing of it; empty where there is none.

    What was got with one is not for whoever sends another, were it the same person with a narrower token.
    """
    if not credential:
        return ""
    sent = "\n".join(f"{name.lower()}:{value}" for name, value in sorted(credential.items()))
    # Keyed, so that nothing in memory can be held against guessed secrets.
    return hashlib.blake2b(sent.encode("utf-8", "replace"), key=_digest_key, digest_size=16).hexdigest()
