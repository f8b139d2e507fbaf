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

from mcp_gateway.domain import Assignment, Caller, Era, Json, Transport
from mcp_gateway.errors import BadRequest
from mcp_gateway.frontdoor.doorstep import Doorstep
from mcp_gateway.frontdoor.head import Lines, head_of
from mcp_gateway.frontdoor.http_exchange import KEPT
from mcp_gateway.frontdoor.protocol import MAX_ID_CHARS, Asked, can_be_asked, client_name
from mcp_gateway.identity.verify import Identity
from mcp_gateway.jsonrpc import parse
from mcp_gateway.revisions import META_CAPABILITIES, META_CLIENT, META_VERSION, MODERN_VERSIONS

MAX_ENVELOPE_BYTES: Final = 8_192
"""Of a body whose envelope is remembered: there are as many of these as connections have heads."""

_HTTP: Final = Transport.HTTP
_WAY: Final = "way"
_NO_WAY: Final = "no way"


@dataclass(slots=True)
class Way:
    """Where a head leads, if its body is plain; with what the last request that came with it was found to be."""

    task: str | None
    version: str
    tool: str
    envelope: Json | None = None
    """The `_meta` of the last plain call: one that says the same is as plain, and comes from the same program."""
    client: str = ""
    known: tuple[Identity, Assignment | None, Caller] | None = None
    """Who asked last, what the policy then let that agent be on, and the caller that this came to."""


def way_of(scope: Scope, doorstep: Doorstep, route: Pattern[bytes]) -> Way | None:
    """Where the head of a request leads, asked once for each head of a connection. `route`: paths, with a `task`."""
    kept = scope.get(KEPT)
    if kept is None:
        return None
    way = kept.get(_WAY)
    if way is None:
        way = kept[_WAY] = _way_of(scope, doorstep, route) or _NO_WAY
    return None if way is _NO_WAY else way


def call_in(body: bytes, way: Way) -> tuple[str | int, Asked] | None:
    """The tool call in a body and its id, if it is one and says what its head says."""
    try:
        message = parse(body)
    except BadRequest:
        return None
    # What `protocol.read_message` asks of a request, and what makes one plain; in one place, as every call passes here.
    if type(message) is not dict or message.get("method") != "tools/call" or message.get("jsonrpc") != "2.0":
        return None
    id_, params = message.get("id"), message.get("params")
    if not (type(id_) is int or (type(id_) is str and len(id_) <= MAX_ID_CHARS)) or type(params) is not dict:
        return None
    if params.get("name") != way.tool or "requestState" in params:
        return None
    meta, arguments = params.get("_meta"), params.get("arguments")
    if not (arguments is None or type(arguments) is dict) or type(meta) is not dict:
        return None
    client = way.client if meta == way.envelope else _client_of_plain(meta, way, len(body))
    return None if client is None else (id_, Asked("tools/call", params, Era.MODERN, way.version, _HTTP, client))


def _client_of_plain(meta: Json, way: Way, body_bytes: int) -> str | None:
    """Which program sent an envelope that says what its head says, of an agent that cannot be asked anything; None for
    any other envelope."""
    capabilities = meta.get(META_CAPABILITIES)
    if meta.get(META_VERSION) != way.version or not isinstance(capabilities, dict) or can_be_asked(capabilities):
        return None
    client = client_name(meta.get(META_CLIENT))
    if body_bytes <= MAX_ENVELOPE_BYTES:
        way.envelope, way.client = meta, client
    return client


def _way_of(scope: Scope, doorstep: Doorstep, route: Pattern[bytes]) -> Way | None:
    head, path = head_of(scope), route.fullmatch(scope["raw_path"])
    is_let_in = doorstep.check(scope) is None and doorstep.check_post(scope) is None
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
