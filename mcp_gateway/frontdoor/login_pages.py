"""The pages and endpoints of the embedded authorization server: one form, and JSON for programs.

The form is where a person sees what is being allowed and proves who they are, in one step. It has no script; what it
sends back is sealed and bound to a cookie of the browser it was shown to, so that no other page can send it and nobody
can finish what another began. Nothing is redirected anywhere before the program and its address are known to be good.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.types import Receive, Scope, Send

from mcp_gateway.audit.log import AuditLog
from mcp_gateway.domain import Json
from mcp_gateway.errors import BadRequest, StoreUnavailable
from mcp_gateway.frontdoor.doorstep import Doorstep, HttpRefusedError
from mcp_gateway.frontdoor.exchange import send_json
from mcp_gateway.frontdoor.head import head_of
from mcp_gateway.frontdoor.seals import SealBrokenError, Seals
from mcp_gateway.identity.login import AuthorizationServer, OAuthRefused, Wish
from mcp_gateway.jsonrpc import dump, parse

METADATA: Final = "/.well-known/oauth-authorization-server"
FORM_S: Final = 600
"""How long a form may be filled in."""

MAX_FORM_BYTES: Final = 64 * 1024
MAX_FIELDS: Final = 40

_COOKIE: Final = "mcp-gateway-login"
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:4rem auto;padding:0 1rem}"
    "label{display:block;margin:1rem 0}input{width:100%;font:inherit;padding:.4rem;box-sizing:border-box}"
    "button{font:inherit;padding:.4rem 1rem;margin-right:.5rem}.wrong{color:#a00}code{word-break:break-all}"
)
_STYLE_HASH: Final = b64encode(sha256(_STYLE.encode()).digest()).decode()

Headers = list[tuple[bytes, bytes]]


class LoginPages:
    """Serves the routes of the authorization server."""

    def __init__(
        self,
        server: AuthorizationServer,
        doorstep: Doorstep,
        audit: AuditLog,
        seals: Seals,
        now_s: Callable[[], float],
    ) -> None:
        """`seals` must live for `FORM_S`."""
        self._server = server
        self._doorstep = doorstep
        self._audit = audit
        self._seals = seals
        self._now_s = now_s
        self._is_https = server.issuer.startswith("https:")
        self._routes: Mapping[tuple[str, str], Callable[[Scope, Receive, Send], Awaitable[None]]] = {
            ("GET", METADATA): self._tell_metadata,
            ("GET", "/authorize"): self._show_form,
            ("POST", "/authorize"): self._take_form,
            ("POST", "/token"): self._token,
            ("POST", "/register"): self._register,
            ("POST", "/revoke"): self._revoke,
        }
        self._paths = frozenset(path for _, path in self._routes)

    def owns(self, path: str) -> bool:
        """Whether a path is one of these routes."""
        return path in self._paths

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a route of ours."""
        route = self._routes.get((scope["method"], scope["path"]))
        try:
            if route is None:
                await self._fail(send, 405, "invalid_request", "method not allowed")
            else:
                await route(scope, receive, send)
        except OAuthRefused as e:
            self._audit.count_refusal(f"login:{e.error}")
            await self._fail(send, 429 if e.error == "slow_down" else 400, e.error, str(e))
        except HttpRefusedError as e:
            await self._fail(send, e.refusal.status, "invalid_request", e.refusal.text)
        except StoreUnavailable:
            await self._fail(send, 503, "temporarily_unavailable", "")

    async def _tell_metadata(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, dump(self._server.metadata()), _NO_STORE)

    async def _register(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(scope, receive, "application/json")
        try:
            document = parse(body)
        except BadRequest as e:
            raise OAuthRefused("invalid_client_metadata", "not JSON") from e
        await send_json(send, 201, dump(await self._server.register(document)), _NO_STORE)

    async def _token(self, scope: Scope, receive: Receive, send: Send) -> None:
        form = await self._form(scope, receive)
        await send_json(send, 200, dump(await self._server.token(form)), _NO_STORE)

    async def _revoke(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._server.revoke(await self._form(scope, receive))
        await send_json(send, 200, b"", _NO_STORE)

    async def _show_form(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = _fields(scope["query_string"])
        # Until both are known to be good, whoever asks is told here and sent nowhere (RFC 6749 section 4.1.2.1).
        client = await self._server.client(asked.get("client_id", ""), asked.get("redirect_uri", ""))
        try:
            wish = self._server.wish(client, asked)
        except OAuthRefused as e:
            await _redirect(send, asked["redirect_uri"], self._answer(asked, error=e.error, error_description=str(e)))
            return
        cookie = secrets.token_urlsafe(24)
        await self._send_form(send, wish, asked, cookie, set_cookie=True)

    async def _take_form(self, scope: Scope, receive: Receive, send: Send) -> None:
        form, cookie = await self._form(scope, receive), self._cookie(scope)
        try:
            asked = self._seals.open(form.get("request", ""), ("login", cookie or ""), self._now_s())
            if not cookie:
                raise SealBrokenError
        except SealBrokenError as e:
            raise OAuthRefused("invalid_request", "this form is not valid any more: begin again in the program") from e
        client = await self._server.client(asked["client_id"], asked["redirect_uri"])
        wish = self._server.wish(client, asked)
        if "deny" in form:
            await _redirect(send, wish.redirect_uri, self._answer(asked, error="access_denied"))
            return
        peer = scope.get("client") or ("", 0)
        person = await self._server.log_in(form.get("name", ""), form.get("password", ""), peer[0])
        if person is None:
            self._audit.count_refusal("login:wrong_password")
            await self._send_form(send, wish, asked, cookie, is_wrong=True)
            return
        await self._audit.note("login", person.name, reason=f"allowed {client.id} to act for them", detail=_told(wish))
        await _redirect(send, wish.redirect_uri, self._answer(asked, code=self._server.code_for(wish, person)))

    def _answer(self, asked: Mapping[str, str], **said: str) -> dict[str, str]:
        """What the program is told: with its state, and with who says it (RFC 9207)."""
        state = {"state": asked["state"]} if asked.get("state") else {}
        return {**said, **state, "iss": self._server.issuer}

    async def _send_form(
        self,
        send: Send,
        wish: Wish,
        asked: Mapping[str, str],
        cookie: str,
        *,
        set_cookie: bool = False,
        is_wrong: bool = False,
    ) -> None:
        sealed = self._seals.seal(dict(asked), ("login", cookie), self._now_s())
        headers: Headers = [(b"content-security-policy", _policy(wish.redirect_uri)), *_PAGE_HEADERS]
        if set_cookie:
            secure = "; Secure" if self._is_https else ""
            line = f"{self._cookie_name}={cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age={FORM_S}{secure}"
            headers.append((b"set-cookie", line.encode()))
        await send_json(send, 401 if is_wrong else 200, _page(wish, sealed, is_wrong), headers, _HTML)

    @property
    def _cookie_name(self) -> str:
        # `__Host-`: no other host, and nothing without TLS, can set it. Browsers take that over https only.
        return f"__Host-{_COOKIE}" if self._is_https else _COOKIE

    def _cookie(self, scope: Scope) -> str | None:
        lines = head_of(scope).lines.values("cookie")
        try:
            found = SimpleCookie("; ".join(lines)).get(self._cookie_name)
        except CookieError:
            return None
        return None if found is None else found.value

    async def _form(self, scope: Scope, receive: Receive) -> dict[str, str]:
        return _fields(await self._body(scope, receive, "application/x-www-form-urlencoded"))

    async def _body(self, scope: Scope, receive: Receive, content_type: str) -> bytes:
        given = head_of(scope).lines.fields.get("content-type", "").split(";")[0].strip().lower()
        if given != content_type:
            raise OAuthRefused("invalid_request", f"Content-Type must be {content_type}")
        body = await self._doorstep.read_body(scope, receive)
        if len(body) > MAX_FORM_BYTES:
            raise OAuthRefused("invalid_request", "too large")
        return body

    async def _fail(self, send: Send, status: int, error: str, description: str) -> None:
        said: Json = {"error": error, **({"error_description": description} if description else {})}
        await send_json(send, status, dump(said), _NO_STORE)


_HTML: Final = b"text/html; charset=utf-8"
_NO_STORE: Final[Headers] = [(b"cache-control", b"no-store")]
_PAGE_HEADERS: Final[Headers] = [
    *_NO_STORE,
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


def _fields(data: bytes) -> dict[str, str]:
    """A query or form; a field that comes twice is refused (RFC 6749 section 3.1)."""
    try:
        pairs = parse_qsl(data.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as e:
        raise OAuthRefused("invalid_request", "this cannot be read") from e
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise OAuthRefused("invalid_request", "a parameter came twice")
    return fields


async def _redirect(send: Send, to: str, said: Mapping[str, str]) -> None:
    separator = "&" if "?" in to else "?"
    location = f"{to}{separator}{urlencode(said)}".encode("latin-1")
    await send_json(send, 303, b"", [(b"location", location), *_PAGE_HEADERS], _HTML)


def _policy(redirect_uri: str) -> bytes:
    """No script, no frame, nothing loaded. Browsers hold redirects of a form against `form-action` too."""
    parts = urlsplit(redirect_uri)
    target = f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") else f"{parts.scheme}:"
    return (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self' {target}; "
        "frame-ancestors 'none'; base-uri 'none'"
    ).encode()


def _told(wish: Wish) -> dict[str, Any]:
    return {"resource": wish.resource, "scope": wish.scope, "redirect_uri": wish.redirect_uri}


def _page(wish: Wish, sealed: str, is_wrong: bool) -> bytes:
    """The form. Whatever a program says of itself is text, and said to be its own words."""
    name, where = escape(wish.client.name), escape(urlsplit(wish.redirect_uri).netloc or wish.redirect_uri)
    scopes = f"<p>It asks for: <code>{escape(wish.scope)}</code></p>" if wish.scope else ""
    wrong = '<p class="wrong">Name and password do not belong together.</p>' if is_wrong else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Log in</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>Log in</h1>
<p>A program that calls itself <b>{name}</b> wants to use the gateway for you. You will be sent to
<code>{where}</code>, and it will act in your name at <code>{escape(wish.resource)}</code>.</p>
{scopes}{wrong}<form method="post" action="/authorize" autocomplete="off">
<input type="hidden" name="request" value="{escape(sealed)}">
<label>Name <input name="name" autocomplete="username" required maxlength="64"></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Allow</button><button name="deny" value="1" formnovalidate>Deny</button>
</form></body></html>
""".encode()
