"""One upstream that wants tokens: what it has said it wants, and who its authorization server is."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final
from urllib.parse import urlsplit

from mcp_gateway import jsonrpc
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.config.settings import is_loopback
from mcp_gateway.config.upstream_auth import AuthConfig, ClientAuth
from mcp_gateway.credentials import dpop
from mcp_gateway.credentials.challenges import BearerChallenge, read_challenge
from mcp_gateway.credentials.discovery import AuthorizationServer, Discovery, Resource
from mcp_gateway.credentials.tokens import TokenEndpoint
from mcp_gateway.domain import Challenge
from mcp_gateway.errors import Misbehaved
from mcp_gateway.netguard import Allowed, Fetcher, FetchFailed
from mcp_gateway.revisions import META_CAPABILITIES, META_CLIENT, META_VERSION, MODERN_VERSIONS

METADATA_TTL_S: Final = 300.0
"""How long what was discovered is believed; a refused token makes us look again at once."""

LOOK_AGAIN_S: Final = 2.0
"""Refused tokens make us look again, but no upstream may make us do so without end."""

LOOPBACK: Final = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class Place:
    """Where tokens for an upstream come from."""

    resource: Resource
    server: AuthorizationServer


@dataclass(eq=False)
class Party:
    """What is known of one upstream's authorization; everything in here may be found out anew."""

    config: ServerConfig
    auth: AuthConfig
    allowed: Allowed
    clock: Callable[[], float] = time.time
    challenge: BearerChallenge = field(default_factory=BearerChallenge)
    was_challenged: bool = False

    def __post_init__(self) -> None:
        self.fetcher = Fetcher(self.allowed, tls=_tls())
        self._discovery = Discovery(self.name, self.fetcher, self.allowed)
        self._resource: tuple[float, Resource] | None = None
        self._servers: dict[str, tuple[float, AuthorizationServer]] = {}

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def url(self) -> str:
        """The upstream's URL without its query, which may hold a key."""
        return (self.config.url or "").partition("?")[0]

    def note(self, why: Challenge) -> BearerChallenge:
        """Remember what the upstream said when it refused a credential; look again at what it publishes."""
        said = read_challenge(why.text)
        self.was_challenged = True
        kept = said.resource_metadata or self.challenge.resource_metadata
        self.challenge = replace(said, resource_metadata=kept, scopes=said.scopes or self.challenge.scopes)
        if self._resource is not None and self.clock() - self._resource[0] > LOOK_AGAIN_S:
            self._resource = None
        return said

    async def place(self) -> Place:
        """Where tokens for it come from. Raises `UpstreamError`."""
        resource = await self.resource()
        return Place(resource, await self.server(self._issuer_among(resource)))

    async def resource(self) -> Resource:
        """What it says of itself. Raises `UpstreamError`."""
        if self._resource is None or self.clock() - self._resource[0] > METADATA_TTL_S:
            found = await self._discovery.resource(self.url, self.challenge.resource_metadata)
            self._resource = (self.clock(), found)
        return self._resource[1]

    async def server(self, issuer: str) -> AuthorizationServer:
        """The metadata of one authorization server. Raises `UpstreamError`."""
        known = self._servers.get(issuer)
        if known is None or self.clock() - known[0] > METADATA_TTL_S:
            known = self.clock(), await self._discovery.server(issuer)
            self._servers = {**self._servers, issuer: known} if len(self._servers) < 16 else {issuer: known}
        return known[1]

    def endpoint(self, server: AuthorizationServer, key: str = "") -> TokenEndpoint:
        """The token endpoint of an authorization server, asked for this upstream; for tokens bound to `key`, if any."""
        return TokenEndpoint(self.name, server, self.fetcher, key)

    def key_for(self, place: Place) -> str:
        """A new key for tokens to be bound to; empty: nobody wants that. Raises `Misbehaved`."""
        if not (self.auth.dpop or place.resource.wants_dpop or self.challenge.wants_dpop):
            return ""
        algorithms = place.server.dpop_algorithms
        if algorithms and dpop.ALGORITHM not in algorithms:
            words = f"takes no DPoP proofs with {dpop.ALGORITHM}"
            raise Misbehaved(self.name, f"the authorization server of upstream {self.name!r} {words}")
        return dpop.new_key()

    def scopes_for(self, place: Place, more: tuple[str, ...] = ()) -> tuple[str, ...]:
        """What to ask for (2026-07-28 authorization, "Scope Selection Strategy"): what the challenge or the operator
        says, else all the resource has; `offline_access` only where the authorization server knows it."""
        wanted = (*self.auth.scopes, *self.challenge.scopes, *more) or place.resource.scopes or ()
        knows_offline = place.server.scopes is not None and "offline_access" in place.server.scopes
        return tuple(dict.fromkeys([*wanted, *(["offline_access"] if knows_offline else [])]))

    async def probe(self) -> None:
        """Ask once without a credential, for the challenge that says where the metadata is."""
        if self.was_challenged:
            return
        meta = {META_VERSION: MODERN_VERSIONS[0], META_CLIENT: {"name": "mcp-gateway", "version": "1"}}
        params = {"_meta": {**meta, META_CAPABILITIES: {}}}
        body = jsonrpc.dump({"jsonrpc": "2.0", "id": secrets.token_hex(4), "method": "tools/list", "params": params})
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Mcp-Method": "tools/list",
            "Mcp-Protocol-Version": MODERN_VERSIONS[0],
        }
        try:
            answer = await self.fetcher.request("POST", self.config.url or "", headers, body)
        except FetchFailed:
            return  # what is known without it has to do
        if answer.status in (401, 403):
            self.note(Challenge(answer.status, answer.headers.get("www-authenticate", "")))

    async def close(self) -> None:
        await self.fetcher.aclose()

    def _issuer_among(self, resource: Resource) -> str:
        wanted = self.auth.client.issuer
        if not wanted:
            return resource.issuers[0]
        if wanted.rstrip("/") not in (issuer.rstrip("/") for issuer in resource.issuers):
            # Or the upstream could have the client's secret sent to whomever it likes.
            raise Misbehaved(self.name, f"upstream {self.name!r} names another authorization server than 'issuer'")
        return next(issuer for issuer in resource.issuers if issuer.rstrip("/") == wanted.rstrip("/"))


@cache
def _tls() -> ssl.SSLContext:
    """One TLS configuration for all; making one takes tens of milliseconds."""
    return ssl.create_default_context()


def allowed_for(server: ServerConfig, allow: tuple[str, ...], issuers: tuple[str, ...] = ()) -> Allowed:
    """Which addresses may be dialled on behalf of a server.

    An upstream that the operator put on this machine may have its authorization server here too, and so may an issuer
    that stands in the configuration.
    """
    written = [server.url or "", *issuers]
    local = [url for url in written if url and is_loopback(urlsplit(url).hostname or "")]
    return Allowed.of([*allow, *(LOOPBACK if local else ())])


def is_for(client: ClientAuth, server: AuthorizationServer) -> bool:
    """Whether a configured client may be used with an authorization server."""
    return not client.issuer or client.issuer.rstrip("/") == server.issuer.rstrip("/")
