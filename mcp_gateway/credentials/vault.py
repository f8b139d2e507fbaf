"""The vault: what people's logins left us, sealed so that a row works for nothing but what it was granted for.

Each row is AES-256-GCM over the tokens, bound to owner, upstream, issuer, resource, scopes and client: one that was
moved, swapped or edited does not open, and counts as absent. Calls of the database run on a thread of their own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from mcp_gateway.config.secrets import Secrets
from mcp_gateway.credentials.tokens import Token
from mcp_gateway.credentials.vault_keys import CannotOpen, VaultKeys, keys_of
from mcp_gateway.errors import BadRequest
from mcp_gateway.jsonrpc import canonical, dump, parse
from mcp_gateway.storage.vault import ClientRow, LoginRow, VaultTable

_log: Final = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Login:
    """One owner's login at one upstream, opened."""

    row: LoginRow
    access_token: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    """What the tokens are bound to; empty: nothing."""

    @property
    def is_over(self) -> bool:
        """Whether the authorization server has ended it, or it cannot be opened: nothing of it can be used."""
        return not self.access_token


@dataclass(frozen=True, slots=True)
class Registration:
    """What an authorization server gave us to prove that we are a client of its."""

    client_id: str
    secret: str = field(default="", repr=False)
    method: str = "none"


class SealedVault:
    """Seals and opens what the table keeps; blocks while the disk does."""

    def __init__(self, table: VaultTable, keys: VaultKeys) -> None:
        self.table = table
        self._keys = keys

    def login(self, owner: str, upstream: str) -> Login | None:
        row = self.table.login(owner, upstream)
        return None if row is None else self.opened(row)

    def keep(self, row: LoginRow, token: Token) -> Login:
        login = self._login_of(row, token, token.refresh_token)
        self.table.put(login.row)
        return login

    def keep_renewed(self, before: Login, token: Token, now: float) -> Login | None:
        scopes = " ".join(sorted(token.scopes)) if token.scopes is not None else before.row.scopes
        row = replace(before.row, scopes=scopes, expires_at=token.expires_at, obtained_at=now)
        row = replace(row, version=before.row.version + 1, renewal_began=None, last_error="", last_error_at=None)
        login = self._login_of(row, token, token.refresh_token or before.refresh_token)
        return login if self.table.replace_tokens(before.row, login.row) else None

    def wipe(self, login: Login, why: str, now: float) -> bool:
        row = replace(login.row, sealed=b"", key_id="", renewable=False, expires_at=None, renewal_began=None)
        row = replace(row, version=row.version + 1, last_error=why, last_error_at=now)
        return self.table.replace_tokens(login.row, row)

    def registration(self, issuer: str, redirect_uri: str, now: float) -> Registration | None:
        row = self.table.client(issuer, redirect_uri)
        has_ended = row is not None and row.expires_at is not None and row.expires_at <= now
        return None if row is None or has_ended else self._opened_client(row)

    def registration_of(self, issuer: str, client_id: str) -> Registration | None:
        row = self.table.client_by_id(issuer, client_id)
        return None if row is None else self._opened_client(row)

    def keep_registration(self, issuer: str, redirect_uri: str, client: Registration, expires_at: float | None) -> None:
        row = ClientRow(issuer, redirect_uri, client.client_id, client.method, self._keys.current, b"", expires_at)
        self.table.put_client(self._sealed_client(row, client.secret))

    def seal_anew(self) -> int:
        """Seal with the current key whatever an older one of `vault_keys` sealed; how many rows that were."""
        count = 0
        for row in self.table.logins():
            login = self.opened(row)
            if row.key_id != self._keys.current and not login.is_over:
                after = self._sealed(row, login.access_token, login.refresh_token, login.key)
                count += self.table.replace_tokens(row, replace(after, version=row.version + 1))
        for client in self.table.clients():
            found = self._opened_client(client)
            if client.key_id != self._keys.current and found is not None:
                self.table.put_client(self._sealed_client(client, found.secret))
                count += 1
        return count

    def opened(self, row: LoginRow) -> Login:
        """The tokens of a row; none where it is over, or does not open."""
        if not row.sealed:
            return Login(row)
        try:
            content: Any = parse(self._keys.open(row.key_id, row.sealed, _binding(row)))
            return Login(row, str(content["access"]), str(content["refresh"]), str(content.get("key", "")))
        except (CannotOpen, BadRequest, KeyError, TypeError, AttributeError) as e:
            why = str(e) if isinstance(e, CannotOpen) else "not what was sealed"
            _log.error("the login of %s at %s cannot be opened: %s", row.owner, row.upstream, why)
            return Login(replace(row, last_error=f"it cannot be opened: {why}"))

    def _login_of(self, row: LoginRow, token: Token, refresh_token: str) -> Login:
        sealed = self._sealed(row, token.access_token, refresh_token, token.key)
        return Login(sealed, token.access_token, refresh_token, token.key)

    def _sealed(self, row: LoginRow, access_token: str, refresh_token: str, key: str) -> LoginRow:
        row = replace(row, key_id=self._keys.current, renewable=bool(refresh_token))
        content = dump({"access": access_token, "refresh": refresh_token, **({"key": key} if key else {})})
        return replace(row, sealed=self._keys.seal(content, _binding(row)))

    def _sealed_client(self, row: ClientRow, secret: str) -> ClientRow:
        row = replace(row, key_id=self._keys.current)
        return replace(row, sealed=self._keys.seal(secret.encode(), _client_binding(row)))

    def _opened_client(self, row: ClientRow) -> Registration | None:
        try:
            secret = self._keys.open(row.key_id, row.sealed, _client_binding(row)).decode()
        except CannotOpen as e:
            _log.error("the registration at %s cannot be opened: %s", row.issuer, e)
            return None
        return Registration(row.client_id, secret, row.method)


class Vault:
    """Keeps logins and registrations, on threads. Opened when first needed. Raises `StoreUnavailable`."""

    def __init__(self, open_: Callable[[], SealedVault]) -> None:
        self._open = open_
        self._opening = threading.Lock()
        self._sealed: SealedVault | None = None

    async def login(self, owner: str, upstream: str) -> Login | None:
        """What is kept of an owner's login; None: nothing."""
        return await self._run(SealedVault.login, owner, upstream)

    async def rows(self) -> tuple[LoginRow, ...]:
        """All logins as they can be shown, the most recently obtained first."""
        return await self._run(lambda vault: vault.table.logins())

    async def keep(self, row: LoginRow, token: Token) -> Login:
        """Keep what a login brought, in place of the owner's one before."""
        return await self._run(SealedVault.keep, row, token)

    async def keep_renewed(self, before: Login, token: Token, now: float) -> Login | None:
        """Keep renewed tokens; None: somebody else has changed them meanwhile.

        The refresh token there was stays where the answer brought no other (RFC 6749 section 6).
        """
        return await self._run(SealedVault.keep_renewed, before, token, now)

    async def wipe(self, login: Login, why: str, now: float) -> bool:
        """End a login: its tokens go, and why stays. False: it is another one by now."""
        return await self._run(SealedVault.wipe, login, why, now)

    async def begin_renewal(self, login: Login, now: float) -> None:
        """Write down, before its refresh token is used, that it is about to be."""
        await self._run(lambda vault: vault.table.begin_renewal(login.row, now))

    async def note_error(self, login: Login, error: str, now: float) -> None:
        """Remember why a renewal failed; the tokens stay."""
        await self._run(lambda vault: vault.table.note_error(login.row, error, now))

    async def forget(self, owner: str, upstream: str) -> bool:
        """Remove a login; False where there is none."""
        return await self._run(lambda vault: vault.table.delete(owner, upstream))

    async def registration(self, issuer: str, redirect_uri: str, now: float) -> Registration | None:
        """Our registration at an authorization server for this redirect URI, if it still holds."""
        return await self._run(SealedVault.registration, issuer, redirect_uri, now)

    async def registration_of(self, issuer: str, client_id: str) -> Registration | None:
        """Our registration of that id at an authorization server."""
        return await self._run(SealedVault.registration_of, issuer, client_id)

    async def keep_registration(
        self, issuer: str, redirect_uri: str, client: Registration, expires_at: float | None
    ) -> None:
        """Keep a registration for its issuer, and no other."""
        await self._run(SealedVault.keep_registration, issuer, redirect_uri, client, expires_at)

    async def pin(self, client_id: str, upstream: str, issuer: str) -> str:
        """The issuer that a client id belongs to at an upstream; the first one it was used with."""
        return await self._run(lambda vault: vault.table.pin(client_id, upstream, issuer))

    async def commits(self) -> int:
        """A number that changes when another process has changed something."""
        return await self._run(lambda vault: vault.table.commits())

    async def try_lock(self, owner: str, upstream: str) -> bool:
        """Become the only process that renews this login; see `VaultTable.try_lock`."""
        return await self._run(lambda vault: vault.table.try_lock(owner, upstream))

    async def unlock(self, owner: str, upstream: str) -> None:
        """Let others renew this login."""
        await self._run(lambda vault: vault.table.unlock(owner, upstream))

    def close(self) -> None:
        """Close the database, if it was needed."""
        if self._sealed is not None:
            self._sealed.table.close()

    async def _run(self, work: Callable[Concatenate[SealedVault, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs to the end even when nobody waits for it any more: no row or lock is left behind unknown."""
        return await asyncio.shield(asyncio.to_thread(lambda: self._done(work, *args, **kwargs)))

    def _done(self, work: Callable[Concatenate[SealedVault, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._opening:
            if self._sealed is None:
                self._sealed = self._open()
        return work(self._sealed, *args, **kwargs)


def opened_vault(state: Path, sources: Sequence[str], secrets: Secrets) -> SealedVault:
    """The vault in `state`, everything in it sealed with the first of its keys. Raises `StoreUnavailable`."""
    table = VaultTable(state)
    try:
        vault = SealedVault(table, keys_of(sources, secrets, state))
        if len(sources) > 1:
            vault.seal_anew()
    except BaseException:
        table.close()
        raise
    return vault


def _binding(row: LoginRow) -> bytes:
    """What a row's tokens are sealed for."""
    parts = [row.owner, row.upstream, row.issuer, row.resource, row.scopes, row.client_id, row.key_id]
    return canonical(["login", *parts])


def _client_binding(row: ClientRow) -> bytes:
    return canonical(["client", row.issuer, row.redirect_uri, row.client_id, row.method, row.key_id])
