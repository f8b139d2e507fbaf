"""What is known of one upstream: believed for a while, looked at again when a token is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fakes.authorization import World, world
from fakes.broker import OAUTH, Clock, server_of
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.config.upstream_auth import AuthConfig, AuthKind, ClientAuth
from mcp_gateway.credentials.discovery import AuthorizationServer, Resource
from mcp_gateway.credentials.party import METADATA_TTL_S, Party, Place, allowed_for, is_for
from mcp_gateway.domain import Challenge


@asynccontextmanager
async def party_of(auth: AuthConfig = OAUTH, **knobs: Any) -> AsyncIterator[tuple[World, Party, Clock]]:
    async with world(**knobs) as w:
        clock = Clock()
        made = Party(server_of(w, auth=auth), auth, allowed_for(server_of(w), ()), clock)
        yield w, made, clock
        await made.close()


async def test_a_probe_finds_the_challenge_and_is_made_once() -> None:
    async with party_of(scope_of_challenge="read write") as (w, made, _):
        await made.probe()
        assert made.challenge.scopes == ("read", "write")
        assert made.challenge.resource_metadata.startswith(w.origin)
        w.scope_of_challenge = "other"
        await made.probe()
        assert made.challenge.scopes == ("read", "write")


async def test_what_was_found_is_believed_until_a_token_is_refused_or_it_is_old() -> None:
    async with party_of() as (w, made, clock):
        first = await made.resource()
        w.resource_metadata = {"authorization_servers": ["https://new.example"]}
        assert await made.resource() == first
        clock.ahead_s = 10
        made.note(Challenge(401, "Bearer"))
        assert (await made.resource()).issuers == ("https://new.example",)
        w.resource_metadata = {}
        clock.ahead_s += METADATA_TTL_S + 1
        assert await made.resource() == first


async def test_refusals_in_a_row_do_not_make_us_look_again_each_time() -> None:
    async with party_of() as (w, made, _):
        await made.resource()
        w.resource_metadata = {"authorization_servers": ["https://new.example"]}
        for _ in range(100):
            made.note(Challenge(401, "Bearer"))
        assert (await made.resource()).issuers == (w.origin,)


def place(supported: tuple[str, ...] | None, at_server: tuple[str, ...] | None) -> Place:
    return Place(Resource("r", ("i",), supported), AuthorizationServer("i", "t", scopes=at_server))


@pytest.mark.parametrize(
    ("configured", "challenged", "supported", "at_server", "asked"),
    [
        ((), "", None, None, ()),
        ((), "", ("a", "b"), None, ("a", "b")),
        ((), "c", ("a", "b"), None, ("c",)),
        (("x",), "c", ("a", "b"), None, ("x", "c")),
        ((), "c", None, ("c", "offline_access"), ("c", "offline_access")),
        (("offline_access",), "", None, ("offline_access",), ("offline_access",)),
    ],
)
def test_scopes_are_chosen_as_the_specification_says(
    configured: tuple[str, ...],
    challenged: str,
    supported: tuple[str, ...] | None,
    at_server: tuple[str, ...] | None,
    asked: tuple[str, ...],
) -> None:
    auth = AuthConfig(AuthKind.OAUTH, scopes=configured)
    made = Party(ServerConfig("crm", url="https://crm/", auth=auth), auth, allowed_for(ServerConfig("crm"), ()))
    if challenged:
        made.note(Challenge(401, f'Bearer scope="{challenged}"'))
    assert made.scopes_for(place(supported, at_server)) == asked


def test_only_an_upstream_of_this_machine_leads_to_this_machine() -> None:
    public = allowed_for(ServerConfig("a", url="https://crm.example/"), ("10.0.0.0/8",))
    assert not public.admits("127.0.0.1") and not public.admits("169.254.169.254") and public.admits("10.1.1.1")
    local = allowed_for(ServerConfig("a", url="http://localhost:1/"), ())
    assert local.admits("127.0.0.1") and not local.admits("10.1.1.1") and not local.admits("169.254.169.254")
    assert allowed_for(ServerConfig("a", url="https://crm.example/"), (), ("http://127.0.0.1:1",)).admits("127.0.0.1")


def test_a_client_is_for_its_issuer_alone() -> None:
    server = AuthorizationServer("https://as", "t")
    assert is_for(ClientAuth("c"), server) and is_for(ClientAuth("c", issuer="https://as/"), server)
    assert not is_for(ClientAuth("c", issuer="https://as.evil"), server)
