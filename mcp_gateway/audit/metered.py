"""The write side of the audit where metrics are on: what is written down is counted, too.

A class of its own, so that calls cost nothing more where metrics are off. An entry counts when it gets its end.
"""

from __future__ import annotations

from time import perf_counter

from mcp_gateway.audit.log import AuditLog, AuditSettings, Entry
from mcp_gateway.domain import Caller, Decision, Outcome, OutcomeStatus, Request, Target
from mcp_gateway.metrics import Metrics


class MeteredAuditLog(AuditLog):
    """Evidence, and numbers."""

    def __init__(self, settings: AuditSettings, metrics: Metrics) -> None:
        super().__init__(settings)
        self._metrics = metrics

    async def open(self, caller: Caller, request: Request, target: Target | None, decision: Decision) -> Entry:
        """As `AuditLog.open`."""
        began_at = perf_counter()
        entry = await super().open(caller, request, target, decision)
        self._metrics.committed(perf_counter() - began_at)
        self._metrics.opened(request, target)
        return entry

    async def close(self, entry: Entry, outcome: Outcome, *, gateway_ms: float = 0) -> None:
        """As `AuditLog.close`."""
        if entry.is_closed:
            return
        began_at, metrics = perf_counter(), self._metrics
        try:
            await super().close(entry, outcome, gateway_ms=gateway_ms)
        finally:
            metrics.committed(perf_counter() - began_at)
            metrics.closed(entry.request, entry.target, outcome, gateway_ms)
            metrics.ended(entry.caller, entry.request, entry.target, entry.decision, outcome)

    async def record(
        self, caller: Caller, request: Request, target: Target | None, decision: Decision, outcome: Outcome
    ) -> Entry:
        """As `AuditLog.record`."""
        began_at, metrics = perf_counter(), self._metrics
        try:
            return await super().record(caller, request, target, decision, outcome)
        finally:
            metrics.committed(perf_counter() - began_at)
            metrics.ended(caller, request, target, decision, outcome)

    def count_refusal(self, reason: str) -> None:
        """As `AuditLog.count_refusal`."""
        self._metrics.refused(reason)
        super().count_refusal(reason)

    def _abandon(self, entry: Entry) -> None:
        super()._abandon(entry)
        cancelled = Outcome(OutcomeStatus.CANCELLED)
        self._metrics.ended(entry.caller, entry.request, entry.target, entry.decision, cancelled)
