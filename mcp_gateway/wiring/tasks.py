"""Started tasks and approvals for one command, beside whatever gateways are running."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import anyio.to_thread

from mcp_gateway.config.servers import Configuration
from mcp_gateway.domain import StartedTask
from mcp_gateway.errors import NotAuthenticated, StoreUnavailable
from mcp_gateway.frontdoor.desk import Desk
from mcp_gateway.frontdoor.housekeeping import LOOK_EVERY_S
from mcp_gateway.guards.transactions import Transactions
from mcp_gateway.identity.started import StartedTasks
from mcp_gateway.storage.stamped import once_unlocked, waiting_until_unlocked
from mcp_gateway.wiring.clock import utc_now
from mcp_gateway.wiring.policies import policy_of
from mcp_gateway.wiring.stores import open_audit, started_tasks_of


def started_task_of(tasks: StartedTasks, agent: str, token: str) -> StartedTask:
    """The task under way whose token this is. Raises `NotAuthenticated` for any that is not this agent's."""
    found = waiting_until_unlocked(lambda: tasks.verify(token, utc_now()))
    if found is None or found.agent != agent:
        raise NotAuthenticated(f"the task token is not one of {agent!r}, or its task is over")
    return found


def started_now(tasks: StartedTasks, started: StartedTask) -> Callable[[], StartedTask]:
    """What tells a started task as it is now; one that cannot be looked up is over."""

    def as_it_is() -> StartedTask:
        now = utc_now()
        try:
            return waiting_until_unlocked(lambda: tasks.as_it_is(started, now))
        except StoreUnavailable:
            return replace(started, expires=now)

    return as_it_is


async def until_over(tasks: StartedTasks, started: StartedTask) -> None:
    """Return as soon as a started task is over, whoever ended it."""
    while await once_unlocked(lambda: tasks.holds(started.id, utc_now())):  # noqa: ASYNC110 - another process ends it
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
