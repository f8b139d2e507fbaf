"""Credentials from servers.toml: each upstream gets its own and no other's."""

from __future__ import annotations

import pytest

from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.credentials.static import StaticCredentials
from mcp_gateway.domain import Caller

CALLER = Caller(agent="bot", task="read", claims={"token": "agents-own"})
BROKER = StaticCredentials(
    [
        ServerConfig("a", url="https://a/", headers={"Authorization": "Bearer for-a"}),
        ServerConfig("b", url="https://b/", headers={"X-Key": "for-b"}),
        ServerConfig("c", command=("c",)),
    ]
)


@pytest.mark.parametrize(
    ("upstream", "headers"), [("a", {"Authorization": "Bearer for-a"}), ("b", {"X-Key": "for-b"}), ("c", {})]
)
async def test_an_upstream_gets_exactly_what_its_table_says(upstream: str, headers: dict[str, str]) -> None:
    assert (await BROKER.credential_for(CALLER, upstream)).headers == headers


async def test_an_upstream_there_is_not_gets_nothing() -> None:
    with pytest.raises(KeyError):
        await BROKER.credential_for(CALLER, "d")


async def test_no_repr_shows_the_secret() -> None:
    assert "for-a" not in repr(await BROKER.credential_for(CALLER, "a"))
