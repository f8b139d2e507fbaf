"""What an upstream offers before anybody has logged in to it: one tool, whose call sends a person to log in."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mcp_gateway.domain import Json, Listing

LOGIN_TOOL: Final[Json] = {
    "name": "login",
    "title": "Log in",
    "description": (
        "This server's own tools are not known yet: somebody has to log in to it first. Calling this tool asks the "
        "person to do that in a browser; the server's tools are listed afterwards."
    ),
    "inputSchema": {"type": "object", "properties": {}, "additionalProperties": False},
    "annotations": {"readOnlyHint": True, "openWorldHint": False},
}


def with_login(listing: Listing) -> Listing:
    """A list with the tool in it, for agents that are in the middle of calling it; unless it has one of that name."""
    if any(tool.get("name") == LOGIN_TOOL["name"] for tool in listing.tools):
        return listing
    return replace(listing, tools=(*listing.tools, LOGIN_TOOL))


def login_result(upstream: str) -> Json:
    """What the tool says once its caller is logged in."""
    text = f"You are logged in to {upstream}. Its own tools are listed now, or will be in a moment: list them again."
    return {"content": [{"type": "text", "text": text}], "isError": False}
