"""Which task a request is for: the endpoint's, else the agent's default."""

from __future__ import annotations

import pytest

from mcp_gateway.domain import Assignment
from mcp_gateway.identity.task import task_for

BOT = Assignment(agent="bot", tasks=("read", "write"), default_task="read")
UNDECIDED = Assignment(agent="bot", tasks=("read",), default_task=None)


@pytest.mark.parametrize(
    ("assignment", "endpoint", "task"),
    [
        (BOT, "write", "write"),
        (BOT, None, "read"),
        (BOT, "not-assigned", "not-assigned"),  # the policy refuses it; falling back would grant something else
        (BOT, "", ""),
        (UNDECIDED, None, None),
        (None, None, None),
        (None, "write", "write"),
    ],
)
def test_the_endpoint_comes_first_then_the_default(
    assignment: Assignment | None, endpoint: str | None, task: str | None
) -> None:
    assert task_for(assignment, endpoint) == task
