"""Asks whoever sits at the agent's program whether a held call may go ahead (`approval = "agent-side"`).

Weaker than a person who answers by another way, and only where a policy says so: it is the agent's program that shows
the question, and one that is hostile could answer it by itself. What is asked is the call as it would be sent.
"""

from __future__ import annotations

from typing import Final

from mcp_gateway.domain import Json, Reply
from mcp_gateway.errors import AgentRefused
from mcp_gateway.storage.approvals import Binding

METHOD: Final = "elicitation/create"
MAX_ASKED_CHARS: Final = 4_000
"""Arguments that are longer are not put into a dialog: the call waits for a person at the gateway."""


async def answer_of(reply: Reply, binding: Binding) -> bool | None:
    """What was answered; None where nobody could be asked, or nobody decided."""
    if len(binding.args) > MAX_ASKED_CHARS:
        return None
    params = _question(binding)
    if not reply.can_be_asked(METHOD, params):
        return None
    try:
        result = await reply.ask(METHOD, params)
    except (LookupError, AgentRefused):
        return None
    content = result.get("content")
    if result.get("action") == "accept" and isinstance(content, dict) and isinstance(content.get("approve"), bool):
        return bool(content["approve"])
    return False if result.get("action") == "decline" else None


def _question(binding: Binding) -> Json:
    approve: Json = {"type": "boolean", "title": "Let this one call through"}
    return {
        "mode": "form",
        "message": f"{binding.agent} wants to use {binding.target} with {binding.args}. May it, this once?",
        "requestedSchema": {"type": "object", "properties": {"approve": approve}, "required": ["approve"]},
    }
