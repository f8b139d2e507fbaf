"""Before anybody has logged in there is one tool; afterwards there are the upstream's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from fakes.authorization import World, world
from fakes.broker import server_of
from fakes.waiting import until
from mcp_gateway.catalog.catalog import build
from mcp_gateway.domain import Challenge, Credential, Kind, Listing, OutcomeStatus, UpstreamRequest, UpstreamState
from mcp_gateway.errors import LoginNeeded
from mcp_gateway.upstreams import managed
from mcp_gateway.upstreams.connection import SILENT
from mcp_gateway.upstreams.login_tool import LOGIN_TOOL, with_login
from mcp_gateway.upstreams.pool import Pool
from mcp_gateway.upstreams.refusals import Rejected


@dataclass
class Own:
    """Implements `domain.OwnCredentials`: a token somebody may log in for."""

    token: str = ""
    refused: list[Challenge] = field(default_factory=list)

    async def own(self, upstream: str) -> Credential:
        return Credential({"Authorization": f"Bearer {self.token}"} if self.token else {})

    async def own_after_refusal(self, upstream: str, used: Credential, why: Challenge) -> Credential:
        self.refused.append(why)
        raise LoginNeeded(upstream, f"upstream {upstream!r} needs somebody to log in to it")


@asynccontextmanager
async def pool(own: Own) -> AsyncIterator[tuple[World, Pool]]:
    async with world() as w, Pool(own=own) as made:
        await made.apply([server_of(w)])
        assert await made.settled(5)
        yield w, made


def tools(made: Pool) -> list[str]:
    """What agents are shown of it."""
    [listing] = made.with_login_tools(made.listings.values())
    return [str(tool["name"]) for tool in listing.tools]


def call(tool: str) -> UpstreamRequest:
    definition = LOGIN_TOOL if tool == "login" else {}
    return UpstreamRequest("tools/call", {"name": tool, "arguments": {}}, definition=definition)


def token_of(w: World, person: str) -> str:
    given = w._given({"grant_type": "client_credentials", "resource": w.url}, person)
    assert given is not None
    return str(w._issued(given, with_refresh=False)["access_token"])


async def test_until_somebody_has_logged_in_there_is_one_tool_and_then_the_upstreams_own() -> None:
    own = Own()
    async with pool(own) as (w, made):
        [status] = made.statuses()
        assert status.state is UpstreamState.NEEDS_LOGIN
        assert "needs somebody to log in" in status.detail
        assert tools(made) == ["login"]
        assert made.listings == {}, "the tool is none of the upstream's own"
        assert own.refused[0].status == 401 and "resource_metadata" in own.refused[0].text
        own.token = token_of(w, "alice")
        made.wake("crm")
        await until(lambda: made.statuses()[0].state is UpstreamState.READY)
        # It stays for those who are in the middle of calling it.
        assert tools(made) == ["whoami", "login"]


async def test_it_goes_when_nobody_can_be_calling_it_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed, "OWN_LOOK_S", 0.01)
    monkeypatch.setattr(managed, "LOGIN_STAYS_S", 0.3)
    own = Own()
    async with pool(own) as (w, made):
        own.token = token_of(w, "alice")
        made.wake("crm")
        await until(lambda: tools(made) == ["whoami", "login"])
        await until(lambda: tools(made) == ["whoami"])


async def test_calling_it_with_a_login_waits_for_the_list_and_says_so() -> None:
    own = Own()
    async with pool(own) as (w, made):
        own.token = token_of(w, "alice")
        outcome = await made.upstreams["crm"].send(call("login"), SILENT)
        assert outcome.status is OutcomeStatus.OK
        assert tools(made) == ["whoami", "login"]
        assert (await made.upstreams["crm"].send(call("login"), SILENT)).status is OutcomeStatus.OK


async def test_a_login_that_the_upstream_refuses_is_handed_on_as_its_refusal() -> None:
    async with pool(Own()) as (_, made):
        with pytest.raises(Rejected) as refused:
            await made.upstreams["crm"].send(call("login"), SILENT)
        assert refused.value.is_about_credentials


async def test_what_was_listed_stays_listed_when_the_login_is_over() -> None:
    own = Own()
    async with pool(own) as (w, made):
        own.token = token_of(w, "alice")
        made.wake("crm")
        await until(lambda: made.statuses()[0].state is UpstreamState.READY)
        w.access.clear()
        upstream = made.upstreams["crm"]
        upstream._changed.set()  # type: ignore[attr-defined]  as a notification of the upstream's would
        await until(lambda: made.statuses()[0].state is UpstreamState.NEEDS_LOGIN)
        assert "whoami" in tools(made)


def test_an_upstreams_own_tool_of_that_name_is_not_hidden() -> None:
    own = Listing("crm", tools=({"name": "login", "inputSchema": {"type": "object"}},))
    assert with_login(own) is own


def test_the_tool_is_one_that_agents_can_be_shown() -> None:
    catalog = build([with_login(Listing("crm"))], {})
    [target] = catalog.targets(Kind.TOOL)
    assert (target.key, target.public_name) == ("crm/login", "crm__login")
    assert target.raw is LOGIN_TOOL, "that is how a call of it is known"
    assert catalog.problems == ()
