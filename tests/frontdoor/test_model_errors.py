"""Errors in the words of two wires; what an agent must not learn stays out."""

import json
from typing import Any

import pytest

from mcp_gateway.domain import Decision, Effect, Reason
from mcp_gateway.errors import (
    BadRequest,
    Blocked,
    GatewayError,
    Misbehaved,
    NotAuthenticated,
    NotAvailable,
    OverLimit,
    StoreUnavailable,
    TimedOut,
    Unreachable,
)
from mcp_gateway.frontdoor.model_errors import Trouble, body_of, event_of, headers_of, trouble_of, unknown_model

DENIED = Decision(Effect.DENIED, Reason.DENY, "policies/a.toml:7", "v1", "secret words of the policy")

TABLE: list[tuple[Exception, int, str, str]] = [
    (NotAuthenticated("no"), 401, "invalid_api_key", "authentication_error"),
    (NotAvailable("m", DENIED), 404, "model_not_found", "not_found_error"),
    (NotAvailable("web_search", DENIED), 403, "gateway_policy_denied", "permission_error"),
    (BadRequest("odd"), 400, "gateway_bad_request", "invalid_request_error"),
    (Blocked("holds it"), 403, "gateway_blocked", "permission_error"),
    (OverLimit("much"), 429, "gateway_over_limit", "rate_limit_error"),
    (OverLimit("spent", 90, is_budget=True), 429, "gateway_budget_exceeded", "rate_limit_error"),
    (Unreachable("p", "gone"), 502, "gateway_provider_unreachable", "api_error"),
    (TimedOut("p", "slow"), 504, "gateway_provider_timeout", "timeout_error"),
    (Misbehaved("p", "odd"), 502, "gateway_provider_failed", "api_error"),
    (StoreUnavailable("/var/lib/secret/audit.db is full"), 503, "gateway_unavailable", "overloaded_error"),
    (GatewayError("other"), 502, "gateway_error", "api_error"),
    (KeyError("a bug"), 500, "gateway_internal_error", "api_error"),
]


@pytest.mark.parametrize(("error", "status", "code", "kind"), TABLE)
def test_each_error_in_both_wires_words(error: Exception, status: int, code: str, kind: str) -> None:
    trouble = trouble_of(error, "m")
    assert trouble.status == status
    openai: Any = json.loads(body_of(trouble, "openai", "r-1"))
    assert openai["error"].keys() == {"message", "type", "param", "code"}
    assert openai["error"]["code"] == code
    anthropic: Any = json.loads(body_of(trouble, "anthropic", "r-1"))
    assert (anthropic["type"], anthropic["error"]["type"], anthropic["request_id"]) == ("error", kind, "r-1")
    said = str(openai) + str(anthropic)
    assert not any(word in said for word in ("secret", "policies/", "a bug"))
    assert dict(headers_of(trouble))[b"x-gateway-error"] == b"1"


def test_a_denied_model_reads_like_an_unknown_one() -> None:
    assert trouble_of(NotAvailable("m", DENIED), "m") == unknown_model("m")


@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        (trouble_of(OverLimit("spent", 3600, is_budget=True)), b"false"),
        (trouble_of(OverLimit("soon", 5)), b"true"),
        (trouble_of(OverLimit("never")), b"false"),
        (trouble_of(BadRequest("odd")), b"false"),
        (trouble_of(Unreachable("p", "gone")), b"true"),
        (trouble_of(Misbehaved("p", "odd")), b"false"),
    ],
)
def test_sdks_are_told_whether_asking_again_can_help(trouble: Trouble, expected: bytes) -> None:
    assert dict(headers_of(trouble))[b"x-should-retry"] == expected


def test_when_there_will_be_room_again_is_told() -> None:
    assert dict(headers_of(trouble_of(OverLimit("spent", 90.4))))[b"retry-after"] == b"90"
    assert b"retry-after" not in dict(headers_of(trouble_of(OverLimit("spent"))))


def test_who_is_not_known_is_challenged() -> None:
    assert b"www-authenticate" in dict(headers_of(trouble_of(NotAuthenticated("no"))))


@pytest.mark.parametrize(("wire", "op"), [("openai", "chat"), ("openai", "responses"), ("anthropic", "messages")])
def test_a_stream_ends_in_an_event_and_no_terminator(wire: Any, op: str) -> None:
    event = event_of(trouble_of(TimedOut("p", "slow")), wire, op, "r-1")
    assert event.endswith(b"\n\n")
    assert (event.startswith(b"event: error\n")) is (op != "chat")
    data = json.loads(event.split(b"data: ", 1)[1])
    assert "slow" in str(data)
    assert b"[DONE]" not in event
