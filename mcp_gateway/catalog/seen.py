"""What callers see: each list is filtered once for all for whom that comes to the same, and each page written once.

Whom that is, is the policy's to say; it comes here as a key. Pages are found by the very targets they were made of: one
person's own targets are other objects than everybody's, equal or not, so nothing of one list ever gets into another.
Made for one snapshot, and gone with it. Pure.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from mcp_gateway import jsonrpc
from mcp_gateway.domain import Target

Targets = tuple[Target, ...]

MAX_TARGETS: Final = 1_000_000
"""On all lists that are remembered, so many; what was not asked for the longest is forgotten first."""
_EACH: Final = 64
"""What a list counts for besides its targets."""

MAX_LISTS: Final = 64
"""Different lists that are known again, whoever sees them."""

MAX_PAGES: Final = 512
MAX_BYTES: Final = 32 * 1024 * 1024
"""Of all pages together: six times a list of 5,000 tools with long descriptions. A longer page is not kept."""


class Seen:
    """Lists and pages of one snapshot, in bounds."""

    def __init__(
        self,
        max_targets: int = MAX_TARGETS,
        max_lists: int = MAX_LISTS,
        max_pages: int = MAX_PAGES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._max_targets, self._max_lists = max_targets, max_lists
        self._max_pages, self._max_bytes = max_pages, max_bytes
        self._by: dict[Hashable, Targets] = {}
        self._targets = 0
        self._lists: OrderedDict[bytes, Targets] = OrderedDict()
        self._pages: OrderedDict[tuple[int, int, int], tuple[Targets, bytes]] = OrderedDict()
        self._bytes = 0

    def by(self, key: Hashable) -> Targets | None:
        """What was kept for a key."""
        found = self._by.pop(key, None)
        if found is not None:
            self._by[key] = found  # the last one is the one that was asked for last
        return found

    def keep(self, key: Hashable, targets: Targets) -> None:
        """Have `targets` found by a key that nothing is kept for."""
        self._by[key] = targets
        self._targets += len(targets) + _EACH
        while self._targets > self._max_targets:
            self._targets -= len(self._by.pop(next(iter(self._by)))) + _EACH

    def known(self, targets: Targets) -> Targets:
        """The list of the very same targets that was seen before, or this one: of equal ones there is one object."""
        # Hashing what is in a definition would take longer than writing it. A number stands for one object as long as
        # that lives, and each list kept here keeps its targets alive.
        key = array("Q", map(id, targets)).tobytes()
        found = self._lists.setdefault(key, targets)
        self._lists.move_to_end(key)
        if len(self._lists) > self._max_lists:
            self._lists.popitem(last=False)
        return found

    def page(self, targets: Targets, start: int, end: int) -> bytes:
        """The definitions of `targets[start:end]` as a JSON array; quick to find for what came out of `known`."""
        key = (id(targets), start, end)
        found = self._pages.get(key)
        if found is not None:
            self._pages.move_to_end(key)
            return found[1]
        page = jsonrpc.dump([target.definition for target in targets[start:end]])
        self._pages[key] = targets, page  # the list too: as long as it lives, no other one has its number
        self._bytes += len(page)
        while self._bytes > self._max_bytes or len(self._pages) > self._max_pages:
            _, (_, oldest) = self._pages.popitem(last=False)
            self._bytes -= len(oldest)
        return page
