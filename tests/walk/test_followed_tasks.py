"""News of wire tasks, from an upstream's stream to the one agent whose task it is, through a real gateway."""

import asyncio
import json
from pathlib import Path

import anyio
import httpx2
import pytest
from anyio import to_thread
from starlette.types import Receive, Scope, Send

from fakes.front import META, answer_of, modern_request
from fakes.gateway_process import GatewayProcess, serving
from fakes.served import serving as served
from fakes.waiting import until
from mcp_gateway.domain import Json
from mcp_gateway.revisions import META_CAPABILITIES, META_SUBSCRIPTION, WIRE_TASKS

FOLLOWS: Json = {**META, META_CAPABILITIES: {"extensions": {WIRE_TASKS: {}}}}

POLICY = """
[agents.alice]
tasks = ["work"]
default_task = "work"

[agents.bob]
tasks = ["work"]
default_task = "work"

[tasks.work]
allow = ["up/*"]
"""


class TaskServer:
    """A modern upstream whose only tool becomes a task, and that tells of it on the stream that asks for it."""

    def __init__(self) -> None:
        self.streams: list[tuple[Json, asyncio.Queue[Json]]] = []
        self.begun = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        message = json.loads((await receive())["body"])
        if message["method"] == "subscriptions/listen":
            await self.stream(message, send)
            return
        result = {"resultType": "complete", **self.result_of(message["method"])}
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    def result_of(self, method: str) -> Json:
        if method == "server/discover":
            capabilities = {"tools": {}, "extensions": {WIRE_TASKS: {}}}
            return {
                "supportedVersions": ["2026-07-28"],
                "capabilities": capabilities,
                "ttlMs": 0,
                "cacheScope": "private",
            }
        if method == "tools/list":
            return {"tools": [{"name": "long", "inputSchema": {"type": "object"}}], "ttlMs": 0, "cacheScope": "private"}
        self.begun += 1
        return {"resultType": "task", "taskId": f"t{self.begun}", "status": "working", "ttlMs": None}

    async def stream(self, message: Json, send: Send) -> None:
        asked, news = message["params"]["notifications"], asyncio.Queue[Json]()
        self.streams.append((asked, news))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        frame: Json = {"method": "notifications/subscriptions/acknowledged", "params": {"notifications": asked}}
        while True:
            meta = {"_meta": {META_SUBSCRIPTION: message["id"]}}
            data = json.dumps({"jsonrpc": "2.0", **frame, "params": {**frame["params"], **meta}})
            await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
            frame = {"method": "notifications/tasks", "params": await news.get()}


async def posted(http: httpx2.AsyncClient, gateway: GatewayProcess, method: str, params: Json) -> Json:
    message, headers = modern_request(method, {**params, "_meta": FOLLOWS})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer_of(await http.post(gateway.url, json=message, headers=named))


@pytest.mark.slow
async def test_each_agent_hears_of_its_own_task(tmp_path: Path) -> None:
    upstream, heard = TaskServer(), dict[str, list[Json]](alice=[], bob=[])
    accept = {"accept": "application/json, text/event-stream"}

    async def follow(agent: str, gateway: GatewayProcess) -> None:
        headers = {**await to_thread.run_sync(gateway.headers, agent), **accept}
        async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
            created = await posted(http, gateway, "tools/call", {"name": "up__long", "arguments": {}})
            wanted = {"notifications": {"taskIds": [created["result"]["taskId"]]}, "_meta": FOLLOWS}
            message, more = modern_request("subscriptions/listen", wanted, agent)
            named = {name.replace("_", "-"): value for name, value in more.items()}
            async with http.stream("POST", gateway.url, json=message, headers=named) as response:
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        heard[agent].append(json.loads(line[6:]))

    async with served(upstream) as origin:
        files = {"servers.toml": f'[servers.up]\nurl = "{origin}/mcp"\n', "policies/agents.toml": POLICY}
        with serving(tmp_path, files, settled=False) as gateway:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow, "alice", gateway)
                await until(lambda: told_of(upstream, "t1"), 30)
                tasks.start_soon(follow, "bob", gateway)
                news = await until(lambda: told_of(upstream, "t1", "t2"), 30)
                await until(lambda: heard["alice"] and heard["bob"], 30)
                for task_id in ("t2", "t1", "t3"):
                    news.put_nowait({"taskId": task_id, "status": "completed", "result": {"content": []}})
                await until(lambda: len(heard["alice"]) == len(heard["bob"]) == 2)
                tasks.cancel_scope.cancel()
    for agent, (acknowledged, told) in heard.items():
        [task_id] = acknowledged["params"]["notifications"]["taskIds"]
        assert told["method"] == "notifications/tasks"
        assert told["params"].pop("ttlMs") > 0
        assert told["params"] == {"taskId": task_id, "status": "completed", "_meta": {META_SUBSCRIPTION: agent}}


def told_of(upstream: TaskServer, *task_ids: str) -> "asyncio.Queue[Json] | None":
    """The stream in which it was asked for news of these tasks, once there is one."""
    return next((news for asked, news in upstream.streams if asked.get("taskIds") == list(task_ids)), None)
