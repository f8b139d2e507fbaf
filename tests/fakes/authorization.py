"""An authorization server and the MCP server it protects: small, strict about OAuth, and able to go wrong on request.

Whom it lets in is what the browser's cookie `person` says. The MCP server (2026-07-28) has one tool, `whoami`, which
tells whose token the call came with.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode

import httpx2
from joserfc import jwt
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from fakes.served import serving
from mcp_gateway.identity.dpop import Asked, NonceNeeded, Proofs
from mcp_gateway.identity.jwt import TokenRefused

Json = dict[str, Any]


@dataclass
class Given:
    """What a token stands for."""

    person: str
    client_id: str
    resource: str
    scopes: str
    ends_at: float
    nonce: str | None = None
    jkt: str = ""
    """The thumbprint of the key it is bound to (RFC 9449)."""


@dataclass
class World:
    """One server that is both; knobs make it misbehave."""

    origin: str = ""
    path: str = "/mcp"
    lifetime_s: float | None = 3600.0
    rotates: bool = True
    needs_scope: str = ""
    """The scope that `tools/call` needs beyond having a token."""
    scope_of_challenge: str = ""
    metadata: Json = field(default_factory=dict)
    """Members put in place of those of the authorization server's metadata; None: left out."""
    resource_metadata: Json = field(default_factory=dict)
    answer_to_authorize: Json = field(default_factory=dict)
    """Parameters put in place of those the browser is sent back with; None: left out."""
    token_status: int = 0
    """Answer every token request with this status and no JSON."""
    token_error: str = ""
    binds: bool = False
    """Tokens are bound to the key of a DPoP proof, and go with proofs."""
    wants_nonce: bool = False
    """Proofs have to carry a nonce, at both endpoints."""
    own_tools: dict[str, list[str]] = field(default_factory=dict)
    """Tools by person, beside `whoami`."""
    own_resources: dict[str, list[str]] = field(default_factory=dict)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    """Token requests wait for it."""
    token_requests: list[Json] = field(default_factory=list)
    registrations: list[Json] = field(default_factory=list)
    clients: dict[str, str] = field(default_factory=dict)
    codes: dict[str, Json] = field(default_factory=dict)
    access: dict[str, Given] = field(default_factory=dict)
    refresh: dict[str, Given] = field(default_factory=dict)
    spent: dict[str, str] = field(default_factory=dict)
    """Rotated refresh tokens, with what came of them."""
    revoked: list[str] = field(default_factory=list)
    called_by: list[str] = field(default_factory=list)
    on_token: Callable[[Json], None] = lambda form: None
    id_claims: Json = field(default_factory=dict)
    """Claims put in place of those of ID tokens; None: left out."""
    id_token: str = ""
    """This in place of the ID token."""
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", auto_kid=True))

    def __post_init__(self) -> None:
        self.may_answer.set()
        self.proofs = Proofs(self.wants_nonce)
        self.asked_to_authorize: Json = {}
        self.proven = 0
        """Requests with a proof that was right."""

    @property
    def url(self) -> str:
        """The MCP server's."""
        return f"{self.origin}{self.path}"

    @property
    def refreshes(self) -> int:
        return sum(form.get("grant_type") == "refresh_token" for form in self.token_requests)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/oauth-authorization-server", self._metadata),
                Route(f"/.well-known/oauth-protected-resource{self.path}", self._resource),
                Route("/register", self._register, methods=["POST"]),
                Route("/authorize", self._authorize),
                Route("/token", self._token, methods=["POST"]),
                Route("/revoke", self._revoke, methods=["POST"]),
                Route("/jwks", self._jwks),
                Route(self.path, self._mcp, methods=["POST"]),
            ]
        )

    async def _metadata(self, request: Request) -> Response:
        found = {
            "issuer": self.origin,
            "authorization_endpoint": f"{self.origin}/authorize",
            "token_endpoint": f"{self.origin}/token",
            "registration_endpoint": f"{self.origin}/register",
            "revocation_endpoint": f"{self.origin}/revoke",
            "jwks_uri": f"{self.origin}/jwks",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "none"],
            "authorization_response_iss_parameter_supported": True,
            **({"dpop_signing_alg_values_supported": ["ES256"]} if self.binds else {}),
            **self.metadata,
        }
        return JSONResponse({name: value for name, value in found.items() if value is not None})

    async def _resource(self, request: Request) -> Response:
        bound = {"dpop_bound_access_tokens_required": True} if self.binds else {}
        found = {"resource": self.url, "authorization_servers": [self.origin], **bound, **self.resource_metadata}
        return JSONResponse(found)

    async def _register(self, request: Request) -> Response:
        asked = json.loads(await request.body())
        self.registrations.append(asked)
        client_id, secret = f"client-{len(self.registrations)}", secrets.token_hex(16)
        self.clients[client_id] = secret
        return JSONResponse({**asked, "client_id": client_id, "client_secret": secret}, 201)

    async def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        self.asked_to_authorize = asked
        person = request.cookies.get("person", "nobody")
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = {**asked, "person": person}
        back = {"code": code, "state": asked["state"], "iss": self.origin, **self.answer_to_authorize}
        query = urlencode({name: value for name, value in back.items() if value is not None})
        return RedirectResponse(f"{asked['redirect_uri']}?{query}", 302)

    async def _token(self, request: Request) -> Response:
        form = dict((await request.form()).items())
        self.token_requests.append(form)
        await self.may_answer.wait()
        self.on_token(form)
        if self.token_status:
            return Response("it is not well", self.token_status)
        if self.token_error:
            return JSONResponse({"error": self.token_error, "error_description": "canary-description"}, 400)
        client_id = self._client(request, form)
        if client_id is None:
            return JSONResponse({"error": "invalid_client"}, 401)
        jkt = self._thumbprint(request) if self.binds else ""
        if jkt is None:
            return JSONResponse({"error": "use_dpop_nonce"}, 400, {"DPoP-Nonce": "nonce-of-the-issuer"})
        assert jkt == self.codes.get(form.get("code", ""), {}).get("dpop_jkt", jkt), "a code is bound to its key too"
        before = self.refresh.get(form.get("refresh_token", ""))
        given = None if before is not None and before.jkt != jkt else self._given(form, client_id)
        if given is None:
            return JSONResponse({"error": "invalid_grant"}, 400)
        given.jkt = jkt
        return JSONResponse(
            self._issued(given, with_refresh=form["grant_type"] in ("authorization_code", "refresh_token"))
        )

    def _thumbprint(self, request: Request) -> str | None:
        """That of the key of a right proof (RFC 9449 section 5); None: it lacks the nonce."""
        [text] = request.headers.getlist("dpop")
        key = ECKey.import_key(json.loads(_decoded(text.partition(".")[0]))["jwk"])
        proof = jwt.decode(text, key, algorithms=["ES256"])
        assert not key.is_private and proof.header["typ"] == "dpop+jwt"
        assert (proof.claims["htm"], proof.claims["htu"]) == ("POST", f"{self.origin}/token")
        assert abs(proof.claims["iat"] - time.time()) < 7200 and proof.claims["jti"]
        if self.wants_nonce and proof.claims.get("nonce") != "nonce-of-the-issuer":
            return None
        return key.thumbprint()

    def _client(self, request: Request, form: Json) -> str | None:
        header = request.headers.get("authorization", "")
        if not header.startswith("Basic "):
            return str(form.get("client_id", ""))
        client_id, _, secret = base64.b64decode(header[6:]).decode().partition(":")
        known = self.clients.get(unquote(client_id))
        return unquote(client_id) if known == unquote(secret) else None

    def _given(self, form: Json, client_id: str) -> Given | None:
        ends_at = time.time() + (self.lifetime_s or 3600)
        if form["grant_type"] == "authorization_code":
            asked = self.codes.pop(form["code"], None)
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if asked is None or asked["code_challenge"] != challenge or asked["redirect_uri"] != form["redirect_uri"]:
                return None
            scopes, resource = asked.get("scope", ""), form.get("resource", "")
            return Given(asked["person"], client_id, resource, scopes, ends_at, asked.get("nonce"))
        if form["grant_type"] == "refresh_token":
            before = self.refresh.get(form["refresh_token"])
            if before is None or before.client_id != client_id:
                return None
            if self.rotates:
                del self.refresh[form["refresh_token"]]
            return Given(before.person, client_id, before.resource, before.scopes, ends_at)
        subject = form.get("subject_token") or form.get("assertion") or client_id
        return Given(str(subject), client_id, form.get("resource", ""), form.get("scope", ""), ends_at)

    def _issued(self, given: Given, *, with_refresh: bool) -> Json:
        token = f"at-{given.person}-{secrets.token_hex(8)}"
        self.access[token] = given
        found: Json = {"access_token": token, "token_type": "DPoP" if given.jkt else "Bearer"}
        if self.lifetime_s is not None:
            found["expires_in"] = self.lifetime_s
        if given.scopes:
            found["scope"] = given.scopes
        if "openid" in given.scopes.split():
            found["id_token"] = self.id_token or self._id_token_for(given)
        if with_refresh:
            found["refresh_token"] = f"rt-{given.person}-{secrets.token_hex(8)}"
            self.refresh[found["refresh_token"]] = given
        return found

    def _id_token_for(self, given: Given) -> str:
        now = int(time.time())
        usual = {"iss": self.origin, "aud": given.client_id, "sub": given.person, "iat": now, "exp": now + 60}
        claims = {**usual, "nonce": given.nonce, **self.id_claims}
        header = {"alg": "ES256", "kid": self.key.kid}
        return jwt.encode(header, {name: value for name, value in claims.items() if value is not None}, self.key)

    async def _jwks(self, request: Request) -> Response:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    async def _revoke(self, request: Request) -> Response:
        form = dict((await request.form()).items())
        self.revoked.append(str(form["token"]))
        self.refresh.pop(str(form["token"]), None)
        return Response("", 200)

    async def _mcp(self, request: Request) -> Response:
        message = json.loads(await request.body())
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        given = self.access.get(token)
        if given is not None and (refusal := self._unproven(request, scheme, token, given)) is not None:
            return refusal
        where = f'resource_metadata="{self.origin}/.well-known/oauth-protected-resource{self.path}"'
        if given is None or given.ends_at < time.time() or given.resource != self.url:
            scope = f', scope="{self.scope_of_challenge}"' if self.scope_of_challenge else ""
            return Response("", 401, {"WWW-Authenticate": f'Bearer error="invalid_token", {where}{scope}'})
        if message["method"] == "tools/call" and self.needs_scope not in given.scopes:
            challenge = f'Bearer error="insufficient_scope", scope="{self.needs_scope}", {where}'
            return Response("", 403, {"WWW-Authenticate": challenge})
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": self._result(message, given)})

    def _unproven(self, request: Request, scheme: str, token: str, given: Given) -> Response | None:
        """Why a token may not be used by whoever came with it; None: they hold its key, or it has none."""
        if not given.jkt:
            return None if scheme == "Bearer" else Response("", 401)
        assert scheme == "DPoP"
        try:
            asked = Asked(request.method, self.url)
            self.proofs.check(request.headers.getlist("dpop"), token, given.jkt, asked, time.time())
        except NonceNeeded as e:
            return Response("", 401, {"WWW-Authenticate": 'DPoP error="use_dpop_nonce"', "DPoP-Nonce": e.nonce})
        except TokenRefused:
            return Response("", 401, {"WWW-Authenticate": 'DPoP error="invalid_dpop_proof"'})
        self.proven += 1
        return None

    def _result(self, message: Json, given: Given) -> Json:
        done = {"resultType": "complete", "_meta": {}}
        if message["method"] == "server/discover":
            offered: Json = {"tools": {}, **({"resources": {}} if self.own_resources else {})}
            info = {"supportedVersions": ["2026-07-28"], "capabilities": offered, "ttlMs": 0}
            return {**done, **info, "cacheScope": "private", "serverInfo": {"name": "world", "version": "1"}}
        if message["method"] == "tools/list":
            names = ["whoami", *self.own_tools.get(given.person, [])]
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names]
            return {**done, "tools": tools, "ttlMs": 0, "cacheScope": "private"}
        if message["method"] == "resources/list":
            uris = self.own_resources.get(given.person, [])
            return {**done, "resources": [{"uri": uri, "name": uri} for uri in uris], "ttlMs": 0}
        if message["method"] == "resources/templates/list":
            return {**done, "resourceTemplates": [], "ttlMs": 0}
        self.called_by.append(given.person)
        return {**done, "content": [{"type": "text", "text": given.person}], "isError": False}


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@asynccontextmanager
async def world(**knobs: Any) -> AsyncIterator[World]:
    """A served `World`."""
    made = World(**knobs)
    async with serving(made.app()) as origin:
        made.origin = origin
        yield made


async def log_in(page: str, person: str) -> httpx2.Response:
    """What `person` does in a browser: open the page, press the button, be sent there and back; the last page."""
    async with browser_of(person) as browser:
        return await press(browser, page)


def browser_of(person: str) -> httpx2.AsyncClient:
    """A browser in which `person` is logged in everywhere."""
    return httpx2.AsyncClient(follow_redirects=True, trust_env=False, verify=False, cookies={"person": person})


async def press(browser: httpx2.AsyncClient, page: str) -> httpx2.Response:
    """Open a page and press its button."""
    shown = await browser.get(page)
    token = re.search(r'name="token" value="([^"]+)"', shown.text)
    assert token is not None, shown.text
    return await browser.post(page, data={"token": token[1]})
