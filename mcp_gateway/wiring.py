"""Configuration in, running parts out: the only file that knows every part by its class.

`running(...)` starts what a gateway needs whatever door serves it; `Running` can replace its configuration and
policy while it runs (`reload` decides when). Catalog, policy and guards become one `Snapshot` in `refresh`, the only
place that makes one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from operator import is_
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from mcp_gateway import __version__
from mcp_gateway.audit.log import AuditLog, Durability, Record
from mcp_gateway.audit.query import AuditReader
from mcp_gateway.audit.redact import RULES
from mcp_gateway.catalog import search
from mcp_gateway.catalog.catalog import Catalog, Problem, build
from mcp_gateway.catalog.naming import NamingRule, public_name
from mcp_gateway.catalog.pages import Cursors
from mcp_gateway.catalog.pinbook import PinBook
from mcp_gateway.catalog.pins import INSTRUCTIONS, Held, Sifted, sift
from mcp_gateway.config.lock import Lock, lock_path, read_lock
from mcp_gateway.config.rest import RestConfig
from mcp_gateway.config.secrets import Secrets
from mcp_gateway.config.servers import Configuration, ServerConfig
from mcp_gateway.config.settings import Settings, is_loopback
from mcp_gateway.config.toml_lines import did_you_mean
from mcp_gateway.config.upstream_auth import AuthKind
from mcp_gateway.credentials.broker import TokenBroker
from mcp_gateway.credentials.owners import Owner
from mcp_gateway.credentials.party import LOOPBACK
from mcp_gateway.credentials.sign_in import SignIn
from mcp_gateway.credentials.vault import Vault, opened_vault
from mcp_gateway.domain import Caller, Kind, Listing, Reason, Request, StartedTask, Strength, Target, UpstreamState
from mcp_gateway.errors import Complaint, ConfigInvalid, NotAuthenticated, PolicyInvalid, StoreUnavailable, Unreachable
from mcp_gateway.frontdoor.admin import AdminDoor
from mcp_gateway.frontdoor.answers import SERVER_INFO, Answers
from mcp_gateway.frontdoor.challenges import Challenges
from mcp_gateway.frontdoor.connect import Accounts, ConnectPages
from mcp_gateway.frontdoor.connect_listener import ConnectListener
from mcp_gateway.frontdoor.desk import Desk
from mcp_gateway.frontdoor.discovery import TOOLS
from mcp_gateway.frontdoor.doorstep import Doorstep
from mcp_gateway.frontdoor.exchange import Closers
from mcp_gateway.frontdoor.housekeeping import LOOK_EVERY_S
from mcp_gateway.frontdoor.http import HttpDoor
from mcp_gateway.frontdoor.legacy import LegacyDoor
from mcp_gateway.frontdoor.listen import Bulletin
from mcp_gateway.frontdoor.login_pages import FORM_S, LoginPages
from mcp_gateway.frontdoor.models import ModelsDoor
from mcp_gateway.frontdoor.modern import ModernDoor
from mcp_gateway.frontdoor.parking import ParkingLot
from mcp_gateway.frontdoor.rest import RestDoor
from mcp_gateway.frontdoor.rounds import Rounds
from mcp_gateway.frontdoor.seals import Seals
from mcp_gateway.frontdoor.stdio import StdioDoor
from mcp_gateway.frontdoor.task_news import TaskNews
from mcp_gateway.frontdoor.updates import Updates
from mcp_gateway.frontdoor.wire_tasks import WIRE_TASK_TTL_S, WireTasks
from mcp_gateway.gateway import Gateway, Snapshot
from mcp_gateway.guards.budget import Budgets
from mcp_gateway.guards.content import Content
from mcp_gateway.guards.detect import Detector, KnownSecrets, installed
from mcp_gateway.guards.injection import Injection
from mcp_gateway.guards.limits import Limits
from mcp_gateway.guards.order import Guards
from mcp_gateway.guards.personal import PersonalData
from mcp_gateway.guards.schema import Schemas
from mcp_gateway.guards.transactions import Transactions
from mcp_gateway.identity.keys import Keys
from mcp_gateway.identity.login import AuthorizationServer, OAuthRefused, signing_key
from mcp_gateway.identity.resource import Resource
from mcp_gateway.identity.started import StartedTasks, TaskTokenCheck
from mcp_gateway.identity.task import task_for
from mcp_gateway.identity.trust import resource_of, tokens_of
from mcp_gateway.identity.verify import ApiKeyCheck, TokenCheck, Verifier
from mcp_gateway.jsonrpc import canonical
from mcp_gateway.models import prices
from mcp_gateway.models.call import Surroundings
from mcp_gateway.models.health import Health
from mcp_gateway.models.sampling import Answerer, Sampling
from mcp_gateway.models.sender import ModelSender, targets_of
from mcp_gateway.netguard import Allowed, Fetcher
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.decide import decide
from mcp_gateway.policy.document import load as load_policy
from mcp_gateway.policy.tables import CODE
from mcp_gateway.rest.breaker import Breaker
from mcp_gateway.storage.budgets import BudgetStore
from mcp_gateway.storage.logins import LoginStore
from mcp_gateway.storage.private import random_key
from mcp_gateway.storage.used import UsedOnce
from mcp_gateway.upstreams.bridge import LEGACY_CAPABILITIES, put_question
from mcp_gateway.upstreams.connection import SILENT
from mcp_gateway.upstreams.connection import Limits as UpstreamLimits
from mcp_gateway.upstreams.plain import PlainClient
from mcp_gateway.upstreams.pool import Pool
from mcp_gateway.upstreams.routes import Api, RouteSender

REFRESH_AFTER_S: Final = 0.02
"""How long changes of upstreams are gathered before a new catalog is built of them."""

FIRST_LIST_S: Final = 5.0
"""How long the first requests wait for upstreams that are starting. A slower one is announced when it is there."""

ENVELOPE_BYTES: Final = 64 * 1024
"""What a message is longer than the result in it."""

MAX_LISTS_TOLD: Final = 100
MAX_TASKS_TOLD: Final = 20
"""Lists whose length an operator is told: working one out takes as long as giving it."""

SEAL_KEY_FILE: Final = "seals.key"
LOGIN_KEY_FILE: Final = "login.key"

VISIT_S: Final = 600
"""How long a browser that has signed in is known to the login pages."""

STATE_TTL_S: Final = 600
"""How long a `requestState` is good for: longer than a parked call waits, so that the lot decides when it is over."""

_log: Final = logging.getLogger(__name__)

Load = Callable[[], Configuration]
"""Reads the configuration as it is written now. Raises `ConfigInvalid`."""


def utc_now() -> datetime:
    """The time as every room gets it."""
    return datetime.now(UTC)


def new_request_id() -> str:
    """A unique id that sorts by time: milliseconds since the epoch, then 64 random bits."""
    if not _random_bits:
        _random_bits.extend(memoryview(secrets.token_bytes(2048)).cast("Q"))  # a system call for each is dear
    return f"{time.time_ns() // 1_000_000:011x}{_random_bits.pop():016x}"


_random_bits: Final[list[int]] = []


@dataclass(frozen=True, slots=True)
class Trust:
    """Who may be let in at the HTTP door."""

    verifier: Verifier
    resource: Resource | None = None
    """How the gateway is called in tokens; None where no issuer is trusted."""
    login: AuthorizationServer | None = None
    """The embedded authorization server, where it is switched on."""
    origin: str = ""
    """Where browsers reach the gateway."""

    @property
    def origins(self) -> tuple[str, ...]:
        """Whose pages may send forms here: its own."""
        return (self.origin,) if self.origin else ()


class Running:
    """A gateway's parts while it runs, and how they are replaced."""

    def __init__(self, configuration: Configuration, policy: Policy, load: Load, audit: AuditLog) -> None:
        self.configuration = configuration
        """In force: its `settings` stay those the process was started with."""
        self.policy = policy
        self.audit = audit
        self.closers = Closers()
        self._load = load
        self._built: tuple[tuple[Listing, ...], Sequence[ServerConfig], Catalog] | None = None
        self._schemas = Schemas()
        self._content = Content(detectors())
        limits = upstream_limits(configuration.settings)
        settings = configuration.settings
        self.broker = broker_of(configuration, self._pages_for, lambda name: self.pool.wake(name))
        self.broker.note = lambda upstream, agent, what: audit.note("login", upstream, agent=agent, reason=what)
        self.broker.apply(configuration.servers, settings.allow_addresses)
        self.sign_in = sign_in_of(settings)
        visitor_seals = Seals(random_key(settings.state / SEAL_KEY_FILE), "visitor", VISIT_S) if self.sign_in else None
        self.pages = ConnectPages(self.broker.consents, configuration.identity.url, self.sign_in, visitor_seals)
        self.pages_listener = ConnectListener(self.pages)
        self.pages_at: Callable[[], Awaitable[str]] = self.pages_listener.base_url
        """Where this process serves `pages`: behind its HTTP door, else on a port that is opened when first needed."""
        self.pool = Pool(
            on_change=lambda _: self._refresh_soon(),
            limits=limits,
            on_question=put_question,
            question_capabilities=LEGACY_CAPABILITIES,
            on_updated=lambda upstream, uri: self.updates.note(upstream, uri),
            own=self.broker,
            on_task=lambda upstream, params: self.task_news.note(upstream, params),
        )
        settings = configuration.settings
        self.plain_client = PlainClient()
        self._apis: Mapping[str, Api] = {}
        self._model_calls = Surroundings(
            client=self.plain_client,
            health=Health(),
            now_s=time.time,
            max_answer_bytes=settings.max_result_bytes,
            longest_s=settings.call_timeout_s,
        )
        self.budgets = Budgets(settings.state, utc_now)
        self.transactions = Transactions(settings.state, utc_now, settings.approval_wait_s, self._note_asking)
        lock_file = lock_path(configuration.path)
        self.pins = PinBook(lock_file, configuration.settings.state, _utc_text, read_lock(lock_file))
        self.gateway = Gateway(self._snapshot(), audit, utc_now, transactions=self.transactions, budgets=self.budgets)
        self.updates = Updates(self.gateway, new_request_id)
        master_key = random_key(configuration.settings.state / SEAL_KEY_FILE)
        wire_tasks = WireTasks(Seals(master_key, "wire task", WIRE_TASK_TTL_S), time.time)
        self.task_news = TaskNews(self.gateway, wire_tasks, new_request_id)
        self.bulletin = Bulletin(self.gateway, SERVER_INFO, self.updates, self.task_news)
        above = configuration.settings.search_above
        cursors = Cursors(secrets.token_bytes(32))
        self.answers = Answers(self.gateway, cursors, new_request_id, wire_tasks, self.updates, above)
        seals = Seals(master_key, "request state", STATE_TTL_S)
        self.used = UsedOnce(configuration.settings.state)
        self.rounds = Rounds(self.answers, ParkingLot(self.closers), seals, time.time, self.used.take)
        self._complaints: dict[str, str] = {}
        self._refreshing: asyncio.TimerHandle | None = None

    async def reload_config(self) -> str:
        """Read servers.toml again and apply it; tells what changed, or nothing.

        Raises `ConfigInvalid`, and changes nothing, if it cannot be used.
        """
        before, written = self.configuration, self._load()
        after = replace(written, settings=before.settings, identity=before.identity)
        if after == before:
            return ""
        self.configuration = after
        self.broker.apply(after.servers, after.settings.allow_addresses)
        await self.pool.apply(bounded(after))
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

    async def settled(self, timeout_s: float) -> None:
        """Wait until every upstream has come up or failed once, and the snapshot knows; at most `timeout_s`."""
        await self.pool.settled(timeout_s)
        self.refresh()

    def refresh(self) -> None:
        """Judge by what the configuration, the policy and the upstreams say now; tell agents whose lists changed."""
        self._cancel_refresh()
        self.gateway.swap(self._snapshot())
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
        return {
            "ok": self.audit.healthy,
            "ready": UpstreamState.STARTING not in enabled,
            "version": __version__,
            "upstreams": {state.value: states.count(state) for state in sorted(set(states))},
            "audit": "ok" if self.audit.healthy else "cannot be written",
            "complaints": sorted(self._complaints),
        }

    def http_door(self, trust: Trust) -> tuple[HttpDoor, LegacyDoor]:
        """The ASGI application, and the part of it that keeps sessions."""
        settings, challenges = self.configuration.settings, Challenges(trust.resource)
        legacy = LegacyDoor(self.answers, self.bulletin, self.closers, challenges)
        modern = ModernDoor(self.gateway, self.rounds, self.bulletin, self.closers, challenges)
        doorstep = Doorstep(
            allowed_hosts=settings.allowed_hosts,
            allowed_origins=(*settings.allowed_origins, *trust.origins),
            loopback=settings.is_loopback,
            max_header_bytes=settings.max_header_bytes,
            max_body_bytes=settings.max_body_bytes,
        )
        models = ModelsDoor(self.gateway, doorstep, lambda: self.configuration.models, self.closers, new_request_id)
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
        )
        return door, legacy

    def admin_door(self, tasks: StartedTasks) -> AdminDoor:
        """The ASGI application of the operators' own listener, for whoever has `admin_key`."""
        desk = Desk(tasks, self.transactions, self.audit, lambda: self.policy, utc_now)
        key = self.configuration.settings.admin_key
        if not key:
            raise ConfigInvalid([Complaint(str(self.configuration.path), 0, "there is no 'admin_key'")])
        return AdminDoor(desk, key, utc_now, self.audit.count_refusal)

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

    def _snapshot(self) -> Snapshot:
        settings, servers = self.configuration.settings, self.configuration.servers
        sifted = self.pins.sift(self.pool.listings, {server.name: server.trust for server in servers})
        listings = {name: parted.listing for name, parted in sifted.items()}
        rules = {server.name: naming_rule(server) for server in servers}
        self.audit.remember_policy(self.policy.version, self.policy.text)
        return Snapshot(
            # The login tools come in behind the pins: no upstream defined them.
            catalog=self._catalog(self.pool.with_login_tools(listings.values()), servers),
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
            senders={Kind.MODEL: self._model_sender(), Kind.ROUTE: self._route_sender()},
            answering={server.name: self._sampling(server) for server in servers if server.sampling != "relay"},
            held=frozenset(public for held in self.pins.held if (public := _public_name(held, rules)) is not None),
        )

    def _sampling(self, server: ServerConfig) -> Sampling:
        answerer = Answerer(
            walk=lambda caller, request: self.gateway.ask(caller, request, SILENT),
            visible=lambda caller: self.gateway.visible(caller, Kind.MODEL),
            models=lambda: self.configuration.models,
            new_request_id=new_request_id,
        )
        return Sampling(server, answerer if server.sampling == "answer" else None)

    def _model_sender(self) -> ModelSender:
        policy = self.policy

        def permits(caller: Caller, request: Request, target: Target) -> bool:
            reason = decide(policy, caller, request, target, utc_now()).reason
            return reason not in (Reason.DENY, Reason.DENY_UNEVALUABLE)

        return ModelSender(self.configuration.models, self._model_calls, permits, random.random)

    def _route_sender(self) -> RouteSender:
        servers = self.configuration.servers
        kept = {name: api for name, api in self._apis.items() if any(api.server == server for server in servers)}
        self._apis = {
            server.name: kept.get(server.name) or Api(server, server.rest, Breaker(server.rest.targets))
            for server in servers
            if server.rest is not None and server.enabled
        }
        limit = self.configuration.settings.max_result_bytes
        return RouteSender(self._apis, self.plain_client, self.broker.credential_for, limit)

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
        rules = {server.name: naming_rule(server) for server in servers}
        catalog = build((for_everybody(listing, servers) for listing in offered), rules)
        catalog = catalog.plus(Kind.MODEL, targets_of(self.configuration.models))
        catalog = catalog.plus(Kind.ROUTE, routes_of(self.configuration))
        self._remember(catalog, known)
        self._built = offered, servers, catalog
        return catalog

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


@asynccontextmanager
async def running(load: Load) -> AsyncIterator[Running]:
    """Start a gateway's parts as `load` says; upstreams come up by themselves meanwhile.

    Raises `ConfigInvalid` and `PolicyInvalid` before anything is started, `StoreUnavailable` where the audit cannot
    be opened.
    """
    configuration = load()
    policy = policy_of(configuration)
    async with open_audit(configuration) as audit:
        parts = Running(configuration, policy, load, audit)
        async with _closing(parts), parts.pool, anyio.create_task_group() as tasks:
            await parts.pool.apply(bounded(configuration))
            parts.gateway.hold()
            tasks.start_soon(_open_when_settled, parts)
            tasks.start_soon(parts.broker.keep_watch)
            tasks.start_soon(anyio.to_thread.run_sync, prices.load, configuration.models.providers)
            tasks.start_soon(parts.keep_pins)
            try:
                yield parts
            finally:
                await parts.plain_client.close()
                parts.budgets.close()
                parts.transactions.close()
                parts.used.close()
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def _closing(parts: Running) -> AsyncIterator[None]:
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await parts.pages_listener.close()
            await parts.broker.close()
            parts.broker.vault.close()
            if parts.sign_in is not None:
                await parts.sign_in.close()


async def _open_when_settled(parts: Running) -> None:
    await parts.settled(FIRST_LIST_S)
    parts.gateway.open()


def _utc_text() -> str:
    return utc_now().isoformat(timespec="seconds").replace("+00:00", "Z")


def _public_name(held: Held, rules: Mapping[str, NamingRule]) -> tuple[Kind, str] | None:
    """The name an agent would ask for it by; None for what has none."""
    word, _, name = held.key.partition(":")
    if word == INSTRUCTIONS:
        return None
    kind, rule = Kind(word), rules.get(held.upstream, NamingRule())
    return kind, public_name(held.upstream, name, rule.prefix) if kind in (Kind.TOOL, Kind.PROMPT) else name


def policy_of(configuration: Configuration) -> Policy:
    """The policies a configuration names, compiled. Raises `PolicyInvalid`."""
    policy = compile_policy(load_policy(configuration.settings.policies))
    _check_detectors(policy)
    return policy


def apis_of(configuration: Configuration) -> Mapping[str, RestConfig]:
    """The plain APIs that requests may be passed to, by name."""
    return {server.name: server.rest for server in configuration.servers if server.rest is not None and server.enabled}


def routes_of(configuration: Configuration) -> list[Target]:
    """All routes of each plain API as one target, for the catalog; see `Catalog.at`."""
    found = []
    for server in configuration.servers:
        if server.rest is not None and server.enabled:
            definition = {"name": server.name, "include": [pattern.text for pattern in server.rest.include]}
            digest = hashlib.sha256(canonical(definition)).hexdigest()
            found.append(
                Target(Kind.ROUTE, server.name, "**", server.name, definition, digest, server.tags, definition)
            )
    return found


def detectors() -> list[Detector]:
    """What guards may look for: built in, or brought along by packages. Raises `ConfigInvalid`."""
    return [KnownSecrets(RULES), PersonalData(), Injection(), *installed().values()]


def _check_detectors(policy: Policy) -> None:
    """Raises `PolicyInvalid` for guards that ask for a detector nobody has."""
    if not policy.guards:
        return
    known = {name: tuple(kinds) for name, kinds in Content(detectors()).names.items()}
    names = [*known, *(f"{name}/{kind}" for name, kinds in known.items() for kind in kinds)]
    complaints = [
        Complaint(file, int(line), f"there is no detector {name!r}", did_you_mean(name, names), CODE)
        for guard in policy.guards
        for file, _, line in [guard.inspection.at.rpartition(":")]
        for name in guard.inspection.find
        if name not in names
    ]
    if complaints:
        raise PolicyInvalid(complaints)


def check_agent(configuration: Configuration, policy: Policy, agent: str, task: str | None) -> None:
    """Raises `ConfigInvalid` for an agent that the policy does not name, or that has no such task."""
    assignment = policy.assignments.get(agent)
    where = str(configuration.settings.policies)
    if assignment is None:
        known = ", ".join(sorted(policy.assignments)) or "none"
        raise ConfigInvalid([Complaint(where, 0, f"no policy names the agent {agent!r}", f"known: {known}")])
    if task is not None and task not in assignment.tasks:
        tasks = ", ".join(assignment.tasks) or "none"
        raise ConfigInvalid([Complaint(where, 0, f"agent {agent!r} has no task {task!r}", f"it has: {tasks}")])


def open_audit(configuration: Configuration) -> AbstractAsyncContextManager[AuditLog]:
    """The audit that a configuration names, to be entered."""
    settings = configuration.settings
    return AuditLog.opened(
        settings.audit,
        settings.state,
        durability=Durability(settings.durability),
        record=Record(settings.record),
    )


def audit_reader(configuration: Configuration) -> AuditReader:
    """What the audit holds. Raises `StoreUnavailable` where it cannot be read."""
    path = configuration.settings.audit
    if not path.exists():
        hint = "the gateway makes it when it starts; if it has been started before, somebody removed the audit"
        raise StoreUnavailable(f"{path} does not exist: {hint}")
    return AuditReader(path)


def broker_of(
    configuration: Configuration, pages_for: Callable[[Owner], Awaitable[str]], on_login: Callable[[str], None]
) -> TokenBroker:
    """What finds credentials; the vault is opened when one is needed from there."""
    settings = configuration.settings
    secrets_ = Secrets(os.environ, configuration.path.absolute().parent)
    vault = Vault(lambda: opened_vault(settings.state, settings.vault_keys, secrets_))
    return TokenBroker(vault, pages_for, time.time, on_login, configuration.identity.url)


def sign_in_of(settings: Settings) -> SignIn | None:
    """Where people prove who they are, if that is configured."""
    if settings.sign_in is None:
        return None
    allow = (
        *settings.allow_addresses,
        *(LOOPBACK if is_loopback(urlsplit(settings.sign_in.issuer).hostname or "") else ()),
    )
    return SignIn(settings.sign_in, Allowed.of(allow), time.time)


def password_check(login: AuthorizationServer) -> Callable[[str, str, str], Awaitable[bool]]:
    """Whether a password is that of a local account; never, for a while, after many that were not."""

    async def is_right(person: str, password: str, peer: str) -> bool:
        try:
            return await login.log_in(person, password, peer) is not None
        except OAuthRefused:
            return False

    return is_right


def for_everybody(listing: Listing, servers: Sequence[ServerConfig]) -> Listing:
    """What of a list everybody may know: where each person has a login of their own, one person's resources are
    nobody else's business unless the operator said whose list it is."""
    server = next((server for server in servers if server.name == listing.upstream), None)
    is_personal = server is not None and server.auth is not None and server.auth.kind is AuthKind.OAUTH
    if server is None or server.auth is None or not is_personal or server.auth.list_as:
        return listing
    return replace(listing, resources=())


@asynccontextmanager
async def trusting(parts: Running, keys: Keys, tasks: StartedTasks, origin: str) -> AsyncIterator[Trust]:
    """Who may be let in at the HTTP door, and for which task that somebody started, while the block runs.

    `origin` is where it listens. The keys of issuers are kept fresh meanwhile.
    """
    settings, written = parts.configuration.settings, parts.configuration.identity
    config = replace(written, url=written.url or origin)
    fetcher = Fetcher(Allowed.of(settings.allow_addresses))
    login, store = None, None
    if config.login is not None:
        store = logins_of(parts.configuration)
        key = signing_key(random_key(settings.state / LOGIN_KEY_FILE))
        login = AuthorizationServer(config.url, config.login, store, key, fetcher, time.time)
        await login.learn_of_revocations()
    tokens = tokens_of(config, fetcher, lambda: parts.gateway.snapshot.policy, login, time.time())
    watch = None if login is None else asyncio.create_task(login.keep_current())
    try:
        async with tokens.kept_fresh() if tokens is not None else nullcontext():
            checks: list[TokenCheck] = [ApiKeyCheck(keys), TaskTokenCheck(tasks)]
            verifier = Verifier(checks, settings.anonymous, tasks, settings.task_claim or "", tokens)
            yield Trust(verifier, resource_of(config), login, config.url)
    finally:
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        if store is not None:
            store.close()
        await fetcher.aclose()


def logins_of(configuration: Configuration) -> LoginStore:
    """The accounts and grants of the embedded authorization server. Raises `StoreUnavailable`."""
    return LoginStore(configuration.settings.state)


def started_tasks_of(configuration: Configuration) -> StartedTasks:
    """The tasks that were started here. Raises `StoreUnavailable`."""
    return StartedTasks(configuration.settings.state)


def started_task_of(tasks: StartedTasks, agent: str, token: str) -> StartedTask:
    """The task under way whose token this is. Raises `NotAuthenticated` for any that is not this agent's."""
    found = tasks.verify(token, utc_now())
    if found is None or found.agent != agent:
        raise NotAuthenticated(f"the task token is not one of {agent!r}, or its task is over")
    return found


def started_now(tasks: StartedTasks, started: StartedTask) -> Callable[[], StartedTask]:
    """What tells a started task as it is now; one that cannot be looked up is over."""

    def as_it_is() -> StartedTask:
        now = utc_now()
        try:
            return tasks.as_it_is(started, now)
        except StoreUnavailable:
            return replace(started, expires=now)

    return as_it_is


async def until_over(tasks: StartedTasks, started: StartedTask) -> None:
    """Return as soon as a started task is over, whoever ended it."""
    while tasks.holds(started.id, utc_now()):  # noqa: ASYNC110 - another process ends it
        await anyio.sleep(LOOK_EVERY_S)


@asynccontextmanager
async def desk(configuration: Configuration) -> AsyncIterator[Desk]:
    """Where one command starts and ends tasks and answers approvals, beside whatever gateways are running."""
    policy = policy_of(configuration)
    settings = configuration.settings
    tasks = started_tasks_of(configuration)
    transactions = Transactions(settings.state, utc_now, settings.approval_wait_s)
    try:
        async with open_audit(configuration) as audit:
            yield Desk(tasks, transactions, audit, lambda: policy, utc_now)
    finally:
        transactions.close()
        tasks.close()


def keys_of(configuration: Configuration) -> Keys:
    """The API keys this gateway has issued. Raises `StoreUnavailable`."""
    return Keys(configuration.settings.state)


async def catalog_of(configuration: Configuration, upstream: str, timeout_s: float) -> tuple[Catalog, tuple[Held, ...]]:
    """What one enabled upstream offers agents right now, without a gateway running, and what of it is held back.

    Raises `Unreachable` if it cannot say.
    """
    only = replace(configuration, servers=tuple(each for each in configuration.servers if each.name == upstream))
    sifted, silent = await sifted_of(only, read_lock(lock_path(configuration.path)), timeout_s)
    if not sifted:
        raise Unreachable(upstream, silent.get(upstream) or f"it has not answered within {timeout_s:.0f} s")
    rules = {server.name: naming_rule(server) for server in only.servers}
    held = tuple(each for parted in sifted.values() for each in parted.held)
    return build([parted.listing for parted in sifted.values()], rules), held


async def sifted_of(
    configuration: Configuration, lock: Lock, timeout_s: float
) -> tuple[Mapping[str, Sifted], Mapping[str, str]]:
    """What every enabled upstream offers right now and what of it is held back; and why others cannot be asked."""
    servers = [server for server in bounded(configuration) if server.enabled]
    trust = {server.name: server.trust for server in servers}
    async with Pool(limits=upstream_limits(configuration.settings)) as pool:
        await pool.apply(servers)
        await pool.settled(timeout_s)
        listings = pool.listings
        silent = {status.name: status.detail for status in pool.statuses() if status.name not in listings}
    now = _utc_text()
    return {name: sift(lock.of(name), each, trust[name], now) for name, each in listings.items()}, silent


def bounded(configuration: Configuration) -> Sequence[ServerConfig]:
    """The servers, none with more time for a call than `[gateway]` allows."""
    most_s = configuration.settings.call_timeout_s
    return [replace(server, timeout_s=min(server.timeout_s, most_s)) for server in configuration.servers]


def upstream_limits(settings: Settings) -> UpstreamLimits:
    """Bounds on upstreams that let through every result that `[gateway]` allows."""
    usual = UpstreamLimits()
    return replace(
        usual,
        max_message_bytes=max(usual.max_message_bytes, settings.max_result_bytes + ENVELOPE_BYTES),
        max_answer_bytes=max(usual.max_answer_bytes, 2 * settings.max_result_bytes),
        follow_s=settings.call_timeout_s,
    )


def naming_rule(server: ServerConfig) -> NamingRule:
    """How one server's targets are named and which of them exist for agents."""
    return NamingRule(
        prefix=server.prefix,
        include=server.include,
        exclude=server.exclude,
        tags=server.tags,
        tool_tags=server.tool_tags,
    )


def spent_budgets(
    configuration: Configuration, since: datetime | None
) -> list[tuple[str, str, int, int, int, int, int]]:
    """What has been taken out of budgets in windows that began since then, as `storage.budgets.Spent` has it."""
    store = BudgetStore(configuration.settings.state)
    try:
        return [astuple(spent) for spent in store.spent(0 if since is None else int(since.timestamp()))]
    finally:
        store.close()
