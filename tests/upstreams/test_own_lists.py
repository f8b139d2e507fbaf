"""Each owner's list is theirs, asked for once at a time, no more often than needed, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_gateway.domain import Caller, Credential, Listing
from mcp_gateway.errors import Unreachable
from mcp_gateway.storage.lists import ListStore
from mcp_gateway.upstreams import own_lists
from mcp_gateway.upstreams.own_lists import OwnLists, Surroundings


class Upstream:
    """Lists one tool, named after the credential's owner."""

    def __init__(self) -> None:
        self.listing: Listing | None = None
        self.changes = 0
        self.asked: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    async def listed_for(self, credential: Credential, before: Listing | None) -> Listing:
        self.asked.append(credential.owner)
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return Listing("crm", tools=({"name": f"of_{credential.owner}", "n": self.changes},))


class World:
    def __init__(self, state: Path) -> None:
        self.upstream = Upstream()
        self.logged_in = {"alice", "bob"}
        self.changed: list[str] = []
        upstreams: Mapping[str, Any] = {"crm": self.upstream}

        def owner(caller: Caller, upstream: str) -> str:
            return caller.person or ""

        around = Surroundings(lambda: upstreams, owner, self.credential, self.changed.append)
        self.lists = OwnLists(ListStore(state), around)
        self.lists.apply({"crm": "https://crm.example/mcp"})

    async def credential(self, caller: Caller, upstream: str) -> Credential | None:
        person = caller.person or ""
        return Credential({"Authorization": person}, person) if person in self.logged_in else None

    async def names(self, person: str) -> list[str]:
        caller = Caller("bot", "work", person)
        await self.lists.prepare(caller)
        return [tool["name"] for _, _, own in self.lists.of(caller) for tool in own.listing.tools]


@asynccontextmanager
async def world(state: Path) -> AsyncIterator[World]:
    made = World(state)
    await made.lists.recall()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.lists.keep)
        yield made
        tasks.cancel_scope.cancel()


async def test_each_owner_has_their_own_list_and_it_is_asked_for_once(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        assert await w.names("alice") == ["of_alice"]
        assert await asyncio.gather(w.names("bob"), w.names("bob")) == [["of_bob"], ["of_bob"]]
        assert await w.names("alice") == ["of_alice"]
        assert w.upstream.asked == ["alice", "bob"]
        assert w.changed == ["crm", "crm"]


async def test_who_has_no_login_has_no_list_until_they_log_in(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        assert await w.names("carol") == []
        w.logged_in.add("carol")
        assert await w.names("carol") == [], "nobody has said so yet, and it was looked for a moment ago"
        w.lists.note_login("crm")
        assert await w.names("carol") == ["of_carol"]


async def test_a_list_is_asked_for_again_once_it_may_have_changed_while_the_old_one_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_lists, "CHANGED_S", 0.0)
    async with world(tmp_path) as w:
        await w.names("alice")
        w.upstream.may_answer.clear()
        w.upstream.changes += 1
        assert await w.names("alice") == ["of_alice"]
        w.upstream.may_answer.set()
        await asyncio.wait([task for task, _ in w.lists._fetching.values()])
        [(_, _, own)] = w.lists.of(Caller("bot", "work", "alice"))
        assert own.listing.tools[0]["n"] == 1
        assert not own.is_first


async def test_a_list_is_gone_with_its_login_and_after_that_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_lists, "REFRESH_S", 0.0)
    async with world(tmp_path) as w:
        await w.names("alice")
        w.logged_in.clear()
        await w.names("alice")
        await asyncio.sleep(0)
        assert await w.names("alice") == []
    assert ListStore(tmp_path).all() == []


async def test_after_a_restart_the_list_is_there_though_the_upstream_is_not(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        await w.names("alice")
        w.lists.note_shared("crm", Listing("crm", tools=({"name": "for_all"},)))
    async with world(tmp_path) as w:
        w.upstream.error = Unreachable("crm", "down")
        assert await w.names("alice") == ["of_alice"]
        assert w.upstream.listing is not None and w.upstream.listing.tools == ({"name": "for_all"},)
        w.lists.apply({"crm": "https://elsewhere.example/mcp"})
        assert w.lists.of(Caller("bot", "work", "alice")) == []


async def test_the_list_that_was_used_least_recently_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_lists, "MAX_LISTS", 2)
    async with world(tmp_path) as w:
        w.logged_in.update(str(n) for n in range(4))
        for n in range(4):
            await w.names(str(n))
        assert [key[1] for key in w.lists._own] == ["2", "3"]
        assert w.lists._bytes == sum(own.size for own in w.lists._own.values())


async def test_an_upstream_that_hangs_costs_the_first_list_a_moment_and_not_every_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_lists, "WAIT_S", 0.05)
    async with world(tmp_path) as w:
        w.upstream.may_answer.clear()
        assert await w.names("alice") == []
        with anyio.fail_after(5):
            for _ in range(1000):
                assert await w.names("alice") == []
        assert w.upstream.asked == ["alice"]
