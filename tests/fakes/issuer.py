"""An authorization server in the test's own loop: real keys, real JWTs, and whatever answers a test wants."""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import anyio
from joserfc import jws
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from starlette.types import Receive, Scope, Send

from fakes.served import serving
from mcp_gateway.config.identity import IntrospectionConfig, IssuerConfig
from mcp_gateway.domain import Json

RESOURCE = "https://gw.example/mcp"
"""How the gateway under test is called in tokens."""

ORIGIN = "https://gw.example"


class _Any(jws.JWSRegistry):
    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]

    def check_header(self, header: Any) -> None:
        """Whatever a test wants to sign."""


@cache
def rsa(name: str = "") -> RSAKey:
    """A key of that name, the same one for a whole run: making one takes long."""
    return RSAKey.generate_key(2048)


@cache
def ec(name: str = "") -> ECKey:
    return ECKey.generate_key("P-256")


@cache
def ed(name: str = "") -> OKPKey:
    return OKPKey.generate_key("Ed25519")


def signed(claims: Any, key: Key, **header: Any) -> str:
    """A JWS over `claims` (bytes as they are) with any header at all."""
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return jws.serialize_compact({"alg": "ES256", **header}, payload, key, registry=_Any(strict_check_header=False))


def unsigned(claims: Json, signature: str = "", **header: Any) -> str:
    """Header and claims as they are, and any signature."""
    parts = [_encoded(json.dumps(part).encode()) for part in ({"typ": "at+jwt", **header}, claims)]
    return ".".join([*parts, signature])


def jwk(key: Key, **more: Any) -> Json:
    """The public half, as a key set lists it."""
    return {**{name: value for name, value in key.as_dict(private=False).items() if name != "kid"}, **more}


@dataclass
class FakeIssuer:
    """One issuer. What its endpoints answer can be changed while it runs."""

    issuer: str = "https://idp.example"
    name: str = "corp"
    origin: str = ""
    keys: dict[str, Key] = field(default_factory=lambda: {"k1": ec("k1")})
    asked: list[str] = field(default_factory=list)
    """The paths that were fetched."""
    active: dict[str, Json] = field(default_factory=dict)
    """What introspection says of opaque tokens."""
    introspected: list[tuple[str, str]] = field(default_factory=list)
    """Tokens that were asked about, with the credentials of who asked."""
    status: int = 200
    body: bytes | None = None
    """Instead of any document."""
    gate: anyio.Event | None = None
    """Until it is set no answer is given."""
    metadata: Json = field(default_factory=dict)

    def claims(self, **more: Any) -> Json:
        """Good claims, with what a test wants otherwise; None leaves a claim out."""
        now = int(time.time())
        good = {
            "iss": self.issuer,
            "aud": RESOURCE,
            "sub": "alice",
            "client_id": "bot",
            "iat": now,
            "exp": now + 300,
            "jti": uuid4().hex,
            "scope": "read",
        }
        return {name: value for name, value in {**good, **more}.items() if value is not None}

    def token(self, kid: str = "k1", header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """An access token by the key `kid`."""
        written = {"typ": "at+jwt", "kid": kid, **(header or {})}
        given = {name: value for name, value in written.items() if value is not None}
        return signed(self.claims(**claims), self.keys[kid], **given)

    def key_set(self) -> bytes:
        return json.dumps({"keys": [jwk(key, kid=kid) for kid, key in self.keys.items()]}).encode()

    def config(self, **more: Any) -> IssuerConfig:
        """How the gateway is told of it: with the address of its key set, or by discovery if `jwks=None`."""
        return IssuerConfig(**{"name": self.name, "issuer": self.issuer, "jwks": f"{self.origin}/jwks", **more})

    def introspection(self, **more: Any) -> IntrospectionConfig:
        return IntrospectionConfig(f"{self.origin}/introspect", "gateway", "s3cret", **more)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        if self.gate is not None:
            await self.gate.wait()
        body = await self._answer(scope, receive)
        await send({"type": "http.response.start", "status": self.status if body else 404, "headers": []})
        await send({"type": "http.response.body", "body": body if self.body is None else self.body})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        if scope["path"] == "/jwks":
            return self.key_set()
        if scope["path"] == "/introspect":
            form = parse_qs((await receive())["body"].decode())
            self.introspected.append((form["token"][0], dict(scope["headers"])[b"authorization"].decode()))
            said = self.active.get(form["token"][0])
            return json.dumps({"active": False} if said is None else {"active": True, **said}).encode()
        if scope["path"].startswith("/.well-known/openid-configuration"):
            return json.dumps({"issuer": self.issuer, "jwks_uri": f"{self.origin}/jwks", **self.metadata}).encode()
        return b""


@asynccontextmanager
async def issuing(**more: Any) -> AsyncIterator[FakeIssuer]:
    """A fake issuer that listens; without an `issuer` of its own it is called what its origin is."""
    made = FakeIssuer(**more)
    async with serving(made) as origin:
        made.origin = origin
        yield made


def proof(
    key: Key, token: str, url: str = RESOURCE, method: str = "POST", *, header: Json | None = None, **claims: Any
) -> str:
    """A DPoP proof for one request; None leaves a claim out."""
    said = {
        "jti": uuid4().hex,
        "htm": method,
        "htu": url,
        "iat": int(time.time()),
        "ath": _encoded(sha256(token.encode()).digest()),
        **claims,
    }
    given = {name: value for name, value in said.items() if value is not None}
    return signed(given, key, **{"typ": "dpop+jwt", "jwk": jwk(key), **(header or {})})


def signed_by_secret(claims: Json, secret: bytes, **header: Any) -> str:
    """HS256 by hand: joserfc signs with no public key as a secret."""
    text = unsigned(claims, **{"alg": "HS256", **header}).rstrip(".")
    return f"{text}.{_encoded(hmac.digest(secret, text.encode(), 'sha256'))}"


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
