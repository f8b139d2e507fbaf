"""Extensions through a real gateway: wire tasks of a real server, pages of MCP Apps, and what nobody knows."""

import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx2
import mcp_types as types
import pytest
from anyio import to_thread
from anyio.streams.buffered import BufferedByteReceiveStream
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim, advertise

from fakes.agents import ERAS, agent_over_http, gateway_in, tools_of
from fakes.apps_server import PAGE, PAGE_META, UI
from fakes.conformance import FIXTURE
from fakes.front import META, answer_of, modern_request
from fakes.gateway_process import MCP_GATEWAY, GatewayProcess
from fakes.ports import free_port
from fakes.waiting import until

TASKS = "io.modelcontextprotocol/tasks"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
MODERN = "2026-07-28"

pytestmark = pytest.mark.slow

POLICY = """
[agents.alice]
tasks = ["work"]
default_task = "work"

[agents.bob]
tasks = ["work"]
default_task = "work"

[agents.carol]
tasks = ["look"]
default_task = "look"

[tasks.work]
allow = ["tasked/*", "apps/*", "resource:apps/ui://**"]

[tasks.look]
allow = ["apps/*"]
"""


def servers(port: int) -> str:
    apps = json.dumps([sys.executable, str(FIXTURE.with_name("apps_server.py"))])
    return f'[servers.tasked]\nurl = "http://127.0.0.1:{port}/mcp"\n[servers.apps]\ncommand = {apps}\n'


def files(port: int, policy: str = POLICY) -> dict[str, str]:
    return {"servers.toml": servers(port), "policies/agents.toml": policy}


@asynccontextmanager
async def tasked_server(port: int) -> AsyncIterator[None]:
    """The conformance fixture with its tools that become tasks; tasks end with it."""
    command = [sys.executable, str(FIXTURE), "--port", str(port), "--era", "modern"]
    process = await anyio.open_process(command, stderr=None)
    try:
        assert process.stdout is not None
        with anyio.fail_after(20):
            await process.stdout.receive()
        yield
    finally:
        process.terminate()
        with anyio.CancelScope(shield=True):
            await process.aclose()


@dataclass
class Agent:
    """One agent by hand: the SDK has no methods for wire tasks yet."""

    url: str
    http: httpx2.AsyncClient

    async def ask(self, method: str, params: dict[str, Any], *extensions: str, **capabilities: Any) -> dict[str, Any]:
        declared = {"extensions": {name: {} for name in extensions}, **capabilities}
        message, headers = modern_request(method, {**params, "_meta": {**META, CAPABILITIES: declared}})
        named = {"mcp-name": params["taskId"]} if "taskId" in params else {}
        sent = {name.replace("_", "-"): value for name, value in headers.items()} | named
        return answer_of(await self.http.post(self.url, json=message, headers=sent))

    async def begin(self, tool: str, **arguments: Any) -> str:
        """Call a tool that becomes a task; its id."""
        called = await self.ask("tools/call", {"name": f"tasked__{tool}", "arguments": arguments}, TASKS)
        assert called["result"]["resultType"] == "task", called
        return str(called["result"]["taskId"])

    async def look(self, task_id: str) -> dict[str, Any]:
        return await self.ask("tasks/get", {"taskId": task_id}, TASKS, elicitation={})

    async def status_of(self, task_id: str) -> str:
        return str((await self.look(task_id))["result"]["status"])

    async def reaches(self, task_id: str, status: str) -> dict[str, Any]:
        async def has() -> bool:
            return await self.status_of(task_id) == status

        await until(has)
        return dict((await self.look(task_id))["result"])


@asynccontextmanager
async def agent(gateway: GatewayProcess, name: str = "alice") -> AsyncIterator[Agent]:
    headers = await to_thread.run_sync(gateway.headers, name)
    accept = {"accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient(headers=headers | accept, timeout=20) as http:
        yield Agent(gateway.url, http)


@pytest.fixture(scope="module")
async def port() -> AsyncIterator[int]:
    chosen = free_port()
    async with tasked_server(chosen):
        yield chosen


@pytest.fixture(scope="module")
async def gateway(port: int, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    async with gateway_in(tmp_path_factory.mktemp("extensions"), files(port)) as running:
        yield running


class CreatedTask(types.Result):
    result_type: Literal["task"] = "task"
    task_id: str


async def test_the_sdks_client_gets_a_task_it_can_claim(gateway: GatewayProcess) -> None:
    claimed: list[str] = []

    async def follow(created: CreatedTask, context: ClaimContext) -> types.CallToolResult:
        claimed.append(created.task_id)
        return types.CallToolResult(content=[])

    class Follows(ClientExtension):
        identifier = TASKS

        def claims(self) -> list[ResultClaim[CreatedTask]]:
            return [ResultClaim(result_type="task", model=CreatedTask, resolve=follow)]

    async with agent_over_http(gateway, "alice", MODERN, extensions=[Follows()]) as client, agent(gateway) as alice:
        await client.call_tool("tasked__slow_compute", {"seconds": 0, "label": "x"})
        assert (await alice.reaches(claimed[0], "completed"))["result"]["content"][0]["text"] == "computed x"


@pytest.mark.parametrize("era", ERAS)
async def test_without_the_extension_the_tool_answers_in_the_call(gateway: GatewayProcess, era: str) -> None:
    async with agent_over_http(gateway, "alice", era) as client:
        result = await client.call_tool("tasked__slow_compute", {"seconds": 0, "label": "y"})
    assert result.content[0].text == "computed y"


async def test_an_agent_of_the_handshake_era_gets_the_end_of_a_task_as_its_answer(gateway: GatewayProcess) -> None:
    asked: list[str] = []

    async def elicit(context: Any, params: Any) -> types.ElicitResult:
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"confirm": True})

    async with agent_over_http(gateway, "alice", "legacy", elicitation_callback=elicit) as client:
        failing = await client.call_tool("tasked__failing_job", {})
        confirmed = await client.call_tool("tasked__confirm_delete", {"filename": "x"})
    assert (failing.is_error, failing.content[0].text) == (True, "the job failed")
    assert confirmed.content[0].text == "answered: accept"
    assert asked == ["[tasked] Delete x?"]


async def test_a_task_asks_and_is_answered(gateway: GatewayProcess) -> None:
    async with agent(gateway) as alice:
        task_id = await alice.begin("confirm_delete", filename="x")
        asked = await alice.reaches(task_id, "input_required")
        assert asked["inputRequests"]["confirm"]["method"] == "elicitation/create"
        answers = {"confirm": {"action": "accept", "content": {"confirm": True}}}
        params = {"taskId": task_id, "inputResponses": answers}
        await alice.ask("tasks/update", params, TASKS)
        ended = await alice.reaches(task_id, "completed")
    assert ended["result"]["content"][0]["text"] == "answered: accept"


async def test_a_task_is_cancelled(gateway: GatewayProcess) -> None:
    async with agent(gateway) as alice:
        task_id = await alice.begin("slow_compute", seconds=60)
        acknowledged = await alice.ask("tasks/cancel", {"taskId": task_id}, TASKS)
        assert acknowledged["result"].keys() == {"resultType", "_meta"}
        await alice.reaches(task_id, "cancelled")


async def test_another_agents_task_is_unknown_and_the_attempt_is_in_the_audit(gateway: GatewayProcess) -> None:
    async with agent(gateway) as alice, agent(gateway, "bob") as bob:
        task_id = await alice.begin("slow_compute", seconds=60)
        for presented in (task_id, task_id[:-6] + "AAAAAA", "unknown"):
            error = (await bob.look(presented))["error"]
            assert (error["code"], error["message"]) == (-32602, "Unknown task")
        assert await alice.status_of(task_id) == "working"
    with sqlite3.connect(f"file:{gateway.folder / 'audit.db'}?mode=ro", uri=True) as audit:
        [(misused,)] = audit.execute("select count(*) from calls where agent = 'bob' and reason = 'misuse'").fetchall()
    assert misused == 3


async def test_a_task_outlives_the_gateway_and_its_key(port: int, tmp_path: Path) -> None:
    async with gateway_in(tmp_path, files(port)) as before, agent(before) as alice:
        task_id = await alice.begin("slow_compute", seconds=1, label="long")
    async with gateway_in(tmp_path, files(port)) as after, agent(after) as alice, agent(after, "bob") as bob:
        ended = await alice.reaches(task_id, "completed")
        assert "error" in await bob.look(task_id)
    assert ended["taskId"] == task_id
    assert ended["result"]["content"][0]["text"] == "computed long"


async def test_a_task_goes_with_the_permission_for_its_tool(port: int, tmp_path: Path) -> None:
    async with gateway_in(tmp_path, files(port)) as running, agent(running) as alice:
        task_id = await alice.begin("slow_compute", seconds=60)
        policy = POLICY.replace('"tasked/*"', '"tasked/greet"')
        (tmp_path / "policies/agents.toml").write_text(policy)

        async def is_unknown() -> bool:
            error = (await alice.look(task_id)).get("error")
            return error is not None and (error["code"], error["message"]) == (-32602, "Unknown task")

        await until(is_unknown, within_s=10)


async def test_an_upstream_that_forgot_its_task_says_so_itself(tmp_path: Path) -> None:
    port = free_port()
    async with gateway_in(tmp_path, files(port), settled=False) as running, agent(running) as alice:
        async with tasked_server(port):

            async def begun() -> str:
                called = await alice.ask(
                    "tools/call", {"name": "tasked__slow_compute", "arguments": {"seconds": 60}}, TASKS
                )
                return str(called.get("result", {}).get("taskId", ""))

            task_id = await until(begun, within_s=20)
        assert (await alice.look(task_id))["error"]["code"] == -32603  # away, which says nothing of the task
        async with tasked_server(port):

            async def is_forgotten() -> bool:
                error = (await alice.look(task_id))["error"]
                return bool(error["code"] == -32602 and error["message"].startswith("Task not found"))

            await until(is_forgotten, within_s=20)


async def test_a_task_is_followed_over_stdio_too(gateway: GatewayProcess) -> None:
    words = [*MCP_GATEWAY, "stdio", "--agent", "alice", "--config", str(gateway.config)]
    async with await anyio.open_process(words, cwd=gateway.folder, stderr=None) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)

        async def ask(method: str, **params: Any) -> dict[str, Any]:
            meta = {**META, CAPABILITIES: {"extensions": {TASKS: {}}}}
            message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
            await process.stdin.send(json.dumps(message).encode() + b"\n")  # type: ignore[union-attr]
            return dict(json.loads(await lines.receive_until(b"\n", 10**6)))

        with anyio.fail_after(30):
            called = await ask("tools/call", name="tasked__slow_compute", arguments={"seconds": 60})
            task_id = called["result"]["taskId"]
            looked = await ask("tasks/get", taskId=task_id)
            unknown = await ask("tasks/get", taskId=task_id[:-8])
            await process.stdin.aclose()
            await process.wait()
    assert (looked["result"]["taskId"], looked["result"]["status"]) == (task_id, "working")
    assert unknown["error"]["message"] == "Unknown task"


@pytest.mark.parametrize("era", ERAS)
async def test_the_page_of_a_tool_is_read_although_nobody_lists_it(gateway: GatewayProcess, era: str) -> None:
    async with agent_over_http(gateway, "alice", era) as client:
        listed = await client.list_resources()
        read = await client.read_resource(PAGE)
    assert listed.resources == []
    assert (read.contents[0].mime_type, read.contents[0].meta) == ("text/html;profile=mcp-app", PAGE_META)


@pytest.mark.parametrize("era", ERAS)
async def test_a_page_needs_a_grant_of_its_own(gateway: GatewayProcess, era: str) -> None:
    async with agent_over_http(gateway, "carol", era) as client:
        assert "apps__chart" in await tools_of(client)
        with pytest.raises(Exception, match="Resource not found"):
            await client.read_resource(PAGE)


@pytest.mark.parametrize("era", ERAS)
async def test_tools_of_a_page_keep_their_meta_and_answer_to_their_own_names(gateway: GatewayProcess, era: str) -> None:
    async with agent_over_http(gateway, "alice", era) as client:
        tools = {tool.name: tool.meta for tool in (await client.list_tools()).tools}
        called = await client.call_tool("refresh", {})
    assert tools["apps__chart"] == {"ui": {"resourceUri": PAGE}}
    assert tools["apps__refresh"] == {"ui": {"resourceUri": PAGE, "visibility": ["app"]}, "ui/resourceUri": PAGE}
    assert called.content[0].text == "refresh"


async def test_an_upstream_hears_of_the_extensions_we_carry_and_of_no_other(gateway: GatewayProcess) -> None:
    declared = [advertise(UI, {"mimeTypes": ["text/html;profile=mcp-app"]}), advertise("io.example/other")]
    async with agent_over_http(gateway, "alice", MODERN, extensions=declared) as client:
        told = await client.call_tool("apps__told", {})
    assert json.loads(told.content[0].text) == {UI: {"mimeTypes": ["text/html;profile=mcp-app"]}}
    async with agent(gateway) as alice:
        discovered = await alice.ask("server/discover", {})
        other = await alice.ask("io.example/do", {}, "io.example/other")
    assert discovered["result"]["capabilities"]["extensions"] == {TASKS: {}, UI: {}}
    assert other["error"]["code"] == -32601
