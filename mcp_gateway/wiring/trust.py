"""Who may be let in at the HTTP door, and how people prove who they are."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from mcp_gateway.config.settings import Settings, is_loopback
from mcp_gateway.credentials.party import LOOPBACK
from mcp_gateway.credentials.sign_in import SignIn
from mcp_gateway.identity.login import AuthorizationServer, OAuthRefused
from mcp_gateway.identity.resource import Resource
from mcp_gateway.identity.verify import Verifier
from mcp_gateway.netguard import Allowed


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
