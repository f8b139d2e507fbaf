"""Tokens of started tasks: shown once, good for one task, ended at once in every process."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mcp_gateway.domain import Budget, Strength
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.identity.started import HMAC_KEY_FILE, StartedTasks, TaskTokenCheck
from mcp_gateway.storage.started import DATABASE

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[StartedTasks]:
    found = StartedTasks(tmp_path)
    yield found
    found.close()


def test_a_token_leads_to_what_it_was_started_with(tasks: StartedTasks) -> None:
    context = {"customer": 42, "name": "x"}
    token, record = tasks.start("bot", "ticket", HOUR, NOW, context=context, person="carol", budget=Budget(calls=3))
    found = tasks.verify(token, NOW)
    assert found == record.task
    assert found is not None
    assert (found.agent, found.task, found.context, found.person) == ("bot", "ticket", context, "carol")
    assert (found.budget, found.expires) == (Budget(calls=3), NOW + HOUR)


def test_the_token_itself_is_kept_nowhere(tasks: StartedTasks, tmp_path: Path) -> None:
    token, record = tasks.start("bot", "ticket", HOUR, NOW)
    secret = token.split("_")[2].encode()
    assert all(secret not in path.read_bytes() for path in tmp_path.iterdir())
    assert token not in repr(record)


def test_a_task_is_over_when_its_time_is(tasks: StartedTasks) -> None:
    token, record = tasks.start("bot", "ticket", HOUR, NOW)
    almost = NOW + HOUR - timedelta(microseconds=1)
    assert tasks.verify(token, almost) is not None
    assert tasks.verify(token, NOW + HOUR) is None
    assert not tasks.holds(record.task.id, NOW + HOUR)


@pytest.mark.parametrize("how", ["end", "revoke"])
def test_what_one_process_ends_no_other_accepts(tasks: StartedTasks, tmp_path: Path, how: str) -> None:
    other = StartedTasks(tmp_path)
    token, record = tasks.start("bot", "ticket", HOUR, NOW)
    assert other.verify(token, NOW) is not None
    assert getattr(tasks, how)(record.task.id, NOW)
    assert other.verify(token, NOW) is None
    assert not other.holds(record.task.id, NOW)
    assert not getattr(tasks, how)(record.task.id, NOW)
    other.close()


def test_a_task_lasts_as_long_as_it_is_extended_to(tasks: StartedTasks, tmp_path: Path) -> None:
    other = StartedTasks(tmp_path)
    token, record = tasks.start("bot", "ticket", HOUR, NOW)
    assert tasks.extend(record.task.id, NOW + 2 * HOUR, NOW)
    assert other.verify(token, NOW + HOUR) is not None
    assert tasks.extend(record.task.id, NOW + timedelta(minutes=1), NOW)
    assert other.verify(token, NOW + HOUR) is None
    assert not tasks.extend(record.task.id, NOW + 9 * HOUR, NOW + HOUR)  # what is over stays over
    other.close()


def test_a_task_is_told_with_the_end_it_has_now(tasks: StartedTasks) -> None:
    _, record = tasks.start("bot", "ticket", HOUR, NOW)
    tasks.extend(record.task.id, NOW + 2 * HOUR, NOW)
    assert tasks.as_it_is(record.task, NOW).expires == NOW + 2 * HOUR
    tasks.end(record.task.id, NOW)
    assert tasks.as_it_is(record.task, NOW).expires == NOW


def test_two_processes_that_start_tasks_see_each_others(tasks: StartedTasks, tmp_path: Path) -> None:
    other = StartedTasks(tmp_path)
    tokens = [each.start("bot", "ticket", HOUR, NOW)[0] for each in (tasks, other) * 10]
    assert all(each.verify(token, NOW) for each in (tasks, other) for token in tokens)
    other.close()


def test_forgotten_are_only_those_that_have_expired(tasks: StartedTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [tasks.start("bot", "ticket", timedelta(minutes=1), NOW)[0] for _ in range(10)]
    assert all(tasks.verify(token, NOW) for token in old)
    assert tasks._seen is not None
    tasks._seen.tidy_at = 5
    later = NOW + HOUR
    new, _ = tasks.start("bot", "ticket", HOUR, later)
    assert tasks.verify(new, later) is not None
    assert len(tasks._seen.records) == 1


def test_a_task_without_time_is_none(tasks: StartedTasks) -> None:
    with pytest.raises(ValueError, match="in the future"):
        tasks.start("bot", "ticket", timedelta(), NOW)
    with pytest.raises(ValueError, match="bytes"):
        tasks.start("bot", "ticket", HOUR, NOW, context={"x": "y" * 20_000})


def test_a_token_is_an_identity_of_its_own(tasks: StartedTasks) -> None:
    check = TaskTokenCheck(tasks)
    token, record = tasks.start("bot", "ticket", HOUR, NOW)
    identity = check.identity_of(token, NOW)
    assert identity is not None
    assert (identity.agent, identity.strength, identity.started) == ("bot", Strength.TASK_TOKEN, record.task)
    assert check.still_holds(identity, NOW)
    tasks.end(record.task.id, NOW)
    assert not check.still_holds(identity, NOW)
    assert check.identity_of("mgw_something", NOW) is None


def test_a_store_that_is_open_to_others_or_gone_is_refused(tasks: StartedTasks, tmp_path: Path) -> None:
    (tmp_path / HMAC_KEY_FILE).chmod(0o644)
    with pytest.raises(StoreUnavailable, match="open to other users"):
        StartedTasks(tmp_path)
    token, _ = tasks.start("bot", "ticket", HOUR, NOW)
    (tmp_path / DATABASE).unlink()
    with pytest.raises(StoreUnavailable):
        tasks.verify(token, NOW)
