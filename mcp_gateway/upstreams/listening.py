"""The one `subscriptions/listen` a modern upstream holds for us: changed lists, resources and wire tasks agents watch.

A stream's wishes are fixed when it is opened, so it is opened anew when what is wanted changes: soon, but not for every
single change, and the old one is closed only when the new one is acknowledged, so that nothing falls between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from mcp_gateway.domain import Json
from mcp_gateway.errors import UpstreamError
from mcp_gateway.revisions import WIRE_TASKS
from mcp_gateway.upstreams.backoff import Backoff
from mcp_gateway.upstreams.connection import Connection
from mcp_gateway.upstreams.watch import ANSWER_WAIT_S, Watch

LISTEN_FIRST_WAIT_S: Final = 1.0
LISTEN_MOST_WAIT_S: Final = 60.0
LONG_ENOUGH_S: Final = 30.0
"""A stream that lived so long ended for its own reasons; a shorter one is not worth hurrying for."""

REOPEN_AFTER_S: Final = 0.02
REOPEN_GAP_S: Final = 0.25
"""What is wanted changes with every agent that comes and goes; four new streams a second are enough."""


@dataclass(eq=False, slots=True)
class _Stream:
    """One `subscriptions/listen` and what became of it."""

    kinds: Mapping[str, bool]
    uris: frozenset[str]
    opened_at: float
    tasks: frozenset[str] = frozenset()
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    honoured: frozenset[str] | None = None
    """Of `uris`, what the server acknowledged; None until it has."""
    is_over: bool = False
    is_refused: bool = False

    @property
    def is_answered(self) -> bool:
        return self.is_over or self.honoured is not None

    @property
    def notifications(self) -> Json:
        resources = {"resourceSubscriptions": sorted(self.uris)} if self.uris else {}
        return {**self.kinds, **resources, **({"taskIds": sorted(self.tasks)} if self.tasks else {})}


class Listening:
    """Keeps one modern connection listening; made for each connection.

    `on_gap` is called when lists may have changed without anybody being told.
    """

    def __init__(self, watch: Watch, connection: Connection, on_gap: Callable[[], None]) -> None:
        self._watch = watch
        self._connection = connection
        self._on_gap = on_gap
        self._kinds = changes_announced(connection.greeting.capabilities)
        self._backoff = Backoff(LISTEN_FIRST_WAIT_S, LISTEN_MOST_WAIT_S)
        self._newest: _Stream | None = None
        self._current: _Stream | None = None
        self._has_gap = False
        self._tells_tasks = WIRE_TASKS in connection.greeting.extensions

    @property
    def _tasks(self) -> frozenset[str]:
        return self._watch.tasks if self._tells_tasks else frozenset()

    def note_acknowledged(self, params: Json) -> None:
        """The server has taken the newest stream (`notifications/subscriptions/acknowledged`)."""
        notifications = params.get("notifications")
        if self._newest is not None and self._newest.honoured is None and isinstance(notifications, dict):
            honoured = notifications.get("resourceSubscriptions")
            named = {uri for uri in honoured if isinstance(uri, str)} if isinstance(honoured, list) else set()
            self._newest.honoured = self._newest.uris & named
            self._watch.stir()

    async def keep(self) -> None:
        """Listen for as long as the connection lives."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self._until_wanted()
                stream = await self._opened(tasks)
                if self._has_gap:
                    self._on_gap()
                if stream.is_refused:
                    self._take_refusal(stream)
                elif not stream.is_over:
                    self._take_up(stream)
                await self._until_needed(stream)

    async def _until_wanted(self) -> None:
        if self._is_nothing_wanted():
            self._close_current()
            await self._watch.until(lambda: not self._is_nothing_wanted())

    def _is_nothing_wanted(self) -> bool:
        return not (self._kinds or self._watch.obtainable or self._tasks)

    async def _opened(self, tasks: TaskGroup) -> _Stream:
        """A new stream that was acknowledged, refused or ended; silence is taken for a yes."""
        stream = self._newest = _Stream(self._kinds, self._watch.obtainable, anyio.current_time(), self._tasks)
        tasks.start_soon(self._hold, stream)
        await self._watch.until(lambda: stream.is_answered, ANSWER_WAIT_S)
        return stream

    async def _hold(self, stream: _Stream) -> None:
        with stream.scope:
            try:
                await self._connection.listen(stream.notifications)
            except LookupError:
                stream.is_refused = stream.honoured is None and stream is not self._current
            except UpstreamError:
                self._watch.dropped["stream"] += 1
        stream.is_over = True
        self._watch.stir()

    def _take_refusal(self, stream: _Stream) -> None:
        """Ask for less next time: not for what is new in this stream, or if it was only lists, not for those."""
        if stream.tasks:  # news of them are a favour (SEP-2663); whoever asks for them must not lose the rest
            self._tells_tasks = False
            self._watch.stir()
            return
        kept = self._current.uris if self._current is not None else frozenset()
        self._watch.refused |= stream.uris - kept
        if not stream.uris:
            self._kinds = {}
        self._watch.stir()

    def _take_up(self, stream: _Stream) -> None:
        """Go on with a new stream; the one before it is not needed any more."""
        if stream.honoured is not None:
            self._watch.refused |= (stream.uris - stream.honoured) & self._watch.wanted
            stream.uris = stream.honoured
        self._close_current()
        self._current = stream
        self._watch.asked |= stream.uris
        self._has_gap = False
        self._watch.make_good()
        self._watch.stir()

    def _close_current(self) -> None:
        if self._current is not None:
            self._current.scope.cancel()
            self._current = None
            self._watch.asked.clear()

    async def _until_needed(self, tried: _Stream) -> None:
        """Wait until another stream is needed, and then as long as another attempt has to wait."""
        current = self._current
        if tried.is_over and not tried.is_refused:
            await self._back_off(tried)
        elif current is not None:
            fitting = ((tried.uris, tried.tasks), (current.uris, current.tasks))
            await self._watch.until(lambda: current.is_over or (self._watch.obtainable, self._tasks) not in fitting)
            if current.is_over:
                await self._back_off(current)
            else:
                await anyio.sleep(max(REOPEN_AFTER_S, tried.opened_at + REOPEN_GAP_S - anyio.current_time()))

    async def _back_off(self, ended: _Stream) -> None:
        if self._current is None or self._current.is_over:
            self._current = None
            self._has_gap = True
            self._watch.lose()
        if anyio.current_time() - ended.opened_at > LONG_ENOUGH_S:
            self._backoff.reset()
        await anyio.sleep(self._backoff.next_s())


def changes_announced(capabilities: Mapping[str, Any]) -> dict[str, bool]:
    """The kinds of change a server says it announces, as `subscriptions/listen` names them."""
    return {
        f"{kind}ListChanged": True
        for kind in ("tools", "prompts", "resources")
        if isinstance(capabilities.get(kind), Mapping) and capabilities[kind].get("listChanged") is True
    }
