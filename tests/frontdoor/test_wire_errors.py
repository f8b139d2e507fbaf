"""Each error as an agent sees it."""

from typing import Any

import pytest

from mcp_gateway.domain import Decision, Effect, Era, Reason, RpcError
from mcp_gateway.errors import (
    BadArguments,
    BadRequest,
    ConfigInvalid,
    GatewayError,
    Misbehaved,
    NotAuthenticated,
    NotAvailable,
    OverLimit,
    StoreUnavailable,
    TimedOut,
    Unreachable,
)
from mcp_gateway.frontdoor.wire_errors import answer_to, error_member, http_status, tool_error, upstream_error
from mcp_gateway.jsonrpc import Code

ERAS = list(Era)
DENIED = Decision(Effect.DENIED, Reason.DENY, "policies/secret.toml:7", "9f2c", "because of the audit")
UNKNOWN = Decision(Effect.DENIED, Reason.UNKNOWN_TARGET)


def classes(root: type[GatewayError] = GatewayError) -> set[type[GatewayError]]:
    return {root}.union(*(classes(each) for each in root.__subclasses__()))


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("method", ["tools/call", "prompts/get", "resources/read", "completion/complete", "x"])
def test_denied_and_unknown_read_the_same_and_show_nothing_of_the_policy(method: str, era: Era) -> None:
    denied = answer_to(NotAvailable("u__x", DENIED), method, era)
    assert denied == answer_to(NotAvailable("u__x", UNKNOWN), method, era)
    assert not any(word in str(denied) for word in ("policies", "9f2c", "audit", "deny"))


def test_a_name_is_echoed_within_bounds() -> None:
    assert len(str(answer_to(NotAvailable("x" * 100_000, UNKNOWN), "tools/call", Era.MODERN))) < 500


@pytest.mark.parametrize(("era", "code"), [(Era.MODERN, -32602), (Era.LEGACY, -32002)])
def test_an_unknown_resource_has_the_code_of_its_era(era: Era, code: int) -> None:
    answer = answer_to(NotAvailable("a:b", UNKNOWN), "resources/read", era)
    assert answer == {"error": {"code": code, "message": "Resource not found", "data": {"uri": "a:b"}}}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    "error", [BadArguments("a must be a number"), OverLimit("too large"), Unreachable("u", "no connection"),
              TimedOut("u", "no answer"), Misbehaved("u", "nonsense")]
)  # fmt: skip
def test_what_a_model_can_act_on_is_a_tool_result(error: GatewayError, era: Era) -> None:
    result = answer_to(error, "tools/call", era)["result"]
    assert result["isError"] is True
    assert result["content"] == [{"type": "text", "text": str(error)}]
    assert result.get("resultType") == ("complete" if era is Era.MODERN else None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadRequest("no", -32020, {"a": 1}), -32020),
        (BadArguments("no"), -32602),
        (OverLimit("no"), 429),
        (NotAuthenticated("no"), 401),
        (TimedOut("u", "no"), -32603),
        (StoreUnavailable("disk full at /var/audit.db"), -32603),
        (ConfigInvalid([]), -32603),
        (GatewayError("no"), -32603),
    ],
)
def test_other_methods_get_an_error_with_its_code(error: GatewayError, code: int) -> None:
    assert answer_to(error, "prompts/get", Era.MODERN)["error"]["code"] == code


def test_every_class_of_error_has_an_answer() -> None:
    for error in classes():
        made: Any = error.__new__(error)
        Exception.__init__(made, "text")
        made.name, made.rpc_code, made.data, made.decision = "n", -32602, None, Decision(Effect.DENIED, Reason.NO_GRANT)
        assert "error" in answer_to(made, "prompts/get", Era.MODERN)


def test_where_the_audit_lives_is_not_told() -> None:
    assert "/var" not in str(answer_to(StoreUnavailable("disk full at /var/audit.db"), "tools/call", Era.LEGACY))


def test_what_an_upstream_needs_its_agent_to_declare_is_told_to_who_could_declare_it() -> None:
    needed = RpcError(-32021, "Missing", {"requiredCapabilities": {"sampling": {}}})
    modern = upstream_error(needed, "tools/call", Era.MODERN)
    assert modern == {"code": -32021, "message": "Missing", "data": needed.data}
    assert upstream_error(needed, "tools/call", Era.LEGACY)["code"] == -32603


@pytest.mark.parametrize("code", [-32700, -32600, -32601, -32020, -32022])
def test_an_upstreams_errors_about_its_own_wire_do_not_blame_the_agents(code: int) -> None:
    member = upstream_error(RpcError(code, "Method not found"), "tools/call", Era.MODERN)
    assert member == {"code": -32603, "message": "the upstream refused the request: Method not found"}


@pytest.mark.parametrize(
    ("code", "method", "era", "seen"),
    [
        (-32002, "resources/read", Era.MODERN, -32602),
        (-32002, "resources/read", Era.LEGACY, -32002),
        (-32602, "resources/read", Era.LEGACY, -32002),
        (-32602, "resources/read", Era.MODERN, -32602),
        (-32602, "tools/call", Era.LEGACY, -32602),
        (-32603, "tools/call", Era.MODERN, -32603),
        (12345, "prompts/get", Era.MODERN, 12345),
    ],
)
def test_an_upstreams_error_is_relayed_in_the_codes_of_the_agents_era(
    code: int, method: str, era: Era, seen: int
) -> None:
    assert upstream_error(RpcError(code, "m", [1]), method, era) == {"code": seen, "message": "m", "data": [1]}


def test_an_upstream_that_failed_for_what_the_agent_had_not_declared_is_told_as_that() -> None:
    failed = RpcError(Code.INTERNAL_ERROR, "no sampling here")
    error = upstream_error(failed, "tools/call", Era.MODERN, {"sampling": {}})
    assert error["code"] == Code.MISSING_CAPABILITY
    assert error["data"] == {"requiredCapabilities": {"sampling": {}}}
    assert http_status(RpcError(error["code"], "")) == 400
    assert upstream_error(failed, "tools/call", Era.LEGACY, {"sampling": {}})["code"] == Code.INTERNAL_ERROR


def test_data_stands_only_where_there_is_any() -> None:
    assert "data" not in error_member(RpcError(1, "m"))
    assert error_member(RpcError(1, "m", 0))["data"] == 0


@pytest.mark.parametrize(
    ("code", "status"),
    [(-32700, 400), (-32600, 400), (-32601, 404), (-32602, 400), (-32020, 400), (-32021, 400), (-32022, 400),
     (429, 429), (-32603, 200), (12345, 200)],
)  # fmt: skip
def test_http_says_whose_fault_it_is(code: int, status: int) -> None:
    assert http_status(RpcError(code, "")) == status


def test_a_tool_error_of_the_handshake_era_has_no_result_type() -> None:
    assert "resultType" not in tool_error("x", Era.LEGACY)
