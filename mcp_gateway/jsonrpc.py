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

SMALL: Final = 8_192
"""Bytes in which it is quicker to count brackets than to walk."""

_KEY: Final = re.compile(rb'"\s*:')
_KEY_UNLESS_ESCAPED: Final = re.compile(rb'(?<!\\)"\s*:')
_GAPS: Final = (b'" ', b'"\t', b'"\n', b'"\r')
_LEAST_INTEGER: Final = -(2**63)
_MOST_INTEGER: Final = 2**64 - 1


def _levels_written() -> int:
    """How many levels orjson writes before it refuses to."""
    value: Any = 0
    for levels in range(1024):  # as deep as it reads
        try:
            orjson.dumps(value)
        except TypeError:
            return levels - 1
        value = [value]
    return 0


# In so many lists, a value of `MAX_DEPTH` levels is just still written, so that nobody has to count them.
_ROOM: Final = max(_levels_written() - MAX_DEPTH, 0)

# Every digit becomes 0: a run of nineteen is all that an integer beyond 64 bits can hide in.
_DIGITS_AS_ZERO: Final = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER: Final = b"0" * 19


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

    Raises `BadRequest`: -32700 for anything that is not JSON or is nested deeper than `MAX_DEPTH`; -32602 for JSON that
    cannot be passed on as it was meant, because an object names a member twice or an integer has more than 64 bits
    (orjson would make it another number).

    >>> parse(b'{"a": 1}')
    {'a': 1}
    """
    raw = data if type(data) is bytes else bytes(data)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as e:
        raise BadRequest("not valid JSON", Code.PARSE_ERROR) from e
    if _is_written_back(value, raw):
        return value
    members, depth = _members_and_depth(value)
    if depth > MAX_DEPTH:
        raise BadRequest(f"JSON is nested deeper than {MAX_DEPTH}", Code.PARSE_ERROR)
    # Every member ends in `":`, so as many of those as parsed members proves that no name came twice. Strings can
    # hold the same bytes; only then is the slow, exact way needed. The same goes for long runs of digits.
    if _count_names(raw) != members or _LONG_NUMBER in raw.translate(_DIGITS_AS_ZERO):
        _refuse_what_would_change(raw)
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


def _is_written_back(value: Any, raw: bytes) -> bool:
    """Whether a value is not nested too deeply and is written as the very same bytes as it was read from: then it lost
    no member and no digit on the way in. False: look closer."""
    is_flat = len(raw) <= SMALL and raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH
    try:
        if is_flat:
            return orjson.dumps(value) == raw
        for _ in range(_ROOM):
            value = [value]
        written = orjson.dumps(value)
        return len(written) == len(raw) + 2 * _ROOM and written.startswith(raw, _ROOM)
    except TypeError:  # nested deeper than orjson writes
        return False


def _count_names(raw: bytes) -> int:
    """How many member names a JSON text holds: never too few, too many where strings look like one."""
    # Without an escaped backslash anywhere, a quote after a backslash is inside a string: JSON quoted in JSON, which is
    # what tools are often sent. With one, it could be the end of a name.
    may_end_in_backslash = b"\\\\" in raw
    if any(gap in raw for gap in _GAPS):
        return len((_KEY if may_end_in_backslash else _KEY_UNLESS_ESCAPED).findall(raw))
    return raw.count(b'":') - (0 if may_end_in_backslash else raw.count(b'\\":'))


def _members_and_depth(value: Any) -> tuple[int, int]:
    """Object members at all levels of a parsed value, and how many levels there are."""
    members = depth = 0
    level = [value] if isinstance(value, (dict, list)) else []
    while level:
        depth += 1
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                members += len(node)
            children = node.values() if isinstance(node, dict) else node
            below += [child for child in children if type(child) is dict or type(child) is list]
        level = below
    return members, depth


def _refuse_what_would_change(raw: bytes) -> None:
    """Raises `BadRequest` for a member named twice or an integer beyond 64 bits; exact, and slow."""

    def unique(pairs: list[tuple[str, Any]]) -> None:
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                raise BadRequest(f"member {name[:100]!r} appears twice in one object")
            names.add(name)

    def carried(digits: str) -> None:
        if len(digits) > 20 or not _LEAST_INTEGER <= int(digits) <= _MOST_INTEGER:
            raise BadRequest(f"the integer {digits[:30]} has more than 64 bits and would not arrive as it is")

    json.loads(raw, object_pairs_hook=unique, parse_int=carried, parse_float=lambda _: None)
