"""A modern upstream holds one stream for everything that is wanted, and a new one before the old one goes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from fakes.waiting import until
from fakes.watching import Asked, Stream, Watched
from mcp_gateway.domain import Era
from mcp_gateway.errors import Unreachable
from mcp_gateway.revisions import WIRE_TASKS
from mcp_gateway.upstreams import listening as module
from mcp_gateway.upstreams.listening import Listening, changes_announced

LISTS = {"tools": {"listChanged": True}, "prompts": {"listChanged": False}, "resources": {"subscribe": True}}
NO_LISTS = {"resources": {"subscribe": True}}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LISTEN_FIRST_WAIT_S": 0.01, "REOPEN_AFTER_S": 0.0, "REOPEN_GAP_S": 0.0}.items():
        monkeypatch.setattr(module, name, value)


class Kept:
    """A connection that lives, and what is known of it."""

    def __init__(self, made: Watched, capabilities: dict[str, Any], extensions: frozenset[str]) -> None:
        self.watch = made.watch
        self.gaps: list[str] = []
        self.connection = Asked(Era.MODERN, capabilities)
        self.connection.greeting = replace(self.connection.greeting, extensions=extensions)
        self.listening = Listening(made.watch, self.connection, lambda: self.gaps.append("gap"))

    async def opened(self, count: int) -> Stream:
        """The stream of that number, once it is there."""
        return await until(lambda: len(self.connection.streams) >= count and self.connection.streams[count - 1])

    async def acknowledged(self, count: int, *but: str) -> Stream:
        """The same, acknowledged except for some resources."""
        stream = await self.opened(count)
        uris = [uri for uri in stream.notifications.get("resourceSubscriptions", ()) if uri not in but]
        params = {"notifications": {**stream.notifications, "resourceSubscriptions": uris}}
        self.listening.note_acknowledged(params)
        return stream


@asynccontextmanager
async def kept(
    made: Watched, capabilities: dict[str, Any], extensions: frozenset[str] = frozenset()
) -> AsyncIterator[Kept]:
    one = Kept(made, capabilities, extensions)
    with made.watch.over(capabilities):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.listening.keep)
            yield one
            tasks.cancel_scope.cancel()


async def test_lists_and_resources_share_one_stream() -> None:
    made = Watched()
    made.watch.want(frozenset({"b", "a"}))
    async with kept(made, LISTS) as one:
        stream = await one.acknowledged(1)
        assert await made.watch.declined(frozenset({"a", "b"})) == frozenset()
    assert stream.notifications == {"toolsListChanged": True, "resourceSubscriptions": ["a", "b"]}
    assert one.connection.open == []


async def test_where_nothing_is_wanted_there_is_no_stream_and_then_there_is_one_and_then_none_again() -> None:
    made = Watched()
    async with kept(made, NO_LISTS) as one:
        await anyio.wait_all_tasks_blocked()
        assert one.connection.streams == []
        made.watch.want(frozenset({"a"}))
        await one.acknowledged(1)
        await until(lambda: made.watch.asked == {"a"})
        made.watch.want(frozenset())
        await until(lambda: not one.connection.open)
        assert made.watch.asked == set()


async def test_the_old_stream_stays_until_the_new_one_is_acknowledged() -> None:
    made = Watched()
    async with kept(made, LISTS) as one:
        first = await one.acknowledged(1)
        made.watch.want(frozenset({"a"}))
        second = await one.opened(2)
        assert one.connection.open == [first, second]
        await one.acknowledged(2)
        await until(lambda: one.connection.open == [second])
    assert (one.gaps, made.updated) == ([], [])


async def test_many_changes_are_one_new_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REOPEN_GAP_S", 0.1)
    made = Watched()
    async with kept(made, LISTS) as one:
        await one.acknowledged(1)
        for n in range(100):
            made.watch.want(frozenset(str(m) for m in range(n + 1)))
            await anyio.lowlevel.checkpoint()
        stream = await one.opened(2)
        assert len(stream.notifications["resourceSubscriptions"]) == 100
        await one.acknowledged(2)
        await until(lambda: len(made.watch.asked) == 100)
        assert len(one.connection.streams) == 2


async def test_what_is_left_out_of_the_acknowledgement_is_declined_and_asked_for_no_more() -> None:
    made = Watched()
    made.watch.want(frozenset({"a", "b"}))
    async with kept(made, LISTS) as one:
        await one.acknowledged(1, "b")
        assert await made.watch.declined(frozenset({"a", "b"})) == {"b"}
        await anyio.wait_all_tasks_blocked()
        assert len(one.connection.streams) == 1
        made.watch.want(frozenset({"a"}))
        made.watch.want(frozenset({"a", "b"}))
        await one.acknowledged(2)
        assert await made.watch.declined(frozenset({"b"})) == frozenset()


async def test_a_refused_stream_costs_what_is_new_in_it_only() -> None:
    made = Watched()
    made.watch.want(frozenset({"a"}))
    async with kept(made, LISTS) as one:
        first = await one.acknowledged(1)
        await until(lambda: made.watch.asked)
        one.connection.refuses_streams_with = {"b"}
        made.watch.want(frozenset({"a", "b"}))
        assert await made.watch.declined(frozenset({"a", "b"})) == {"b"}
        await anyio.wait_all_tasks_blocked()
        assert one.connection.open == [first]
        assert len(one.connection.streams) == 2


async def test_a_server_that_has_no_streams_is_asked_for_less_and_then_for_nothing() -> None:
    made = Watched()
    made.watch.want(frozenset({"a"}))
    async with kept(made, LISTS) as one:
        one.connection.refuses_streams_with = {"a", "toolsListChanged"}
        assert await made.watch.declined(frozenset({"a"})) == {"a"}
        await until(lambda: len(one.connection.streams) == 2)
        await anyio.wait_all_tasks_blocked()
        assert len(one.connection.streams) == 2


@pytest.mark.parametrize("failure", [None, Unreachable("u", "gone"), LookupError("ended in an error")])
async def test_a_stream_that_ends_is_opened_again_and_what_could_have_changed_is_said(
    failure: Exception | None,
) -> None:
    made = Watched()
    made.watch.want(frozenset({"a"}))
    async with kept(made, LISTS) as one:
        first = await one.acknowledged(1)
        await until(lambda: made.watch.asked)
        first.end(failure)
        await until(lambda: not made.watch.asked)
        assert made.updated == []
        await one.acknowledged(2)
        await until(lambda: made.updated == ["a"])
        assert one.gaps == ["gap"]


async def test_a_new_connection_makes_good_too() -> None:
    made = Watched()
    made.watch.want(frozenset({"a"}))
    async with kept(made, NO_LISTS) as one:
        await one.acknowledged(1)
        await until(lambda: made.watch.asked)
    async with kept(made, NO_LISTS) as two:
        await two.acknowledged(1)
        await until(lambda: made.updated == ["a"])


async def test_a_server_that_acknowledges_nothing_is_taken_at_its_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_WAIT_S", 0.02)
    made = Watched()
    made.watch.want(frozenset({"a"}))
    async with kept(made, LISTS) as one:
        await one.opened(1)
        await until(lambda: made.watch.asked == {"a"})


@pytest.mark.parametrize("params", [{}, {"notifications": []}, {"notifications": {"resourceSubscriptions": "a"}}])
async def test_an_odd_acknowledgement_promises_nothing(params: dict[str, Any]) -> None:
    made = Watched()
    made.watch.want(frozenset({"a"}))
    async with kept(made, LISTS) as one:
        await one.opened(1)
        one.listening.note_acknowledged(params)
        if isinstance(params.get("notifications"), dict):
            assert await made.watch.declined(frozenset({"a"})) == {"a"}
        else:
            assert made.watch.asked == set()


def test_only_what_a_server_announces_is_asked_for() -> None:
    assert changes_announced(LISTS) == {"toolsListChanged": True}
    assert changes_announced({"tools": True, "resources": {"listChanged": 1}}) == {}


async def test_followed_tasks_go_in_the_stream_where_the_upstream_has_tasks() -> None:
    made = Watched()
    made.watch.want(frozenset({"r://a"}))
    async with kept(made, LISTS, frozenset({WIRE_TASKS})) as one:
        await one.acknowledged(1)
        made.watch.follow(frozenset({"t2", "t1"}))
        stream = await one.acknowledged(2)
        assert stream.notifications["taskIds"] == ["t1", "t2"]
        assert stream.notifications["resourceSubscriptions"] == ["r://a"]
        made.watch.follow(frozenset())
        assert "taskIds" not in (await one.acknowledged(3)).notifications


async def test_an_upstream_that_will_not_tell_of_tasks_is_asked_for_the_rest() -> None:
    made = Watched()
    made.watch.want(frozenset({"r://a"}))
    made.watch.follow(frozenset({"t1"}))
    async with kept(made, LISTS, frozenset({WIRE_TASKS})) as one:
        (await one.opened(1)).end(LookupError())
        stream = await one.acknowledged(2)
        assert "taskIds" not in stream.notifications
        assert stream.notifications["resourceSubscriptions"] == ["r://a"]
        assert made.watch.refused == set()


async def test_an_upstream_without_tasks_is_not_asked_for_news_of_any() -> None:
    made = Watched()
    made.watch.follow(frozenset({"t1"}))
    async with kept(made, LISTS) as one:
        assert "taskIds" not in (await one.acknowledged(1)).notifications
