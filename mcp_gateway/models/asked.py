"""What the body of a model call asks for: the facts that policy, limits and audit judge it by.

Prompts are not among the facts, their size and their digest are. What a provider would do by itself (search the web,
run code, call MCP servers) is a fact of its own, because it passes every gate of ours; a type nobody knows counts as
such. State that a provider keeps under one shared key (stored responses, conversations, containers) could be read by
any agent that knows an id: what a body asks to be kept, and what it refers to, are facts, too, and whoever asks has to
own it (`models.kept`). Files, vector stores and single items have no owner here: bodies that refer to them are refused.
Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

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

_REFERENCES: Final[Mapping[Op, Mapping[str, str]]] = {
    Op.RESPONSES: {"previous_response_id": "response", "conversation": "conversation"},
    Op.INPUT_TOKENS: {"previous_response_id": "response", "conversation": "conversation"},
    Op.MESSAGES: {"container": "container"},
}
"""Members that name something kept at the provider, and what it is."""
_WISHES: Final = ("store", "background")
"""Members that have the provider keep an answer; of responses only."""
_UNOWNED_MEMBERS: Final = ("previous_response_id", "conversation", "container", "prompt", *_WISHES)
_UNOWNED_KEYS: Final = frozenset({"file_id", "file_ids", "vector_store_ids", "container_id", "item_reference"})
_BLOBS: Final = frozenset({"data", "image_url", "file_data", "url"})
"""Members that hold no text, and so say nothing about tokens by their length."""
IMAGE_TOKENS: Final = 6500
"""What a large image of the best quality takes to be generated, about."""
LEAST_BLOB: Final = 1024
BLOB_TOKENS: Final = 1600
"""What a provider bills for a large image, about."""


class Reference(NamedTuple):
    """Something kept at a provider, as a body names it."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class State:
    """What a body has to do with state kept at a provider."""

    members: tuple[str, ...] = ()
    """By which of its members."""
    refers: tuple[Reference, ...] = ()
    reasoning: tuple[Reference, ...] = ()
    """Reasoning of earlier answers without its content: a provider that keeps answers puts that in by the id."""


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
    state: State = State()

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
    state = state_of(operation.op, value)
    tools = provider_tools(operation.op, value)
    limit = _output_limit(operation, value)
    facts: Json = {
        "model": model,
        "op": operation.op.value,
        "stream": bool(is_stream),
        "tools": _own_tools(value),
        "provider_tools": list(tools),
        "state": list(state.members),
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
        output_tokens=_expected_output(operation, limit, value),
        facts=facts,
        state=state,
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


def state_of(op: Op, value: Json) -> State:
    """What a body asks to be kept, and what kept things it refers to.

    Raises `BadRequest` for a reference to something that can have no owner.
    """
    known = _REFERENCES.get(op, {})
    refers = {name: _reference(name, kind, value[name]) for name, kind in known.items() if value.get(name)}
    wishes = [name for name in _WISHES if value.get(name) is True] if op is Op.RESPONSES else []
    _refuse_unowned(op, value, {*refers, *wishes})
    items = [item for item in _items(value) if op in _REFERENCES]
    named = [Reference("item", item["id"]) for item in items if _is_only_named(item)]
    reasoning = [Reference("item", item["id"]) for item in items if _is_bare_reasoning(item)]
    members = (*refers, *wishes, *(["item_reference"] if named else []))
    return State(members, (*refers.values(), *named), tuple(reasoning))


def _reference(name: str, kind: str, value: Any) -> Reference:
    """`conversation` and `container` come as an id or as an object with nothing but one."""
    id_ = value.get("id") if isinstance(value, dict) and value.keys() == {"id"} else value
    if not isinstance(id_, str) or not 0 < len(id_) <= 200:
        raise _unowned(name)
    return Reference(kind, id_)


def _items(value: Json) -> Iterator[Json]:
    """The items of a conversation that have an id."""
    items = value.get("input")
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and isinstance(item.get("id"), str) and item["id"]:
            yield item


def _is_only_named(item: Json) -> bool:
    """OpenAI: an item reference is an `id`, its `type` may be left out."""
    return item.get("type") == "item_reference" or item.keys() <= {"id", "type"}


def _is_bare_reasoning(item: Json) -> bool:
    return item.get("type") == "reasoning" and not (item.get("encrypted_content") or item.get("content"))


def _refuse_unowned(op: Op, value: Json, known: set[str]) -> None:
    """Raises `BadRequest` for what refers to, or asks for, something kept at the provider, but for these members."""
    given = (name for name in _UNOWNED_MEMBERS if name not in known and value.get(name) not in (None, False))
    member = next((name for name in given if name != "prompt" or op is Op.RESPONSES), None)
    if member is not None:
        raise _unowned(member)
    refuse_references(value.get("messages"), value.get("input"), value.get("tools"))
    for tool in _tools(value):
        if isinstance(tool.get("container"), str):
            raise _unowned("container")


def refuse_references(*values: Any) -> None:
    """Raises `BadRequest` where something inside refers to something kept that can have no owner here."""
    member = next(_state_below(*values), None)
    if member is not None:
        raise _unowned(member)


def check_items(value: Any) -> None:
    """Raises `BadRequest` for items of a conversation that are only named, or refer to something kept."""
    items = value.get("items") if isinstance(value, dict) else None
    refuse_references(items)
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and item.get("id") and (_is_only_named(item) or _is_bare_reasoning(item)):
            raise _unowned("item_reference")


def _unowned(member: str) -> BadRequest:
    return BadRequest(f"{member!r} refers to state kept at the provider, which this gateway does not pass on")


def _state_below(*values: Any) -> Iterator[str]:
    """Members that name something kept at the provider, anywhere inside."""
    level: list[Any] = list(values)
    while level:
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                yield from _UNOWNED_KEYS & node.keys()
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
        return limit * _many(value)
    return None


def _many(value: Json) -> int:
    """How many answers are generated."""
    asked = [value.get(name) for name in ("n", "best_of")]
    return max([1, *(many for many in asked if isinstance(many, int))])


def _expected_output(operation: Operation, limit: int | None, value: Json) -> int:
    if operation.op is Op.IMAGES:
        return IMAGE_TOKENS * _many(value)
    if not operation.output_limits:
        return 0
    return USUAL_OUTPUT_TOKENS if limit is None else limit
