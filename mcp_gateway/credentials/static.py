"""Credentials that stand in servers.toml: the same for every caller of an upstream.

They are the headers of a `url` server, the bearer token or key of its `auth` among them. Never a credential of the
agent's own: what an agent sends us stays here (MCP, "Security Best Practices", token passthrough).
"""

from __future__ import annotations

from collections.abc import Iterable

from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Caller, Credential


class StaticCredentials:
    """The broker for credentials that do not depend on who is calling."""

    def __init__(self, servers: Iterable[ServerConfig]) -> None:
        self._credentials = {server.name: Credential(headers=server.headers) for server in servers}

    async def credential_for(self, caller: Caller, upstream: str) -> Credential:
        """What to send to `upstream` on behalf of `caller`. `KeyError` for an upstream there is not: a bug of ours."""
        return self._credentials[upstream]
