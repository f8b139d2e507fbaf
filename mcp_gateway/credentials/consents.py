"""People on their way to log in: each begun by one owner, sent to one authorization server, finished once.

    begin     an agent's call found no login: there is a ticket, and a page to open it with
    start     the person pressed the button: state, PKCE and the browser's own secret are made now, not before
    finish    the authorization server sent the browser back; state, browser, issuer and code have to fit

A ticket lives ten minutes, a state works once, and what belongs to one owner is never found by another.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode, urlsplit

from mcp_gateway.credentials import dpop
from mcp_gateway.credentials.clients import Clients, Identity
from mcp_gateway.credentials.owners import Owner
from mcp_gateway.credentials.party import Party, Place
from mcp_gateway.credentials.tokens import Refused, Token
from mcp_gateway.credentials.vault import Login, Vault
from mcp_gateway.errors import Misbehaved, UpstreamError
from mcp_gateway.storage.vault import LoginRow

TTL_S: Final = 600.0
MAX_PENDING: Final = 10_000
MAX_PENDING_OF_ONE: Final = 32
CALLBACK: Final = "/connect/callback"


class ConsentRefused(Exception):
    """It cannot be gone on with. The text is for the person at the browser: no secrets, nothing of anybody else."""


@dataclass(eq=False)
class Pending:
    """One login on its way."""

    ticket: str
    owner: Owner
    party: Party
    more_scopes: tuple[str, ...]
    base_url: str
    begun_at: float
    browser: str = field(default="", repr=False)
    state: str = field(default="", repr=False)
    verifier: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    place: Place | None = None
    who: Identity | None = None
    asked: tuple[str, ...] = ()

    @property
    def page(self) -> str:
        """The page to open; proves nothing, and holds nothing of the person."""
        return f"{self.base_url}/connect/{self.ticket}"

    @property
    def redirect_uri(self) -> str:
        return f"{self.base_url}{CALLBACK}"


Kept = Callable[[Login], Awaitable[None]]


class Consents:
    """All logins on their way. Lives in memory: a restart means to begin again."""

    def __init__(self, vault: Vault, clients: Clients, clock: Callable[[], float], on_kept: Kept) -> None:
        self._vault = vault
        self._clients = clients
        self._clock = clock
        self._on_kept = on_kept
        self.mark = ""
        """What tickets and states begin with: whose they are, of several processes."""
        self._by_ticket: dict[str, Pending] = {}
        self._by_state: dict[str, Pending] = {}

    def begin(self, owner: Owner, party: Party, more_scopes: tuple[str, ...], base_url: str) -> Pending:
        """A login to be finished within ten minutes; the same again where it has begun and nobody opened it."""
        self._drop_old()
        mine = [pending for pending in self._by_ticket.values() if pending.owner == owner]
        for pending in mine:
            if pending.party is party and pending.more_scopes == more_scopes and not pending.state:
                pending.begun_at = self._clock()
                return pending
        if len(mine) >= MAX_PENDING_OF_ONE:
            self._drop(mine[0])
        if len(self._by_ticket) >= MAX_PENDING:
            self._drop(next(iter(self._by_ticket.values())))
        pending = Pending(self.mark + secrets.token_urlsafe(32), owner, party, more_scopes, base_url, self._clock())
        self._by_ticket[pending.ticket] = pending
        return pending

    def pending(self, ticket: str) -> Pending:
        """The login a page is about. Raises `ConsentRefused`."""
        self._drop_old()
        found = self._by_ticket.get(ticket)
        if found is None:
            raise ConsentRefused("This link is not valid any more: ask the agent again, and open the new one.")
        return found

    async def start(self, ticket: str) -> tuple[str, str]:
        """Where to send the browser, and the secret it has to come back with. Raises `ConsentRefused`."""
        pending = self.pending(ticket)
        party = pending.party
        try:
            await party.probe()
            place = await party.place()
            _check_can_log_in(party, place)
            pending.key = party.key_for(place)
            pending.who = await self._clients.identity(party, place.server, pending.redirect_uri)
        except UpstreamError as e:
            raise ConsentRefused(f"The login cannot be begun: {e}.") from e
        self._by_state.pop(pending.state, None)
        pending.place, pending.asked = place, party.scopes_for(place, pending.more_scopes)
        pending.state, pending.verifier = self.mark + secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        pending.browser = secrets.token_urlsafe(32)
        self._by_state[pending.state] = pending
        return _authorization_url(pending, place, pending.who), pending.browser

    async def finish(self, query: Mapping[str, str], browser: str) -> Login:
        """Take the code the browser brought, get the tokens and keep them. Raises `ConsentRefused`.

        Whatever comes of it, the state has been used up.
        """
        self._drop_old()
        pending = self._by_state.pop(query.get("state", ""), None)
        if pending is None:
            raise ConsentRefused("This login is not one that was begun here, or it was finished or too late.")
        self._drop(pending)
        if not browser or not hmac.compare_digest(browser, pending.browser):
            raise ConsentRefused("This login was begun in another browser: finish it there, or begin again.")
        assert pending.place is not None and pending.who is not None  # noqa: S101  set together with the state
        code = _code_in(query, pending.place)
        token = await self._token(pending, pending.place, pending.who, code)
        login = await self._vault.keep(_row(pending, pending.place, pending.who, token, self._clock()), token)
        await self._on_kept(login)
        return login

    async def _token(self, pending: Pending, place: Place, who: Identity, code: str) -> Token:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": pending.redirect_uri,
            "code_verifier": pending.verifier,
            "resource": place.resource.resource,
        }
        endpoint = pending.party.endpoint(place.server, pending.key)
        try:
            return await endpoint.token(form, who.client, who.method, self._clock())
        except (Refused, UpstreamError) as e:
            raise ConsentRefused(f"The login was not completed: {e}.") from e

    def _drop_old(self) -> None:
        # Not by begun_at alone: a ticket that is asked for again lives on, in its old place.
        horizon = self._clock() - TTL_S
        for pending in [pending for pending in self._by_ticket.values() if pending.begun_at < horizon]:
            self._drop(pending)

    def _drop(self, pending: Pending) -> None:
        self._by_ticket.pop(pending.ticket, None)
        self._by_state.pop(pending.state, None)


def _check_can_log_in(party: Party, place: Place) -> None:
    """2026-07-28 authorization: PKCE that is not advertised must be taken for PKCE that is not there."""
    words = ""
    if not place.server.authorization_endpoint:
        words = "has no page to log in at"
    elif not place.server.has_pkce:
        words = "does not say that it supports PKCE with S256, without which a login is not safe"
    if words:
        raise Misbehaved(party.name, f"the authorization server of upstream {party.name!r} {words}")


def _authorization_url(pending: Pending, place: Place, who: Identity) -> str:
    challenge = hashlib.sha256(pending.verifier.encode()).digest()
    query = {
        "response_type": "code",
        "client_id": who.client.client_id,
        "redirect_uri": pending.redirect_uri,
        "state": pending.state,
        "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
        "resource": place.resource.resource,
    }
    if pending.asked:
        query["scope"] = " ".join(pending.asked)
    if pending.key:
        query["dpop_jkt"] = dpop.key_of(pending.key).thumbprint()  # RFC 9449 section 10: nor is the code anybody else's
    if "offline_access" in pending.asked:
        query["prompt"] = "consent"  # OpenID Connect Core section 11: or offline_access is ignored
    endpoint = place.server.authorization_endpoint
    return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"


def _code_in(query: Mapping[str, str], place: Place) -> str:
    """The code, if the answer comes from the server the browser was sent to (RFC 9207). Raises `ConsentRefused`."""
    issuer = query.get("iss")
    if issuer is None and place.server.sends_issuer:
        raise ConsentRefused("The answer does not say which authorization server it comes from, which it should.")
    if issuer is not None and issuer != place.server.issuer:
        raise ConsentRefused("The answer comes from another authorization server than the login was begun with.")
    if "error" in query or not query.get("code"):
        raise ConsentRefused("The authorization server did not let you in, or you declined. Nothing was kept.")
    return query["code"]


def _row(pending: Pending, place: Place, who: Identity, token: Token, now: float) -> LoginRow:
    granted = token.scopes if token.scopes is not None else pending.asked
    return LoginRow(
        owner=pending.owner.id,
        upstream=pending.party.name,
        issuer=place.server.issuer,
        resource=place.resource.resource,
        scopes=" ".join(sorted(granted)),
        asked_scopes=" ".join(sorted(pending.asked)),
        client_id=who.client.client_id,
        key_id="",
        sealed=b"",
        expires_at=token.expires_at,
        renewable=bool(token.refresh_token),
        obtained_at=now,
        version=secrets.randbits(48),  # another login of the same owner never has the same one
    )
