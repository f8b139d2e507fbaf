"""Who wants to hear that a resource changed, what upstreams are therefore watched for, and telling those who may know.

Subscribing is decided, and written down, like reading. Telling is decided again each time: an agent whose policy,
task or key no longer lets it read a resource is not told of it either. A resource is watched as long as anybody is
subscribed to it, and told of only by the upstream whose it is.

An upstream may announce a sub-resource of what was subscribed to (schema, `ResourceUpdatedNotification`): it is told to
those subscribed to what stands above it, if they may read the sub-resource itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Final

from mcp_gateway.domain import Caller, Kind, Request, Target, Verb
from mcp_gateway.errors import BadRequest, NotAvailable, OverLimit
from mcp_gateway.frontdoor.subscriber import Likeness, Subscriber
from mcp_gateway.gateway import Gateway

UPDATED: Final = "notifications/resources/updated"

MAX_URIS: Final = 20_000
MAX_URIS_PER_AGENT: Final = 1_000
"""Subscriptions to resources, over all streams and sessions."""

DECIDED_AT_ONCE: Final = 50
"""Of what one agent asks for: each is an entry of the audit, whose queue is everybody's."""

MAX_MISSED: Final = 2_000
MAX_PENDING: Final = 20_000
"""Changes waiting to be told. There can be more of them than subscriptions: sub-resources."""

MAX_DEPTH: Final = 32
"""How far above a sub-resource a subscription to it is looked for."""

GATHER_S: Final = 0.02
"""How long changes are gathered before they are told."""

SHARE: Final = 10
"""After telling, the process does something else for at least so many times as long: an upstream may flood us."""


class Updates:
    """All subscriptions to resources of one gateway process."""

    def __init__(self, gateway: Gateway, new_request_id: Callable[[], str]) -> None:
        self.dropped: Counter[str] = Counter()
        """What upstreams announced and nobody was told, by reason."""
        self._gateway = gateway
        self._new_request_id = new_request_id
        self._subscribers_of: dict[str, set[Subscriber]] = {}
        self._upstream_of: dict[str, str] = {}
        self._watched: defaultdict[str, set[str]] = defaultdict(set)
        self._outdated: set[str] = set()
        self._count_of: Counter[str] = Counter()
        self._version = ""
        self._pending: dict[tuple[str, str], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._gap_s = GATHER_S

    @property
    def count(self) -> int:
        """How many subscriptions there are."""
        return self._count_of.total()

    async def subscribe(self, caller: Caller, request: Request, subscriber: Subscriber) -> None:
        """Tell a subscriber of one resource from now on.

        Raises `NotAvailable` for what it may not read, `OverLimit`, and `BadRequest` for a resource whose changes its
        upstream does not announce.
        """
        if not self._has_room(subscriber):
            raise OverLimit(f"at most {MAX_URIS_PER_AGENT} subscriptions to resources")
        await self._gateway.subscribe(caller, request)
        is_new = self._add(subscriber, request.name)
        is_promised = False
        try:
            is_promised = not await self._declined([request.name])
        finally:
            if not is_promised and is_new:  # or the agent has given it up
                self.unsubscribe(subscriber, request.name)
        if not is_promised:
            raise BadRequest("the upstream of this resource does not announce its changes")

    async def subscribe_all(
        self, caller: Caller, request: Request, uris: Iterable[str], subscriber: Subscriber
    ) -> tuple[str, ...]:
        """Tell a subscriber of each of these resources that it may; returns which, in the order they were given.

        What is not among them is unknown, forbidden, too much, or nothing that its upstream announces.
        """
        unique = list(dict.fromkeys(uris))[:MAX_URIS_PER_AGENT]
        for uri in await self._permitted(caller, request, unique):
            if self._has_room(subscriber):
                self._add(subscriber, uri)
        for uri in await self._declined(subscriber.uris):
            self.unsubscribe(subscriber, uri)
        return tuple(uri for uri in unique if uri in subscriber.uris)

    def unsubscribe(self, subscriber: Subscriber, uri: str) -> None:
        """Tell it no more of one resource; harmless when that has happened already."""
        self._remove(subscriber, uri)
        self._watch()

    def forget(self, subscriber: Subscriber) -> None:
        """It has ended."""
        subscriber.is_over = True
        for uri in list(subscriber.uris):
            self._remove(subscriber, uri)
        subscriber.missed.clear()
        self._watch()

    def resume(self, subscriber: Subscriber) -> None:
        """It listens (again): tell it what it missed, as far as it may still know."""
        subscriber.is_listening = True
        missed = list(subscriber.missed)
        subscriber.missed.clear()
        for upstream, uri in missed:
            if any(subscriber in subscribers for subscribers in self._subscribers_above(upstream, uri)):
                self._tell(subscriber, upstream, uri, {})

    def note(self, upstream: str, uri: str) -> None:
        """An upstream says that a resource changed. Quick, and never raises: upstreams may flood us."""
        if next(self._subscribers_above(upstream, uri), None) is None:
            self.dropped["nobody subscribed"] += 1
        elif len(self._pending) >= MAX_PENDING:
            self.dropped["too many at once"] += 1
        else:
            self._pending[upstream, uri] = None
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._gap_s, self._publish)

    def reroute(self) -> None:
        """The snapshot was swapped: resources may be another upstream's by now, and upstreams may be new ones."""
        now = self._gateway.snapshot
        if now.catalog.version != self._version:
            self._version = now.catalog.version
            for uri in self._subscribers_of:
                self._route(uri, now.catalog.find(Kind.RESOURCE, uri))
        self._outdated.update(now.upstreams)
        self._watch()

    async def _permitted(self, caller: Caller, request: Request, uris: Sequence[str]) -> list[str]:
        found: list[str] = []
        for start in range(0, len(uris), DECIDED_AT_ONCE):
            some = uris[start : start + DECIDED_AT_ONCE]
            answers = await asyncio.gather(*(self._is_permitted(caller, request, uri) for uri in some))
            found += [uri for uri, is_permitted in zip(some, answers, strict=True) if is_permitted]
        return found

    async def _is_permitted(self, caller: Caller, request: Request, uri: str) -> bool:
        try:
            await self._gateway.subscribe(caller, replace(request, request_id=self._new_request_id(), name=uri))
        except NotAvailable:
            return False
        return True

    def _has_room(self, subscriber: Subscriber) -> bool:
        return self._count_of[subscriber.agent] < MAX_URIS_PER_AGENT and self.count < MAX_URIS

    def _add(self, subscriber: Subscriber, uri: str) -> bool:
        """Whether it is a new one."""
        if subscriber.is_over or uri in subscriber.uris:
            return False
        subscriber.uris.add(uri)
        self._count_of[subscriber.agent] += 1
        if uri not in self._subscribers_of:
            self._subscribers_of[uri] = set()
            self._route(uri, self._gateway.snapshot.catalog.find(Kind.RESOURCE, uri))
        self._subscribers_of[uri].add(subscriber)
        return True

    def _remove(self, subscriber: Subscriber, uri: str) -> None:
        if uri not in subscriber.uris:
            return
        subscriber.uris.discard(uri)
        self._count_of[subscriber.agent] -= 1
        if not self._count_of[subscriber.agent]:
            del self._count_of[subscriber.agent]
        self._subscribers_of[uri].discard(subscriber)
        if not self._subscribers_of[uri]:
            del self._subscribers_of[uri]
            self._route(uri, None)

    def _route(self, uri: str, target: Target | None) -> None:
        """Remember whose resource this is. Upstreams know resources by the URIs that agents use (PROTOCOL 0.3)."""
        before = self._upstream_of.pop(uri, None)
        if before is not None and (target is None or target.upstream != before):
            self._watched[before].discard(uri)
            self._outdated.add(before)
        if target is not None:
            self._upstream_of[uri] = target.upstream
            self._watched[target.upstream].add(uri)
            self._outdated.add(target.upstream)

    def _watch(self) -> None:
        """Let every upstream know whose wanted resources are others than before."""
        upstreams = self._gateway.snapshot.upstreams
        for name in self._outdated & upstreams.keys():
            upstreams[name].watch(frozenset(self._watched[name]))
        for name in self._outdated:
            if not self._watched[name]:
                del self._watched[name]
        self._outdated.clear()

    async def _declined(self, uris: Iterable[str]) -> set[str]:
        """Ask upstreams for what is wanted by now, and find out which of `uris` they will not tell of."""
        self._watch()
        wanted: defaultdict[str, set[str]] = defaultdict(set)
        for uri in uris:
            if uri in self._upstream_of:
                wanted[self._upstream_of[uri]].add(uri)
        upstreams = self._gateway.snapshot.upstreams
        asked = [upstreams[name].declined(frozenset(theirs)) for name, theirs in wanted.items() if name in upstreams]
        return set[str]().union(*await asyncio.gather(*asked))

    def _subscribers_above(self, upstream: str, uri: str) -> Iterator[set[Subscriber]]:
        """The subscribers to a resource of this upstream, and to each that stands above it."""
        for place in _places_above(uri):
            if self._upstream_of.get(place) == upstream:
                yield self._subscribers_of[place]

    def _publish(self) -> None:
        """Tell what was gathered."""
        self._timer = None
        began_at = perf_counter()
        pending, self._pending = self._pending, {}
        known: dict[tuple[Likeness, str, str], bool] = {}
        for upstream, uri in pending:
            for subscriber in set[Subscriber]().union(*self._subscribers_above(upstream, uri)):
                self._tell(subscriber, upstream, uri, known)
        self._gap_s = max(GATHER_S, SHARE * (perf_counter() - began_at))

    def _tell(
        self, subscriber: Subscriber, upstream: str, uri: str, known: dict[tuple[Likeness, str, str], bool]
    ) -> None:
        if not subscriber.is_listening:
            if len(subscriber.missed) < MAX_MISSED:
                subscriber.missed[upstream, uri] = None
            else:
                self.dropped["nobody listening"] += 1
            return
        caller = subscriber.caller()
        alike = (subscriber.likeness_of(caller), upstream, uri)
        if alike not in known:
            known[alike] = self._gateway.may_hear(caller, subscription(subscriber, uri), upstream)
        if known[alike]:
            subscriber.tell_updated(uri)
        else:
            self.dropped["not allowed"] += 1


def subscription(subscriber: Subscriber, uri: str, method: str = "resources/subscribe", client: str = "") -> Request:
    """The request that a subscription to one resource is judged as."""
    return Request(
        request_id="",
        verb=Verb.SUBSCRIBE,
        method=method,
        kind=Kind.RESOURCE,
        name=uri,
        params={},
        era=subscriber.era,
        transport=subscriber.transport,
        client=client,
    )


def _places_above(uri: str) -> Sequence[str]:
    """A URI and the URIs it can be a sub-resource of, nearest first, with and without a slash at their end.

    >>> _places_above("db://a/b/1")
    ['db://a/b/1', 'db://a/b/', 'db://a/b', 'db://a/', 'db://a']
    """
    places, rest = [uri], uri.rstrip("/")
    while len(places) < 2 * MAX_DEPTH:
        rest, slash, _ = rest.rpartition("/")
        if not slash or rest.endswith(("/", ":")):
            break
        places += [f"{rest}/", rest]
    return places
