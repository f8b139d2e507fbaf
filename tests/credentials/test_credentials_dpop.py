"""Tokens bound to a key: each request goes with its own proof, and the key is kept with the login."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from fakes.authorization import World, world
from fakes.broker import OAUTH, Bench, bench, caller_of, server_of
from fakes.node import requires_node
from fakes.oidc_guarded import guarded_servers, oidc_provider
from mcp_gateway.config.upstream_auth import AuthConfig, AuthKind, ClientAuth
from mcp_gateway.credentials import dpop
from mcp_gateway.domain import Credential
from mcp_gateway.errors import UpstreamError
from mcp_gateway.identity.dpop import Asked, Proofs
from mcp_gateway.identity.jwt import TokenRefused

CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whoami", "arguments": {}}}


async def called(w: World, made: Bench, credential: Credential, nonce: str = "") -> httpx2.Response:
    scheme, _, token = credential.headers["Authorization"].partition(" ")
    proof = made.broker.prove(token, "POST", w.url, nonce)
    headers = {"Authorization": f"{scheme} {token}", **({"DPoP": proof} if proof else {})}
    async with httpx2.AsyncClient(trust_env=False) as http:
        return await http.post(w.url, json=CALL, headers=headers)


def test_a_proof_is_for_one_request_one_token_and_one_key() -> None:
    text = dpop.new_key()
    key = dpop.key_of(text)
    thumbprint = key.thumbprint()
    now = 2_000_000_000.0
    proofs, asked = Proofs(), Asked("POST", "https://h/mcp")
    proof = dpop.proof(key, "POST", "https://h/mcp?key=secret", now, token="t")
    proofs.check([proof], "t", thumbprint, asked, now)
    with pytest.raises(TokenRefused):
        proofs.check([proof], "t", thumbprint, asked, now)
    for other, token, of in (("GET", "t", thumbprint), ("POST", "u", thumbprint), ("POST", "t", "another")):
        again = dpop.proof(key, "POST", "https://h/mcp", now, token="t")
        with pytest.raises(TokenRefused):
            proofs.check([again], token, of, Asked(other, "https://h/mcp"), now)
    assert dpop.key_of(text).thumbprint() == thumbprint, "what the vault keeps is the same key"


@pytest.mark.parametrize("wants_nonce", [False, True])
async def test_a_login_is_bound_where_the_upstream_requires_it_and_renewed_with_the_same_key(
    tmp_path: Path, wants_nonce: bool
) -> None:
    async with world(binds=True, wants_nonce=wants_nonce) as w:
        async with bench(tmp_path / "s", server_of(w)) as made:
            first = await made.person("alice")
            assert first.headers["Authorization"].startswith("DPoP at-alice")
        [given] = w.access.values()
        assert w.asked_to_authorize["dpop_jkt"] == given.jkt
        async with bench(tmp_path / "s", server_of(w)) as made:
            made.clock.ahead_s = 3601
            second = await made.broker.credential_for(caller_of("alice"), "crm")
            assert second != first
            assert {each.jkt for each in w.access.values()} == {given.jkt}
            made.clock.ahead_s = 0
            answer = await called(w, made, second)
            if wants_nonce:
                assert answer.status_code == 401
                answer = await called(w, made, second, answer.headers["dpop-nonce"])
            assert answer.json()["result"]["content"][0]["text"] == "alice"
    stored = b"".join(path.read_bytes() for path in (tmp_path / "s").iterdir())
    assert b'"kty"' not in stored and b'"d"' not in stored


async def test_what_the_gateway_gets_for_itself_is_bound_too(tmp_path: Path) -> None:
    client = ClientAuth("svc", secret="s")
    auth = AuthConfig(AuthKind.CLIENT_CREDENTIALS, client, dpop=True)
    async with world(binds=True, clients={"svc": "s"}) as w, bench(tmp_path / "s", server_of(w, auth=auth)) as made:
        credential = await made.broker.credential_for(caller_of("alice"), "crm")
        assert (await called(w, made, credential)).status_code == 200
        assert w.proven == 1


async def test_a_token_that_came_unbound_though_it_was_to_be_bound_is_not_used(tmp_path: Path) -> None:
    auth = AuthConfig(AuthKind.CLIENT_CREDENTIALS, ClientAuth("svc", secret="s"), dpop=True)
    async with world(clients={"svc": "s"}) as w, bench(tmp_path / "s", server_of(w, auth=auth)) as made:
        with pytest.raises(UpstreamError, match="of a kind that was not asked for"):
            await made.broker.credential_for(caller_of("alice"), "crm")


async def test_a_server_that_takes_no_proofs_of_ours_is_not_asked(tmp_path: Path) -> None:
    auth = AuthConfig(AuthKind.CLIENT_CREDENTIALS, ClientAuth("svc", secret="s"))
    metadata = {"dpop_signing_alg_values_supported": ["RS256"]}
    async with (
        world(binds=True, metadata=metadata, clients={"svc": "s"}) as w,
        bench(tmp_path / "s", server_of(w, auth=auth)) as made,
    ):
        with pytest.raises(UpstreamError, match="no DPoP proofs with ES256"):
            await made.broker.credential_for(caller_of("alice"), "crm")
        assert w.token_requests == []


async def test_nobody_is_shown_proofs_for_tokens_that_are_not_bound(tmp_path: Path) -> None:
    async with world() as w, bench(tmp_path / "s", server_of(w)) as made:
        credential = await made.person("alice")
        assert credential.headers["Authorization"].startswith("Bearer ")
        assert made.broker.prove(credential.headers["Authorization"][7:], "POST", w.url, "") == ""


@pytest.mark.slow
@requires_node
async def test_a_real_server_binds_tokens_and_renews_them_for_the_key_alone(tmp_path: Path) -> None:
    async with oidc_provider(4) as issuer, guarded_servers(issuer, 1) as [server]:
        bound = server_of(server, auth=replace(OAUTH, dpop=True))
        async with bench(tmp_path / "s", bound) as made:
            first = await made.person("alice")
            assert first.headers["Authorization"].startswith("DPoP ")
            assert (await called(server, made, first)).json()["result"]["content"][0]["text"] == "alice"
            made.clock.ahead_s = 3.0
            assert server.proven == 1
            second = await made.broker.credential_for(caller_of("alice"), "crm")
            made.clock.ahead_s = 0.0
            assert (await called(server, made, second)).status_code == 200
