"""Tokens that need no browser: the gateway's own account, assertions, and exchanges of the person's own login.

Nothing of this is kept on disk: whatever was obtained so can be obtained again.
"""

from __future__ import annotations

from mcp_gateway.config.table import Unresolvable
from mcp_gateway.config.upstream_auth import AuthKind, ClientAuth, SecretRef
from mcp_gateway.credentials.clients import Clients, Identity
from mcp_gateway.credentials.owners import PersonsLogin
from mcp_gateway.credentials.party import Party, Place
from mcp_gateway.credentials.tokens import (
    JWT_BEARER,
    TOKEN_EXCHANGE,
    TYPE_ACCESS_TOKEN,
    TYPE_ID_JAG,
    TYPE_ID_TOKEN,
    Refused,
    Token,
    method_for,
)
from mcp_gateway.errors import LoginNeeded, Misbehaved, UpstreamError


async def obtained(party: Party, clients: Clients, login: PersonsLogin, more_scopes: tuple[str, ...] = ()) -> Token:
    """A token of the kind that is configured. Raises `UpstreamError`, among them `LoginNeeded`."""
    auth = party.auth
    try:
        if auth.kind is AuthKind.EXCHANGE:
            return await _exchanged(party, login, more_scopes)
        place = await party.place()
        who = await clients.configured(party, place.server) if auth.client.client_id else _nobody()
        form = _form(party, place, more_scopes)
        if auth.kind is AuthKind.CLIENT_CREDENTIALS:
            form["grant_type"] = "client_credentials"
        elif auth.kind is AuthKind.JWT_BEARER:
            form |= {"grant_type": JWT_BEARER, "assertion": _read(party, auth.token)}
        else:
            form |= {"grant_type": JWT_BEARER, "assertion": await _id_jag(party, place, login)}
        return await party.endpoint(place.server, party.key_for(place)).token(
            form, who.client, who.method, party.clock()
        )
    except Refused as e:
        raise _refused(party, e) from e


async def _exchanged(party: Party, login: PersonsLogin, more_scopes: tuple[str, ...]) -> Token:
    """RFC 8693, at the issuer that is configured: no upstream has a say in where a person's token is sent."""
    client = party.auth.client
    subject, kind = _subject(party, client.issuer, login)
    place = Place(await party.resource(), await party.server(client.issuer))
    form = {
        **_form(party, place, more_scopes),
        "grant_type": TOKEN_EXCHANGE,
        "subject_token": subject,
        "subject_token_type": kind,
        "requested_token_type": TYPE_ACCESS_TOKEN,
    }
    if party.auth.audience:
        form["audience"] = party.auth.audience
    method = method_for(client, place.server)
    endpoint = party.endpoint(place.server, party.key_for(place))
    return await endpoint.token(form, client, method, party.clock())


async def _id_jag(party: Party, place: Place, login: PersonsLogin) -> str:
    """The identity provider's assertion for this upstream (draft-ietf-oauth-identity-assertion-authz-grant)."""
    idp_client = party.auth.idp
    subject, kind = _subject(party, idp_client.issuer, login)
    idp = await party.server(idp_client.issuer)
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "requested_token_type": TYPE_ID_JAG,
        "audience": place.server.issuer,
        "resource": place.resource.resource,
        "subject_token": subject,
        "subject_token_type": TYPE_ID_TOKEN if kind == TYPE_ID_TOKEN else TYPE_ACCESS_TOKEN,
    }
    scopes = _scopes(party, place)
    if scopes:
        form["scope"] = " ".join(scopes)
    return await party.endpoint(idp).assertion(form, idp_client, method_for(idp_client, idp), party.clock())


def _subject(party: Party, issuer: str, login: PersonsLogin) -> tuple[str, str]:
    """The token that stands for the person and its type, for `issuer` alone."""
    given = party.auth.token
    if given is not None:
        return _read(party, given), TYPE_ID_TOKEN if party.auth.kind is AuthKind.ID_JAG else TYPE_ACCESS_TOKEN
    if not login.token or login.issuer.rstrip("/") != issuer.rstrip("/"):
        words = f"wants the token of a person's login at {issuer}, and this agent came without one"
        raise LoginNeeded(party.name, f"upstream {party.name!r} {words}")
    return login.token, TYPE_ACCESS_TOKEN


def _form(party: Party, place: Place, more_scopes: tuple[str, ...]) -> dict[str, str]:
    # RFC 8707: `resource` is what keeps a token for this upstream from working at another one.
    form = {"resource": place.resource.resource}
    scopes = _scopes(party, place, more_scopes)
    return {**form, "scope": " ".join(scopes)} if scopes else form


def _scopes(party: Party, place: Place, more: tuple[str, ...] = ()) -> list[str]:
    return [scope for scope in party.scopes_for(place, more) if scope != "offline_access"]


def _nobody() -> Identity:
    """An assertion can be all there is to prove."""
    return Identity(ClientAuth(), "none")


def _read(party: Party, token: SecretRef | None) -> str:
    try:
        return token.read() if token is not None else ""
    except Unresolvable as e:
        raise Misbehaved(party.name, f"upstream {party.name!r}: the token to be exchanged cannot be read") from e


def _refused(party: Party, refused: Refused) -> UpstreamError:
    words = f"gives no token: {refused.error}"
    return Misbehaved(party.name, f"the authorization server of upstream {party.name!r} {words}")
