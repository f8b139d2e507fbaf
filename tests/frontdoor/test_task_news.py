"""News of wire tasks reach the agent whose they are and nobody else, and hold a state and nothing more."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from fakes.front import META, POLICY, Front, answer_of, modern_request
from fakes.upstream import answering_with
from fakes.waiting import until
from mcp_gateway.domain import Json, Outcome, OutcomeStatus
from mcp_gateway.frontdoor import task_news
from mcp_gateway.revisions import META_CAPABILITIES, META_SUBSCRIPTION, WIRE_TASKS

FOLLOWS: Json = {**META, META_CAPABILITIES: {"extensions": {WIRE_TASKS: {}}}}
DONE: Json = {"taskId": "t1", "status": "completed", "createdAt": "c", "lastUpdatedAt": "u", "ttlMs": 1000}


async def began(door: Front, theirs: str = "t1", agent: str = "alice") -> str:
    """The id that an agent holds of a task of its own."""
    created = {**DONE, "resultType": "task", "taskId": theirs, "status": "working"}
    door.u.script["echo"] = answering_with(Outcome(OutcomeStatus.WIRE_TASK, created))
    params = {"name": "u__echo", "arguments": {}, "_meta": FOLLOWS}
    return str(answer_of(await door.modern("tools/call", params, agent=agent))["result"]["taskId"])


class Heard:
    """What one stream said; the acknowledgement comes first."""

    def __init__(self) -> None:
        self.frames: list[Json] = []

    @property
    def promised(self) -> Json:
        return dict(self.frames[0]["params"]["notifications"])

    @property
    def news(self) -> list[Json]:
        return [frame["params"] for frame in self.frames[1:] if frame.get("method") == "notifications/tasks"]


@asynccontextmanager
async def listening(door: Front, *task_ids: Any, agent: str = "alice") -> AsyncIterator[Heard]:
    heard = Heard()
    message, headers = modern_request(
        "subscriptions/listen", {"notifications": {"taskIds": task_ids}, "_meta": FOLLOWS}, 7
    )

    async def read() -> None:
        async with door.http.stream("POST", door.url, json=message, headers=door.headers(agent, **headers)) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    heard.frames.append(json.loads(line[6:]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await until(lambda: heard.frames)
        yield heard
        tasks.cancel_scope.cancel()


async def test_an_agent_hears_how_its_task_is_doing_under_the_id_it_knows(door: Front) -> None:
    task_id = await began(door)
    async with listening(door, task_id) as heard:
        assert heard.promised == {"taskIds": [task_id]}
        assert door.u.followed == {"t1"}
        door.task_news.note("u", DONE)
        await until(lambda: heard.news)
    assert heard.news == [{**DONE, "taskId": task_id, "_meta": {META_SUBSCRIPTION: 7}}]
    assert '"t1"' not in json.dumps(heard.news)
    await until(lambda: door.u.followed == frozenset())
    assert [row for row in door.rows("kind, name, outcome") if row[0] == "task_get"] == [("task_get", "echo", "ok")]


async def test_what_a_task_ended_with_asks_or_says_is_fetched_and_not_told(door: Front) -> None:
    task_id = await began(door)
    more = {"result": {"content": []}, "error": {}, "inputRequests": {}, "statusMessage": "secret", "x": 1}
    async with listening(door, task_id) as heard:
        door.task_news.note("u", {**DONE, **more, "createdAt": {"x": "secret"}, "_meta": {"y": "secret"}})
        await until(lambda: heard.news)
    assert heard.news[0].keys() == {"taskId", "status", "lastUpdatedAt", "ttlMs", "_meta"}


@pytest.mark.parametrize(
    "params",
    [{}, {"taskId": "t2", "status": "completed"}, {"taskId": ["t1"], "status": "completed"}, {**DONE, "status": "odd"}],
)
async def test_what_is_no_news_of_a_followed_task_is_told_to_nobody(door: Front, params: Json) -> None:
    async with listening(door, await began(door)) as heard:
        door.task_news.note("u", params)
        door.task_news.note("another", DONE)
        door.task_news.note("u", DONE)
        await until(lambda: heard.news)
    assert len(heard.news) == 1


async def test_another_agents_task_is_not_followed_and_the_attempt_is_in_the_audit(door: Front) -> None:
    task_id = await began(door)
    async with listening(door, task_id, "x", agent="bob") as heard, listening(door, task_id) as mine:
        assert heard.promised == {}
        door.task_news.note("u", DONE)
        await until(lambda: mine.news)
    assert heard.news == []
    assert [row for row in door.rows("agent, kind, reason") if row[2] == "misuse"] == [
        ("bob", "task_get", "misuse")
    ] * 2


async def test_a_tool_that_may_not_be_used_any_more_has_no_news(door: Front) -> None:
    kept, lost = await began(door), await began(door, "t2")
    async with listening(door, kept, lost) as heard:
        assert door.u.followed == {"t1", "t2"}
        door.task_news.note("u", DONE)
        await until(lambda: heard.news)
        door.offer(policy=POLICY.replace('"u/echo", ', ""))
        door.task_news.note("u", {**DONE, "taskId": "t2"})
        door.offer(policy=POLICY)
        door.task_news.note("u", DONE)
        await until(lambda: len(heard.news) == 2)
    assert [news["taskId"] for news in heard.news] == [kept, kept]


async def test_news_that_come_before_the_acknowledgement_are_told_after_it(door: Front) -> None:
    task_id = await began(door)
    follow: Callable[[frozenset[str]], None] = door.u.follow

    def following(task_ids: frozenset[str]) -> None:
        follow(task_ids)
        if task_ids:
            door.task_news.note("u", {**DONE, "status": "working"})
            door.task_news.note("u", DONE)

    door.u.follow = following  # type: ignore[method-assign]
    async with listening(door, task_id) as heard:
        await until(lambda: heard.news)
    assert heard.promised == {"taskIds": [task_id]}
    assert [news["status"] for news in heard.news] == ["completed"]


async def test_one_agent_follows_so_many_tasks_and_no_more(door: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    task_ids = [await began(door, f"t{n}") for n in range(3)]
    monkeypatch.setattr(task_news, "MAX_FOLLOWED_PER_AGENT", 2)
    async with listening(door, *task_ids, 7, task_ids[0]) as heard:
        assert heard.promised == {"taskIds": task_ids[:2]}
    await until(lambda: not door.task_news._count_of.total())
    assert not door.task_news._followers


async def test_a_new_upstream_of_the_same_name_is_told_what_is_followed(door: Front) -> None:
    async with listening(door, await began(door)):
        door.u.followed = frozenset()
        door.offer()
        assert door.u.followed == {"t1"}
