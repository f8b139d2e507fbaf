"""What the front door does by itself."""

import json
import sqlite3
from datetime import timedelta
from typing import Any

import anyio
import pytest

from fakes.front import Front, front, utc_now
from fakes.upstream import Hanging
from fakes.waiting import until
from mcp_gateway.domain import Caller, Strength
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.frontdoor import housekeeping
from mcp_gateway.frontdoor.housekeeping import close_revoked, keep_house

ANONYMOUS = Caller("bob", "other", strength=Strength.ANONYMOUS)


def watched(door: Front, caller: Caller) -> list[str]:
    """What is closed of the caller's, from now on."""
    closed: list[str] = []
    door.closers.add(caller, lambda: closed.append(caller.agent))
    return closed


def key_of(door: Front, agent: str, **options: Any) -> Caller:
    _, record = door.keys.create(agent, options.get("expires"), utc_now())
    return Caller(agent, "work", credential_id=record.public_id)


async def test_only_what_hangs_on_a_revoked_key_ends(door: Front) -> None:
    alice, bob = key_of(door, "alice"), key_of(door, "bob")
    first, second = watched(door, alice), watched(door, bob)
    close_revoked(door.closers, door.verifier, utc_now)
    assert (first, second) == ([], [])
    door.keys.revoke(alice.credential_id, utc_now())
    close_revoked(door.closers, door.verifier, utc_now)
    assert (first, second) == (["alice"], [])


async def test_a_key_that_expires_ends_what_hangs_on_it(door: Front) -> None:
    closed = watched(door, key_of(door, "alice", expires=timedelta(hours=1)))
    close_revoked(door.closers, door.verifier, lambda: utc_now() + timedelta(minutes=59))
    assert closed == []
    close_revoked(door.closers, door.verifier, lambda: utc_now() + timedelta(minutes=61))
    assert closed == ["alice"]


async def test_a_store_that_cannot_be_asked_proves_nothing_to_hold(
    door: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = watched(door, key_of(door, "alice"))

    def broken(*_: Any) -> bool:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(door.verifier, "still_holds", broken)
    close_revoked(door.closers, door.verifier, utc_now)
    assert closed == ["alice"]


async def test_an_anonymous_agent_holds_as_long_as_it_is_written_down(door: Front, tmp_path_factory: Any) -> None:
    closed = watched(door, ANONYMOUS)
    close_revoked(door.closers, door.verifier, utc_now)
    assert closed == ["bob"]
    async with front(tmp_path_factory.mktemp("other"), anonymous="bob") as open_door:
        closed = watched(open_door, ANONYMOUS)
        close_revoked(open_door.closers, open_door.verifier, utc_now)
        assert closed == []


async def test_a_key_revoked_by_another_process_ends_calls_and_streams_within_a_second(door: Front) -> None:
    assert housekeeping.LOOK_EVERY_S <= 0.5
    door.u.script["hang"] = hanging = Hanging()
    session = await door.handshake()
    ended: list[str] = []

    async def listen() -> None:
        headers = door.headers(mcp_session_id=session)
        async with door.http.stream("GET", door.url, headers=headers) as response:
            async for _ in response.aiter_bytes():
                pass
        ended.append("stream")

    async def call() -> None:
        await door.call("u__hang")
        ended.append("call")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_house, door.closers, door.legacy, door.verifier, utc_now)
        tasks.start_soon(listen)
        tasks.start_soon(call)
        await until(lambda: hanging.replies and len(door.closers._open) == 3)
        other = type(door.keys)(door.folder / "state")
        [record] = other.list()
        other.revoke(record.public_id, utc_now())
        other.close()
        await until(lambda: sorted(ended) == ["call", "stream"], within_s=1.5)
        tasks.cancel_scope.cancel()


async def test_house_is_kept_until_it_is_told_to_stop(door: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = []
    monkeypatch.setattr(housekeeping, "LOOK_EVERY_S", 0)
    monkeypatch.setattr(door.legacy, "sweep", lambda: swept.append(1))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_house, door.closers, door.legacy, door.verifier, utc_now)
        await until(lambda: len(swept) >= 2)
        tasks.cancel_scope.cancel()


async def test_the_audit_names_the_key_and_never_holds_it(door: Front) -> None:
    await door.call("u__echo")
    database = sqlite3.connect(door.folder / "audit.db")
    dump = "\n".join(database.iterdump())
    database.close()
    assert door.token() not in dump
    assert json.dumps(door.token()) not in dump
