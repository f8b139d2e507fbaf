"""Whose a credential is: no two callers that are not the same share one by accident."""

from __future__ import annotations

import itertools

import pytest

from mcp_gateway.config.upstream_auth import AuthKind
from mcp_gateway.credentials.owners import login_of, name_of, owner_id, owner_of
from mcp_gateway.domain import Caller

CALLERS = [
    Caller("bot", None),
    Caller("other", None),
    Caller("bot", None, "alice"),
    Caller("bot", None, "alice", claims={"iss": "https://a"}),
    Caller("bot", None, "alice", claims={"iss": "https://b"}),
    Caller("bot", None, "a alice", claims={"iss": "https://a"}),
    Caller("bot", None, "https://a alice"),
    Caller("bot", None, "bob", claims={"iss": "https://a"}),
]


@pytest.mark.parametrize("kind", [AuthKind.OAUTH, AuthKind.EXCHANGE, AuthKind.ID_JAG])
def test_different_callers_have_different_owners(kind: AuthKind) -> None:
    owners = [owner_of(caller, kind).id for caller in CALLERS]
    assert all(one != other for one, other in itertools.combinations(owners, 2)), owners


def test_a_person_has_one_login_whichever_agent_asks_but_exchanges_are_each_agents_own() -> None:
    one, other = (Caller(agent, None, "alice", claims={"iss": "https://a"}) for agent in ("bot", "helper"))
    assert owner_of(one, AuthKind.OAUTH).id == owner_of(other, AuthKind.OAUTH).id
    assert owner_of(one, AuthKind.EXCHANGE).id != owner_of(other, AuthKind.EXCHANGE).id


def test_the_gateways_own_accounts_belong_to_nobody() -> None:
    assert {owner_of(caller, AuthKind.CLIENT_CREDENTIALS).id for caller in CALLERS} == {""}


@pytest.mark.parametrize("person", ["alice", "al ice", "person: x", "https://x y"])
def test_a_name_can_be_read_from_an_owner(person: str) -> None:
    assert name_of(owner_id(person=person, issuer="https://a")) == person
    assert name_of(owner_id(person=person)) == person
    assert name_of(owner_id(agent="bot")) == "bot"


def test_an_issuer_that_is_no_text_counts_as_none() -> None:
    assert owner_of(Caller("bot", None, "alice", claims={"iss": 7}), AuthKind.OAUTH).issuer == ""
    assert login_of(Caller("bot", None, token="t", claims={"iss": "https://a"})).issuer == "", "nobody is known"
