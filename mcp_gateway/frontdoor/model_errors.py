"""Each error as a caller of models sees it, in the words of the wire it speaks: what the official SDKs raise from.

A denied model reads exactly like an unknown one. `x-gateway-error: 1` tells our own errors from a provider's;
`x-should-retry` keeps the SDKs from asking again what asking again will not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from mcp_gateway.config.models import Wire
from mcp_gateway.domain import NOTHING, Json
from mcp_gateway.errors import (
    BadArguments,
    BadRequest,
    Blocked,
    GatewayError,
    IdentityUnavailable,
    Misbehaved,
    NoAgent,
    NotAuthenticated,
    NotAvailable,
    NotNow,
    OverLimit,
    StoreUnavailable,
    TimedOut,
    Unreachable,
)
from mcp_gateway.frontdoor.exchange import CHALLENGE, Headers
from mcp_gateway.jsonrpc import dump

_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_OPENAI_TYPES: Final = {429: "rate_limit_error", 403: "permission_error"}

_FINAL: Final = (400, 401, 403, 404, 405, 413, 415)
"""Statuses for which the same request gets the same answer again."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One error before it is put into a wire's words."""

    status: int
    code: str
    message: str
    retry_after_s: float | None = None
    may_retry: bool | None = None
    """Whether asking again can help; None: as the status says."""
    headers: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """More headers than the status needs."""


def trouble_of(error: Exception, name: str = "") -> Trouble:
    """What an agent may know of an error; `name` is the model it asked for."""
    if isinstance(error, NotAvailable):
        return _not_available(error, name)
    if isinstance(error, NotAuthenticated):
        return Trouble(401, "invalid_api_key", str(error))
    if isinstance(error, NoAgent):
        return Trouble(403, "gateway_no_agent", str(error))
    if isinstance(error, NotNow):
        return Trouble(403, "gateway_not_now", str(error))
    if isinstance(error, Blocked):
        return Trouble(403, "gateway_blocked", str(error))
    if isinstance(error, (BadRequest, BadArguments)):
        return Trouble(400, "gateway_bad_request", str(error))
    if isinstance(error, OverLimit):
        return _over_limit(error)
    return _behind_us(error)


def _not_available(error: NotAvailable, name: str) -> Trouble:
    if error.name != name:
        message = f"the provider-side tool {error.name:.64} is not allowed here"
        return Trouble(403, "gateway_policy_denied", message)
    return unknown_model(name)


def unknown_model(name: str) -> Trouble:
    """For a model that does not exist, and for one that is denied."""
    return Trouble(404, "model_not_found", f"The model `{name:.200}` does not exist or you do not have access to it.")


def unknown_state(kind: str, id_: str, *, is_in_body: bool) -> Trouble:
    """For an id that nobody was given, and for somebody else's."""
    if kind == "response" and is_in_body:
        message = f"Previous response with id '{id_:.200}' not found."
        return Trouble(400, "previous_response_not_found", message)
    return Trouble(404, f"{kind}_not_found", f"{kind.capitalize()} with id '{id_:.200}' not found.")


def _over_limit(error: OverLimit) -> Trouble:
    wait_s = error.retry_after_s
    code = "gateway_budget_exceeded" if error.is_budget else "gateway_over_limit"
    # A budget that is renewed in an hour is not waited for by an SDK with its connection open.
    return Trouble(429, code, str(error), wait_s, wait_s is not None and wait_s <= 60)


def _behind_us(error: Exception) -> Trouble:
    if isinstance(error, Unreachable):
        return Trouble(502, "gateway_provider_unreachable", str(error))
    if isinstance(error, TimedOut):
        return Trouble(504, "gateway_provider_timeout", str(error))
    if isinstance(error, Misbehaved):
        return Trouble(502, "gateway_provider_failed", str(error), may_retry=False)
    if isinstance(error, IdentityUnavailable):
        return Trouble(503, "gateway_unavailable", "identities cannot be checked at the moment")
    if isinstance(error, StoreUnavailable):
        return Trouble(503, "gateway_unavailable", "the gateway cannot write its audit, so it forwards nothing")
    if isinstance(error, GatewayError):
        return Trouble(502, "gateway_error", str(error))
    return Trouble(500, "gateway_internal_error", "internal error")


def body_of(trouble: Trouble, wire: Wire, request_id: str) -> bytes:
    """The body of an error answer."""
    return dump(_anthropic(trouble, request_id) if wire == "anthropic" else {"error": _openai(trouble)})


def event_of(trouble: Trouble, wire: Wire, op: str, request_id: str) -> bytes:
    """The event that ends a stream which has begun; no wire's own terminator follows it."""
    if wire == "anthropic":
        return b"event: error\ndata: " + dump(_anthropic(trouble, request_id)) + b"\n\n"
    if op == "responses":
        event: Json = {"type": "error", "code": trouble.code, "message": trouble.message, "param": None}
        return b"event: error\ndata: " + dump(event) + b"\n\n"
    return b"data: " + dump({"error": _openai(trouble)}) + b"\n\n"


def headers_of(trouble: Trouble) -> Headers:
    """What goes with an error answer."""
    headers = [(b"x-gateway-error", b"1")]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in trouble.headers.items()]
    if trouble.status == 401:
        headers.append(CHALLENGE)
    if trouble.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(round(trouble.retry_after_s), 1)))
    may_retry = trouble.status not in _FINAL if trouble.may_retry is None else trouble.may_retry
    headers.append((b"x-should-retry", b"true" if may_retry else b"false"))
    return headers


def _openai(trouble: Trouble) -> Json:
    kind = _OPENAI_TYPES.get(trouble.status, "invalid_request_error" if trouble.status < 500 else "api_error")
    return {"message": trouble.message, "type": kind, "param": None, "code": trouble.code}


def _anthropic(trouble: Trouble, request_id: str) -> Json:
    kind = _ANTHROPIC_TYPES.get(trouble.status, "invalid_request_error" if trouble.status < 500 else "api_error")
    error = {"type": kind, "message": trouble.message, "code": trouble.code}
    return {"type": "error", "error": error, "request_id": request_id}
