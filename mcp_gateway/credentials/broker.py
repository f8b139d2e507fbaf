"""What finds the credential for a call: fixed ones, tokens held in memory, logins in the vault, and people to ask.

A valid token costs a look into a dict. Around its expiry one task renews it for everybody who waits, and for nobody
who need not. Everything is kept by owner and upstream; there is no credential to fall back to.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from joserfc.jwk import ECKey

from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.config.upstream_auth import AuthKind
from mcp_gateway.credentials import dpop
from mcp_gateway.credentials.challenges import BearerChallenge
from mcp_gateway.credentials.clients import Clients
from mcp_gateway.credentials.consents import Consents
from mcp_gateway.credentials.grants import obtained
from mcp_gateway.credentials.owners import BY_PERSON, Owner, PersonsLogin, login_of, name_of, option_for, owner_of
from mcp_gateway.credentials.party import Party, allowed_for
from mcp_gateway.credentials.renewal import LoginOver, renewed
from mcp_gateway.credentials.vault import Login, Vault
from mcp_gateway.domain import Caller, Challenge, Credential
from mcp_gateway.errors import ConsentNeeded, LoginNeeded, StoreUnavailable, Unreachable, UpstreamError

RENEW_BEFORE_S: Final = 60.0
RENEW_SHARE: Final = 0.2
"""A token is renewed a minute before its end, or after four fifths of a short life."""

SKEW_S: Final = 2.0
"""A token this close to its end is not sent any more."""

TRY_AGAIN_S: Final = 5.0
"""How long a renewal that failed is left alone while the token still holds."""

FRESH_S: Final = 10.0
"""A token refused so soon after it was obtained is not renewed again: another one would be refused, too."""

UNKNOWN_END_S: Final = 86_400.0
"""How long a token that does not say when it ends is used, unless it is refused before."""

MAX_HELD: Final = 100_000
LOOK_EVERY_S: Final = 1.0

_log: Final = logging.getLogger(__name__)

Key = tuple[str, str]
"""Owner and upstream."""

BaseUrl = Callable[[Owner], Awaitable[str]]
"""Where an owner can open this gateway's own pages. Raises `LookupError` where they cannot."""


@dataclass(slots=True)
class Held:
    """A token in memory, ready to be sent."""

    credential: Credential
    renew_at: float
    ends_at: float
    obtained_at: float
    login: Login | None = None


@dataclass(eq=False)
class TokenBroker:
    """Implements `domain.Broker` and `domain.OwnCredentials`."""

    vault: Vault
    base_url: BaseUrl
    clock: Callable[[], float]
    on_login: Callable[[str], None] = lambda upstream: None
    """Called with an upstream's name when there is a new login at it."""
    public_url: str = ""
    note: Callable[[str, str, str], Awaitable[None]] | None = None
    """Writes down what happened to a login: upstream, agent, what."""
    _fixed: Mapping[str, Credential] = field(default_factory=dict)
    _parties: Mapping[str, Party] = field(default_factory=dict)
    _held: dict[Key, Held] = field(default_factory=dict)
    _finding: dict[Key, asyncio.Task[Held]] = field(default_factory=dict)
    _not_before: dict[Key, float] = field(default_factory=dict)
    _bound: dict[str, ECKey] = field(default_factory=dict, repr=False)
    """The keys of tokens that are bound to one."""

    def __post_init__(self) -> None:
        self._clients = Clients(self.vault, self.public_url)
        self.consents = Consents(self.vault, self._clients, self.clock, self._take)
        self._closing: set[asyncio.Task[None]] = set()

    def apply(self, servers: Iterable[ServerConfig], allow: tuple[str, ...]) -> None:
        """Serve these upstreams from now on. Of those whose `auth` is another, nothing in memory is kept."""
        servers = list(servers)
        before, self._parties = self._parties, {s.name: self._party(s, allow) for s in servers if s.auth is not None}
        self._fixed = {s.name: Credential(headers=s.headers) for s in servers if s.auth is None}
        gone = {name for name, party in before.items() if self._parties.get(name) is not party}
        self._held = {key: held for key, held in self._held.items() if key[1] not in gone}
        for name in gone:
            task = asyncio.get_running_loop().create_task(before[name].close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def credential_for(self, caller: Caller, upstream: str) -> Credential:
        """See `domain.Broker`. `KeyError` for an upstream there is not: a bug of ours."""
        fixed = self._fixed.get(upstream)
        if fixed is not None:
            return fixed
        party = self._parties[upstream]
        owner = owner_of(caller, party.auth.kind)
        held = self._held.get((owner.id, upstream))
        now = self.clock()
        if held is not None and now < held.renew_at:
            return held.credential
        if held is not None and now < held.ends_at - SKEW_S:
            self._renew_soon(party, owner, held, login_of(caller))
            return held.credential
        try:
            return (await self._found(party, owner, login_of(caller))).credential
        except LoginOver as e:
            raise await self._consent(party, owner, e) from e

    def prove(self, token: str, method: str, url: str, nonce: str) -> str:
        """The DPoP proof for one request with a token that was handed out; empty: it is bound to no key of ours."""
        key = self._bound.get(token)
        return "" if key is None else dpop.proof(key, method, url, self.clock(), token=token, nonce=nonce)

    async def credential_if_any(self, caller: Caller, upstream: str) -> Credential | None:
        """As `credential_for`, for what a person did not ask for: None where they would have to log in.

        Raises `UpstreamError`.
        """
        party = self._parties[upstream]
        held = self._held.get((owner_of(caller, party.auth.kind).id, upstream))
        if held is not None and self.clock() < held.renew_at:
            return held.credential
        try:
            return (await self._found(party, owner_of(caller, party.auth.kind), login_of(caller))).credential
        except (LoginOver, LoginNeeded):
            return None

    async def after_refusal(self, caller: Caller, upstream: str, used: Credential, why: Challenge) -> Credential | None:
        """See `domain.Broker`."""
        party = self._parties.get(upstream)
        if party is None:
            return None
        owner = owner_of(caller, party.auth.kind)
        try:
            held = await self._better(party, owner, login_of(caller), used, why)
        except LoginOver as e:
            raise await self._consent(party, owner, e) from e
        return None if held is None else held.credential

    async def own(self, upstream: str) -> Credential:
        """See `domain.OwnCredentials`: a person's lists are asked for as whoever logged in last, or as `list_as`."""
        party = self._parties.get(upstream)
        if party is None:
            return Credential()
        held = await self._own(party)
        return Credential() if held is None else held.credential

    async def own_after_refusal(self, upstream: str, used: Credential, why: Challenge) -> Credential:
        """See `domain.OwnCredentials`."""
        party = self._parties[upstream]
        party.note(why)
        held = await self._own(party)
        if held is not None and held.credential.headers != used.headers:
            return held.credential
        if held is not None:
            try:
                owner = Owner("" if held.login is None else held.login.row.owner)
                held = await self._better(party, owner, PersonsLogin(), used, why)
            except LoginOver:
                held = None
        if held is None:
            raise LoginNeeded(upstream, f"upstream {upstream!r} {_what_it_needs(party, used, why)}")
        return held.credential

    async def log_out(self, owner: str, upstream: str) -> bool:
        """Forget a login here, then ask the authorization server to end it; False where there is none.

        Raises `UpstreamError` where the server could not be told; it is forgotten all the same.
        """
        self._held.pop((owner, upstream), None)
        login, party = await self.vault.login(owner, upstream), self._parties[upstream]
        was_there = await self.vault.forget(owner, upstream)
        if login is not None and not login.is_over:
            server = await party.server(login.row.issuer)
            who = await self._clients.known(party, server, login.row.client_id)
            if who is not None:
                token = login.refresh_token or login.access_token
                await party.endpoint(server).revoke(token, who.client, who.method, self.clock())
        return was_there

    async def keep_watch(self) -> None:
        """Notice what other processes change: who logged in or out on the command line. Runs until cancelled."""
        seen = 0
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if not any(party.auth.kind is AuthKind.OAUTH for party in self._parties.values()):
                continue
            try:
                now = await self.vault.commits()
                if now != seen:
                    seen = now
                    await self._look_again()
            except StoreUnavailable as e:
                _log.error("the vault cannot be read: %s", e)

    async def close(self) -> None:
        """Let renewals under way finish: what they bring must be kept."""
        if self._finding:
            await asyncio.wait(list(self._finding.values()), timeout=15)
        for party in self._parties.values():
            await party.close()

    def party(self, upstream: str) -> Party | None:
        """What is known of an upstream that wants tokens."""
        return self._parties.get(upstream)

    def _party(self, server: ServerConfig, allow: tuple[str, ...]) -> Party:
        known = self._parties.get(server.name)
        if known is not None and (known.config.url, known.config.auth) == (server.url, server.auth):
            return known
        assert server.auth is not None  # noqa: S101  the caller has looked
        issuers = tuple(issuer for issuer in (server.auth.client.issuer, server.auth.idp.issuer) if issuer)
        return Party(server, server.auth, allowed_for(server, allow, issuers), self.clock)

    async def _own(self, party: Party) -> Held | None:
        """What our own requests go with as long as nobody refused it."""
        if party.auth.kind is AuthKind.OAUTH:
            return await self._lister(party)
        if party.auth.kind in BY_PERSON and party.auth.token is None:
            return self._anybody(party)
        return await self._found(party, Owner(""), PersonsLogin()) if party.was_challenged else None

    async def _lister(self, party: Party) -> Held | None:
        """The login that an upstream's lists are asked for with."""
        wanted = party.auth.list_as
        rows = [row for row in await self.vault.rows() if row.upstream == party.name and row.sealed]
        for row in rows:
            if not wanted or wanted in (row.owner, name_of(row.owner)):
                try:
                    return await self._found(party, Owner(row.owner), PersonsLogin())
                except (LoginOver, UpstreamError) as e:
                    _log.warning("upstream %s: the login of %s cannot be used: %s", party.name, row.owner, e)
        return None

    def _anybody(self, party: Party) -> Held | None:
        now = self.clock()
        mine = (held for (_, upstream), held in self._held.items() if upstream == party.name)
        return next((held for held in mine if now < held.ends_at - SKEW_S), None)

    def _renew_soon(self, party: Party, owner: Owner, held: Held, login: PersonsLogin) -> None:
        """Renew in the background what still holds; not again and again where that fails."""
        key = (owner.id, party.name)
        if key in self._finding or self.clock() < self._not_before.get(key, 0.0):
            return
        if held.login is not None and not held.login.refresh_token:
            held.renew_at = held.ends_at - SKEW_S  # it cannot be renewed: it is used up to its end
            return
        self._not_before[key] = self.clock() + TRY_AGAIN_S * random.uniform(0.8, 1.2)  # noqa: S311
        self._task(party, owner, login, held.login)

    async def _found(self, party: Party, owner: Owner, login: PersonsLogin, stale: Login | None = None) -> Held:
        """A token that holds; whoever asks at the same time shares the search. Raises `LoginOver`, `UpstreamError`.

        The search goes on when who asked has gone: a refresh token that was sent must not be lost.
        """
        task = self._finding.get((owner.id, party.name)) or self._task(party, owner, login, stale)
        return await asyncio.shield(task)

    def _task(self, party: Party, owner: Owner, login: PersonsLogin, stale: Login | None) -> asyncio.Task[Held]:
        key = (owner.id, party.name)
        task = asyncio.get_running_loop().create_task(self._find(party, owner, login, stale))
        self._finding[key] = task
        task.add_done_callback(lambda _: self._finding.pop(key, None))
        task.add_done_callback(_consume)
        return task

    async def _find(self, party: Party, owner: Owner, login: PersonsLogin, stale: Login | None) -> Held:
        """Look in the vault, renew, or obtain. `stale` is a login whose token is not wanted any more.

        Raises `LoginOver` where a person has to log in, `UpstreamError`.
        """
        try:
            return await self._looked_up(party, owner, login, stale)
        except StoreUnavailable as e:
            _log.error("the vault cannot be used: %s", e)
            raise Unreachable(party.name, f"upstream {party.name!r}: the gateway's vault cannot be used now") from e

    async def _looked_up(self, party: Party, owner: Owner, login: PersonsLogin, stale: Login | None) -> Held:
        now = self.clock()
        if party.auth.kind is not AuthKind.OAUTH:
            token = await obtained(party, self._clients, login)
            return self._hold(owner.id, party.name, token.access_token, token.expires_at, now, token.key)
        kept = await self.vault.login(owner.id, party.name)
        if kept is None or kept.is_over:
            raise LoginOver(kept.row.last_error if kept is not None else "")
        ends_at = kept.row.expires_at
        is_stale = stale is not None and kept.row.version == stale.row.version
        if is_stale or (ends_at is not None and now >= ends_at - SKEW_S):
            try:
                kept = await renewed(party, self.vault, self._clients, kept)
            except LoginOver as e:
                await self._noted(owner.id, party.name, f"has to log in again: {e}")
                raise
        return self._hold_login(kept)

    async def _better(
        self, party: Party, owner: Owner, login: PersonsLogin, used: Credential, why: Challenge
    ) -> Held | None:
        """Another token than `used`, which was refused; None: there is no better one. Raises as `_found`."""
        said = party.note(why)
        key = (owner.id, party.name)
        held = self._held.get(key)
        if held is not None and held.credential.headers != used.headers:
            return held  # renewed by another call meanwhile
        if why.status == 403:
            return await self._with_more_scopes(party, owner, said)
        if why.status != 401:
            return None
        if party.auth.kind is not AuthKind.OAUTH:
            if held is not None and self.clock() - held.obtained_at < FRESH_S:
                return None
            self._held.pop(key, None)
            return await self._found(party, owner, login)
        return await self._instead_of_refused(party, owner, held)

    async def _instead_of_refused(self, party: Party, owner: Owner, held: Held | None) -> Held | None:
        key = (owner.id, party.name)
        kept = await self.vault.login(owner.id, party.name)
        self._held.pop(key, None)
        if kept is None or kept.is_over:
            raise LoginOver
        resource = await party.resource()
        if kept.row.issuer.rstrip("/") not in (issuer.rstrip("/") for issuer in resource.issuers):
            raise LoginOver("it uses another authorization server now")
        if self.clock() - kept.row.obtained_at < FRESH_S or not kept.refresh_token:
            raise LoginOver("it does not take the token any more")
        return await self._found(party, owner, PersonsLogin(), stale=kept)

    async def _with_more_scopes(self, party: Party, owner: Owner, said: BearerChallenge) -> Held | None:
        """Step-up: ask the person for what the upstream wants in addition, once."""
        if said.error != "insufficient_scope" or party.auth.kind is not AuthKind.OAUTH:
            return None
        kept = await self.vault.login(owner.id, party.name)
        asked = set(kept.row.asked_scopes.split()) if kept is not None else set()
        if set(said.scopes) <= asked:
            return None  # it was asked for, and not granted: asking again leads nowhere
        both = tuple(sorted(asked | set(kept.row.scopes.split() if kept is not None else ()) | set(said.scopes)))
        raise LoginOver("it wants more permissions for this", both)

    async def _consent(self, party: Party, owner: Owner, over: LoginOver) -> ConsentNeeded:
        """The error that sends a person to log in; the page it names is open for ten minutes."""
        because = f" ({over})" if str(over) else ""
        whom = option_for(owner.id) if owner.id else ""
        command = f"mcp-gateway login {party.name} {whom}".rstrip()
        try:
            base_url = await self.base_url(owner)
        except LookupError:
            words = f"upstream {party.name!r} needs a login{because}: have the operator run `{command}`"
            return ConsentNeeded(party.name, words)
        pending = self.consents.begin(owner, party, over.scopes, base_url)
        words = f"upstream {party.name!r} needs you to log in{because}. Open this page in a browser, then try again"
        return ConsentNeeded(party.name, words, pending.page)

    async def _take(self, login: Login) -> None:
        """A person has logged in: use it from now on."""
        self._hold_login(login)
        self.on_login(login.row.upstream)
        await self._noted(login.row.owner, login.row.upstream, f"logged in, scopes: {login.row.scopes or 'none named'}")

    async def _noted(self, owner: str, upstream: str, what: str) -> None:
        if self.note is not None:
            await self.note(upstream, name_of(owner) if owner.startswith("agent:") else "", f"{owner} {what}")

    async def _look_again(self) -> None:
        """Forget what the vault does not hold any more, and tell of upstreams that have a login now."""
        rows = {(row.owner, row.upstream): row for row in await self.vault.rows() if row.sealed}
        for key, held in list(self._held.items()):
            if held.login is not None and (key not in rows or rows[key].version != held.login.row.version):
                self._held.pop(key, None)
        for upstream in {upstream for _, upstream in rows}:
            self.on_login(upstream)

    def _hold_login(self, login: Login) -> Held:
        row = login.row
        held = self._hold(row.owner, row.upstream, login.access_token, row.expires_at, row.obtained_at, login.key)
        held.login = login
        return held

    def _hold(
        self, owner: str, upstream: str, token: str, expires_at: float | None, obtained_at: float, key: str = ""
    ) -> Held:
        now = self.clock()
        ends_at = now + UNKNOWN_END_S if expires_at is None else expires_at
        ahead_s = min(RENEW_BEFORE_S, RENEW_SHARE * (ends_at - obtained_at)) * random.uniform(0.8, 1.2)  # noqa: S311
        credential = Credential({"Authorization": f"{'DPoP' if key else 'Bearer'} {token}"}, owner or upstream)
        if key:
            if len(self._bound) >= MAX_HELD:
                self._bound.pop(next(iter(self._bound)))
            self._bound[token] = dpop.key_of(key)
        held = Held(credential, ends_at - max(ahead_s, SKEW_S), ends_at, obtained_at)
        if len(self._held) >= MAX_HELD:
            self._held.pop(next(iter(self._held)))
        self._held[owner, upstream] = held
        return held


def _what_it_needs(party: Party, used: Credential, why: Challenge) -> str:
    if not used.headers or party.auth.kind is AuthKind.OAUTH or party.auth.kind in BY_PERSON:
        refused = f", for it refused the login there is (HTTP {why.status})" if used.headers else ""
        return f"needs somebody to log in to it{refused}: mcp-gateway login {party.name}"
    return f"refused the token it was given (HTTP {why.status})"


def _consume(task: asyncio.Task[Held]) -> None:
    """A renewal in the background that fails is told of here; who waits for one hears it too."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.info("a credential could not be had: %s", error)
