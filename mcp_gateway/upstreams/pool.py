"""All upstreams of one configuration: started side by side, kept alive, changed one by one when the file changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import NOTHING, Json, Listing, OwnCredentials, Upstream, UpstreamStatus
from mcp_gateway.upstreams.borrowed import BorrowedUpstream, Lender
from mcp_gateway.upstreams.connection import Limits, Question
from mcp_gateway.upstreams.login_tool import with_login
from mcp_gateway.upstreams.managed import ManagedUpstream, Surroundings


class Pool:
    """The upstreams behind us.

    `on_change` is called with an upstream's name whenever its state or its listing is another, and when it has left
    the configuration, `on_updated` with a name and a URI whenever an upstream says that a resource has changed,
    `on_task` with a name and what an upstream says of a wire task, `on_written` with the name of a plain API in which a
    tool may have changed something; all must be quick and must not raise. `own` has the
    credentials for our own requests, such as lists, where an upstream wants tokens. `remembered` is what was found out
    about servers (see `handshake.Memory`); hand in one that is kept to spare slow probes at the next start. `borrows`:
    another process of this gateway runs whatever has a state (see `borrowed`).

    Entered and left in one task. Leaving it ends every upstream at once and takes at most some seconds.
    """

    def __init__(
        self,
        on_change: Callable[[str], None] = lambda name: None,
        *,
        limits: Limits | None = None,
        remembered: MutableMapping[str, str] | None = None,
        on_question: Question | None = None,
        question_capabilities: Mapping[str, Any] = NOTHING,
        on_updated: Callable[[str, str], None] = lambda name, uri: None,
        own: OwnCredentials | None = None,
        on_task: Callable[[str, Json], None] = lambda name, params: None,
        on_written: Callable[[str], None] = lambda name: None,
        borrows: bool = False,
    ) -> None:
        kept = {} if remembered is None else remembered
        self._around = Surroundings(
            on_change,
            limits or Limits(),
            kept,
            on_question,
            question_capabilities,
            on_updated=on_updated,
            own=own,
            on_task=on_task,
            on_written=on_written,
        )
        self.lender = Lender(self._around) if borrows else None
        """Runs what has a state, where another process does."""
        self._upstreams: Mapping[str, ManagedUpstream | BorrowedUpstream] = {}
        self._made: dict[str, tuple[Listing | None, Listing]] = {}
        self._tasks: TaskGroup = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tasks.cancel_scope.cancel()
        # Without the block's own exception, which goes its way by itself instead of inside a group.
        await self._tasks.__aexit__(None, None, None)

    @property
    def lent(self) -> Mapping[str, ManagedUpstream]:
        """Those that this process runs itself."""
        return {name: found for name, found in self._upstreams.items() if isinstance(found, ManagedUpstream)}

    @property
    def upstreams(self) -> Mapping[str, Upstream]:
        """Every configured upstream by name, whatever its state, in the order of the configuration."""
        return MappingProxyType(self._upstreams)

    @property
    def listings(self) -> Mapping[str, Listing]:
        """What each upstream offers; for one that is down, what it offered last."""
        return {name: found.listing for name, found in self._upstreams.items() if found.listing is not None}

    def with_login_tools(self, listings: Iterable[Listing]) -> tuple[Listing, ...]:
        """Lists as agents see them: the login tool put into those of upstreams that offer it, or in place of none.

        No definition of an upstream's: whoever compares those has to do it before.
        """
        found: dict[str, Listing] = {listing.upstream: listing for listing in listings}
        for name, upstream in self._upstreams.items():
            if upstream.offers_login:
                found[name] = self._with_login(name, found.get(name))
        return tuple(found.values())

    def with_login_tool(self, listing: Listing) -> Listing:
        """One person's list, with the login tool while they may be in the middle of calling it."""
        upstream = self._upstreams.get(listing.upstream)
        return with_login(listing) if upstream is not None and upstream.offers_login else listing

    def _with_login(self, name: str, listing: Listing | None) -> Listing:
        """The same object for the same list: whoever compares lists by identity sees no change."""
        made = self._made.get(name)
        if made is None or made[0] is not listing:
            made = self._made[name] = listing, with_login(listing or Listing(name))
        return made[1]

    def statuses(self) -> tuple[UpstreamStatus, ...]:
        """How each upstream is doing."""
        return tuple(upstream.status for upstream in self._upstreams.values())

    def wake(self, name: str) -> None:
        """Somebody has logged in to an upstream: one that waited for it tries again now."""
        upstream = self._upstreams.get(name)
        if upstream is not None:
            upstream.wake()

    async def apply(self, servers: Sequence[ServerConfig]) -> None:
        """Make these the configuration. Waits for no upstream.

        New ones start side by side, gone ones are closed once their calls in flight are done (or some seconds are
        over), changed ones are restarted, and those whose connection is the same go on undisturbed.
        """
        before = self._upstreams
        after = {config.name: self._upstream_for(config, before.get(config.name)) for config in servers}
        self._upstreams = after
        for name, upstream in before.items():
            if after.get(name) is not upstream:
                self._tasks.start_soon(upstream.retire)
        for name, upstream in after.items():
            if before.get(name) is not upstream:
                self._tasks.start_soon(upstream.run)
        for name in before.keys() - after.keys():
            self._around.on_change(name)

    async def settled(self, timeout_s: float) -> bool:
        """Wait until every enabled upstream has been ready or down once. False if the time was over first."""
        with anyio.move_on_after(timeout_s):
            for upstream in self._upstreams.values():
                if upstream.config.enabled:
                    await upstream.settled.wait()
            return True
        return False

    def _upstream_for(
        self, config: ServerConfig, before: ManagedUpstream | BorrowedUpstream | None
    ) -> ManagedUpstream | BorrowedUpstream:
        if before is not None and _way_of(before.config) == _way_of(config):
            before.config = config
            return before
        upstream = self._new(config, before)
        if not config.enabled or before is None or not _is_same_server(before.config, config):
            upstream.forget_listing()
        return upstream

    def _new(
        self, config: ServerConfig, before: ManagedUpstream | BorrowedUpstream | None
    ) -> ManagedUpstream | BorrowedUpstream:
        if self.lender is not None:
            return self.lender.upstream(config, before if isinstance(before, BorrowedUpstream) else None)
        return ManagedUpstream(config, self._around, before if isinstance(before, ManagedUpstream) else None)


def _way_of(config: ServerConfig) -> ServerConfig:
    """The part of a configuration that a live connection depends on; the rest is the catalog's."""
    return replace(
        config,
        prefix=None,
        include=(),
        exclude=(),
        timeout_s=0,
        sampling="deny" if config.sampling == "deny" else "relay",
        sampling_model="",
        sampling_max_tokens=0,
        sampling_max_calls=0,
        tags=frozenset(),
        tool_tags=NOTHING,
        trust="first-use",
        at="",
        shown="",
    )


def _is_same_server(one: ServerConfig, other: ServerConfig) -> bool:
    return (one.command, one.url) == (other.command, other.url)
