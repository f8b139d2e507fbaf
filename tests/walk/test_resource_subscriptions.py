"""An agent hears that a resource changed: the real SDK's client, a real gateway, real servers, each in either era."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourceUpdated

from fakes.gateway_process import GatewayProcess, serving
from fakes.waiting import until

SERVER = Path(__file__).parents[1] / "fakes" / "watched_server.py"
UPSTREAMS = ["legacy-http", "modern-http", "legacy-stdio", "modern-stdio"]
KEYS: dict[str, dict[str, dict[str, str]]] = {}
ERAS = ["legacy", "2026-07-28"]


def policy(readable: str = "**") -> str:
    """The agent `reader` may read `readable` of each upstream, the agent `other` only what ends in `two`."""

    def allow(resources: str) -> str:
        return json.dumps([f"{u}/*" for u in UPSTREAMS] + [f"resource:{u}/note://{u}/{resources}" for u in UPSTREAMS])

    return f"""
        [agents.reader]
        tasks = ["read"]
        default_task = "read"

        [agents.other]
        tasks = ["less"]
        default_task = "less"

        [tasks.read]
        allow = {allow(readable)}

        [tasks.less]
        allow = {allow("two")}
    """


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]


@contextmanager
def over_http(name: str, era: str) -> Iterator[str]:
    """The server in a process of its own; how servers.toml reaches it."""
    process = subprocess.Popen([sys.executable, str(SERVER), name, era, "--http"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f'url = "http://127.0.0.1:{int(process.stdout.readline())}/mcp"'
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with ExitStack() as stack:
        servers = ""
        for name in UPSTREAMS:
            era, _, transport = name.partition("-")
            if transport == "http":
                how = stack.enter_context(over_http(name, era))
            else:
                how = f"command = {json.dumps([sys.executable, str(SERVER), name, era])}"
            servers += f"[servers.{name}]\n{how}\n"
        files = {"servers.toml": servers, "policies/agents.toml": policy()}
        yield stack.enter_context(serving(tmp_path_factory.mktemp("walk"), files))


@dataclass
class Agent:
    """A client of the SDK that is told of resources, whichever its era's way is.

    A modern one that subscribes must be the innermost: its stream ends with it.
    """

    client: Client
    is_modern: bool
    told: list[str] = field(default_factory=list)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def subscribe(self, *uris: str) -> list[str]:
        """Returns the URIs that were honoured; raises where the era has an error for that."""
        if not self.is_modern:
            for uri in uris:
                await self.client.subscribe_resource(uri)
            return list(uris)
        listening = await self.stack.enter_async_context(self.client.listen(resource_subscriptions=uris))

        async def hear() -> None:
            async for event in listening:
                assert isinstance(event, ResourceUpdated)
                self.told.append(event.uri)

        tasks = await self.stack.enter_async_context(anyio.create_task_group())
        self.stack.callback(tasks.cancel_scope.cancel)
        tasks.start_soon(hear)
        return list(listening.honored.resource_subscriptions or [])

    async def hear(self, message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification) and not self.is_modern:
            self.told.append(message.params.uri)

    async def call(self, upstream: str, tool: str, **arguments: Any) -> Any:
        result = await self.client.call_tool(f"{upstream}__{tool}", arguments)
        return json.loads(result.content[0].text)  # type: ignore[union-attr]

    async def wanted(self, upstream: str) -> set[str]:
        """What the upstream is asked for at the moment."""
        said = await self.call(upstream, "watching")
        assert len(said["listening"]) <= 2  # a new one beside the old, until it is acknowledged
        return {*said["subscribed"], *(uri for uris in said["listening"] for uri in uris)}


def headers_of(gateway: GatewayProcess, name: str) -> dict[str, str]:
    """One key for each agent: making one takes a process."""
    known = KEYS.setdefault(gateway.url, {})
    if name not in known:
        known[name] = gateway.headers(name)
    return known[name]


@asynccontextmanager
async def agent_of(gateway: GatewayProcess, era: str, name: str = "reader", way: str = "http") -> AsyncIterator[Agent]:
    agent = Agent(None, era != "legacy")  # type: ignore[arg-type]
    async with AsyncExitStack() as stack:
        if way == "http":
            http = await stack.enter_async_context(httpx2.AsyncClient(headers=headers_of(gateway, name), timeout=30))
            transport: Any = streamable_http_client(gateway.url, http_client=http)
        else:
            words = ["-m", "mcp_gateway", "stdio", "--agent", name, "--config", str(gateway.config)]
            transport = StdioServerParameters(
                command=sys.executable, args=words, cwd=gateway.folder, env={**os.environ}
            )
        agent.client = await stack.enter_async_context(Client(transport, mode=era, message_handler=agent.hear))
        await stack.enter_async_context(agent.stack)
        yield agent


async def can_read(agent: Agent, uri: str) -> bool:
    try:
        await agent.client.read_resource(uri, cache_mode="bypass")
    except MCPError:
        return False
    return True


def nothing_wanted(agent: Agent, upstream: str) -> Callable[[], Awaitable[bool]]:
    async def is_so() -> bool:
        return not await agent.wanted(upstream)

    return is_so


@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("era", ERAS)
async def test_an_agent_hears_of_what_it_subscribed_to_and_of_nothing_else(
    gateway: GatewayProcess, era: str, upstream: str
) -> None:
    one, two, made = f"note://{upstream}/one", f"note://{upstream}/two", f"note://{upstream}/by/me"
    async with agent_of(gateway, era) as toucher, agent_of(gateway, era) as agent:
        assert await agent.subscribe(one, made) == [one, made]
        assert await toucher.wanted(upstream) == {one, made}
        for uri in (two, one, made):
            await toucher.call(upstream, "touch", uri=uri)
        await until(lambda: {one, made} <= set(agent.told))
        assert two not in agent.told
    async with agent_of(gateway, era) as toucher:
        await until(nothing_wanted(toucher, upstream))


@pytest.mark.parametrize("upstream", ["legacy-http", "modern-http"])
@pytest.mark.parametrize("era", ERAS)
async def test_the_same_over_stdio(gateway: GatewayProcess, era: str, upstream: str) -> None:
    one = f"note://{upstream}/one"
    async with agent_of(gateway, era, way="stdio") as agent:
        await until(lambda: can_read(agent, one), within_s=20)  # its upstreams are still starting
        assert await agent.subscribe(one) == [one]
        await agent.call(upstream, "touch", uri=one)
        await until(lambda: agent.told == [one])


@pytest.mark.parametrize("upstream", UPSTREAMS)
async def test_an_upstream_is_asked_once_for_all_agents_and_until_the_last_has_left(
    gateway: GatewayProcess, upstream: str
) -> None:
    one = f"note://{upstream}/one"
    async with agent_of(gateway, "2026-07-28") as observer:
        async with agent_of(gateway, "legacy") as old:
            async with agent_of(gateway, "2026-07-28") as new:
                await old.subscribe(one)
                before = (await observer.call(upstream, "watching"))["asked"]
                await new.subscribe(one)
                assert (await observer.call(upstream, "watching"))["asked"] == before
                await observer.call(upstream, "touch", uri=one)
                await until(lambda: old.told and new.told)
            await observer.call(upstream, "touch", uri=one)
            await until(lambda: len(old.told) == 2)
            await old.client.unsubscribe_resource(one)
            await until(nothing_wanted(observer, upstream))
            await observer.call(upstream, "touch", uri=one)
        assert old.told == [one, one]
        assert new.told == [one]


@pytest.mark.parametrize("upstream", UPSTREAMS)
async def test_what_may_not_be_read_cannot_be_subscribed_to_and_looks_unknown(
    gateway: GatewayProcess, upstream: str
) -> None:
    one, two, none = f"note://{upstream}/one", f"note://{upstream}/two", f"note://{upstream}/none/such"
    async with agent_of(gateway, "legacy", "other") as old, agent_of(gateway, "2026-07-28", "other") as new:
        refusals = []
        for uri in (one, none):
            with pytest.raises(MCPError) as refused:
                await old.subscribe(uri)
            refusals.append((refused.value.error.code, refused.value.error.message, refused.value.error.data))
        assert refusals == [(-32002, "Resource not found", {"uri": uri}) for uri in (one, none)]
        assert await new.subscribe(one, two, none) == [two]


@pytest.mark.parametrize("upstream", UPSTREAMS)
async def test_what_the_upstream_refuses_is_not_promised(gateway: GatewayProcess, upstream: str) -> None:
    one, nobody = f"note://{upstream}/one", f"note://{upstream}/by/nobody"
    async with agent_of(gateway, "legacy") as old, agent_of(gateway, "2026-07-28") as new:
        with pytest.raises(MCPError) as refused:
            await old.subscribe(nobody)
        assert refused.value.error.code == -32602
        assert await new.subscribe(one, nobody) == [one]
        await until(lambda: new.told == [])


@pytest.mark.parametrize("upstream", ["legacy-stdio", "modern-stdio"])
@pytest.mark.parametrize("era", ERAS)
async def test_after_a_restart_the_upstream_is_asked_again_and_everybody_told_once(
    gateway: GatewayProcess, era: str, upstream: str
) -> None:
    one = f"note://{upstream}/one"
    async with agent_of(gateway, era) as agent:
        await agent.subscribe(one)
        assert (await agent.client.call_tool(f"{upstream}__die", {})).is_error
        await until(lambda: agent.told == [one], within_s=10)
        await until(lambda: agent.wanted(upstream))
        await agent.call(upstream, "touch", uri=one)
        await until(lambda: agent.told == [one, one])


@pytest.mark.parametrize("upstream", ["legacy-stdio", "modern-stdio"])
@pytest.mark.parametrize("era", ERAS)
async def test_a_policy_edit_silences_at_once_and_speaks_again(
    gateway: GatewayProcess, era: str, upstream: str
) -> None:
    one, two = f"note://{upstream}/one", f"note://{upstream}/two"
    policies = gateway.folder / "policies" / "agents.toml"
    async with agent_of(gateway, era) as agent:
        await agent.subscribe(one, two)
        for readable, told in (("two", {two}), ("**", {one, two})):
            policies.write_text(policy(readable))
            await until(lambda: _is_readable(agent, one, one in told), within_s=10)  # noqa: B023
            agent.told.clear()
            for uri in (one, two):
                await agent.call(upstream, "touch", uri=uri)
            await until(lambda: set(agent.told) == told)  # noqa: B023


async def _is_readable(agent: Agent, uri: str, may: bool) -> bool:
    return await can_read(agent, uri) == may


@pytest.mark.parametrize("era", ERAS)
async def test_a_revoked_key_ends_it_for_the_upstream_too(gateway: GatewayProcess, era: str) -> None:
    one = "note://modern-http/one"
    key = gateway.key("reader")
    http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=30)
    async with agent_of(gateway, "2026-07-28") as observer, http:
        agent = Agent(None, era != "legacy")  # type: ignore[arg-type]
        transport = streamable_http_client(gateway.url, http_client=http)
        async with Client(transport, mode=era, message_handler=agent.hear) as agent.client, agent.stack:
            await agent.subscribe(one)
            assert await observer.wanted("modern-http") == {one}
            gateway.run("key", "revoke", key)
            await until(nothing_wanted(observer, "modern-http"))


async def test_subscribing_is_in_the_audit(gateway: GatewayProcess) -> None:
    one, two = "note://modern-http/one", "note://modern-http/two"
    async with agent_of(gateway, "2026-07-28", "other") as agent:
        await agent.subscribe(one, two)
    said = gateway.run("log", "--json", "--agent", "other", "--limit", "1000").stdout
    rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    kinds = {(row["kind"], row["decision"], row["name"]) for row in rows}
    assert {("subscribe", "allowed", two), ("subscribe", "denied", one)} <= kinds
