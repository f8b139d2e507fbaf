"""How each upstream's credential stands, for operators: until when, for what, what went wrong, what to do next.

Nothing secret is here to be shown: it is made of the configuration and of what the vault keeps in the clear.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mcp_gateway.config.secrets import is_secret_name
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.config.upstream_auth import AuthKind
from mcp_gateway.credentials.owners import option_for
from mcp_gateway.storage.vault import LoginRow


class State(StrEnum):
    """How one credential stands."""

    NONE_NEEDED = "none_needed"  # the configuration says nothing of a credential
    FIXED = "fixed"  # a token or key that stands in, or is named by, servers.toml
    OBTAINED = "obtained"  # the gateway gets a token by itself whenever it needs one
    VALID = "valid"  # a login whose token holds
    RENEWABLE = "renewable"  # a login whose token is over, and will be renewed at the next call
    NEEDS_LOGIN = "needs_login"  # nobody has logged in, or the login is over


@dataclass(frozen=True, slots=True)
class Standing:
    """One credential: of an upstream, or of one owner at an upstream."""

    upstream: str
    state: State
    kind: str = ""
    owner: str = ""
    issuer: str = ""
    resource: str = ""
    scopes: tuple[str, ...] = ()
    valid_until: float | None = None
    """Of the access token; seconds since the epoch. None: it did not say, or there is none."""
    last_error: str = ""
    last_error_at: float | None = None
    next_step: str = ""


def standings(servers: Iterable[ServerConfig], rows: Sequence[LoginRow], now: float) -> tuple[Standing, ...]:
    """How every upstream's credentials stand, in the order of the configuration."""
    return tuple(standing for server in servers for standing in _of_server(server, rows, now))


def _of_server(server: ServerConfig, rows: Sequence[LoginRow], now: float) -> Iterator[Standing]:
    if server.auth is None:
        has_secret = any(is_secret_name(name) for name in server.headers)
        yield Standing(server.name, State.FIXED if has_secret else State.NONE_NEEDED)
        return
    if server.auth.kind is not AuthKind.OAUTH:
        yield Standing(server.name, State.OBTAINED, server.auth.kind, scopes=server.auth.scopes)
        return
    mine = [row for row in rows if row.upstream == server.name]
    if not mine:
        yield Standing(server.name, State.NEEDS_LOGIN, AuthKind.OAUTH, next_step=f"mcp-gateway login {server.name}")
    for row in mine:
        yield _of_login(row, now)


def _of_login(row: LoginRow, now: float) -> Standing:
    holds = bool(row.sealed) and (row.expires_at is None or now < row.expires_at)
    state = State.VALID if holds else State.RENEWABLE if row.sealed and row.renewable else State.NEEDS_LOGIN
    step = {State.NEEDS_LOGIN: f"mcp-gateway login {row.upstream} {option_for(row.owner)}"}.get(state, "")
    if state is State.RENEWABLE:
        step = "none: the next call renews it"
    return Standing(
        upstream=row.upstream,
        state=state,
        kind=AuthKind.OAUTH,
        owner=row.owner,
        issuer=row.issuer,
        resource=row.resource,
        scopes=tuple(row.scopes.split()),
        valid_until=row.expires_at,
        last_error=row.last_error,
        last_error_at=row.last_error_at,
        next_step=step,
    )
