"""The short way of plain calls: whatever is asked, it is answered, decided and written down as on the long way."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from fakes.front import META, Front, front, modern_request, raw_post
from fakes.upstream import Hanging, raising
from fakes.waiting import until
from mcp_gateway.domain import Json
from mcp_gateway.errors import ConsentNeeded, Unreachable
from mcp_gateway.frontdoor import plain
from mcp_gateway.frontdoor.http import HttpDoor


class Kept:
    """One connection on which request after request is sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Status line and body of one answer."""
        self.writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        return head.split(b"\r\n")[0], await self._reader.readexactly(int(length[1]) if length else 0)


Dial = Callable[[], Awaitable[Kept]]


@pytest.fixture
async def dial(door: Front) -> AsyncIterator[Dial]:
    """Opens connections, which are closed in the end."""
    opened: list[Kept] = []

    async def one() -> Kept:
        opened.append(Kept(*await asyncio.open_connection("127.0.0.1", door.port)))
        return opened[-1]

    yield one
    for each in opened:
        each.writer.close()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether requests whose heads were judged before went the short way."""
    told: list[bool] = []
    plainly = HttpDoor._plainly

    def noted(self: HttpDoor, *arguments: Any) -> Awaitable[None] | None:
        found = plainly(self, *arguments)
        told.append(found is not None)
        return found

    monkeypatch.setattr(HttpDoor, "_plainly", noted)
    return told


def call(front: Front, message: Any, *lines: str, **given: str) -> bytes:
    """A modern call as bytes; `given` replaces header lines."""
    name = message.get("params", {}).get("name", "u__echo") if isinstance(message, dict) else "u__echo"
    usual = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": str(name)}
    usual |= {key.replace("_", "-"): value for key, value in given.items()}
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return raw_post(front, body, *(f"{key}: {value}" for key, value in usual.items()), *lines)


def echo(name: str = "u__echo", arguments: Any = None, *, id_: Any = 1, **params: Any) -> Json:
    message, _ = modern_request("tools/call", {"name": name, "arguments": arguments or {}, **params}, id_)
    return message


def with_meta(**members: Any) -> Json:
    return echo(_meta={f"io.modelcontextprotocol/{key}": value for key, value in members.items()})


ASKED: dict[str, Any] = {
    "a call": echo(),
    "an id that is text": echo(id_="a"),
    "a call with arguments": echo(arguments={"deep": {"er": [1, "two"]}}),
    "a tool that is forbidden": echo("u__secret_echo"),
    "a tool that does not exist": echo("u__nothing"),
    "a condition that holds": echo("u__careful", {"path": "safe"}),
    "a condition that does not hold": echo("u__careful", {"path": "other"}),
    "an agent that can be asked": with_meta(clientCapabilities={"elicitation": {}}),
    "capabilities that are none": with_meta(clientCapabilities=[]),
    "another version": with_meta(protocolVersion="2026-07-29"),
    "no arguments": {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "u__echo", "_meta": META}},
    "arguments that are none": {
        "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "u__echo", "_meta": META, "arguments": 3},
    },
    "a state that is none": echo(requestState="x"),
    "another method": {**echo(), "method": "tools/list"},
    "no id": {key: value for key, value in echo().items() if key != "id"},
    "an id that is none": echo(id_=None),
    "not JSON-RPC": {**echo(), "jsonrpc": "1.0"},
    "no envelope": {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "u__echo"}},
    "not JSON": b'{"jsonrpc": "2.0", "id": 1, ',
    "a member twice": json.dumps(echo()).encode().replace(b'"id": 1', b'"id": 1, "id": 2'),
}  # fmt: skip
HEADS: dict[str, dict[str, str]] = {
    "no such method": {"mcp_method": "tools/list"},
    "another name": {"mcp_name": "u__second"},
    "another version in the head": {"mcp_protocol_version": "2025-11-25"},
    "an encoded name": {"mcp_name": "=?base64?dV9fZWNobw==?="},
    "a wrong key": {"authorization": "Bearer mgw_nobody"},
    "another origin": {"origin": "https://evil.example"},
    "another host": {"host": "evil.example"},
    "another type": {"content_type": "text/plain"},
    "an answer it does not read": {"accept": "text/html"},
    "a header for an argument": {"mcp_param_x": "y"},
}


@pytest.mark.parametrize("message", ASKED.values(), ids=ASKED)
async def test_a_request_is_answered_the_same_however_often_it_came_before(
    door: Front, dial: Dial, message: Any
) -> None:
    request, connection = call(door, message), await dial()
    first = await connection.ask(request)
    assert [await connection.ask(request) for _ in range(3)] == [first] * 3
    rows = door.rows("decision, reason, outcome, name, client, args")
    assert len(rows) % 4 == 0
    assert len(set(rows)) == len(rows) // 4


@pytest.mark.parametrize("lines", HEADS.values(), ids=HEADS)
async def test_a_head_is_judged_the_same_however_often_it_came_before(
    door: Front, dial: Dial, lines: dict[str, str]
) -> None:
    answers = set()
    for _ in range(3):
        connection, request = await dial(), call(door, echo(), **lines)
        answers |= {await connection.ask(request), await connection.ask(request)}
    assert len(answers) == 1
    assert len(set(door.rows())) <= 1


async def test_a_plain_call_goes_the_short_way_and_no_other_does(
    door: Front, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_way = []
    serve = HttpDoor._serve

    async def counted(self: HttpDoor, *arguments: Any) -> None:
        long_way.append(arguments)
        await serve(self, *arguments)

    monkeypatch.setattr(HttpDoor, "_serve", counted)
    connection = await dial()
    for n in range(4):
        status, body = await connection.ask(call(door, echo(id_=n)))
        assert (status, json.loads(body)["id"]) == (b"HTTP/1.1 200 OK", n)
    assert not long_way
    await connection.ask(call(door, with_meta(clientCapabilities={"sampling": {}})))
    assert len(long_way) == 1


async def test_what_is_kept_of_a_head_says_nothing_about_the_next_body(door: Front, dial: Dial) -> None:
    connection = await dial()
    await connection.ask(call(door, echo()))
    forged = echo("u__second")  # the same length as its head allows, another tool than its head says
    request = call(door, echo(arguments={"aa": 1}))
    await connection.ask(request)
    head = request.partition(b"\r\n\r\n")[0]
    body = json.dumps(forged).encode()
    body += b" " * (int(re.search(rb"content-length: (\d+)", head)[1]) - len(body))  # type: ignore[index]
    status, said = await connection.ask(head + b"\r\n\r\n" + body)
    assert status == b"HTTP/1.1 400 Bad Request"
    assert "mcp-name" in json.loads(said)["error"]["message"]
    assert "second" not in str(door.u.asked)


async def test_calls_of_any_length_go_the_short_way_up_to_the_longest_body_there_may_be(
    tmp_path: Path, taken: list[bool]
) -> None:
    async with front(tmp_path, max_body_bytes=1_000) as door:
        connection = Kept(*await asyncio.open_connection("127.0.0.1", door.port))
        for length in (1, 2, 300, 1):
            status, said = await connection.ask(call(door, echo(arguments={"text": "x" * length})))
            assert (status, "x" * length in said.decode()) == (b"HTTP/1.1 200 OK", True)
        status, _ = await connection.ask(call(door, echo(arguments={"text": "x" * 1_000})))
        assert b" 413 " in status
        assert taken == [True] * 4 + [False]
        assert len(door.rows()) == 4
        connection.writer.close()


async def test_what_is_kept_of_an_envelope_says_nothing_about_the_next(
    door: Front, dial: Dial, taken: list[bool]
) -> None:
    connection, names = await dial(), ["aa", "aa", "bb", "aa"]
    for name in names:
        await connection.ask(call(door, with_meta(clientInfo={"name": name, "version": "1"})))
    assert door.rows("client") == [(f"{name}/1",) for name in names]
    assert taken and all(taken)
    taken.clear()
    for capability in ("samplink", "samplink", "sampling", "samplink"):  # the head is the same for all
        await connection.ask(call(door, with_meta(clientCapabilities={capability: {}})))
    assert taken[-3:] == [True, False, True]


async def test_an_edited_default_task_holds_on_a_connection_that_was_served_before(door: Front, dial: Dial) -> None:
    connection, request = await dial(), call(door, echo())
    policy = '[agents.alice]\ntasks = ["one", "two"]\ndefault_task = "{}"\n[tasks.one]\nallow = ["u/*"]\n'
    for task in ("one", "one", "two", "one"):
        door.offer(policy=policy.format(task) + '[tasks.two]\nallow = ["u/*"]\n')
        for _ in range(2):
            assert b'"error"' not in (await connection.ask(request))[1]
    assert [task for (task,) in door.rows("task")] == ["one"] * 4 + ["two"] * 2 + ["one"] * 2


async def test_a_revoked_key_is_refused_on_a_connection_that_was_served_before(door: Front, dial: Dial) -> None:
    connection, request = await dial(), call(door, echo())
    assert [(await connection.ask(request))[0] for _ in range(3)] == [b"HTTP/1.1 200 OK"] * 3
    door.revoke()
    assert (await connection.ask(request))[0] == b"HTTP/1.1 401 Unauthorized"


async def test_an_edited_policy_holds_on_a_connection_that_was_served_before(door: Front, dial: Dial) -> None:
    connection, request = await dial(), call(door, echo())
    for _ in range(3):
        assert b'"error"' not in (await connection.ask(request))[1]
    door.offer(policy='[agents.alice]\ntasks = ["work"]\ndefault_task = "work"\n[tasks.work]\npurpose = "x"\n')
    assert b"-32602" in (await connection.ask(request))[1]


async def test_hanging_up_cancels_a_plain_call(door: Front, dial: Dial) -> None:
    door.u.script["hang"] = hanging = Hanging()
    connection = await dial()
    await connection.ask(call(door, echo()))
    connection.writer.write(call(door, echo("u__hang")))
    await until(lambda: hanging.replies)
    connection.writer.close()
    await until(lambda: door.rows("outcome")[-1] == ("cancelled",))


async def test_a_request_that_comes_in_pieces_is_the_same_request(door: Front, dial: Dial) -> None:
    connection, request = await dial(), call(door, echo())
    first = await connection.ask(request)
    await connection.ask(request)
    for at in (1, 40, request.index(b"\r\n\r\n") + 2, len(request) - 1):
        connection.writer.write(request[:at])
        await connection.writer.drain()
        await asyncio.sleep(0)
        assert await connection.ask(request[at:]) == first


async def test_requests_sent_behind_each_other_are_answered_in_order(door: Front, dial: Dial) -> None:
    connection = await dial()
    await connection.ask(call(door, echo()))
    connection.writer.write(b"".join(call(door, echo(id_=n)) for n in range(1, 5)))
    ids = [json.loads((await connection.ask(b""))[1])["id"] for _ in range(4)]
    assert ids == [1, 2, 3, 4]


def test_a_way_is_only_asked_for_where_something_is_kept() -> None:
    assert plain.way_of({"type": "http"}, None, None) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        ConsentNeeded("u", "upstream 'u' needs you to log in", "https://gw.example/connect/ticket"),
        Unreachable("u", "upstream 'u' is down"),
        RuntimeError("a bug of ours"),
    ],
)
async def test_a_call_that_fails_is_told_the_same_on_either_way(door: Front, dial: Dial, error: Exception) -> None:
    door.u.script["echo"] = raising(error)
    connection, request = await dial(), call(door, echo())
    first = await connection.ask(request)
    assert await connection.ask(request) == first
    said = json.loads(first[1])
    assert isinstance(error, RuntimeError) is ("error" in said)
    assert "a bug of ours" not in str(said)


async def test_tools_of_the_gateway_s_own_are_there_on_a_connection_that_was_served_before(tmp_path: Path) -> None:
    async with front(tmp_path, search_above=3) as door:
        connection = Kept(*await asyncio.open_connection("127.0.0.1", door.port))
        request = call(door, echo("search_tools", {"query": "echo"}))
        first = await connection.ask(request)
        assert "u__echo" in str(json.loads(first[1])["result"]["content"])
        assert await connection.ask(request) == first
        connection.writer.close()
