"""Discovery believes nothing that is not about the very server it was asked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fakes.authorization import world
from fakes.broker import OAUTH, server_of
from mcp_gateway.credentials.discovery import canonical_resource, covers, resource_metadata_urls, server_metadata_urls
from mcp_gateway.credentials.party import Party, allowed_for
from mcp_gateway.domain import Challenge
from mcp_gateway.errors import Misbehaved, UpstreamError


async def place_of(challenge: str = "", path: str = "/mcp", **knobs: Any) -> Any:
    async with world(path=path, **knobs) as w:
        party = Party(server_of(w), OAUTH, allowed_for(server_of(w), ()))
        if challenge:
            party.note(Challenge(401, challenge.format(origin=w.origin)))
        [found] = await asyncio.gather(party.place(), return_exceptions=True)
        await party.close()
    if isinstance(found, BaseException):
        raise found  # here, where no task group wraps it
    return found


async def test_a_server_that_publishes_everything_is_found() -> None:
    place = await place_of(resource_metadata={"scopes_supported": ["read", "bad scope", 7]})
    assert place.resource.scopes == ("read", "bad", "scope")
    assert place.server.issuer in place.resource.issuers
    assert place.server.has_pkce and place.server.sends_issuer


@pytest.mark.parametrize(
    "resource", ["https://evil.example/mcp", "http://127.0.0.1:1/mcp", "http://127.0.0.1/mcp#x", "", 7, None]
)
async def test_metadata_about_another_resource_is_refused(resource: Any) -> None:
    with pytest.raises(Misbehaved, match="another resource"):
        await place_of(resource_metadata={"resource": resource})


@pytest.mark.parametrize("issuers", [[], None, "https://as", [7]])
async def test_a_resource_without_an_authorization_server_is_refused(issuers: Any) -> None:
    with pytest.raises(Misbehaved, match="no authorization server"):
        await place_of(resource_metadata={"authorization_servers": issuers})


@pytest.mark.parametrize("issuer", ["https://evil.example", "http://127.0.0.1:1", 7, None])
async def test_metadata_of_another_issuer_is_refused(issuer: Any) -> None:
    with pytest.raises(Misbehaved, match="another issuer"):
        await place_of(metadata={"issuer": issuer})


@pytest.mark.parametrize(
    "endpoint", [None, 7, "ftp://h/token", "http://intranet.example/token", "https://u:p@h/token", "https://h/#f"]
)
async def test_an_endpoint_nobody_may_be_sent_to_is_refused(endpoint: Any) -> None:
    with pytest.raises(Misbehaved, match="token_endpoint"):
        await place_of(metadata={"token_endpoint": endpoint})


async def test_metadata_at_another_host_than_the_upstreams_is_not_fetched() -> None:
    with pytest.raises(Misbehaved, match="another host"):
        await place_of('Bearer resource_metadata="https://evil.example/x"')


async def test_an_upstream_on_the_internet_leads_to_no_address_of_this_machine() -> None:
    async with world() as w:
        server = server_of(w)
        party = Party(server, OAUTH, allowed_for(server_of(w).__class__("crm", url="https://crm.example/mcp"), ()))
        with pytest.raises(UpstreamError, match="cannot be fetched"):
            await party.place()
        await party.close()
        assert not w.token_requests


async def test_metadata_that_is_too_large_or_no_json_is_refused() -> None:
    with pytest.raises(UpstreamError):
        await place_of(metadata={"x": "a" * 300_000})


def test_the_places_looked_at_are_those_of_the_specifications() -> None:
    assert resource_metadata_urls("https://h:1/a/b/")[0] == "https://h:1/.well-known/oauth-protected-resource/a/b"
    assert resource_metadata_urls("https://h") == ("https://h/.well-known/oauth-protected-resource",)
    assert server_metadata_urls("https://h/t") == (
        "https://h/.well-known/oauth-authorization-server/t",
        "https://h/.well-known/openid-configuration/t",
        "https://h/t/.well-known/openid-configuration",
    )
    assert len(server_metadata_urls("https://h/")) == 2


@pytest.mark.parametrize(
    ("resource", "url", "does"),
    [
        ("https://h/mcp", "https://h/mcp", True),
        ("https://h", "https://h/mcp", True),
        ("https://H:443/mcp", "https://h/mcp", True),
        ("https://h/mcp", "https://h/mcp-admin", False),
        ("https://h/mcp?x=1", "https://h/mcp", False),
        ("https://h.evil.example/mcp", "https://h/mcp", False),
        ("https://h:bad/mcp", "https://h/mcp", False),
    ],
)
def test_a_resource_stands_for_itself_and_what_is_below_it(resource: str, url: str, does: bool) -> None:
    assert covers(resource, url) is does


def test_a_resource_that_publishes_nothing_is_named_by_its_url() -> None:
    assert canonical_resource("https://h/mcp/?key=secret") == "https://h/mcp"
