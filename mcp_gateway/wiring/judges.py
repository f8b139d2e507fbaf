"""The detectors there are: those built in and installed, and the operator's own services, which outlive a reload."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mcp_gateway.config.detectors import LONGEST_TIMEOUT_S, DetectorConfig
from mcp_gateway.guards.content import Content
from mcp_gateway.guards.webhook import Webhook
from mcp_gateway.netguard import Allowed, Fetcher
from mcp_gateway.wiring.policies import detectors


class Judges:
    """Makes what looks at calls; all services are asked over the same connections."""

    def __init__(self, allow_addresses: Sequence[str]) -> None:
        self._fetcher = Fetcher(Allowed.of(allow_addresses), timeout_s=LONGEST_TIMEOUT_S)
        self._installed = detectors()
        self._services: list[Webhook] = []

    def content(self, declared: Sequence[DetectorConfig]) -> Content:
        """With these services; one whose table has not changed keeps what it remembers and how it has done."""
        self._services = [self._service(each) for each in declared]
        return Content([*self._installed, *self._services])

    def _service(self, declared: DetectorConfig) -> Webhook:
        kept = (service for service in self._services if service.config == declared)
        return next(kept, None) or Webhook(declared, self._fetcher, time.time)

    async def close(self) -> None:
        """Close every connection."""
        await self._fetcher.aclose()
