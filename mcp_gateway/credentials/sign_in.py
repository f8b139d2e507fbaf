"""Who has opened a login page: people sign in at the issuer of their agents' tokens before they connect an account.

OpenID Connect's code flow with PKCE, for nothing but the `sub` in the ID token. It is what lets a page be opened from
anywhere: whoever follows a link that was made for somebody else is told so, and connects nothing (client/elicitation,
"Phishing").
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode, urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from mcp_gateway import jsonrpc
from mcp_gateway.config.upstream_auth import ClientAuth
from mcp_gateway.credentials.consents import TTL_S, ConsentRefused
from mcp_gateway.credentials.discovery import AuthorizationServer, Discovery
from mcp_gateway.credentials.tokens import Refused, TokenEndpoint, method_for
from mcp_gateway.errors import BadRequest, UpstreamError
from mcp_gateway.netguard import Allowed, Fetcher, FetchFailed

CALLBACK: Final = "/connect/signed-in"
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519")
LEEWAY_S: Final = 30
MAX_UNDER_WAY: Final = 10_000
_ABOUT: Final = "sign-in"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whom a browser has been proven to be."""

    person: str
    issuer: str


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """One browser that is away to sign in."""

    ticket: str
    begun_at: float
    server: AuthorizationServer
    redirect_uri: str
    browser: str = field(repr=False)
    verifier: str = field(repr=False)
    nonce: str = field(repr=False)


class SignIn:
    """Sends browsers to one OpenID provider and takes them back."""

    def __init__(self, client: ClientAuth, allowed: Allowed, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._fetcher = Fetcher(allowed)
        self._discovery = Discovery(_ABOUT, self._fetcher, allowed)
        self.mark = ""
        """What states begin with: whose they are, of several processes."""
        self._under_way: dict[str, _UnderWay] = {}

    @property
    def issuer(self) -> str:
        """Whose word counts."""
        return self._client.issuer

    async def begin(self, ticket: str, base_url: str) -> tuple[str, str]:
        """Where to send a browser that wants to open a page, and the secret it has to come back with.

        Raises `ConsentRefused`.
        """
        self._drop_old()
        try:
            server = await self._discovery.server(self._client.issuer)
        except UpstreamError as e:
            raise ConsentRefused("The sign-in page cannot be reached at the moment.") from e
        state, secret = self.mark + secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        verifier, nonce = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
        away = _UnderWay(ticket, self._clock(), server, f"{base_url}{CALLBACK}", secret, verifier, nonce)
        self._under_way[state] = away
        return self._url(away, state), secret

    async def finish(self, query: Mapping[str, str], browser: str) -> tuple[str, Visitor]:
        """The ticket whose page is wanted, and who wants it. Raises `ConsentRefused`; the state is used up."""
        self._drop_old()
        away = self._under_way.pop(query.get("state", ""), None)
        if away is None or not browser or not hmac.compare_digest(browser, away.browser):
            raise ConsentRefused("This sign-in was not begun in this browser, or it was too late.")
        issuer = query.get("iss")
        if (issuer is None and away.server.sends_issuer) or issuer not in (None, away.server.issuer):
            raise ConsentRefused("The answer does not come from where people sign in.")
        if not query.get("code"):
            raise ConsentRefused("You were not signed in.")
        try:
            claims = await self._claims(away, query["code"])
        except (Refused, UpstreamError, FetchFailed, JoseError, BadRequest, ValueError, KeyError, TypeError) as e:
            raise ConsentRefused("The sign-in was not completed.") from e
        return away.ticket, Visitor(str(claims["sub"]), self._client.issuer)

    async def close(self) -> None:
        await self._fetcher.aclose()

    async def _claims(self, away: _UnderWay, code: str) -> Mapping[str, object]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": away.redirect_uri,
            "code_verifier": away.verifier,
        }
        method = method_for(self._client, away.server)
        endpoint = TokenEndpoint(_ABOUT, away.server, self._fetcher)
        found = await endpoint.asked(form, self._client, method, self._clock())
        keys = KeySet.import_key_set(jsonrpc.parse((await self._fetcher.get(away.server.jwks_uri)).body))
        token = jwt.decode(str(found["id_token"]), keys, algorithms=ALGORITHMS)
        self._check(token.claims, away)
        return token.claims

    def _check(self, claims: Mapping[str, object], away: _UnderWay) -> None:
        """OpenID Connect Core section 3.1.3.7. Raises `JoseError` or `ValueError`."""
        expected = jwt.JWTClaimsRegistry(
            now=int(self._clock()),
            leeway=LEEWAY_S,
            iss={"essential": True, "value": away.server.issuer},
            aud={"essential": True, "value": self._client.client_id},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
            nonce={"essential": True, "value": away.nonce},
        )
        expected.validate(dict(claims))
        others = claims.get("azp", self._client.client_id)
        if others != self._client.client_id or not isinstance(claims["sub"], str):
            raise ValueError("an ID token for somebody else")

    def _url(self, away: _UnderWay, state: str) -> str:
        challenge = hashlib.sha256(away.verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self._client.client_id,
            "redirect_uri": away.redirect_uri,
            "scope": "openid",
            "state": state,
            "nonce": away.nonce,
            "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        endpoint = away.server.authorization_endpoint
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(query)}"

    def _drop_old(self) -> None:
        horizon = self._clock() - TTL_S
        while self._under_way:
            oldest = next(iter(self._under_way))
            if self._under_way[oldest].begun_at >= horizon and len(self._under_way) < MAX_UNDER_WAY:
                return
            del self._under_way[oldest]
