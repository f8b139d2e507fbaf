"""Configuration in, running parts out: the only room that knows every part by its class.

`running(...)` starts what a gateway needs whatever door serves it; the rest is for commands that need one part of it.
"""

from mcp_gateway.wiring.clock import new_request_id, utc_now
from mcp_gateway.wiring.offers import bounded, catalog_of, naming_rule, sifted_of, upstream_limits
from mcp_gateway.wiring.parts import Load, Running
from mcp_gateway.wiring.policies import check_shareable, policy_of
from mcp_gateway.wiring.routes import apis_of
from mcp_gateway.wiring.starting import running, trusting
from mcp_gateway.wiring.stores import (
    audit_reader,
    broker_of,
    kept_store,
    keys_of,
    logins_of,
    open_audit,
    spent_budgets,
    started_tasks_of,
)
from mcp_gateway.wiring.tasks import desk, started_now, started_task_of, until_over
from mcp_gateway.wiring.trust import Trust

__all__ = [
    "Load",
    "Running",
    "Trust",
    "apis_of",
    "audit_reader",
    "bounded",
    "broker_of",
    "catalog_of",
    "check_shareable",
    "desk",
    "kept_store",
    "keys_of",
    "logins_of",
    "naming_rule",
    "new_request_id",
    "open_audit",
    "policy_of",
    "running",
    "sifted_of",
    "spent_budgets",
    "started_now",
    "started_task_of",
    "started_tasks_of",
    "trusting",
    "until_over",
    "upstream_limits",
    "utc_now",
]
