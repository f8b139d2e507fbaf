"""Plain APIs as targets: which of them requests may be passed to, and what of them is in the catalog."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from mcp_gateway.config.rest import RestConfig
from mcp_gateway.config.servers import Configuration
from mcp_gateway.domain import Json, Kind, Target
from mcp_gateway.jsonrpc import canonical
from mcp_gateway.rest.routing import Route


def apis_of(configuration: Configuration) -> Mapping[str, RestConfig]:
    """The plain APIs that requests may be passed to, by name."""
    return {server.name: server.rest for server in configuration.servers if server.rest is not None and server.enabled}


def routes_of(configuration: Configuration) -> list[Target]:
    """All routes of each plain API as one target, for the catalog; see `Catalog.at`."""
    found = []
    for server in configuration.servers:
        if server.rest is not None and server.enabled:
            definition: Json = {"name": server.name, "include": [pattern.text for pattern in server.rest.include]}
            if server.rest.routes:
                definition["routes"] = [_shown(route) for route in server.rest.routes]
            digest = hashlib.sha256(canonical(definition)).hexdigest()
            found.append(
                Target(Kind.ROUTE, server.name, "**", server.name, definition, digest, server.tags, definition)
            )
    return found


def _shown(route: Route) -> Json:
    """What the audit keeps of a route: which requests are on it, and where in its life it is."""
    life = {"state": route.life.state, "deprecated_at": route.life.deprecated_at, "sunset_at": route.life.sunset_at}
    return {"name": route.name, "match": [pattern.text for pattern in route.match], **life}
