"""Token endpoints: what counts as a token, and how we prove who we are."""

from __future__ import annotations

import asyncio
import base64
import json
import math
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fakes.served import serving
from mcp_gateway.config.upstream_auth import ClientAuth
from mcp_gateway.credentials.discovery import AuthorizationServer
from mcp_gateway.credentials.tokens import (
    MAX_LIFETIME_S,
    Refused,
    Token,
    TokenEndpoint,
    authenticated,
    key_problem,
    method_for,
)
from mcp_gateway.errors import Misbehaved, Unreachable, UpstreamError
from mcp_gateway.netguard import Allowed, Fetcher

GOOD: dict[str, Any] = {"access_token": "t", "token_type": "Bearer", "expires_in": 60}
SERVER = AuthorizationServer("https://as", "https://as/token")
CLIENT = ClientAuth("a:b", secret="s e+c/ret")


async def answered(body: Any, status: int = 200, **headers: str) -> Token:
    async def token(request: Request) -> Response:
        return Response(body if isinstance(body, bytes) else json.dumps(body), status, headers)

    async with serving(Starlette(routes=[Route("/token", token, methods=["POST"])])) as origin:
        fetcher = Fetcher(Allowed.of(["127.0.0.1"]), timeout_s=5)
        endpoint = TokenEndpoint("crm", AuthorizationServer(origin, f"{origin}/token"), fetcher)
        asking = endpoint.token({"grant_type": "x"}, ClientAuth("c"), "none", 1000.0)
        [found] = await asyncio.gather(asking, return_exceptions=True)
        await fetcher.aclose()
    if isinstance(found, BaseException):
        raise found  # here, where no task group wraps it
    return found


async def test_a_good_answer_is_read() -> None:
    assert await answered({**GOOD, "scope": "b a", "refresh_token": "r"}) == Token("t", 1060.0, ("b", "a"), "r")
    assert await answered({"access_token": "t", "token_type": "bearer"}) == Token("t")
    assert await answered({**GOOD, "expires_in": "60"}) == Token("t", 1060.0)
    assert (await answered({**GOOD, "expires_in": 1e99})).expires_at == 1000.0 + MAX_LIFETIME_S


@pytest.mark.parametrize(
    "body",
    [
        {"token_type": "Bearer"},
        {**GOOD, "access_token": ""},
        {**GOOD, "access_token": "a b"},
        {**GOOD, "access_token": "a\r\nX: y"},
        {**GOOD, "access_token": "t" * 100_000},
        {**GOOD, "access_token": 7},
        {"access_token": "t"},
        {**GOOD, "token_type": "mac"},
        {**GOOD, "expires_in": -1},
        {**GOOD, "expires_in": 0},
        {**GOOD, "expires_in": "soon"},
        {**GOOD, "expires_in": True},
        {**GOOD, "refresh_token": 7},
        [],
        b"<html>canary</html>",
        b'{"access_token": "canary", "access_token": "t", "token_type": "Bearer"}',
    ],
)
async def test_an_answer_that_is_no_token_is_refused_without_repeating_it(body: Any) -> None:
    with pytest.raises(Misbehaved) as refused:
        await answered(body)
    assert "canary" not in str(refused.value)


async def test_an_endless_answer_is_cut_off() -> None:
    with pytest.raises(UpstreamError):
        await answered({**GOOD, "x": "a" * 2_000_000})


@pytest.mark.parametrize("status", [500, 502, 503, 429])
async def test_a_server_that_is_not_well_may_be_asked_again(status: int) -> None:
    with pytest.raises(Unreachable):
        await answered({"error": "invalid_grant"}, status)


async def test_a_redirect_is_not_followed() -> None:
    with pytest.raises(UpstreamError):
        await answered(b"", 307, Location="http://169.254.169.254/")


@pytest.mark.parametrize(("error", "is_final"), [("invalid_grant", True), ("invalid_client", False), ("<b>", False)])
async def test_only_invalid_grant_ends_a_grant(error: str, is_final: bool) -> None:
    with pytest.raises(Refused) as refused:
        await answered({"error": error, "error_description": "canary"}, 400)
    assert refused.value.is_final is is_final
    assert "canary" not in str(refused.value) and "<" not in str(refused.value)


def test_basic_authentication_encodes_what_it_has_to() -> None:
    form, headers = authenticated({"x": "y"}, CLIENT, "client_secret_basic", SERVER, 0)
    assert base64.b64decode(headers["Authorization"][6:]) == b"a%3Ab:s%20e%2Bc%2Fret"
    assert form == {"x": "y"}


def test_each_method_sends_what_it_needs_and_no_more() -> None:
    assert authenticated({}, CLIENT, "client_secret_post", SERVER, 0)[0]["client_secret"] == CLIENT.secret
    assert authenticated({}, CLIENT, "none", SERVER, 0) == ({"client_id": "a:b"}, {})
    assert authenticated({}, ClientAuth(), "none", SERVER, 0) == ({}, {})


@pytest.mark.parametrize("algorithm", ["ES256", "Ed25519", "RS256"])
def test_an_assertion_is_for_this_server_alone_and_short_lived(algorithm: str) -> None:
    from joserfc.jwk import OKPKey, RSAKey

    make = {"ES256": lambda: ECKey.generate_key("P-256"), "Ed25519": lambda: OKPKey.generate_key("Ed25519")}
    key = make.get(algorithm, lambda: RSAKey.generate_key(2048))()
    client = ClientAuth("gw", private_key=key.as_pem(private=True).decode(), algorithm=algorithm, key_id="k1")
    form, headers = authenticated({}, client, "private_key_jwt", SERVER, 1000.0)
    token = jwt.decode(form["client_assertion"], key, algorithms=[algorithm])
    assert (token.header["alg"], token.header["kid"], headers) == (algorithm, "k1", {})
    assert (token.claims["iss"], token.claims["sub"], token.claims["aud"]) == ("gw", "gw", "https://as")
    assert math.isclose(token.claims["exp"] - token.claims["iat"], 60)
    assert key_problem(client) == ""


def test_a_key_that_cannot_sign_is_said_to_be_that_without_showing_it() -> None:
    assert "canary" not in key_problem(ClientAuth("gw", private_key="canary")) != ""
    pem = ECKey.generate_key("P-256").as_pem(private=True).decode()
    assert key_problem(ClientAuth("gw", private_key=pem, algorithm="RS256")) != ""
    assert OctKey.generate_key(256) is not None


@pytest.mark.parametrize(
    ("client", "methods", "method"),
    [
        (ClientAuth("c", private_key="k", secret="s"), ("client_secret_post",), "private_key_jwt"),
        (ClientAuth("c", secret="s"), ("client_secret_post",), "client_secret_post"),
        (ClientAuth("c", secret="s"), ("client_secret_post", "client_secret_basic"), "client_secret_basic"),
        (ClientAuth("c", secret="s"), (), "client_secret_basic"),
        (ClientAuth("c"), ("client_secret_basic",), "none"),
    ],
)
def test_a_client_proves_itself_by_what_it_has(client: ClientAuth, methods: tuple[str, ...], method: str) -> None:
    assert method_for(client, AuthorizationServer("i", "t", auth_methods=methods)) == method
