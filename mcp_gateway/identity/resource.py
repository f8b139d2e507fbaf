"""The gateway as a protected resource: what its endpoints are called in tokens and metadata (RFC 8707, RFC 9728). Pure.

`URL/mcp` is the gateway with all its endpoints; `URL/mcp/TASK` is the one for a task, and a token for it is good there
and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mcp_gateway.domain import Json
from mcp_gateway.identity.faults import Fault
from mcp_gateway.identity.jwt import TokenRefused

METADATA_PATH: Final = "/.well-known/oauth-protected-resource"


class Resource:
    """The gateway under one origin."""

    def __init__(
        self, origin: str, issuers: Sequence[str], scopes: Sequence[str] = (), *, needs_proof: bool = False
    ) -> None:
        """`issuers` are the authorization servers an agent may turn to, `scopes` what it should ask them for."""
        self._base = f"{origin}/mcp"
        self._origin = origin
        self._issuers = tuple(issuers)
        self.scopes = tuple(scopes)
        self.needs_proof = needs_proof

    def url_of(self, task: str | None) -> str:
        """The address of an endpoint, which is also its name."""
        return self._base if task is None else f"{self._base}/{task}"

    def metadata_url_of(self, task: str | None) -> str:
        """Where an endpoint's metadata is (RFC 9728 section 3.1: the path goes behind the well-known one)."""
        return f"{self._origin}{METADATA_PATH}/mcp" + ("" if task is None else f"/{task}")

    def metadata(self, task: str | None) -> Json:
        """RFC 9728 section 2. The same for every name of a task: it tells nobody which there are."""
        document: Json = {
            "resource": self.url_of(task),
            "authorization_servers": list(self._issuers),
            "bearer_methods_supported": ["header"],
            "resource_name": "MCP Gateway",
        }
        if self.scopes:
            document["scopes_supported"] = list(self.scopes)
        if self.needs_proof:
            document["dpop_bound_access_tokens_required"] = True
        return document

    def tasks_of(self, audiences: frozenset[str], instead: frozenset[str]) -> frozenset[str] | None:
        """Which endpoints a token for `audiences` is good at; None: all. Raises `TokenRefused`.

        `instead` are names that an operator wrote down for the whole gateway; without any it is `URL/mcp`. Compared
        byte by byte: whoever issues a token for something that merely begins like us means somebody else.
        """
        if audiences & (instead or {self._base}):
            return None
        prefix = f"{self._base}/"
        tasks = frozenset(name.removeprefix(prefix) for name in audiences if name.startswith(prefix)) - {""}
        if not tasks:
            raise TokenRefused(Fault.AUDIENCE)
        return tasks
