"""Each error as the agent sees it: a JSON-RPC error, a tool result the model can act on, an HTTP status. One table.

What an agent must not learn stays out: a denied target reads exactly like an unknown one, and a bug of ours says
nothing but that it happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mcp_gateway.domain import NOTHING, Era, Json, RpcError
from mcp_gateway.errors import (
    AgentRefused,
    BadArguments,
    BadRequest,
    Blocked,
    GatewayError,
    NotAuthenticated,
    NotAvailable,
    NotNow,
    OverLimit,
    StoreUnavailable,
    UpstreamError,
)
from mcp_gateway.jsonrpc import Code

OVER_LIMIT: Final = 429
"""An application code: those live outside -32768..-32000 (basic/index, "Error Codes")."""

NOT_AUTHENTICATED: Final = 401

NOT_NOW: Final = 409
"""Likewise: for what is no tool call; those get a result that their model can act on."""

SCOPE_NEEDED: Final = 403
"""Likewise: with HTTP 403 and the scopes that are needed."""

URL_ELICITATION_REQUIRED: Final = -32042
"""2025-11-25's stateless way to send a person somewhere first; it MUST NOT appear on the modern wire."""

INTERNAL_ERROR: Final = RpcError(Code.INTERNAL_ERROR, "internal error")
"""A bug of ours: what and where is in the log, for operators."""

_HTTP_STATUS: Final = {
    Code.PARSE_ERROR: 400,
    Code.INVALID_REQUEST: 400,
    Code.INVALID_PARAMS: 400,
    Code.HEADER_MISMATCH: 400,
    Code.MISSING_CAPABILITY: 400,
    Code.UNSUPPORTED_VERSION: 400,
    Code.METHOD_NOT_FOUND: 404,
    OVER_LIMIT: 429,
    NOT_NOW: 409,
    SCOPE_NEEDED: 403,
}

_CODES_ABOUT_OUR_OWN_WIRE: Final = frozenset(
    {
        Code.PARSE_ERROR,
        Code.INVALID_REQUEST,
        Code.METHOD_NOT_FOUND,
        Code.HEADER_MISMATCH,
        Code.UNSUPPORTED_VERSION,
        SCOPE_NEEDED,
    }
)
"""Codes that tell an agent about the connection it speaks on. An upstream's are about the connection behind us."""

UNKNOWN_TASK: Final = "Unknown task"
"""Whether the id was altered, is another's, or its tool may not be used any more is nobody's business."""

_NOUN: Final = {"tools/call": "tool", "prompts/get": "prompt", "completion/complete": "reference"}


def http_status(error: RpcError) -> int:
    """The HTTP status of a modern answer that is a JSON-RPC error; legacy answers are 200 whatever they say."""
    return _HTTP_STATUS.get(error.code, 200)


def answer_to(error: GatewayError, method: str, era: Era) -> Json:
    """The `result` or `error` member that tells an agent about `error`."""
    if method == "tools/call" and isinstance(
        error, (AgentRefused, BadArguments, Blocked, NotNow, OverLimit, UpstreamError)
    ):
        # tools.mdx "Error Handling": what the model can act on is a tool result, not a protocol error (SEP-1303).
        return {"result": tool_error(str(error), era)}
    return {"error": error_member(_rpc_error(error, method, era))}


def tool_error(text: str, era: Era) -> Json:
    """A tool result that reports a failure."""
    result: Json = {"content": [{"type": "text", "text": text}], "isError": True}
    return {"resultType": "complete", **result} if era is Era.MODERN else result


def upstream_error(error: RpcError, method: str, era: Era, lacking: Mapping[str, Any] = NOTHING) -> Json:
    """The `error` member that relays an upstream's JSON-RPC error, in the codes of the agent's era.

    `lacking`: what the upstream wanted of the agent's side and the agent had not declared. A handshake-era upstream
    learns only in the middle of a call that it cannot be had, and has no code for it.
    """
    code, message = error.code, error.message
    if lacking and era is Era.MODERN:
        needed: Json = {"requiredCapabilities": dict(lacking)}
        return error_member(RpcError(Code.MISSING_CAPABILITY, f"Missing required client capability: {message}", needed))
    if code in _CODES_ABOUT_OUR_OWN_WIRE or (code == Code.MISSING_CAPABILITY and era is Era.LEGACY):
        return error_member(RpcError(Code.INTERNAL_ERROR, f"the upstream refused the request: {message}", error.data))
    if code == URL_ELICITATION_REQUIRED and era is Era.MODERN:
        needed = {"requiredCapabilities": {"elicitation": {"url": {}}}}
        return error_member(RpcError(Code.MISSING_CAPABILITY, message, needed))
    if code == Code.LEGACY_RESOURCE_NOT_FOUND and era is Era.MODERN:
        code = Code.INVALID_PARAMS  # basic/index: -32002 MUST NOT be sent on the modern wire
    elif code == Code.INVALID_PARAMS and era is Era.LEGACY and method == "resources/read":
        code = Code.LEGACY_RESOURCE_NOT_FOUND
    return error_member(RpcError(code, message, error.data))


def error_member(error: RpcError) -> Json:
    """A JSON-RPC error object; `data` only where there is any."""
    member: Json = {"code": int(error.code), "message": error.message}
    return member if error.data is None else {**member, "data": error.data}


def _rpc_error(error: GatewayError, method: str, era: Era) -> RpcError:
    if isinstance(error, NotAvailable):
        return _not_available(error, method, era)
    if isinstance(error, BadRequest):
        return RpcError(error.rpc_code, str(error), error.data)
    if isinstance(error, (BadArguments, Blocked)):
        return RpcError(Code.INVALID_PARAMS, str(error))
    if isinstance(error, OverLimit):
        return RpcError(OVER_LIMIT, str(error))
    if isinstance(error, NotNow):
        return RpcError(NOT_NOW, str(error))
    if isinstance(error, NotAuthenticated):
        return RpcError(NOT_AUTHENTICATED, str(error))
    if isinstance(error, UpstreamError):
        return RpcError(Code.INTERNAL_ERROR, str(error))
    if isinstance(error, AgentRefused):
        return RpcError(error.rpc_code, str(error), error.data)
    if isinstance(error, StoreUnavailable):
        return RpcError(Code.INTERNAL_ERROR, "the gateway cannot write its audit, so it forwards nothing")
    return INTERNAL_ERROR


def _not_available(error: NotAvailable, method: str, era: Era) -> RpcError:
    name, scopes = error.name, error.decision.scopes
    if scopes:
        return RpcError(SCOPE_NEEDED, "the token needs more scopes for this", {"scopes": list(scopes)})
    if method.startswith("tasks/"):
        return RpcError(Code.INVALID_PARAMS, UNKNOWN_TASK)
    shown = f"{name:.256}"
    if method in ("resources/read", "resources/subscribe"):
        data: Any = {"uri": shown}
        code = Code.INVALID_PARAMS if era is Era.MODERN else Code.LEGACY_RESOURCE_NOT_FOUND
        return RpcError(code, "Resource not found", data)
    return RpcError(Code.INVALID_PARAMS, f"Unknown {_NOUN.get(method, 'target')}: {shown}")
