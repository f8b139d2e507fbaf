"""MCP's methods as tables, and how a JSON-RPC message is read.

Pure: no I/O and no decisions about callers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from mcp_gateway.domain import Era, Json, Kind, Transport, Verb
from mcp_gateway.errors import BadRequest
from mcp_gateway.frontdoor.subscriber import Subscriber
from mcp_gateway.jsonrpc import Code
from mcp_gateway.revisions import LEGACY_VERSIONS, META_CAPABILITIES, META_VERSION, MODERN_VERSIONS, WIRE_TASKS

if TYPE_CHECKING:
    from dataclasses import dataclass as made_per_call
else:
    from mcp_gateway.domain import made_per_call

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

MAX_ID_CHARS: Final = 256
"""Longest JSON-RPC id accepted. Ids are echoed, kept while a call runs, and of no use beyond telling calls apart."""


@dataclass(frozen=True, slots=True)
class CallMethod:
    """A method that asks for one target."""

    verb: Verb
    kind: Kind
    name_key: str


CALLS: Final[Mapping[str, CallMethod]] = {
    "tools/call": CallMethod(Verb.CALL, Kind.TOOL, "name"),
    "prompts/get": CallMethod(Verb.GET, Kind.PROMPT, "name"),
    "resources/read": CallMethod(Verb.READ, Kind.RESOURCE, "uri"),
}

LISTS: Final[Mapping[str, tuple[Kind, str]]] = {
    "tools/list": (Kind.TOOL, "tools"),
    "prompts/list": (Kind.PROMPT, "prompts"),
    "resources/list": (Kind.RESOURCE, "resources"),
    "resources/templates/list": (Kind.TEMPLATE, "resourceTemplates"),
}

_CAN_BE_ASKED: Final = ("elicitation", "sampling", "roots")

_LINK: Final = re.compile(r"https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/]")
"""Where a person may be sent (client/elicitation, "Safe URL Handling")."""

LIST_CHANGED: Final[Mapping[Kind, str]] = {
    Kind.TOOL: "notifications/tools/list_changed",
    Kind.PROMPT: "notifications/prompts/list_changed",
    Kind.RESOURCE: "notifications/resources/list_changed",
    Kind.TEMPLATE: "notifications/resources/list_changed",
}


@made_per_call(frozen=True, slots=True)
class Ask:
    """A JSON-RPC request. `id` keeps its type: `1` and `"1"` are two ids."""

    id: str | int
    method: str
    params: Json


@dataclass(frozen=True, slots=True)
class Notice:
    """A JSON-RPC notification."""

    method: str
    params: Json


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON-RPC response: the agent's answer to a question of ours."""

    id: str | int
    result: Json | None
    error: Json | None


@made_per_call(frozen=True, slots=True)
class Asked:
    """One request of an agent with what its transport knew about it.

    `inputs` and `state`: the agent's answers to an upstream's questions, and that upstream's own state.
    """

    method: str
    params: Json
    era: Era
    version: str
    transport: Transport
    client: str = ""
    session: str = ""
    request_id: str = ""
    """Ours, for logs and the audit; given to it where the answering begins."""
    inputs: Mapping[str, Any] | None = None
    state: str | None = None
    subscriber: Subscriber | None = None
    """Who hears of what this request subscribes to, in the handshake era."""

    def numbered(self, request_id: str) -> Asked:
        """The same with its id. Every call passes here, and `dataclasses.replace` takes ten times as long."""
        return Asked(
            self.method, self.params, self.era, self.version, self.transport, self.client, self.session, request_id,
            self.inputs, self.state, self.subscriber,
        )  # fmt: skip


def read_message(value: Any) -> Ask | Notice | Answer:
    """Tell what kind of JSON-RPC message a parsed body is.

    Raises `BadRequest` (-32600) for anything that is not exactly one message: batches, wrong `jsonrpc`, ids that are
    neither strings nor integers (`null` and `true` included), params that are no object.
    """
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        raise BadRequest("the body must be one JSON-RPC 2.0 message", Code.INVALID_REQUEST)
    if "method" not in value:
        return _read_answer(value)
    method, params = value["method"], value.get("params")
    if not isinstance(method, str) or not (params is None or isinstance(params, dict)):
        raise BadRequest("method must be a string and params an object", Code.INVALID_REQUEST)
    if "id" not in value:
        return Notice(method, params or {})
    return Ask(_read_id(value["id"]), method, params or {})


def readable_id(value: Any) -> str | int | None:
    """The id to answer a refused message with: its own where that can be trusted, else None."""
    candidate = value.get("id") if isinstance(value, dict) and "method" in value else None
    try:
        return _read_id(candidate)
    except BadRequest:
        return None


def negotiate_legacy(requested: Any) -> str:
    """The version to answer `initialize` with: the one asked for where we speak it, else our newest (lifecycle)."""
    return requested if requested in LEGACY_VERSIONS else LEGACY_VERSIONS[0]


def can_be_asked(capabilities: Mapping[str, Any]) -> bool:
    """Whether an agent with these capabilities can be asked anything."""
    return any(name in capabilities for name in _CAN_BE_ASKED)


def can_answer(capabilities: Mapping[str, Any], method: str, params: Mapping[str, Any]) -> bool:
    """Whether an agent with these capabilities may be asked this (client/elicitation, client/sampling, client/roots).

    >>> can_answer({"elicitation": {}}, "elicitation/create", {"mode": "url"})
    False
    """
    if method == "roots/list":
        return isinstance(capabilities.get("roots"), Mapping)
    if method == "sampling/createMessage":
        sampling = capabilities.get("sampling")
        wants_tools = "tools" in params or "toolChoice" in params
        return isinstance(sampling, Mapping) and (not wants_tools or "tools" in sampling)
    if method == "elicitation/create":
        elicitation = capabilities.get("elicitation")
        mode = params.get("mode", "form")
        if mode == "url" and not _LINK.match(str(params.get("url"))):
            return False
        is_plain_form = mode == "form" and not elicitation
        return isinstance(elicitation, Mapping) and isinstance(mode, str) and (is_plain_form or mode in elicitation)
    return False


def capability_for(capabilities: Mapping[str, Any], method: str, params: Mapping[str, Any]) -> Json:
    """What an agent would have to declare to be asked this; nothing where it has, or where nothing would help.

    >>> capability_for({"elicitation": {}}, "elicitation/create", {"mode": "url"})
    {'elicitation': {'url': {}}}
    >>> capability_for({"roots": {}}, "roots/list", {})
    {}
    """
    mode = params.get("mode", "form")
    wants_tools = "tools" in params or "toolChoice" in params
    needs: dict[str, Json] = {
        "roots/list": {"roots": {}},
        "sampling/createMessage": {"sampling": {"tools": {}} if wants_tools else {}},
        "elicitation/create": {"elicitation": {mode: {}}} if mode in ("form", "url") else {},
    }
    needed = needs.get(method, {})
    declares = needed and can_answer(capabilities, method, {**params, "url": "https://example.invalid/"})
    return {} if declares else needed


def without_wire_tasks(capabilities: Json) -> Json:
    """What an agent of the handshake era can do: the tasks extension has no methods there (SEP-2663)."""
    extensions = capabilities.get("extensions")
    if not isinstance(extensions, dict) or WIRE_TASKS not in extensions:
        return capabilities
    return {**capabilities, "extensions": {name: value for name, value in extensions.items() if name != WIRE_TASKS}}


def has_modern_envelope(params: Mapping[str, Any]) -> bool:
    """Whether a request claims to be modern: only 2026-07-28 and later carry their version in `_meta`."""
    meta = params.get("_meta")
    return isinstance(meta, dict) and META_VERSION in meta


def has_plain_envelope(params: Mapping[str, Any]) -> bool:
    """Whether a modern envelope is complete and of a version we speak; if not, somebody has to say what is wrong."""
    meta = params.get("_meta")
    if not isinstance(meta, dict) or META_CAPABILITIES not in meta:
        return False
    version = meta.get(META_VERSION)
    return isinstance(version, str) and version in MODERN_VERSIONS


def client_name(info: Any) -> str:
    """What an agent's program calls itself, shortened. For display: it proves nothing."""
    if not isinstance(info, dict):
        return ""
    name, version = info.get("name", ""), info.get("version", "")
    if isinstance(name, str) and isinstance(version, str):
        return _shown(name, version)
    return _shown(f"{name!s:.80}", f"{version!s:.40}")


@lru_cache(maxsize=256)  # the same few come with every request
def _shown(name: str, version: str) -> str:
    return f"{name:.80}/{version:.40}".strip("/")


def _read_id(value: Any) -> str | int:
    if isinstance(value, str) and len(value) <= MAX_ID_CHARS:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise BadRequest(f"id must be a string of at most {MAX_ID_CHARS} characters or an integer", Code.INVALID_REQUEST)


def _read_answer(value: Json) -> Answer:
    result, error = value.get("result"), value.get("error")
    if isinstance(result, dict) == isinstance(error, dict):
        raise BadRequest("a message needs a method, a result or an error", Code.INVALID_REQUEST)
    return Answer(_read_id(value.get("id")), result, error)
