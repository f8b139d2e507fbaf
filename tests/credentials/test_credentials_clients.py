"""Which client we are: as configured, by our metadata's URL, or registered on the spot, and for one issuer only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.authorization import world
from fakes.broker import OAUTH, bench, server_of
from mcp_gateway.config.upstream_auth import AuthConfig, AuthKind, ClientAuth
from mcp_gateway.credentials.clients import Clients, Identity, metadata_of
from mcp_gateway.errors import Misbehaved

LOCAL = "http://127.0.0.1:1/connect/callback"


async def identity(state: Path, auth: AuthConfig = OAUTH, times: int = 1, **knobs: Any) -> tuple[Identity, Any]:
    async with world(**knobs) as w, bench(state, server_of(w, auth=auth)) as made:
        party = made.broker.party("crm")
        assert party is not None
        clients = Clients(made.broker.vault)
        place = await party.place()
        for _ in range(times):
            who = await clients.identity(party, place.server, LOCAL)
        assert await clients.known(party, place.server, who.client.client_id) == who
        return who, w


async def test_a_registration_is_made_once_and_kept(tmp_path: Path) -> None:
    who, w = await identity(tmp_path / "s", times=3)
    [asked] = w.registrations
    assert asked["redirect_uris"] == [LOCAL]
    assert asked["application_type"] == "native"
    assert "refresh_token" in asked["grant_types"]
    assert (who.client.client_id, who.client.issuer, who.method) == ("client-1", w.origin, "client_secret_basic")
    assert who.client.secret == w.clients["client-1"]
    assert who.client.secret not in repr(who)


async def test_a_metadata_url_is_used_where_the_server_takes_one(tmp_path: Path) -> None:
    url = "https://gw.example/client.json"
    auth = replace(OAUTH, client_metadata_url=url)
    who, w = await identity(tmp_path / "a", auth, metadata={"client_id_metadata_document_supported": True})
    assert (who.client.client_id, who.method, w.registrations) == (url, "none", [])
    who, w = await identity(tmp_path / "b", auth)
    assert who.client.client_id == "client-1"


async def test_our_own_document_is_named_where_what_it_says_is_true(tmp_path: Path) -> None:
    takes = {"client_id_metadata_document_supported": True}
    async with world(metadata=takes) as w, bench(tmp_path / "s", server_of(w)) as made:
        party = made.broker.party("crm")
        assert party is not None
        server = (await party.place()).server
        clients = Clients(made.broker.vault, "https://gw.example")
        who = await clients.identity(party, server, "https://gw.example/connect/callback")
        assert who.client.client_id == "https://gw.example/connect/client.json"
        assert await clients.known(party, server, who.client.client_id) == who
        assert (await clients.identity(party, server, LOCAL)).client.client_id == "client-1"


async def test_a_configured_client_comes_first(tmp_path: Path) -> None:
    auth = AuthConfig(AuthKind.OAUTH, ClientAuth("gw", secret="s"), client_metadata_url="https://gw.example/c")
    who, w = await identity(tmp_path / "s", auth, metadata={"client_id_metadata_document_supported": True})
    assert (who.client.client_id, who.client.issuer, w.registrations) == ("gw", w.origin, [])


async def test_a_configured_issuer_is_the_only_one(tmp_path: Path) -> None:
    auth = AuthConfig(AuthKind.OAUTH, ClientAuth("gw", secret="s", issuer="https://as.example"))
    async with world() as w, bench(tmp_path / "s", server_of(w, auth=auth)) as made:
        party = made.broker.party("crm")
        assert party is not None
        with pytest.raises(Misbehaved, match="another authorization server than 'issuer'"):
            await party.place()


async def test_a_server_that_registers_nobody_says_what_to_do(tmp_path: Path) -> None:
    async with world(metadata={"registration_endpoint": None}) as w, bench(tmp_path / "s", server_of(w)) as made:
        party = made.broker.party("crm")
        assert party is not None
        with pytest.raises(Misbehaved, match="set client_id"):
            await Clients(made.broker.vault).identity(party, (await party.place()).server, LOCAL)


def test_we_are_native_on_this_machine_and_web_elsewhere() -> None:
    assert metadata_of(LOCAL)["application_type"] == "native"
    assert metadata_of("https://gw.example/connect/callback")["application_type"] == "web"
