"""Plain APIs as targets."""

from pathlib import Path

from fakes.in_process import configured
from mcp_gateway.domain import Kind
from mcp_gateway.wiring.routes import apis_of, routes_of

ORDERS = '[servers.orders]\nrest = "https://orders.internal"\ninclude = ["GET /v1/**"]\ntags = ["shop"]\n'
OFF = '[servers.off]\nrest = "https://off.internal"\ninclude = ["* **"]\nenabled = false\n'
MCP = '[servers.mcp]\ncommand = ["true"]\n'


def test_each_plain_api_that_is_on_is_one_target(tmp_path: Path) -> None:
    configuration = configured(tmp_path, ORDERS + OFF + MCP)
    [target] = routes_of(configuration)
    assert (target.kind, target.upstream, target.name) == (Kind.ROUTE, "orders", "**")
    assert target.tags == {"shop"}
    assert list(apis_of(configuration)) == ["orders"]


def test_a_target_is_another_one_when_something_else_is_included(tmp_path: Path) -> None:
    digests = [
        routes_of(configured(tmp_path, text))[0].definition_hash
        for text in (ORDERS, ORDERS.replace("shop", "till"), ORDERS.replace("GET", "*"))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_the_definition_says_which_routes_there_are_and_where_in_their_life(tmp_path: Path) -> None:
    route = '[servers.orders.route.v1]\nmatch = ["* /v1/**"]\nsunset = 2026-01-01\n'
    [plain], [routed] = (routes_of(configured(tmp_path, text)) for text in (ORDERS, ORDERS + route))
    assert "routes" not in plain.definition
    life = {"state": "active", "deprecated_at": None, "sunset_at": 1767225600}
    assert routed.definition["routes"] == [{"name": "v1", "match": ["* /v1/**"], **life}]
    assert plain.definition_hash != routed.definition_hash
