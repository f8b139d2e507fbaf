"""A whole front door over one scripted upstream: real catalog, policy, audit and keys; HTTP over a real socket.

The upstream `u` has twins: for each tool, prompt and resource that `alice` may use there is one that nobody may.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx2

from fakes.upstream import FakeUpstream
from fakes.waiting import until
from mcp_gateway.audit.log import AuditLog
from mcp_gateway.catalog.catalog import build
from mcp_gateway.catalog.pages import Cursors
from mcp_gateway.config.identity import IdentityConfig
from mcp_gateway.domain import Caller, Credential, Json, Listing
from mcp_gateway.frontdoor.answers import SERVER_INFO, Answers
from mcp_gateway.frontdoor.challenges import Challenges
from mcp_gateway.frontdoor.doorstep import Doorstep
from mcp_gateway.frontdoor.exchange import Closers
from mcp_gateway.frontdoor.housekeeping import close_revoked
from mcp_gateway.frontdoor.http import HttpDoor
from mcp_gateway.frontdoor.http_server import Server, listening_socket
from mcp_gateway.frontdoor.legacy import LegacyDoor
from mcp_gateway.frontdoor.listen import Bulletin
from mcp_gateway.frontdoor.login_pages import LoginPages
from mcp_gateway.frontdoor.modern import ModernDoor
from mcp_gateway.frontdoor.parking import ParkingLot
from mcp_gateway.frontdoor.rounds import Rounds
from mcp_gateway.frontdoor.seals import Seals
from mcp_gateway.frontdoor.task_news import TaskNews
from mcp_gateway.frontdoor.updates import Updates
from mcp_gateway.frontdoor.wire_tasks import WIRE_TASK_TTL_S, WireTasks
from mcp_gateway.gateway import Gateway, Snapshot
from mcp_gateway.guards.order import Guards
from mcp_gateway.guards.transactions import Transactions
from mcp_gateway.identity.key_source import KeySource
from mcp_gateway.identity.keys import Keys
from mcp_gateway.identity.login import AuthorizationServer, signing_key
from mcp_gateway.identity.started import StartedTasks, TaskTokenCheck
from mcp_gateway.identity.trust import resource_of, tokens_of
from mcp_gateway.identity.verify import ApiKeyCheck, Verifier
from mcp_gateway.netguard import Allowed, Fetcher
from mcp_gateway.policy.compile import compile_policy
from mcp_gateway.policy.document import from_sources
from mcp_gateway.storage.logins import LoginStore
from mcp_gateway.storage.used import UsedOnce

APPROVAL_WAIT_S = 0.05
"""How long a call that needs a person is held here."""

VERSION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loading certificates takes longer than most tests here
ACCEPT = "application/json, text/event-stream"

POLICY = """
[agents.alice]
tasks = ["work", "rest"]
default_task = "work"

[agents.bob]
tasks = ["other"]
default_task = "other"

[agents.idle]
tasks = ["rest"]

[tasks.work]
purpose = "the tests"
allow = ["u/echo", "u/second", "u/hang", "u/routed", "prompt:u/greet", "resource:u/note:///open",
         "resource:u/shelf:///open/**"]

[[tasks.work.grant]]
tools = ["u/careful"]
when = 'args.path == "safe"'

[tasks.other]
purpose = "another one"
allow = ["u/echo"]

[tasks.rest]
purpose = "nothing at all"
"""

_ROUTED = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}


def tool(name: str, schema: Json | None = None) -> Json:
    return {"name": name, "description": f"does {name}", "inputSchema": schema or {"type": "object"}}


def listing(*more_tools: str) -> Listing:
    """What `u` offers."""
    names = ("echo", "second", "hang", "careful", "secret", *more_tools)
    return Listing(
        upstream="u",
        tools=(*(tool(name) for name in names), tool("routed", _ROUTED), tool("secret_routed", _ROUTED)),
        prompts=({"name": "greet"}, {"name": "hush"}),
        resources=({"uri": "note:///open", "name": "open"}, {"uri": "note:///shut", "name": "shut"}),
        templates=(
            {"uriTemplate": "shelf:///open/{id}", "name": "open shelf"},
            {"uriTemplate": "shelf:///shut/{id}", "name": "shut shelf"},
        ),
    )


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Front:
    """The parts of one running front door."""

    folder: Path
    gateway: Gateway
    audit: AuditLog
    answers: Answers
    bulletin: Bulletin
    closers: Closers
    legacy: LegacyDoor
    door: HttpDoor
    keys: Keys
    verifier: Verifier
    u: FakeUpstream
    health: dict[str, Any]
    rounds: Rounds
    updates: Updates
    task_news: TaskNews
    tasks: StartedTasks
    transactions: Transactions
    login: AuthorizationServer | None = None
    tokens: dict[str, str] = field(default_factory=dict)
    port: int = 0
    http: httpx2.AsyncClient = field(default_factory=lambda: httpx2.AsyncClient(verify=_NO_TLS, trust_env=False))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def token(self, agent: str = "alice") -> str:
        """An API key of `agent`, always the same one."""
        if agent not in self.tokens:
            self.tokens[agent], _ = self.keys.create(agent, None, utc_now())
        return self.tokens[agent]

    def caller(self, agent: str = "alice", task: str | None = "work") -> Caller:
        return Caller(agent=agent, task=task, credential_id="test")

    def start(self, agent: str = "alice", task: str = "work", minutes: float = 30, **context: Any) -> str:
        """The token of a task that was just started."""
        return self.tasks.start(agent, task, timedelta(minutes=minutes), utc_now(), context=context)[0]

    def end(self, token: str) -> None:
        """End a started task and do what housekeeping does next."""
        assert self.tasks.end(token.split("_")[1], utc_now())
        close_revoked(self.closers, self.verifier, utc_now)

    def revoke(self, agent: str = "alice") -> None:
        """Revoke `agent`'s key and do what housekeeping does next."""
        [record] = [record for record in self.keys.list() if record.agent == agent]
        assert self.keys.revoke(record.public_id, utc_now())
        close_revoked(self.closers, self.verifier, utc_now)

    def offer(self, *more_tools: str, policy: str = "") -> None:
        """Swap in a snapshot in which `u` offers more tools, or another policy holds, and tell whom it concerns."""
        self.gateway.swap(snapshot(self.u, listing(*more_tools), policy or POLICY))
        self.bulletin.publish()

    def events(self) -> list[tuple[str, str]]:
        """The audit's events (kind, name), oldest first."""
        database = sqlite3.connect(self.folder / "audit.db")
        try:
            return database.execute("SELECT kind, name FROM entries WHERE request_id IS NULL ORDER BY seq").fetchall()
        finally:
            database.close()

    def tokens_known(self) -> int:
        """How many tokens the door remembers."""
        assert self.verifier._tokens is not None
        return len(self.verifier._tokens._known)

    def key_source(self) -> KeySource:
        """Where the first issuer's keys come from."""
        assert self.verifier._tokens is not None
        [source, *_] = [issuer.keys for issuer in self.verifier._tokens._issuers.values()]
        assert source is not None
        return source

    def now_is(self, now: datetime) -> None:
        """The door's clock stands still from now on."""
        self.door._clock = lambda: now

    async def post(self, body: Any, agent: str = "alice", path: str = "", **headers: str) -> httpx2.Response:
        """POST bytes, or anything as JSON, with the headers every client sends; `_` in names stands for `-`."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.http.post(self.url + path, content=content, headers=self.headers(agent, **headers))

    def headers(self, agent: str = "alice", **more: str) -> dict[str, str]:
        named = {name.replace("_", "-"): value for name, value in more.items()}
        base = {"authorization": f"Bearer {self.token(agent)}", "content-type": "application/json", "accept": ACCEPT}
        return {name: value for name, value in {**base, **named}.items() if value != ""}

    async def modern(self, method: str, params: Json | None = None, **kwargs: Any) -> httpx2.Response:
        """One request of 2026-07-28, its headers derived from its body unless given."""
        message, headers = modern_request(method, params, kwargs.pop("id_", 1))
        return await self.post(message, **{**headers, **kwargs})

    async def call(self, name: str, arguments: Json | None = None, **kwargs: Any) -> httpx2.Response:
        return await self.modern("tools/call", {"name": name, "arguments": arguments or {}}, **kwargs)

    async def handshake(self, agent: str = "alice", version: str = "2025-11-25") -> str:
        """Open a session; returns its id."""
        response = await self.post(initialize(version), agent)
        assert response.status_code == 200, response.text
        return str(response.headers["mcp-session-id"])

    async def old(
        self, session: str, method: str, params: Json | None = None, id_: Any = 1, **kwargs: Any
    ) -> httpx2.Response:
        """One request of the handshake era."""
        return await self.post(request(method, params, id_), mcp_session_id=session, **kwargs)

    def rows(self, columns: str = "decision, outcome, name") -> list[tuple[Any, ...]]:
        """The audit's calls, oldest first."""
        database = sqlite3.connect(self.folder / "audit.db")
        try:
            return database.execute(f"SELECT {columns} FROM calls ORDER BY seq").fetchall()  # noqa: S608
        finally:
            database.close()


def request(method: str, params: Json | None = None, id_: Any = 1) -> Json:
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params or {}}


def initialize(version: str = "2025-11-25", id_: Any = 0) -> Json:
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    return request("initialize", params, id_)


def modern_request(method: str, params: Json | None = None, id_: Any = 1) -> tuple[Json, dict[str, str]]:
    """A request with its envelope, and the headers that belong to it."""
    given = params or {}
    message = request(method, {**given, "_meta": {**META, **given.get("_meta", {})}}, id_)
    headers = {"mcp_protocol_version": VERSION, "mcp_method": method}
    name = given.get("name") if method in ("tools/call", "prompts/get") else given.get("uri")
    if method in ("tools/call", "prompts/get", "resources/read") and isinstance(name, str):
        headers["mcp_name"] = name
    return message, headers


def events(body: str) -> list[Json]:
    """The JSON-RPC messages of an event stream."""
    return [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]


def answer_of(response: httpx2.Response) -> Json:
    """The message that answers, whether it came as JSON or as the last event."""
    if response.headers["content-type"].startswith("text/event-stream"):
        return events(response.text)[-1]
    return dict(response.json())


def snapshot(u: FakeUpstream, offered: Listing, policy: str = POLICY) -> Snapshot:
    async def no_credential(caller: Caller, upstream: str) -> Credential:
        return Credential()

    return Snapshot(
        catalog=build([offered], {}),
        policy=compile_policy(from_sources({"policies/test.toml": policy})),
        guards=Guards(),
        upstreams={u.name: u},
        credential_for=no_credential,
        instructions={"u": "Use echo."},
    )


@asynccontextmanager
async def parts(
    folder: Path,
    *,
    anonymous: str | None = None,
    page_size: int = 1000,
    identity: IdentityConfig | None = None,
    policy: str = POLICY,
    search_above: int = 0,
    **step: Any,
) -> AsyncIterator[Front]:
    """Everything but the socket. `identity`: whose tokens are believed. `step` are settings of the `Doorstep`."""
    u = FakeUpstream("u")
    keys = Keys(folder / "state")
    trusted, fetcher = identity or IdentityConfig(), Fetcher(Allowed.of(["127.0.0.0/8"]))
    async with AsyncExitStack() as stack:
        audit = await stack.enter_async_context(AuditLog.opened(folder / "audit.db", folder / "state"))
        stack.push_async_callback(fetcher.aclose)
        tasks, transactions = StartedTasks(folder / "state"), Transactions(folder / "state", utc_now, APPROVAL_WAIT_S)
        gateway = Gateway(snapshot(u, listing(), policy), audit, utc_now, page_size, transactions)
        login = None
        if trusted.login is not None:
            store = LoginStore(folder / "state")
            stack.callback(store.close)
            login = AuthorizationServer(trusted.url, trusted.login, store, signing_key(b"k" * 32), fetcher, time.time)
            await login.learn_of_revocations()
        tokens = tokens_of(trusted, fetcher, lambda: gateway.snapshot.policy, login)
        if tokens is not None:
            await stack.enter_async_context(tokens.kept_fresh())
        challenges = Challenges(resource_of(trusted))
        ids = iter(range(1, 1_000_000))
        wire_tasks = WireTasks(Seals(b"k" * 32, "wire task", WIRE_TASK_TTL_S), time.time)
        updates = Updates(gateway, lambda: f"r-{next(ids)}")
        answers = Answers(gateway, Cursors(b"k" * 32), lambda: f"r-{next(ids)}", wire_tasks, updates, search_above)
        task_news = TaskNews(gateway, wire_tasks, lambda: f"r{next(ids)}")
        bulletin, closers = Bulletin(gateway, SERVER_INFO, updates, task_news), Closers()
        used = UsedOnce(folder / "state")
        rounds = Rounds(answers, ParkingLot(closers), Seals(b"k" * 32, "request state", 600), time.time, used.take)
        legacy = LegacyDoor(answers, bulletin, closers, challenges)
        modern = ModernDoor(gateway, rounds, bulletin, closers, challenges)
        checks = [ApiKeyCheck(keys), TaskTokenCheck(tasks)]
        verifier = Verifier(checks, anonymous, tasks, "task", tokens)
        health: dict[str, Any] = {"ok": True, "ready": True}
        doorstep = Doorstep(**step)
        doors, tell = (modern, legacy), lambda: health
        pages = login and LoginPages(login, doorstep, audit, Seals(b"k" * 32, "login form", 600), time.time)
        door = HttpDoor(gateway, doorstep, verifier, audit, doors, tell, utc_now, challenges, pages)
        yield Front(
            *(folder, gateway, audit, answers, bulletin, closers, legacy, door, keys, verifier, u, health, rounds),
            *(updates, task_news, tasks, transactions, login),
        )
        transactions.close()
        tasks.close()
    keys.close()


@asynccontextmanager
async def front(folder: Path, max_header_bytes: int = 64 * 1024, **settings: Any) -> AsyncIterator[Front]:
    """A front door that listens."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(parts(folder, max_header_bytes=max_header_bytes, **settings))
        server = Server(made.door, made.closers, max_header_bytes)
        made.port = await stack.enter_async_context(listening(server))
        await stack.enter_async_context(made.http)
        try:
            yield made
        finally:
            made.closers.close_where(lambda _: True)


@asynccontextmanager
async def listening(server: Server) -> AsyncIterator[int]:
    """uvicorn without its main loop and its signals, quick to stop; its port. `test_http_server` has it whole."""
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    with listening_socket("127.0.0.1", 0) as listener:
        await server.startup(sockets=[listener])
        try:
            yield listener.getsockname()[1]
        finally:
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            for task in list(server.server_state.tasks):
                task.cancel()
            await until(lambda: not (server.server_state.tasks or server.server_state.connections))
            for each in server.servers:
                each.close()


@dataclass
class RawAnswer:
    """What came back over a raw connection."""

    data: bytes
    closed: bool
    """Whether the gateway closed the connection by itself."""

    @property
    def statuses(self) -> list[int]:
        """The status of every response in it."""
        return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", self.data)]


_MARKER = b"GET /marker HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"


async def raw(port: int, *pieces: bytes, within_s: float = 5.0) -> RawAnswer:
    """Send bytes as they are and return all that comes back.

    A connection that stays open is sent one request more, so that nobody has to wait to see whether there is a second
    answer to the first; the answer to that one is left out.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data, marked = b"", False
    try:
        for piece in pieces:
            writer.write(piece)
        with anyio.fail_after(within_s):
            while chunk := await reader.read(65536):
                data += chunk
                if not marked and _is_whole(data):
                    marked = True
                    writer.write(_MARKER)
    except ConnectionError:
        pass
    finally:
        writer.close()
    before, marker, _ = data.rpartition(b"HTTP/1.1 404 Not Found")
    return RawAnswer(before, closed=False) if marked and marker else RawAnswer(data, closed=True)


def _is_whole(data: bytes) -> bool:
    head, blank, body = data.partition(b"\r\n\r\n")
    length = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(blank and length and len(body) >= int(length[0]))


def raw_post(front: Front, body: bytes, *lines: str, first: str = "POST /mcp HTTP/1.1") -> bytes:
    """A request as bytes: the usual headers but for those that `lines` give (several of a name are all sent)."""
    given = {line.split(":", 1)[0].lower() for line in lines}
    usual = {
        "host": f"127.0.0.1:{front.port}",
        "authorization": f"Bearer {front.token()}",
        "content-type": "application/json",
        "accept": ACCEPT,
        "content-length": str(len(body)),
    }
    kept = [f"{name}: {value}" for name, value in usual.items() if name not in given]
    sent = [line for line in lines if line.split(":", 1)[1].strip() != "-"]
    return "\r\n".join([first, *kept, *sent, "", ""]).encode("latin-1") + body


def without(mapping: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in set(names)}
