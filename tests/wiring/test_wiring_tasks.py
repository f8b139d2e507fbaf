"""Started tasks, as one command beside the gateways sees them."""

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from fakes.in_process import configured
from mcp_gateway.errors import NotAuthenticated
from mcp_gateway.frontdoor.desk import Order
from mcp_gateway.identity.started import StartedTasks
from mcp_gateway.wiring.clock import utc_now
from mcp_gateway.wiring.stores import audit_reader, started_tasks_of
from mcp_gateway.wiring.tasks import desk, started_now, started_task_of, until_over


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[StartedTasks]:
    with closing(started_tasks_of(configured(tmp_path))) as opened:
        yield opened


def test_a_task_token_is_good_for_its_own_agent_while_its_task_is_under_way(tasks: StartedTasks) -> None:
    token, record = tasks.start("reader", "read", timedelta(minutes=1), utc_now())
    assert started_task_of(tasks, "reader", token) == record.task
    with pytest.raises(NotAuthenticated):
        started_task_of(tasks, "writer", token)
    assert tasks.end(record.task.id, utc_now())
    with pytest.raises(NotAuthenticated):
        started_task_of(tasks, "reader", token)


async def test_whoever_waits_for_the_end_of_a_task_hears_of_it(tasks: StartedTasks) -> None:
    _, record = tasks.start("reader", "read", timedelta(minutes=1), utc_now())
    with anyio.move_on_after(0.05) as scope:
        await until_over(tasks, record.task)
    assert scope.cancelled_caught
    assert tasks.end(record.task.id, utc_now())
    with anyio.fail_after(5):
        await until_over(tasks, record.task)


def test_a_task_that_cannot_be_looked_up_is_over(tasks: StartedTasks) -> None:
    _, record = tasks.start("reader", "read", timedelta(minutes=1), utc_now())
    now = started_now(tasks, record.task)
    assert now().expires > utc_now()
    tasks.close()
    assert now().expires <= utc_now()


async def test_what_a_desk_starts_stands_in_the_audit(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    async with desk(configuration) as opened:
        token, record = await opened.start(Order("reader", "read"))
    with closing(started_tasks_of(configuration)) as tasks:
        assert started_task_of(tasks, "reader", token).task == "read"
    with audit_reader(configuration) as reader:
        assert [event["name"] for event in reader.events("task")] == [record.task.id]
