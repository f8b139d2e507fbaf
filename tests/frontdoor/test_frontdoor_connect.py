"""The login pages: nothing begins without the button, pressed in this browser; nothing on them is an attacker's."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from fakes.authorization import World, browser_of, press, world
from fakes.broker import Bench, bench, server_of
from mcp_gateway.credentials.consents import Pending
from mcp_gateway.credentials.owners import Owner
from mcp_gateway.frontdoor.connect import Accounts, ConnectPages
from mcp_gateway.frontdoor.connect_listener import ConnectListener

EVIL = '<script>alert("x")</script>'


@asynccontextmanager
async def page(state: Path, owner: Owner) -> AsyncIterator[tuple[World, Bench, Pending]]:
    async with world() as w, bench(state, server_of(w)) as made:
        party = made.broker.party("crm")
        assert party is not None
        yield w, made, made.broker.consents.begin(owner, party, (), await made.broker.base_url(owner))


async def test_a_page_says_who_asks_for_what_and_runs_nothing(tmp_path: Path) -> None:
    async with (
        page(tmp_path / "s", Owner("o", person=EVIL, agent=EVIL)) as (_, _, pending),
        browser_of("alice") as browser,
    ):
        shown = await browser.get(pending.page)
    assert "crm" in shown.text and "&lt;script&gt;" in shown.text and "<script" not in shown.text
    policy = shown.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert shown.headers["x-frame-options"] == "DENY"
    assert shown.headers["cache-control"] == "no-store"
    assert shown.headers["referrer-policy"] == "no-referrer"
    for cookie in shown.headers.get_list("set-cookie"):
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie


async def test_a_button_that_was_not_pressed_here_begins_nothing(tmp_path: Path) -> None:
    async with page(tmp_path / "s", Owner("o", agent="a")) as (w, _, pending):
        async with browser_of("alice") as browser:
            token = re.search(r'name="token" value="([^"]+)"', (await browser.get(pending.page)).text)
            assert token is not None
            for data in ({}, {"token": ""}, {"token": "x"}):
                assert (await browser.post(pending.page, data=data)).status_code == 400
        async with browser_of("mallory") as other:
            assert (await other.post(pending.page, data={"token": token[1]})).status_code == 400
            cross = await other.post(pending.page, data={}, headers={"origin": "https://evil.example"})
            assert cross.status_code == 403
        assert w.registrations == [] and pending.state == ""


async def test_who_is_sent_a_link_back_cannot_finish_what_another_browser_began(tmp_path: Path) -> None:
    async with page(tmp_path / "s", Owner("o", agent="a")) as (w, made, pending):
        async with browser_of("mallory") as mallory:
            mallory.follow_redirects = False
            token = re.search(r'name="token" value="([^"]+)"', (await mallory.get(pending.page)).text)
            assert token is not None
            away = await mallory.post(pending.page, data={"token": token[1]})
        async with browser_of("bob") as bob:
            lured = await bob.get(away.headers["location"])
            assert lured.status_code == 400
            assert "another browser" in lured.text
        assert w.token_requests == [] and await made.broker.vault.rows() == ()


async def test_a_finished_page_shows_no_secret(tmp_path: Path) -> None:
    async with page(tmp_path / "s", Owner("agent:a", agent="a")) as (w, _, pending), browser_of("alice") as browser:
        done = await press(browser, pending.page)
    assert done.status_code == 200 and "You are logged in to crm" in done.text
    secrets = [*w.access, *w.refresh, *w.clients.values(), pending.verifier]
    assert not any(secret in f"{done.text}{done.headers}{done.url}" for secret in secrets)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/connect/", 404),
        ("GET", "/connect/" + "a" * 43, 400),
        ("GET", "/connect/callback", 400),
        ("POST", "/connect/callback", 404),
        ("GET", "/connect/callback?state=a&state=b", 400),
        ("GET", "/connect/client.json", 404),
        ("DELETE", "/connect/" + "a" * 43, 404),
        ("GET", "/connect/../mcp", 404),
        ("GET", "/", 404),
    ],
)
async def test_other_paths_lead_nowhere(tmp_path: Path, method: str, path: str, status: int) -> None:
    async with (
        page(tmp_path / "s", Owner("o", agent="a")) as (_, _, pending),
        httpx2.AsyncClient(trust_env=False) as client,
    ):
        shown = await client.request(method, pending.base_url + path)
    assert shown.status_code == status


async def test_a_host_that_is_not_ours_is_not_served(tmp_path: Path) -> None:
    async with (
        page(tmp_path / "s", Owner("o", agent="a")) as (_, _, pending),
        httpx2.AsyncClient(trust_env=False) as client,
    ):
        shown = await client.get(pending.page, headers={"host": "evil.example"})
    assert shown.status_code == 421


async def test_many_parameters_are_not_read(tmp_path: Path) -> None:
    async with (
        page(tmp_path / "s", Owner("o", agent="a")) as (_, _, pending),
        httpx2.AsyncClient(trust_env=False) as client,
    ):
        query = "&".join(f"p{n}=1" for n in range(1000))
        shown = await client.get(f"{pending.base_url}/connect/callback?{query}")
    assert shown.status_code == 400


async def test_our_client_document_says_what_it_is_fetched_for(tmp_path: Path) -> None:
    async with bench(tmp_path / "s") as made:
        listener = ConnectListener(ConnectPages(made.broker.consents, "https://gw.example"))
        async with httpx2.AsyncClient(trust_env=False) as client:
            document = (await client.get(f"{await listener.base_url()}/connect/client.json")).json()
        await listener.close()
    assert document["client_id"] == "https://gw.example/connect/client.json"
    assert document["redirect_uris"] == ["https://gw.example/connect/callback"]
    assert document["token_endpoint_auth_method"] == "none" and "refresh_token" in document["grant_types"]


async def test_a_page_for_a_local_account_wants_its_password(tmp_path: Path) -> None:
    asked: list[str] = []

    async def is_right(person: str, password: str, peer: str) -> bool:
        asked.append(f"{person} {password} {peer}")
        return (person, password) == ("alice", "correct horse")

    async with world() as w, bench(tmp_path / "s", server_of(w)) as made:
        pages = ConnectPages(made.broker.consents)
        pages.accounts = Accounts("https://gw.example", is_right)
        listener = ConnectListener(pages)
        alice = Owner("person:https://gw.example alice", "alice", "https://gw.example", "bot")
        assert pages.can_tell(alice) and not pages.can_tell(Owner("o", "alice", "https://other.example"))
        assert not pages.can_tell(Owner("agent:bot", agent="bot"))
        party = made.broker.party("crm")
        assert party is not None
        page = made.broker.consents.begin(alice, party, (), await listener.base_url()).page
        async with browser_of("alice") as browser:
            assert 'type="password"' in (await browser.get(page)).text
            wrong = await press(browser, page)
            assert wrong.status_code == 400 and "password is not right" in wrong.text
            assert w.registrations == []
            token = re.search(r'name="token" value="([^"]+)"', (await browser.get(page)).text)
            assert token is not None
            done = await browser.post(page, data={"token": token[1], "password": "correct horse"})
            assert done.status_code == 200, done.text
        await listener.close()
        assert [row.owner for row in await made.broker.vault.rows()] == [alice.id]
    assert asked == ["alice  127.0.0.1", "alice correct horse 127.0.0.1"]
