"""From an upstream's URL to its authorization server: RFC 9728, then RFC 8414 or OpenID Connect discovery.

Everything found is somebody else's word. What makes it usable: the resource named covers the very URL we call, the
metadata names the very issuer it was asked for, and every endpoint is one that may be spoken to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from mcp_gateway import jsonrpc
from mcp_gateway.credentials.challenges import scopes_in
from mcp_gateway.errors import BadRequest, Misbehaved, Unreachable
from mcp_gateway.netguard import Allowed, Fetcher, FetchFailed, url_problem

MAX_METADATA_BYTES: Final = 256 * 1024
MAX_ISSUERS: Final = 10
_RESOURCE: Final = "/.well-known/oauth-protected-resource"
_SERVER: Final = "/.well-known/oauth-authorization-server"
_OPENID: Final = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class Resource:
    """What an upstream says of itself as a protected resource."""

    resource: str
    """Exactly as published: what the `resource` parameter has to be."""
    issuers: tuple[str, ...]
    scopes: tuple[str, ...] | None = None
    wants_dpop: bool = False
    """Whether it takes tokens only that are bound to a key (`dpop_bound_access_tokens_required`)."""


@dataclass(frozen=True, slots=True)
class AuthorizationServer:
    """What an authorization server says of itself, checked."""

    issuer: str
    token_endpoint: str
    authorization_endpoint: str = ""
    registration_endpoint: str = ""
    revocation_endpoint: str = ""
    jwks_uri: str = ""
    auth_methods: tuple[str, ...] = ("client_secret_basic",)  # RFC 8414 section 2: what is meant by leaving it out
    scopes: tuple[str, ...] | None = None
    has_pkce: bool = False
    sends_issuer: bool = False
    takes_metadata_urls: bool = False
    dpop_algorithms: tuple[str, ...] = ()
    """What it takes proofs with; empty: it says nothing of DPoP."""


class Discovery:
    """Looks things up for one upstream, over connections that only lead to admitted addresses."""

    def __init__(self, upstream: str, fetcher: Fetcher, allowed: Allowed) -> None:
        self._upstream = upstream
        self._fetcher = fetcher
        self._allowed = allowed

    async def resource(self, url: str, metadata_url: str = "") -> Resource:
        """What the upstream at `url` says, at `metadata_url` if its challenge named one. Raises `UpstreamError`.

        One that says nothing is taken to be its own authorization server, as before RFC 9728 was (2025-03-26).
        """
        if metadata_url:
            if origin_of(metadata_url) != origin_of(url):
                raise self._misbehaved("names metadata at another host than its own")
            found = await self._json(metadata_url)
            if found is None:
                raise self._misbehaved("names metadata that is not there")
            return self._checked_resource(found, url)
        for place in resource_metadata_urls(url):
            found = await self._json(place)
            if found is not None:
                return self._checked_resource(found, url)
        return Resource(canonical_resource(url), (_root_of(url),))

    async def server(self, issuer: str) -> AuthorizationServer:
        """The metadata of an authorization server. Raises `UpstreamError`."""
        problem = url_problem(issuer, self._allowed)
        if problem is not None or urlsplit(issuer).query:
            raise self._misbehaved(f"names an authorization server whose URL {problem or 'has a query'}")
        for place in server_metadata_urls(issuer):
            found = await self._json(place)
            if found is not None:
                return self._checked_server(found, issuer)
        raise self._misbehaved("names an authorization server that publishes no metadata")

    async def _json(self, url: str) -> Mapping[str, Any] | None:
        """The JSON object there; None where there is nothing."""
        try:
            answer = await self._fetcher.get(url, max_bytes=MAX_METADATA_BYTES)
        except FetchFailed as e:
            raise Unreachable(
                self._upstream, f"the authorization metadata of upstream {self._upstream!r} cannot be fetched: {e}"
            ) from e
        if answer.status >= 500 or answer.status == 429:
            raise Unreachable(self._upstream, f"the authorization metadata of {self._upstream!r}: HTTP {answer.status}")
        if answer.status != 200:
            return None
        try:
            found = jsonrpc.parse(answer.body)
        except BadRequest as e:
            raise self._misbehaved("has authorization metadata that is not JSON") from e
        if not isinstance(found, dict):
            raise self._misbehaved("has authorization metadata that is no object")
        return found

    def _checked_resource(self, found: Mapping[str, Any], url: str) -> Resource:
        resource, issuers = found.get("resource"), _texts(found.get("authorization_servers"))
        # RFC 9728 section 3.3: or a token for this upstream could be had under another one's name.
        if not isinstance(resource, str) or not covers(resource, url):
            raise self._misbehaved("names another resource than itself in its metadata")
        if not issuers:
            raise self._misbehaved("names no authorization server in its metadata")
        scopes = found.get("scopes_supported")
        wants_dpop = found.get("dpop_bound_access_tokens_required") is True
        return Resource(resource, issuers[:MAX_ISSUERS], None if scopes is None else _scopes(scopes), wants_dpop)

    def _checked_server(self, found: Mapping[str, Any], issuer: str) -> AuthorizationServer:
        named = found.get("issuer")
        # RFC 8414 section 3.3. A slash after a bare host is the same URL and the same document.
        if not isinstance(named, str) or _bare(named) != _bare(issuer):
            raise self._misbehaved("names an authorization server whose metadata is another issuer's")
        scopes = found.get("scopes_supported")
        return AuthorizationServer(
            issuer=named,
            token_endpoint=self._endpoint(found, "token_endpoint"),
            authorization_endpoint=self._endpoint(found, "authorization_endpoint", may_lack=True),
            registration_endpoint=self._endpoint(found, "registration_endpoint", may_lack=True),
            revocation_endpoint=self._endpoint(found, "revocation_endpoint", may_lack=True),
            jwks_uri=self._endpoint(found, "jwks_uri", may_lack=True),
            auth_methods=_texts(found.get("token_endpoint_auth_methods_supported")) or ("client_secret_basic",),
            scopes=None if scopes is None else _scopes(scopes),
            has_pkce="S256" in _texts(found.get("code_challenge_methods_supported")),
            sends_issuer=found.get("authorization_response_iss_parameter_supported") is True,
            takes_metadata_urls=found.get("client_id_metadata_document_supported") is True,
            dpop_algorithms=_texts(found.get("dpop_signing_alg_values_supported")),
        )

    def _endpoint(self, found: Mapping[str, Any], key: str, *, may_lack: bool = False) -> str:
        url = found.get(key)
        if url is None and may_lack:
            return ""
        problem = "is missing" if not isinstance(url, str) else url_problem(url, self._allowed)
        if problem is not None:
            raise self._misbehaved(f"has an authorization server whose {key} {problem}")
        return str(url)

    def _misbehaved(self, words: str) -> Misbehaved:
        return Misbehaved(self._upstream, f"upstream {self._upstream!r} {words}")


def resource_metadata_urls(url: str) -> tuple[str, ...]:
    """Where the metadata of a resource is looked for (RFC 9728 section 3.1), the most specific place first.

    >>> resource_metadata_urls("https://h/mcp")[0]
    'https://h/.well-known/oauth-protected-resource/mcp'
    """
    parts, root = urlsplit(url), _root_of(url)
    path = parts.path.rstrip("/")
    return (f"{root}{_RESOURCE}{path}", f"{root}{_RESOURCE}") if path else (f"{root}{_RESOURCE}",)


def server_metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where the metadata of an issuer is looked for (2026-07-28 authorization, "Authorization Server Metadata").

    >>> server_metadata_urls("https://h/t")[2]
    'https://h/t/.well-known/openid-configuration'
    """
    path, root = urlsplit(issuer).path.rstrip("/"), _root_of(issuer)
    if not path:
        return f"{root}{_SERVER}", f"{root}{_OPENID}"
    return f"{root}{_SERVER}{path}", f"{root}{_OPENID}{path}", f"{root}{path}{_OPENID}"


def covers(resource: str, url: str) -> bool:
    """Whether a resource identifier stands for a URL: the same origin, and its path or one above it.

    >>> covers("https://h/", "https://h/mcp"), covers("https://h/mc", "https://h/mcp"), covers("http://h/", "https://h/")
    (True, False, False)
    """
    named, ours = urlsplit(resource), urlsplit(url)
    if origin_of(resource) != origin_of(url) or named.fragment or named.query not in ("", ours.query):
        return False
    return f"{ours.path.rstrip('/')}/".startswith(f"{named.path.rstrip('/')}/")


def canonical_resource(url: str) -> str:
    """The `resource` parameter for an upstream that publishes none: its URL, without what is no part of its name."""
    parts = urlsplit(url)
    return f"{_root_of(url)}{parts.path.rstrip('/')}"


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port, as comparable values."""
    try:
        parts: SplitResult = urlsplit(url)
        default = {"https": 443, "http": 80}.get(parts.scheme)
        return parts.scheme, (parts.hostname or "").lower(), parts.port or default
    except ValueError:
        return "", "", None


def _root_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _bare(issuer: str) -> str:
    return issuer.removesuffix("/") if urlsplit(issuer).path == "/" else issuer


def _texts(value: object) -> tuple[str, ...]:
    return tuple(text for text in value if isinstance(text, str)) if isinstance(value, list) else ()


def _scopes(value: object) -> tuple[str, ...]:
    found: Sequence[str] = _texts(value)
    return scopes_in(" ".join(found))
