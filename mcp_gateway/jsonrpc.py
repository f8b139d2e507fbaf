"""JSON and JSON-RPC as they cross the gateway's walls: parsed once, strictly, and written compactly.

Strict means what neither orjson nor the specification alone gives: one member per name (a duplicate would let the
bytes judged differ from the bytes meant), UTF-8 only, no NaN, bounded nesting. Knows nothing of MCP's methods.
"""

from __future__ import annotations

import json
import re
from enum import IntEnum
from typing import Any, Final

import orjson

from mcp_gateway.domain import Json, RpcError
from mcp_gateway.errors import BadRequest

MAX_DEPTH: Final = 128
"""Deepest nesting accepted from anyone. JSON Schema and tool arguments of real servers stay below 30."""

_KEY: Final = re.compile(rb'"\s*:')
_OPENERS: Final = re.compile(rb"[\[{]")


class Code(IntEnum):
    """JSON-RPC error codes: the standard ones, and MCP 2026-07-28's own (basic/index, "Error Codes")."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    LEGACY_RESOURCE_NOT_FOUND = -32002
    HEADER_MISMATCH = -32020
    MISSING_CAPABILITY = -32021
    UNSUPPORTED_VERSION = -32022


def parse(data: bytes | bytearray | memoryview) -> Any:
    """Parse one JSON text strictly.

    Raises `BadRequest` (-32700) for anything that is not JSON, is nested deeper than `MAX_DEPTH`, or names a member
    twice in one object.

    >>> parse(b'{"a": 1}')
    {'a': 1}
    """
    raw = bytes(data)
    if len(_OPENERS.findall(raw)) > MAX_DEPTH and _depth(raw) > MAX_DEPTH:
        raise BadRequest(f"JSON is nested deeper than {MAX_DEPTH}", Code.PARSE_ERROR)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise BadRequest("not valid JSON", Code.PARSE_ERROR) from e
    # Every member ends in `":`, so as many of those as parsed members proves that no name came twice. Strings can
    # hold the same bytes; only then is the slow, exact way needed.
    if len(_KEY.findall(raw)) != _count_members(value):
        _refuse_duplicates(raw)
    return value


def dump(value: Any) -> bytes:
    """Write JSON as compact UTF-8."""
    return orjson.dumps(value)


def canonical(value: Any) -> bytes:
    """JSON with sorted members and no white space: the form that is hashed.

    >>> canonical({"b": 1, "a": [True, None]})
    b'{"a":[true,null],"b":1}'
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def result_message(request_id: Any, result: Json) -> Json:
    """A JSON-RPC success answer."""
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def error_message(request_id: Any, error: RpcError) -> Json:
    """A JSON-RPC error answer; `request_id` is None where the request's own could not be read."""
    body: Json = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return {"jsonrpc": "2.0", "id": request_id, "error": body}


def _depth(raw: bytes) -> int:
    """The deepest nesting in `raw`, brackets inside strings left out."""
    depth = deepest = 0
    in_string = escaped = False
    for byte in raw:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _count_members(value: Any) -> int:
    """Object members in a parsed value, at all levels."""
    count = 0
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            count += len(node)
            stack.extend(item for item in node.values() if isinstance(item, (dict, list)))
        elif isinstance(node, list):
            stack.extend(item for item in node if isinstance(item, (dict, list)))
    return count


def _refuse_duplicates(raw: bytes) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> None:
        names = {name for name, _ in pairs}
        if len(names) != len(pairs):
            twice = next(name for i, (name, _) in enumerate(pairs) if name in {n for n, _ in pairs[:i]})
            raise BadRequest(f"member {twice!r} appears twice in one object", Code.PARSE_ERROR)

    json.loads(raw, object_pairs_hook=unique, parse_int=lambda _: None, parse_float=lambda _: None)
