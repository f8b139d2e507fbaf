"""What operators do: nothing gives anybody more without its entry in the audit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fakes.front import Front, parts, utc_now
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.frontdoor.desk import USUAL, Desk, MistakeError, Order

POLICY = "[agents.alice]\ntasks = ['brief', 'free']\n[tasks.brief]\nttl = '10m'\n[tasks.free]\nallow = ['u/echo']\n"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Front]:
    async with parts(tmp_path) as opened:
        opened.offer(policy=POLICY)
        yield opened


def desk_of(made: Front) -> Desk:
    return Desk(made.tasks, made.transactions, made.audit, lambda: made.gateway.snapshot.policy, utc_now)


@pytest.mark.parametrize(("task", "lasts"), [("brief", timedelta(minutes=10)), ("free", USUAL)])
async def test_a_task_lasts_as_long_as_usual_and_no_longer_than_the_policy_lets_it(
    made: Front, task: str, lasts: timedelta
) -> None:
    _, record = await desk_of(made).start(Order("alice", task))
    assert record.task.expires - record.started == lasts


async def test_nothing_is_started_or_extended_that_cannot_be_written_down(
    made: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_of(made)
    _, record = await desk.start(Order("alice", "free"))

    async def broken(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("disk full")

    monkeypatch.setattr(made.audit, "note", broken)
    with pytest.raises(StoreUnavailable):
        await desk.start(Order("alice", "free"))
    with pytest.raises(StoreUnavailable):
        await desk.extend(record.task.id, timedelta(hours=9))
    assert [each.state(utc_now()) for each in made.tasks.list(9)] == ["under way", "revoked"]
    assert made.tasks.find(record.task.id) == record or made.tasks.find(record.task.id).task == record.task  # type: ignore[union-attr]


async def test_what_has_to_end_ends_even_where_it_cannot_be_written_down(
    made: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_of(made)
    _, record = await desk.start(Order("alice", "free"))

    async def broken(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("disk full")

    monkeypatch.setattr(made.audit, "note", broken)
    with pytest.raises(StoreUnavailable):
        await desk.end(record.task.id)
    assert not made.tasks.holds(record.task.id, utc_now())


async def test_no_answer_stands_that_cannot_be_written_down(made: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = desk_of(made)
    with pytest.raises(MistakeError, match="no approval has the id"):
        await desk.answer("unknown", yes=True, by="carol")
    with pytest.raises(MistakeError, match="no task has the id"):
        await desk.end("unknown")
