"""People's logins, end to end: through the front door, to upstreams that take nobody's token but theirs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from fakes.agents import gateway_in
from fakes.authorization import World, log_in, world
from fakes.in_process import running_in
from fakes.node import requires_node
from fakes.oidc_guarded import guarded_servers, oidc_provider
from fakes.raw_agents import HttpAgent
from fakes.replies import RecordingReply
from fakes.waiting import until
from mcp_gateway.credentials.owners import Owner, owner_id
from mcp_gateway.domain import Caller, Kind, OutcomeStatus, Request, Verb
from mcp_gateway.errors import ConsentNeeded
from mcp_gateway.frontdoor.connect import Accounts
from mcp_gateway.wiring import Running, new_request_id

POLICY = """
[agents.alice]
tasks = ["work"]
default_task = "work"

[agents.bob]
tasks = ["work"]
default_task = "work"

[tasks.work]
allow = ["s0/*", "s1/*", "s2/*", "s3/*", "s4/*"]
"""
CAN_OPEN = {"elicitation": {"url": {}}}


def files_for(*urls: str) -> dict[str, str]:
    servers = "".join(f'[servers.s{n}]\nurl = "{url}"\nauth = "oauth"\n' for n, url in enumerate(urls))
    return {"servers.toml": servers, "policies/agents.toml": POLICY}


async def ask(agent: HttpAgent, method: str, **params: Any) -> Any:
    return (await to_thread.run_sync(lambda: agent.ask(method, params))).message


async def call(agent: HttpAgent, tool: str, person: str) -> Any:
    """Call a tool as a program of `person`'s does: open the page that it is asked to, and try again."""
    said = await ask(agent, "tools/call", name=tool, arguments={})
    if "error" in said:
        assert said["error"]["code"] == -32042
        assert (await log_in(said["error"]["data"]["elicitations"][0]["url"], person)).status_code == 200
        return (await ask(agent, "tools/call", name=tool, arguments={}))["result"]
    result = said["result"]
    if result.get("resultType") == "input_required":
        [(key, question)] = result["inputRequests"].items()
        assert (await log_in(question["params"]["url"], person)).status_code == 200
        again = {"inputResponses": {key: {"action": "accept"}}, "requestState": result["requestState"]}
        said = await ask(agent, "tools/call", name=tool, arguments={}, **again)
        assert "result" in said, said
        result = said["result"]
    return result


async def tools_of(agent: HttpAgent) -> set[str]:
    return {tool["name"] for tool in (await ask(agent, "tools/list"))["result"]["tools"]}


@pytest.mark.slow
async def test_each_agent_logs_in_in_its_own_way_and_no_planted_secret_shows_anywhere(tmp_path: Path) -> None:
    async with world() as w, gateway_in(tmp_path, files_for(w.url)) as gateway:
        keys = {name: await to_thread.run_sync(gateway.key, name) for name in ("alice", "bob")}
        alice = HttpAgent(gateway.url, keys["alice"], "modern", capabilities=CAN_OPEN)
        bob = await to_thread.run_sync(lambda: HttpAgent(gateway.url, keys["bob"], "legacy", capabilities=CAN_OPEN))
        plain = HttpAgent(gateway.url, keys["bob"], "modern")
        assert await tools_of(alice) == {"s0__login"}
        assert "isError" in await call(alice, "s0__login", "alice")

        async def is_listed() -> bool:
            return await tools_of(alice) == {"s0__whoami", "s0__login"}

        async def is_listed_to_others() -> bool:  # from her list, until they have one of their own
            return "s0__whoami" in await tools_of(plain)

        await until(is_listed, within_s=30)
        await until(is_listed_to_others, within_s=30)
        refused = (await ask(plain, "tools/call", name="s0__whoami", arguments={}))["result"]
        assert refused["isError"] and f"{gateway.origin}/connect/" in refused["content"][0]["text"]
        for _ in range(3):
            assert (await call(alice, "s0__whoami", "nobody"))["content"][0]["text"] == "alice"
            assert (await call(bob, "s0__whoami", "bob"))["content"][0]["text"] == "bob"
        assert w.called_by == ["alice", "bob"] * 3
        for given in w.access.values():
            given.ends_at = 0  # revoked: the next call has to renew
        assert (await call(bob, "s0__whoami", "bob"))["content"][0]["text"] == "bob"
        status = json.loads((await to_thread.run_sync(lambda: gateway.run("login", "--status", "--json"))).stdout)
        log = (await to_thread.run_sync(lambda: gateway.run("log", "--json"))).stdout
        environ = Path(f"/proc/{gateway.process.pid}/environ")
        seen = {
            **{str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()},
            "alice": bytes(alice.heard),
            "bob": bytes(bob.heard) + bytes(plain.heard),
            "status": json.dumps(status).encode(),
            "log": log.encode(),
            "environment": environ.read_bytes() if environ.exists() else b"",
        }
        process = gateway.process
    assert process.stderr is not None
    assert [each["state"] for each in status] == ["valid", "valid"]
    assert any(name.endswith("vault.db-wal") for name in seen)
    secrets = [*w.access, *w.refresh, *w.clients.values(), *w.codes]
    assert len(secrets) > 5
    assert [name for name, content in seen.items() for secret in secrets if secret.encode() in content] == []


def request_for(tool: str) -> Request:
    return Request(new_request_id(), Verb.CALL, "tools/call", Kind.TOOL, tool, {"name": tool, "arguments": {}})


def caller(person: str, agent: str) -> Caller:
    return Caller(agent, "work", person, claims={"iss": "https://idp.example"})


async def person_logs_in(parts: Running, upstream: str, person: str, base_url: str) -> None:
    party = parts.broker.party(upstream)
    assert party is not None
    owner = Owner(owner_id(person, "https://idp.example"), person, "https://idp.example", "alice")
    page = parts.broker.consents.begin(owner, party, (), base_url).page
    shown = await log_in(page, person)
    assert shown.status_code == 200, shown.text


@asynccontextmanager
async def behind_oidc(folder: Path, count: int, ttl_s: int = 3600) -> AsyncIterator[tuple[Running, list[Any]]]:
    """Upstreams behind one real authorization server, in which alice and bob have logged in to all of them."""
    async with AsyncExitStack() as stack:
        issuer = await stack.enter_async_context(oidc_provider(ttl_s))
        servers = await stack.enter_async_context(guarded_servers(issuer, count))
        files = files_for(*(server.url for server in servers))
        parts = await stack.enter_async_context(running_in(folder, files))
        for n in range(count):
            for person in ("alice", "bob"):
                await person_logs_in(parts, f"s{n}", person, await parts.pages_at())
        for n in range(count):
            await until(lambda n=n: parts.gateway.snapshot.catalog.find(Kind.TOOL, f"s{n}__whoami"), within_s=10)  # type: ignore[misc]
        yield parts, servers


@pytest.mark.slow
@requires_node
async def test_ten_thousand_interleaved_calls_each_arrive_with_the_right_persons_token(tmp_path: Path) -> None:
    async with behind_oidc(tmp_path, 5) as (parts, _):

        async def work(worker: int) -> None:
            for n in range(worker, 10_000, 50):
                person, agent = ("alice", "bob")[n % 2], ("alice", "bob")[n // 2 % 2]
                outcome = await parts.gateway.ask(
                    caller(person, agent), request_for(f"s{n // 4 % 5}__whoami"), RecordingReply()
                )
                assert outcome.result is not None
                assert outcome.result["content"][0]["text"] == person

        await asyncio.gather(*(work(worker) for worker in range(50)))


@pytest.mark.slow
@requires_node
async def test_tokens_of_a_real_server_are_rotated_under_load_and_end_when_it_says_so(tmp_path: Path) -> None:
    async with behind_oidc(tmp_path, 1, ttl_s=4) as (parts, _):

        async def asked(person: str) -> OutcomeStatus:
            outcome = await parts.gateway.ask(caller(person, "alice"), request_for("s0__whoami"), RecordingReply())
            assert outcome.result is not None and outcome.result["content"][0]["text"] == person
            return outcome.status

        first = {row.owner: row.version for row in await parts.broker.vault.rows()}

        async def all_renewed() -> bool:
            await asyncio.gather(*(asked(person) for person in ("alice", "bob") * 10))
            rows = await parts.broker.vault.rows()
            return all(row.version >= first[row.owner] + 2 for row in rows)

        await until(all_renewed, within_s=60)
        assert await parts.broker.log_out(owner_id("alice", "https://idp.example"), "s0")
        with pytest.raises(ConsentNeeded):
            await asked("alice")
        assert await asked("bob") is OutcomeStatus.OK


async def test_a_person_beyond_this_machine_is_sent_to_the_operator_not_to_a_page(tmp_path: Path) -> None:
    async with world() as w, running_in(tmp_path, files_for(w.url)) as parts:
        parts.serve_pages_at("http://127.0.0.1:1")
        with pytest.raises(ConsentNeeded) as needed:
            await parts.gateway.ask(caller("alice", "bob"), request_for("s0__login"), RecordingReply())
        assert needed.value.url == ""
        assert "mcp-gateway login s0 --person alice --issuer https://idp.example" in str(needed.value)


async def test_a_page_is_offered_where_it_can_be_told_who_opens_it(tmp_path: Path) -> None:
    async def is_right(person: str, password: str, peer: str) -> bool:
        return False

    async with AsyncExitStack() as stack:
        w = await stack.enter_async_context(world())
        files = files_for(w.url)
        files["servers.toml"] += '[identity]\nurl = "https://gw.example"\n'
        parts = await stack.enter_async_context(running_in(tmp_path, files))
        parts.serve_pages_at("http://127.0.0.1:1")
        parts.pages.accounts = Accounts("https://idp.example", is_right)
        with pytest.raises(ConsentNeeded) as needed:
            await parts.gateway.ask(caller("alice", "bob"), request_for("s0__login"), RecordingReply())
        assert needed.value.url.startswith("https://gw.example/connect/")
        with pytest.raises(ConsentNeeded) as needed:
            await parts.gateway.ask(Caller("bob", "work"), request_for("s0__login"), RecordingReply())
        assert needed.value.url == "", "an agent's own login is no page for the world"


async def test_one_persons_resources_are_not_listed_to_everybody(tmp_path: Path) -> None:
    async with world() as w, running_in(tmp_path, files_for(w.url)) as parts:
        assert isinstance(w, World)
        assert {target.key for target in parts.gateway.snapshot.catalog.targets(Kind.TOOL)} == {"s0/login"}
        assert parts.gateway.snapshot.catalog.targets(Kind.RESOURCE) == ()
