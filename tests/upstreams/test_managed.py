"""An upstream comes back by itself, and while it is away its callers know at once."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from fakes.raw_http import Asked, RawHttp, answering, discovers, http, json_answer, result_for, scripted
from fakes.replies import RecordingReply
from fakes.servers import QUICK, call, call_of, hostile, json_of, over_http, text_of
from fakes.waiting import until
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Era, Outcome, OutcomeStatus, RpcError, UpstreamState
from mcp_gateway.errors import Misbehaved, TimedOut, Unreachable
from mcp_gateway.upstreams import child as child_module
from mcp_gateway.upstreams import listening, managed
from mcp_gateway.upstreams.managed import ManagedUpstream, Surroundings, outcome_of


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "GRACE_S", 0.3)
    for name, value in {
        "FIRST_WAIT_S": 0.05,
        "RELIST_AFTER_S": 0.01,
        "RELIST_GAP_S": 0.01,
        "STARTING_WAIT_S": 3,
    }.items():
        monkeypatch.setattr(managed, name, value)


@asynccontextmanager
async def kept_alive(config: ServerConfig, **around: Any) -> AsyncIterator[ManagedUpstream]:
    upstream = ManagedUpstream(config, Surroundings(limits=QUICK, **around))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upstream.run)
        try:
            yield upstream
        finally:
            tasks.cancel_scope.cancel()
    assert upstream.status.state is UpstreamState.CLOSED


def has_state(upstream: ManagedUpstream, state: UpstreamState) -> Any:
    return lambda: upstream.status.state is state


async def test_a_call_waits_for_a_starting_upstream_and_is_answered() -> None:
    async with kept_alive(hostile("silent")) as upstream:
        assert upstream.status.state is UpstreamState.STARTING
        outcome = await call(upstream, "echo", a=1)
        assert outcome.status is OutcomeStatus.OK
        assert json_of(outcome) == {"a": 1}
        assert outcome.upstream_ms > 0
        status = upstream.status
        assert (status.state, status.era, status.protocol_version, status.transport) == (
            UpstreamState.READY,
            Era.LEGACY,
            "2025-06-18",
            "stdio",
        )
        assert upstream.listing is not None
        assert upstream.listing.instructions == "beware"


async def test_each_kind_of_answer_is_its_kind_of_outcome() -> None:
    async with kept_alive(hostile()) as upstream:
        assert (await call(upstream, "tool_error")).status is OutcomeStatus.TOOL_ERROR
        failed = await call(upstream, "error")
        assert failed.status is OutcomeStatus.RPC_ERROR
        assert failed.error == RpcError(-32602, "no such thing", {"x": None})
        assert failed.result is None
        raw = (await call(upstream, "odd_fields")).result
        assert raw == {"content": [], "x-unknown": {"a": None}, "structuredContent": None}
        with pytest.raises(Misbehaved):
            await call(upstream, "result_is_list")


def test_only_a_tool_call_can_be_a_tool_error() -> None:
    assert outcome_of("prompts/get", {"isError": True}, 1) == Outcome(OutcomeStatus.OK, {"isError": True}, None, 1)
    assert outcome_of("tools/call", {"isError": "true"}, 1).status is OutcomeStatus.OK
    asks = {"resultType": "input_required", "inputRequests": {}}
    assert outcome_of("tools/call", asks, 1) == Outcome(OutcomeStatus.INPUT_REQUIRED, asks, None, 1)


async def test_a_killed_upstream_fails_its_calls_at_once_and_comes_back() -> None:
    changes: list[str] = []
    async with kept_alive(hostile(), on_change=changes.append) as upstream:
        pid = json_of(await call(upstream, "pids"))[0]
        async with anyio.create_task_group() as tasks:

            async def in_flight() -> None:
                with pytest.raises(Unreachable, match="ended by signal 9"):
                    await call(upstream, "never")

            for _ in range(10):
                tasks.start_soon(in_flight)
            await call(upstream, "echo")
            with anyio.fail_after(1):
                os.kill(pid, signal.SIGKILL)
                await until(has_state(upstream, UpstreamState.DOWN))
        assert upstream.status.detail == "was ended by signal 9"
        await until(has_state(upstream, UpstreamState.READY))
        assert json_of(await call(upstream, "pids"))[0] != pid
        assert upstream.status.restarts == 1
    assert set(changes) == {"hostile"}


async def test_while_it_is_down_calls_fail_at_once_and_say_why_and_when(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed, "FIRST_WAIT_S", 30)
    config = hostile("exits", env={"SECRET_TOKEN": "hunter22"})
    async with kept_alive(config) as upstream:
        await upstream.settled.wait()
        with anyio.fail_after(0.5), pytest.raises(Unreachable) as error:
            await call(upstream, "echo")
        assert str(error.value).startswith(
            "upstream 'hostile' is down: exited with status 5 before it answered; next try in "
        )
        retry_in_s = upstream.status.retry_in_s
        assert retry_in_s is not None
        assert 20 < retry_in_s <= 30


async def test_its_last_words_are_for_operators_and_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed, "FIRST_WAIT_S", 30)
    async with kept_alive(hostile(env={"SECRET_TOKEN": "hunter22"})) as upstream:
        with pytest.raises(Unreachable) as error:
            await call(upstream, "die")
        await until(has_state(upstream, UpstreamState.DOWN))
        assert upstream.status.detail == "exited with status 3; it said last: dying with ***"
        with pytest.raises(Unreachable) as later:
            await call(upstream, "echo")
        assert "dying" not in str(error.value) + str(later.value)
        assert "hunter22" not in repr(upstream.status) + repr(upstream.config)


async def test_waits_grow_while_it_stays_down() -> None:
    waits: list[float] = []

    def note(name: str) -> None:
        if upstream.status.retry_in_s:
            waits.append(upstream.status.retry_in_s)

    upstream = ManagedUpstream(hostile("exits"), Surroundings(note, QUICK))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(upstream.run)
        await until(lambda: len(waits) >= 4)
        tasks.cancel_scope.cancel()
    assert waits == sorted(waits)
    assert waits[3] > waits[0] * 4


async def test_a_server_that_dies_of_the_probe_is_ready_without_having_been_down() -> None:
    states: list[UpstreamState] = []
    async with kept_alive(
        hostile("dies-of-probe"), on_change=lambda name: states.append(upstream.status.state)
    ) as upstream:
        await upstream.settled.wait()
        assert upstream.status.state is UpstreamState.READY
    assert UpstreamState.DOWN not in states


@pytest.mark.parametrize("tool", ["never", "progress_forever"])
async def test_the_timeout_is_hard_and_an_upstream_that_still_answers_stays(tool: str) -> None:
    async with kept_alive(hostile(timeout_s=0.2)) as upstream:
        pid = json_of(await upstream.send(replace(call_of("pids"), timeout_s=5), RecordingReply()))[0]
        with anyio.fail_after(2), pytest.raises(TimedOut):
            await call(upstream, tool)
        if tool == "never":
            assert json_of(await call(upstream, "pids"))[0] == pid


async def test_a_hanging_upstream_is_found_out_and_replaced() -> None:
    async with kept_alive(hostile()) as upstream:
        pid = json_of(await call(upstream, "pids"))[0]
        with pytest.raises(TimedOut):
            await upstream.send(replace(call_of("stop"), timeout_s=0.1), RecordingReply())
        await until(has_state(upstream, UpstreamState.DOWN))
        await until(has_state(upstream, UpstreamState.READY))
        assert json_of(await call(upstream, "pids"))[0] != pid


async def test_changed_lists_are_fetched_again() -> None:
    changes: list[str] = []
    async with kept_alive(hostile(), on_change=changes.append) as upstream:
        await call(upstream, "echo")
        with anyio.move_on_after(0.1):
            await call(upstream, "never")  # the fake lists what was cancelled
        before = len(changes)
        await call(upstream, "changed")
        await until(lambda: upstream.listing and len(upstream.listing.tools) == 2)
        assert len(changes) == before + 1
        await call(upstream, "changed")
        await call(upstream, "echo")
        assert len(changes) == before + 1, "a list that is the same is no change"


@pytest.mark.parametrize(("habit", "tools"), [("cursor-loop", 2), ("endless-pages", QUICK.max_pages), ("bad-tools", 2)])
async def test_odd_lists_cost_their_odd_part_only(habit: str, tools: int) -> None:
    async with kept_alive(hostile(habit)) as upstream:
        await until(has_state(upstream, UpstreamState.READY))
        assert upstream.listing is not None
        assert len(upstream.listing.tools) == tools
        assert upstream.listing.problems
        assert upstream.status.detail


async def test_a_disabled_upstream_stays_so_and_says_so() -> None:
    upstream = ManagedUpstream(hostile(enabled=False), Surroundings())
    await upstream.run()
    assert upstream.status.state is UpstreamState.DISABLED
    with pytest.raises(Unreachable, match="is disabled"):
        await call(upstream, "echo")


async def test_a_call_does_not_wait_longer_for_a_start_than_its_timeout() -> None:
    async with kept_alive(hostile("silent", timeout_s=0.05)) as upstream:
        with anyio.fail_after(1), pytest.raises(Unreachable, match="still starting"):
            await call(upstream, "echo")


async def test_retiring_lets_calls_finish_and_takes_no_more() -> None:
    async with kept_alive(hostile()) as upstream:
        await until(has_state(upstream, UpstreamState.READY))
        texts: list[str] = []

        async def flood() -> None:
            texts.append(text_of(await call(upstream, "flood_stderr")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(upstream.retire)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(Unreachable, match="is closed"):
                await call(upstream, "echo")
        assert texts == ["flooded"]
        await upstream.finished.wait()


async def test_retiring_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed, "DRAIN_S", 0.1)
    async with kept_alive(hostile()) as upstream, anyio.create_task_group() as tasks:
        await until(has_state(upstream, UpstreamState.READY))

        async def stuck() -> None:
            with pytest.raises(Unreachable, match="was stopped"):
                await call(upstream, "never")

        tasks.start_soon(stuck)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(2):
            await upstream.retire()
            await upstream.finished.wait()


def tools_of(*tools: dict[str, Any]) -> Any:
    return lambda asked: result_for(asked, {"tools": list(tools)}) if asked.rpc_method == "tools/list" else None


class Switched:
    """A modern server that can be switched off."""

    def __init__(self) -> None:
        self.is_on = True

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        if self.is_on:
            answers = [discovers({"tools": {}}), tools_of(), lambda asked: result_for(asked, {"ok": True})]
            await scripted(answers)(asked, writer)
        elif asked.rpc_method == "tools/call":
            writer.write(http(503))


async def calls_failing(upstream: ManagedUpstream, served: RawHttp, count: int) -> None:
    for _ in range(count):
        with pytest.raises(Unreachable):
            await call(upstream, "t")


async def test_a_breaker_opens_after_failures_in_a_row_and_closes_when_it_answers_again() -> None:
    switch = Switched()
    async with answering(switch) as served, kept_alive(over_http(served.url)) as upstream:
        assert (await call(upstream, "t")).result == {"ok": True}
        switch.is_on = False
        await calls_failing(upstream, served, managed.FAILURES_BEFORE_CHECK)
        await until(has_state(upstream, UpstreamState.DOWN))
        asked_before = len(served.asked_for("tools/call"))
        with pytest.raises(Unreachable, match=r"is down|is still starting"):
            await upstream.send(replace(call_of("t"), timeout_s=0.01), RecordingReply())
        assert len(served.asked_for("tools/call")) == asked_before
        switch.is_on = True
        await until(has_state(upstream, UpstreamState.READY))
        assert (await call(upstream, "t")).result == {"ok": True}


async def test_failures_of_one_tool_leave_an_upstream_that_answers_its_check_alone() -> None:
    answers = [discovers({"tools": {}}), tools_of(), lambda asked: http(500)]
    async with answering(scripted(answers)) as served, kept_alive(over_http(served.url)) as upstream:
        await calls_failing(upstream, served, managed.FAILURES_BEFORE_CHECK)
        await until(lambda: len(served.asked_for("server/discover")) == 2)
        await calls_failing(upstream, served, 1)
        assert upstream.status.state is UpstreamState.READY


@pytest.mark.parametrize("status", [401, 403, 404, 429])
async def test_refusals_of_single_requests_raise_no_suspicion(status: int) -> None:
    answers = [discovers({"tools": {}}), tools_of(), lambda asked: http(status)]
    async with answering(scripted(answers)) as served, kept_alive(over_http(served.url)) as upstream:
        await calls_failing(upstream, served, managed.FAILURES_BEFORE_CHECK + 2)
        assert len(served.asked_for("server/discover")) == 1


async def test_a_call_refused_for_its_headers_is_sent_again_with_those_of_the_tools_new_schema() -> None:
    schema = {"type": "object", "properties": {"r": {"type": "string", "x-mcp-header": "R"}}}

    def strict(asked: Asked) -> bytes:
        if "mcp-param-r" in asked.headers:
            return result_for(asked, {"ok": True})
        error = {"code": -32020, "message": "header missing"}
        return json_answer({"jsonrpc": "2.0", "id": asked.message["id"], "error": error}, 400)

    answers = [discovers({"tools": {}}), tools_of({"name": "t", "inputSchema": schema}), strict]
    async with answering(scripted(answers)) as served, kept_alive(over_http(served.url)) as upstream:
        old = {"name": "t", "inputSchema": {"type": "object"}}
        outcome = await upstream.send(replace(call_of("t", r="x"), definition=old), RecordingReply())
        assert outcome.result == {"ok": True}
        unknown = await upstream.send(call_of("other", r="x"), RecordingReply())
        assert unknown.error == RpcError(-32020, "header missing")
    assert len(served.asked_for("tools/call")) == 3


async def test_news_of_a_modern_server_comes_by_its_subscription(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "LISTEN_FIRST_WAIT_S", 0.01)
    listed: list[int] = []

    def list_more(asked: Asked) -> bytes | None:
        if asked.rpc_method != "tools/list":
            return None
        listed.append(1)
        return result_for(
            asked, {"tools": [{"name": f"t{i}", "inputSchema": {"type": "object"}} for i in range(len(listed))]}
        )

    answers = [discovers({"tools": {"listChanged": True}}), list_more, lambda asked: result_for(asked, {})]
    async with answering(scripted(answers)) as served, kept_alive(over_http(served.url)) as upstream:
        await until(lambda: upstream.listing and len(upstream.listing.tools) >= 2)
        listens = served.asked_for("subscriptions/listen")
        assert listens[0].message["params"]["notifications"] == {"toolsListChanged": True}
