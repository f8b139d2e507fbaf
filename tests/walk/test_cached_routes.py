"""Cached answers of plain APIs: a real API, a real client, and policy, guards, budgets and audit on every hit."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from fakes.library_api import LibraryApi
from fakes.model_gateway import ModelGateway, model_gateway
from fakes.served import serving
from mcp_gateway.domain import Caller, Kind, OutcomeStatus, Request, Verb
from mcp_gateway.upstreams.connection import SILENT

POLICY = """
[agents.alice]
tasks = ["read", "write"]
default_task = "read"

[agents.bob]
tasks = ["read"]
default_task = "read"

[tasks.read.routes]
allow = ["books: GET,HEAD /v1/**"]

[tasks.write.routes]
allow = ["books: * /v1/**"]
"""

KEYS = 'cache = ["GET /v1/**"]\n'


class Library:
    """The API, the gateway in front of it, and agents."""

    def __init__(self, api: LibraryApi, gateway: ModelGateway, origin: str) -> None:
        self.api = api
        self.gateway = gateway
        self.origin = origin

    async def ask(
        self, path: str = "/v1/a", method: str = "GET", agent: str = "alice", task: str = "", **headers: str
    ) -> httpx2.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent["authorization"] = f"Bearer {self.gateway.token(agent)}"
        way = f"/task/{task}" if task else ""
        return await self.gateway.http.request(method, f"{self.gateway.origin}{way}/rest/books{path}", headers=sent)

    def rows(self) -> list[dict[str, Any]]:
        return self.gateway.rows("route")

    def uses(self) -> list[Any]:
        """What the audit says of a cache, entry by entry."""
        with sqlite3.connect(f"file:{self.gateway.folder / 'audit.db'}?mode=ro", uri=True) as db:
            rows = db.execute("SELECT cache FROM entries WHERE phase = 'finished' AND kind = 'route' ORDER BY seq")
            found = [json.loads(cache) if cache else None for (cache,) in rows.fetchall()]
        db.close()
        return found

    async def use(self, policy: str) -> None:
        """Edit the policy."""
        (self.gateway.folder / "policies" / "agents.toml").write_text(policy)
        await self.gateway.parts.reload_policy()


@asynccontextmanager
async def library(folder: Path, keys: str = KEYS, policy: str = POLICY, more: str = "") -> AsyncIterator[Library]:
    api = LibraryApi()
    async with serving(api) as origin:
        server = f'\n[servers.books]\nrest = "{origin}"\ninclude = ["* /v1/**"]\n{keys}{more}'
        async with model_gateway(folder, policy=policy, models="", more=server) as gateway:
            yield Library(api, gateway, origin)


async def test_a_second_request_is_answered_from_the_cache_and_the_audit_says_of_what(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        first, again = await books.ask(), await books.ask()
        assert first.json() == again.json()
        assert again.headers["cache-status"].startswith("mcp-gateway; hit; ttl=")
        assert int(again.headers["age"]) < 30
        assert again.headers["etag"] == '"0"'
        assert len(books.api.asked) == 1
        assert [row["decision"] for row in books.rows()] == ["allowed", "allowed"]
        source = first.headers["x-gateway-request-id"]
        (nothing, use) = books.uses()
        assert (nothing, use["use"], use["source"]) == (None, "hit", source)


async def test_each_principal_has_a_cache_of_its_own(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        for agent, task in (("alice", ""), ("bob", ""), ("alice", "write"), ("alice", "read")):
            await books.ask(agent=agent, task=task)
        assert len(books.api.asked) == 3


async def test_a_cached_answer_is_no_authorisation(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        await books.ask()
        await books.use(POLICY.replace('allow = ["books: GET,HEAD', 'allow = ["books: HEAD'))
        assert (await books.ask()).status_code == 404
        await books.use(POLICY)
        assert "hit" in (await books.ask()).headers["cache-status"]
        assert [row["decision"] for row in books.rows()] == ["allowed", "denied", "allowed"]


async def test_guards_look_at_every_hit_and_keep_out_of_the_cache_what_they_block(tmp_path: Path) -> None:
    guard = '[[guard]]\nfind = ["personal-data/email"]\nin = ["results"]\ntools = ["route:books/**"]\nthen = "%s"\n'
    async with library(tmp_path) as books:
        books.api.note = "ask ann@example.org"
        await books.ask()
        for action in ("mask", "block", "alert"):
            await books.use(POLICY + guard % action)
            answer = await books.ask()
            assert (answer.status_code, "ann@" in answer.text) == (403 if action == "block" else 200, action == "alert")
        assert len(books.api.asked) == 1
        await books.use(POLICY + guard % "block")
        assert (await books.ask("/v1/b")).status_code == 403
        await books.use(POLICY)
        assert "uri-miss" in (await books.ask("/v1/b")).headers["cache-status"]


@pytest.mark.slow
async def test_a_budget_counts_hits(tmp_path: Path) -> None:
    budget = '[budgets.one]\nper = "1d"\ncalls = 2\ntargets = ["route:books/**"]\n'
    async with library(tmp_path, policy=POLICY + budget) as books:
        assert [(await books.ask()).status_code for _ in range(3)] == [200, 200, 429]
        assert len(books.api.asked) == 1


async def test_what_is_changed_through_the_gateway_is_asked_for_again_by_everybody(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        await books.ask(agent="bob")
        await books.ask(task="write", method="PUT")
        assert (await books.ask(agent="bob")).json()["edition"] == 1


async def test_what_a_tool_changes_is_asked_for_again_too(tmp_path: Path) -> None:
    tool = '[servers.books.tool.renew]\nmethod = "PUT"\npath = "/v1/{id}"\narguments = { id = { type = "string" } }\n'
    policy = POLICY.replace("[tasks.write.routes]", '[tasks.write]\nallow = ["books/renew"]\n[tasks.write.routes]')
    async with library(tmp_path, policy=policy, more=tool) as books:
        await books.gateway.parts.settled(5)
        await books.ask()
        params = {"name": "books__renew", "arguments": {"id": "a"}}
        call = Request("q", Verb.CALL, "tools/call", Kind.TOOL, "books__renew", params)
        outcome = await books.gateway.parts.gateway.ask(Caller("alice", "write"), call, SILENT)
        assert outcome.status is OutcomeStatus.OK
        assert (await books.ask()).json()["edition"] == 1


async def test_an_answer_that_must_be_asked_about_costs_no_body(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        books.api.cache_control = "no-cache"
        first, again = await books.ask(), await books.ask()
        assert again.content == first.content
        assert again.headers["cache-status"] == "mcp-gateway; fwd=stale; fwd-status=304"
        assert [known for _, _, known in books.api.asked] == ["", '"0"']
        known = await books.ask(if_none_match='"0"')
        assert (known.status_code, known.content) == (304, b"")
        assert [use and use["use"] for use in books.uses()] == [None, "revalidated", "revalidated"]


@pytest.mark.slow
async def test_an_old_answer_stands_in_for_an_api_that_fails_or_is_gone(tmp_path: Path) -> None:
    async with library(tmp_path, KEYS + "cache_stale_s = 60\n") as books:
        books.api.more["age"] = "60"
        await books.ask()
        books.api.status = 503
        stale = await books.ask()
        assert (stale.status_code, stale.json()["edition"]) == (200, 0)
        assert stale.headers["cache-status"] == "mcp-gateway; fwd=stale; fwd-status=503; detail=stale-if-error"
        assert (await books.ask("/v1/b")).status_code == 503
        assert [use and use["use"] for use in books.uses()] == [None, "stale", None]


@pytest.mark.slow
async def test_a_route_that_has_changed_has_an_empty_cache_and_one_that_has_not_keeps_it(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        file = tmp_path / "servers.toml"
        await books.ask()
        file.write_text(file.read_text() + '[servers.other]\nrest = "http://127.0.0.1:9"\ninclude = ["* **"]\n')
        await books.gateway.parts.reload_config()
        await books.ask()
        assert len(books.api.asked) == 1
        file.write_text(file.read_text().replace(KEYS, KEYS + "timeout_s = 7\n"))
        await books.gateway.parts.reload_config()
        assert len(books.gateway.parts.senders._answers) == 0
        await books.ask()
        assert len(books.api.asked) == 2


@pytest.mark.slow
async def test_many_at_once_get_one_answer_each(tmp_path: Path) -> None:
    async with library(tmp_path) as books:
        answers = await asyncio.gather(*(books.ask(f"/v1/{number % 5}") for number in range(50)))
        assert all(answer.json()["path"] == f"/v1/{number % 5}" for number, answer in enumerate(answers))


@pytest.mark.slow
async def test_without_a_word_in_the_configuration_nothing_is_kept(tmp_path: Path) -> None:
    async with library(tmp_path, keys="") as books:
        for _ in range(2):
            assert "cache-status" not in (await books.ask()).headers
        assert len(books.api.asked) == 2


@pytest.mark.slow
async def test_credentials_decide_whether_an_answer_may_be_kept(tmp_path: Path) -> None:
    async with library(tmp_path, KEYS + 'headers = { X-Api-Key = "canary" }\n') as books:
        books.api.cache_control = "max-age=60"
        for _ in range(2):
            await books.ask()
        books.api.cache_control = "max-age=60, public"
        for _ in range(2):
            await books.ask("/v1/b")
        assert len(books.api.asked) == 3
