"""Many upstreams side by side: none delays another, and only what changed is touched."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import psutil
import pytest

from fakes.node import npm_command, requires_node
from fakes.replies import RecordingReply
from fakes.servers import QUICK, call, hostile, json_of, over_http, sdk, text_of
from fakes.waiting import until
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import OutcomeStatus, UpstreamRequest, UpstreamState
from mcp_gateway.errors import Unreachable
from mcp_gateway.upstreams import child as child_module
from mcp_gateway.upstreams import managed
from mcp_gateway.upstreams.pool import Pool

READY, DOWN = UpstreamState.READY, UpstreamState.DOWN


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "GRACE_S", 0.3)


async def pids(pool: Pool, names: Sequence[str]) -> list[int]:
    return [json_of(await call(pool.upstreams[name], "pids"))[0] for name in names]


async def test_one_that_is_dead_slow_or_hanging_delays_neither_start_nor_others() -> None:
    servers = [
        hostile("silent", "no-ping", name="slow"),
        ServerConfig("missing", command=("no-such-program",)),
        hostile("exits", name="dead"),
        ServerConfig("hangs", command=("sleep", "3600")),
        over_http("http://127.0.0.1:1/mcp", name="unreachable"),
        hostile(name="good"),
    ]
    async with Pool(limits=QUICK) as pool:
        with anyio.fail_after(0.5):
            await pool.apply(servers)
        assert list(pool.upstreams) == [server.name for server in servers]
        with anyio.fail_after(3):
            assert json_of(await call(pool.upstreams["good"], "echo", a=1)) == {"a": 1}
        assert not await pool.settled(0.01)
        await until(
            lambda: [s.state for s in pool.statuses()] == [READY, DOWN, DOWN, UpstreamState.STARTING, DOWN, READY]
        )
        assert set(pool.listings) == {"slow", "good"}


async def test_settled_means_each_has_been_ready_or_down_once() -> None:
    servers = [hostile(name="a"), hostile("exits", name="b"), hostile(name="c", enabled=False)]
    async with Pool(limits=QUICK) as pool:
        await pool.apply(servers)
        assert await pool.settled(10)
        assert [status.state for status in pool.statuses()] == [READY, DOWN, UpstreamState.DISABLED]


async def test_leaving_ends_every_process_even_stubborn_ones() -> None:
    with anyio.fail_after(10):
        async with Pool(limits=QUICK) as pool:
            await pool.apply([hostile("stubborn", name=name) for name in "abc"])
            processes = [psutil.Process(pid) for pid in await pids(pool, "abc")]
    assert not any(process.is_running() for process in processes)
    assert [status.state for status in pool.statuses()] == [UpstreamState.CLOSED] * 3


async def test_an_error_of_the_block_comes_out_as_itself() -> None:
    with pytest.raises(ZeroDivisionError):
        async with Pool(limits=QUICK) as pool:
            await pool.apply([hostile()])
            raise ZeroDivisionError


async def test_applying_touches_only_what_changed(tmp_path: Path) -> None:
    changes: list[str] = []
    same, changed, gone = hostile(name="same"), hostile(name="changed"), hostile(name="gone")
    async with Pool(changes.append, limits=QUICK) as pool:
        await pool.apply([same, changed, gone])
        before = await pids(pool, ["same", "changed", "gone"])
        processes = [psutil.Process(pid) for pid in before]
        kept = pool.upstreams["same"]
        listing = pool.listings["changed"]
        changes.clear()
        same_way = replace(same, prefix="p", exclude=("x",), timeout_s=0.2, at="servers.toml:9")
        await pool.apply([hostile(name="new"), same_way, replace(changed, env={"A": "b"})])
        assert list(pool.upstreams) == ["new", "same", "changed"]
        assert pool.upstreams["same"] is kept
        assert pool.listings["changed"] == listing, "its tools stay listed while it restarts"
        assert "gone" in changes
        assert json_of(await call(pool.upstreams["changed"], "env"))["A"] == "b"
        assert await pids(pool, ["same"]) == before[:1]
        await until(lambda: [process.is_running() for process in processes] == [True, False, False])
        with pytest.raises(Exception, match=r"within 0\.2 s"):
            await call(pool.upstreams["same"], "never")


async def test_another_server_under_the_same_name_starts_without_the_old_ones_tools() -> None:
    async with Pool(limits=QUICK) as pool:
        await pool.apply([hostile(name="a")])
        assert await pool.settled(10)
        await pool.apply([hostile("bad-tools", name="a")])
        assert "a" not in pool.listings
        await until(lambda: "a" in pool.listings)
        await pool.apply([hostile("bad-tools", name="a", enabled=False)])
        assert "a" not in pool.listings


async def test_a_replaced_server_starts_only_when_the_old_one_is_gone() -> None:
    async with Pool(limits=QUICK) as pool:
        await pool.apply([hostile("stubborn", name="a")])
        [old] = [psutil.Process(pid) for pid in await pids(pool, "a")]
        await pool.apply([hostile("stubborn", name="a", env={"A": "b"})])
        await pids(pool, "a")
        assert not old.is_running()


async def test_edits_in_quick_succession_still_start_one_after_the_other() -> None:
    async with Pool(limits=QUICK) as pool:
        await pool.apply([hostile("stubborn", name="a")])
        [old] = [psutil.Process(pid) for pid in await pids(pool, "a")]
        for value in "bcd":
            await pool.apply([hostile("stubborn", name="a", env={"A": value})])
        assert json_of(await call(pool.upstreams["a"], "env"))["A"] == "d"
        assert not old.is_running()


async def test_one_that_is_down_keeps_its_tools_listed_and_its_calls_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managed, "FIRST_WAIT_S", 30)
    async with Pool(limits=QUICK) as pool:
        await pool.apply([hostile(name="a")])
        with pytest.raises(Unreachable):
            await call(pool.upstreams["a"], "die")
        await until(lambda: pool.statuses()[0].state is DOWN)
        assert [tool["name"] for tool in pool.listings["a"].tools] == ["echo"]
        with pytest.raises(Unreachable, match=r"upstream 'a' is down: exited with status 3; next try in \d+ s"):
            await call(pool.upstreams["a"], "echo")


async def test_what_was_found_out_is_kept_for_the_next_start() -> None:
    remembered: dict[str, str] = {}
    async with Pool(limits=QUICK, remembered=remembered) as pool:
        await pool.apply([hostile("silent", name="a"), hostile(name="b")])
        assert await pool.settled(10)
    assert len(remembered) == 1
    async with Pool(limits=replace(QUICK, probe_timeout_s=60), remembered=remembered) as pool:
        await pool.apply([hostile("silent", name="a")])
        with anyio.fail_after(5):
            assert await pool.settled(5)


async def test_equal_ids_and_tokens_of_many_callers_never_meet() -> None:
    async def one(pool: Pool, mark: int) -> None:
        reply = RecordingReply()
        outcome = await call(pool.upstreams["ab"[mark % 2]], "echo", reply, mark=mark)
        assert json_of(outcome) == {"mark": mark}

    async with Pool(limits=QUICK) as pool:
        await pool.apply([hostile(name="a"), hostile(name="b")])
        assert await pool.settled(10)
        async with anyio.create_task_group() as tasks:
            for mark in range(1000):
                tasks.start_soon(one, pool, mark)


async def test_real_servers_side_by_side() -> None:
    servers = [
        ServerConfig("time", command=("mcp-server-time",)),
        ServerConfig("git", command=("mcp-server-git",)),
        sdk(),
    ]
    async with Pool() as pool:
        await pool.apply(servers)
        assert await pool.settled(30)
        assert [status.state for status in pool.statuses()] == [READY] * 3, pool.statuses()
        assert {tool["name"] for tool in pool.listings["time"].tools} == {"get_current_time", "convert_time"}
        assert "git_status" in {tool["name"] for tool in pool.listings["git"].tools}
        outcome = await call(pool.upstreams["time"], "get_current_time", timezone="UTC")
        assert json.loads(text_of(outcome))["timezone"] == "UTC"
        listing = pool.listings["sdk"]
        assert [p["name"] for p in listing.prompts] == ["greeting"]
        assert [r["uri"] for r in listing.resources] == ["note://one"]
        assert [t["uriTemplate"] for t in listing.templates] == ["note://by/{author}"]
        read = await pool.upstreams["sdk"].send(
            UpstreamRequest("resources/read", {"uri": "note://by/me"}), RecordingReply()
        )
        assert read.result is not None
        assert read.result["contents"][0]["text"] == "by me"


@requires_node
@pytest.mark.slow
async def test_the_reference_server_over_every_transport(free_port: int) -> None:
    def everything(*arguments: str, **more: object) -> ServerConfig:
        return ServerConfig(
            "x", command=tuple(npm_command("@modelcontextprotocol/server-everything", *arguments)), **more
        )  # type: ignore[arg-type]

    web = everything("streamableHttp", env={"PORT": str(free_port)})
    stdio = replace(everything("stdio"), name="stdio")
    async with await anyio.open_process(list(web.command or ()), env={**os.environ, "PORT": str(free_port)}) as process:
        async with Pool() as pool:
            await pool.apply([stdio, over_http(f"http://127.0.0.1:{free_port}/mcp")])
            await until(lambda: [status.state for status in pool.statuses()] == [READY, READY], within_s=30)
            for name in ("stdio", "web"):
                reply = RecordingReply(log_level="debug")
                assert text_of(await call(pool.upstreams[name], "echo", message="hi")) == "Echo: hi"
                slow = "trigger-long-running-operation"
                assert (await call(pool.upstreams[name], slow, reply, duration=0.3, steps=3)).status is OutcomeStatus.OK
                assert [step["progress"] for step in reply.progressed] == [1, 2, 3]
            assert pool.listings["stdio"].prompts
            assert pool.listings["stdio"].templates
        process.kill()
