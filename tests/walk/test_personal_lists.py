"""Where people have logins of their own, each is listed what theirs shows, and nothing of anybody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from fakes.authorization import World, log_in, world
from fakes.in_process import running_in
from fakes.replies import RecordingReply
from fakes.waiting import until
from mcp_gateway.credentials.owners import Owner, owner_id
from mcp_gateway.domain import Caller, Kind, OutcomeStatus, Request, Verb
from mcp_gateway.errors import NotAvailable
from mcp_gateway.upstreams import own_lists
from mcp_gateway.wiring import Running, new_request_id

ISSUER = "https://idp.example"

POLICY = """
[agents.bot]
tasks = ["work"]
default_task = "work"

[tasks.work]
allow = ["crm/*", "resource:crm/**"]
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_lists, "NOBODY_S", 0.0)
    monkeypatch.setattr(own_lists, "CHANGED_S", 0.0)


def files_for(w: World, more: str = "") -> dict[str, str]:
    return {"servers.toml": f'[servers.crm]\nurl = "{w.url}"\nauth = "oauth"\n{more}', "policies/p.toml": POLICY}


def caller(person: str) -> Caller:
    return Caller("bot", "work", person, claims={"iss": ISSUER})


async def person_logs_in(parts: Running, person: str) -> None:
    party = parts.broker.party("crm")
    assert party is not None
    owner = Owner(owner_id(person, ISSUER), person, ISSUER, "bot")
    shown = await log_in(parts.broker.consents.begin(owner, party, (), await parts.pages_at()).page, person)
    assert shown.status_code == 200, shown.text


async def listed(parts: Running, person: str, kind: Kind = Kind.TOOL) -> set[str]:
    request = Request(new_request_id(), Verb.LIST, f"{kind}s/list", kind, "", {})
    page = await parts.gateway.list(caller(person), request)
    assert orjson.loads(page.json()) == [target.definition for target in page.targets]
    return {target.name for target in page.targets}


async def lists_now(parts: Running, person: str, names: set[str]) -> None:
    async def are_listed() -> bool:
        return await listed(parts, person) - {"login"} == names

    await until(are_listed, within_s=10)


async def call(parts: Running, person: str, tool: str) -> Any:
    name = f"crm__{tool}"
    request = Request(new_request_id(), Verb.CALL, "tools/call", Kind.TOOL, name, {"name": name, "arguments": {}})
    return await parts.gateway.ask(caller(person), request, RecordingReply())


async def test_each_person_is_listed_their_own_tools_and_resources_and_can_call_no_others(tmp_path: Path) -> None:
    own = {"alice": ["close_books"], "bob": ["greet"]}
    resources = {"alice": ["note://alice"], "bob": ["note://bob"]}
    async with world(own_tools=own, own_resources=resources) as w, running_in(tmp_path, files_for(w)) as parts:
        await person_logs_in(parts, "alice")
        await lists_now(parts, "alice", {"whoami", "close_books"})
        await person_logs_in(parts, "bob")
        await lists_now(parts, "bob", {"whoami", "greet"})
        assert await listed(parts, "alice", Kind.RESOURCE) == {"note://alice"}
        assert await listed(parts, "bob", Kind.RESOURCE) == {"note://bob"}
        assert await listed(parts, "carol", Kind.RESOURCE) == set()
        for person, mine, others in (("alice", "close_books", "greet"), ("bob", "greet", "close_books")):
            assert (await call(parts, person, mine)).status is OutcomeStatus.OK
            with pytest.raises(NotAvailable):
                await call(parts, person, others)


async def test_the_login_tool_can_be_called_once_more_by_whoever_it_sent_to_log_in(tmp_path: Path) -> None:
    async with world(own_tools={"alice": ["a"]}) as w, running_in(tmp_path, files_for(w)) as parts:
        assert await listed(parts, "alice") == {"login"}
        await person_logs_in(parts, "alice")
        await lists_now(parts, "alice", {"whoami", "a"})
        assert (await call(parts, "alice", "login")).status is OutcomeStatus.OK


async def test_a_list_is_kept_over_a_restart_whether_or_not_the_upstream_is_there(tmp_path: Path) -> None:
    async with world(own_tools={"alice": ["close_books"]}, own_resources={"alice": ["note://alice"]}) as w:
        async with running_in(tmp_path, files_for(w)) as parts:
            await person_logs_in(parts, "alice")
            await lists_now(parts, "alice", {"whoami", "close_books"})
        files = files_for(w)
    async with running_in(tmp_path, files) as parts:
        assert await listed(parts, "alice") == {"whoami", "close_books"}
        assert await listed(parts, "alice", Kind.RESOURCE) == {"note://alice"}
        assert await listed(parts, "bob", Kind.RESOURCE) == set()
    other = {**files, "servers.toml": files["servers.toml"].replace("/mcp", "/other")}
    async with running_in(tmp_path, other) as parts:
        assert "close_books" not in await listed(parts, "alice"), "it is another server now"


async def test_what_a_person_is_listed_anew_is_held_back_for_them_alone(tmp_path: Path) -> None:
    async with world(own_tools={"alice": ["a"], "bob": ["b"]}) as w, running_in(tmp_path, files_for(w)) as parts:
        for person, mine in (("alice", "a"), ("bob", "b")):
            await person_logs_in(parts, person)
            await lists_now(parts, person, {"whoami", mine})
        w.own_tools["bob"].append("wipe_disk")
        parts.pool.upstreams["crm"].listener.on_list_changed("notifications/tools/list_changed")

        async def is_held() -> bool:
            assert await listed(parts, "bob") - {"login"} == {"whoami", "b"}
            return any(each.key == "tool:wipe_disk" for each in parts.pins.held)

        await until(is_held, within_s=10)
        [held] = [each for each in parts.pins.held if each.key == "tool:wipe_disk"]
        assert held.person == owner_id("bob", ISSUER)
        pins = parts.pins.lock.of("crm")
        assert pins is not None
        assert pins.pin("tool:b", owner_id("bob", ISSUER)) and not pins.pin("tool:b", owner_id("alice", ISSUER))


async def test_whoever_logs_out_is_listed_nothing_of_their_own_any_more(tmp_path: Path) -> None:
    own = {"alice": ["a"], "bob": ["b"]}
    async with world(own_tools=own) as w, running_in(tmp_path, files_for(w)) as parts:
        await person_logs_in(parts, "alice")
        await lists_now(parts, "alice", {"whoami", "a"})
        await person_logs_in(parts, "bob")
        await lists_now(parts, "bob", {"whoami", "b"})
        await parts.broker.log_out(owner_id("bob", ISSUER), "crm")
        parts.pool.upstreams["crm"].listener.on_list_changed("notifications/tools/list_changed")

        async def is_gone() -> bool:
            return "b" not in await listed(parts, "bob")

        await until(is_gone, within_s=10)


async def test_before_they_log_in_people_are_listed_others_tools_only_if_the_operator_wants_that(
    tmp_path: Path,
) -> None:
    async with world(own_tools={"alice": ["close_books"]}) as w:
        for wanted, names in ((True, {"whoami", "close_books"}), (False, set())):
            files = files_for(w)
            auth = f"auth = {{ oauth = {{ list_before_login = {str(wanted).lower()} }} }}"
            files["servers.toml"] = files["servers.toml"].replace('auth = "oauth"', auth)
            async with running_in(tmp_path / str(wanted), files) as parts:
                await person_logs_in(parts, "alice")
                await lists_now(parts, "alice", {"whoami", "close_books"})
                assert await listed(parts, "bob") - {"login"} == names
                if not wanted:
                    assert await listed(parts, "bob") == {"login"}
                    with pytest.raises(NotAvailable):
                        await call(parts, "bob", "close_books")


async def test_with_list_as_everybody_is_listed_the_same(tmp_path: Path) -> None:
    own = {"alice": ["a"], "bob": ["b"]}
    async with world(own_tools=own) as w:
        files = files_for(w)
        files["servers.toml"] = files["servers.toml"].replace(
            'auth = "oauth"', 'auth = { oauth = { list_as = "alice" } }'
        )
        async with running_in(tmp_path, files) as parts:
            await person_logs_in(parts, "bob")
            await person_logs_in(parts, "alice")
            await lists_now(parts, "bob", {"whoami", "a"})
            assert parts.gateway.snapshot.own is None
