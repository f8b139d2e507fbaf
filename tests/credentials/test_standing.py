"""How credentials stand: everything an operator needs, nothing that is secret."""

from __future__ import annotations

from dataclasses import replace

from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.config.upstream_auth import AuthConfig, AuthKind, ClientAuth
from mcp_gateway.credentials.standing import Standing, State, standings
from mcp_gateway.storage.vault import LoginRow

ROW = LoginRow("agent:bot", "crm", "https://as", "https://crm/", "b a", "a", "c", "k", b"canary", 200.0, True, 1.0)
CRM = ServerConfig("crm", url="https://crm/", auth=AuthConfig(AuthKind.OAUTH))


def standing(row: LoginRow | None = None, now: float = 100.0, server: ServerConfig = CRM) -> Standing:
    [found] = standings([server], [row] if row else [], now)
    return found


def test_a_login_is_valid_renewable_or_needed() -> None:
    assert standing().state is State.NEEDS_LOGIN
    assert standing().next_step == "mcp-gateway login crm"
    assert standing(ROW).state is State.VALID
    assert standing(ROW).valid_until == 200.0
    assert standing(ROW, 201.0).state is State.RENEWABLE
    assert standing(replace(ROW, renewable=False), 201.0).state is State.NEEDS_LOGIN
    over = standing(replace(ROW, sealed=b"", last_error="revoked", last_error_at=7.0))
    assert (over.state, over.last_error, over.next_step) == (
        State.NEEDS_LOGIN,
        "revoked",
        "mcp-gateway login crm --agent bot",
    )
    gone = replace(ROW, owner="person:https://idp alice", sealed=b"")
    assert standing(gone).next_step == "mcp-gateway login crm --person alice --issuer https://idp"


def test_upstreams_without_logins_are_told_too() -> None:
    assert standing(server=ServerConfig("x", command=("x",))).state is State.NONE_NEEDED
    fixed = ServerConfig("x", url="https://x/", headers={"Authorization": "Bearer canary"})
    assert standing(server=fixed).state is State.FIXED
    own = AuthConfig(AuthKind.CLIENT_CREDENTIALS, ClientAuth("gw", secret="canary"), scopes=("a",))
    found = standing(server=ServerConfig("x", url="https://x/", auth=own))
    assert (found.state, found.kind, found.scopes) == (State.OBTAINED, "client_credentials", ("a",))
    assert "canary" not in repr([standing(server=fixed), found, standing(ROW)])


def test_every_login_at_an_upstream_has_its_line_in_the_order_of_the_file() -> None:
    other = ServerConfig("aaa", url="https://a/", auth=AuthConfig(AuthKind.OAUTH))
    rows = [ROW, replace(ROW, owner="agent:two"), replace(ROW, upstream="gone")]
    assert [(each.upstream, each.owner) for each in standings([CRM, other], rows, 0.0)] == [
        ("crm", "agent:bot"),
        ("crm", "agent:two"),
        ("aaa", ""),
    ]
