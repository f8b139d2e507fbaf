"""`serve --workers`: whichever process a request comes to, it is answered as by one gateway, and no process is missed.

Each request of a `HttpAgent` comes over a connection of its own, and connections go to the workers in turn: of two
requests one after the other, each worker gets one.
"""

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from fakes.asking_stdio import command as asking_command
from fakes.gateway_process import GatewayProcess, run_command, serving
from fakes.in_process import server_table
from fakes.raw_agents import ACCEPT, MODERN, HttpAgent, request

pytestmark = pytest.mark.slow

FAKES = Path(__file__).parents[1] / "fakes"
WITHIN_S = 30.0

POLICY = """
[agents.agent]
tasks = ["work"]
default_task = "work"

[agents.other]
tasks = ["work"]
default_task = "work"

[tasks.work]
allow = ["files/*", "changing/*"]

[[tasks.work.grant]]
tools = ["counted/open"]
limit = { calls = 10, per = "1h" }

[[tasks.work.grant]]
tools = ["asking/*"]
"""

TOOL = {"name": "first", "description": "the first", "inputSchema": {"type": "object"}}
FORM = {"elicitation": {"form": {}}}


def files(folder: Path) -> dict[str, str]:
    """A gateway over child processes that keep state; what `asking` offers was approved before."""
    counting = [sys.executable, "-S", "-E", str(FAKES / "counting_stdio.py"), "calls.log", "tools-only"]
    changing = [sys.executable, "-S", "-E", str(FAKES / "changing_stdio.py"), "offered.json"]
    servers = [
        server_table("files", "lists-all"),
        f"[servers.counted]\ncommand = {json.dumps(counting)}\n",
        f'[servers.changing]\ncommand = {json.dumps(changing)}\ntrust = "any"\n',
    ]
    return {
        "servers.toml": "\n".join(servers),
        "policies/agents.toml": POLICY,
        "offered.json": json.dumps({"tools": [TOOL]}),
    }


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("workers")
    with serving(folder, files(folder), workers=2) as running:
        yield running


def agent(gateway: GatewayProcess, name: str = "agent", era: str = "modern", **options: Any) -> HttpAgent:
    key = gateway.headers(name)["Authorization"].removeprefix("Bearer ")
    return HttpAgent(gateway.url, key, era, **options)


def until(condition: Any, within_s: float = WITHIN_S) -> Any:
    """Poll until `condition` returns something true."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return found


def family(gateway: GatewayProcess) -> list[psutil.Process]:
    return psutil.Process(gateway.process.pid).children(recursive=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    told = run_command(folder, "log", "--json", "--limit", "100000").stdout
    return [json.loads(line) for line in told.splitlines()]


def outcomes(folder: Path) -> dict[int, str]:
    """How calls that had a number among their arguments ended."""
    told = [(json.loads(row["args"] or "{}").get("number"), row["outcome"]) for row in rows(folder)]
    return {number: outcome for number, outcome in told if number is not None}


def text_of(said: Any) -> str:
    return str(said.message["result"]["content"][0]["text"])


def test_both_workers_answer_and_a_child_process_is_there_once(gateway: GatewayProcess) -> None:
    both = {agent(gateway, era="legacy").session[:2] for _ in range(4)}
    assert both == {"1-", "2-"}
    for number in range(6):
        said = agent(gateway).ask("tools/call", {"name": "files__echo", "arguments": {"number": number}})
        assert json.loads(text_of(said)) == {"number": number}
    commands = Counter(Path(each.cmdline()[3]).name for each in family(gateway) if "-S" in each.cmdline())
    assert commands == {"hostile_stdio.py": 1, "counting_stdio.py": 1, "changing_stdio.py": 1}


def test_what_is_listed_is_the_same_on_every_worker(gateway: GatewayProcess) -> None:
    found = [agent(gateway).ask("tools/list").message["result"]["tools"] for _ in range(4)]
    assert len(found[0]) > 5
    assert all(each == found[0] for each in found)


def test_a_page_of_a_list_may_be_asked_of_another_worker_than_the_one_before(tmp_path: Path) -> None:
    many = [{**TOOL, "name": f"tool_{number:03}"} for number in range(250)]
    written = {**files(tmp_path), "offered.json": json.dumps({"tools": many})}
    with serving(tmp_path, written, workers=2) as gateway:
        names: list[str] = []
        params: dict[str, Any] = {}
        while True:
            page = agent(gateway).ask("tools/list", params).message["result"]
            names += [tool["name"] for tool in page["tools"]]
            if "nextCursor" not in page:
                break
            params = {"cursor": page["nextCursor"]}
    assert {f"changing__tool_{number:03}" for number in range(250)} < set(names)
    assert len(names) == len(set(names))


def test_a_session_goes_on_whichever_worker_its_next_request_comes_to(gateway: GatewayProcess) -> None:
    one, other = agent(gateway, era="legacy"), agent(gateway, era="legacy")
    for number in range(6):
        for each in (one, other):
            said = each.ask("tools/call", {"name": "files__echo", "arguments": {"number": number}})
            assert json.loads(text_of(said)) == {"number": number}
    assert one.end() == 200
    assert {one.ask("tools/list").status for _ in range(4)} == {404}
    assert {other.ask("tools/list").status for _ in range(4)} == {200}


def test_one_connection_may_carry_sessions_of_several_workers(gateway: GatewayProcess) -> None:
    agents = [agent(gateway, era="legacy") for _ in range(4)]
    address = urlsplit(gateway.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=WITHIN_S)
    for number in range(12):
        headers = {
            **gateway.headers("agent"),
            "content-type": "application/json",
            "accept": ACCEPT,
            "mcp-session-id": agents[number % 4].session,
            "mcp-protocol-version": "2025-11-25",
        }
        params = {"name": "files__echo", "arguments": {"text": "x" * 300_000}}
        body = json.dumps(request("legacy", "tools/call", params, number, {})).encode()
        # In pieces, and every other time without saying how long it is.
        pieces = iter([body[:10], body[10:100_000], body[100_000:]])
        connection.request(
            "POST", address.path, pieces if number % 2 else body, headers, encode_chunked=bool(number % 2)
        )
        answer = json.loads(connection.getresponse().read())
        assert answer["id"] == number
        assert len(answer["result"]["content"][0]["text"]) > 300_000
    connection.close()


def test_a_session_is_its_agents_alone_on_every_worker(gateway: GatewayProcess) -> None:
    mine, strangers = agent(gateway, era="legacy"), agent(gateway, "other", era="legacy")
    strangers.session = mine.session
    assert {strangers.ask("tools/list").status for _ in range(4)} == {404}


def test_a_limit_is_exact_over_workers(gateway: GatewayProcess) -> None:
    def one(_: int) -> bool:
        said = agent(gateway).ask("tools/call", {"name": "counted__open", "arguments": {}})
        return bool(said.message["result"].get("isError"))

    agent(gateway)
    with ThreadPoolExecutor(16) as pool:
        assert Counter(pool.map(one, range(64))) == {False: 10, True: 54}
    log = (gateway.folder / "calls.log").read_text().splitlines()
    assert sum(json.loads(line).get("method") == "tools/call" for line in log) == 10


def test_a_revoked_key_is_refused_on_every_worker_at_once(gateway: GatewayProcess) -> None:
    made = json.loads(gateway.run("key", "create", "other", "--json").stdout)
    revoked = HttpAgent(gateway.url, made["key"], "modern")
    assert {revoked.ask("tools/list").status for _ in range(4)} == {200}
    gateway.run("key", "revoke", made["id"])
    assert {revoked.ask("tools/list").status for _ in range(4)} == {401}


class Listener:
    """An agent that hears of changed lists."""

    def __init__(self, gateway: GatewayProcess) -> None:
        address = urlsplit(gateway.url)
        self.connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=WITHIN_S)
        message = request("modern", "subscriptions/listen", {"notifications": {"toolsListChanged": True}}, 1, {})
        headers = {
            **gateway.headers("agent"),
            "content-type": "application/json",
            "accept": ACCEPT,
            "mcp-protocol-version": MODERN,
            "mcp-method": "subscriptions/listen",
        }
        self.connection.request("POST", address.path, json.dumps(message).encode(), headers)
        self.response = self.connection.getresponse()
        assert self.next() == "notifications/subscriptions/acknowledged"

    def next(self) -> str:
        while not (line := self.response.readline()).startswith(b"data: "):
            assert line, "the stream ended"
        return str(json.loads(line[6:])["method"])


def test_news_of_an_upstream_reach_agents_on_every_worker(gateway: GatewayProcess) -> None:
    listeners = [Listener(gateway) for _ in range(4)]
    more = {"tools": [TOOL, {**TOOL, "name": "second"}]}
    (gateway.folder / "offered.json").write_text(json.dumps(more))
    assert [each.next() for each in listeners] == ["notifications/tools/list_changed"] * 4
    for _ in range(4):
        names = {tool["name"] for tool in agent(gateway).ask("tools/list").message["result"]["tools"]}
        assert "changing__second" in names
    for each in listeners:
        each.connection.close()


def test_an_edit_of_the_policy_is_in_force_on_every_worker_and_noted_once(gateway: GatewayProcess) -> None:
    listeners = [Listener(gateway) for _ in range(2)]
    (gateway.folder / "policies/agents.toml").write_text(POLICY.replace('"files/*", ', '"files/echo", '))
    assert [each.next() for each in listeners] == ["notifications/tools/list_changed"] * 2
    for _ in range(4):
        names = {tool["name"] for tool in agent(gateway).ask("tools/list").message["result"]["tools"]}
        assert {name for name in names if name.startswith("files__")} == {"files__echo"}
    (gateway.folder / "policies/agents.toml").write_text(POLICY)
    assert [each.next() for each in listeners] == ["notifications/tools/list_changed"] * 2
    for each in listeners:
        each.connection.close()
    noted = gateway.run("log", "--kind", "policy", "--json", check=False).stdout.splitlines()
    assert len(noted) in (0, 2)  # as many as edits, where this kind of row is shown


def test_status_health_and_doctor_tell_the_workers(gateway: GatewayProcess) -> None:
    told = json.loads(gateway.run("status", "--json").stdout)["gateway"]
    assert [(one["number"], one["state"]) for one in told["workers"]] == [(1, "ready"), (2, "ready")]
    assert told["pid"] == gateway.process.pid
    address = urlsplit(gateway.url)
    for path in ("/health", "/ready", "/health", "/ready"):
        connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=WITHIN_S)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        assert json.loads(answer.read())["workers"] == {"of": 2, "ready": 2}
        connection.close()


def test_a_question_is_answered_whichever_worker_the_answer_comes_to(tmp_path: Path) -> None:
    servers = f"[servers.asking]\ncommand = {json.dumps(list(asking_command()))}\n"
    written = {"servers.toml": servers, "policies/agents.toml": POLICY}
    tool = {"name": "ask", "inputSchema": {"type": "object"}}
    changing = [sys.executable, "-S", str(FAKES / "asking_listed.py"), json.dumps(tool)]
    written["servers.toml"] = f"[servers.asking]\ncommand = {json.dumps(changing)}\n"
    with serving(tmp_path, written, workers=2) as gateway:
        for skipped in (0, 1, 0, 1):
            asked = agent(gateway, capabilities=FORM)
            first = asked.ask("tools/call", {"name": "asking__ask", "arguments": {}}).message["result"]
            assert first["resultType"] == "input_required"
            [key] = first["inputRequests"]
            for _ in range(skipped):  # so that the answer comes to either worker
                asked.ask("tools/list")
            given = {key: {"action": "accept", "content": {"name": "Ada"}}}
            retry = {"name": "asking__ask", "arguments": {}, "inputResponses": given}
            said = asked.ask("tools/call", {**retry, "requestState": first["requestState"]})
            assert text_of(said) == "Ada"
            again = asked.ask("tools/call", {**retry, "requestState": first["requestState"]})
            assert again.message["error"]["code"] == -32602


def under_load(gateway: GatewayProcess, stop: threading.Event) -> tuple[set[int], set[int]]:
    """Calls until told to stop: the numbers of those that were sent, and of those that were answered."""
    sent: set[int] = set()
    answered: set[int] = set()
    asking = agent(gateway)

    def work(first: int) -> None:
        for number in range(first, 1_000_000, 8):
            if stop.is_set():
                return
            sent.add(number)
            try:
                said = asking.ask("tools/call", {"name": "files__echo", "arguments": {"number": number}})
            except (OSError, http.client.HTTPException):
                continue  # the worker that had it is gone
            if said.status == 200 and not said.message["result"].get("isError"):
                assert json.loads(text_of(said)) == {"number": number}
                answered.add(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    return sent, answered


@pytest.mark.parametrize("victim", [1, 2])
def test_a_worker_killed_under_load_loses_no_row_and_comes_back(tmp_path: Path, victim: int) -> None:
    stop = threading.Event()
    with serving(tmp_path, files(tmp_path), workers=2) as gateway:
        agent(gateway)
        pids = {number: int(str(told["pid"])) for number, told in gateway.workers.items()}
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(under_load, gateway, stop)
            try:
                until(lambda: (tmp_path / "audit.db-wal").stat().st_size > 500_000 or load.done())
                os.kill(pids[victim], signal.SIGKILL)
                until(lambda: gateway.workers[victim]["restarts"] == 1)
                gateway.wait_for_workers(2)
            finally:
                stop.set()
            sent, answered = load.result(WITHIN_S)
        assert gateway.workers[3 - victim]["pid"] == pids[3 - victim]
        for number in range(4):
            said = agent(gateway).ask("tools/call", {"name": "files__echo", "arguments": {"again": number}})
            assert json.loads(text_of(said)) == {"again": number}
        children = [each for each in family(gateway) if "-S" in each.cmdline()]
        assert len(children) == 3
    assert run_command(tmp_path, "audit", "verify").returncode == 0
    found = outcomes(tmp_path)
    assert answered <= set(found) <= sent
    assert {found[number] for number in answered} == {"ok"}


def test_a_burst_of_connections_that_no_worker_has_room_for_loses_no_request(tmp_path: Path) -> None:
    count = 1_000
    with serving(tmp_path, files(tmp_path), workers=2, descriptors=512) as gateway:
        sessions = [agent(gateway, era="legacy") for _ in range(2)]  # one of each worker: half of them are handed on
        address = urlsplit(gateway.url)
        for number in range(count):
            call = {"name": "files__echo", "arguments": {"number": number}}
            body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": call})
            lines = [
                *("POST /mcp HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", f"Accept: {ACCEPT}"),
                f"Authorization: {gateway.headers('agent')['Authorization']}",
                f"Mcp-Session-Id: {sessions[number % 2].session}",
                *(f"Content-Length: {len(body)}", "", body),
            ]
            with closing(socket.create_connection((str(address.hostname), address.port or 0), WITHIN_S)) as one:
                one.sendall("\r\n".join(lines).encode())  # and it hangs up, which is no cancellation in this era
        assert agent(gateway, "other").ask("tools/list").status == 200
        until(lambda: len(outcomes(tmp_path)) == count)


def test_sessions_of_a_worker_that_died_are_told_to_begin_again(tmp_path: Path) -> None:
    with serving(tmp_path, files(tmp_path), workers=2) as gateway:
        agents = [agent(gateway, era="legacy") for _ in range(2)]
        theirs = next(each for each in agents if each.session.startswith("2-"))
        ours = next(each for each in agents if each.session.startswith("1-"))
        os.kill(int(str(gateway.workers[2]["pid"])), signal.SIGKILL)
        until(lambda: gateway.workers[2]["restarts"] == 1)
        gateway.wait_for_workers(2)
        assert {theirs.ask("tools/list").status for _ in range(2)} == {404}
        assert {ours.ask("tools/list").status for _ in range(2)} == {200}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_one_that_started_the_workers(tmp_path: Path, how: signal.Signals) -> None:
    with serving(tmp_path, files(tmp_path), workers=2) as gateway:
        everybody = family(gateway)
        assert len(everybody) == 5
        os.kill(gateway.process.pid, how)
        gateway.process.communicate()
        _, alive = psutil.wait_procs(everybody, timeout=WITHIN_S)
        assert not alive
        assert gateway.process.returncode == (0 if how is signal.SIGTERM else -how)
    assert run_command(tmp_path, "audit", "verify").returncode == 0


def test_what_several_workers_cannot_do_is_refused_at_the_start(tmp_path: Path) -> None:
    written = files(tmp_path)
    with serving(tmp_path, written, workers=1):
        second = run_command(tmp_path, "serve", "--workers", "2", "--listen", "127.0.0.1:0", check=False)
        assert second.returncode == 2
        assert "another gateway runs on this state folder" in second.stderr
    for option in ("--no-http", "--linger=5"):
        refused = run_command(tmp_path, "serve", "--workers", "2", option, check=False)
        assert refused.returncode == 2
        assert "--workers" in refused.stderr
    api = '[servers.api]\nrest = "http://127.0.0.1:9"\ncache = ["GET /v1/**"]\n'
    (tmp_path / "servers.toml").write_text(written["servers.toml"] + api)
    cached = run_command(tmp_path, "serve", "--workers", "2", "--listen", "127.0.0.1:0", check=False)
    assert cached.returncode == 2
    assert "the API 'api' has a cache" in cached.stderr
    (tmp_path / "servers.toml").write_text(written["servers.toml"])
    (tmp_path / "policies/agents.toml").write_text("[agents.agent]\ntasks = 5\n")
    broken = run_command(tmp_path, "serve", "--workers", "2", "--listen", "127.0.0.1:0", check=False)
    assert broken.returncode != 0
    assert "policies/agents.toml:2" in broken.stderr
