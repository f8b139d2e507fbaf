"""What upstreams offer, asked without a gateway, and the bounds on them."""

from dataclasses import replace
from pathlib import Path

import pytest

from fakes.in_process import configured, server_table
from fakes.leftovers import child_processes
from mcp_gateway.catalog.naming import NamingRule, public_name
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.config.upstream_auth import AuthConfig, AuthKind
from mcp_gateway.domain import Kind, Listing
from mcp_gateway.errors import Unreachable
from mcp_gateway.upstreams.connection import Limits
from mcp_gateway.wiring.offers import bounded, catalog_of, for_everybody, public_name_of, upstream_limits

MIB = 1024 * 1024


async def test_what_one_upstream_offers_can_be_asked_without_a_gateway(tmp_path: Path) -> None:
    before = child_processes()
    catalog, held = await catalog_of(configured(tmp_path), "one", 10)
    assert held == ()
    assert [target.key for target in catalog.targets(Kind.TOOL)] == ["one/echo"]
    assert child_processes() == before


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (server_table("one", "exits"), "exited with status 5"),
        ('[servers.one]\ncommand = ["sh", "-c", "cat > /dev/null"]\n', "has not answered within 0 s"),
    ],
)
async def test_an_upstream_that_cannot_say_what_it_offers_is_unreachable(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(Unreachable, match=said):
        await catalog_of(configured(tmp_path, table), "one", 0.4)


def test_no_server_may_take_longer_for_a_call_than_the_gateway_allows(tmp_path: Path) -> None:
    text = "[gateway]\ncall_timeout_s = 5\n" + server_table("one", timeout_s="60") + server_table("two", timeout_s="2")
    assert [server.timeout_s for server in bounded(configured(tmp_path, text))] == [5, 2]


def test_an_upstream_may_send_what_the_gateway_lets_through(tmp_path: Path) -> None:
    settings = configured(tmp_path).settings
    usual = upstream_limits(settings)
    large = upstream_limits(replace(settings, max_result_bytes=100 * MIB))
    small = upstream_limits(replace(settings, max_result_bytes=1024))
    assert usual.max_message_bytes > 16 * MIB
    assert large.max_message_bytes > 100 * MIB
    assert large.max_answer_bytes >= large.max_message_bytes
    assert replace(small, admits=None) == Limits()


def test_one_persons_resources_are_nobody_elses_unless_the_operator_says_whose_list_it_is() -> None:
    listing = Listing("u", tools=({"name": "t"},), resources=({"uri": "note:///mine"},))
    own, shared = AuthConfig(AuthKind.OAUTH), AuthConfig(AuthKind.OAUTH, list_as="ann")
    assert for_everybody(listing, [ServerConfig("u", auth=own)]) == replace(listing, resources=())
    for server in (ServerConfig("u", auth=shared), ServerConfig("u"), ServerConfig("other", auth=own)):
        assert for_everybody(listing, [server]) is listing


def test_what_is_held_back_has_the_name_an_agent_would_ask_for_it_by() -> None:
    def name_of(key: str) -> tuple[Kind, str] | None:
        return public_name_of("u", key, {"u": NamingRule(prefix="pre")})

    assert name_of("tool:a:b") == (Kind.TOOL, public_name("u", "a:b", "pre"))
    assert name_of("resource:note:///open") == (Kind.RESOURCE, "note:///open")
    assert name_of("instructions:") is None
