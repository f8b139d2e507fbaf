"""Tokens without a browser: each form as its specification has it, and nobody's token where it does not belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fakes.authorization import World, world
from fakes.broker import bench, server_of
from mcp_gateway.config.secrets import Secrets
from mcp_gateway.config.upstream_auth import AuthConfig, AuthKind, ClientAuth, SecretRef
from mcp_gateway.credentials.clients import Clients
from mcp_gateway.credentials.grants import obtained
from mcp_gateway.credentials.owners import PersonsLogin
from mcp_gateway.credentials.tokens import Token
from mcp_gateway.errors import LoginNeeded, Misbehaved

GW = ClientAuth("gw", secret="s3cret")
NOBODY = PersonsLogin()


async def token_for(state: Path, w: World, auth: AuthConfig, login: PersonsLogin = NOBODY) -> Token:
    async with bench(state, server_of(w, auth=auth)) as made:
        party = made.broker.party("crm")
        assert party is not None
        return await obtained(party, Clients(made.broker.vault), login)


class Idp(World):
    """An identity provider that exchanges tokens for assertions."""

    issued_type = "urn:ietf:params:oauth:token-type:id-jag"

    async def _token(self, request: Request) -> Response:
        form: dict[str, Any] = dict((await request.form()).items())
        self.token_requests.append(form)
        return JSONResponse({"access_token": "the.id.jag", "issued_token_type": self.issued_type, "token_type": "N_A"})


async def test_an_assertion_is_read_anew_each_time_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "token").chmod(0o600)
    ref = SecretRef("file:token", Secrets({}, tmp_path))
    auth = AuthConfig(AuthKind.JWT_BEARER, token=ref)
    async with world() as w:
        await token_for(tmp_path / "s", w, auth)
        (tmp_path / "token").write_text("second\n")
        await token_for(tmp_path / "s", w, auth)
        assert [form["assertion"] for form in w.token_requests] == ["first", "second"]
        assert w.token_requests[0]["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        (tmp_path / "token").unlink()
        with pytest.raises(Misbehaved, match="cannot be read"):
            await token_for(tmp_path / "s", w, auth)


async def test_an_identity_assertion_goes_from_the_persons_login_to_the_upstreams_server(tmp_path: Path) -> None:
    async with world(clients={"gw": "s3cret"}) as w:
        idp = Idp()
        async with _served(idp):
            auth = AuthConfig(AuthKind.ID_JAG, GW, idp=ClientAuth("gw-idp", issuer=idp.origin))
            await token_for(tmp_path / "s", w, auth, PersonsLogin("alices-login", idp.origin))
            [exchange], [bearer] = idp.token_requests, w.token_requests
            assert exchange["subject_token"] == "alices-login"
            assert (exchange["audience"], exchange["resource"]) == (w.origin, w.url)
            assert exchange["client_id"] == "gw-idp"
            assert bearer["assertion"] == "the.id.jag"
            assert "alices-login" not in str(w.token_requests)
            for stranger in (NOBODY, PersonsLogin("of-another-issuer", "https://other.example")):
                with pytest.raises(LoginNeeded):
                    await token_for(tmp_path / "s", w, auth, stranger)
            idp.issued_type = "urn:ietf:params:oauth:token-type:access_token"
            with pytest.raises(Misbehaved, match="another kind"):
                await token_for(tmp_path / "s", w, auth, PersonsLogin("alices-login", idp.origin))


def _served(idp: World) -> Any:
    from contextlib import asynccontextmanager

    from fakes.served import serving

    @asynccontextmanager
    async def served() -> Any:
        async with serving(idp.app()) as origin:
            idp.origin = origin
            yield

    return served()


async def test_a_server_that_refuses_is_not_asked_in_another_way(tmp_path: Path) -> None:
    ref = SecretRef("assertion", Secrets({}, tmp_path))
    async with world(token_error="unauthorized_client") as w:
        with pytest.raises(Misbehaved, match="unauthorized_client"):
            await token_for(tmp_path / "s", w, AuthConfig(AuthKind.JWT_BEARER, token=ref))
        assert len(w.token_requests) == 1
