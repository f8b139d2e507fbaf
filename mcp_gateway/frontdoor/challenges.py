"""What a refusal tells an agent about how to come back: `WWW-Authenticate` (RFC 6750, RFC 9728, RFC 9449).

A gateway that trusts no issuer has nothing to tell but that a key is needed. With issuers each challenge says where the
endpoint's metadata is and which scopes to ask for, all at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from mcp_gateway.domain import Json
from mcp_gateway.errors import NotAuthenticated
from mcp_gateway.frontdoor.exchange import CHALLENGE
from mcp_gateway.frontdoor.wire_errors import SCOPE_NEEDED
from mcp_gateway.identity.dpop import PROOF_ALGORITHMS
from mcp_gateway.identity.resource import METADATA_PATH, Resource

Headers = tuple[tuple[bytes, bytes], ...]

_METADATA: Final = re.compile(
    rf"{re.escape(METADATA_PATH)}(/mcp(?:/(?P<task>[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}))?)?/?", re.ASCII
)
_NAME: Final = b"www-authenticate"
_ENDPOINT: Final = "/mcp"


class Challenges:
    """The challenges of one gateway; without a resource, of one that knows nothing but keys."""

    def __init__(self, resource: Resource | None = None) -> None:
        self._resource = resource

    def unauthenticated(self, error: NotAuthenticated, task: str | None) -> Headers:
        """The headers of a 401."""
        if self._resource is None:
            return (CHALLENGE,)
        lines = [(_NAME, self._challenge(self._resource, "Bearer", error.error, self._resource.scopes, task))]
        if self._resource.needs_proof or "dpop" in error.error:
            lines.append((_NAME, self._challenge(self._resource, "DPoP", error.error, self._resource.scopes, task)))
        if error.nonce:
            lines.append((b"dpop-nonce", error.nonce.encode()))
        return tuple(lines)

    def step_up(self, path: str, member: Json) -> Headers:
        """The headers of an answer that is a `result` or `error` member: those of a 403 where scopes are missing.

        RFC 6750 section 3.1, and MCP's "Scope Challenge Handling": every scope that the operation needs, at once.
        """
        error = member.get("error")
        if self._resource is None or error is None or error.get("code") != SCOPE_NEEDED:
            return ()
        scopes = dict.fromkeys((*self._resource.scopes, *error["data"]["scopes"]))
        task = path.removeprefix(_ENDPOINT).strip("/") or None
        return ((_NAME, self._challenge(self._resource, "Bearer", "insufficient_scope", tuple(scopes), task)),)

    def metadata(self, path: str) -> Json | None:
        """The protected-resource metadata that is served under a path; None: there is none."""
        match = None if self._resource is None else _METADATA.fullmatch(path)
        return None if self._resource is None or match is None else self._resource.metadata(match["task"])

    def _challenge(self, resource: Resource, scheme: str, error: str, scopes: Sequence[str], task: str | None) -> bytes:
        said: dict[str, Any] = {
            "realm": "mcp_gateway",
            "error": error,
            "resource_metadata": resource.metadata_url_of(task),
            "scope": " ".join(scopes),
            "algs": " ".join(PROOF_ALGORITHMS) if scheme == "DPoP" else "",
        }
        # What is put in has no quotes or backslashes: names of tasks, scopes and the origin are checked when read.
        return (f"{scheme} " + ", ".join(f'{name}="{value}"' for name, value in said.items() if value)).encode()


NO_CHALLENGES: Final = Challenges()
