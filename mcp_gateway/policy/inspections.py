"""Which guards of the policy apply to one call. Pure, as `decide`."""

from __future__ import annotations

from datetime import datetime

from mcp_gateway.domain import Caller, Inspection, Request, Target
from mcp_gateway.policy.compile import Policy
from mcp_gateway.policy.decide import scope_of


def inspections(
    policy: Policy, caller: Caller, request: Request, target: Target, now: datetime
) -> tuple[Inspection, ...]:
    """The guards that apply to one call, in the order they are written; for most policies there are none."""
    guards = [guard for guard in policy.guards if guard.speaks_of(caller, target)]
    if not any(guard.condition for guard in guards):
        return tuple(guard.inspection for guard in guards)
    scope = scope_of(caller, request, target, now)
    return tuple(guard.inspection for guard in guards if guard.applies(scope))
