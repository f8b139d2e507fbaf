"""A model call as one provider gets it: its own name for the model, the headers it may see, its key put in last.

Headers pass by an allow-list: what nobody thought of stays here. The body is the agent's own, byte for byte, but for
the members named in `edits_for`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_gateway import __version__
from mcp_gateway.domain import HttpPart, Json
from mcp_gateway.models.route import Way
from mcp_gateway.models.splice import spliced
from mcp_gateway.models.wires import CHUNKED, Op, Operation

PASSED_ON: Final = ("anthropic-version", "anthropic-beta", "openai-beta", "traceparent", "tracestate")
"""Stripping any of them switches features of the caller's SDK off; none carries a secret or a name of the agent's."""

PASSED_BACK: Final = ("content-type", "retry-after", "retry-after-ms", "x-should-retry", "request-id", "x-request-id")
"""A provider's rate-limit headers are about a key that many agents share: they are nobody's business."""

_ANTHROPIC_VERSION: Final = "2023-06-01"
_LEAST_SECRET: Final = 8


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One attempt."""

    url: str
    headers: Mapping[str, str]
    body: bytes | None
    strips_usage: bool
    """The usage at the end of the stream was asked for by us."""


def outgoing(operation: Operation, way: Way, http: HttpPart, *, is_stream: bool) -> Outgoing:
    """What goes to one provider, made anew from the agent's own request for each attempt."""
    edits = {} if operation.is_about_kept or not operation.has_body else edits_for(operation, way, http.json)
    body = spliced(http.body, edits) if edits else http.body if operation.has_body else None
    headers = {
        **({"content-type": "application/json"} if body is not None else {}),
        "accept": "text/event-stream" if is_stream else "application/json",
        "accept-encoding": "identity",
        "user-agent": f"mcp-gateway/{__version__}",
    }
    if operation.wire == "anthropic":
        headers["anthropic-version"] = _ANTHROPIC_VERSION
    headers |= _plain(http.headers, PASSED_ON)
    headers |= {name.lower(): value for name, value in way.provider.headers.items()}
    path = operation.path if "{" not in operation.path else http.path.removeprefix("/v1")
    return Outgoing(way.provider.url + path, headers, body, "stream_options" in edits)


def edits_for(operation: Operation, way: Way, asked: Json) -> dict[str, Any]:
    """The members that differ for this provider from what the agent wrote."""
    edits: dict[str, Any] = {}
    if operation.op is Op.CREATE_CONVERSATION:
        return edits
    if asked["model"] != way.target.model:
        edits["model"] = way.target.model
    if operation.op is Op.RESPONSES and asked.get("store") is None and not way.provider.stateful:
        edits["store"] = False  # the wire's default is to keep every answer, for whoever has the same key
    if operation.op in CHUNKED and asked.get("stream") and way.provider.stream_usage:
        options = asked.get("stream_options") or {}
        if isinstance(options, dict) and not options.get("include_usage"):
            edits["stream_options"] = {**options, "include_usage": True}
    return edits


def secrets_of(way: Way) -> tuple[bytes, ...]:
    """What of a provider's headers must not come back to an agent, longest first."""
    found = set()
    for value in way.provider.headers.values():
        found |= {value, value.rpartition(" ")[2]}
    return tuple(sorted((v.encode("latin-1") for v in found if len(v) >= _LEAST_SECRET), key=len, reverse=True))


def headers_back(headers: Mapping[str, str]) -> dict[str, str]:
    """What an agent gets of a provider's headers."""
    return _plain(headers, PASSED_BACK)


def _plain(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """Those of the named headers that can be sent on as they are."""
    found = {name: headers[name] for name in names if name in headers}
    return {
        name: value for name, value in found.items() if len(value) <= 2048 and value.isascii() and value.isprintable()
    }
