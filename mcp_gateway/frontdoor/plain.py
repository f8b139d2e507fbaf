"""Plain tool calls, known again without looking at everything anew: the head was judged before, the body fits it.

An agent calls its tools again and again with the same header lines. What the door finds in those alone (doorstep,
route, headers that mirror a body) is kept with the connection that brought them; what is left is the caller, who is
asked for each time, and the body. Whatever is not plain is None here and goes the long way, which has every check and
every refusal: this file admits nothing that the long way would not, and refuses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from re import Pattern
from typing import Final

from starlette.types import Scope

from mcp_gateway.domain import Json
from mcp_gateway.errors import BadRequest
from mcp_gateway.frontdoor.doorstep import Doorstep
from mcp_gateway.frontdoor.head import Lines, head_of
from mcp_gateway.frontdoor.http_connection import KEPT
from mcp_gateway.frontdoor.protocol import Ask, can_be_asked, read_message
from mcp_gateway.jsonrpc import parse
from mcp_gateway.revisions import META_CAPABILITIES, META_VERSION, MODERN_VERSIONS

_WAY: Final = "way"
_NO_WAY: Final = "no way"


@dataclass(frozen=True, slots=True)
class Way:
    """Where a head leads, if its body is plain."""

    task: str | None
    version: str
    tool: str


def way_of(scope: Scope, doorstep: Doorstep, route: Pattern[bytes]) -> Way | None:
    """Where the head of a request leads, asked once for each head of a connection. `route`: paths, with a `task`."""
    kept = scope.get(KEPT)
    if kept is None:
        return None
    way = kept.get(_WAY)
    if way is None:
        way = kept[_WAY] = _way_of(scope, doorstep, route) or _NO_WAY
    return None if way is _NO_WAY else way


def call_in(body: bytes, way: Way) -> Ask | None:
    """The tool call in a body, if it is one and says what its head says."""
    try:
        message = read_message(parse(body))
    except BadRequest:
        return None
    if not isinstance(message, Ask) or message.method != "tools/call":
        return None
    return message if _is_plain(message.params, way) else None


def _is_plain(params: Json, way: Way) -> bool:
    meta, arguments = params.get("_meta"), params.get("arguments")
    if not isinstance(meta, dict) or not (arguments is None or isinstance(arguments, dict)):
        return False
    capabilities = meta.get(META_CAPABILITIES)
    return (
        params.get("name") == way.tool
        and meta.get(META_VERSION) == way.version
        and isinstance(capabilities, dict)
        and not can_be_asked(capabilities)
        and "requestState" not in params
    )


def _way_of(scope: Scope, doorstep: Doorstep, route: Pattern[bytes]) -> Way | None:
    head, path = head_of(scope), route.fullmatch(scope["raw_path"])
    is_let_in = doorstep.check(scope) is None and doorstep.check_post(scope) is None and doorstep.takes(head.lengths)
    if path is None or scope["method"] != "POST" or not is_let_in:
        return None
    mirrors = _mirrors_in(head.lines)
    version, tool = mirrors.get("mcp-protocol-version"), mirrors.get("mcp-name", "=?")
    # streamable-http "Value Encoding": what begins so might stand for another name.
    if mirrors.get("mcp-method") != "tools/call" or version not in MODERN_VERSIONS or tool.startswith("=?"):
        return None
    return Way(None if path["task"] is None else path["task"].decode(), version, tool)


def _mirrors_in(lines: Lines) -> Mapping[str, str]:
    """The lines that mirror a body; none at all where one is there twice, is unreadable, or mirrors arguments."""
    found = [(name, value) for name, value in lines.text if name.startswith("mcp-")]
    mirrors = dict(found)
    is_plain = len(mirrors) == len(found) and not any(name.startswith("mcp-param-") for name in mirrors)
    return mirrors if is_plain and all(v.isascii() and v.isprintable() for v in mirrors.values()) else {}
