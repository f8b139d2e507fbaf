"""Logging in: whoever finishes is whoever began, once, in time, with the server it was begun with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fakes.authorization import World, browser_of, press, world
from fakes.broker import Bench, bench, server_of
from mcp_gateway.credentials.consents import MAX_PENDING_OF_ONE, TTL_S, ConsentRefused, Pending
from mcp_gateway.credentials.owners import Owner

ALICE = Owner("agent:alice", agent="alice")


@asynccontextmanager
async def begun(state: Path, **knobs: Any) -> AsyncIterator[tuple[World, Bench, Pending]]:
    async with world(**knobs) as w, bench(state, server_of(w)) as made:
        party = made.broker.party("crm")
        assert party is not None
        base_url = await made.broker.base_url(ALICE)
        yield w, made, made.broker.consents.begin(ALICE, party, (), base_url)


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


async def test_the_authorization_request_is_bound_to_everything_it_should_be(tmp_path: Path) -> None:
    async with begun(tmp_path / "s", scope_of_challenge="read") as (w, made, pending):
        url, browser = await made.broker.consents.start(pending.ticket)
        sent = query_of(url)
        assert url.startswith(f"{w.origin}/authorize?")
        assert sent["resource"] == w.url
        assert sent["scope"] == "read"
        assert sent["code_challenge_method"] == "S256"
        assert sent["redirect_uri"] == pending.redirect_uri
        assert len(sent["state"]) >= 32 and len(browser) >= 32
        assert pending.verifier not in url and browser not in url
        assert "state" not in repr(pending) or sent["state"] not in repr(pending)
        again, _ = await made.broker.consents.start(pending.ticket)
        assert query_of(again)["state"] != sent["state"]


async def test_nothing_has_begun_before_the_button_was_pressed(tmp_path: Path) -> None:
    async with begun(tmp_path / "s") as (w, _, pending):
        async with browser_of("alice") as browser:
            assert (await browser.get(pending.page)).status_code == 200
        assert pending.state == ""
        assert w.registrations == []


@pytest.mark.parametrize("browser", ["", "another browser's secret"])
async def test_another_browser_cannot_finish_it(tmp_path: Path, browser: str) -> None:
    async with begun(tmp_path / "s") as (w, made, pending):
        url, _ = await made.broker.consents.start(pending.ticket)
        with pytest.raises(ConsentRefused, match="another browser"):
            await made.broker.consents.finish({"state": query_of(url)["state"], "code": "c", "iss": w.origin}, browser)
        assert w.token_requests == []


async def test_a_state_works_once(tmp_path: Path) -> None:
    async with begun(tmp_path / "s") as (w, made, pending):
        async with browser_of("alice") as browser:
            done = await press(browser, pending.page)
            assert done.status_code == 200
            asked = len(w.token_requests)
            replayed = await browser.get(str(done.url))
        assert replayed.status_code == 400
        assert len(w.token_requests) == asked
        with pytest.raises(ConsentRefused):
            made.broker.consents.pending(pending.ticket)


@pytest.mark.parametrize("state", ["", "unknown", "x" * 5000])
async def test_a_state_nobody_was_given_is_refused(tmp_path: Path, state: str) -> None:
    async with begun(tmp_path / "s") as (w, made, pending):
        _, browser = await made.broker.consents.start(pending.ticket)
        with pytest.raises(ConsentRefused):
            await made.broker.consents.finish({"state": state, "code": "c", "iss": w.origin}, browser)
        assert w.token_requests == []


async def test_ten_minutes_later_it_is_too_late(tmp_path: Path) -> None:
    async with begun(tmp_path / "s") as (w, made, pending):
        url, browser = await made.broker.consents.start(pending.ticket)
        made.clock.ahead_s = TTL_S + 1
        query = {"state": query_of(url)["state"], "code": "c", "iss": w.origin}
        with pytest.raises(ConsentRefused):
            await made.broker.consents.finish(query, browser)
        assert w.token_requests == []


@pytest.mark.parametrize(
    "answer",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"iss": ""},
        {"code": None},
        {"code": ""},
        {"error": "access_denied", "code": None},
        {"error": "access_denied"},
    ],
)
async def test_an_answer_from_elsewhere_or_without_a_code_brings_no_token(tmp_path: Path, answer: Any) -> None:
    async with begun(tmp_path / "s", answer_to_authorize=answer) as (w, made, pending):
        async with browser_of("alice") as browser:
            assert (await press(browser, pending.page)).status_code == 400
        assert w.token_requests == []
        assert await made.broker.vault.rows() == ()


async def test_an_issuer_that_is_named_unasked_is_compared_all_the_same(tmp_path: Path) -> None:
    knobs = {"metadata": {"authorization_response_iss_parameter_supported": None}}
    async with begun(tmp_path / "s", answer_to_authorize={"iss": "https://evil.example"}, **knobs) as (w, _, pending):
        async with browser_of("alice") as browser:
            assert (await press(browser, pending.page)).status_code == 400
        assert w.token_requests == []


@pytest.mark.parametrize("methods", [None, ["plain"], []])
async def test_a_server_without_pkce_is_not_logged_in_to(tmp_path: Path, methods: Any) -> None:
    knobs = {"metadata": {"code_challenge_methods_supported": methods}}
    async with begun(tmp_path / "s", **knobs) as (w, made, pending):
        with pytest.raises(ConsentRefused, match="PKCE"):
            await made.broker.consents.start(pending.ticket)
        assert w.registrations == []


async def test_one_owners_links_do_not_grow_without_end_and_push_out_nobody_elses(tmp_path: Path) -> None:
    async with begun(tmp_path / "s") as (_, made, pending):
        party, consents = pending.party, made.broker.consents
        assert consents.begin(ALICE, party, (), pending.base_url) is pending
        bob = Owner("agent:bob", agent="bob")
        for n in range(MAX_PENDING_OF_ONE + 5):
            consents.begin(bob, party, (str(n),), pending.base_url)
        assert consents.pending(pending.ticket) is pending
        assert len(consents._by_ticket) == MAX_PENDING_OF_ONE + 1


async def test_a_failed_exchange_of_the_code_keeps_nothing_and_shows_nothing(tmp_path: Path) -> None:
    async with begun(tmp_path / "s", token_error="invalid_request") as (_, made, pending):
        async with browser_of("alice") as browser:
            shown = await press(browser, pending.page)
        assert shown.status_code == 400
        assert "canary" not in shown.text
        assert await made.broker.vault.rows() == ()
