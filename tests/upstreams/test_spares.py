"""Spare children: one person's thinking holds up nobody else, and nothing of them is left."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import psutil
import pytest

from fakes import asking_stdio
from fakes.replies import RecordingReply
from fakes.servers import QUICK, asked, call_of, text_of
from fakes.waiting import until
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Json
from mcp_gateway.errors import TimedOut
from mcp_gateway.upstreams import child as child_module
from mcp_gateway.upstreams import spares
from mcp_gateway.upstreams.bridge import LEGACY_CAPABILITIES, put_question
from mcp_gateway.upstreams.connection import SILENT, Listener
from mcp_gateway.upstreams.handshake import Memory
from mcp_gateway.upstreams.spares import Children, open_children


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_module, "GRACE_S", 0.3)


class Person(RecordingReply):
    """An agent whose person answers with a name, once they may."""

    def __init__(self, name: str = "") -> None:
        super().__init__(capabilities={"elicitation": {}}, side=name)
        self.name = name
        self.asked = anyio.Event()
        self.may = anyio.Event()

    async def ask(self, method: str, params: Json) -> Json:
        self.asked.set()
        await self.may.wait()
        return {"action": "accept", "content": {"name": self.name}}


@asynccontextmanager
async def opened(children: int = 3, *arguments: str) -> AsyncIterator[Children]:
    listener = Listener(on_question=put_question, question_capabilities=LEGACY_CAPABILITIES)
    config = ServerConfig("up", command=asking_stdio.command(*arguments), cwd=Path(), children=children)
    memory = Memory("k", {})
    memory.remember_legacy()
    async with open_children(config, listener, replace(QUICK, start_timeout_s=10), memory) as connection:
        yield connection


def processes() -> set[int]:
    return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


async def test_others_are_served_while_people_think_and_each_answer_finds_its_call() -> None:
    before = processes()
    async with opened() as connection, anyio.create_task_group() as tasks:
        said: dict[str, str] = {}

        async def ask(person: Person) -> None:
            said[person.name] = text_of(await asked(connection, "ask", person))

        people = [Person("ada"), Person("bob"), Person("eve")]
        for person in people:
            tasks.start_soon(ask, person)
            await person.asked.wait()
        assert len(processes() - before) == 3
        for person in reversed(people):
            person.may.set()
        await until(lambda: said == {"ada": "ada", "bob": "bob", "eve": "eve"})
        first = text_of(await asked(connection, "pid", Person()))
        assert text_of(await asked(connection, "pid", RecordingReply())) == first, "the first child has room again"
    assert processes() == before


async def test_there_are_never_more_children_than_allowed() -> None:
    before = processes()
    async with opened(1) as connection, anyio.create_task_group() as tasks:
        thinking = Person("ada")
        tasks.start_soon(asked, connection, "ask", thinking)
        await thinking.asked.wait()
        with pytest.raises(TimedOut, match="is taken"):
            await connection.ask(call_of("pid"), RecordingReply(), 0.1)
        assert len(processes() - before) == 1
        thinking.may.set()


async def test_a_spare_ends_once_nobody_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "IDLE_S", 0.05)
    before = processes()
    async with opened() as connection, anyio.create_task_group() as tasks:
        thinking = Person("ada")
        tasks.start_soon(asked, connection, "ask", thinking)
        await thinking.asked.wait()
        assert int(text_of(await asked(connection, "pid", Person()))) in processes() - before
        await until(lambda: len(processes() - before) == 1)
        thinking.may.set()


async def test_where_a_second_child_cannot_be_started_the_first_one_is_waited_for(tmp_path: Path) -> None:
    async with opened(3, "--only-once", str(tmp_path / "lock")) as connection, anyio.create_task_group() as tasks:
        thinking = Person("ada")
        tasks.start_soon(asked, connection, "ask", thinking)
        await thinking.asked.wait()
        said: list[str] = []

        async def look() -> None:
            said.append(text_of(await asked(connection, "pid", Person())))

        tasks.start_soon(look)
        await until(lambda: connection._not_before > 0)
        assert said == []
        thinking.may.set()
        await until(lambda: said)


async def test_a_spare_that_dies_costs_its_own_call_only() -> None:
    async with opened() as connection, anyio.create_task_group() as tasks:
        thinking = Person("ada")
        tasks.start_soon(asked, connection, "ask", thinking)
        await thinking.asked.wait()
        pid = int(text_of(await asked(connection, "pid", Person())))
        psutil.Process(pid).kill()
        await until(lambda: connection._spares == 0)
        assert int(text_of(await asked(connection, "pid", Person()))) != pid
        assert not connection.broken.is_set()
        thinking.may.set()


async def test_the_gateways_own_requests_go_to_the_first_child() -> None:
    async with opened() as connection, anyio.create_task_group() as tasks:
        first = text_of(await asked(connection, "pid", SILENT))
        thinking = Person("ada")
        tasks.start_soon(asked, connection, "ask", thinking)
        await thinking.asked.wait()
        assert text_of(await asked(connection, "pid", SILENT)) == first
        assert text_of(await asked(connection, "pid", Person())) != first
        thinking.may.set()


async def test_one_side_alone_never_needs_a_spare() -> None:
    before = processes()
    async with opened() as connection, anyio.create_task_group() as tasks:
        people = [Person("ada"), Person("ada")]
        for person in people:
            tasks.start_soon(asked, connection, "ask", person)
            await person.asked.wait()
        assert text_of(await asked(connection, "pid", Person("ada")))
        assert len(processes() - before) == 1
        for person in people:
            person.may.set()
