"""What the body of a model call asks for: the facts that policy, limits and audit judge it by.

Prompts are not among the facts, their size and their digest are. What a provider would do by itself (search the web,
run code, call MCP servers) is a fact of its own, because it passes every gate of ours; a type nobody knows counts as
such. State that a provider keeps under one shared key (stored responses, conversations, files, containers) could be
read by any agent that guesses an id, so bodies that refer to it are refused. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from mcp_gateway.domain import PROVIDER_TOOLS, Json, Kind, Target
from mcp_gateway.errors import BadRequest
from mcp_gateway.models.wires import Op, Operation

MAX_TOOL_TYPES: Final = 32
BYTES_PER_TOKEN: Final = 3.0
"""Few enough for any script and tokenizer: a reservation may be too large, never too small by much."""
USUAL_OUTPUT_TOKENS: Final = 4096
"""What is set aside for an answer that names no limit."""

_OURS: Final[Mapping[Op, tuple[str, ...]]] = {
    Op.CHAT: ("function", "custom"),
    Op.RESPONSES: ("function", "custom", "local_shell", "apply_patch", "computer_use_preview", "computer"),
    Op.MESSAGES: ("custom", "bash_*", "text_editor_*", "computer_*", "memory_*"),
    Op.COUNT_TOKENS: ("custom", "bash_*", "text_editor_*", "computer_*", "memory_*"),
}
"""Types of tools that the agent's own side carries out."""

_PROVIDER_MEMBERS: Final = {
    "mcp_servers": "mcp",
    "web_search_options": "web_search",
    "search_parameters": "web_search",
    "plugins": "plugins",
}
"""Members that make a provider act by itself, and the type each counts as."""

_STATEFUL_MEMBERS: Final = ("previous_response_id", "conversation", "container", "background", "prompt")
_STATEFUL_KEYS: Final = frozenset({"file_id", "file_ids", "vector_store_ids", "container_id", "item_reference"})
_BLOBS: Final = frozenset({"data", "image_url", "file_data", "url"})
"""Members that hold no text, and so say nothing about tokens by their length."""
LEAST_BLOB: Final = 1024
BLOB_TOKENS: Final = 1600
"""What a provider bills for a large image, about."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The facts about one call of a model."""

    op: Op
    model: str
    is_stream: bool
    provider_tools: tuple[str, ...]
    input_tokens: int
    """A guess on the high side."""
    output_tokens: int
    """The most that may be generated, where the body says so; else a guess."""
    facts: Json
    """What conditions see as `args`, and the audit keeps."""

    @property
    def needs(self) -> tuple[Target, ...]:
        """The provider-side tools as targets that a policy decides about."""
        return tuple(
            Target(Kind.MODEL, PROVIDER_TOOLS, name, name, _NO_DEFINITION, "", frozenset())
            for name in self.provider_tools
        )


_NO_DEFINITION: Final[Mapping[str, Any]] = {}


def read(operation: Operation, body: bytes, value: Any) -> Asked:
    """The facts in a parsed body. Raises `BadRequest` for one that cannot be judged, or refers to shared state."""
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    model = value.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("'model' must be a string")
    is_stream = value.get("stream", False)
    if not isinstance(is_stream, bool) and is_stream is not None:
        raise BadRequest("'stream' must be a boolean")
    refuse_shared_state(operation.op, value)
    tools = provider_tools(operation.op, value)
    limit = _output_limit(operation, value)
    facts: Json = {
        "model": model,
        "op": operation.op.value,
        "stream": bool(is_stream),
        "tools": _own_tools(value),
        "provider_tools": list(tools),
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    if limit is not None:
        facts["max_output"] = limit
    return Asked(
        op=operation.op,
        model=model,
        is_stream=bool(is_stream),
        provider_tools=tools,
        input_tokens=_expected_input(body, value),
        output_tokens=_expected_output(operation, limit),
        facts=facts,
    )


def provider_tools(op: Op, value: Json) -> tuple[str, ...]:
    """The types of what the provider is to do by itself, each once. Raises `BadRequest` for tools of no known shape."""
    found = {kind: None for member, kind in _PROVIDER_MEMBERS.items() if value.get(member)}
    for tool in _tools(value):
        kind = tool.get("type", "custom" if op in (Op.MESSAGES, Op.COUNT_TOKENS) else "function")
        if kind is None and op in (Op.MESSAGES, Op.COUNT_TOKENS):
            kind = "custom"
        if not isinstance(kind, str) or not 0 < len(kind) <= 64:
            raise BadRequest("every tool must have a type")
        if not any(fnmatchcase(kind, ours) for ours in _OURS.get(op, ())):
            found["mcp" if kind == "mcp_toolset" else kind] = None
    if len(found) > MAX_TOOL_TYPES:
        raise BadRequest("too many types of tools")
    return tuple(found)


def refuse_shared_state(op: Op, value: Json) -> None:
    """Raises `BadRequest` for a body that refers to, or asks for, something kept at the provider."""
    member = next((name for name in _STATEFUL_MEMBERS if value.get(name) not in (None, False)), None)
    if member is None and value.get("store") is True:
        member = "store"
    if member == "prompt" and op is not Op.RESPONSES:
        member = None
    if member is None:
        member = next(_state_below(value.get("messages"), value.get("input"), value.get("tools")), None)
    if member is not None:
        message = f"{member!r} refers to state kept at the provider, which this gateway does not pass on"
        raise BadRequest(message)


def _state_below(*values: Any) -> Iterator[str]:
    """Members and blocks that name something kept at the provider, anywhere inside."""
    level: list[Any] = list(values)
    while level:
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                yield from _STATEFUL_KEYS & node.keys()
                if node.get("type") == "item_reference":
                    yield "item_reference"
                below += node.values()
            elif isinstance(node, list):
                below += node
        level = [child for child in below if type(child) is dict or type(child) is list]


def _expected_input(body: bytes, value: Json) -> int:
    """All of the body counts as text, names and brackets too: providers write conversations out much the same way."""
    blobs = list(_blobs(value))
    return int((len(body) - sum(blobs)) / BYTES_PER_TOKEN) + 1 + BLOB_TOKENS * len(blobs)


def _blobs(value: Json) -> Iterator[int]:
    """The lengths of everything inside that is no text: images, sounds, documents."""
    level: list[Any] = [value]
    while level:
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                held = (node[key] for key in _BLOBS & node.keys())
                yield from (len(text) for text in held if isinstance(text, str) and len(text) >= LEAST_BLOB)
                below += node.values()
            else:
                below += node
        level = [child for child in below if type(child) is dict or type(child) is list]


def _tools(value: Json) -> Iterator[Json]:
    tools = value.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadRequest("'tools' must be a list of objects")
    yield from tools


def _own_tools(value: Json) -> list[str]:
    """The names of the tools that the agent's own side carries out, as far as they have one."""
    names = []
    for tool in _tools(value):
        inner = tool.get("function") or tool.get("custom")
        name = inner.get("name") if isinstance(inner, dict) else tool.get("name")
        if isinstance(name, str):
            names.append(name[:128])
    return names[:MAX_TOOL_TYPES]


def _output_limit(operation: Operation, value: Json) -> int | None:
    for name in operation.output_limits:
        limit = value.get(name)
        if limit is None:
            continue
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise BadRequest(f"{name!r} must be a whole number")
        many = value.get("n")
        return limit * (many if isinstance(many, int) and many > 1 else 1)
    return None


def _expected_output(operation: Operation, limit: int | None) -> int:
    if not operation.output_limits:
        return 0
    return USUAL_OUTPUT_TOKENS if limit is None else limit
