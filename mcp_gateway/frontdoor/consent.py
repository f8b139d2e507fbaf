"""How an agent is told that a person has to log in to an upstream first, in the way this agent understands."""

from __future__ import annotations

import hashlib

from mcp_gateway.domain import Era, Json, Reply, RpcError
from mcp_gateway.errors import ConsentNeeded
from mcp_gateway.frontdoor.protocol import Asked
from mcp_gateway.frontdoor.wire_errors import URL_ELICITATION_REQUIRED, error_member, tool_error
from mcp_gateway.jsonrpc import Code


def consent_answer(needed: ConsentNeeded, asked: Asked, reply: Reply) -> Json:
    """The `result` or `error` member.

    A modern agent that can open URLs is asked to (client/elicitation, "URL Mode Elicitation for OAuth Flows"), a
    legacy one gets 2025-11-25's error for it; any other a text that says what to open, in a form its model reads.
    """
    link: Json = {"mode": "url", "url": needed.url, "message": f"{needed}."}
    if needed.url and reply.can_be_asked("elicitation/create", link):
        if reply.takes_input_required:
            question = {"method": "elicitation/create", "params": link}
            return {"result": {"resultType": "input_required", "inputRequests": {"login": question}}}
        if asked.era is Era.LEGACY:
            elicitation = {**link, "elicitationId": hashlib.sha256(needed.url.encode()).hexdigest()[:32]}
            data = {"elicitations": [elicitation]}
            return {"error": error_member(RpcError(URL_ELICITATION_REQUIRED, f"{needed}.", data))}
    text = f"{needed}: {needed.url}" if needed.url else str(needed)
    if asked.method == "tools/call":
        return {"result": tool_error(text, asked.era)}
    return {"error": error_member(RpcError(Code.INTERNAL_ERROR, text))}
