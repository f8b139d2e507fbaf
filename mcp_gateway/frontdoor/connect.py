"""The pages a person logs in to an upstream with: what it is about, a button, and the way back from the login.

    GET  /connect/TICKET     who asks for what; nothing has begun yet
    POST /connect/TICKET     the button: off to the authorization server, with a secret in this browser's cookie
    GET  /connect/callback   back from there: the same browser, a state that works once
    GET  /connect/signed-in    back from signing in, where a page is for one person and has to know who opens it
    GET  /connect/client.json  who we are, for authorization servers that take a URL for a client id

Whoever finishes is whoever began: the cookie binds the way back to the browser that pressed the button, and where the
login will be a person's, that browser has been signed in as this person. (`wiring` decides where pages may be opened.)
Nothing on them comes from an upstream but its name in our configuration; they hold no script and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from starlette.types import Receive, Scope, Send

from mcp_gateway.credentials.clients import DOCUMENT, metadata_of
from mcp_gateway.credentials.consents import CALLBACK, ConsentRefused, Consents, Pending
from mcp_gateway.credentials.owners import Owner
from mcp_gateway.credentials.sign_in import CALLBACK as SIGNED_IN
from mcp_gateway.credentials.sign_in import SignIn, Visitor
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.frontdoor.doorstep import Doorstep, HttpRefusedError
from mcp_gateway.frontdoor.exchange import Headers, send_json
from mcp_gateway.frontdoor.head import head_of
from mcp_gateway.frontdoor.seals import SealBrokenError, Seals
from mcp_gateway.jsonrpc import dump

ROUTE: Final = re.compile(r"/connect/(?P<ticket>[A-Za-z0-9_-]{20,100})")
COOKIE_S: Final = 600
MAX_PARTS: Final = 32
MAX_FORM_BYTES: Final = 4096

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:12vh auto;padding:0 1rem;color:#222;"
    "background:#fff}h1{font-size:1.3rem}button{font:inherit;padding:.5rem 1.2rem;cursor:pointer}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#1b1b1b}}"
)
_STYLE_HASH: Final = hashlib.sha256(_STYLE.encode()).digest()


@dataclass(frozen=True, slots=True)
class Accounts:
    """People's accounts at the gateway itself."""

    issuer: str
    """What their tokens say as `iss`."""
    is_right: Callable[[str, str, str], Awaitable[bool]]
    """Whether a person's password is right: name, password, and whose connection it came by."""


class ConnectPages:
    """Serves what is below `/connect/`; the doorstep has been passed before."""

    def __init__(
        self, consents: Consents, public_url: str = "", sign_in: SignIn | None = None, seals: Seals | None = None
    ) -> None:
        """With `sign_in` and `seals`, a page for a person is shown to that person only."""
        self.accounts: Accounts | None = None
        self._consents = consents
        self._public_url = public_url
        self._sign_in = sign_in
        self._seals = seals

    def can_tell(self, owner: Owner) -> bool:
        """Whether it can be told that whoever opens a page is this person."""
        return self._has_account(owner) or (self._sign_in is not None and self._sign_in.issuer == owner.issuer)

    async def serve(self, scope: Scope, receive: Receive, send: Send, doorstep: Doorstep) -> None:
        """Answer one request."""
        try:
            await self._serve(scope, receive, send, doorstep)
        except ConsentRefused as e:
            await _page(send, 400, "This did not work", f"<p>{escape(str(e))}</p>")
        except StoreUnavailable:
            await _page(send, 503, "This did not work", "<p>The gateway cannot keep logins at the moment.</p>")

    async def _serve(self, scope: Scope, receive: Receive, send: Send, doorstep: Doorstep) -> None:
        path, method = scope["path"], scope["method"]
        route = ROUTE.fullmatch(path)
        if path == CALLBACK and method == "GET":
            await self._finish(scope, send)
        elif path == SIGNED_IN and method == "GET" and self._sign_in is not None:
            await self._admit(scope, send, self._sign_in)
        elif path == DOCUMENT and method == "GET" and self._public_url.startswith("https://"):
            await self._tell_who_we_are(send)
        elif route is not None and method == "GET":
            pending = self._consents.pending(route["ticket"])
            if self._sign_in is None or self._has_account(pending.owner) or self._is_for(scope, pending):
                await self._ask(scope, send, pending)
            else:
                await self._send_to_sign_in(scope, send, pending, self._sign_in)
        elif route is not None and method == "POST":
            self._check_visitor(scope, self._consents.pending(route["ticket"]))
            await self._start(scope, receive, send, doorstep, route["ticket"])
        else:
            await _page(send, 404, "Not found", "<p>There is nothing here.</p>")

    def _visitor(self, scope: Scope) -> Visitor | None:
        """Whom this browser has been proven to be, not long ago."""
        if self._seals is None:
            return None
        try:
            found = self._seals.open(_cookies(scope).get(_name(scope, "visitor"), ""), (), time.time())
        except SealBrokenError:
            return None
        return Visitor(str(found["person"]), str(found["issuer"]))

    def _is_for(self, scope: Scope, pending: Pending) -> bool:
        owner = pending.owner
        return not owner.person or self._visitor(scope) == Visitor(owner.person, owner.issuer)

    def _has_account(self, owner: Owner) -> bool:
        """Whether the person has an account here, whose password the page asks for."""
        return bool(owner.person) and self.accounts is not None and self.accounts.issuer == owner.issuer

    async def _check_password(self, scope: Scope, owner: Owner, password: str) -> None:
        if self.accounts is not None and self._has_account(owner):
            peer = str((scope.get("client") or ("",))[0])
            if not await self.accounts.is_right(owner.person, password, peer):
                raise ConsentRefused("The password is not right. Nothing was connected: open the link again.")

    def _check_visitor(self, scope: Scope, pending: Pending) -> None:
        if self._sign_in is not None and not self._has_account(pending.owner) and not self._is_for(scope, pending):
            raise ConsentRefused("This link was made for somebody else. Nothing was connected.")

    async def _send_to_sign_in(self, scope: Scope, send: Send, pending: Pending, sign_in: SignIn) -> None:
        """Away to prove who it is; a browser that has proven to be somebody else stays out."""
        if self._visitor(scope) is not None:
            self._check_visitor(scope, pending)
        url, browser = await sign_in.begin(pending.ticket, pending.base_url)
        headers = ((b"location", url.encode()), _cookie(scope, "sign-in", browser), *_SAFE)
        await send_json(send, 303, b"", headers, b"text/plain")

    async def _admit(self, scope: Scope, send: Send, sign_in: SignIn) -> None:
        """Back from signing in: the cookie says who it is, the page says the rest."""
        browser = _cookies(scope).get(_name(scope, "sign-in"), "")
        ticket, visitor = await sign_in.finish(_parameters(scope["query_string"]), browser)
        assert self._seals is not None  # noqa: S101  they come together
        sealed = self._seals.seal({"person": visitor.person, "issuer": visitor.issuer}, (), time.time())
        headers = ((b"location", f"/connect/{ticket}".encode()), _cookie(scope, "visitor", sealed), *_SAFE)
        await send_json(send, 303, b"", headers, b"text/plain")

    async def _ask(self, scope: Scope, send: Send, pending: Pending) -> None:
        """What pressing the button means; the cookie shows later that it was this browser that pressed it."""
        token = secrets.token_urlsafe(32)
        owner = pending.owner
        whom = f"<b>{escape(owner.person)}</b>" if owner.person else "you"
        body = (
            f"<p>The agent <b>{escape(owner.agent or 'that asked')}</b> wants to use "
            f"<b>{escape(pending.party.name)}</b> ({escape(urlsplit(pending.party.url).netloc)}) for {whom}.</p>"
            "<p>You will log in there, with your own account. The gateway keeps what it gets encrypted, and uses it "
            "only for calls that its policy allows; the agent never sees it.</p>"
            "<p>If you did not ask for this just now, close this page: somebody may want to act with your account.</p>"
            f'<form method="post"><input type="hidden" name="token" value="{token}">{self._question(owner)}'
            "<button>Log in</button></form>"
        )
        await _page(send, 200, f"Log in to {pending.party.name}", body, (_cookie(scope, "ask", token),))

    def _question(self, owner: Owner) -> str:
        if not self._has_account(owner):
            return ""
        label = f"Password of {escape(owner.person)} at this gateway"
        return f'<p><label>{label} <input type="password" name="password" required></label></p>'

    async def _start(self, scope: Scope, receive: Receive, send: Send, doorstep: Doorstep, ticket: str) -> None:
        try:
            form = _parameters((await doorstep.read_body(scope, receive))[:MAX_FORM_BYTES])
        except HttpRefusedError as e:
            raise ConsentRefused("The button sent something else than it should.") from e
        asked = _cookies(scope).get(_name(scope, "ask"), "")
        if not asked or not hmac.compare_digest(asked.encode(), form.get("token", "").encode()):
            raise ConsentRefused("The button was not pressed on this page, or this browser takes no cookies.")
        await self._check_password(scope, self._consents.pending(ticket).owner, form.get("password", ""))
        url, browser = await self._consents.start(ticket)
        headers = ((b"location", url.encode()), _cookie(scope, "browser", browser), *_SAFE)
        await send_json(send, 303, b"", headers, b"text/plain")

    async def _finish(self, scope: Scope, send: Send) -> None:
        query = _parameters(scope["query_string"])
        login = await self._consents.finish(query, _cookies(scope).get(_name(scope, "browser"), ""))
        body = "<p>You can close this page and go back to the agent.</p>"
        gone = _cookie(scope, "browser", "", 0)
        await _page(send, 200, f"You are logged in to {login.row.upstream}", body, (gone,))

    async def _tell_who_we_are(self, send: Send) -> None:
        metadata = {"client_id": f"{self._public_url}{DOCUMENT}", **metadata_of(f"{self._public_url}{CALLBACK}")}
        await send_json(send, 200, dump(metadata), ((b"cache-control", b"max-age=300"),))


_SAFE: Final[Headers] = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


async def _page(send: Send, status: int, title: str, body: str, more: Headers = ()) -> None:
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>{body}</html>"
    )
    # No form-action: browsers apply it to where the button's answer leads, which is the authorization server.
    policy = f"default-src 'none'; style-src 'sha256-{_base64(_STYLE_HASH)}'; frame-ancestors 'none'; base-uri 'none'"
    headers = ((b"content-security-policy", policy.encode()), *_SAFE, *more)
    await send_json(send, status, text.encode(), headers, b"text/html; charset=utf-8")


def _parameters(text: bytes) -> dict[str, str]:
    """What a query or a form says, each thing once. Raises `ConsentRefused`."""
    try:
        parts = parse_qsl(text.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARTS)
    except ValueError as e:
        raise ConsentRefused("The answer says more than it should.") from e
    if len(dict(parts)) != len(parts):
        raise ConsentRefused("The answer says the same thing twice.")
    return dict(parts)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _is_https(scope: Scope) -> bool:
    """Whether browsers reach us over TLS: on this machine they do not, everywhere else they have to."""
    host = head_of(scope).lines.values("host")[0].lower()
    return not re.match(r"(localhost|127\.|\[::1\])", host)


def _name(scope: Scope, purpose: str) -> str:
    # RFC 6265bis section 4.1.3.2: the prefix keeps other hosts of the domain from setting it.
    return f"__Host-connect-{purpose}" if _is_https(scope) else f"connect-{purpose}"


def _cookie(scope: Scope, purpose: str, value: str, max_age_s: int = COOKIE_S) -> tuple[bytes, bytes]:
    secure = "; Secure" if _is_https(scope) else ""
    text = f"{_name(scope, purpose)}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}"
    return b"set-cookie", text.encode()


def _cookies(scope: Scope) -> dict[str, str]:
    try:
        found = SimpleCookie("; ".join(head_of(scope).lines.values("cookie")))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in found.items()}
