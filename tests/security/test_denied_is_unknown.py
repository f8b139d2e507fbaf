"""Every method, in both eras and over both transports: what is hidden reads exactly like what does not exist.

A real gateway process over upstreams that write down what reaches them. For each method an agent asks for something it
may use, something hidden, something of another agent's and something unknown; the refusals are compared byte by byte.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fakes.gateway_process import GatewayProcess, serving
from fakes.raw_agents import TASKS, HttpAgent, Said, StdioAgent, stdio_agent

pytestmark = pytest.mark.slow  # its gateway has many parts to start

SERVER = Path(__file__).parents[1] / "fakes" / "counting_stdio.py"
MARK = b"zanzibar"
ERAS = ["modern", "legacy"]
WAYS = ["http", "stdio"]
CAN = {**TASKS, "elicitation": {"form": {}}}

POLICY = """
[agents.alice]
tasks = ["work", "rest"]
default_task = "work"

[agents.bob]
tasks = ["other"]
default_task = "other"

[tasks.work]
allow = ["m/open", "m/job", "m/ask", "l/open", "b/bulk_*", "b/open", "prompt:m/open", "resource:m/note:///open",
         "resource:m/shelf:///open/**"]

[[tasks.work.grant]]
tools = ["m/depends"]
when = 'args.path == "safe"'

[tasks.rest]
allow = ["m/rest"]

[tasks.other]
allow = ["m/bobs", "m/job", "prompt:m/bobs", "resource:m/note:///bobs", "b/bulk_*"]
"""

Agent = HttpAgent | StdioAgent


def server(name: str, log: Path, *habits: str) -> str:
    command = [sys.executable, "-S", "-E", str(SERVER), str(log), *habits]
    return f"[servers.{name}]\ncommand = {json.dumps(command)}\n"


@dataclass
class House:
    """A gateway, its agents, and what its upstreams wrote down."""

    gateway: GatewayProcess
    logs: list[Path]
    agents: dict[tuple[str, str], Agent]
    bob: dict[str, HttpAgent] = field(default_factory=dict)
    gateway_key: str = ""

    def reached(self) -> list[dict[str, Any]]:
        """What agents asked of upstreams so far: all requests but those the gateway makes by itself."""
        own = ("list", "discover", "initialize", "ping", "setLevel", "listen")
        lines = [json.loads(line) for log in self.logs for line in log.read_text().splitlines()]
        return [m for m in lines if "method" in m and "id" in m and not m["method"].endswith(own)]

    def rows(self) -> int:
        with sqlite3.connect(self.gateway.folder / "audit.db") as db:
            found = int(db.execute("SELECT count(*) FROM calls").fetchone()[0])
        db.close()
        return found

    def last_row(self) -> tuple[Any, ...]:
        with sqlite3.connect(self.gateway.folder / "audit.db") as db:
            columns = "agent, decision, reason, outcome, upstream"
            row = db.execute(f"SELECT {columns} FROM calls ORDER BY seq DESC LIMIT 1").fetchone()  # noqa: S608
        db.close()
        return tuple(row)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("matrix")
    logs = [folder / f"{name}.log" for name in "mlvb"]
    servers = [
        server("m", logs[0]),
        server("l", logs[1], "legacy", "tools-only"),
        server("v", logs[2], "vault", "tools-only"),
        server("b", logs[3], "bulk", "tools-only"),
    ]
    files = {"servers.toml": "".join(servers), "policies/all.toml": POLICY}
    with serving(folder, files) as gateway, stdio_agent(folder, "alice", capabilities=CAN) as stdio:
        key, bobs = gateway.key("alice"), gateway.key("bob")
        agents: dict[tuple[str, str], Agent] = {
            (era, "http"): HttpAgent(gateway.url, key, era, capabilities=CAN) for era in ERAS
        }
        agents |= {(era, "stdio"): stdio for era in ERAS}
        bob = {era: HttpAgent(gateway.url, bobs, era, capabilities=CAN) for era in ERAS}
        yield House(gateway, logs, agents, bob, key)
        for agent in agents.values():
            assert MARK not in agent.heard, "over all that was said to alice in this file"


def agent_of(house: House, era: str, way: str) -> Agent:
    agent = house.agents[era, way]
    agent.era = era
    return agent


@dataclass(frozen=True)
class Case:
    """One method: how its params name something, and names to put there (all equally long where they are denied)."""

    method: str
    allowed: str
    denied: tuple[str, ...]
    unknown: str

    def params(self, name: str) -> dict[str, Any]:
        if self.method == "completion/complete":
            kind = "ref/resource" if "://" in name else "ref/prompt"
            ref = {"type": kind, ("uri" if "://" in name else "name"): name}
            return {"ref": ref, "argument": {"name": "id", "value": ""}}
        if self.method == "tools/call":
            return {"name": name, "arguments": {"path": "unsafe", "region": "eu"}}
        return {"name": name} if self.method == "prompts/get" else {"uri": name}


CASES = [
    Case(
        "tools/call",
        "m__open",
        ("m__hidden", "m__hidden_header", "m__bobs", "m__rest", "m__depends", "v__open", "l__hidden", "v__hidden"),
        "m__nothing",
    ),
    Case("prompts/get", "m__open", ("m__hidden", "m__bobs", "v__open"), "m__nothing"),
    Case(
        "resources/read",
        "shelf:///open/1",
        ("note:///hidden", "note:///bobs", "shelf:///hidden/1"),
        "note:///nothing",
    ),
    Case("completion/complete", "m__open", ("m__hidden", "m__bobs"), "m__nothing"),
    Case("completion/complete", "shelf:///open/{id}", ("shelf:///hidden/{id}",), "shelf:///nothing/{id}"),
]
IDS = [f"{case.method}-{'template' if '{' in case.unknown else 'name'}" for case in CASES]


def without(said: Said, name: str) -> tuple[int, bytes]:
    """An answer with the name that was asked for taken out."""
    return said.status, said.body.replace(name.encode(), b"NAME")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_hidden_and_unknown_read_the_same_reach_nobody_and_are_one_row_each(
    house: House, case: Case, era: str, way: str
) -> None:
    agent = agent_of(house, era, way)
    before, rows = len(house.reached()), house.rows()
    unknown = without(agent.ask(case.method, case.params(case.unknown)), case.unknown)
    assert house.last_row()[:4] == ("alice", "denied", "unknown_target", "refused")
    for name in case.denied:
        said = agent.ask(case.method, case.params(name))
        assert without(said, name) == unknown
        assert "error" in said.message
        assert house.last_row()[:2] == ("alice", "denied")
    assert len(house.reached()) == before
    assert house.rows() == rows + 1 + len(case.denied)
    said = agent.ask(case.method, case.params(case.allowed))
    assert "result" in said.message, said
    assert len(house.reached()) == before + 1
    row = house.last_row()
    assert (row[1], row[3]) == ("allowed", "ok")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("id_", [1, "1", "x" * 256, -5])
@pytest.mark.parametrize("era", ERAS)
def test_a_refusal_bears_the_id_of_its_request_and_nothing_of_the_policy(
    house: House, era: str, way: str, id_: Any
) -> None:
    said = agent_of(house, era, way).ask("tools/call", {"name": "m__hidden"}, id_)
    assert said.message["id"] == id_
    assert type(said.message["id"]) is type(id_)
    for word in (b"polic", b"grant", b"deny", b"denied", b"task", b".toml"):
        assert word not in said.body.replace(b"x" * 256, b"")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "method", ["tools/list", "prompts/list", "resources/list", "resources/templates/list", "discover"]
)
def test_lists_and_instructions_show_nothing_hidden_and_are_one_row_each(
    house: House, method: str, era: str, way: str
) -> None:
    agent, rows = agent_of(house, era, way), house.rows()
    if method == "discover":
        if era == "modern":
            assert MARK not in agent.ask("server/discover").body
        elif isinstance(agent, HttpAgent):
            assert MARK not in agent.hello.body
        return
    cursor: str | None = None
    pages = 0
    while True:
        said = agent.ask(method, {"cursor": cursor} if cursor else {})
        result = said.message["result"]
        pages += 1
        text = said.body
        assert MARK not in text
        assert b"hidden" not in text
        assert b"bobs" not in text
        if (cursor := result.get("nextCursor")) is None:
            break
    assert house.rows() == rows + pages
    assert pages == (2 if method == "tools/list" else 1)


@pytest.mark.parametrize("era", ERAS)
def test_a_cursor_of_another_agent_reads_like_garbage_and_is_written_down(house: House, era: str) -> None:
    alice, bob = agent_of(house, era, "http"), house.bob[era]
    cursor = alice.ask("tools/list").message["result"]["nextCursor"]
    garbage = base64.urlsafe_b64encode(b"x" * 24).decode()
    rows = house.rows()
    refused = [bob.ask("tools/list", {"cursor": each}).body for each in (cursor, garbage, cursor[:-1], "x")]
    assert len(set(refused)) == 1
    assert house.rows() == rows + 4
    assert house.last_row()[:3] == ("bob", "denied", "misuse")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
def test_a_wire_task_of_another_agent_reads_like_one_that_is_not(house: House, method: str, way: str) -> None:
    alice, bob = agent_of(house, "modern", way), house.bob["modern"]
    mine = alice.ask("tools/call", {"name": "m__job"}).message["result"]["taskId"]
    bobs = bob.ask("tools/call", {"name": "m__job"}).message["result"]["taskId"]
    more = {"inputResponses": {}} if method == "tasks/update" else {}
    before, rows = len(house.reached()), house.rows()
    altered = mine[:40] + ("A" if mine[40] != "A" else "B") + mine[41:]
    spelled = mine.replace("-", "+").replace("_", "/")
    wrong = [bobs, altered, mine[:-4], "job-0", "nothing", *([spelled] if spelled != mine else [])]
    refused = [without(alice.ask(method, {"taskId": each, **more}), each) for each in wrong]
    assert len(set(refused)) == 1, refused
    assert len(house.reached()) == before
    assert house.rows() == rows + len(wrong)
    assert house.last_row()[:3] == ("alice", "denied", "misuse")
    assert "result" in alice.ask(method, {"taskId": mine, **more}).message
    assert len(house.reached()) == before + 1


@pytest.mark.parametrize("method", ["tasks/get", "tasks/cancel"])
def test_a_wire_task_is_nothing_on_another_task_of_the_same_agent(house: House, method: str) -> None:
    alice = agent_of(house, "modern", "http")
    mine = alice.ask("tools/call", {"name": "m__job"}).message["result"]["taskId"]
    key = house.gateway.key("alice")
    resting = HttpAgent(house.gateway.url, key, "modern", path="/rest", capabilities=CAN)
    before = len(house.reached())
    assert resting.ask(method, {"taskId": mine}).message["error"]["message"] == "Unknown task"
    assert len(house.reached()) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_request_state_works_once_for_its_caller_however_it_is_spelled(house: House, way: str) -> None:
    alice = agent_of(house, "modern", way)
    asked = alice.ask("tools/call", {"name": "m__ask"}).message["result"]
    state = asked["requestState"]
    answers = {"q": {"action": "accept", "content": {}}}
    retry = {"name": "m__ask", "inputResponses": answers, "requestState": state}
    assert "content" in alice.ask("tools/call", retry).message["result"]
    before, rows = len(house.reached()), house.rows()
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = state.rstrip("=")
    other = last[:-1] + digits[digits.index(last[-1]) ^ 1] + state[len(last) :]
    plus = state.replace("-", "+").replace("_", "/")
    wrong = [state, other, plus, state.rstrip("="), state + "=", f" {state}", state[:-8], 5, {}]
    refused = {alice.ask("tools/call", {**retry, "requestState": each}).body for each in wrong}
    assert len(refused) == 1, refused
    assert len(house.reached()) == before
    assert house.rows() == rows + len(wrong)
    assert house.last_row()[:3] == ("alice", "denied", "misuse")


def test_a_request_state_is_nothing_for_another_agent_tool_or_arguments(house: House) -> None:
    alice, bob = agent_of(house, "modern", "http"), house.bob["modern"]
    state = alice.ask("tools/call", {"name": "m__ask"}).message["result"]["requestState"]
    retry = {"inputResponses": {}, "requestState": state}
    before = len(house.reached())
    for agent, name, arguments in (
        (bob, "m__ask", None),
        (bob, "m__bobs", None),
        (alice, "m__open", None),
        (alice, "m__ask", {"path": "x"}),
    ):
        more = {} if arguments is None else {"arguments": arguments}
        assert "error" in agent.ask("tools/call", {"name": name, **more, **retry}).message
    assert len(house.reached()) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_legacy_subscription_to_what_is_hidden_reads_like_one_to_nothing(house: House, way: str) -> None:
    alice = agent_of(house, "legacy", way)
    names = ("note:///hidden", "note:///bobs", "note:///nothing", "shelf:///hidden/1")
    before = len(house.reached())
    refused = {without(alice.ask("resources/subscribe", {"uri": uri}), uri) for uri in names}
    assert len(refused) == 1
    assert b"error" in next(iter(refused))[1]
    assert len(house.reached()) == before


def test_listening_to_what_is_hidden_is_acknowledged_like_listening_to_nothing(house: House) -> None:
    alice = agent_of(house, "modern", "stdio")
    assert isinstance(alice, StdioAgent)

    def acknowledged(uris: list[str], id_: str) -> bytes:
        meta = request_meta()
        wanted = {"notifications": {"resourceSubscriptions": uris, "toolsListChanged": True}, "_meta": meta}
        body = {"jsonrpc": "2.0", "id": id_, "method": "subscriptions/listen", "params": wanted}
        alice.send(json.dumps(body).encode())
        line = alice.line()
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id_}}
        alice.send(json.dumps(cancel).encode())
        return line.replace(id_.encode(), b"ID")

    hidden = acknowledged(["note:///hidden", "note:///bobs"], "listen-1")
    assert b"acknowledged" in hidden
    assert hidden == acknowledged(["note:///nothing", "note:///no"], "listen-2")
    assert b"note:///" not in hidden


def request_meta() -> dict[str, Any]:
    return {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    }


@pytest.mark.parametrize("method", ["tools/list", "tools/call", "server/discover"])
@pytest.mark.parametrize(
    "path", ["/nothing", "/other", "/..", "/%2e%2e", "/wor%6b", "/work/..", "//work", "/WORK", "/%C3%A9"]
)
def test_a_path_of_no_task_of_ones_own_never_falls_back_to_another(house: House, path: str, method: str) -> None:
    agent = HttpAgent(house.gateway.url, house.gateway_key, "modern", path=path)
    said = agent.ask(method, {"name": "m__open"} if method == "tools/call" else {})
    assert said.status in (400, 404)
    assert b"result" not in said.body


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("era", ERAS)
def test_what_an_agent_hears_is_kept_and_has_nothing_hidden_in_it(house: House, era: str, way: str) -> None:
    """The fixture holds all other tests of this file to the same when it ends."""
    agent = agent_of(house, era, way)
    for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list"):
        agent.ask(method, {})
    assert len(agent.heard) > 1000
    assert MARK not in agent.heard
