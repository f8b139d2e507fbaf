"""Which task a request is for: what a verified claim says, else the endpoint's, else the agent's default."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mcp_gateway.domain import Assignment
from mcp_gateway.errors import NotAuthenticated
from mcp_gateway.identity.task import task_for, task_of_claims

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


EXPIRES = 1_800_000_000
DETAIL = {"type": "mcp_gateway_task", "task": "ticket", "context": {"customer": 42}}
FOREIGN = {"type": "payment_initiation", "task": "everything"}


def claims(**more: Any) -> dict[str, Any]:
    return {"iss": "https://idp.example", "sub": "s", "exp": EXPIRES, **more}


def test_authorization_details_start_a_task_with_context_that_ends_with_the_token() -> None:
    found = task_of_claims("bot", claims(authorization_details=[FOREIGN, DETAIL], task="other"), "task")
    assert found is not None
    assert (found.agent, found.task, found.context) == ("bot", "ticket", {"customer": 42})
    assert found.expires == datetime.fromtimestamp(EXPIRES, UTC)


def test_a_configured_claim_names_the_task() -> None:
    found = task_of_claims("bot", claims(task="ticket"), "task")
    assert found is not None
    assert (found.task, found.context) == ("ticket", {})
    assert task_of_claims("bot", claims(task="ticket"), "") is None
    assert task_of_claims("bot", claims(authorization_details=[FOREIGN]), "task") is None


def test_a_refreshed_token_goes_on_with_the_same_task_and_another_task_is_another() -> None:
    def id_of(**more: Any) -> str:
        found = task_of_claims("bot", claims(**more), "task")
        assert found is not None
        return found.id

    assert id_of(task="ticket", exp=EXPIRES + 60, jti="2") == id_of(task="ticket", jti="1")
    others = [{"task": "other"}, {"task": "ticket", "sub": "t"}, {"task": "ticket", "iss": "https://b.example"}]
    assert len({id_of(task="ticket"), *(id_of(**other) for other in others)}) == 4


@pytest.mark.parametrize(
    "more",
    [
        {"task": 1},
        {"task": ["ticket"]},
        {"task": "ticket", "exp": None},
        {"authorization_details": "ticket"},
        {"authorization_details": [1]},
        {"authorization_details": [DETAIL, DETAIL]},
        {"authorization_details": [{**DETAIL, "task": None}]},
        {"authorization_details": [{**DETAIL, "context": []}]},
    ],
)
def test_a_claim_that_cannot_be_understood_is_no_reason_to_take_another_task(more: dict[str, Any]) -> None:
    with pytest.raises(NotAuthenticated):
        task_of_claims("bot", claims(**more), "task")
