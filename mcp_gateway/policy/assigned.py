"""Whether the policies name an agent, and give it a task."""

from __future__ import annotations

from mcp_gateway.config.servers import Configuration
from mcp_gateway.errors import Complaint, ConfigInvalid
from mcp_gateway.policy.compile import Policy


def check_agent(configuration: Configuration, policy: Policy, agent: str, task: str | None) -> None:
    """Raises `ConfigInvalid` for an agent that the policy does not name, or that has no such task."""
    assignment = policy.assignments.get(agent)
    where = str(configuration.settings.policies)
    if assignment is None:
        known = ", ".join(sorted(policy.assignments)) or "none"
        raise ConfigInvalid([Complaint(where, 0, f"no policy names the agent {agent!r}", f"known: {known}")])
    if task is not None and task not in assignment.tasks:
        tasks = ", ".join(assignment.tasks) or "none"
        raise ConfigInvalid([Complaint(where, 0, f"agent {agent!r} has no task {task!r}", f"it has: {tasks}")])
