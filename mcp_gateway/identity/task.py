"""Which task a request is for: what the endpoint names, else the agent's default; never what the message says.

MCP 2026-07-28 forbids lists that vary by earlier calls, and `clientInfo` or an argument would let the model choose its
own rights. Whether the agent may be on that task is the policy's question, not ours.
"""

from __future__ import annotations

from mcp_gateway.domain import Assignment


def task_for(assignment: Assignment | None, endpoint_task: str | None) -> str | None:
    """The task's name, or None where there is none.

    `endpoint_task` is the TASK of `/mcp/TASK` (or of `--task`), None where the endpoint names none.
    """
    if endpoint_task is not None:
        return endpoint_task
    return None if assignment is None else assignment.default_task
