"""Renewing a login before it is over: one renewal at a time in all processes, and nothing lost on the way.

Order: lock (ends with the process that holds it), read again what is kept, write down that the refresh token is about
to be used, use it, keep the answer in one transaction. Only `invalid_grant` ends a login; whatever else goes wrong
leaves it as it was, to be tried again. What a crash between the answer and the store can cost, and when:
docs/decisions/0012-one-renewal.md.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import Final

from mcp_gateway.credentials.clients import Clients
from mcp_gateway.credentials.party import Party
from mcp_gateway.credentials.tokens import Refused, Token
from mcp_gateway.credentials.vault import Login, Vault
from mcp_gateway.errors import StoreUnavailable, Unreachable, UpstreamError

LOCK_WAIT_S: Final = 30.0
LOCK_LOOK_S: Final = 0.05
STORE_WAITS_S: Final = (0.1, 0.5, 2.0, 5.0, 10.0)

_log: Final = logging.getLogger(__name__)


class LoginOver(Exception):
    """The person has to log in (again). The text says why, if there is anything to say; `scopes` what to ask for."""

    def __init__(self, why: str = "", scopes: tuple[str, ...] = ()) -> None:
        super().__init__(why)
        self.scopes = scopes


async def renewed(party: Party, vault: Vault, clients: Clients, login: Login) -> Login:
    """`login` with an access token that holds, renewed by us or by whoever was faster.

    Raises `LoginOver`, or `UpstreamError` where it may work another time.
    """
    owner, upstream = login.row.owner, login.row.upstream
    await _locked(vault, owner, upstream)
    try:
        now = await vault.login(owner, upstream)
        if now is None or now.is_over:
            raise LoginOver(now.row.last_error if now is not None else "the login was removed")
        if now.row.version != login.row.version:
            return now
        return await _renew(party, vault, clients, now)
    finally:
        await vault.unlock(owner, upstream)


async def _locked(vault: Vault, owner: str, upstream: str) -> None:
    deadline = asyncio.get_running_loop().time() + LOCK_WAIT_S
    while not await vault.try_lock(owner, upstream):
        if asyncio.get_running_loop().time() > deadline:
            raise Unreachable(upstream, f"the login at upstream {upstream!r} is being renewed by another process")
        await asyncio.sleep(LOCK_LOOK_S)


async def _renew(party: Party, vault: Vault, clients: Clients, login: Login) -> Login:
    if not login.refresh_token:
        raise LoginOver("it has expired, and the authorization server gave nothing to renew it with")
    server = await party.server(login.row.issuer)
    who = await clients.known(party, server, login.row.client_id)
    if who is None:
        raise LoginOver("the gateway's registration at the authorization server is gone")
    form = {
        "grant_type": "refresh_token",
        "refresh_token": login.refresh_token,
        "resource": login.row.resource,
    }
    was_cut_off = login.row.renewal_began
    await vault.begin_renewal(login, party.clock())
    try:
        token = await party.endpoint(server, login.key).token(form, who.client, who.method, party.clock())
    except Refused as e:
        if e.is_final:
            why = _why_over(was_cut_off)
            await vault.wipe(login, why, party.clock())
            raise LoginOver(why) from e
        await vault.note_error(login, str(e), party.clock())
        raise Unreachable(party.name, f"the login at upstream {party.name!r} cannot be renewed now: {e}") from e
    except UpstreamError as e:
        await vault.note_error(login, str(e), party.clock())
        raise
    kept = await _kept(party, vault, login, token)
    return kept or await _as_it_is_now(vault, login)


async def _kept(party: Party, vault: Vault, login: Login, token: Token) -> Login | None:
    """The renewed tokens, stored: what the disk will not take now it may take in a moment, and there is no other copy
    of them. Raises `StoreUnavailable` in the end."""
    for wait_s in STORE_WAITS_S:
        try:
            return await vault.keep_renewed(login, token, party.clock())
        except StoreUnavailable as e:
            _log.error("the renewed login of %s at %s cannot be kept yet: %s", login.row.owner, party.name, e)
            await asyncio.sleep(wait_s)
    return await vault.keep_renewed(login, token, party.clock())


async def _as_it_is_now(vault: Vault, before: Login) -> Login:
    """Somebody logged in anew, or out, while we renewed: theirs is what counts."""
    now = await vault.login(before.row.owner, before.row.upstream)
    if now is None or now.is_over:
        raise LoginOver("the login was removed")
    return now


def _why_over(was_cut_off: float | None) -> str:
    said = "the authorization server has ended it (invalid_grant)"
    if was_cut_off is None:
        return said
    at = datetime.fromtimestamp(was_cut_off, UTC).isoformat(timespec="seconds")
    return f"{said}, after a renewal that was cut off at {at}: its answer, with the next refresh token, was lost"
