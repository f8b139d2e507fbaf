"""What the gateway's endpoints are called, and which of them a token is for."""

import pytest

from mcp_gateway.identity.jwt import TokenRefused
from mcp_gateway.identity.resource import Resource

GATEWAY = Resource("https://gw.example", ["https://idp.example"], ["mcp"])
OURS = "https://gw.example/mcp"


def test_the_metadata_stands_where_rfc_9728_wants_it() -> None:
    assert GATEWAY.metadata_url_of(None) == "https://gw.example/.well-known/oauth-protected-resource/mcp"
    assert GATEWAY.metadata_url_of("work") == "https://gw.example/.well-known/oauth-protected-resource/mcp/work"


def test_the_metadata_says_what_an_agent_needs_and_no_more() -> None:
    assert GATEWAY.metadata("work") == {
        "resource": f"{OURS}/work",
        "authorization_servers": ["https://idp.example"],
        "bearer_methods_supported": ["header"],
        "resource_name": "MCP Gateway",
        "scopes_supported": ["mcp"],
    }
    assert Resource("https://gw.example", [], needs_proof=True).metadata(None)["dpop_bound_access_tokens_required"]


@pytest.mark.parametrize(
    "audience", ["https://gw.example", f"{OURS}/", f"{OURS}x", "https://GW.example/mcp", "", "/mcp"]
)
def test_an_audience_that_merely_looks_like_us_is_somebody_else(audience: str) -> None:
    with pytest.raises(TokenRefused):
        GATEWAY.tasks_of(frozenset({audience}), frozenset())


def test_a_token_is_for_all_endpoints_or_for_those_it_names() -> None:
    assert GATEWAY.tasks_of(frozenset({OURS, f"{OURS}/work"}), frozenset()) is None
    assert GATEWAY.tasks_of(frozenset({f"{OURS}/work", f"{OURS}/rest", "else"}), frozenset()) == {"work", "rest"}
    assert GATEWAY.tasks_of(frozenset({"api://gw"}), frozenset({"api://gw"})) is None
