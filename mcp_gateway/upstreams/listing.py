"""Everything one upstream offers, fetched page by page within bounds; what is unusable is left out and named.

One bad tool never costs the others. Definitions stay as they came, unknown fields and nulls included.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from mcp_gateway import jsonrpc
from mcp_gateway.domain import Json, Listing, RpcError
from mcp_gateway.errors import TimedOut
from mcp_gateway.upstreams.connection import Answer, Greeting, Limits
from mcp_gateway.upstreams.dialect import annotates_headers
from mcp_gateway.upstreams.sdk import find_invalid_x_mcp_header

Ask = Callable[[str, Json], Awaitable[Answer]]

MAX_TTL_MS: Final = 24 * 3600 * 1000
"""The SDK clamps to a day as well; what a server says can be far longer."""

MAX_PROBLEMS: Final = 100
MAX_URI_CHARS: Final = 4096

_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
"""2026-07-28 server/tools, "Tool Names"; anything else would let two names look alike to a policy's author."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One kind of list, and the member by which its items are told apart."""

    capability: str
    method: str
    member: str
    key: str


TOOLS: Final = _Part("tools", "tools/list", "tools", "name")
PROMPTS: Final = _Part("prompts", "prompts/list", "prompts", "name")
RESOURCES: Final = _Part("resources", "resources/list", "resources", "uri")
TEMPLATES: Final = _Part("resources", "resources/templates/list", "resourceTemplates", "uriTemplate")


async def fetch_listing(
    name: str, ask: Ask, greeting: Greeting, limits: Limits, *, over_http: bool, before: Listing | None = None
) -> Listing:
    """Fetch what the capabilities in `greeting` promise. Raises `UpstreamError`.

    When time runs out, what came so far counts; only if that is nothing, it is `TimedOut`. A kind that the server
    answers with an error stays as it was `before`: a server in trouble has not lost its tools.
    """
    fetcher = _Fetcher(ask, limits, over_http, _by_method(before))
    with anyio.move_on_after(limits.listing_timeout_s) as timeout:
        for part in (TOOLS, PROMPTS, RESOURCES, TEMPLATES):
            if part.capability in greeting.capabilities:
                await fetcher.fetch(part)
    if timeout.cancelled_caught:
        if not any(fetcher.items.values()):
            raise TimedOut(name, f"upstream {name!r} did not list what it has within {limits.listing_timeout_s:g} s")
        fetcher.problem(f"lists cut off after {limits.listing_timeout_s:g} s")
    return Listing(
        name,
        tools=tuple(fetcher.items.get(TOOLS.method, ())),
        prompts=tuple(fetcher.items.get(PROMPTS.method, ())),
        resources=tuple(fetcher.items.get(RESOURCES.method, ())),
        templates=tuple(fetcher.items.get(TEMPLATES.method, ())),
        capabilities=greeting.capabilities,
        instructions=greeting.instructions,
        ttl_ms=fetcher.ttl_ms or 0,
        problems=tuple(fetcher.problems),
        extensions=greeting.extensions,
        notes=greeting.notes,
    )


def _by_method(listing: Listing | None) -> Mapping[str, tuple[Json, ...]]:
    if listing is None:
        return {}
    return {
        TOOLS.method: listing.tools,
        PROMPTS.method: listing.prompts,
        RESOURCES.method: listing.resources,
        TEMPLATES.method: listing.templates,
    }


@dataclass(slots=True)
class _Fetcher:
    """What was gathered so far, over all kinds."""

    ask: Ask
    limits: Limits
    over_http: bool
    before: Mapping[str, tuple[Json, ...]]
    items: dict[str, list[Json]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    ttl_ms: int | None = None
    size: int = 0

    async def fetch(self, part: _Part) -> None:
        """Fetch all pages of one kind."""
        self.items[part.method] = []
        cursor, seen, names = None, set[str](), set[str]()
        for _ in range(self.limits.max_pages):
            page = await self.ask(part.method, {} if cursor is None else {"cursor": cursor})
            if isinstance(page, RpcError):
                self._note_refusal(part, page)
                return
            if not self._take_page(part, page, names):
                return
            cursor = page.get("nextCursor")
            # An empty string is a cursor like any other (utilities/pagination).
            if not isinstance(cursor, str):
                return
            if cursor in seen:
                self.problem(f"{part.method}: the same cursor came twice; later pages are left out")
                return
            seen.add(cursor)
        self.problem(f"{part.method}: more than {self.limits.max_pages} pages; the rest is left out")

    def problem(self, text: str) -> None:
        """Name something that was left out."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append("and more")

    def _note_refusal(self, part: _Part, error: RpcError) -> None:
        # Templates have no capability of their own, so a server with resources need not know the method.
        if part is TEMPLATES and error.code == jsonrpc.Code.METHOD_NOT_FOUND:
            return
        kept = self.before.get(part.method, ())
        if kept:
            self.items[part.method] = list(kept)
        since = f"; the {len(kept)} it listed before stay" if kept else ""
        self.problem(f"{part.method}: error {error.code}: {error.message[:200]!r}{since}")

    def _take_page(self, part: _Part, page: Json, names: set[str]) -> bool:
        """Keep the usable items of a page. False: there is room for no more."""
        found = page.get(part.member)
        if not isinstance(found, list):
            self.problem(f"{part.method}: no {part.member!r} in the answer")
            return False
        self._note_ttl(page.get("ttlMs"))
        self.size += len(jsonrpc.dump(found))
        if self.size > self.limits.max_listing_bytes:
            self.problem(f"{part.method}: more than {self.limits.max_listing_bytes} bytes; the rest is left out")
            return False
        for item in found:
            if len(names) >= self.limits.max_items:
                self.problem(f"{part.method}: more than {self.limits.max_items} items; the rest is left out")
                return False
            self._take_item(part, item, names)
        return True

    def _take_item(self, part: _Part, item: Any, names: set[str]) -> None:
        name = item.get(part.key) if isinstance(item, dict) else None
        fault = self._fault_of(part, item, name)
        if fault is None and name in names:
            fault = "listed twice; the first counts"
        if fault is None:
            names.add(str(name))
            self.items[part.method].append(item)
        else:
            self.problem(f"{part.method}: {str(name)[:80]!r} left out: {fault}")

    def _fault_of(self, part: _Part, item: Any, name: Any) -> str | None:
        """Why an item cannot be used; None if it can."""
        if not isinstance(item, dict) or not isinstance(name, str) or not name:
            return f"it has no {part.key}"
        if part is TOOLS:
            return self._fault_of_tool(item, name)
        if len(name) > MAX_URI_CHARS or not name.isprintable():
            return f"its {part.key} is too long or has characters that cannot be seen"
        return None

    def _fault_of_tool(self, tool: Json, name: str) -> str | None:
        if not _TOOL_NAME.fullmatch(name):
            return "a tool's name has 1 to 128 of A-Z a-z 0-9 _ . -"
        schema = tool.get("inputSchema")
        if not isinstance(schema, dict) or schema.get("type") != "object":
            return "its inputSchema is not of type object"
        # "Clients MUST exclude" such a tool (transports/streamable-http, "Custom Headers"); elsewhere it means nothing.
        return find_invalid_x_mcp_header(schema) if self.over_http and annotates_headers(schema) else None

    def _note_ttl(self, ttl_ms: Any) -> None:
        """The smallest counts; absent means 0 (utilities/caching)."""
        said = ttl_ms if type(ttl_ms) is int and ttl_ms > 0 else 0
        self.ttl_ms = min(said, MAX_TTL_MS if self.ttl_ms is None else self.ttl_ms)
