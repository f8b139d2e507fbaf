"""Attaching: only with the token, only to the same configuration and version, and as the agent that was named."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from fakes.waiting import until
from mcp_gateway.errors import Complaint, ConfigInvalid, NotAuthenticated
from mcp_gateway.frontdoor.attach import MAX_HELLO_BYTES, AttachDoor, Opened
from mcp_gateway.frontdoor.hello import Hello, listening_on

TOKEN = "t" * 64


class EchoDoor:
    """Stands for an agent's door: what comes in goes out."""

    def __init__(self, agent: str, task: str | None) -> None:
        self.who = f"{agent}/{task}"

    async def serve(self, reader: Any, writer: Any) -> None:
        writer.write(self.who.encode() + b"\n")
        while chunk := await reader.read(100):
            writer.write(chunk)
            await writer.drain()


def door_for(hello: Hello) -> Any:
    if hello.agent == "nobody":
        raise ConfigInvalid([Complaint("policies", 0, "no policy names 'nobody'", "known: reader")])
    if hello.task_token == "wrong":
        raise NotAuthenticated("no such task")
    until = None if not hello.task_token else lambda: anyio.sleep(0.05)
    return Opened(EchoDoor(hello.agent, hello.task), until)  # type: ignore[arg-type]


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[AttachDoor]:
    door = AttachDoor(door_for, lambda: {"pid": 7}, TOKEN, "1.0", "/s/servers.toml", time.time)
    async with door.opened(listening_on(path)):
        yield door


def hello(**other: Any) -> Hello:
    return Hello(**{"token": TOKEN, "version": "1.0", "config": "/s/servers.toml", "agent": "reader", **other})


async def greeted(path: Path, line: bytes) -> tuple[Any, asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(line)
    said = await reader.readline()
    return json.loads(said) if said else None, reader, writer


async def test_who_attaches_gets_the_streams_of_the_agent_it_names(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as door:
        answer, reader, writer = await greeted(tmp_path / "s", hello(task="read").line())
        assert answer == {"ok": True}
        assert await reader.readline() == b"reader/read\n"
        writer.write(b"again\n")
        assert await reader.readline() == b"again\n"
        assert [one.agent for one in door.attached] == ["reader"]
        writer.write_eof()
        assert await reader.read() == b""
        await until(lambda: not door.attached)
        writer.close()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (hello(token="x" * 64).line(), "token"),
        (hello(token="").line(), "token"),
        (b"{}\n", "token"),
        (b"GET / HTTP/1.1\r\n\r\n", "token"),
        (b'{"token": "' + TOKEN.encode() + b'", "more": 1}\n', "token"),
        (hello(config="/other/servers.toml").line(), "config"),
        (hello(version="0.9").line(), "version"),
        (hello(agent="nobody").line(), "agent"),
        (hello(task_token="wrong").line(), "agent"),
    ],
)
async def test_who_may_not_attach_is_told_why_and_let_go(tmp_path: Path, line: bytes, why: str) -> None:
    async with opened(tmp_path / "s") as door:
        answer, reader, writer = await greeted(tmp_path / "s", line)
        assert (answer["ok"], answer["why"]) == (False, why)
        assert await reader.read() == b""
        assert not door.attached
        writer.close()


async def test_who_came_for_a_started_task_goes_when_it_is_over(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as door:
        answer, reader, writer = await greeted(tmp_path / "s", hello(task_token="t").line())
        assert answer == {"ok": True}
        assert await reader.read() == b"reader/None\n"
        await until(lambda: not door.attached)
        writer.close()


async def test_the_status_is_told_whatever_the_version(tmp_path: Path) -> None:
    async with opened(tmp_path / "s"):
        answer, _, writer = await greeted(tmp_path / "s", hello(want="status", version="0.9").line())
        assert answer == {"ok": True, "status": {"pid": 7}}
        writer.close()


async def test_a_first_line_without_end_is_cut_off(tmp_path: Path) -> None:
    async with opened(tmp_path / "s"):
        answer, _, writer = await greeted(tmp_path / "s", b"x" * (MAX_HELLO_BYTES * 2))
        assert answer["why"] == "token"
        writer.close()


async def test_only_the_owner_can_connect_and_a_left_over_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    async with opened(path):
        assert path.stat().st_mode & 0o777 == 0o600
        answer, _, writer = await greeted(path, hello().line())
        assert answer == {"ok": True}
        writer.close()


async def test_whoever_is_attached_is_let_go_when_the_gateway_ends(tmp_path: Path) -> None:
    async with opened(tmp_path / "s"):
        _, reader, writer = await greeted(tmp_path / "s", hello().line())
    assert await reader.read() == b"reader/None\n"
    writer.close()


async def test_it_is_idle_once_nobody_has_been_there_for_long_enough(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as door, anyio.create_task_group() as tasks:
        ended = anyio.Event()

        async def watch() -> None:
            await door.idle(0.05, 5)
            ended.set()

        tasks.start_soon(watch)
        _, reader, writer = await greeted(tmp_path / "s", hello().line())
        await until(lambda: door.attached)
        assert not ended.is_set()
        writer.close()
        with anyio.fail_after(5):
            await ended.wait()
        assert await reader.read() is not None


async def test_where_nobody_ever_comes_it_is_idle_too(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as door:
        with anyio.fail_after(5):
            await door.idle(0, 0.05)
