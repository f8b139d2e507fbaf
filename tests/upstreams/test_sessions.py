"""Sessions belong to one credential each, are bounded in number, and are ended."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from fakes.raw_http import LegacyServer, RawHttp, answering
from fakes.servers import QUICK, call_of, over_http
from fakes.waiting import until
from mcp_gateway.errors import Misbehaved, UpstreamError
from mcp_gateway.upstreams.connection import SILENT, Limits, Listener
from mcp_gateway.upstreams.streamable import HttpConnection, open_http


@asynccontextmanager
async def opened(legacy: LegacyServer, limits: Limits = QUICK) -> AsyncIterator[tuple[HttpConnection, RawHttp]]:
    async with answering(legacy) as served, open_http(over_http(served.url), Listener(), limits) as connection:
        yield connection, served


async def as_agent(connection: HttpConnection, token: str) -> None:
    await connection.ask(replace(call_of("t"), headers={"Authorization": token}), SILENT, 5)


async def test_two_credentials_never_share_a_session() -> None:
    legacy = LegacyServer()
    async with opened(legacy) as (connection, _):
        for token in ("alice", "bob", "alice", "bob"):
            await as_agent(connection, token)
    assert legacy.opened == 3
    assert len(set(legacy.called)) == 2
    assert len({session for session, _ in legacy.called}) == 2


async def test_calls_that_come_together_open_one_session() -> None:
    legacy = LegacyServer()
    async with opened(legacy) as (connection, _), anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(as_agent, connection, "alice")
    assert legacy.opened == 2


async def test_the_longest_unused_session_makes_room() -> None:
    legacy = LegacyServer()
    async with opened(legacy, replace(QUICK, max_sessions=2)) as (connection, served):
        for token in ("alice", "bob"):
            await as_agent(connection, token)
        await until(lambda: [asked for asked in served.asked if asked.method == "DELETE"])
        assert len(legacy.sessions) == 2


async def test_all_sessions_are_ended_with_their_own_credential() -> None:
    legacy = LegacyServer()
    async with opened(legacy) as (connection, served):
        await as_agent(connection, "alice")
    ended = {
        asked.headers["mcp-session-id"]: asked.headers.get("authorization")
        for asked in served.asked
        if asked.method == "DELETE"
    }
    assert ended == {"s1": None, "s2": "alice"}


async def test_a_server_without_session_ids_is_fine() -> None:
    legacy = LegacyServer(session_id="")
    async with opened(legacy) as (connection, served):
        assert connection.greeting.protocol_version == "2025-06-18"
        await as_agent(connection, "alice")
    assert legacy.called == [("", "alice")]
    assert not [asked for asked in served.asked if "mcp-session-id" in asked.headers or asked.method == "DELETE"]


@pytest.mark.parametrize("session_id", ["a b", "x" * 2000, "\xe9"])
async def test_a_session_id_that_is_none_is_refused(session_id: str) -> None:
    with pytest.raises(UpstreamError) as error:
        async with opened(LegacyServer(session_id=session_id)):
            raise AssertionError
    assert isinstance(error.value.__cause__, Misbehaved)
