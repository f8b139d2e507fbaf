"""Plain APIs as targets: which of them requests may be passed to, and what of them is in the catalog."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from mcp_gateway.config.rest import RestConfig
from mcp_gateway.config.servers import Configuration
from mcp_gateway.domain import Kind, Target
from mcp_gateway.jsonrpc import canonical


def apis_of(configuration: Configuration) -> Mapping[str, RestConfig]:
    """The plain APIs that requests may be passed to, by name."""
    return {server.name: server.rest for server in configuration.servers if server.rest is not None and server.enabled}


def routes_of(configuration: Configuration) -> list[Target]:
    """All routes of each plain API as one target, for the catalog; see `Catalog.at`."""
    found = []
    for server in configuration.servers:
        if server.rest is not None and server.enabled:
            definition = {"name": server.name, "include": [pattern.text for pattern in server.rest.include]}
            digest = hashlib.sha256(canonical(definition)).hexdigest()
            found.append(
                Target(Kind.ROUTE, server.name, "**", server.name, definition, digest, server.tags, definition)
            )
    return found
