"""Instead of a list too long for a model's context: three tools with which an agent finds the others.

`search_tools` finds by words, `describe_tool` gives one whole definition, `call_tool` calls. They stand in the list
where it would hold more than `search_above` tools; to `Gateway` the list stays what it was. A call through `call_tool`
becomes the call it stands for before anything else happens: it is decided, guarded and written down as
that call, and what is hidden from the list is neither found nor described.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import anyio.to_thread
import orjson

from mcp_gateway.catalog.catalog import Catalog
from mcp_gateway.catalog.search import ToolIndex
from mcp_gateway.domain import Caller, Json, Kind, Request, Target, Verb
from mcp_gateway.errors import BadArguments, BadRequest
from mcp_gateway.frontdoor.protocol import Asked
from mcp_gateway.gateway import Gateway

SEARCH, DESCRIBE, CALL = "search_tools", "describe_tool", "call_tool"

MAX_FOUND: Final = 20
USUALLY_FOUND: Final = 5
MAX_SUMMARY: Final = 240
MAX_INDEXES: Final = 4
"""Of the catalogs in force: there are several where upstreams list something else to each person."""

MAX_QUERY: Final = 1_000

_NAME: Final[Json] = {"type": "string", "description": "The tool's name as search_tools gave it."}
_READS: Final[Json] = {"readOnlyHint": True, "openWorldHint": False}

TOOLS: Final[tuple[Json, ...]] = (
    {
        "name": SEARCH,
        "description": "Find tools by what they do. Many tools are available here that are not listed; search before "
        "you conclude that something cannot be done. Returns names, short descriptions and argument names.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What the tool should do, in a few plain words."},
                "limit": {"type": "integer", "minimum": 1, "maximum": MAX_FOUND, "default": USUALLY_FOUND},
            },
            "required": ["query"],
        },
        "annotations": _READS,
    },
    {
        "name": DESCRIBE,
        "description": "The whole definition of one tool, with the schema of its arguments.",
        "inputSchema": {"type": "object", "properties": {"name": _NAME}, "required": ["name"]},
        "annotations": _READS,
    },
    {
        "name": CALL,
        "description": "Call a tool that search_tools found, with arguments as describe_tool says.",
        "inputSchema": {
            "type": "object",
            "properties": {"name": _NAME, "arguments": {"type": "object", "description": "The tool's own arguments."}},
            "required": ["name"],
        },
    },
)


class Discovery:
    """Answers the first two of the tools, and undoes the third."""

    def __init__(self, gateway: Gateway, search_above: int) -> None:
        self._gateway = gateway
        self._search_above = search_above
        self._indexes: dict[Catalog, ToolIndex] = {}

    def stands_for(self, count: int) -> bool:
        """Whether a list of so many tools is too long to be given."""
        return count > self._search_above

    def undone(self, asked: Asked) -> Asked:
        """A `call_tool` as the call it stands for; anything else as it is. Raises `BadRequest`."""
        if asked.method != "tools/call" or asked.params.get("name") != CALL:
            return asked
        wrapped = asked.params.get("arguments")
        name = wrapped.get("name") if isinstance(wrapped, Mapping) else None
        arguments = wrapped.get("arguments", {}) if isinstance(wrapped, Mapping) else None
        if not isinstance(name, str) or not isinstance(arguments, dict) or name == CALL:
            raise BadRequest("call_tool takes the name of a tool, and its arguments as an object")
        return replace(asked, params={**asked.params, "name": name, "arguments": arguments})

    def answers(self, name: Any) -> bool:
        """Whether a tool of that name is answered here."""
        return name in (SEARCH, DESCRIBE)

    async def answer(self, caller: Caller, request: Request) -> Json:
        """The result of `search_tools` or `describe_tool`. Raises `NotAvailable` and `BadArguments`."""
        if request.name == SEARCH:
            return _result({"tools": [summary(target) for target in await self._found(caller, request)]})
        name = request.arguments.get("name")
        if not isinstance(name, str):
            raise BadArguments("$.name: must be a string")
        target = await self._gateway.describe(caller, replace(request, verb=Verb.SEARCH, name=name))
        return _result(dict(target.definition))

    async def _found(self, caller: Caller, request: Request) -> Sequence[Target]:
        query, limit = request.arguments.get("query"), request.arguments.get("limit", USUALLY_FOUND)
        if not isinstance(query, str) or len(query) > MAX_QUERY:
            raise BadArguments(f"$.query: must be a string of at most {MAX_QUERY} characters")
        if not isinstance(limit, int) or not 1 <= limit <= MAX_FOUND:
            raise BadArguments(f"$.limit: must be a whole number from 1 to {MAX_FOUND}")
        index = await self._indexed(caller)
        return await self._gateway.search(
            caller, replace(request, verb=Verb.SEARCH), lambda visible: index.find(query, visible, limit)
        )

    async def _indexed(self, caller: Caller) -> ToolIndex:
        """The index of the catalog in force; made when it is first searched, in a thread: thousands of tools take
        seconds."""
        catalog = self._gateway.snapshot.catalog_for(caller)
        if (known := self._indexes.get(catalog)) is not None:
            return known
        made = await anyio.to_thread.run_sync(ToolIndex, catalog.targets(Kind.TOOL))
        while len(self._indexes) >= MAX_INDEXES:
            self._indexes.pop(next(iter(self._indexes)))
        self._indexes[catalog] = made
        return made


def summary(target: Target) -> Json:
    """A tool in a few words."""
    definition = target.definition
    told: Json = {"name": target.public_name}
    if isinstance(description := definition.get("description"), str) and description.strip():
        text = " ".join(description.split())
        told["description"] = text if len(text) <= MAX_SUMMARY else f"{text[:MAX_SUMMARY].rsplit(' ', 1)[0]} ..."
    schema = definition.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if isinstance(properties, Mapping) and properties:
        told["arguments"] = list(properties)[:MAX_FOUND]
    return told


def _result(value: Json) -> Json:
    return {"content": [{"type": "text", "text": orjson.dumps(value).decode()}], "structuredContent": value}
