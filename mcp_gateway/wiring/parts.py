"""The parts of a running gateway: the only file that knows nearly every one by its class.

`Running` can replace its configuration and policy while it runs (`reload` decides when). Catalog, policy and guards
become one `Snapshot` in `refresh`, the only place that makes one.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import is_
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from starlette.types import ASGIApp

from mcp_gateway import __version__
from mcp_gateway.audit.kept import Keeper
from mcp_gateway.audit.log import AuditLog
from mcp_gateway.catalog import search
from mcp_gateway.catalog.catalog import Catalog, Problem, build
from mcp_gateway.catalog.pages import Cursors
from mcp_gateway.catalog.pinbook import PinBook
from mcp_gateway.config.lock import lock_path, read_lock
from mcp_gateway.config.servers import Configuration, ServerConfig
from mcp_gateway.config.settings import Settings, is_loopback
from mcp_gateway.config.upstream_auth import AuthKind
from mcp_gateway.credentials.owners import Owner, owner_of
from mcp_gateway.domain import Caller, Json, Kind, Listing, StartedTask, Strength, Target, UpstreamState
from mcp_gateway.errors import Complaint, ConfigInvalid
from mcp_gateway.frontdoor.admin import AdminDoor
from mcp_gateway.frontdoor.answers import SERVER_INFO, Answers
from mcp_gateway.frontdoor.challenges import Challenges
from mcp_gateway.frontdoor.connect import Accounts, ConnectPages
from mcp_gateway.frontdoor.connect_listener import ConnectListener
from mcp_gateway.frontdoor.desk import Desk
from mcp_gateway.frontdoor.discovery import TOOLS
from mcp_gateway.frontdoor.doorstep import Doorstep
from mcp_gateway.frontdoor.exchange import Closers
from mcp_gateway.frontdoor.http import HttpDoor
from mcp_gateway.frontdoor.legacy import LegacyDoor
from mcp_gateway.frontdoor.listen import Bulletin
from mcp_gateway.frontdoor.login_pages import FORM_S, LoginPages
from mcp_gateway.frontdoor.model_state import StateDesk
from mcp_gateway.frontdoor.models import ModelsDoor
from mcp_gateway.frontdoor.modern import ModernDoor
from mcp_gateway.frontdoor.parking import ParkingLot
from mcp_gateway.frontdoor.protocol import can_answer
from mcp_gateway.frontdoor.rest import RestDoor
from mcp_gateway.frontdoor.rounds import Rounds
from mcp_gateway.frontdoor.seals import Seals
from mcp_gateway.frontdoor.siblings import Siblings
from mcp_gateway.frontdoor.stdio import StdioDoor
from mcp_gateway.frontdoor.task_news import TaskNews
from mcp_gateway.frontdoor.updates import Updates
from mcp_gateway.frontdoor.wire_tasks import WIRE_TASK_TTL_S, WireTasks
from mcp_gateway.gateway import Gateway, Snapshot
from mcp_gateway.guards.budget import Budgets, log_alert
from mcp_gateway.guards.limits import Limits
from mcp_gateway.guards.order import Guards
from mcp_gateway.guards.schema import Schemas
from mcp_gateway.guards.transactions import Transactions
from mcp_gateway.identity.started import StartedTasks
from mcp_gateway.identity.task import task_for
from mcp_gateway.metrics import Metrics
from mcp_gateway.models.kept import KeptThings
from mcp_gateway.models.sampling import Answerer, Sampling
from mcp_gateway.models.sender import targets_of
from mcp_gateway.policy.assigned import check_agent
from mcp_gateway.policy.compile import Policy
from mcp_gateway.storage.budgets import Crossed
from mcp_gateway.storage.kept import DATABASE as KEPT_FILE
from mcp_gateway.storage.lists import ListStore
from mcp_gateway.storage.private import random_key
from mcp_gateway.storage.used import UsedOnce
from mcp_gateway.storage.workers import Standing, read_standings
from mcp_gateway.upstreams.bridge import LEGACY_CAPABILITIES, put_question
from mcp_gateway.upstreams.connection import SILENT
from mcp_gateway.upstreams.lending import Lending
from mcp_gateway.upstreams.link import Told
from mcp_gateway.upstreams.own_lists import OwnLists
from mcp_gateway.upstreams.own_lists import Surroundings as OwnListsSurroundings
from mcp_gateway.upstreams.pool import Pool
from mcp_gateway.wiring.clock import new_request_id, utc_now, utc_text
from mcp_gateway.wiring.judges import Judges
from mcp_gateway.wiring.metering import names_of, with_metrics
from mcp_gateway.wiring.offers import (
    bounded,
    for_everybody,
    listed_by_person,
    naming_rule,
    public_name_of,
    upstream_limits,
)
from mcp_gateway.wiring.own_catalogs import OwnCatalogs
from mcp_gateway.wiring.policies import check_shareable, policy_of
from mcp_gateway.wiring.routes import apis_of, routes_of
from mcp_gateway.wiring.senders import Senders
from mcp_gateway.wiring.stores import broker_of, kept_store
from mcp_gateway.wiring.trust import Trust, password_check, sign_in_of

REFRESH_AFTER_S: Final = 0.02
"""How long changes of upstreams are gathered before a new catalog is built of them."""

MAX_LISTS_TOLD: Final = 100
MAX_TASKS_TOLD: Final = 20
"""Lists whose length an operator is told: working one out takes as long as giving it."""

SEAL_KEY_FILE: Final = "seals.key"

VISIT_S: Final = 600
"""How long a browser that has signed in is known to the login pages."""

STATE_TTL_S: Final = 600
"""How long a `requestState` is good for: longer than a parked call waits, so that the lot decides when it is over."""

_log: Final = logging.getLogger(__name__)

Load = Callable[[], Configuration]
"""Reads the configuration as it is written now. Raises `ConfigInvalid`."""


class Running:
    """A gateway's parts while it runs, and how they are replaced."""

    def __init__(
        self,
        configuration: Configuration,
        policy: Policy,
        load: Load,
        audit: AuditLog,
        siblings: Siblings | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        """`siblings`: the processes this gateway consists of; None: it is this one alone."""
        self.siblings = siblings
        self.configuration = configuration
        """In force: its `settings` stay those the process was started with."""
        self.policy = policy
        self.audit = audit
        self.metrics = metrics
        """None: nobody wants to know."""
        self.closers = Closers()
        self._load = load
        self._built: tuple[tuple[Listing, ...], Sequence[ServerConfig], Catalog] | None = None
        self._complaints: dict[str, str] = {}
        self._refreshing: asyncio.TimerHandle | None = None
        self._noting: set[asyncio.Task[None]] = set()
        mark = "" if siblings is None else siblings.mark
        master_key = random_key(configuration.settings.state / SEAL_KEY_FILE)
        self._make_credentials(mark, master_key)
        self._make_upstreams(configuration, siblings)
        self._make_guards_and_stores(configuration.settings, master_key)
        self.gateway = Gateway(
            self._snapshot(),
            audit,
            utc_now,
            transactions=self.transactions,
            budgets=self.budgets,
            keeper=self.keeper,
        )
        self._make_answers(mark, master_key)

    def _make_credentials(self, mark: str, master_key: bytes) -> None:
        """What upstreams get of credentials, and the pages where people consent to that."""
        configuration, settings = self.configuration, self.configuration.settings
        self.broker = broker_of(configuration, self._pages_for, self._note_login)
        self.broker.note = lambda upstream, agent, what: self.audit.note("login", upstream, agent=agent, reason=what)
        self.broker.apply(configuration.servers, settings.allow_addresses)
        self.broker.consents.mark = mark
        self.sign_in = sign_in_of(settings)
        if self.sign_in is not None:
            self.sign_in.mark = mark
        visitor_seals = Seals(master_key, "visitor", VISIT_S) if self.sign_in else None
        self.pages = ConnectPages(self.broker.consents, configuration.identity.url, self.sign_in, visitor_seals)
        self.pages_listener = ConnectListener(self.pages)
        self.pages_at: Callable[[], Awaitable[str]] = self.pages_listener.base_url
        """Where this process serves `pages`: behind its HTTP door, else on a port that is opened when first needed."""

    def _make_upstreams(self, configuration: Configuration, siblings: Siblings | None) -> None:
        """Connections to MCP servers, and what those list to each person."""
        settings = configuration.settings
        self.pool = Pool(
            on_change=lambda _: self._refresh_soon(),
            limits=replace(
                upstream_limits(settings),
                prove=lambda *asked: self.broker.prove(*asked),
                ids_after=0 if siblings is None else siblings.ids_after,
            ),
            on_question=put_question,
            question_capabilities=LEGACY_CAPABILITIES,
            on_updated=self._note_updated,
            own=self.broker,
            on_task=self._note_task,
            on_written=lambda upstream: self.senders.note_written(upstream),
            borrows=siblings is not None and not siblings.is_first,
        )
        by_person = OwnListsSurroundings(
            lambda: self.pool.lent,
            lambda caller, name: owner_of(caller, self._by_person[name]).id,
            self.broker.credential_if_any,
            lambda _: self._refresh_soon(),
        )
        self.own_lists = OwnLists(ListStore(settings.state), by_person)
        self._by_person: Mapping[str, AuthKind] = {}
        self._own: OwnCatalogs | None = None
        self._apply_by_person(configuration.servers)
        self.lending = Lending(lambda: self.pool.lent, can_answer) if siblings and siblings.is_first else None
        lock_file = lock_path(configuration.path)
        self.pins = PinBook(lock_file, settings.state, utc_text, read_lock(lock_file))

    def _make_guards_and_stores(self, settings: Settings, master_key: bytes) -> None:
        """What looks at calls, and what remembers of them what later ones are judged by."""
        self._schemas = Schemas()
        self.judges = Judges(settings.allow_addresses)
        self._content = self.judges.content(self.configuration.detectors)
        self.kept_things = KeptThings(settings.state, master_key, time.time)
        self.senders = Senders(settings, self.broker.credential_for, self.kept_things, self.broker.prove)
        self.budgets = Budgets(settings.state, utc_now)
        self.budgets.on_alert = self._note_budget
        self.transactions = Transactions(settings.state, utc_now, settings.approval_wait_s, self._note_asking)
        self.keeper = Keeper(lambda: kept_store(self.configuration), time.time, (settings.state / KEPT_FILE).exists)

    def _make_answers(self, mark: str, master_key: bytes) -> None:
        """What stands between the doors and the walk."""
        settings = self.configuration.settings
        self.updates = Updates(self.gateway, new_request_id)
        wire_tasks = WireTasks(Seals(master_key, "wire task", WIRE_TASK_TTL_S), time.time)
        self.task_news = TaskNews(self.gateway, wire_tasks, new_request_id)
        self.bulletin = Bulletin(self.gateway, SERVER_INFO, self.updates, self.task_news)
        cursors = Cursors(hmac.digest(master_key, b"cursors", "sha256"))
        above = settings.search_above
        self.answers = Answers(self.gateway, cursors, new_request_id, wire_tasks, self.updates, above)
        self.used = UsedOnce(settings.state)
        seals = Seals(master_key, "request state", STATE_TTL_S)
        self.rounds = Rounds(self.answers, ParkingLot(self.closers, mark=mark), seals, time.time, self.used.take)

    async def reload_config(self) -> str:
        """Read servers.toml again and apply it; tells what changed, or nothing.

        Raises `ConfigInvalid`, and changes nothing, if it cannot be used.
        """
        before, written = self.configuration, self._load()
        after = replace(written, settings=before.settings, identity=before.identity)
        if after == before:
            return ""
        if self.siblings is not None:
            check_shareable(after)
        self.configuration = after
        if after.detectors != before.detectors:
            self._content = self.judges.content(after.detectors)
        self.broker.apply(after.servers, after.settings.allow_addresses)
        await self.pool.apply(bounded(after))
        self._apply_by_person(after.servers)
        self.refresh()
        kept = written.settings == before.settings and written.identity == before.identity
        restart = "" if kept else " ([gateway] or [identity] changed: restart to apply)"
        return f"{before.version[:8]} -> {after.version[:8]}{restart}"

    async def reload_policy(self) -> str:
        """Read the policies again and apply them; tells what changed, or nothing.

        Raises `PolicyInvalid`, and changes nothing, if they cannot be used.
        """
        # In a thread: thousands of grants take a second, and calls under way must not wait for it.
        before, after = self.policy, await anyio.to_thread.run_sync(policy_of, self.configuration)
        if after.version == before.version:
            return ""
        self.policy = after
        self.refresh()
        return f"{before.version[:8]} -> {after.version[:8]}"

    async def reload_pins(self) -> str:
        """Read servers.lock again and apply it; tells what changed, or nothing.

        Raises `ConfigInvalid`, and changes nothing, if it cannot be used.
        """
        if self.pool.lender is not None:  # what is approved, the first process tells
            return ""
        note = self.pins.reload()
        self.refresh()
        return note

    async def keep_pins(self) -> None:
        """Write down what is approved by first use and what waits for review, until cancelled."""

        async def note(target: str, why: str, detail: Mapping[str, Any]) -> None:
            await self.audit.note("pin", target, reason=why, detail=dict(detail))

        try:
            await self.pins.keep(note)
        finally:
            with anyio.CancelScope(shield=True):
                await self.pins.flush(note)

    async def meet(self, end: socket.socket) -> None:
        """Talk to another process of this gateway over one end of a pair of sockets."""
        if self.lending is not None:
            await self.lending.lend_to(end)
        elif self.pool.lender is not None:
            await self.pool.lender.connect(end)
        else:
            end.close()

    async def settled(self, timeout_s: float) -> None:
        """Wait until every upstream has come up or failed once, and the snapshot knows; at most `timeout_s`."""
        await self.pool.settled(timeout_s)
        self.refresh()

    def refresh(self) -> None:
        """Judge by what the configuration, the policy and the upstreams say now; tell agents whose lists changed."""
        self._cancel_refresh()
        self.gateway.swap(self._snapshot())
        if self.lending is not None:
            self.lending.publish(self._told())
        told = self.bulletin.publish()
        _log.debug("snapshot replaced, %d agents told", told)

    def complain(self, about: str, text: str) -> bool:
        """Remember (or with an empty text forget) why a file is not in force; tells whether that is news."""
        is_new = self._complaints.pop(about, "") != text
        if text:
            self._complaints[about] = text
        return is_new

    @property
    def complaints(self) -> Mapping[str, str]:
        """Why a file is not in force as it stands, by what it is about."""
        return dict(self._complaints)

    @property
    def workers(self) -> tuple[Standing, ...]:
        """How each process of this gateway is doing, this one among them; none where there is no other."""
        return () if self.siblings is None else read_standings(self.configuration.settings.state)

    def list_costs(self) -> list[dict[str, Any]]:
        """How long the list of tools is that each agent gets on each task, and about how many tokens it costs; the
        longest first. Tasks that have to be started have none until they are."""
        above, found = self.configuration.settings.search_above, []
        for agent, assignment in self.policy.assignments.items():
            for task in assignment.tasks[:MAX_TASKS_TOLD]:
                tools = self.gateway.visible(Caller(agent=agent, task=task), Kind.TOOL)
                is_searched = 0 < above < len(tools)
                shown = TOOLS if is_searched else [dict(target.definition) for target in tools]
                tokens = sum(map(search.tokens_of, shown))
                found.append(
                    {"agent": agent, "task": task, "tools": len(tools), "tokens": tokens, "searched": is_searched}
                )
                if len(found) >= MAX_LISTS_TOLD:
                    return found
        return sorted(found, key=lambda each: (-each["tokens"], each["agent"], each["task"]))

    def health(self) -> Mapping[str, Any]:
        """How the parts are doing, without a name in it: anybody may read this."""
        states = [status.state for status in self.pool.statuses()]
        enabled = [state for state in states if state is not UpstreamState.DISABLED]
        ready = sum(standing.state == "ready" for standing in self.workers)
        return {
            "ok": self.audit.healthy,
            "ready": UpstreamState.STARTING not in enabled,
            "version": __version__,
            "upstreams": {state.value: states.count(state) for state in sorted(set(states))},
            "audit": "ok" if self.audit.healthy else "cannot be written",
            "complaints": sorted(self._complaints),
            **({"workers": {"of": len(self.workers), "ready": ready}} if self.siblings is not None else {}),
        }

    def http_door(self, trust: Trust) -> tuple[HttpDoor, LegacyDoor]:
        """The ASGI application, and the part of it that keeps sessions."""
        settings, challenges = self.configuration.settings, Challenges(trust.resource)
        legacy = LegacyDoor(
            self.answers, self.bulletin, self.closers, challenges, self.siblings.mark if self.siblings else ""
        )
        modern = ModernDoor(self.gateway, self.rounds, self.bulletin, self.closers, challenges)
        doorstep = Doorstep(
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=(*settings.allowed_origins, *trust.origins),
            loopback=settings.is_loopback,
            max_header_bytes=settings.max_header_bytes,
            max_body_bytes=settings.max_body_bytes,
        )
        models = ModelsDoor(
            self.gateway,
            doorstep,
            lambda: self.configuration.models,
            self.closers,
            new_request_id,
            StateDesk(self.gateway, self.kept_things),
        )
        rest = RestDoor(self.gateway, doorstep, lambda: apis_of(self.configuration), self.closers, new_request_id)
        pages = None
        if trust.login is not None:
            self.pages.accounts = Accounts(trust.login.issuer, password_check(trust.login))
            seals = Seals(random_key(settings.state / SEAL_KEY_FILE), "login form", FORM_S)
            pages = LoginPages(trust.login, doorstep, self.audit, seals, time.time)
        doors, tell = (modern, legacy), self.health
        door = HttpDoor(
            self.gateway,
            doorstep,
            trust.verifier,
            self.audit,
            doors,
            tell,
            utc_now,
            challenges,
            pages,
            self.pages,
            models,
            rest,
            self.siblings,
        )
        return door, legacy

    def admin_door(self, tasks: StartedTasks) -> ASGIApp:
        """The ASGI application of the operators' own listener, for whoever has `admin_key` or `metrics_key`."""
        desk = Desk(tasks, self.transactions, self.audit, lambda: self.policy, utc_now)
        key = self.configuration.settings.admin_key
        if not key:
            raise ConfigInvalid([Complaint(str(self.configuration.path), 0, "there is no 'admin_key'")])
        return with_metrics(AdminDoor(desk, key, utc_now, self.audit.count_refusal), self, self.metrics)

    def serve_pages_at(self, url: str) -> None:
        """The login pages are behind the HTTP door, at `url`."""

        async def at() -> str:
            return url

        self.pages_at = at

    async def _pages_for(self, owner: Owner) -> str:
        """Where an owner opens the login pages. Raises `LookupError` where nobody could tell that it is them.

        Beyond this machine a page would have to know who has opened it; nobody who follows a link may hand their
        account to whoever sent it (client/elicitation, "Phishing").
        """
        url = self.configuration.identity.url or await self.pages_at()
        is_here = is_loopback(urlsplit(url).hostname or "")
        if (is_here or url.startswith("https://")) and (self.pages.can_tell(owner) or (is_here and not owner.person)):
            return url
        raise LookupError("it cannot be told who opens a page")

    def stdio_door(
        self, agent: str, task: str | None, started_now: Callable[[], StartedTask] | None = None
    ) -> StdioDoor:
        """The door for one agent on the standard streams; whoever calls this ends it when its started task ends.

        `started_now` tells the started task as it is at each request. Raises `ConfigInvalid` for an agent that the
        policy does not name or that has no such task.
        """
        check_agent(self.configuration, self.policy, agent, task if started_now is None else started_now().task)

        def caller() -> Caller:
            started = None if started_now is None else started_now()
            assigned = task_for(self.gateway.assignment(agent), task) if started is None else started.task
            return Caller(
                agent=agent,
                task=assigned,
                person=None if started is None else started.person,
                strength=Strength.STDIO,
                credential_id=f"stdio:{agent}",
                started=started,
            )

        return StdioDoor(self.answers, self.rounds, self.bulletin, caller, self.configuration.settings.max_body_bytes)

    async def _note_asking(self, caller: Caller, target: Target, approval: str, what: str) -> None:
        detail = {"task": caller.task, "started": caller.started_id, "target": target.key}
        await self.audit.note("approval", approval, agent=caller.agent, reason=what, detail=detail)

    def _note_login(self, upstream: str) -> None:
        self.pool.wake(upstream)
        self.own_lists.note_login(upstream)

    def _apply_by_person(self, servers: Sequence[ServerConfig]) -> None:
        """Which upstreams have lists of each person's own."""
        found = listed_by_person(servers)
        self._by_person = {name: server.auth.kind for name, server in found.items() if server.auth is not None}
        self.own_lists.apply({name: server.url for name, server in found.items()})

    def _own_catalogs(self, catalog: Catalog) -> OwnCatalogs | None:
        """What goes with `catalog`, the one of everybody, where people have lists of their own."""
        if not self._by_person or self._built is None:
            return None
        for name in self._by_person:
            self.own_lists.note_shared(name, self.pool.listings.get(name))
        if self._own is None or not self._own.is_of(catalog):
            offered, servers, _ = self._built

            def built(listings: Mapping[str, Listing]) -> Catalog:
                made = self._made(listings.values(), servers)
                self._remember(made, (*catalog.problems, *made.problems))
                return made

            shared = {listing.upstream: for_everybody(listing, servers) for listing in offered}
            trust = {server.name: server.trust for server in servers}
            completed = self.pool.with_login_tool
            self._own = OwnCatalogs(catalog, shared, self.own_lists, self.pins, trust, built, completed)
        return self._own

    def _note_budget(self, crossed: Crossed) -> None:
        """A budget is used up so far that operators wanted to know: into the log and the audit, once a window."""
        log_alert(crossed)
        reason = f"{crossed.part * 100:.0f}% of its {crossed.out_of} used up"
        detail = {"whose": crossed.subject.split("\n") if crossed.subject else []}
        task = asyncio.ensure_future(self.audit.note("budget", crossed.budget, reason=reason, detail=detail))
        self._noting.add(task)
        task.add_done_callback(self._noted)

    def _noted(self, task: asyncio.Task[None]) -> None:
        self._noting.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("an alert of a budget could not be written down: %s", task.exception())

    def _snapshot(self) -> Snapshot:
        settings, servers = self.configuration.settings, self.configuration.servers
        listings = self._sifted()
        rules = {server.name: naming_rule(server) for server in servers}
        self.audit.remember_policy(self.policy.version, self.policy.text)
        if self.metrics is not None:
            self.metrics.names = names_of(self.configuration, self.policy)
        # The login tools come in behind the pins: no upstream defined them.
        catalog = self._catalog(self.pool.with_login_tools(listings.values()), servers)
        return Snapshot(
            catalog=catalog,
            own=self._own_catalogs(catalog),
            policy=self.policy,
            guards=Guards(
                Limits(settings.max_body_bytes, max_result_bytes=settings.max_result_bytes),
                self._schemas,
                self._content,
            ),
            upstreams=self.pool.upstreams,
            credential_for=self.broker.credential_for,
            after_refusal=self.broker.after_refusal,
            instructions={name: listing.instructions for name, listing in listings.items() if listing.instructions},
            extensions=frozenset[str]().union(*(listing.extensions for listing in listings.values())),
            senders={
                Kind.MODEL: self.senders.of_models(self.configuration.models, self.policy),
                Kind.ROUTE: self.senders.of_routes(servers),
            },
            answering={server.name: self._sampling(server) for server in servers if server.sampling != "relay"},
            held=frozenset(
                public
                for upstream, keys in self._held_keys().items()
                for key in keys
                if (public := public_name_of(upstream, key, rules)) is not None
            ),
        )

    def _sifted(self) -> Mapping[str, Listing]:
        """What of each list may be served."""
        if self.pool.lender is not None:  # the first process has sifted them
            return self.pool.listings
        trust = {server.name: server.trust for server in self.configuration.servers}
        return {name: parted.listing for name, parted in self.pins.sift(self.pool.listings, trust).items()}

    def _held_keys(self) -> Mapping[str, tuple[str, ...]]:
        """What waits for review, by upstream, as in servers.lock."""
        if self.pool.lender is not None:
            return {name: told.held for name, told in self.pool.lender.told.items()}
        found: dict[str, tuple[str, ...]] = {}
        for held in self.pins.held:
            found[held.upstream] = (*found.get(held.upstream, ()), held.key)
        return found

    def _told(self) -> Mapping[str, Told]:
        """What the other processes have to know of each upstream."""
        listings, held = self._sifted(), self._held_keys()
        return {
            name: Told(upstream.status, listings.get(name), held.get(name, ()), upstream.offers_login)
            for name, upstream in self.pool.lent.items()
        }

    def _note_updated(self, upstream: str, uri: str) -> None:
        self.updates.note(upstream, uri)
        if self.lending is not None:
            self.lending.note_updated(upstream, uri)

    def _note_task(self, upstream: str, params: Json) -> None:
        self.task_news.note(upstream, params)
        if self.lending is not None:
            self.lending.note_task(upstream, params)

    def _sampling(self, server: ServerConfig) -> Sampling:
        answerer = Answerer(
            walk=lambda caller, request: self.gateway.ask(caller, request, SILENT),
            visible=lambda caller: self.gateway.visible(caller, Kind.MODEL),
            models=lambda: self.configuration.models,
            new_request_id=new_request_id,
        )
        return Sampling(server, answerer if server.sampling == "answer" else None)

    def _catalog(self, offered: tuple[Listing, ...], servers: Sequence[ServerConfig]) -> Catalog:
        """The catalog of these listings; the one there is, where nobody offers anything else than before.

        An upstream that goes and comes back changes no listing, and building a catalog of thousands takes a while.
        """
        known: Collection[Problem] = ()
        if self._built is not None:
            before, configured, catalog = self._built
            if configured is servers and len(before) == len(offered) and all(map(is_, before, offered)):
                return catalog
            known = catalog.problems
        catalog = self._made((for_everybody(listing, servers) for listing in offered), servers)
        self._remember(catalog, known)
        self._built = offered, servers, catalog
        return catalog

    def _made(self, listings: Iterable[Listing], servers: Sequence[ServerConfig]) -> Catalog:
        catalog = build(listings, {server.name: naming_rule(server) for server in servers})
        catalog = catalog.plus(Kind.MODEL, targets_of(self.configuration.models))
        return catalog.plus(Kind.ROUTE, routes_of(self.configuration))

    def _remember(self, catalog: Catalog, known: Collection[Problem]) -> None:
        for kind in Kind:
            for target in catalog.targets(kind):
                self.audit.remember_target(target)
        for problem in catalog.problems:
            if problem not in known:
                _log.warning("upstream %s: %s", problem.upstream, problem.message)

    def _refresh_soon(self) -> None:
        if self._refreshing is None:
            self._refreshing = asyncio.get_running_loop().call_later(REFRESH_AFTER_S, self.refresh)

    def _cancel_refresh(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            self._refreshing = None
