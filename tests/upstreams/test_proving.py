"""Requests with bound tokens carry a proof each; a wanted nonce is put in and the request sent once more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fakes.authorization import world
from fakes.in_process import running_in
from fakes.raw_http import answering, http, scripted
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.config.upstream_auth import AuthConfig, AuthKind
from mcp_gateway.domain import Kind
from mcp_gateway.upstreams.connection import Limits
from mcp_gateway.upstreams.fast_wire import FastClient
from mcp_gateway.upstreams.proving import ProvingClient, client_for

BOUND = {"authorization": "DPoP t"}


@pytest.fixture
async def client() -> AsyncIterator[ProvingClient]:
    made = ProvingClient(FastClient(1), lambda token, method, url, nonce: f"{token} {method} {nonce or 'none'}")
    yield made
    await made.close()


def refusing(nonce: str, error: str = "use_dpop_nonce") -> bytes:
    return http(401, b"", "text/plain", f'www-authenticate: DPoP error="{error}"', f"dpop-nonce: {nonce}")


async def test_a_wanted_nonce_is_put_in_once_and_kept_for_later(client: ProvingClient) -> None:
    good = http(200, b"ok", "text/plain")
    async with answering(
        scripted([lambda asked: None if "n1" in asked.headers["dpop"] else refusing("n1"), lambda asked: good])
    ) as served:
        async with client.open("POST", served.url, BOUND, b"{}") as answer:
            assert answer.status == 200
        async with client.open("POST", served.url, BOUND, b"{}") as answer:
            assert answer.status == 200
        assert [asked.headers["dpop"] for asked in served.asked] == ["t POST none", "t POST n1", "t POST n1"]


async def test_a_server_that_is_never_content_is_asked_twice_and_no_more(client: ProvingClient) -> None:
    numbers = iter(range(100))
    async with answering(scripted([lambda asked: refusing(f"n{next(numbers)}")])) as served:
        async with client.open("POST", served.url, BOUND, b"{}") as answer:
            assert answer.status == 401
        assert len(served.asked) == 2
        async with client.open("POST", served.url, {"authorization": "Bearer t"}, b"{}") as answer:
            assert answer.status == 401
        assert "dpop" not in served.asked[2].headers


async def test_only_upstreams_that_want_tokens_pay_for_it() -> None:
    limits = Limits(prove=lambda token, method, url, nonce: "")
    bound = ServerConfig("b", url="https://b", auth=AuthConfig(AuthKind.OAUTH))
    assert isinstance(client_for(ServerConfig("a", url="https://a"), limits), FastClient)
    assert isinstance(client_for(bound, limits), ProvingClient)


async def test_an_upstream_that_requires_bound_tokens_and_nonces_is_listed_and_called(tmp_path: Path) -> None:
    async with world(binds=True, wants_nonce=True, clients={"svc": "s"}) as w:
        auth = 'auth = { client_credentials = { client_id = "svc", client_secret = "${SECRET:-s}" } }'
        files = {"servers.toml": f'[servers.crm]\nurl = "{w.url}"\n{auth}\n', "policies/p.toml": ""}
        async with running_in(tmp_path, files) as parts:
            assert parts.gateway.snapshot.catalog.find(Kind.TOOL, "crm__whoami") is not None
        assert w.proven > 1
