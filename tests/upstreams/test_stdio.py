"""Servers that are our children: real and hostile ones, in both eras."""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import psutil
import pytest

from fakes.replies import RecordingReply
from fakes.servers import QUICK, asked, hostile, json_of, sdk, text_of
from fakes.waiting import until
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Era, RpcError, UpstreamRequest
from mcp_gateway.errors import Misbehaved, TimedOut, Unreachable
from mcp_gateway.upstreams import child as child_module
from mcp_gateway.upstreams import peer
from mcp_gateway.upstreams.connection import SILENT, Limits, Listener
from mcp_gateway.upstreams.handshake import DiedOfProbe, Memory
from mcp_gateway.upstreams.stdio import StdioConnection, open_stdio


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "GRACE_S", 0.3)


@asynccontextmanager
async def opened(
    config: ServerConfig, limits: Limits = QUICK, listener: Listener | None = None, memory: Memory | None = None
) -> AsyncIterator[StdioConnection]:
    async with open_stdio(config, listener or Listener(), limits, memory or Memory("k", {})) as connection:
        yield connection


SLOW_START = replace(QUICK, probe_timeout_s=10)


async def test_a_real_modern_server_is_spoken_to_as_such() -> None:
    async with opened(sdk(), SLOW_START) as connection:
        assert connection.greeting.era is Era.MODERN
        assert connection.greeting.instructions == "A server for tests."
        reply = RecordingReply(log_level="warning")
        assert text_of(await asked(connection, "count", reply, to=3)) == "3"
        assert [step["progress"] for step in reply.progressed] == [1, 2, 3]
        await asked(connection, "chat", reply, line="x")
        assert [line["data"] for line in reply.logged] == ["warning x"]


async def test_a_real_server_is_spoken_to_in_the_older_era_where_that_is_remembered() -> None:
    memory = Memory("k", {})
    memory.remember_legacy()
    async with opened(sdk(), memory=memory) as connection:
        assert connection.greeting.era is Era.LEGACY
        reply = RecordingReply(log_level="warning")
        assert text_of(await asked(connection, "count", reply, to=2)) == "2"
        assert [step["progress"] for step in reply.progressed] == [1, 2]
        await asked(connection, "chat", reply, line="x")
        assert [line["data"] for line in reply.logged] == ["warning x"]


@pytest.mark.parametrize("is_legacy", [False, True])
async def test_cancelling_a_call_cancels_it_in_a_real_server(is_legacy: bool) -> None:
    memory = Memory("k", {"k": "legacy"} if is_legacy else {})
    async with opened(sdk(), SLOW_START, memory=memory) as connection:
        with anyio.move_on_after(0.2):
            await asked(connection, "wait", seconds=60)

        async def was_cancelled() -> bool:
            return text_of(await asked(connection, "was_cancelled")) == "1"

        await until(was_cancelled)


async def test_a_legacy_server_is_greeted_and_its_banner_is_skipped() -> None:
    listener = Listener()
    async with opened(hostile("banner"), listener=listener) as connection:
        assert connection.greeting.era is Era.LEGACY
        assert connection.greeting.protocol_version == "2025-06-18"
        assert json_of(await asked(connection, "echo", a=1)) == {"a": 1}
        answer = await connection.ask(UpstreamRequest("test/methods", {}), SILENT, 5)
        assert isinstance(answer, dict)
        assert answer["methods"][:3] == ["server/discover", "initialize", "notifications/initialized"]
    assert listener.dropped["noise"] == 4


async def test_a_silent_legacy_server_costs_one_short_wait_and_is_remembered() -> None:
    memory = Memory("k", {})
    async with opened(hostile("silent"), memory=memory) as connection:
        assert connection.greeting.era is Era.LEGACY
    assert memory.says_legacy


async def test_a_server_that_dies_of_the_probe_says_so() -> None:
    memory = Memory("k", {})
    with pytest.raises(DiedOfProbe):
        async with opened(hostile("dies-of-probe"), memory=memory):
            raise AssertionError
    async with opened(hostile("dies-of-probe"), memory=memory) as connection:
        assert json_of(await asked(connection, "echo", a=1)) == {"a": 1}


async def test_a_server_that_exits_at_start_is_unreachable_at_once() -> None:
    memory = Memory("k", {"k": "legacy"})
    with pytest.raises(Unreachable, match="exited with status 5"):
        async with opened(hostile("exits"), memory=memory):
            raise AssertionError


@pytest.mark.parametrize(
    "command", [("no-such-program-anywhere", "s3cr3t-argument"), ("/", "s3cr3t-argument"), ("a\0b",)]
)
async def test_a_command_that_cannot_be_started_is_unreachable_and_not_quoted(command: tuple[str, ...]) -> None:
    with pytest.raises(Unreachable, match="could not be started") as refused:
        async with opened(ServerConfig("up", command=command)):
            raise AssertionError
    assert "s3cr3t" not in str(refused.value)
    assert "no-such-program" not in str(refused.value)


async def test_results_and_errors_come_back_untouched() -> None:
    async with opened(hostile()) as connection:
        raw = {"content": [], "x-unknown": {"a": None}, "structuredContent": None}
        assert await asked(connection, "odd_fields") == raw
        assert await asked(connection, "error") == RpcError(-32602, "no such thing", {"x": None})


@pytest.mark.parametrize(
    ("tool", "why"),
    [
        ("die", "exited with status 3"),
        ("close_stdout", "closed its output"),
        ("giant_line", "line longer"),
        ("flood_stdout", "floods its output"),
    ],
)
async def test_a_call_fails_at_once_when_its_server_breaks(tool: str, why: str) -> None:
    async with opened(hostile()) as connection:
        with anyio.fail_after(3), pytest.raises(Unreachable, match=why):
            await asked(connection, tool)
        assert connection.broken.is_set()
        with anyio.fail_after(1), pytest.raises(Unreachable):
            await asked(connection, "echo")


async def test_all_calls_in_flight_fail_within_a_second_of_its_death() -> None:
    errors: list[str] = []

    async def wait_in_vain() -> None:
        with pytest.raises(Unreachable) as error:
            await asked(connection, "never")
        errors.append(str(error.value))

    async with opened(hostile()) as connection, anyio.create_task_group() as tasks:
        pid = json_of(await asked(connection, "pids"))[0]
        for _ in range(50):
            tasks.start_soon(wait_in_vain)
        await asked(connection, "echo")
        os.kill(pid, signal.SIGKILL)
        with anyio.fail_after(1):
            await connection.broken.wait()
            await until(lambda: len(errors) == 50)
    assert set(errors) == {"upstream 'hostile' was ended by signal 9 before it answered"}


@pytest.mark.parametrize("tool", ["never", "stop", "progress_forever"])
async def test_a_call_without_an_answer_ends_at_its_timeout(tool: str) -> None:
    async with opened(hostile()) as connection:
        request = UpstreamRequest("tools/call", {"name": tool})
        with anyio.fail_after(3), pytest.raises(TimedOut):
            await connection.ask(request, RecordingReply(), 0.1)


@pytest.mark.parametrize("tool", ["bad_utf8", "twice_named", "result_is_list"])
async def test_an_answer_that_breaks_the_protocol_fails_its_call_only(tool: str) -> None:
    async with opened(hostile()) as connection:
        with anyio.fail_after(1), pytest.raises(Misbehaved):
            await asked(connection, tool)
        assert json_of(await asked(connection, "echo", a=1)) == {"a": 1}


async def test_wrong_ids_and_odd_progress_change_nothing() -> None:
    listener = Listener()
    async with opened(hostile(), listener=listener) as connection:
        assert text_of(await asked(connection, "wrong_ids")) == "right"
        reply = RecordingReply()
        assert text_of(await asked(connection, "odd_progress", reply)) == "done"
        assert [step["progress"] for step in reply.progressed] == [1, 2]
    assert listener.dropped["unknown id"] == 7


async def test_a_flood_on_stderr_stops_nothing() -> None:
    async with opened(hostile()) as connection:
        assert text_of(await asked(connection, "flood_stderr")) == "flooded"


async def test_a_server_that_stops_reading_fails_calls_instead_of_filling_memory() -> None:
    limits = replace(QUICK, max_unread_bytes=300_000)
    async with opened(hostile(), limits) as connection:
        await asked(connection, "deaf")
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                request = UpstreamRequest("tools/call", {"name": "echo", "arguments": {"a": "x" * 100_000}})
                tasks.start_soon(connection.ask, request, SILENT, 60)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(Unreachable, match="does not read its input"):
                for _ in range(5):
                    with anyio.move_on_after(0.01):
                        await asked(connection, "echo", a="x" * 200_000)
            tasks.cancel_scope.cancel()


async def test_a_server_gets_the_environment_it_was_given_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "must not be seen")
    config = hostile(env={"GIVEN": "1", "HOME": "/elsewhere"}, cwd=tmp_path)
    async with opened(config) as connection:
        env = json_of(await asked(connection, "env"))
        assert env["GIVEN"] == "1"
        assert env["HOME"] == "/elsewhere"
        assert set(env) <= {"GIVEN", "HOME", "PATH", "LANG", "LOGNAME", "SHELL", "TERM", "USER", "LC_CTYPE"}
        pid, group, folder = json_of(await asked(connection, "pids"))
        assert (pid, folder) == (group, str(tmp_path))
        assert json_of(await asked(connection, "fds"))[:3] == [0, 1, 2]
        assert len(json_of(await asked(connection, "fds"))) == 4  # and the folder being listed


async def test_questions_of_a_server_are_refused() -> None:
    async with opened(hostile("asks")) as connection:
        await asked(connection, "echo")
        answer = await connection.ask(UpstreamRequest("test/methods", {}), SILENT, 5)
        assert isinstance(answer, dict)
        assert json.loads(answer["methods"][-2])["code"] == -32601


async def test_the_most_verbose_level_is_asked_for_once_and_sifted_per_call() -> None:
    async with opened(hostile()) as connection:
        quiet, chatty = RecordingReply(log_level="error"), RecordingReply(log_level="debug")
        for reply in (quiet, chatty, quiet, chatty):
            await asked(connection, "logs", reply)
        answer = await connection.ask(UpstreamRequest("test/methods", {}), SILENT, 5)
        assert isinstance(answer, dict)
        assert [method for method in answer["methods"] if method in ("error", "debug")] == ["error", "debug"]
    assert [line["level"] for line in quiet.logged] == ["error", "error"]
    assert len(chatty.logged) == 4


async def test_a_server_that_does_not_answer_about_levels_still_answers_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "SET_LEVEL_TIMEOUT_S", 0.05)
    async with opened(hostile("no-levels")) as connection:
        assert json_of(await asked(connection, "echo", RecordingReply(log_level="info"), a=1)) == {"a": 1}


async def test_grandchildren_are_gone_when_the_connection_is_left() -> None:
    async with opened(hostile("stubborn")) as connection:
        grandchild = psutil.Process(int(text_of(await asked(connection, "fork"))))
        parent = psutil.Process(json_of(await asked(connection, "pids"))[0])
    assert not parent.is_running()
    await until(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


async def test_what_it_wrote_to_stderr_is_in_the_note_and_not_in_the_message() -> None:
    with pytest.raises(Unreachable) as error:
        async with opened(hostile(env={"SECRET_TOKEN": "hunter22"})) as connection:
            await asked(connection, "die")
    assert "dying with" in error.value.__notes__[0]
    assert "dying" not in str(error.value)


async def test_a_modern_server_tells_of_changed_lists() -> None:
    changed: list[str] = []
    async with opened(sdk(), SLOW_START, Listener(changed.append)) as connection, anyio.create_task_group() as tasks:
        tasks.start_soon(connection.listen, {"toolsListChanged": True})

        async def told() -> list[str]:
            await asked(connection, "grow", name=f"tool{anyio.current_time()}".replace(".", "_"))
            return changed

        await until(told)
        tasks.cancel_scope.cancel()
    assert changed[0] == "notifications/tools/list_changed"


async def test_a_server_without_subscriptions_says_so() -> None:
    async with opened(hostile()) as connection:
        with pytest.raises(LookupError):
            await connection.listen({"toolsListChanged": True})
