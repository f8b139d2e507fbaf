"""How a `url` server is reached: its URL, the headers that go with each request, and the credential among them.

Headers that belong to the protocol (`Host`, `Content-Type`, `Mcp-Session-Id`, ...) cannot be set: what the gateway
sends there is decided per request. A bearer token or key given under `auth` ends up as one header like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from urllib.parse import SplitResult, urlencode, urlsplit

from mcp_gateway.config.secrets import Secrets, is_secret_name, warn_of_literal_secret
from mcp_gateway.config.settings import is_loopback
from mcp_gateway.config.table import ConfigCode, Table
from mcp_gateway.config.upstream_auth import AuthConfig, AuthKind, read_auth

_URL: Final = re.compile(r"[!-~]+")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2, "token"
_HEADER_VALUE: Final = re.compile(r"[!-~\x80-\xff]([\t -~\x80-\xff]*[!-~\x80-\xff])?")  # section 5.5, not empty
_BEARER: Final = re.compile(r"[!-~]+")

_PROTOCOL_HEADERS: Final = frozenset(
    {"accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host"}
    | {"keep-alive", "last-event-id", "te", "trailer", "transfer-encoding", "upgrade"}
    | {"mcp-method", "mcp-name", "mcp-protocol-version", "mcp-session-id"}
)
_FIXED: Final = ("bearer", "header", "query")
_AUTH_FORMS: Final = '"oauth", { bearer = "${TOKEN}" }, { header = "X-Api-Key", value = "${KEY}" }, ...: see the docs'


@dataclass(frozen=True, slots=True, repr=False)
class Remote:
    """What a `url` server's table says about reaching it."""

    url: str
    headers: Mapping[str, str]
    shown: str
    """The URL as it may be shown: references unresolved, without its query (which may hold a key)."""
    auth: AuthConfig | None = None
    """How a token is obtained, where it is."""


def read_remote(table: Table, secrets: Secrets, key: str = "url") -> Remote:
    """`url` (or whatever `key` says), `headers` and `auth`; complaints go to the table's findings."""
    written = table.text(key) or ""
    url = _url(table, secrets, key)
    headers = _headers(table, secrets)
    auth = read_auth(table, secrets)
    query = "" if auth is not None else _fixed_auth(table, secrets, headers)
    is_secret = bool(query or auth) or any(is_secret_name(name) for name in headers)
    if url and _is_readable_on_the_way(url) and is_secret:
        table.warn(key, "the credential goes over plain http, readable on the way", "use https", ConfigCode.PLAIN_HTTP)
    return Remote(_with_query(url, query), MappingProxyType(headers), written.partition("?")[0], auth)


def _with_query(url: str, query: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{query}" if url and query else url


def _url(table: Table, secrets: Secrets, key: str) -> str:
    url = table.resolved(key, secrets.expand)
    problem = None if url is None else _url_problem(url)
    if problem is not None:
        table.refuse(key, f"{key!r} {problem}", "write it like https://host/mcp", ConfigCode.URL)
    return "" if url is None or problem is not None else url


def _is_readable_on_the_way(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def _headers(table: Table, secrets: Secrets) -> dict[str, str]:
    """`headers` as written, resolved."""
    written = table.texts_by_name("headers")
    headers: dict[str, str] = {}
    for name, value in written.items():
        warn_of_literal_secret(table, "headers", name, value)
        resolved = table.resolve(("headers", name), value, secrets.value)
        if resolved is not None and _is_good_header(table, "headers", name, resolved, headers):
            headers[name] = resolved
    return headers


def _fixed_auth(table: Table, secrets: Secrets, headers: dict[str, str]) -> str:
    """Put the fixed token or key of `auth` among the headers; the query that holds it instead, if it goes there."""
    auth = table.table("auth")
    if auth is None:
        return ""
    kinds = [key for key in (*_FIXED, *AuthKind) if auth.raw(key) is not None]
    value = auth.raw("value")
    auth.finish()
    if len(kinds) != 1 or kinds[0] not in _FIXED or (kinds[0] == "bearer" and value is not None):
        auth.findings.refuse(auth.path, "'auth' needs exactly one kind", _AUTH_FORMS, ConfigCode.BAD_VALUE)
        return ""
    named = _bearer(auth, secrets) if kinds[0] == "bearer" else _named(auth, kinds[0], secrets)
    if kinds[0] == "query":
        return urlencode(named)
    headers |= {name: text for name, text in named.items() if _is_good_header(auth, "", name, text, headers)}
    return ""


def _url_problem(url: str) -> str | None:
    """What is wrong with a URL, in words that do not repeat it; None: nothing."""
    if not _URL.fullmatch(url):
        return "is empty or holds spaces or non-ASCII characters"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "is not a URL"
    return _parts_problem(parts)


def _parts_problem(parts: SplitResult) -> str | None:
    if parts.scheme not in ("http", "https"):
        return "does not begin with https:// or http://"
    if "@" in parts.netloc:
        return "holds a user name or password; those belong under 'auth' or 'headers'"
    if not parts.hostname:
        return "names no host"
    return "holds a fragment (#...)" if parts.fragment else None


def _bearer(auth: Table, secrets: Secrets) -> dict[str, str]:
    warn_of_literal_secret(auth, "bearer", "bearer token", auth.text("bearer") or "${}")
    token = auth.resolved("bearer", secrets.value)
    if token is None:
        return {}
    if not _BEARER.fullmatch(token):
        message = "the bearer token is empty or holds characters no token may have"
        auth.refuse("bearer", message, "is it the token alone, without 'Bearer '?", ConfigCode.HEADER)
        return {}
    return {"Authorization": f"Bearer {token}"}


def _named(auth: Table, kind: str, secrets: Secrets) -> dict[str, str]:
    name = auth.text(kind)
    if "value" not in auth:
        auth.findings.refuse(auth.path, f"{kind!r} needs a 'value' beside it", _AUTH_FORMS, ConfigCode.BAD_VALUE)
    warn_of_literal_secret(auth, "value", "auth", auth.text("value") or "${}")
    value = auth.resolved("value", secrets.value)
    return {} if name is None or value is None else {name: value}


def _is_good_header(table: Table, key: str, name: str, value: str, others: dict[str, str]) -> bool:
    """Whether a header can be sent; complains at `key` (empty: the table itself) where it cannot."""
    path = (*table.path, key, name) if key else table.path
    problem = _header_problem(name, value, others)
    if problem is not None:
        table.findings.refuse(path, *problem, ConfigCode.HEADER)
    return problem is None


def _header_problem(name: str, value: str, others: dict[str, str]) -> tuple[str, str] | None:
    """What is wrong and the fix."""
    if not _HEADER_NAME.fullmatch(name):
        return "the name of a header holds characters it may not", "letters, digits and dashes"
    if name.lower() in _PROTOCOL_HEADERS:
        return f"the header {name!r} belongs to the protocol", "leave it out; the gateway sets it"
    if name.lower() in {other.lower() for other in others}:
        return f"the header {name!r} is given twice", "keep one of them"
    if not _HEADER_VALUE.fullmatch(value):
        fix = "one line of text, without spaces around it"
        return f"the value of header {name!r} is empty or holds characters it may not", fix
    return None
