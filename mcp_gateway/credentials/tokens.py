"""The token endpoint: one form out, tokens or an OAuth error back; and how we prove which client we are."""

from __future__ import annotations

import base64
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import quote

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import import_key

from mcp_gateway import jsonrpc
from mcp_gateway.config.upstream_auth import ClientAuth
from mcp_gateway.credentials import dpop
from mcp_gateway.credentials.challenges import scopes_in
from mcp_gateway.credentials.discovery import AuthorizationServer
from mcp_gateway.errors import BadRequest, Misbehaved, Unreachable
from mcp_gateway.netguard import Answer, Fetcher, FetchFailed

MAX_ANSWER_BYTES: Final = 256 * 1024
MAX_TOKEN_CHARS: Final = 64 * 1024
MAX_LIFETIME_S: Final = 10 * 365 * 86_400.0
ASSERTION_LIFETIME_S: Final = 60

JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105
ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
TYPE_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105
TYPE_ID_TOKEN: Final = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105
TYPE_ID_JAG: Final = "urn:ietf:params:oauth:token-type:id-jag"

_TOKEN: Final = re.compile(r"[!-~]+")
_ERROR: Final = re.compile(r"[a-z_]{1,64}")
_KEY_TYPE: Final[Mapping[str, Literal["EC", "RSA", "OKP"]]] = {"ES": "EC", "RS": "RSA", "PS": "RSA", "Ed": "OKP"}
INVALID_GRANT: Final = "invalid_grant"


class Refused(Exception):
    """The authorization server said no, in OAuth's words. `error` is its code."""

    def __init__(self, error: str) -> None:
        super().__init__(f"the authorization server said {error}")
        self.error = error

    @property
    def is_final(self) -> bool:
        """Whether the very grant is over (RFC 6749 section 5.2); anything else may be better another time."""
        return self.error == INVALID_GRANT


@dataclass(frozen=True, slots=True)
class Token:
    """What a token endpoint gave us."""

    access_token: str = field(repr=False)
    expires_at: float | None = None
    """Seconds since the epoch; None: it did not say."""
    scopes: tuple[str, ...] | None = None
    """What was granted; None: what was asked for."""
    refresh_token: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    """The private key it is bound to (`dpop.new_key`); empty: it is a bearer token."""


class TokenEndpoint:
    """Asks the token endpoint of one authorization server, on behalf of one upstream."""

    def __init__(self, upstream: str, server: AuthorizationServer, fetcher: Fetcher, key: str = "") -> None:
        """`key`: what the tokens are to be bound to, proven with each request (RFC 9449 section 5)."""
        self._key = key
        self._upstream = upstream
        self._server = server
        self._fetcher = fetcher

    async def token(self, form: Mapping[str, str], client: ClientAuth, method: str, now: float) -> Token:
        """The answer to one request. Raises `Refused`, `Unreachable` (try later) or `Misbehaved`."""
        found = await self.asked(form, client, method, now)
        return self._token_in(found, now, kind="dpop" if self._key else "bearer")

    async def assertion(self, form: Mapping[str, str], client: ClientAuth, method: str, now: float) -> str:
        """What a token exchange gave that is no access token (`issued_token_type` tells). Raises as `token` does."""
        found = await self.asked(form, client, method, now)
        if found.get("issued_token_type") != form.get("requested_token_type"):
            raise self._misbehaved("gave another kind of token than was asked for")
        return self._text(found, "access_token")

    async def asked(self, form: Mapping[str, str], client: ClientAuth, method: str, now: float) -> Mapping[str, Any]:
        """The JSON object of a good answer. Raises as `token` does."""
        answer = await self._posted(form, client, method, now)
        nonce = answer.headers.get("dpop-nonce", "")
        if self._key and nonce and answer.status in (400, 401) and b'"use_dpop_nonce"' in answer.body:
            answer = await self._posted(form, client, method, now, nonce)  # the first one was not acted on (section 8)
        return self._read(answer)

    async def _posted(
        self, form: Mapping[str, str], client: ClientAuth, method: str, now: float, nonce: str = ""
    ) -> Answer:
        url = self._server.token_endpoint
        sent, headers = authenticated(form, client, method, self._server, now)
        if self._key:
            headers = {**headers, "DPoP": dpop.proof(dpop.key_of(self._key), "POST", url, now, nonce=nonce)}
        try:
            return await self._fetcher.post_form(url, sent, headers, max_bytes=MAX_ANSWER_BYTES)
        except FetchFailed as e:
            raise self._unreachable(str(e)) from e

    async def revoke(self, token: str, client: ClientAuth, method: str, now: float) -> None:
        """End a token (RFC 7009), where the server knows how. Raises `Unreachable`."""
        if not self._server.revocation_endpoint:
            return
        form = {"token": token, "token_type_hint": "refresh_token"}
        sent, headers = authenticated(form, client, method, self._server, now)
        try:
            answer = await self._fetcher.post_form(self._server.revocation_endpoint, sent, headers)
        except FetchFailed as e:
            raise self._unreachable(str(e)) from e
        if answer.status >= 400:
            raise self._unreachable(f"HTTP {answer.status} to the revocation")

    def _read(self, answer: Answer) -> Mapping[str, Any]:
        if answer.status >= 500 or answer.status == 429:
            raise self._unreachable(f"HTTP {answer.status}")
        try:
            found = jsonrpc.parse(answer.body)
        except BadRequest as e:
            raise self._misbehaved(f"answered HTTP {answer.status} with something that is not JSON") from e
        if not isinstance(found, dict):
            raise self._misbehaved("answered with something that is no object")
        error = found.get("error")
        if answer.status >= 400 or error is not None:
            raise Refused(error if isinstance(error, str) and _ERROR.fullmatch(error) else f"HTTP {answer.status}")
        if answer.status != 200:
            raise self._misbehaved(f"answered HTTP {answer.status}")
        return found

    def _token_in(self, found: Mapping[str, Any], now: float, kind: str) -> Token:
        if str(found.get("token_type", "")).lower() != kind:
            raise self._misbehaved("gave a token of a kind that was not asked for")
        refresh = found.get("refresh_token")
        scope = found.get("scope")
        return Token(
            self._text(found, "access_token"),
            self._expiry(found.get("expires_in"), now),
            scopes_in(scope) if isinstance(scope, str) else None,
            self._text(found, "refresh_token") if refresh is not None else "",
            self._key,
        )

    def _text(self, found: Mapping[str, Any], key: str) -> str:
        value = found.get(key)
        # It becomes part of a header: nothing but visible ASCII.
        if not isinstance(value, str) or len(value) > MAX_TOKEN_CHARS or not _TOKEN.fullmatch(value):
            raise self._misbehaved(f"gave no usable {key}")
        return value

    def _expiry(self, value: object, now: float) -> float | None:
        if value is None:
            return None
        try:
            lifetime_s = float(value) if isinstance(value, (int, float, str)) else math.nan
        except ValueError:
            lifetime_s = math.nan
        if isinstance(value, bool) or not lifetime_s > 0:
            raise self._misbehaved("gave a token that is over already")
        return now + min(lifetime_s, MAX_LIFETIME_S)

    def _unreachable(self, words: str) -> Unreachable:
        return Unreachable(
            self._upstream, f"the authorization server of upstream {self._upstream!r} gave no answer: {words}"
        )

    def _misbehaved(self, words: str) -> Misbehaved:
        return Misbehaved(self._upstream, f"the authorization server of upstream {self._upstream!r} {words}")


def method_for(client: ClientAuth, server: AuthorizationServer) -> str:
    """How a configured client proves itself: by what it has, in the way the server prefers."""
    if client.private_key:
        return "private_key_jwt"
    if not client.secret:
        return "none"
    if "client_secret_basic" in server.auth_methods or "client_secret_post" not in server.auth_methods:
        return "client_secret_basic"
    return "client_secret_post"


def authenticated(
    form: Mapping[str, str], client: ClientAuth, method: str, server: AuthorizationServer, now: float
) -> tuple[dict[str, str], dict[str, str]]:
    """A form and headers that prove which client asks (RFC 6749 section 2.3, RFC 7523 section 2.2)."""
    if method == "client_secret_basic":
        pair = f"{quote(client.client_id, safe='')}:{quote(client.secret, safe='')}"
        return dict(form), {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    known = {**form, "client_id": client.client_id} if client.client_id else dict(form)
    if method == "client_secret_post":
        return {**known, "client_secret": client.secret}, {}
    if method == "private_key_jwt":
        proof = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": _signed(client, server.issuer, now)}
        return {**known, **proof}, {}
    return known, {}


def key_problem(client: ClientAuth) -> str:
    """Why a private key cannot sign, in words that do not show it; empty: it can."""
    try:
        _signed(client, "https://issuer.example", 0.0)
    except (JoseError, ValueError, TypeError) as e:
        return f"the private key cannot sign with {client.algorithm}: {type(e).__name__}"
    return ""


def _signed(client: ClientAuth, audience: str, now: float) -> str:
    """The assertion that we are this client; the audience is the issuer, so that no other server can use it."""
    claims = {
        "iss": client.client_id,
        "sub": client.client_id,
        "aud": audience,
        "iat": int(now),
        "exp": int(now) + ASSERTION_LIFETIME_S,
        "jti": secrets.token_urlsafe(16),
    }
    header = {"alg": client.algorithm, "typ": "JWT", **({"kid": client.key_id} if client.key_id else {})}
    key = import_key(client.private_key, _KEY_TYPE[client.algorithm[:2]])
    return jwt.encode(header, claims, key, algorithms=[client.algorithm])
