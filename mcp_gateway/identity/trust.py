"""Whom the gateway believes, as servers.toml says it, made into parts that run."""

from __future__ import annotations

from collections.abc import Callable

from mcp_gateway.config.identity import IdentityConfig, IssuerConfig
from mcp_gateway.identity.certificates import Certificates
from mcp_gateway.identity.dpop import Proofs
from mcp_gateway.identity.introspection import Introspection
from mcp_gateway.identity.jwt import Rules
from mcp_gateway.identity.key_source import KeySource, Load, keys_at, keys_discovered, keys_in
from mcp_gateway.identity.login import ALGORITHM, ISSUER_NAME, AuthorizationServer
from mcp_gateway.identity.resource import Resource
from mcp_gateway.identity.tokens import Issuer, Matcher, Tokens
from mcp_gateway.netguard import Fetcher


def resource_of(config: IdentityConfig) -> Resource | None:
    """How the gateway is called in tokens; None where no issuer is trusted."""
    issuers = [issuer.issuer for issuer in config.issuers] + ([config.url] if config.login else [])
    if not issuers:
        return None
    return Resource(config.url, issuers, config.scopes, needs_proof=config.dpop == "required")


def tokens_of(
    config: IdentityConfig,
    fetcher: Fetcher,
    matcher: Callable[[], Matcher],
    login: AuthorizationServer | None = None,
    since_s: float = 0.0,
) -> Tokens | None:
    """What turns tokens and certificates into identities; None where there are none but API keys.

    `matcher` gives the policy in force, `login` is the gateway's own authorization server, `since_s` when this process
    began.
    """
    if not config.is_used:
        return None
    certificates = config.certificates
    own = [] if login is None else [own_issuer(login)]
    return Tokens(
        [*(issuer_of(issuer, fetcher) for issuer in config.issuers), *own],
        resource_of(config) or Resource(config.url, []),
        matcher,
        Proofs(config.dpop_nonce, since_s),
        needs_proof=config.dpop == "required",
        certificates=Certificates(certificates.header, certificates.proxies) if certificates else None,
    )


def issuer_of(config: IssuerConfig, fetcher: Fetcher) -> Issuer:
    """One issuer. Nothing is fetched yet."""
    asked = config.introspection
    return Issuer(
        name=config.name,
        rules=Rules(
            config.issuer, frozenset(config.algorithms), frozenset(config.types), leeway_s=float(config.leeway_s)
        ),
        audiences=frozenset(config.audiences),
        person=config.person,
        keys=KeySource(config.name, _load(config, fetcher)),
        introspection=Introspection(fetcher, asked.url, asked.client_id, asked.client_secret) if asked else None,
        cache_s=asked.cache_s if asked else 60.0,
    )


def own_issuer(login: AuthorizationServer) -> Issuer:
    """The gateway's own authorization server: one issuer among the others, whose key needs no fetching."""

    async def load() -> bytes:
        return login.key_set()

    return Issuer(
        name=ISSUER_NAME,
        rules=Rules(login.issuer, frozenset({ALGORITHM}), frozenset({"at+jwt"}), leeway_s=0.0),
        audiences=frozenset(),
        person="sub",
        keys=KeySource(ISSUER_NAME, load),
        is_revoked=login.is_revoked,
    )


def _load(config: IssuerConfig, fetcher: Fetcher) -> Load:
    if config.jwks_file is not None:
        return keys_in(config.jwks_file)
    if config.jwks is not None:
        return keys_at(fetcher, config.jwks)
    return keys_discovered(fetcher, config.issuer)
