"""A gateway's parts started in the one order that works, and ended in the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Final

import anyio
import anyio.to_thread

from mcp_gateway.frontdoor.exchange import DRAIN_S
from mcp_gateway.frontdoor.siblings import Siblings
from mcp_gateway.identity.keys import Keys
from mcp_gateway.identity.login import AuthorizationServer, signing_key
from mcp_gateway.identity.started import StartedTasks, TaskTokenCheck
from mcp_gateway.identity.trust import resource_of, tokens_of
from mcp_gateway.identity.verify import ApiKeyCheck, TokenCheck, Verifier
from mcp_gateway.models import prices
from mcp_gateway.netguard import Allowed, Fetcher
from mcp_gateway.storage.private import random_key
from mcp_gateway.wiring.metering import metrics_of
from mcp_gateway.wiring.offers import bounded
from mcp_gateway.wiring.parts import Load, Running
from mcp_gateway.wiring.policies import policy_of
from mcp_gateway.wiring.stores import logins_of, open_audit
from mcp_gateway.wiring.trust import Trust

FIRST_LIST_S: Final = 5.0
"""How long the first requests wait for upstreams that are starting. A slower one is announced when it is there."""

LOGIN_KEY_FILE: Final = "login.key"


@asynccontextmanager
async def running(load: Load, siblings: Siblings | None = None) -> AsyncIterator[Running]:
    """Start a gateway's parts as `load` says; upstreams come up by themselves meanwhile.

    `siblings`: the processes the gateway consists of; None: it is this one alone.

    Raises `ConfigInvalid` and `PolicyInvalid` before anything is started, `StoreUnavailable` where the audit cannot
    be opened.
    """
    configuration = load()
    policy = policy_of(configuration)
    metrics = metrics_of(configuration)
    async with open_audit(configuration, metrics, takes_turns=siblings is not None) as audit:
        parts = Running(configuration, policy, load, audit, siblings, metrics)
        async with _closing(parts), parts.pool, anyio.create_task_group() as tasks:
            await parts.pool.apply(bounded(configuration))
            await parts.own_lists.recall()
            parts.gateway.hold()
            tasks.start_soon(_open_when_settled, parts)
            tasks.start_soon(parts.broker.keep_watch)
            tasks.start_soon(anyio.to_thread.run_sync, prices.load, configuration.models.providers)
            if parts.pool.lender is None:  # of several processes, the first one keeps house
                tasks.start_soon(parts.keep_pins)
                tasks.start_soon(parts.keeper.purge_as_time_goes_by)
            tasks.start_soon(parts.own_lists.keep)
            if metrics is not None:
                tasks.start_soon(metrics.watch_the_loop)
            try:
                yield parts
            finally:
                if parts.lending is not None:
                    with anyio.CancelScope(shield=True):
                        await parts.lending.returned(DRAIN_S)
                await parts.senders.close()
                await parts.judges.close()
                parts.budgets.close()
                parts.transactions.close()
                parts.used.close()
                parts.keeper.close()
                parts.kept_things.close()
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
