"""A whole gateway in the test's own process, with scripted model providers behind it and an HTTP door in front."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from fakes.gateway_process import write_files
from fakes.providers import Provider, provider
from fakes.waiting import until
from mcp_gateway.config.servers import load
from mcp_gateway.frontdoor.http_server import Server, listening_socket
from mcp_gateway.identity.started import StartedTasks
from mcp_gateway.identity.verify import ApiKeyCheck, Verifier
from mcp_gateway.wiring import Running, Trust, keys_of, running, started_tasks_of, utc_now

OPENAI_KEY = "sk-canary-of-openai-0123456789"
ANTHROPIC_KEY = "sk-ant-canary-0123456789"
SPARE_KEY = "sk-canary-of-the-spare-012345"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loading certificates takes longer than most tests here

POLICY = """
[agents.alice]
tasks = ["work", "rest"]
default_task = "work"

[agents.bob]
tasks = ["rest"]
default_task = "rest"

[tasks.work.models]
allow = ["gpt-5-mini", "claude-sonnet-5", "text-embedding-3-small", "smart", "mixed", "secondhand"]

[tasks.rest]
purpose = "nothing at all"
"""

MODELS = """
[models.openai]
wire = "openai"
url = "{first.openai_url}"
key = "{OPENAI_KEY}"
models = ["gpt-5-mini", "gpt-5", "text-embedding-3-small"]
idle_timeout_s = 5

[models.anthropic]
wire = "anthropic"
url = "{first.url}"
key = "{ANTHROPIC_KEY}"
models = ["claude-sonnet-5"]

[models.spare]
wire = "openai"
url = "{spare.openai_url}"
key = "{SPARE_KEY}"
prices = {{ "free-1" = {{ input = 0, output = 0 }} }}

[models.smart]
targets = ["openai/gpt-5-mini", "spare/gpt-5-mini"]

[models.secondhand]
targets = ["spare/unheard-of-1"]

[models.mixed]
targets = ["openai/gpt-5-mini", "anthropic/claude-sonnet-5"]
"""


@dataclass
class ModelGateway:
    """What the tests hold of it."""

    folder: Path
    parts: Running
    first: Provider
    spare: Provider
    port: int
    http: httpx2.AsyncClient
    tasks: StartedTasks
    _keys: Any
    _tokens: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self, agent: str = "alice") -> str:
        if agent not in self._tokens:
            self._tokens[agent], _ = self._keys.create(agent, None, utc_now())
        return self._tokens[agent]

    async def post(self, path: str, body: Any, agent: str = "alice", **headers: str) -> httpx2.Response:
        """POST bytes, or anything as JSON; `_` in names of headers stands for `-`."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", "authorization": f"Bearer {self.token(agent)}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(f"{self.origin}{path}", content=content, headers=sent)

    async def chat(self, model: str = "gpt-5-mini", agent: str = "alice", **more: Any) -> httpx2.Response:
        """One chat completion."""
        return await self.post("/v1/chat/completions", {"model": model, "messages": HELLO, **more}, agent)

    def rows(self, kind: str = "model") -> list[dict[str, Any]]:
        """What the audit holds of one kind of request, decision and end in one."""
        with sqlite3.connect(f"file:{self.folder / 'audit.db'}?mode=ro", uri=True) as db:
            db.row_factory = sqlite3.Row
            rows = db.execute(
                "SELECT d.*, f.outcome AS ended, f.tokens_in AS t_in, f.tokens_out AS t_out, f.cost AS usd,"
                " f.result_preview AS result FROM entries d LEFT JOIN entries f ON f.decided_seq = d.seq"
                " WHERE d.phase = 'decided' AND d.kind = ? ORDER BY d.seq",
                (kind,),
            ).fetchall()
        db.close()
        return [dict(row) for row in rows]

    def rows_of(self, kind: str) -> list[dict[str, Any]]:
        """What the audit holds of one kind of event that is no request."""
        with sqlite3.connect(f"file:{self.folder / 'audit.db'}?mode=ro", uri=True) as db:
            db.row_factory = sqlite3.Row
            rows = db.execute("SELECT * FROM entries WHERE kind = ?", (kind,)).fetchall()
        db.close()
        return [dict(row) for row in rows]

    async def ended(self, count: int = 1) -> list[dict[str, Any]]:
        """The same once so many calls of models have ended."""
        await until(lambda: sum(row["ended"] is not None for row in self.rows()) >= count)
        return self.rows()


HELLO = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def model_gateway(
    folder: Path, *, policy: str = POLICY, models: str = MODELS, more: str = "", first: Provider | None = None
) -> AsyncIterator[ModelGateway]:
    """A gateway over two scripted providers; `more` goes into servers.toml, which may name `{first.url}` and so on."""
    async with AsyncExitStack() as stack:
        first = first or await stack.enter_async_context(provider())
        spare = await stack.enter_async_context(provider())
        keys = {"OPENAI_KEY": OPENAI_KEY, "ANTHROPIC_KEY": ANTHROPIC_KEY, "SPARE_KEY": SPARE_KEY}
        servers = models.format(first=first, spare=spare, **keys) + more
        write_files(folder, {"servers.toml": servers, "policies/agents.toml": policy})
        parts = await stack.enter_async_context(running(lambda: load(folder / "servers.toml", os.environ)))
        api_keys = keys_of(parts.configuration)
        stack.callback(api_keys.close)
        tasks = started_tasks_of(parts.configuration)
        stack.callback(tasks.close)
        door, _ = parts.http_door(Trust(Verifier([ApiKeyCheck(api_keys)], tasks=tasks)))
        listener = listening_socket("127.0.0.1", 0)
        server = Server(door, parts.closers, 64 * 1024)
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        client = httpx2.AsyncClient(verify=NO_TLS, trust_env=False, timeout=30)
        port = listener.getsockname()[1]
        try:
            yield ModelGateway(folder, parts, first, spare, port, client, tasks, api_keys)
        finally:
            first.release.set()
            spare.release.set()
            await client.aclose()
            server.should_exit = True
            await serving


def plain_client() -> httpx2.AsyncClient:
    """An HTTP client for the official SDKs that spares them loading certificates."""
    return httpx2.AsyncClient(verify=NO_TLS, trust_env=False, timeout=30)
