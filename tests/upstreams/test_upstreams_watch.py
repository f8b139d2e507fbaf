"""A legacy server is asked for exactly the resources that are wanted, and asked again when it has forgotten."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from fakes.waiting import until
from fakes.watching import Asked, Watched
from mcp_gateway.domain import Era, RpcError
from mcp_gateway.errors import Unreachable
from mcp_gateway.upstreams import watch as module
from mcp_gateway.upstreams.watch import MAX_URI_CHARS, keep_subscribed

CAPABLE = {"resources": {"subscribe": True}}


@asynccontextmanager
async def kept(made: Watched, capabilities: dict[str, object] | None = None) -> AsyncIterator[Asked]:
    """A connection that lives with the block."""
    connection = Asked(Era.LEGACY)
    with made.watch.over(CAPABLE if capabilities is None else capabilities):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_subscribed, made.watch, connection)
            yield connection
            tasks.cancel_scope.cancel()


async def test_it_is_asked_for_what_comes_and_goes_and_for_nothing_twice() -> None:
    made = Watched()
    async with kept(made) as connection:
        made.watch.want(frozenset({"a", "b"}))
        assert await made.watch.declined(frozenset({"a", "b"})) == frozenset()
        made.watch.want(frozenset({"b", "c"}))
        await until(lambda: made.watch.asked == {"b", "c"})
        made.watch.want(frozenset())
        await until(lambda: not made.watch.asked)
    assert sorted(connection.asked[:2]) == [("resources/subscribe", "a"), ("resources/subscribe", "b")]
    assert connection.asked[2:4] == [("resources/unsubscribe", "a"), ("resources/subscribe", "c")]
    assert sorted(connection.asked[4:]) == [("resources/unsubscribe", "b"), ("resources/unsubscribe", "c")]


async def test_what_it_refuses_is_known_and_not_asked_for_again_until_it_is_wanted_anew() -> None:
    made = Watched()
    async with kept(made) as connection:
        connection.answers["a"] = RpcError(-32602, "no")
        made.watch.want(frozenset({"a", "b"}))
        assert await made.watch.declined(frozenset({"a", "b"})) == {"a"}
        made.watch.want(frozenset({"b"}))
        del connection.answers["a"]
        made.watch.want(frozenset({"a", "b"}))
        assert await made.watch.declined(frozenset({"a"})) == frozenset()
    assert connection.asked.count(("resources/subscribe", "b")) == 1


async def test_a_server_without_subscriptions_declines_all_and_is_asked_nothing() -> None:
    made = Watched()
    async with kept(made, {"resources": {"listChanged": True}}) as connection:
        made.watch.want(frozenset({"a"}))
        await anyio.wait_all_tasks_blocked()
        assert await made.watch.declined(frozenset({"a"})) == {"a"}
    assert connection.asked == []


async def test_nobody_waits_for_a_server_that_is_down() -> None:
    made = Watched()
    made.watch.want(frozenset({"a"}))
    with anyio.fail_after(1):
        assert await made.watch.declined(frozenset({"a"})) == frozenset()


async def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_WAIT_S", 0.05)
    made = Watched()
    async with kept(made) as connection:
        connection.silent.add("a")
        made.watch.want(frozenset({"a"}))
        with anyio.fail_after(1):
            assert await made.watch.declined(frozenset({"a"})) == frozenset()


async def test_a_new_connection_is_asked_again_and_everything_said_to_have_changed() -> None:
    made = Watched()
    made.watch.want(frozenset({"a", "b"}))
    async with kept(made):
        await until(lambda: made.watch.asked == {"a", "b"})
    made.watch.want(frozenset({"b", "c"}))
    async with kept(made) as connection:
        await until(lambda: made.watch.asked == {"b", "c"})
        await until(lambda: made.updated)
    assert sorted(connection.asked) == [("resources/subscribe", "b"), ("resources/subscribe", "c")]
    assert made.updated == ["b"]


async def test_a_forgotten_session_is_asked_again_and_everything_said_to_have_changed() -> None:
    made = Watched()
    made.watch.want(frozenset({"a"}))
    async with kept(made) as connection:
        await until(lambda: made.watch.asked)
        made.watch.note_gap(True)
        await until(lambda: made.updated == ["a"])
    assert connection.asked == [("resources/subscribe", "a")] * 2


async def test_a_stream_that_is_open_again_makes_good_without_asking() -> None:
    made = Watched()
    made.watch.want(frozenset({"a"}))
    async with kept(made) as connection:
        await until(lambda: made.watch.asked)
        made.watch.note_gap(False)
        assert made.updated == ["a"]
    assert connection.asked == [("resources/subscribe", "a")]


async def test_a_server_that_fails_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_FIRST_S", 0.01)
    made = Watched()
    async with kept(made) as connection:
        connection.answers["b"] = Unreachable("u", "gone")
        made.watch.want(frozenset({"a", "b"}))
        await until(lambda: connection.asked.count(("resources/subscribe", "b")) >= 2)
        del connection.answers["b"]
        await until(lambda: made.watch.asked == {"a", "b"})
    assert made.dropped["subscription"] >= 2


async def test_a_thousand_resources_are_not_asked_for_all_at_once() -> None:
    made, uris = Watched(), frozenset(str(n) for n in range(200))
    async with kept(made) as connection:
        connection.silent.update(uris)
        made.watch.want(uris)
        await until(lambda: connection.asked)
        await anyio.wait_all_tasks_blocked()
    assert len(connection.asked) == module.ASKED_AT_ONCE


@pytest.mark.parametrize("params", [{}, {"uri": 1}, {"uri": None}, {"uri": "x" * (MAX_URI_CHARS + 1)}])
def test_an_update_of_nothing_is_dropped(params: dict[str, object]) -> None:
    made = Watched()
    made.watch.want(frozenset({"a"}))
    made.watch.note_updated(params)
    assert (made.updated, made.dropped) == ([], Counter({"update": 1}))


def test_an_update_nobody_wants_is_dropped() -> None:
    made = Watched()
    made.watch.note_updated({"uri": "a"})
    made.watch.want(frozenset({"a"}))
    made.watch.note_updated({"uri": "a"})
    assert (made.updated, made.dropped) == (["a"], Counter({"update": 1}))
