"""Servers over Streamable HTTP: real ones in both eras, and the ways they are told apart."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.types import Receive, Scope, Send

from fakes import sdk_server
from fakes.raw_http import (
    Asked,
    LegacyServer,
    answering,
    discovers,
    event,
    http,
    json_answer,
    scripted,
    stream_start,
)
from fakes.replies import RecordingReply
from fakes.served import serving
from fakes.servers import QUICK, asked, call_of, over_http, text_of
from fakes.waiting import until
from mcp_gateway.domain import Era, Json, RpcError, UpstreamRequest
from mcp_gateway.errors import TimedOut, Unreachable, UpstreamError
from mcp_gateway.upstreams import streamable
from mcp_gateway.upstreams.connection import SILENT, Listener
from mcp_gateway.upstreams.dialect import HANDSHAKE
from mcp_gateway.upstreams.http import Exchange
from mcp_gateway.upstreams.refusals import Rejected
from mcp_gateway.upstreams.relay import Call
from mcp_gateway.upstreams.streamable import HttpConnection, NotStreamable, open_http


@asynccontextmanager
async def opened(url: str, listener: Listener | None = None, **headers: str) -> AsyncIterator[HttpConnection]:
    async with open_http(over_http(url, headers=headers), listener or Listener(), QUICK) as connection:
        yield connection


@pytest.fixture(autouse=True)
def forgetful() -> None:
    sdk_server.cancelled.clear()


async def test_a_real_modern_server_is_spoken_to_as_such() -> None:
    async with serving(sdk_server.fresh_app()) as origin, opened(f"{origin}/mcp") as connection:
        assert connection.greeting.era is Era.MODERN
        reply = RecordingReply(log_level="warning")
        assert text_of(await asked(connection, "count", reply, to=3)) == "3"
        assert [step["progress"] for step in reply.progressed] == [1, 2, 3]
        await asked(connection, "chat", reply, line="x")
        assert [line["data"] for line in reply.logged] == ["warning x"]
        with anyio.move_on_after(0.2):
            await asked(connection, "wait", seconds=60)
        await until(lambda: sdk_server.cancelled)


@pytest.mark.parametrize("options", [{}, {"json_response": True}, {"stateless_http": True}], ids=str)
async def test_a_real_legacy_server_is_spoken_to_as_such(options: dict[str, bool]) -> None:
    app = sdk_server.LegacyOnly(sdk_server.fresh_app(**options))
    async with serving(app) as origin:
        async with opened(f"{origin}/mcp") as connection:
            assert connection.greeting.era is Era.LEGACY
            assert connection.greeting.protocol_version == "2025-11-25"
            reply = RecordingReply()
            assert text_of(await asked(connection, "count", reply, to=3)) == "3"
            assert [step["progress"] for step in reply.progressed] == (
                [] if options.get("json_response") else [1, 2, 3]
            )
        methods = [method for method, _ in app.requests]
        assert ("DELETE" in methods) is not options.get("stateless_http", False)


async def test_calls_of_a_real_server_that_answers_in_event_streams_share_a_connection() -> None:
    app = sdk_server.LegacyOnly(sdk_server.fresh_app())
    came_from = Counter[int]()

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            came_from[scope["client"][1]] += 1
        await app(scope, receive, send)

    async with serving(counting) as origin, opened(f"{origin}/mcp") as connection:
        for number in range(20):
            assert text_of(await asked(connection, "echo", text=str(number))) == str(number)
    assert len(came_from) <= 6  # one is the stream that is listened to; a call may come before the last one's end has


async def test_cancelling_a_call_of_a_real_legacy_server_cancels_it_there() -> None:
    app = sdk_server.LegacyOnly(sdk_server.fresh_app())
    async with serving(app) as origin, opened(f"{origin}/mcp") as connection:
        with anyio.move_on_after(0.2):
            await asked(connection, "wait", seconds=60)
        await until(lambda: sdk_server.cancelled)


async def test_a_modern_server_tells_of_changed_lists() -> None:
    changed: list[str] = []
    async with (
        serving(sdk_server.fresh_app()) as origin,
        opened(f"{origin}/mcp", Listener(changed.append)) as connection,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(connection.listen, {"toolsListChanged": True})

        async def told() -> list[str]:
            await asked(connection, "grow", name=f"tool{anyio.current_time()}".replace(".", "_"))
            return changed

        await until(told)
        tasks.cancel_scope.cancel()
    assert changed[0] == "notifications/tools/list_changed"


@pytest.mark.parametrize(
    "probe_answer",
    [
        http(400),
        http(404),
        http(405),
        http(500),
        http(200, b"<html>", "text/html"),
        http(202),
        json_answer(
            {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "Server not initialized"}}, 400
        ),
        json_answer({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "unknown"}}),
        json_answer(
            {
                "jsonrpc": "2.0",
                "id": 1,
                "error": {"code": -32022, "message": "", "data": {"supported": ["2025-06-18"]}},
            },
            400,
        ),
        json_answer({"jsonrpc": "2.0", "id": 1, "result": {"supportedVersions": ["2025-11-25"]}}),
    ],
    ids=lambda answer: str(answer[:15] + answer[-40:]),
)
async def test_whatever_an_older_server_makes_of_the_probe_it_is_initialized(probe_answer: bytes) -> None:
    legacy = LegacyServer()

    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.rpc_method == "server/discover":
            writer.write(probe_answer)
        else:
            await legacy(asked, writer)

    async with answering(answerer) as served, opened(served.url) as connection:
        assert connection.greeting.era is Era.LEGACY
    initialize = served.asked_for("initialize")[0]
    assert "mcp-protocol-version" not in initialize.headers
    assert "mcp-method" not in initialize.headers
    [initialized] = served.asked_for("notifications/initialized")
    assert initialized.headers["mcp-protocol-version"] == "2025-06-18"
    assert initialized.headers["mcp-session-id"] == "s1"


@pytest.mark.parametrize("status", [401, 403, 307])
async def test_a_refused_credential_or_a_redirect_is_no_verdict_on_the_era(status: int) -> None:
    async with answering(scripted([lambda asked: http(status)])) as served:
        with pytest.raises(Rejected):
            async with opened(served.url):
                raise AssertionError
    assert [asked.rpc_method for asked in served.asked] == ["server/discover"]


async def test_a_server_that_cannot_be_reached_is_asked_once() -> None:
    with pytest.raises(Unreachable, match="could not be connected to"):
        async with opened("http://127.0.0.1:1/mcp"):
            raise AssertionError


@pytest.mark.parametrize("answer", [http(404), http(405), http(200, b"<html>", "text/html"), http(500)])
async def test_a_server_of_neither_era_is_not_streamable(answer: bytes) -> None:
    async with answering(scripted([lambda asked: answer])) as served:
        with pytest.raises(NotStreamable):
            async with opened(served.url):
                raise AssertionError


async def test_a_credential_refused_at_initialize_is_not_taken_for_an_older_transport() -> None:
    def answer(asked: Asked) -> bytes:
        return http(401 if asked.rpc_method == "initialize" else 404)

    async with answering(scripted([answer])) as served:
        with pytest.raises(Rejected):
            async with opened(served.url):
                raise AssertionError


@pytest.mark.parametrize(
    "lost",
    [
        http(404),
        json_answer(
            {
                "jsonrpc": "2.0",
                "id": None,
                "error": {"code": -32000, "message": "Bad Request: No valid session ID provided"},
            },
            400,
        ),
    ],
    ids=["404", "400"],
)
async def test_a_forgotten_session_is_opened_again_and_the_call_runs_once(lost: bytes) -> None:
    legacy, changed = LegacyServer(lost_answer=lost), list[str]()
    async with answering(legacy) as served, opened(served.url, Listener(changed.append)) as connection:
        legacy.sessions.clear()
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(asked, connection, "t")
        assert legacy.opened == 2, "callers that find the session gone together share one new one"
        assert legacy.called == [("s2", "")] * 10
        assert changed
    assert legacy.sessions == set()


async def test_a_session_that_is_always_lost_is_an_error_and_no_loop() -> None:
    legacy = LegacyServer()

    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.rpc_method == "tools/call":
            writer.write(http(404))
        else:
            await legacy(asked, writer)

    async with answering(answerer) as served, opened(served.url) as connection:
        with pytest.raises(Unreachable, match="ended its session"):
            await asked(connection, "t")
    assert len(served.asked_for("tools/call")) == 2


async def test_a_call_ends_at_its_timeout_whatever_it_waits_for() -> None:
    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if (said := discovers()(asked)) is not None:
            writer.write(said)
        else:
            writer.write(stream_start())
            token = asked.message["params"]["_meta"]["progressToken"]
            for step in range(10_000):
                progress = {"progressToken": token, "progress": step}
                writer.write(event({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress}))
                await asyncio.sleep(0.005)

    async with answering(answerer) as served, opened(served.url) as connection:
        with anyio.fail_after(2), pytest.raises(TimedOut):
            await connection.ask(call_of("t"), RecordingReply(), 0.1)
        await until(lambda: served.hung_up)


async def test_the_get_stream_backs_off_and_what_was_missed_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamable, "STREAM_FIRST_WAIT_S", 0.02)
    legacy, changed = LegacyServer(get_answer=stream_start()), list[str]()
    async with answering(legacy) as served, opened(served.url, Listener(changed.append)):
        await until(lambda: len([asked for asked in served.asked if asked.method == "GET"]) >= 3)
    assert changed[:2] == ["stream ended"] * 2


async def test_a_server_without_a_get_stream_is_asked_for_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamable, "STREAM_FIRST_WAIT_S", 0.001)
    async with answering(LegacyServer()) as served, opened(served.url) as connection:
        for _ in range(5):
            await asked(connection, "t")
    assert len([asked for asked in served.asked if asked.method == "GET"]) == 1


async def test_the_get_stream_notices_a_forgotten_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamable, "STREAM_FIRST_WAIT_S", 0.02)
    legacy = LegacyServer(get_answer=stream_start())
    async with answering(legacy) as served, opened(served.url):
        await until(lambda: [asked for asked in served.asked if asked.method == "GET"])
        legacy.sessions.clear()
        await until(lambda: legacy.opened == 2)


async def test_whenever_the_get_stream_is_open_again_something_may_have_been_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streamable, "STREAM_FIRST_WAIT_S", 0.02)
    updated, gaps = list[Json](), list[bool]()
    listener = Listener(on_updated=updated.append, on_gap=gaps.append)
    news = event({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "a"}})
    legacy = LegacyServer(get_answer=stream_start() + news)
    async with answering(legacy) as served, opened(served.url, listener):
        await until(lambda: len(updated) >= 2)
        assert gaps[:2] == [False, False]
        legacy.sessions.clear()
        await until(lambda: True in gaps)
    assert updated[0] == {"uri": "a"}


async def test_a_renewed_session_is_heard_instead_of_the_forgotten_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamable, "STREAM_FIRST_WAIT_S", 0.02)
    legacy, heard, gaps = LegacyServer(), list[str](), list[bool]()

    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method == "GET":
            heard.append(asked.headers["mcp-session-id"])
            writer.write(stream_start())
            await asyncio.sleep(60)
        await legacy(asked, writer)

    async with answering(answerer) as served, opened(served.url, Listener(on_gap=gaps.append)) as connection:
        await until(lambda: heard == ["s1"])
        legacy.sessions.clear()
        await asked(connection, "t")
        await until(lambda: heard == ["s1", "s2"])
        await until(lambda: gaps == [False, True, False])


async def test_the_most_verbose_level_is_asked_for_once_per_session() -> None:
    legacy = LegacyServer(capabilities={"logging": {}})
    async with answering(legacy) as served, opened(served.url) as connection:
        for level in ("error", "info", "error", "info"):
            await asked(connection, "t", RecordingReply(log_level=level))
    assert [asked.message["params"]["level"] for asked in served.asked_for("logging/setLevel")] == ["error", "info"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda asked: json_answer(
            {"jsonrpc": "2.0", "id": asked.message["id"], "error": {"code": -32601, "message": ""}}, 404
        ),
    ],
)
async def test_a_modern_server_without_subscriptions_says_so(answer: Any) -> None:
    async with answering(scripted([discovers(), answer])) as served, opened(served.url) as connection:
        with pytest.raises(LookupError):
            await connection.listen({"toolsListChanged": True})
    [listen] = served.asked_for("subscriptions/listen")
    assert listen.message["params"]["notifications"] == {"toolsListChanged": True}


async def test_configured_headers_go_with_every_request_and_show_nowhere() -> None:
    async with answering(LegacyServer()) as served, opened(served.url, Authorization="Bearer s3cr3t") as connection:
        await connection.ask(UpstreamRequest("tools/list", {}), SILENT, 5)
        assert "s3cr3t" not in repr(connection)
    assert {asked.headers["authorization"] for asked in served.asked} == {"Bearer s3cr3t"}


@pytest.mark.parametrize("is_legacy", [False, True])
async def test_calls_in_flight_fail_when_the_connection_is_left_and_new_ones_are_refused(is_legacy: bool) -> None:
    legacy, errors = LegacyServer(), list[str]()

    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.rpc_method == "tools/call":
            await asyncio.sleep(3600)
        elif is_legacy or asked.rpc_method != "server/discover":
            await legacy(asked, writer)
        else:
            await scripted([discovers()])(asked, writer)

    async def wait_in_vain(connection: HttpConnection) -> None:
        with pytest.raises(Unreachable) as error:
            await asked(connection, "t")
        errors.append(str(error.value))

    with anyio.fail_after(3):
        async with answering(answerer) as served, anyio.create_task_group() as tasks:
            async with opened(served.url) as connection:
                for _ in range(5):
                    tasks.start_soon(wait_in_vain, connection)
                await until(lambda: len(served.asked_for("tools/call")) == 5)
            await until(lambda: len(errors) == 5)
            with pytest.raises(Unreachable, match="was closed"):
                await asked(connection, "t")


async def test_a_call_cancelled_after_its_connection_was_left_is_only_cancelled() -> None:
    legacy = LegacyServer()
    async with answering(legacy) as served, opened(served.url) as connection:
        with anyio.CancelScope() as scope:
            await connection._http.close()
            exchange = Exchange(99, HANDSHAKE, call_of("t"), Call(SILENT, Counter()))
            scope.cancel()
            await connection._http.run(exchange)
    assert scope.cancelled_caught
    assert not served.asked_for("notifications/cancelled")


async def test_a_call_cancelled_right_before_its_connection_is_left_is_cancelled_upstream() -> None:
    legacy = LegacyServer()
    hanging = anyio.Event()

    async def answerer(asked_for: Asked, writer: asyncio.StreamWriter) -> None:
        if asked_for.rpc_method == "tools/call":
            hanging.set()
            await anyio.sleep_forever()
        await legacy(asked_for, writer)

    async with answering(answerer) as served:
        with anyio.CancelScope() as left:
            async with opened(served.url) as connection:
                async with anyio.create_task_group() as calls:
                    calls.start_soon(asked, connection, "t")
                    await hanging.wait()
                    calls.cancel_scope.cancel()
                left.cancel()
                await anyio.lowlevel.checkpoint()
        assert served.asked_for("notifications/cancelled")


async def test_the_first_call_waits_until_what_is_asked_beside_it_can_be_heard() -> None:
    legacy, may_open, was_open = LegacyServer(), anyio.Event(), list[bool]()

    async def answerer(asked_for: Asked, writer: asyncio.StreamWriter) -> None:
        if asked_for.method == "GET":
            await may_open.wait()
            writer.write(stream_start())
            await anyio.sleep_forever()
        if asked_for.rpc_method == "tools/call":
            was_open.append(may_open.is_set())
        await legacy(asked_for, writer)

    async with (
        answering(answerer) as served,
        opened(served.url) as connection,
        anyio.create_task_group() as calls,
    ):
        calls.start_soon(asked, connection, "t")
        await until(lambda: any(each.method == "GET" for each in served.asked))
        may_open.set()
        await until(lambda: was_open == [True])


async def test_a_stream_that_never_opens_keeps_no_call_waiting_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamable, "HEARD_WITHIN_S", 0.01)
    legacy = LegacyServer()

    async def answerer(asked_for: Asked, writer: asyncio.StreamWriter) -> None:
        if asked_for.method == "GET":
            await anyio.sleep_forever()
        await legacy(asked_for, writer)

    with anyio.fail_after(3):
        async with answering(answerer) as served, opened(served.url) as connection:
            await asked(connection, "t")
            await asked(connection, "t")


async def test_fifty_connections_one_after_the_other_leave_no_descriptor() -> None:
    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    async with answering(LegacyServer()) as served:
        counts = []
        for _ in range(50):
            async with opened(served.url) as connection:
                await asked(connection, "t")
            await until(lambda: descriptors() <= min(counts, default=1000))
            counts.append(descriptors())
    assert counts[-1] <= counts[0]


async def test_an_error_of_the_block_comes_out_as_itself() -> None:
    async with answering(scripted([discovers()])) as served:
        with pytest.raises(UpstreamError, match="from inside"):
            async with opened(served.url):
                raise Unreachable("web", "from inside")


MODERN_ONLY = {"jsonrpc": "2.0", "id": None, "error": {"code": -32022, "message": "", "data": {"supported": []}}}
MISSES_SESSION = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "Missing session ID"}}


@pytest.mark.parametrize("before", ["legacy", "modern"])
async def test_a_server_that_speaks_the_other_era_by_now_is_given_up(before: str) -> None:
    legacy = LegacyServer()
    modern = scripted([discovers(), lambda asked: json_answer(MODERN_ONLY, 400)])
    speaks = [legacy if before == "legacy" else modern]

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        await speaks[0](asked, writer)

    async with answering(answer) as served, opened(served.url) as connection:
        speaks[0] = modern if before == "legacy" else legacy
        with pytest.raises(Unreachable, match="another era"):
            await asked(connection, "t")
        assert connection.broken.is_set()


async def test_a_server_that_only_sounds_like_the_other_era_keeps_its_connection() -> None:
    server = scripted([discovers(), lambda asked: json_answer(MISSES_SESSION, 400)])
    async with answering(server) as served, opened(served.url) as connection:
        assert await asked(connection, "t") == RpcError(-32600, "Missing session ID")
        assert not connection.broken.is_set()
