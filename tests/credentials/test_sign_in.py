"""A page for one person is that person's alone, whoever else follows the link."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey

from fakes.authorization import World, browser_of, press, world
from fakes.broker import Bench, bench, server_of
from mcp_gateway.config.upstream_auth import ClientAuth
from mcp_gateway.credentials.owners import Owner, owner_id
from mcp_gateway.credentials.sign_in import SignIn
from mcp_gateway.frontdoor.connect import ConnectPages
from mcp_gateway.frontdoor.connect_listener import ConnectListener
from mcp_gateway.frontdoor.seals import Seals
from mcp_gateway.netguard import Allowed


@asynccontextmanager
async def page_for_alice(state: Path, **idp_knobs: Any) -> AsyncIterator[tuple[World, World, Bench, str]]:
    """The provider at which people sign in, the upstream, the bench, and a page that was made for alice."""
    async with world() as w, world(clients={"gw": "s3cret"}, **idp_knobs) as idp, bench(state, server_of(w)) as made:
        client = ClientAuth("gw", secret="s3cret", issuer=idp.origin)
        sign_in = SignIn(client, Allowed.of(["127.0.0.1"]), made.clock)
        listener = ConnectListener(ConnectPages(made.broker.consents, "", sign_in, Seals(b"k" * 32, "visitor", 600)))
        party = made.broker.party("crm")
        assert party is not None
        owner = Owner(owner_id("alice", idp.origin), "alice", idp.origin, "bot")
        pending = made.broker.consents.begin(owner, party, (), await listener.base_url())
        yield idp, w, made, pending.page
        await listener.close()
        await sign_in.close()


async def test_the_person_a_page_is_for_signs_in_and_goes_on(tmp_path: Path) -> None:
    async with page_for_alice(tmp_path / "s") as (idp, w, made, page), browser_of("alice") as browser:
        done = await press(browser, page)
        assert done.status_code == 200, done.text
        [row] = await made.broker.vault.rows()
        assert row.owner == owner_id("alice", idp.origin)
        [form] = idp.token_requests
        assert "resource" not in form
        assert [given.person for given in w.access.values()] == ["alice"]


async def test_somebody_else_who_follows_the_link_connects_nothing(tmp_path: Path) -> None:
    async with page_for_alice(tmp_path / "s") as (_, w, made, page), browser_of("bob") as browser:
        shown = await browser.get(page)
        assert shown.status_code == 400
        assert "somebody else" in shown.text and "alice" not in shown.text
        assert (await browser.post(page, data={"token": "x"})).status_code == 400
        assert w.token_requests == [] and await made.broker.vault.rows() == ()


async def test_a_button_pressed_without_having_signed_in_begins_nothing(tmp_path: Path) -> None:
    async with page_for_alice(tmp_path / "s") as (_, w, _made, page), browser_of("alice") as browser:
        browser.cookies.set("connect-ask", "x")
        assert (await browser.post(page, data={"token": "x"})).status_code == 400
        assert w.registrations == []


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "another-client"},
        {"aud": ["gw", "other"], "azp": "other"},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": 1},
        {"exp": None},
        {"sub": None},
        {"sub": 7},
        {"iat": int(time.time()) + 3600},
    ],
)
async def test_an_id_token_about_anything_else_signs_nobody_in(tmp_path: Path, claims: dict[str, Any]) -> None:
    async with page_for_alice(tmp_path / "s", id_claims=claims) as (_, w, _made, page), browser_of("alice") as browser:
        assert (await browser.get(page)).status_code == 400
        assert w.token_requests == []


def forged(how: str) -> str:
    now = int(time.time())
    claims = {"iss": "x", "aud": "gw", "sub": "alice", "iat": now, "exp": now + 60}
    if how == "none":
        return "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9."
    if how == "HS256":
        return jwt.encode({"alg": "HS256"}, claims, OctKey.generate_key(256))
    return jwt.encode({"alg": "ES256"}, claims, ECKey.generate_key("P-256"))


@pytest.mark.parametrize("how", ["none", "HS256", "another key", "rubbish"])
async def test_a_forged_id_token_signs_nobody_in(tmp_path: Path, how: str) -> None:
    token = "rubbish" if how == "rubbish" else forged(how)
    async with page_for_alice(tmp_path / "s", id_token=token) as (_, w, _made, page), browser_of("alice") as browser:
        assert (await browser.get(page)).status_code == 400
        assert w.token_requests == []


@pytest.mark.parametrize("answer", [{"iss": "https://evil.example"}, {"iss": None}, {"code": None}, {"state": "other"}])
async def test_an_answer_from_elsewhere_signs_nobody_in(tmp_path: Path, answer: dict[str, Any]) -> None:
    async with page_for_alice(tmp_path / "s", answer_to_authorize=answer) as (idp, _, _made, page):
        async with browser_of("alice") as browser:
            assert (await browser.get(page)).status_code == 400
        assert idp.token_requests == []


async def test_a_sign_in_belongs_to_the_browser_that_began_it(tmp_path: Path) -> None:
    async with page_for_alice(tmp_path / "s") as (idp, _, _made, page):
        async with browser_of("alice") as alice, browser_of("mallory") as mallory:
            mallory.follow_redirects = False
            to_idp = (await mallory.get(page)).headers["location"]
            assert (await alice.get(to_idp)).status_code == 400
        assert idp.token_requests == []
