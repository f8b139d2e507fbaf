"""Metrics where a configuration wants them: whose names they may show, and what the parts say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from starlette.types import ASGIApp

from mcp_gateway import __version__
from mcp_gateway.audit.log import AuditLog
from mcp_gateway.config.servers import Configuration
from mcp_gateway.domain import DRAFTS, MODELS, PROVIDER_TOOLS, UpstreamState, UpstreamStatus
from mcp_gateway.metrics import (
    AUDIT_COMMITS,
    AUDIT_HEALTHY,
    AUDIT_WAITING,
    COMPLAINTS,
    INFO,
    UPSTREAM_RESTARTS,
    UPSTREAM_STATE,
    Metrics,
    Names,
    Taken,
)
from mcp_gateway.policy.compile import Policy
from mcp_gateway.upstreams.pool import Pool

if TYPE_CHECKING:
    from mcp_gateway.frontdoor.scrape import ScrapeDoor


class Parts(Protocol):
    """Of a running gateway, what metrics are about."""

    configuration: Configuration
    policy: Policy
    audit: AuditLog
    pool: Pool

    @property
    def complaints(self) -> Mapping[str, str]: ...


def metrics_of(configuration: Configuration) -> Metrics | None:
    """Where calls are counted; None: nobody wants to know."""
    return Metrics() if configuration.settings.metrics_key else None


def names_of(configuration: Configuration, policy: Policy) -> Names:
    """The names that a configuration and its policy have."""
    offered = configuration.models.offered.values()
    return Names(
        agents=frozenset(policy.assignments),
        tasks=frozenset(policy.tasks),
        upstreams=frozenset({server.name for server in configuration.servers} | {MODELS, PROVIDER_TOOLS, DRAFTS}),
        models=frozenset(str(target) for model in offered for target in model.targets),
    )


def with_metrics(beyond: ASGIApp, parts: Parts, metrics: Metrics | None) -> ASGIApp:
    """The operators' listener with `/metrics` on it, if metrics are on."""
    settings = parts.configuration.settings
    keys = [key for key in (settings.metrics_key, settings.admin_key) if key]
    if metrics is None or not keys:
        return beyond
    # Loaded only now: `prometheus-client` need not be installed where nobody wants metrics.
    kind: type[ScrapeDoor] = import_module("mcp_gateway.frontdoor.scrape").ScrapeDoor
    counted = metrics

    def taken() -> list[Taken]:
        return [*counted.taken(), *facts(parts)]

    return kind(beyond, keys, taken, parts.audit.count_refusal, settings.max_header_bytes)


def facts(parts: Parts) -> list[Taken]:
    """What need not be counted, because the parts know it."""
    audit, statuses = parts.audit, parts.pool.statuses()
    return [
        Taken(UPSTREAM_STATE, [state for status in statuses for state in _states(status)]),
        Taken(UPSTREAM_RESTARTS, [((status.name,), status.restarts) for status in statuses]),
        Taken(AUDIT_WAITING, [((), audit.waiting)]),
        Taken(AUDIT_COMMITS, [((), audit.commits)]),
        Taken(AUDIT_HEALTHY, [((), int(audit.healthy))]),
        Taken(COMPLAINTS, [((), len(parts.complaints))]),
        Taken(INFO, [((__version__, parts.policy.version[:8]), 1)]),
    ]


def _states(status: UpstreamStatus) -> list[tuple[tuple[str, ...], float]]:
    return [((status.name, state.value), int(status.state is state)) for state in UpstreamState]
