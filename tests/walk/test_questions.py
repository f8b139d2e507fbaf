"""What upstreams ask the agent's side: every kind of question, both eras and transports on both sides, end to end."""

import functools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from fakes.front import META, modern_request
from fakes.gateway_process import GatewayProcess, run_command, serving
from fakes.waiting import until
from mcp_gateway.frontdoor.http_server import DRAIN_S

pytestmark = pytest.mark.slow  # its gateway has many parts to start

SERVER = Path(__file__).parents[1] / "fakes" / "asking_server.py"

POLICY = """
[agents.asked]
tasks = ["all"]
default_task = "all"

[agents.other]
tasks = ["all"]
default_task = "all"

[tasks.all]
allow = ["modern_http/*", "legacy_http/*", "modern_stdio/*", "legacy_stdio/*", "prompt:modern_http/*",
         "prompt:legacy_http/*", "prompt:modern_stdio/*", "prompt:legacy_stdio/*"]
"""

ERAS = ["legacy", "2026-07-28"]
UPSTREAMS = ["modern_http", "legacy_http", "modern_stdio", "legacy_stdio"]

ANSWERS = {
    "form": "accept: Ada",
    "link": "page: accept",
    "sample": "model: Paris",
    "roots": "roots: ['file:///work']",
    "three_at_once": "Ada, Paris",
    "twice": "Ada, Ada",
}
"""What each tool says once it has got what it asked for."""


@contextmanager
def http_server(era: str) -> Iterator[str]:
    command = [sys.executable, "-W", "ignore", str(SERVER), "--era", era]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
        finally:
            process.kill()


def over_stdio(era: str) -> str:
    return f"command = {json.dumps([sys.executable, '-W', 'ignore', str(SERVER), '--stdio', '--era', era])}"


@contextmanager
def gateway_over_all(folder: Path) -> Iterator[GatewayProcess]:
    with ExitStack() as stack:
        urls = {era: stack.enter_context(http_server(era)) for era in ("modern", "legacy")}
        servers = "\n".join(
            f'[servers.{era}_http]\nurl = "{urls[era]}"\n[servers.{era}_stdio]\n{over_stdio(era)}'
            for era in ("modern", "legacy")
        )
        files = {"servers.toml": servers, "policies/agents.toml": POLICY}
        yield stack.enter_context(serving(folder, files))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_over_all(tmp_path_factory.mktemp("questions")) as running:
        yield running


class Side:
    """The agent's side: a person, a model and some roots, that remember what they were asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def elicit(self, context: Any, params: Any) -> types.ElicitResult:
        self.asked.append(params)
        if params.mode == "url":
            return types.ElicitResult(action="accept")
        return types.ElicitResult(action="accept", content=dict.fromkeys(params.requested_schema["properties"], "Ada"))

    async def sample(self, context: Any, params: Any) -> types.CreateMessageResult:
        self.asked.append(params)
        content = types.TextContent(text="Paris")
        return types.CreateMessageResult(role="assistant", model="m", content=content)

    async def roots(self, context: Any) -> types.ListRootsResult:
        self.asked.append("roots")
        return types.ListRootsResult(roots=[types.Root(uri="file:///work")])

    @property
    def callbacks(self) -> dict[str, Any]:
        return {
            "elicitation_callback": self.elicit,
            "sampling_callback": self.sample,
            "list_roots_callback": self.roots,
        }


@asynccontextmanager
async def over_http(gateway: GatewayProcess, era: str, **callbacks: Any) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers=headers_of(gateway), timeout=30) as http,
        Client(streamable_http_client(gateway.url, http_client=http), mode=era, **callbacks) as client,
    ):
        yield client


@functools.lru_cache(maxsize=8)
def key_of(folder: Path, agent: str = "asked") -> str:
    made = run_command(folder, "key", "create", agent, "--json")
    return str(json.loads(made.stdout)["key"])


def headers_of(gateway: GatewayProcess, agent: str = "asked") -> dict[str, str]:
    return {"Authorization": f"Bearer {key_of(gateway.folder, agent)}"}


@asynccontextmanager
async def over_its_own_stdio(gateway: GatewayProcess, era: str, **callbacks: Any) -> AsyncIterator[Client]:
    words = ["-m", "mcp_gateway", "stdio", "--agent", "asked", "--config", str(gateway.config)]
    server = StdioServerParameters(command=sys.executable, args=words, cwd=gateway.folder, env=dict(os.environ))
    async with Client(server, mode=era, **callbacks) as client:
        yield client


async def text_of(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return str(result.content[0].text)  # type: ignore[union-attr]


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("era", ERAS)
async def test_every_question_is_asked_and_its_answer_arrives(gateway: GatewayProcess, era: str, upstream: str) -> None:
    side = Side()
    async with over_http(gateway, era, **side.callbacks) as client:
        said = {tool: await text_of(client, f"{upstream}__{tool}") for tool in ANSWERS}
    assert said == ANSWERS
    assert len(side.asked) == 1 + 1 + 1 + 1 + 3 + 2


@pytest.mark.slow
@pytest.mark.parametrize("era", ERAS)
async def test_every_question_is_asked_over_the_standard_streams(gateway: GatewayProcess, era: str) -> None:
    async with over_its_own_stdio(gateway, era, **Side().callbacks) as client:
        for upstream in UPSTREAMS:
            said = {tool: await text_of(client, f"{upstream}__{tool}") for tool in ANSWERS}
            assert said == ANSWERS, upstream


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("era", ERAS)
async def test_a_prompt_may_ask_too(gateway: GatewayProcess, era: str, upstream: str) -> None:
    async with over_http(gateway, era, **Side().callbacks) as client:
        prompt = await client.get_prompt(f"{upstream}__test_input_required_result_prompt")
    assert prompt.messages[0].content.text == "Use this context: Ada"  # type: ignore[union-attr]


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("era", ERAS)
async def test_an_agent_is_never_asked_what_it_did_not_say_it_can_answer(
    gateway: GatewayProcess, era: str, upstream: str
) -> None:
    side = Side()
    async with over_http(gateway, era, list_roots_callback=side.roots) as client:
        for tool in ("form", "link", "sample"):
            try:
                result = await client.call_tool(f"{upstream}__{tool}", {})
            except MCPError as e:
                assert "cannot" in e.error.message or "supported" in e.error.message
            else:
                assert result.is_error
                assert "cannot" in str(result.content)
        assert await text_of(client, f"{upstream}__roots") == ANSWERS["roots"]
    assert side.asked == ["roots"]


@pytest.mark.parametrize("upstream", ["modern_http", "modern_stdio"])
@pytest.mark.parametrize("era", ERAS)
async def test_a_modern_upstream_is_told_with_each_request_what_this_agent_can_do(
    gateway: GatewayProcess, era: str, upstream: str
) -> None:
    side = Side()
    # For agents that know no wire tasks the gateway follows them itself.
    tasks = {} if era == "2026-07-28" else {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    expected: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"sampling_callback": side.sample}, {"sampling": {}}),
        ({"elicitation_callback": side.elicit}, {"elicitation": {"form": {}, "url": {}}}),
        ({"list_roots_callback": side.roots}, {"roots": {"listChanged": True}}),
    ]
    async with anyio.create_task_group() as agents:

        async def look(callbacks: dict[str, Any], capabilities: dict[str, Any]) -> None:
            async with over_http(gateway, era, **callbacks) as client:
                for _ in range(5):
                    assert json.loads(await text_of(client, f"{upstream}__capabilities")) == {**capabilities, **tasks}

        for callbacks, capabilities in expected:
            agents.start_soon(look, callbacks, capabilities)


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("era", ERAS)
async def test_a_person_is_sent_nowhere_unsafe(gateway: GatewayProcess, era: str, upstream: str) -> None:
    side = Side()
    async with over_http(gateway, era, **side.callbacks) as client:
        for url in ("http://u.example/", "javascript:alert(1)", "file:///etc/passwd"):
            try:
                assert (await client.call_tool(f"{upstream}__link", {"url": url})).is_error
            except MCPError as e:
                assert "cannot be asked" in e.error.message
    assert side.asked == []


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("era", ERAS)
async def test_an_upstream_does_not_ask_for_ever(gateway: GatewayProcess, era: str, upstream: str) -> None:
    side = Side()
    async with over_http(gateway, era, **side.callbacks) as client:
        try:
            assert (await client.call_tool(f"{upstream}__for_ever", {})).is_error
        except (MCPError, RuntimeError) as e:  # the SDK's own driver gives up first, or the fixture's
            assert "input_required" in str(e) or "too often" in str(e)
    assert len(side.asked) <= 16


@pytest.mark.parametrize("era", ERAS)
async def test_an_agent_that_declines_says_so(gateway: GatewayProcess, era: str) -> None:
    async def decline(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult(action="decline")

    async with over_http(gateway, era, elicitation_callback=decline) as client:
        said = {await text_of(client, f"{upstream}__form") for upstream in UPSTREAMS}
    assert said == {"decline: None"}


async def test_an_error_in_answer_to_a_question_ends_the_call_with_it(gateway: GatewayProcess) -> None:
    async def refuse(context: Any, params: Any) -> types.ErrorData:
        return types.ErrorData(code=-1, message="User rejected sampling request")

    async with over_http(gateway, "legacy", sampling_callback=refuse) as client:
        for upstream in UPSTREAMS:
            try:
                result = await client.call_tool(f"{upstream}__sample", {})
                assert result.is_error
                assert "User rejected" in str(result.content)
            except MCPError as e:
                assert "User rejected" in e.error.message


@pytest.mark.parametrize("upstream", UPSTREAMS)
async def test_many_agents_of_both_eras_ask_and_are_asked_at_once(gateway: GatewayProcess, upstream: str) -> None:
    async def one(name: str, era: str) -> None:
        async def elicit(context: Any, params: Any) -> types.ElicitResult:
            content = dict.fromkeys(params.requested_schema["properties"], name)
            return types.ElicitResult(action="accept", content=content)

        async with over_http(gateway, era, elicitation_callback=elicit) as client:
            for _ in range(3):
                assert await text_of(client, f"{upstream}__form") == f"accept: {name}"
                assert await text_of(client, f"{upstream}__twice") == f"{name}, {name}"

    await one("the first", "legacy")  # from now on it is known to ask
    async with anyio.create_task_group() as agents:
        for n in range(8):
            agents.start_soon(one, f"agent {n}", ERAS[n % 2])


# The life of a call that waits, on one gateway each


async def posted(gateway: GatewayProcess, params: dict[str, Any], agent: str = "asked") -> dict[str, Any]:
    """One modern tools/call of an agent that can be asked for forms; its result or error."""
    meta = {**META, "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
    message, headers = modern_request("tools/call", {"arguments": {}, **params, "_meta": meta})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    accept = {"accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(headers={**headers_of(gateway, agent), **accept}, timeout=30) as http:
        response = await http.post(gateway.url, json=message, headers=named)
    return dict(json.loads(response.text.rsplit("data: ", 1)[-1]))


async def parked(gateway: GatewayProcess, upstream: str, tool: str = "form", **arguments: Any) -> dict[str, Any]:
    """Begin a call that asks; returns the params of its retry."""
    params = {"name": f"{upstream}__{tool}", "arguments": arguments}
    result = (await posted(gateway, params))["result"]
    assert result["resultType"] == "input_required", result
    answers = {key: {"action": "accept", "content": {"name": "Ada"}} for key in result["inputRequests"]}
    return {**params, "requestState": result["requestState"], "inputResponses": answers}


def outcomes(gateway: GatewayProcess) -> list[tuple[str, str]]:
    with sqlite3.connect(f"file:{gateway.folder / 'audit.db'}?mode=ro", uri=True) as audit:
        return audit.execute("select decision, outcome from calls where kind = 'call' order by seq").fetchall()


@contextmanager
def gateway_over(folder: Path, server: str) -> Iterator[GatewayProcess]:
    policy = POLICY.split("allow")[0] + 'allow = ["up/*"]\n'
    with serving(folder, {"servers.toml": f"[servers.up]\n{server}\n", "policies/agents.toml": policy}) as gateway:
        yield gateway


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_a_gateway_told_to_stop_does_not_wait_for_agents(tmp_path: Path, transport: str) -> None:
    with http_server("legacy") as url:
        server = f'url = "{url}"' if transport == "http" else over_stdio("legacy")
        with gateway_over(tmp_path, server) as gateway:
            await parked(gateway, "up")
            began_at = time.monotonic()
            assert await anyio.to_thread.run_sync(gateway.stop) in (0, -signal.SIGTERM)
            assert time.monotonic() - began_at < DRAIN_S
            assert outcomes(gateway) == [("allowed", "cancelled")]
        if transport == "http":
            async with Client(url, mode="legacy") as client:

                async def has_ended() -> bool:
                    return await text_of(client, "ended") == "1"

                await until(has_ended)


@pytest.mark.slow
async def test_one_persons_thinking_holds_up_nobody_else(tmp_path: Path) -> None:
    with gateway_over(tmp_path, over_stdio("legacy")) as gateway:
        pid = {"name": "up__pid", "arguments": {}}
        first = (await posted(gateway, pid, "other"))["result"]["content"]
        retry = await parked(gateway, "up")
        assert (await posted(gateway, pid))["result"]["content"] == first, "one's own calls share what one is asked in"
        spare = (await posted(gateway, pid, "other"))["result"]["content"]
        assert spare != first
        assert (await posted(gateway, retry))["result"]["content"][0]["text"] == "accept: Ada"
        assert (await posted(gateway, pid, "other"))["result"]["content"] == first


@pytest.mark.slow
async def test_an_upstream_that_dies_meanwhile_is_what_the_retry_is_told(tmp_path: Path) -> None:
    with gateway_over(tmp_path, over_stdio("legacy")) as gateway:
        told = await posted(gateway, {"name": "up__pid"})
        retry = await parked(gateway, "up")
        os.kill(int(told["result"]["content"][0]["text"]), signal.SIGKILL)
        await until(lambda: outcomes(gateway)[-1][1] == "unreachable")
        result = (await posted(gateway, retry))["result"]
    assert result["isError"] is True
    assert "signal 9" in result["content"][0]["text"]


@pytest.mark.slow
@pytest.mark.parametrize("upstream", UPSTREAMS)
async def test_a_persons_time_is_not_the_upstreams_but_its_own_is(tmp_path: Path, upstream: str) -> None:
    era, transport = upstream.split("_")
    with http_server(era) as url:
        server = f'url = "{url}"' if transport == "http" else over_stdio(era)
        with gateway_over(tmp_path, f"{server}\ntimeout_s = 1") as gateway:
            retry = await parked(gateway, "up", "work_on", seconds=0.2)
            await anyio.sleep(1.3)
            assert (await posted(gateway, retry))["result"]["content"][0]["text"] == "worked for Ada"
            retry = await parked(gateway, "up", "work_on", seconds=5)
            result = (await posted(gateway, retry))["result"]
    assert result["isError"] is True
    assert "did not answer within 1 s" in result["content"][0]["text"]


@pytest.mark.slow
async def test_a_state_survives_a_restart_only_where_nothing_was_waiting(tmp_path: Path) -> None:
    with http_server("both") as url:
        for era, answered in (("modern", True), ("legacy", False)):
            folder = tmp_path / era
            server = f'url = "{url}"' if era == "modern" else over_stdio("legacy")
            with gateway_over(folder, server) as gateway:
                retry = await parked(gateway, "up")
                headers = headers_of(gateway)
            with gateway_over(folder, server) as again:
                assert headers_of(again) == headers
                answer = await posted(again, retry)
            if answered:
                assert answer["result"]["content"][0]["text"] == "accept: Ada"
            else:
                assert answer["error"]["code"] == -32602
