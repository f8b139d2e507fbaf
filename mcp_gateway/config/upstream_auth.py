"""How the gateway gets its credential for a `url` server: the kinds of `auth` that are more than a fixed header.

Which secret belongs to which kind is checked here; whether an authorization server likes it is found out when it is
asked (`mcp-gateway login --status` tells).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from mcp_gateway.config.secrets import Secrets, warn_of_literal_secret
from mcp_gateway.config.table import ConfigCode, Table, Unresolvable
from mcp_gateway.netguard import Allowed, url_problem


class AuthKind(StrEnum):
    """How a token for an upstream is obtained; the key under `auth`."""

    OAUTH = "oauth"  # each person logs in with a browser
    CLIENT_CREDENTIALS = "client_credentials"  # the gateway's own account
    JWT_BEARER = "jwt_bearer"  # an assertion somebody else issued (workload identity)
    EXCHANGE = "exchange"  # the token the person came with, exchanged at its issuer
    ID_JAG = "id_jag"  # the same, by way of an identity assertion grant (enterprise-managed authorization)


ALGORITHMS: Final = ("ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "Ed25519")

_KINDS: Final = tuple(AuthKind)
_MAY_LACK_CLIENT: Final = (AuthKind.OAUTH, AuthKind.JWT_BEARER)


@dataclass(frozen=True, slots=True, repr=False)
class SecretRef:
    """A secret that is read each time it is needed, because whoever issues it replaces it."""

    written: str
    secrets: Secrets

    def read(self) -> str:
        """What it is now. Raises `Unresolvable`."""
        return self.secrets.value(self.written)


@dataclass(frozen=True, slots=True)
class ClientAuth:
    """One client registration: who the gateway is to an authorization server."""

    client_id: str = ""
    secret: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    """PEM; with it the gateway proves itself by `private_key_jwt`."""
    algorithm: str = "ES256"
    key_id: str = ""
    issuer: str = ""
    """The only authorization server that may see it. Empty: the first one it was used with."""


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """What `auth` of one server says."""

    kind: AuthKind
    client: ClientAuth = field(default_factory=ClientAuth)
    scopes: tuple[str, ...] = ()
    client_metadata_url: str = ""
    """Where our client metadata document stands, for authorization servers that take its URL for a client id."""
    list_as: str = ""
    """Whose lists everybody sees: a person or an agent. Empty: each sees their own."""
    list_before_login: bool = True
    """Whether those who have no login yet see the tools and prompts that somebody else was listed."""
    dpop: bool = False
    """Whether tokens are to be bound to a key of ours though nobody requires it."""
    audience: str = ""
    token: SecretRef | None = field(default=None, repr=False)
    """The assertion or subject token, where it is not the caller's own."""
    idp: ClientAuth = field(default_factory=ClientAuth)
    """Who we are to the identity provider that turns the person's login into an assertion."""


def read_auth(table: Table, secrets: Secrets) -> AuthConfig | None:
    """The `auth` of a server table, if it is one of `AuthKind`; complaints go to the table's findings."""
    if table.raw("auth") == "oauth":
        return AuthConfig(AuthKind.OAUTH)
    auth = table.table("auth") if isinstance(table.raw("auth"), dict) else None
    kind = next((kind for kind in _KINDS if auth is not None and kind in auth), None)
    if auth is None or kind is None:
        return None
    settings = auth.table(kind)
    auth.finish()
    if settings is None:
        return AuthConfig(kind)
    config = _read_kind(kind, settings, secrets)
    settings.finish()
    return config


def read_sign_in(table: Table | None, secrets: Secrets) -> ClientAuth | None:
    """Who we are to the OpenID provider at which people sign in; complaints go to the table's findings."""
    if table is None:
        return None
    client = _client(table, secrets)
    for key, value in (("issuer", client.issuer), ("client_id", client.client_id)):
        if not value:
            _lacks(table, key, 'sign_in = { issuer = "https://...", client_id = "...", client_secret = "${SECRET}" }')
    table.finish()
    return client


def _read_kind(kind: AuthKind, table: Table, secrets: Secrets) -> AuthConfig:
    client = _client(table, secrets)
    if not client.client_id and kind not in _MAY_LACK_CLIENT:
        _lacks(table, "client_id", 'client_id = "..." as the authorization server knows the gateway')
    if kind is AuthKind.CLIENT_CREDENTIALS and not (client.secret or client.private_key):
        _lacks(table, "client_secret", 'client_secret = "${SECRET}" or private_key = "file:PATH"')
    is_oauth, is_exchange = kind is AuthKind.OAUTH, kind is AuthKind.EXCHANGE
    if kind is AuthKind.EXCHANGE and not client.issuer:
        _lacks(table, "issuer", 'issuer = "https://..." where people log in: their tokens are sent nowhere else')
    idp = table.table("idp") if kind is AuthKind.ID_JAG else None
    return AuthConfig(
        kind=kind,
        client=client,
        scopes=table.texts("scopes"),
        dpop=table.flag("dpop", False),
        client_metadata_url=_metadata_url(table) if is_oauth else "",
        list_as=(table.text("list_as") or "") if is_oauth else "",
        list_before_login=table.flag("list_before_login", True) if is_oauth else True,
        audience=(table.text("audience") or "") if is_exchange else "",
        token=_token(kind, table, secrets),
        idp=_idp(table, idp, secrets) if kind is AuthKind.ID_JAG else ClientAuth(),
    )


def _client(table: Table, secrets: Secrets) -> ClientAuth:
    for key in ("client_secret", "private_key"):
        warn_of_literal_secret(table, key, key.replace("private_key", "secret key"), table.text(key) or "${}")
    return ClientAuth(
        client_id=table.resolved("client_id", secrets.expand) or "",
        secret=table.resolved("client_secret", secrets.value) or "",
        private_key=table.resolved("private_key", secrets.value) or "",
        algorithm=table.choice("algorithm", ALGORITHMS, "ES256") if "algorithm" in table else "ES256",
        key_id=table.text("key_id") or "",
        issuer=_url(table, "issuer"),
    )


def _idp(table: Table, idp: Table | None, secrets: Secrets) -> ClientAuth:
    if idp is None:
        _lacks(table, "idp", "idp = { issuer, client_id, client_secret } of the identity provider people log in to")
        return ClientAuth()
    client = _client(idp, secrets)
    if not client.issuer:
        _lacks(idp, "issuer", 'issuer = "https://..." of the identity provider')
    idp.finish()
    return client


def _token(kind: AuthKind, table: Table, secrets: Secrets) -> SecretRef | None:
    """Where the assertion or subject token stands; without one the caller's own token is taken."""
    key = "assertion" if kind is AuthKind.JWT_BEARER else "subject_token"
    if kind in (AuthKind.OAUTH, AuthKind.CLIENT_CREDENTIALS):
        return None
    written = table.text(key)
    if written is None:
        if kind is AuthKind.JWT_BEARER:
            _lacks(table, key, 'assertion = "file:PATH" of the token that proves who the gateway is')
        return None
    warn_of_literal_secret(table, key, "token", written)
    ref = SecretRef(written, secrets)
    table.resolve((key,), written, lambda _: ref.read())
    return ref


def _metadata_url(table: Table) -> str:
    return _url(table, "client_metadata_url", lambda url: not url.startswith("https://"))


def _url(table: Table, key: str, is_bad: Callable[[str], bool] = lambda url: False) -> str:
    url = table.text(key)
    if url is None:
        return ""
    problem = url_problem(url, Allowed(hosts=frozenset([_host(url)])))
    if problem is not None or is_bad(url):
        table.refuse(key, f"{key!r} {problem or 'does not begin with https://'}", "write it like https://host/path")
        return ""
    return url


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].partition(":")[0].lower()


def _lacks(table: Table, key: str, fix: str) -> None:
    table.findings.refuse(table.path, f"{table.path[-1]!r} needs {key!r}", fix, ConfigCode.BAD_VALUE)


__all__ = [
    "ALGORITHMS",
    "AuthConfig",
    "AuthKind",
    "ClientAuth",
    "SecretRef",
    "Unresolvable",
    "read_auth",
    "read_sign_in",
]
