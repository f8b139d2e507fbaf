"""`/metrics` on the operators' listener: what has been counted, as Prometheus and OpenMetrics write it.

Opened by a key of its own, because a monitoring system has no business starting tasks or answering approvals; the admin
key opens it, too. Nothing of it is on the agents' door. Needs `prometheus-client`; loaded only where metrics are on.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Final

import anyio
import anyio.to_thread
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_gateway.frontdoor.doorstep import Doorstep, Refusal
from mcp_gateway.frontdoor.exchange import CHALLENGE, send_json
from mcp_gateway.frontdoor.head import head_of
from mcp_gateway.jsonrpc import dump
from mcp_gateway.metrics import Family, Spread, Taken

PATH: Final = "/metrics"

_BEARER: Final = re.compile(r"bearer +(\S+)", re.IGNORECASE | re.ASCII)
_NOT_KEPT: Final = ((b"cache-control", b"no-store"),)


class ScrapeDoor:
    """The ASGI application of the operators' listener where metrics are on: `/metrics`; all else goes to `beyond`."""

    def __init__(
        self,
        beyond: ASGIApp,
        keys: Sequence[str],
        taken: Callable[[], list[Taken]],
        count_refusal: Callable[[str], None],
        max_header_bytes: int,
    ) -> None:
        self._beyond = beyond
        self._keys = [_digest(key.encode()) for key in keys]
        self._taken = taken
        self._count_refusal = count_refusal
        self._doorstep = Doorstep(max_header_bytes=max_header_bytes)
        self._one_at_a_time = anyio.Lock()
        self._process = _OfTheProcess()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._beyond(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            self._count_refusal(f"admin_{refusal.status}")
            await send_json(send, refusal.status, dump({"error": refusal.text}), refusal.headers)
            return
        accept = ", ".join(head_of(scope).lines.values("accept"))
        async with self._one_at_a_time:
            taken = self._taken()
            # In a thread: writing thousands of series takes longer than a call may wait.
            text, content_type = await anyio.to_thread.run_sync(written, taken, accept, self._process)
        await send_json(send, 200, text, _NOT_KEPT, content_type.encode())

    def _refusal(self, scope: Scope) -> Refusal | None:
        refusal = self._doorstep.check(scope)
        if refusal is not None:
            return refusal
        if not self._is_opened_by(head_of(scope).authorization):
            return Refusal(401, "the metrics key is required", (CHALLENGE,))
        if scope["method"] != "GET":
            return Refusal(405, "method not allowed", ((b"allow", b"GET"),))
        return None

    def _is_opened_by(self, authorization: list[str]) -> bool:
        match = _BEARER.fullmatch(authorization[0]) if len(authorization) == 1 else None
        given = _digest(match[1].encode("latin-1") if match else b"")
        return any(hmac.compare_digest(given, key) for key in self._keys)


class _OfTheProcess(Collector):
    """What `prometheus-client` itself knows: CPU, memory, open files, garbage."""

    def __init__(self) -> None:
        nowhere = CollectorRegistry()
        self._parts: tuple[Collector, ...] = (ProcessCollector(registry=nowhere), GCCollector(registry=nowhere))

    def collect(self) -> Iterable[Metric]:
        for part in self._parts:
            yield from part.collect()


def written(taken: list[Taken], accept: str, process: Collector) -> tuple[bytes, str]:
    """All values in the form that a scraper's `Accept` prefers, and that form's content type."""

    class Everything(Collector):
        def collect(self) -> Iterable[Metric]:
            yield from map(_metric, taken)
            yield from process.collect()

    encode, content_type = choose_encoder(accept)
    return encode(Everything()), content_type


def _metric(taken: Taken) -> Metric:
    family = taken.family
    if family.kind == "histogram":
        return _histogram(taken)
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.says, labels=family.labels)
    for labels, value in taken.values:
        if not isinstance(value, Spread):
            metric.add_metric(labels, value)
    return metric


def _histogram(taken: Taken) -> Metric:
    family = taken.family
    metric = HistogramMetricFamily(family.name, family.says, labels=family.labels)
    for labels, value in taken.values:
        if isinstance(value, Spread):
            metric.add_metric(labels, _buckets(family, value), value.total)
    return metric


def _buckets(family: Family, value: Spread) -> list[tuple[str, float]]:
    bounds = [*map(str, family.bounds), "+Inf"]
    return list(zip(bounds, accumulate(value.counts), strict=True))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
