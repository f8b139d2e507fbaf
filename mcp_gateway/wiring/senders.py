"""What sends calls of models and requests of plain routes; what it has learned of their health outlives a reload."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from mcp_gateway.audit.redact import RULES
from mcp_gateway.cache import Bounds, Cache
from mcp_gateway.config.models import Models
from mcp_gateway.config.rest import RestConfig
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.config.settings import Settings
from mcp_gateway.domain import Caller, Credential, Reason, Request, Target
from mcp_gateway.guards.detect import KnownSecrets
from mcp_gateway.guards.documents import Documents
from mcp_gateway.guards.personal import PersonalData
from mcp_gateway.models.caching import Prompts
from mcp_gateway.models.call import Surroundings
from mcp_gateway.models.health import Health
from mcp_gateway.models.kept import KeptThings
from mcp_gateway.models.sender import ModelSender
from mcp_gateway.models.shadow import Shadow
from mcp_gateway.netguard import Allowed
from mcp_gateway.policy.compile import Policy
from mcp_gateway.policy.decide import decide
from mcp_gateway.rest.caching import CacheRules, Clocks, RouteCache, Stored
from mcp_gateway.upstreams.connection import Prove
from mcp_gateway.upstreams.plain import PlainClient
from mcp_gateway.upstreams.routes import Api, RouteSender, api_of
from mcp_gateway.wiring.clock import utc_now


class Senders:
    """Makes the senders of each snapshot; all of them share one HTTP client."""

    def __init__(
        self,
        settings: Settings,
        credential_for: Callable[[Caller, str], Awaitable[Credential]],
        things: KeptThings,
        prove: Prove | None = None,
    ) -> None:
        self._things = things
        self._client = PlainClient(admits=Allowed.of(settings.allow_addresses).admits_written, prove=prove)
        self._credential_for = credential_for
        self._max_answer_bytes = settings.max_result_bytes
        self._apis: Mapping[str, Api] = {}
        bounds = Bounds(settings.cache_bytes, settings.cache_bytes_per_caller)
        self._caches: Mapping[str, RouteCache] = {}
        self._prompts = Prompts(Cache(bounds), time.monotonic)
        private = (KnownSecrets(RULES), PersonalData())
        self._shadow = Shadow(Cache(bounds), time.monotonic, lambda text: any(each.scan(text) for each in private))
        self._answers = Cache[tuple[Stored, ...]](bounds)
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

        return ModelSender(
            models,
            self._model_calls,
            permits,
            random.random,
            self._prompts,
            policy.version,
            self._shadow,
            self._things,
        )

    def of_routes(self, servers: Sequence[ServerConfig]) -> RouteSender:
        """For requests to the plain APIs among these servers; one that has not changed keeps its breaker and cache."""
        kept = {name: api for name, api in self._apis.items() if any(api.server == server for server in servers)}
        self._apis = {
            server.name: kept.get(server.name) or api_of(server, server.rest)
            for server in servers
            if server.rest is not None and server.enabled
        }
        self._caches = self._caches_of(self._apis, kept)
        return RouteSender(
            self._apis,
            self._client,
            self._credential_for,
            self._max_answer_bytes,
            self._caches,
            self._documents.check,
        )

    def note_written(self, api: str) -> None:
        """A tool may have changed something there."""
        if api in self._caches:
            self._caches[api].empty()

    def _caches_of(self, apis: Mapping[str, Api], kept: Collection[str]) -> Mapping[str, RouteCache]:
        """The caches of those APIs that have one. An answer of an API that has changed is nobody's any more."""
        for name, cache in self._caches.items():
            if name not in kept:
                cache.close()
        return {
            name: self._caches[name] if name in kept else self._cache(api.rest, api.rest.cache)
            for name, api in apis.items()
            if api.rest.cache is not None
        }

    def _cache(self, rest: RestConfig, rules: CacheRules) -> RouteCache:
        targets = (*rest.targets, *(target for route in rest.routes for target in route.targets))
        return RouteCache(rules, [base for base, _ in targets], self._answers, Clocks(time.time, time.monotonic))

    async def close(self) -> None:
        """Close every connection, those in use included."""
        await self._client.close()
