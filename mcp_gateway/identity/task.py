"""Which task a request is for: its task token or a verified claim says so, else the endpoint, else the agent's default.

Never what the message says: MCP 2026-07-28 forbids lists that vary by earlier calls, and `clientInfo` or an argument
would let the model choose its own rights. Whether the agent may be on that task is the policy's question, not ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from mcp_gateway import jsonrpc
from mcp_gateway.domain import Assignment, StartedTask
from mcp_gateway.errors import NotAuthenticated

DETAILS: Final = "authorization_details"
DETAILS_TYPE: Final = "mcp_gateway_task"
"""The `type` (RFC 9396 section 2.1) of the entry that names a task; others are somebody else's."""

CLAIMED: Final = "claim-"
"""What ids of tasks that a token claims begin with; those that were started here have no dash in theirs."""

_REFUSED: Final = "the bearer token is not valid"


def task_for(assignment: Assignment | None, endpoint_task: str | None) -> str | None:
    """The task's name, or None where there is none.

    `endpoint_task` is the TASK of `/mcp/TASK` (or of `--task`), None where the endpoint names none.
    """
    if endpoint_task is not None:
        return endpoint_task
    return None if assignment is None else assignment.default_task


def task_of_claims(agent: str, claims: Mapping[str, Any], claim: str) -> StartedTask | None:
    """The task that the identity provider started, by `authorization_details` or by a claim that holds its name.

    The first has context: `{"type": "mcp_gateway_task", "task": "answer-ticket", "context": {"customer": 42}}`. It
    ends with the token. None where the token says nothing of a task; raises `NotAuthenticated` where what it says
    cannot be understood: nobody falls back to another task because of that.
    """
    entry = _entry(claims.get(DETAILS))
    task = entry.get("task") if entry is not None else claims.get(claim) if claim else None
    context = {} if entry is None else entry.get("context", {})
    if entry is None and task is None:
        return None
    expires = claims.get("exp")
    if not isinstance(task, str) or not isinstance(context, dict) or not isinstance(expires, (int, float)):
        raise NotAuthenticated(_REFUSED)
    return StartedTask(_id(claims, task, context), agent, task, datetime.fromtimestamp(expires, UTC), context)


def _entry(details: Any) -> Mapping[str, Any] | None:
    """The one entry about a task; two contradict each other."""
    if details is None:
        return None
    if not isinstance(details, list) or not all(isinstance(entry, dict) for entry in details):
        raise NotAuthenticated(_REFUSED)
    found = [entry for entry in details if entry.get("type") == DETAILS_TYPE]
    if len(found) > 1:
        raise NotAuthenticated(_REFUSED)
    return found[0] if found else None


def _id(claims: Mapping[str, Any], task: str, context: Mapping[str, Any]) -> str:
    """The same for every token of one task: a refreshed token goes on with what its task has used and read."""
    who = [claims.get("iss"), claims.get("sub"), task, context]
    return f"{CLAIMED}{hashlib.sha256(jsonrpc.canonical(who)).hexdigest()[:20]}"
