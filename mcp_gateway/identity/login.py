"""The embedded authorization server: people with local accounts log in and let a program act for them (OAuth 2.1).

For teams without an identity provider; off unless `[identity.login]` is there. Authorization code with PKCE (S256) and
nothing else, refresh tokens that are used once, access tokens that are JWTs like any other issuer's. Everything that
is asked over HTTP comes here as plain values (`frontdoor/login_pages` has the pages); what is kept is in
`storage/logins`, as hashes. Nobody stays logged in: the password is asked for each time, on the page that says what
is being allowed, so that whoever consents is whoever asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import OKPKey

from mcp_gateway.config.identity import LoginConfig
from mcp_gateway.domain import Json
from mcp_gateway.errors import BadRequest, StoreUnavailable
from mcp_gateway.identity.clients import Client, ClientInvalid, client_of, is_address, registered
from mcp_gateway.identity.passwords import is_right
from mcp_gateway.identity.resource import Resource
from mcp_gateway.jsonrpc import parse
from mcp_gateway.netguard import Fetcher, FetchFailed
from mcp_gateway.storage.logins import Grant, LoginStore, Person, Refreshed

ISSUER_NAME: Final = "login"
"""What people of local accounts are called by in policies: `login:alice`."""

ALGORITHM: Final = "Ed25519"
CODE_S: Final = 60.0
MAX_CODES: Final = 1_000
MAX_SCOPES: Final = 20
MAX_DOCUMENT_BYTES: Final = 16 * 1024
DOCUMENT_S: Final = 600.0
MAX_DOCUMENTS: Final = 200
HASHES_AT_ONCE: Final = 2
LOOK_EVERY_S: Final = 0.5
"""How long a grant that another process revoked may still be used."""

MAX_NAME: Final = 64
MOST_FAILURES: Final = 10
MOST_FAILURES_OF_A_PEER: Final = 500
"""All people behind one proxy may be one peer."""

FORGIVEN_AFTER_S: Final = 900.0
MAX_REMEMBERED_FAILURES: Final = 10_000

_log: Final = logging.getLogger(__name__)

_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")  # RFC 7636 section 4.2: SHA-256, base64url
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,100}")
_TASK: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class OAuthRefused(Exception):
    """An OAuth error answer: `error` is the registered word, the text is for the program's developer."""

    def __init__(self, error: str, description: str = "") -> None:
        super().__init__(description)
        self.error = error


@dataclass(frozen=True, slots=True)
class Wish:
    """What a program asks a person for, checked."""

    client: Client
    redirect_uri: str
    state: str
    challenge: str
    resource: str
    scope: str


@dataclass(frozen=True, slots=True)
class _Code:
    wish: Wish
    person: str
    expires_at: float


class AuthorizationServer:
    """Issues tokens for one gateway. Belongs to one event loop."""

    def __init__(
        self,
        issuer: str,
        config: LoginConfig,
        store: LoginStore,
        key: OKPKey,
        fetcher: Fetcher,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is in seconds since the epoch."""
        self.issuer = issuer
        self._config = config
        self._store = store
        self._key = key
        self._fetcher = fetcher
        self._clock = clock
        self._resource = Resource(issuer, [issuer])
        self._codes: dict[str, _Code] = {}
        self._used_codes: dict[str, tuple[str, float]] = {}
        self._documents: dict[str, tuple[Client, float]] = {}
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}
        self._hashing = asyncio.Semaphore(HASHES_AT_ONCE)
        self._revoked: frozenset[str] | None = None

    def metadata(self) -> Json:
        """RFC 8414, with what RFC 9207 and the MCP specification add."""
        document: Json = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "revocation_endpoint": f"{self.issuer}/revoke",
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
            "authorization_response_iss_parameter_supported": True,
            "client_id_metadata_document_supported": True,
        }
        if self._config.registration:
            document["registration_endpoint"] = f"{self.issuer}/register"
        return document

    def key_set(self) -> bytes:
        """The public half of the key that signs."""
        return json.dumps({"keys": [self._key.as_dict(private=False)]}).encode()

    def is_revoked(self, claims: Mapping[str, Any]) -> bool:
        """Whether the grant behind an access token has been revoked. Raises `StoreUnavailable`."""
        if self._revoked is None:
            raise StoreUnavailable("what was revoked cannot be read")
        return claims.get("grant") in self._revoked

    async def keep_current(self) -> None:
        """Learn of what other processes revoke; runs until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.learn_of_revocations()
            except StoreUnavailable as e:
                _log.error("%s", e)
                self._revoked = None

    async def register(self, document: Any) -> Json:
        """A program registers (RFC 7591). Raises `OAuthRefused`."""
        if not self._config.registration:
            raise OAuthRefused("access_denied", "registration is switched off")
        if not isinstance(document, dict):
            raise OAuthRefused("invalid_client_metadata", "a JSON object is needed")
        try:
            client = client_of(f"reg-{secrets.token_urlsafe(18)}", document)
        except ClientInvalid as e:
            error = "invalid_redirect_uri" if "redirect" in str(e) else "invalid_client_metadata"
            raise OAuthRefused(error, str(e)) from e
        answer = registered(client)
        await asyncio.to_thread(self._store.add_client, client.id, json.dumps(answer), self._clock())
        return answer

    async def client(self, client_id: str, redirect_uri: str) -> Client:
        """The program, if people may be sent where it says. Raises `OAuthRefused`: then they must not be sent there."""
        client = await self._client(client_id)
        if not client.admits(redirect_uri):
            raise OAuthRefused("invalid_request", "this redirect_uri is not one the program has named")
        return client

    def wish(self, client: Client, asked: Mapping[str, str]) -> Wish:
        """An authorization request. Raises `OAuthRefused`, to be told to the program by redirect."""
        if asked.get("response_type") != "code":
            raise OAuthRefused("unsupported_response_type", "response_type must be code")
        if asked.get("code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(asked.get("code_challenge", "")):
            raise OAuthRefused("invalid_request", "PKCE is required: code_challenge with S256")
        if len(asked.get("state", "")) > 1024:
            raise OAuthRefused("invalid_request", "state is too long")
        scopes = dict.fromkeys(asked.get("scope", "").split())
        if len(scopes) > MAX_SCOPES or not all(_SCOPE.fullmatch(scope) for scope in scopes):
            raise OAuthRefused("invalid_scope")
        return Wish(
            client=client,
            redirect_uri=asked["redirect_uri"],
            state=asked.get("state", ""),
            challenge=asked["code_challenge"],
            resource=self._resource_named(asked.get("resource", "")),
            scope=" ".join(scope for scope in scopes if scope not in ("openid", "offline_access")),
        )

    async def log_in(self, name: str, password: str, peer: str) -> Person | None:
        """The account, if the password is its own; None whatever is wrong. After many failures `OAuthRefused`."""
        name = name[:MAX_NAME]
        self._check_patience((name, peer), MOST_FAILURES)
        self._check_patience(("", peer), MOST_FAILURES_OF_A_PEER)
        person = await asyncio.to_thread(self._store.person, name)
        async with self._hashing:
            is_good = await asyncio.to_thread(is_right, password, None if person is None else person.password)
        if is_good:
            self._failures.pop((name, peer), None)
            return person
        for who in ((name, peer), ("", peer)):
            self._remember_failure(who)
        return None

    def code_for(self, wish: Wish, person: Person) -> str:
        """A code for what a person has just allowed: good once, for a minute."""
        now = self._clock()
        self._codes = {code: kept for code, kept in self._codes.items() if kept.expires_at > now}
        if len(self._codes) >= MAX_CODES:
            raise OAuthRefused("temporarily_unavailable")
        code = secrets.token_urlsafe(32)
        self._codes[code] = _Code(wish, person.name, now + CODE_S)
        return code

    async def token(self, form: Mapping[str, str]) -> Json:
        """The token endpoint. Raises `OAuthRefused`."""
        if form.get("grant_type") == "authorization_code":
            return await self._first_tokens(form)
        if form.get("grant_type") == "refresh_token":
            return await self._next_tokens(form)
        raise OAuthRefused("unsupported_grant_type")

    async def revoke(self, form: Mapping[str, str]) -> None:
        """Take a refresh token back, and every access token of its grant (RFC 7009). Unknown ones are fine."""
        grant = await asyncio.to_thread(self._store.grant_of, _digest(form.get("token", "")), form.get("client_id", ""))
        if grant is not None:
            await self._revoke(grant)

    async def _first_tokens(self, form: Mapping[str, str]) -> Json:
        code = form.get("code", "")
        kept = self._codes.pop(code, None)
        if kept is None:
            await self._punish_reuse(code)
            raise OAuthRefused("invalid_grant", "the code is not valid")
        wish, verifier = kept.wish, form.get("code_verifier", "")
        is_its_own = form.get("client_id") == wish.client.id and form.get("redirect_uri") == wish.redirect_uri
        challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        is_proven = _VERIFIER.fullmatch(verifier) is not None and hmac.compare_digest(challenge, wish.challenge)
        now = self._clock()
        if now >= kept.expires_at or not is_its_own or not is_proven:
            raise OAuthRefused("invalid_grant", "the code is not valid")
        if form.get("resource", wish.resource) != wish.resource:
            raise OAuthRefused("invalid_target", "the person allowed another resource")
        lasts_s = self._config.refresh_token_days * 86_400.0
        grant = Grant(
            secrets.token_urlsafe(16), kept.person, wish.client.id, wish.resource, wish.scope, now, now + lasts_s
        )
        refresh = _new_refresh_token()
        await asyncio.to_thread(self._store.add_grant, grant, _digest(refresh))
        self._used_codes = {old: used for old, used in self._used_codes.items() if used[1] > now}
        self._used_codes[code] = (grant.id, now + self._config.access_token_s)
        return self._tokens(grant, refresh)

    async def _next_tokens(self, form: Mapping[str, str]) -> Json:
        refresh = _new_refresh_token()
        given, client = _digest(form.get("refresh_token", "")), form.get("client_id", "")
        became, grant = await asyncio.to_thread(self._store.refresh, given, client, _digest(refresh), self._clock())
        if became is Refreshed.REUSED:
            await self.learn_of_revocations()
        if became is not Refreshed.ROTATED or grant is None:
            raise OAuthRefused("invalid_grant", "the refresh token is not valid")
        return self._tokens(grant, refresh)

    async def _punish_reuse(self, code: str) -> None:
        """RFC 6749 section 4.1.2: a code that comes twice has been seen by somebody else; what came of it ends."""
        used = self._used_codes.pop(code, None)
        if used is not None:
            await self._revoke(used[0])

    async def _revoke(self, grant_id: str) -> None:
        await asyncio.to_thread(self._store.revoke, grant_id, self._clock())
        await self.learn_of_revocations()

    async def learn_of_revocations(self) -> None:
        """Look at what has been revoked; before the first look no token is believed. Raises `StoreUnavailable`."""
        since_s = self._clock() - self._config.access_token_s - 300
        self._revoked = await asyncio.to_thread(self._store.revoked, since_s)

    def _tokens(self, grant: Grant, refresh: str) -> Json:
        now = int(self._clock())
        claims = {
            "iss": self.issuer,
            "aud": grant.resource,
            "sub": grant.person,
            "client_id": grant.client,
            "scope": grant.scope,
            "iat": now,
            "exp": now + int(self._config.access_token_s),
            "jti": secrets.token_urlsafe(12),
            "grant": grant.id,
        }
        header = {"alg": ALGORITHM, "typ": "at+jwt", "kid": self._key.kid}
        return {
            "access_token": jwt.encode(header, claims, self._key, algorithms=[ALGORITHM]),
            "token_type": "Bearer",
            "expires_in": int(self._config.access_token_s),
            "refresh_token": refresh,
            "scope": grant.scope,
        }

    async def _client(self, client_id: str) -> Client:
        if not is_address(client_id):
            kept = await asyncio.to_thread(self._store.client, client_id, self._clock())
            if kept is None:
                raise OAuthRefused("invalid_client", "unknown client_id: register first")
            return client_of(client_id, json.loads(kept))
        known, until = self._documents.get(client_id, (None, 0.0))
        if known is not None and until > self._clock():
            return known
        client = await self._described(client_id)
        if len(self._documents) >= MAX_DOCUMENTS:
            self._documents.clear()
        self._documents[client_id] = client, self._clock() + DOCUMENT_S
        return client

    async def _described(self, address: str) -> Client:
        """A program by its metadata document, which must say that it is that one's."""
        try:
            answer = await self._fetcher.get(address, max_bytes=MAX_DOCUMENT_BYTES)
            document = parse(answer.body) if answer.status == 200 else None
        except (FetchFailed, BadRequest) as e:
            raise OAuthRefused("invalid_client", "the client's metadata document cannot be fetched") from e
        if not isinstance(document, dict) or document.get("client_id") != address:
            raise OAuthRefused("invalid_client", "the client's metadata document is another's, or none")
        try:
            return client_of(address, document)
        except ClientInvalid as e:
            raise OAuthRefused("invalid_client", str(e)) from e

    def _resource_named(self, asked: str) -> str:
        """RFC 8707: a token is for the gateway, or for one endpoint of it."""
        base = self._resource.url_of(None)
        is_endpoint = asked.startswith(f"{base}/") and _TASK.fullmatch(asked.removeprefix(f"{base}/")) is not None
        if asked in ("", base) or is_endpoint:
            return asked or base
        raise OAuthRefused("invalid_target", "tokens are issued for this gateway only")

    def _check_patience(self, who: tuple[str, str], most: int) -> None:
        count, until = self._failures.get(who, (0, 0.0))
        if count >= most and until > self._clock():
            raise OAuthRefused("slow_down", "too many attempts: try again later")

    def _remember_failure(self, who: tuple[str, str]) -> None:
        now = self._clock()
        if len(self._failures) >= MAX_REMEMBERED_FAILURES:
            self._failures = {key: kept for key, kept in self._failures.items() if kept[1] > now}
        if len(self._failures) >= MAX_REMEMBERED_FAILURES and who not in self._failures:
            raise OAuthRefused("slow_down", "too many attempts: try again later")
        count, until = self._failures.get(who, (0, 0.0))
        self._failures[who] = (count + 1 if until > now else 1), now + FORGIVEN_AFTER_S


def signing_key(secret: bytes) -> OKPKey:
    """The key that signs access tokens, from 32 random bytes."""
    private = urlsafe_b64encode(secret).rstrip(b"=").decode()
    public = _public_half(secret)
    key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "d": private, "x": public, "alg": ALGORITHM})
    key.ensure_kid()
    return key


def _public_half(secret: bytes) -> str:
    raw = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _new_refresh_token() -> str:
    return f"mgr_{secrets.token_urlsafe(32)}"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
