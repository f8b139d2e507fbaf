"""What sends calls of models and requests of plain routes; what it has learned of their health outlives a reload."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from mcp_gateway.config.models import Models
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.config.settings import Settings
from mcp_gateway.domain import Caller, Credential, Reason, Request, Target
from mcp_gateway.guards.documents import Documents
from mcp_gateway.models.call import Surroundings
from mcp_gateway.models.health import Health
from mcp_gateway.models.sender import ModelSender
from mcp_gateway.policy.compile import Policy
from mcp_gateway.policy.decide import decide
from mcp_gateway.upstreams.plain import PlainClient
from mcp_gateway.upstreams.routes import Api, RouteSender, api_of
from mcp_gateway.wiring.clock import utc_now


class Senders:
    """Makes the senders of each snapshot; all of them share one HTTP client."""

    def __init__(self, settings: Settings, credential_for: Callable[[Caller, str], Awaitable[Credential]]) -> None:
        self._client = PlainClient()
        self._credential_for = credential_for
        self._max_answer_bytes = settings.max_result_bytes
        self._apis: Mapping[str, Api] = {}
        self._documents = Documents()
        self._model_calls = Surroundings(
            client=self._client,
            health=Health(),
            now_s=time.time,
            max_answer_bytes=settings.max_result_bytes,
            longest_s=settings.call_timeout_s,
        )

    def of_models(self, models: Models, policy: Policy) -> ModelSender:
        """For calls of models under this policy."""

        def permits(caller: Caller, request: Request, target: Target) -> bool:
            reason = decide(policy, caller, request, target, utc_now()).reason
            return reason not in (Reason.DENY, Reason.DENY_UNEVALUABLE)

        return ModelSender(models, self._model_calls, permits, random.random)

    def of_routes(self, servers: Sequence[ServerConfig]) -> RouteSender:
        """For requests to the plain APIs among these servers; one that has not changed keeps its breaker."""
        kept = {name: api for name, api in self._apis.items() if any(api.server == server for server in servers)}
        self._apis = {
            server.name: kept.get(server.name) or api_of(server, server.rest)
            for server in servers
            if server.rest is not None and server.enabled
        }
        check = self._documents.check
        return RouteSender(self._apis, self._client, self._credential_for, self._max_answer_bytes, check)

    async def close(self) -> None:
        """Close every connection, those in use included."""
        await self._client.close()
