"""How a request is dressed for the era an upstream speaks: `_meta` in the body, and the headers that mirror it.

Pure. Modern servers get the trio of `_meta` keys with every request (basic/index, "_meta") and what *this* agent can
do, never more; legacy ones were told at `initialize` and get at most a progress token. The agent's own tokens never
come this far: ids and tokens are the connection's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

from mcp_gateway import __version__
from mcp_gateway.domain import NOTHING, Era, Json, Reply
from mcp_gateway.jsonrpc import dump
from mcp_gateway.revisions import (
    LEGACY_VERSIONS,
    META_CAPABILITIES,
    META_CLIENT,
    META_LOG_LEVEL,
    META_VERSION,
    MODERN_VERSIONS,
    UI,
    WIRE_TASKS,
)
from mcp_gateway.upstreams import sdk

CLIENT_INFO: Final = {"name": "mcp-gateway", "version": __version__}

QUESTIONS: Final = ("elicitation", "roots", "sampling")

_NAMED_BY: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:/-]+")
"""What stands in a header as it is; for anything else see streamable-http "Value Encoding"."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One era, one protocol version."""

    era: Era
    version: str
    extensions: frozenset[str] = frozenset()
    """What the server at the other end announced, of the extensions we can carry in this era."""

    def request(self, request_id: int, method: str, params: Mapping[str, Any], reply: Reply) -> Json:
        """The whole JSON-RPC request. Its id is its progress token too: unique while it is in flight."""
        given = params.get("_meta")
        follows = bool(self.extensions) and self._follows(method, reply)
        if not given and self.era is Era.MODERN and not (reply.capabilities or follows) and says_nothing(reply):
            plain = {**params, "_meta": _plain_meta(self.version)}
            return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": plain}
        meta = dict(given or NOTHING)
        if self.era is Era.MODERN:
            meta[META_VERSION] = self.version
            meta[META_CLIENT] = CLIENT_INFO
            capabilities = bridgeable(reply.capabilities, self.extensions)
            meta[META_CAPABILITIES] = with_wire_tasks(capabilities) if follows else capabilities
            if reply.log_level is not None:
                meta[META_LOG_LEVEL] = reply.log_level
        elif "inputResponses" in params or "requestState" in params:
            params = {k: v for k, v in params.items() if k not in ("inputResponses", "requestState")}
        if reply.wants_progress:
            meta["progressToken"] = request_id
        dressed = {**params, "_meta": meta} if meta else {k: v for k, v in params.items() if k != "_meta"}
        return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": dressed}

    def _follows(self, method: str, reply: Reply) -> bool:
        """Whether a wire task would be followed here, for an agent of an era that has none (`following`), or for all
        who want to hear of theirs."""
        is_about_tasks = method in ("tools/call", "subscriptions/listen") or method.startswith("tasks/")
        return WIRE_TASKS in self.extensions and is_about_tasks and not reply.takes_input_required

    def headers(self, method: str, params: Mapping[str, Any]) -> dict[str, str]:
        """The headers that mirror the body on HTTP (transports/streamable-http, "Standard Request Headers")."""
        headers = {"mcp-protocol-version": self.version}
        if self.era is Era.MODERN:
            headers["mcp-method"] = method
            name = named_in(method, params)
            if name is not None:
                headers["mcp-name"] = _encoded(name)
        return headers


MODERN: Final = Dialect(Era.MODERN, MODERN_VERSIONS[0])
HANDSHAKE: Final = Dialect(Era.LEGACY, LEGACY_VERSIONS[0])


def legacy(version: object) -> Dialect:
    """The dialect of a version that `initialize` settled on. Raises `LookupError` for one we do not speak."""
    if version not in LEGACY_VERSIONS:
        raise LookupError(f"protocol version {str(version)[:40]!r}")
    return Dialect(Era.LEGACY, str(version))


def initialize_params(capabilities: Mapping[str, Any]) -> Json:
    """The params of the legacy handshake."""
    return {
        "protocolVersion": HANDSHAKE.version,
        "capabilities": dict(capabilities),
        "clientInfo": CLIENT_INFO,
    }


def extensions_in(era: Era, capabilities: Mapping[str, Any]) -> frozenset[str]:
    """The extensions that a server's capabilities announce and we can carry in its era.

    Wire tasks are of 2026-07-28 and later; what 2025-11-25 called tasks was another thing, and is dropped.
    """
    announced = capabilities.get("extensions")
    carried = {UI, WIRE_TASKS} if era is Era.MODERN else {UI}
    return frozenset(carried & announced.keys()) if isinstance(announced, Mapping) else frozenset()


def declares(capabilities: Mapping[str, Any], extension: str) -> bool:
    """Whether an agent's capabilities for one request have an extension in them."""
    extensions = capabilities.get("extensions")
    return isinstance(extensions, Mapping) and isinstance(extensions.get(extension), Mapping)


def bridgeable(capabilities: Mapping[str, Any], announced: frozenset[str] = frozenset()) -> Json:
    """Of what an agent can do, what an upstream may make use of through us; `announced`: its own extensions."""
    passed = {name: capabilities[name] for name in QUESTIONS if name in capabilities}
    carried = [name for name in (UI, *(announced & {WIRE_TASKS})) if declares(capabilities, name)]
    if carried:
        passed["extensions"] = {name: capabilities["extensions"][name] for name in carried}
    return passed


def says_nothing(reply: Reply) -> bool:
    """Whether an agent wants to hear nothing before its answer."""
    return reply.log_level is None and not reply.wants_progress


@cache
def _plain_meta(version: str) -> Json:
    """What every modern request of an agent that can and wants nothing in particular says of itself."""
    return {META_VERSION: version, META_CLIENT: CLIENT_INFO, META_CAPABILITIES: {}}


def with_wire_tasks(capabilities: Json) -> Json:
    """The same with the tasks extension declared."""
    return {**capabilities, "extensions": {**capabilities.get("extensions", {}), WIRE_TASKS: {}}}


class ParamHeaders:
    """The `Mcp-Param-*` headers of tool calls, computed from each tool's own schema (SEP-2243).

    Walking a schema costs far more than a call should, so the walk is remembered per tool for as long as its schema
    is the very same object.
    """

    def __init__(self) -> None:
        self._maps: dict[str, tuple[Any, dict[tuple[str, ...], str]]] = {}

    def of(self, params: Mapping[str, Any], definition: Mapping[str, Any]) -> dict[str, str]:
        """The headers for one `tools/call`."""
        schema = definition.get("inputSchema")
        header_map = self._map_of(str(definition.get("name")), schema) if schema is not None else None
        arguments = params.get("arguments")
        if not header_map or not isinstance(arguments, Mapping):
            return {}
        return sdk.mcp_param_headers(header_map, arguments)

    def _map_of(self, tool: str, schema: Any) -> dict[tuple[str, ...], str]:
        known = self._maps.get(tool)
        if known is not None and known[0] is schema:
            return known[1]
        header_map = (
            {}
            if not annotates_headers(schema) or sdk.find_invalid_x_mcp_header(schema)
            else sdk.x_mcp_header_map(schema)
        )
        if len(self._maps) > 20_000:
            self._maps.clear()
        self._maps[tool] = (schema, header_map)
        return header_map


def annotates_headers(schema: Any) -> bool:
    """Whether a schema says anything of headers; nearly none does, and looking closer takes the SDK."""
    return b'"x-mcp-header"' in dump(schema)


@lru_cache(maxsize=4096)  # the same few names come with every call
def _encoded(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else sdk.encode_header_value(name)


def named_in(method: str, params: Mapping[str, Any]) -> str | None:
    """What a request is about, as `Mcp-Name` says it; None for methods without such a thing."""
    # SEP-2663: requests about a wire task carry its id in Mcp-Name.
    key = _NAMED_BY.get(method) or ("taskId" if method.startswith("tasks/") else "")
    name = params.get(key)
    return name if isinstance(name, str) else None
