"""What an upstream is sent of an agent's params: its own names, the members the method has, and nothing else.

A member that the method does not have is dropped, never forwarded: nobody judged it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp_gateway.domain import Era, Json, Kind, Request, Target, Verb
from mcp_gateway.errors import BadRequest

PROTOCOL_PREFIX: Final = "io.modelcontextprotocol/"
"""`_meta` keys of MCP itself. They describe one hop; each connection writes its own."""

_NAMED: Final = frozenset({"tools/call", "prompts/get"})

_MAY_ASK: Final = frozenset({Verb.CALL, Verb.GET, Verb.READ})
"""What an upstream may answer with questions (2026-07-28 patterns/mrtr)."""


def upstream_params(target: Target, request: Request) -> Json:
    """The params for `UpstreamRequest`. Raises `BadRequest` where a member has a type its method does not know."""
    params = request.params
    if request.method in _NAMED:
        sent: Json = {"name": target.name, **_object(params, "arguments")}
    elif request.method == "completion/complete":
        sent = {"ref": _reference(target), **_object(params, "argument"), **_object(params, "context")}
    elif request.method.startswith("tasks/"):
        sent = {"taskId": params["taskId"], **_object(params, "inputResponses")}
    else:
        sent = {"uri": target.name}
    if request.inputs is not None:
        sent["inputResponses"] = request.inputs
    elif params.get("inputResponses") and request.era is Era.MODERN and request.verb in _MAY_ASK:
        sent |= _object(params, "inputResponses")  # answers that came unasked; what they are worth the upstream knows
    if request.state is not None:
        sent["requestState"] = request.state
    meta = params.get("_meta")
    if isinstance(meta, dict):
        # basic/index "_meta": the token names a request on the agent's connection and means nothing on the upstream's.
        kept = {
            key: value for key, value in meta.items() if not (key.startswith(PROTOCOL_PREFIX) or key == "progressToken")
        }
        if kept:
            sent["_meta"] = kept
    return sent


def _object(params: Mapping[str, Any], member: str) -> Json:
    """The member, if it is there; null counts as absent."""
    value = params.get(member)
    if value is None:
        return {}
    if not isinstance(value, (dict, Mapping)):
        # Policy conditions saw no arguments in it, so the upstream may not see any either.
        raise BadRequest(f"params.{member} must be an object")
    return {member: value}


def _reference(target: Target) -> Json:
    if target.kind is Kind.PROMPT:
        return {"type": "ref/prompt", "name": target.name}
    return {"type": "ref/resource", "uri": target.name}
