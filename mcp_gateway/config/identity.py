"""The `[identity]` table of servers.toml: whose tokens are believed, and how the gateway is called in them.

Without it agents come with API keys only. Nothing is fetched here; what is wrong is told with its line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

from mcp_gateway.config.secrets import Secrets, warn_of_literal_secret
from mcp_gateway.config.settings import Settings
from mcp_gateway.config.table import ConfigCode, Table
from mcp_gateway.netguard import Allowed, url_problem

ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"),
)
"""What a list may hold. Shared-secret algorithms and `none` are not among them."""

TYPES: Final = ("at+jwt",)
MAX_LEEWAY_S: Final = 300
MAX_CACHE_S: Final = 600.0

LOGIN: Final = "login"
"""The issuer that the gateway itself is, where it is one."""

DpopMode = Literal["optional", "required"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3
_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]*")
_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_CLAIM: Final = re.compile(r"[!-~]{1,128}")
_RESERVED_HEADERS: Final = ("authorization", "dpop", "host", "cookie", "content-type", "content-length")


@dataclass(frozen=True, slots=True)
class IntrospectionConfig:
    """Where opaque tokens are asked about (RFC 7662)."""

    url: str
    client_id: str
    client_secret: str = field(repr=False)
    cache_s: float = 60.0
    """How long an answer is believed: a token that was taken back may live that long."""


@dataclass(frozen=True, slots=True)
class IssuerConfig:
    """One `[identity.issuers.NAME]` table: an authorization server whose tokens are believed."""

    name: str
    issuer: str
    """What its tokens say as `iss`, to the byte."""
    audiences: tuple[str, ...] = ()
    """What its tokens say as `aud` when they are for this gateway; empty: the gateway's own addresses."""
    jwks: str | None = None
    """Where its keys are; None: where its metadata says."""
    jwks_file: Path | None = None
    algorithms: tuple[str, ...] = ALGORITHMS
    types: tuple[str, ...] = TYPES
    leeway_s: int = 60
    person: str = "sub"
    """The claim that names the person; empty: its tokens are for programs only."""
    introspection: IntrospectionConfig | None = None


@dataclass(frozen=True, slots=True)
class CertificateConfig:
    """`[identity.certificates]`: client certificates that a proxy has verified."""

    header: str
    proxies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoginConfig:
    """`[identity.login]`: the embedded authorization server, for people with local accounts."""

    access_token_s: float = 600.0
    refresh_token_days: int = 30
    """How long a login lasts at most, however often its tokens are renewed."""
    registration: bool = True
    """Whether programs may register by themselves (RFC 7591)."""


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    """What `[identity]` says, defaults filled in."""

    url: str = ""
    """The origin under which agents reach the gateway; its endpoints are this and `/mcp`, `/mcp/TASK`. Empty: where it
    listens, which is on this machine alone."""
    scopes: tuple[str, ...] = ()
    """What every challenge asks for, and all that the metadata advertises."""
    dpop: DpopMode = "optional"
    dpop_nonce: bool = False
    issuers: tuple[IssuerConfig, ...] = ()
    certificates: CertificateConfig | None = None
    login: LoginConfig | None = None

    @property
    def is_used(self) -> bool:
        """Whether anything but API keys lets anybody in."""
        return bool(self.issuers or self.certificates or self.login)


def read_identity(table: Table | None, settings: Settings, secrets: Secrets) -> IdentityConfig:
    """`[identity]` with its defaults; complaints go to the table's findings."""
    if table is None:
        return IdentityConfig()
    allowed = Allowed.of(settings.allow_addresses)
    issuers = table.table("issuers")
    read = tuple(_issuer(name, each, secrets, allowed) for name, each in issuers.tables()) if issuers else ()
    config = IdentityConfig(
        url=_url(table, settings),
        scopes=_scopes(table),
        dpop=table.choice("dpop", get_args(DpopMode), "optional"),
        dpop_nonce=table.flag("dpop_nonce", False),
        issuers=read,
        certificates=_certificates(table.table("certificates")),
        login=_login(table.table("login")),
    )
    table.finish()
    _check_whole(table, config)
    return config


def _url(table: Table, settings: Settings) -> str:
    """The gateway's own origin. RFC 8707: tokens are issued for it, so it cannot be left to a Host header."""
    written = table.text("url")
    if written is None:
        if not settings.is_loopback:
            fix = 'add url = "https://gateway.example", as agents write it'
            table.findings.refuse(table.path, "'url' is missing", fix, ConfigCode.BAD_VALUE)
        return ""
    parts = urlsplit(written)
    is_origin = written == f"{parts.scheme}://{parts.netloc}".lower()
    if parts.scheme not in ("https", "http") or not is_origin or "@" in written or not parts.hostname:
        fix = 'the origin alone, in lower case, like "https://gateway.example"'
        table.refuse("url", "'url' is not an origin", fix, ConfigCode.URL)
        return ""
    return written


def _scopes(table: Table) -> tuple[str, ...]:
    written = table.texts("scopes")
    if not all(_SCOPE.fullmatch(scope) for scope in written):
        table.refuse("scopes", "'scopes' holds something that is no scope", "no spaces, quotes or backslashes")
        return ()
    return written


def _issuer(name: str, table: Table, secrets: Secrets, allowed: Allowed) -> IssuerConfig:
    if not _NAME.fullmatch(name) or name == LOGIN:
        table.findings.refuse(
            table.path,
            f"{name!r} cannot be the name of an issuer",
            f"lower-case letters, digits, - and _, at most 32, and not {LOGIN}",
            ConfigCode.BAD_VALUE,
        )
    jwks = _fetched(table, "jwks", allowed)
    file = table.resolved("jwks_file", secrets.expand)
    if jwks is not None and file is not None:
        table.refuse("jwks_file", "both 'jwks' and 'jwks_file'", "keep one of them")
    config = IssuerConfig(
        name=name,
        issuer=_issuer_url(table, allowed, is_fetched=jwks is None and file is None),
        audiences=table.texts("audiences"),
        jwks=jwks,
        jwks_file=None if file is None else secrets.base / file,
        algorithms=_algorithms(table),
        types=_types(table),
        leeway_s=table.count("leeway_s", 60, 0, MAX_LEEWAY_S),
        person=_person(table),
        introspection=_introspection(table.table("introspection"), secrets, allowed),
    )
    table.finish()
    return config


def _issuer_url(table: Table, allowed: Allowed, *, is_fetched: bool) -> str:
    """`issuer`; where its metadata is fetched it has to be an address that may be."""
    issuer = table.text("issuer") or ""
    if "issuer" not in table:
        fix = 'add issuer = "https://idp.example", as its tokens say it in `iss`'
        table.findings.refuse(table.path, "'issuer' is missing", fix, ConfigCode.BAD_VALUE)
    elif not issuer or not issuer.isprintable():
        table.refuse("issuer", "'issuer' is empty", 'as tokens say it in `iss`, like "https://idp.example"')
    elif is_fetched and (problem := url_problem(issuer, allowed)) is not None:
        table.refuse("issuer", f"'issuer' {problem}", _FIX_URL, ConfigCode.URL)
    return issuer


_FIX_URL: Final = "https, or http towards a host named in [gateway] allow_addresses"


def _fetched(table: Table, key: str, allowed: Allowed) -> str | None:
    url = table.text(key)
    if url is not None and (problem := url_problem(url, allowed)) is not None:
        table.refuse(key, f"{key!r} {problem}", _FIX_URL, ConfigCode.URL)
        return None
    return url


def _algorithms(table: Table) -> tuple[str, ...]:
    written = table.texts("algorithms")
    if "algorithms" not in table:
        return ALGORITHMS
    if not written or any(name not in ALGORITHMS for name in written):
        table.refuse("algorithms", "'algorithms' holds none, or one that is not accepted", ", ".join(ALGORITHMS))
        return ALGORITHMS
    return written


def _types(table: Table) -> tuple[str, ...]:
    """`types`, in lower case and without `application/`; `""` stands for tokens without a `typ`."""
    written = tuple(item.lower().removeprefix("application/") for item in table.texts("types", may_be_empty=True))
    if "types" not in table:
        return TYPES
    if not written or not all(_TYPE.fullmatch(item) for item in written):
        table.refuse("types", "'types' holds none, or something that is no type", 'such as "at+jwt" or "jwt"')
        return TYPES
    return written


def _person(table: Table) -> str:
    claim = table.text("person", "sub") or ""
    if claim and not _CLAIM.fullmatch(claim):
        table.refuse("person", "'person' is not the name of a claim", 'such as "sub" or "email"; "" for none')
    return claim


def _introspection(table: Table | None, secrets: Secrets, allowed: Allowed) -> IntrospectionConfig | None:
    if table is None:
        return None
    for key in ("url", "client_id", "client_secret"):
        if key not in table:
            table.findings.refuse(table.path, f"{key!r} is missing", f"add {key} = ...", ConfigCode.BAD_VALUE)
    warn_of_literal_secret(table, "client_secret", "client_secret", table.text("client_secret") or "${}")
    config = IntrospectionConfig(
        url=_fetched(table, "url", allowed) or "",
        client_id=table.text("client_id") or "",
        client_secret=table.resolved("client_secret", secrets.value) or "",
        cache_s=table.number("cache_s", 60.0, MAX_CACHE_S),
    )
    table.finish()
    return config


def _login(table: Table | None) -> LoginConfig | None:
    if table is None:
        return None
    config = LoginConfig(
        access_token_s=table.number("access_token_s", 600.0, 3600.0),
        refresh_token_days=table.count("refresh_token_days", 30, 1, 365),
        registration=table.flag("registration", True),
    )
    table.finish()
    return config


def _certificates(table: Table | None) -> CertificateConfig | None:
    if table is None:
        return None
    header, proxies = table.text("header") or "", table.texts("proxies")
    if not _HEADER.fullmatch(header) or header.lower() in _RESERVED_HEADERS:
        fix = 'the header your proxy sets, such as "Client-Cert" or "X-Client-Cert"'
        table.findings.refuse(table.path, "'header' is missing or cannot carry a certificate", fix, ConfigCode.HEADER)
    if not proxies or not all(_is_network(proxy) for proxy in proxies):
        fix = 'the addresses your proxies connect from, such as ["10.0.0.5", "10.1.0.0/24"]'
        table.findings.refuse(table.path, "'proxies' is missing or holds no networks", fix, ConfigCode.BAD_VALUE)
        proxies = ()
    table.finish()
    return CertificateConfig(header, proxies)


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def _check_whole(table: Table, config: IdentityConfig) -> None:
    seen: dict[str, str] = {config.url: "login"} if config.login else {}
    for issuer in config.issuers:
        first = seen.setdefault(issuer.issuer, issuer.name)
        if first != issuer.name:
            path = (*table.path, "issuers", issuer.name, "issuer")
            table.findings.refuse(path, f"it is issuer {first!r} already", "join the two", ConfigCode.BAD_VALUE)
    introspecting = [issuer.name for issuer in config.issuers if issuer.introspection]
    for name in introspecting[1:]:
        path = (*table.path, "issuers", name, "introspection")
        message = f"{introspecting[0]!r} is asked about opaque tokens already: nobody could tell whose one is"
        table.findings.refuse(path, message, "keep one", ConfigCode.BAD_VALUE)
