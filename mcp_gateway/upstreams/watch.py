"""Which resources of one upstream agents want to hear of, and asking a legacy server for exactly those.

A `Watch` outlives connections: each new one is asked anew, one resource at a time here (`resources/subscribe`), all in
one stream where the server is modern (`listening`). Who the agents are is not known here.

What changed while nobody listened cannot be known. So once it listens again, every watched resource is said to have
changed: agents then read once too often, never too seldom.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import anyio

from mcp_gateway.domain import Json, RpcError, UpstreamRequest
from mcp_gateway.errors import UpstreamError
from mcp_gateway.upstreams.backoff import Backoff
from mcp_gateway.upstreams.connection import SILENT, Connection

ANSWER_WAIT_S: Final = 5.0
"""How long a server may take to say yes or no to being watched, before it is taken to be willing."""

ASKED_AT_ONCE: Final = 16
RETRY_FIRST_S: Final = 1.0
RETRY_MOST_S: Final = 60.0

MAX_URI_CHARS: Final = 8192


class Watch:
    """What is wanted of one upstream, what it was asked for, and what it refused."""

    def __init__(self, on_updated: Callable[[str], None], dropped: Counter[str]) -> None:
        self.wanted: frozenset[str] = frozenset()
        self.tasks: frozenset[str] = frozenset()
        """The wire tasks that are followed; only modern upstreams have any."""
        self.asked: set[str] = set()
        """What the live connection's server has agreed to announce."""
        self.refused: set[str] = set()
        """What it has not; a subset of what is wanted."""
        self.is_forgotten = False
        """Whether the server has forgotten what it was asked."""
        self.dropped = dropped
        self._on_updated = on_updated
        self._missed: set[str] = set()
        self._wanted_by: dict[object, frozenset[str]] = {}
        self._tasks_of: dict[object, frozenset[str]] = {}
        self._is_capable = True
        self._is_live = False
        self._stirred = anyio.Event()

    @property
    def obtainable(self) -> frozenset[str]:
        """What is wanted and was not refused."""
        return self.wanted - self.refused if self._is_capable else frozenset()

    def want(self, uris: frozenset[str], asker: object = None) -> None:
        """See `domain.Upstream.watch`; what several want is wanted together."""
        uris = _together(self._wanted_by, asker, uris)
        if uris != self.wanted:
            self.wanted = uris
            self.refused &= uris
            self._missed &= uris
            self.stir()

    def follow(self, task_ids: frozenset[str], asker: object = None) -> None:
        """See `domain.Upstream.follow`."""
        task_ids = _together(self._tasks_of, asker, task_ids)
        if task_ids != self.tasks:
            self.tasks = task_ids
            self.stir()

    async def declined(self, uris: frozenset[str]) -> frozenset[str]:
        """See `domain.Upstream.declined`."""
        if not self._is_capable:
            return uris

        def is_answered() -> bool:
            return not self._is_live or uris & self.wanted <= self.asked | self.refused

        await self.until(is_answered, ANSWER_WAIT_S)
        return uris & self.refused

    @contextmanager
    def over(self, capabilities: Mapping[str, Any]) -> Iterator[None]:
        """A connection is live, to a server that says it can do this."""
        resources = capabilities.get("resources")
        self._is_capable = isinstance(resources, Mapping) and resources.get("subscribe") is True
        self.refused.clear()
        self._is_live = True
        self.stir()
        try:
            yield
        finally:
            self._is_live = False
            self.lose()
            self.stir()

    def lose(self) -> None:
        """Nobody listens any more to what was asked for."""
        self._missed |= self.asked & self.wanted
        self.asked.clear()

    def make_good(self) -> None:
        """Somebody listens again: say of all that could have changed meanwhile that it did."""
        missed, self._missed = self._missed, set()
        for uri in sorted(missed):
            self._on_updated(uri)

    def note_updated(self, params: Json) -> None:
        """The upstream says that a resource changed (`notifications/resources/updated`)."""
        uri = params.get("uri")
        if isinstance(uri, str) and len(uri) <= MAX_URI_CHARS and self.wanted:
            self._on_updated(uri)
        else:
            self.dropped["update"] += 1

    def note_gap(self, is_forgotten: bool) -> None:
        """Nobody listened for a while; `is_forgotten`: and the server does not know any more what it was asked."""
        if is_forgotten:
            self.is_forgotten = True
            self.stir()
        else:
            self._missed |= self.asked & self.wanted
            self.make_good()

    def stir(self) -> None:
        """Something of this is another: wake whoever waits for that."""
        stirred, self._stirred = self._stirred, anyio.Event()
        stirred.set()

    async def until(self, is_so: Callable[[], bool], within_s: float | None = None) -> None:
        """Wait until a condition on this holds, or the time is over."""
        with anyio.move_on_after(within_s):
            while not is_so():
                await self._stirred.wait()


def _together(wanted_by: dict[object, frozenset[str]], asker: object, wanted: frozenset[str]) -> frozenset[str]:
    """What everybody wants, now that one wants this."""
    wanted_by[asker] = wanted
    if not wanted:
        del wanted_by[asker]
    return frozenset[str]().union(*wanted_by.values())


async def keep_subscribed(watch: Watch, connection: Connection) -> None:
    """Keep a legacy server subscribed to what is wanted, for as long as its connection lives."""
    backoff = Backoff(RETRY_FIRST_S, RETRY_MOST_S)
    while True:
        await watch.until(lambda: watch.is_forgotten or watch.asked != watch.obtainable)
        if watch.is_forgotten:
            watch.is_forgotten = False
            watch.lose()
        try:
            await _ask_for_each(watch, connection, "resources/unsubscribe", watch.asked - watch.obtainable)
            await _ask_for_each(watch, connection, "resources/subscribe", watch.obtainable - watch.asked)
        except UpstreamError:
            watch.dropped["subscription"] += 1
            await anyio.sleep(backoff.next_s())
        else:
            backoff.reset()
            watch.make_good()


async def _ask_for_each(watch: Watch, connection: Connection, method: str, uris: frozenset[str] | set[str]) -> None:
    """Ask for each resource, a few at once. Raises the first `UpstreamError`, and then asks no more."""
    unasked, failures = deque(sorted(uris)), list[UpstreamError]()

    async def ask_in_turn() -> None:
        while unasked:
            uri = unasked.popleft()
            try:
                answer = await connection.ask(UpstreamRequest(method, {"uri": uri}), SILENT, ANSWER_WAIT_S)
            except UpstreamError as e:
                failures.append(e)
                unasked.clear()
            else:
                _note_answer(watch, method, uri, is_yes=not isinstance(answer, RpcError))

    async with anyio.create_task_group() as tasks:
        for _ in range(min(ASKED_AT_ONCE, len(unasked))):
            tasks.start_soon(ask_in_turn)
    if failures:
        raise failures[0]


def _note_answer(watch: Watch, method: str, uri: str, *, is_yes: bool) -> None:
    if method == "resources/unsubscribe":
        watch.asked.discard(uri)
    elif is_yes:
        watch.asked.add(uri)
    elif uri in watch.wanted:
        watch.refused.add(uri)
    watch.stir()
