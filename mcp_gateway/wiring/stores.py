"""What a gateway keeps on disk, opened as a configuration names it: audit, keys, logins, tasks, budgets, vault."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import astuple
from datetime import datetime

from mcp_gateway.audit.kept import Store
from mcp_gateway.audit.log import AuditLog, AuditSettings, Durability, Record
from mcp_gateway.audit.metered import MeteredAuditLog
from mcp_gateway.audit.query import AuditReader
from mcp_gateway.config.secrets import Secrets
from mcp_gateway.config.servers import Configuration
from mcp_gateway.credentials.broker import TokenBroker
from mcp_gateway.credentials.owners import Owner
from mcp_gateway.credentials.vault import Vault, opened_vault
from mcp_gateway.credentials.vault_keys import keys_of as keys_sealing
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.identity.keys import Keys
from mcp_gateway.identity.started import StartedTasks
from mcp_gateway.metrics import Metrics
from mcp_gateway.storage.budgets import BudgetStore
from mcp_gateway.storage.kept import KeptStore
from mcp_gateway.storage.logins import LoginStore


def open_audit(
    configuration: Configuration, metrics: Metrics | None = None, *, takes_turns: bool = False
) -> AbstractAsyncContextManager[AuditLog]:
    """The audit that a configuration names, to be entered; with `metrics` it counts what it writes down.

    `takes_turns`: with others that write as much.
    """
    settings = configuration.settings
    kept = AuditSettings(
        settings.audit,
        settings.state,
        durability=Durability(settings.durability),
        record=Record(settings.record),
        takes_turns=takes_turns,
    )
    return (AuditLog(kept) if metrics is None else MeteredAuditLog(kept, metrics)).started()


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


def kept_store(configuration: Configuration) -> Store:
    """What is kept of calls, everything in it sealed with the first of the vault's keys. Raises `StoreUnavailable`."""
    settings = configuration.settings
    secrets_ = Secrets(os.environ, configuration.path.absolute().parent)
    table = KeptStore(settings.state)
    try:
        store = Store(table, keys_sealing(settings.vault_keys, secrets_, settings.state))
        if len(settings.vault_keys) > 1:
            store.seal_anew(time.time())
    except BaseException:
        table.close()
        raise
    return store


def logins_of(configuration: Configuration) -> LoginStore:
    """The accounts and grants of the embedded authorization server. Raises `StoreUnavailable`."""
    return LoginStore(configuration.settings.state)


def keys_of(configuration: Configuration) -> Keys:
    """The API keys this gateway has issued. Raises `StoreUnavailable`."""
    return Keys(configuration.settings.state)


def started_tasks_of(configuration: Configuration) -> StartedTasks:
    """The tasks that were started here. Raises `StoreUnavailable`."""
    return StartedTasks(configuration.settings.state)


def spent_budgets(
    configuration: Configuration, since: datetime | None
) -> list[tuple[str, str, int, int, int, int, int]]:
    """What has been taken out of budgets in windows that began since then, as `storage.budgets.Spent` has it."""
    store = BudgetStore(configuration.settings.state)
    try:
        return [astuple(spent) for spent in store.spent(0 if since is None else int(since.timestamp()))]
    finally:
        store.close()
