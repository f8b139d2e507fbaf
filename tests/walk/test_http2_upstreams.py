"""MCP servers and plain APIs that speak HTTP/2, behind a whole gateway: real servers, real frames, real TLS."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fakes import sdk_server
from fakes.h2_server import certificate, client_tls
from fakes.in_process import running_in
from fakes.plain_api import PlainApi
from fakes.ports import free_port
from fakes.replies import RecordingReply
from fakes.served_h2 import Seen, is_taken, serving_h2
from fakes.waiting import until
from mcp_gateway.domain import Caller, Kind, Outcome, OutcomeStatus, Request, UpstreamState, Verb
from mcp_gateway.errors import Unreachable
from mcp_gateway.upstreams import over_tls
from mcp_gateway.wiring import new_request_id

POLICY = """
[agents.bot]
tasks = ["work"]
default_task = "work"

[tasks.work]
allow = ["up/*"]
"""


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: Any) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(over_tls, "shared_tls", client_tls)


async def called(parts: Any, tool: str, reply: RecordingReply | None = None, /, **arguments: Any) -> Outcome:
    name = f"up__{tool}"
    params = {"name": name, "arguments": arguments}
    request = Request(new_request_id(), Verb.CALL, "tools/call", Kind.TOOL, name, params)
    outcome: Outcome = await parts.gateway.ask(Caller("bot", "work"), request, reply or RecordingReply())
    return outcome


def text_of(outcome: Outcome) -> str:
    assert outcome.status is OutcomeStatus.OK
    return str((outcome.result or {})["content"][0]["text"])


@asynccontextmanager
async def behind_a_gateway(folder: Path, url: str, more: str = "") -> AsyncIterator[Any]:
    files = {"servers.toml": f'[servers.up]\nurl = "{url}"\n{more}', "policies/p.toml": POLICY}
    async with running_in(folder, files) as parts:
        yield parts


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("is_json", [True, False], ids=["json", "events"])
async def test_tools_of_a_real_server_are_called_over_http_2(tmp_path: Path, era: str, is_json: bool) -> None:
    app = sdk_server.fresh_app(json_response=is_json)
    seen = Seen(app if era == "modern" else sdk_server.LegacyOnly(app))
    async with serving_h2(seen) as origin, behind_a_gateway(tmp_path, f"{origin}/mcp") as parts:
        assert text_of(await called(parts, "echo", text="hello")) == "hello"
        reply = RecordingReply()
        assert text_of(await called(parts, "count", reply, to=3)) == "3"
        if not is_json:
            assert [step["progress"] for step in reply.progressed] == [1, 2, 3]
            assert "text/event-stream" in seen.types
        assert set(seen.versions) == {"2"}


async def test_a_server_that_is_not_to_be_spoken_to_in_http_2_is_not(tmp_path: Path) -> None:
    seen = Seen(sdk_server.fresh_app())
    async with serving_h2(seen) as origin, behind_a_gateway(tmp_path, f"{origin}/mcp", "http2 = false\n") as parts:
        assert text_of(await called(parts, "echo", text="hello")) == "hello"
        assert set(seen.versions) == {"1.1"}


async def test_fifty_calls_at_once_share_one_connection(tmp_path: Path) -> None:
    seen = Seen(sdk_server.fresh_app())
    async with serving_h2(seen) as origin, behind_a_gateway(tmp_path, f"{origin}/mcp") as parts:
        outcomes = await asyncio.gather(*[called(parts, "echo", text=f"to {number}") for number in range(50)])
        assert [text_of(outcome) for outcome in outcomes] == [f"to {number}" for number in range(50)]
        assert len(seen.connections) == 1


async def test_an_agent_that_goes_away_cancels_its_call_and_no_other(tmp_path: Path) -> None:
    seen = Seen(sdk_server.fresh_app())
    async with serving_h2(seen) as origin, behind_a_gateway(tmp_path, f"{origin}/mcp") as parts:
        before, begun = len(sdk_server.cancelled), len(sdk_server.begun)
        other = asyncio.ensure_future(called(parts, "wait", seconds=0.5))
        leaving = asyncio.ensure_future(called(parts, "wait", seconds=60))
        await until(lambda: len(sdk_server.begun) == begun + 2)
        leaving.cancel()
        await until(lambda: len(sdk_server.cancelled) == before + 1)
        assert text_of(await other) == "waited"
        assert len(seen.connections) == 1


async def test_a_server_of_the_older_transport_is_called_over_http_2(tmp_path: Path) -> None:
    seen = Seen(sdk_server.server.sse_app())
    transport = 'transport = "sse"\n'
    async with serving_h2(seen) as origin, behind_a_gateway(tmp_path, f"{origin}/sse", transport) as parts:
        assert text_of(await called(parts, "echo", text="hello")) == "hello"
        assert (set(seen.versions), len(seen.connections)) == ({"2"}, 1)


async def test_a_server_that_has_http_1_only_is_called_as_before(tmp_path: Path) -> None:
    seen = Seen(sdk_server.fresh_app())
    async with serving_h2(seen, ["http/1.1"]) as origin, behind_a_gateway(tmp_path, f"{origin}/mcp") as parts:
        assert text_of(await called(parts, "echo", text="hello")) == "hello"
        assert set(seen.versions) == {"1.1"}


async def test_a_plain_api_is_asked_over_http_2(tmp_path: Path) -> None:
    api = PlainApi()
    seen = Seen(api)
    async with serving_h2(seen) as origin:
        servers = f'[servers.up]\nrest = "{origin}"\n[servers.up.tool.order]\npath = "/v1/orders/17"\n'
        async with running_in(tmp_path, {"servers.toml": servers, "policies/p.toml": POLICY}) as parts:
            assert (await called(parts, "order")).status is OutcomeStatus.OK
            assert seen.versions == ["2"]


@asynccontextmanager
async def a_process(port: int, path: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    """The server in a process of its own, to be killed."""
    words = ["--bind", f"127.0.0.1:{port}", "--certfile", path, "--keyfile", path, "--log-level", "critical"]
    words += ["--workers", "0"]  # it serves by itself: a worker would outlive it
    program = [sys.executable, "-W", "ignore", "-m", "hypercorn", *words, "fakes.sdk_server:fresh_app()"]
    with subprocess.Popen(program, cwd=Path(sdk_server.__file__).parent.parent) as process:
        try:
            await until(lambda: is_taken(port), 20)
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.mark.slow
async def test_a_server_that_is_killed_and_comes_back_is_called_again(tmp_path: Path) -> None:
    port = free_port()
    with certificate() as path:
        async with a_process(port, path), behind_a_gateway(tmp_path, f"https://127.0.0.1:{port}/mcp") as parts:
            first = text_of(await called(parts, "pid"))
            waiting = [asyncio.ensure_future(called(parts, "wait", seconds=60)) for _ in range(5)]
            assert text_of(await called(parts, "pid")) == first
            async with killed_and_back(int(first), port, path):
                ends = await asyncio.gather(*waiting, return_exceptions=True)
                assert all(isinstance(end, Unreachable) for end in ends)
                await until(lambda: parts.pool.statuses()[0].state is UpstreamState.READY, 20)

                async def answers() -> str:
                    try:
                        return text_of(await called(parts, "pid"))
                    except Unreachable:
                        return ""

                assert await until(answers, 20) != first


@asynccontextmanager
async def killed_and_back(pid: int, port: int, path: str) -> AsyncIterator[None]:
    os.kill(pid, signal.SIGKILL)

    async def is_gone() -> bool:
        return not await is_taken(port)

    await until(is_gone)
    async with a_process(port, path):
        yield
