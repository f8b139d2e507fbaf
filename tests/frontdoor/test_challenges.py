"""What a refusal tells an agent. Over a real socket it is tested with tokens (identity/test_tokens)."""

import pytest

from mcp_gateway.errors import NotAuthenticated
from mcp_gateway.frontdoor.challenges import NO_CHALLENGES, Challenges
from mcp_gateway.frontdoor.exchange import CHALLENGE
from mcp_gateway.identity.resource import Resource

TRUSTING = Challenges(Resource("https://gw.example", ["https://idp.example"], ["mcp"]))


def test_a_gateway_that_trusts_no_issuer_sends_nobody_anywhere() -> None:
    assert NO_CHALLENGES.unauthenticated(NotAuthenticated("no"), None) == (CHALLENGE,)
    assert NO_CHALLENGES.metadata("/.well-known/oauth-protected-resource/mcp") is None
    assert NO_CHALLENGES.step_up("/mcp", {"error": {"code": 403, "data": {"scopes": ["a"]}}}) == ()


def test_a_challenge_asks_for_the_operators_scopes() -> None:
    [(name, value)] = TRUSTING.unauthenticated(NotAuthenticated("no"), "work")
    assert name == b"www-authenticate"
    assert b'scope="mcp"' in value
    assert b"/oauth-protected-resource/mcp/work" in value


def test_only_missing_scopes_are_asked_for_again() -> None:
    assert TRUSTING.step_up("/mcp", {"result": {}}) == ()
    assert TRUSTING.step_up("/mcp", {"error": {"code": -32602, "message": ""}}) == ()
    [(_, value)] = TRUSTING.step_up("/mcp/work/", {"error": {"code": 403, "data": {"scopes": ["mcp", "a"]}}})
    assert b'scope="mcp a"' in value


@pytest.mark.parametrize("path", ["/mcp", "", "/mcp/", "/mcp/work", "/"])
def test_every_endpoint_has_its_metadata(path: str) -> None:
    assert TRUSTING.metadata(f"/.well-known/oauth-protected-resource{path}") is not None


@pytest.mark.parametrize("path", ["x", "/other", "/mcp/a/b", "/mcp/..", "/mcp/a b", '/mcp/"', "/mcp//a", "/mcpx"])
def test_nothing_else_has_any(path: str) -> None:
    assert TRUSTING.metadata(f"/.well-known/oauth-protected-resource{path}") is None
