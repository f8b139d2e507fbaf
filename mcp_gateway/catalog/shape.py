"""Whether a definition has the shape its kind must have.

SDK clients parse a list as a whole: one malformed entry of one upstream would cost an agent the lists of all. So an
entry that is not what the specification says is left out, and the operator told. Unknown members and nulls are no
fault: they pass through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from mcp_gateway.domain import Kind

_Fault = Callable[[Any], str]
"""What is wrong with a value; empty when nothing is."""


def _is(kind: type | tuple[type, ...], noun: str) -> _Fault:
    return lambda value: "" if isinstance(value, kind) else f"is not {noun}"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "is not true or false"


def _number(value: Any) -> str:
    return "" if isinstance(value, (int, float)) and not isinstance(value, bool) else "is not a number"


def _fraction(value: Any) -> str:
    return _number(value) or ("" if 0 <= value <= 1 else "is not between 0 and 1")


def _object_schema(value: Any) -> str:
    if not isinstance(value, dict):
        return "is not an object"
    return "" if value.get("type") == "object" else 'does not say "type": "object"'


def _roles(value: Any) -> str:
    fits = isinstance(value, list) and all(role in ("user", "assistant") for role in value)
    return "" if fits else "is not a list of user and assistant"


def _members(required: Mapping[str, _Fault], optional: Mapping[str, _Fault]) -> _Fault:
    def fault(value: Any) -> str:
        if not isinstance(value, dict):
            return "is not an object"
        for name, check in required.items():
            if found := ("is missing" if name not in value else check(value[name])):
                return f".{name}{_spaced(found)}"
        for name, check in optional.items():
            if (member := value.get(name)) is not None and (found := check(member)):
                return f".{name}{_spaced(found)}"
        return ""

    return fault


def _each(check: _Fault) -> _Fault:
    def fault(value: Any) -> str:
        if not isinstance(value, list):
            return "is not a list"
        faults = (f"[{at}]{_spaced(found)}" for at, item in enumerate(value) if (found := check(item)))
        return next(faults, "")

    return fault


def _spaced(fault: str) -> str:
    return fault if fault.startswith((".", "[")) else f" {fault}"


_text, _object = _is(str, "a string"), _is(dict, "an object")
_icon = _members({"src": _text}, {"mimeType": _text, "sizes": _each(_text), "theme": _text})
_described: Final = {"title": _text, "description": _text, "icons": _each(_icon), "_meta": _object}
_annotations = _members({}, {"audience": _roles, "priority": _fraction, "lastModified": _text})
_hints = _members(
    {},
    {
        "title": _text,
        "readOnlyHint": _flag,
        "destructiveHint": _flag,
        "idempotentHint": _flag,
        "openWorldHint": _flag,
    },
)
_argument = _members({"name": _text}, {"title": _text, "description": _text, "required": _flag})

_SHAPES: Final[Mapping[Kind, _Fault]] = {
    Kind.TOOL: _members(
        {"name": _text, "inputSchema": _object_schema},
        {**_described, "annotations": _hints, "outputSchema": _object, "execution": _object},
    ),
    Kind.PROMPT: _members({"name": _text}, {**_described, "arguments": _each(_argument)}),
    Kind.RESOURCE: _members(
        {"uri": _text, "name": _text}, {**_described, "annotations": _annotations, "mimeType": _text, "size": _number}
    ),
    Kind.TEMPLATE: _members(
        {"uriTemplate": _text, "name": _text}, {**_described, "annotations": _annotations, "mimeType": _text}
    ),
}


def fault_in(kind: Kind, definition: Any) -> str:
    """Why a definition cannot be shown, as words after its name; empty when it can.

    >>> fault_in(Kind.TOOL, {"name": "x", "inputSchema": {"type": "object"}})
    ''
    >>> fault_in(Kind.TOOL, {"name": "x"})
    '.inputSchema is missing'
    """
    return _SHAPES[kind](definition)
