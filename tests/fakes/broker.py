"""A token broker over a real vault, with its login pages served, for upstreams that are `authorization.World`s."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fakes.authorization import World, log_in
from mcp_gateway.config.secrets import Secrets
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.config.upstream_auth import AuthConfig, AuthKind
from mcp_gateway.credentials.broker import TokenBroker
from mcp_gateway.credentials.owners import Owner
from mcp_gateway.credentials.vault import Vault, opened_vault
from mcp_gateway.domain import Caller, Credential
from mcp_gateway.errors import ConsentNeeded
from mcp_gateway.frontdoor.connect import ConnectPages
from mcp_gateway.frontdoor.connect_listener import ConnectListener

OAUTH = AuthConfig(AuthKind.OAUTH)


@dataclass
class Clock:
    """A clock that can be put forward."""

    ahead_s: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@dataclass
class Bench:
    """The broker, and what a test does with it."""

    broker: TokenBroker
    clock: Clock
    noted: list[str] = field(default_factory=list)

    async def person(self, name: str, upstream: str = "crm") -> Credential:
        """The credential for a person, who logs in if that is asked of them."""
        caller = caller_of(name)
        try:
            return await self.broker.credential_for(caller, upstream)
        except ConsentNeeded as e:
            shown = await log_in(e.url, name)
            assert shown.status_code == 200, shown.text
            return await self.broker.credential_for(caller, upstream)


def caller_of(person: str, **more: Any) -> Caller:
    return Caller(agent="bot", task="work", person=person, claims={"iss": "https://idp.example"}, **more)


def server_of(world: World, name: str = "crm", auth: AuthConfig = OAUTH) -> ServerConfig:
    return ServerConfig(name, url=world.url, auth=auth)


@asynccontextmanager
async def bench(state: Path, *servers: ServerConfig, vault_keys: tuple[str, ...] = ()) -> AsyncIterator[Bench]:
    """A broker for these servers. Pages may be opened by anybody: who opens them is not its business."""
    clock = Clock()

    async def pages_for(owner: Owner) -> str:
        return await listener.base_url()

    vault = Vault(lambda: opened_vault(state, vault_keys, Secrets({}, state)))
    broker = TokenBroker(vault, pages_for, clock)
    made = Bench(broker, clock)

    async def note(upstream: str, agent: str, what: str) -> None:
        made.noted.append(f"{upstream}: {what}")

    broker.note = note
    listener = ConnectListener(ConnectPages(broker.consents))
    broker.apply(servers, ())
    try:
        yield made
    finally:
        await listener.close()
        await broker.close()
        vault.close()
