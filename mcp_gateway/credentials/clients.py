"""Which client we are to an authorization server.

As the operator registered us, by our metadata's URL, or registered on the spot; in this order (2026-07-28
authorization, "Client Registration").

Credentials belong to the issuer they are for. They are never shown to another one, whatever an upstream says its
authorization server is by now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlsplit

from mcp_gateway import jsonrpc
from mcp_gateway.config.settings import is_loopback
from mcp_gateway.config.upstream_auth import ClientAuth
from mcp_gateway.credentials.discovery import AuthorizationServer
from mcp_gateway.credentials.party import Party, is_for
from mcp_gateway.credentials.tokens import method_for
from mcp_gateway.credentials.vault import Registration, Vault
from mcp_gateway.domain import Json
from mcp_gateway.errors import BadRequest, Misbehaved, Unreachable
from mcp_gateway.netguard import FetchFailed

CLIENT_NAME: Final = "mcp_gateway"
DOCUMENT: Final = "/connect/client.json"
"""Where our client metadata document is served (draft-ietf-oauth-client-id-metadata-document)."""
MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_ID_CHARS: Final = 2048
_METHODS: Final = ("client_secret_basic", "client_secret_post", "none")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are to one authorization server, and how we prove it."""

    client: ClientAuth
    method: str


class Clients:
    """Finds, or makes, our registration with an authorization server."""

    def __init__(self, vault: Vault, public_url: str = "") -> None:
        """`public_url`: where our own metadata document can be fetched, if that is https."""
        self._vault = vault
        self._own_document = f"{public_url}{DOCUMENT}" if public_url.startswith("https://") else ""
        self._public_url = public_url

    async def identity(self, party: Party, server: AuthorizationServer, redirect_uri: str) -> Identity:
        """Who we are when a person is sent to `server` and comes back to `redirect_uri`. Raises `UpstreamError`."""
        configured = party.auth.client
        if configured.client_id:
            return await self.configured(party, server)
        document = party.auth.client_metadata_url or self._own_document_for(redirect_uri)
        if server.takes_metadata_urls and document:
            return Identity(ClientAuth(client_id=document, issuer=server.issuer), "none")
        kept = await self._vault.registration(server.issuer, redirect_uri, party.clock())
        if kept is None:
            kept = await self._register(party, server, redirect_uri)
        return _identity_of(kept, server.issuer)

    async def configured(self, party: Party, server: AuthorizationServer) -> Identity:
        """The client that stands in servers.toml. Raises `Misbehaved` where it belongs to another issuer."""
        client = party.auth.client
        pinned = client.issuer or await self._vault.pin(client.client_id, party.name, server.issuer)
        client = replace(client, issuer=pinned)
        if not is_for(client, server):
            words = f"names another authorization server than {pinned}, which its client_id belongs to"
            raise Misbehaved(party.name, f"upstream {party.name!r} {words}")
        return Identity(client, method_for(client, server))

    async def known(self, party: Party, server: AuthorizationServer, client_id: str) -> Identity | None:
        """The client of that id, with which a login was made; None: we do not know it any more."""
        if client_id == party.auth.client.client_id:
            return await self.configured(party, server)
        if client_id and client_id in (party.auth.client_metadata_url, self._own_document):
            return Identity(ClientAuth(client_id=client_id, issuer=server.issuer), "none")
        kept = await self._vault.registration_of(server.issuer, client_id)
        return None if kept is None else _identity_of(kept, server.issuer)

    def _own_document_for(self, redirect_uri: str) -> str:
        """Our own metadata document, if what it says is true of this login."""
        return self._own_document if redirect_uri.startswith(f"{self._public_url}/") else ""

    async def _register(self, party: Party, server: AuthorizationServer, redirect_uri: str) -> Registration:
        """Register dynamically (RFC 7591), and keep what comes of it for this issuer alone."""
        if not server.registration_endpoint:
            words = "takes no client that it does not know: register the gateway there and set client_id"
            raise Misbehaved(party.name, f"the authorization server of upstream {party.name!r} {words}")
        method = next((method for method in _METHODS if method in server.auth_methods), "none")
        body = jsonrpc.dump(metadata_of(redirect_uri, method))
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        try:
            answer = await party.fetcher.request(
                "POST", server.registration_endpoint, headers, body, max_bytes=MAX_ANSWER_BYTES
            )
        except FetchFailed as e:
            raise Unreachable(party.name, f"upstream {party.name!r}: the gateway cannot be registered: {e}") from e
        if answer.status not in (200, 201):
            words = f"its authorization server does not register the gateway (HTTP {answer.status})"
            raise Misbehaved(party.name, f"upstream {party.name!r}: {words}; register it there and set client_id")
        try:
            found = jsonrpc.parse(answer.body)
            registration, expires_at = _registration_in(found, method)
        except (BadRequest, ValueError) as e:
            raise Misbehaved(party.name, f"upstream {party.name!r}: the gateway's registration is unusable") from e
        await self._vault.keep_registration(server.issuer, redirect_uri, registration, expires_at)
        return registration


def metadata_of(redirect_uri: str, method: str = "none") -> Json:
    """What we say of ourselves as a client (RFC 7591 section 2)."""
    is_native = is_loopback(urlsplit(redirect_uri).hostname or "")
    return {
        "client_name": CLIENT_NAME,
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
        "application_type": "native" if is_native else "web",
    }


def _identity_of(kept: Registration, issuer: str) -> Identity:
    return Identity(ClientAuth(client_id=kept.client_id, secret=kept.secret, issuer=issuer), kept.method)


def _registration_in(found: Any, asked_method: str) -> tuple[Registration, float | None]:
    """What a registration's answer says. Raises `ValueError`."""
    client_id, secret = found.get("client_id"), found.get("client_secret") or ""
    method = found.get("token_endpoint_auth_method") or asked_method
    if not isinstance(client_id, str) or not 0 < len(client_id) <= MAX_ID_CHARS:
        raise ValueError("no client id")
    if not isinstance(secret, str) or len(secret) > MAX_ID_CHARS or method not in _METHODS:
        raise ValueError("a client that cannot be proven")
    if method == "none":
        secret = ""
    elif not secret:
        method = "none"
    expires_at = found.get("client_secret_expires_at")
    has_end = isinstance(expires_at, (int, float)) and not isinstance(expires_at, bool) and expires_at > 0
    return Registration(client_id, secret, method), float(expires_at) if has_end and secret else None
