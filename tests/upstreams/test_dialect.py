"""Requests are dressed for the era of the upstream, and never tell it more than the agent can do."""

from dataclasses import replace
from typing import Any

import pytest

from fakes.replies import RecordingReply
from mcp_gateway.upstreams.connection import SILENT
from mcp_gateway.upstreams.dialect import HANDSHAKE, MODERN, ParamHeaders, bridgeable, legacy

META = "io.modelcontextprotocol/"


def test_a_modern_request_carries_the_trio() -> None:
    message = MODERN.request(7, "tools/list", {}, SILENT)
    meta = message["params"]["_meta"]
    assert meta[META + "protocolVersion"] == "2026-07-28"
    assert meta[META + "clientCapabilities"] == {}
    assert meta[META + "clientInfo"]["name"] == "mcp-gateway"
    assert "progressToken" not in meta


def test_the_token_is_ours_and_the_rest_of_meta_survives() -> None:
    reply = RecordingReply(log_level="info", capabilities={"sampling": {}})
    params = {"name": "x", "_meta": {"traceparent": "00-1", "x": None}}
    meta = MODERN.request(7, "tools/call", params, reply)["params"]["_meta"]
    assert meta["progressToken"] == 7
    assert meta["traceparent"] == "00-1"
    assert meta["x"] is None
    assert meta[META + "logLevel"] == "info"
    assert meta[META + "clientCapabilities"] == {"sampling": {}}
    assert params == {"name": "x", "_meta": {"traceparent": "00-1", "x": None}}


def test_a_legacy_request_gets_at_most_a_token() -> None:
    reply = RecordingReply(log_level="info")
    assert HANDSHAKE.request(7, "x", {"a": 1}, reply)["params"] == {"a": 1, "_meta": {"progressToken": 7}}
    assert HANDSHAKE.request(7, "x", {"a": 1, "_meta": {}}, SILENT)["params"] == {"a": 1}


def test_capabilities_that_need_more_than_passing_on_are_not_passed() -> None:
    can = {
        "elicitation": {"url": {}},
        "roots": {},
        "experimental": {"x": {}},
        "extensions": {"io.modelcontextprotocol/tasks": {}, "io.modelcontextprotocol/ui": {"mimeTypes": []}},
    }
    assert bridgeable(can) == {
        "elicitation": {"url": {}},
        "roots": {},
        "extensions": {"io.modelcontextprotocol/ui": {"mimeTypes": []}},
    }


TASKS = "io.modelcontextprotocol/tasks"


@pytest.mark.parametrize(
    ("agent", "server", "told"),
    [
        ({TASKS: {}}, {TASKS}, {"extensions": {TASKS: {}}}),
        ({TASKS: {}}, set(), {}),
        ({}, {TASKS}, {}),
        ({TASKS: None}, {TASKS}, {}),
        ({"io.example/other": {}}, {TASKS, "io.example/other"}, {}),
        (["io.modelcontextprotocol/tasks"], {TASKS}, {}),
    ],
)
def test_wire_tasks_are_declared_where_both_sides_have_them(agent: Any, server: set[str], told: dict[str, Any]) -> None:
    dialect = replace(MODERN, extensions=frozenset(server))
    reply = RecordingReply(capabilities={"extensions": agent}, takes_input_required=True)
    message = dialect.request(1, "tools/call", {}, reply)
    assert message["params"]["_meta"][META + "clientCapabilities"] == told


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "a"}, "a"),
        ("prompts/get", {"name": "b"}, "b"),
        ("resources/read", {"uri": "x://y"}, "x://y"),
        ("tasks/get", {"taskId": "t"}, "t"),
        ("tools/call", {"name": "ü"}, "=?base64?w7w=?="),
        ("tools/call", {"name": "a\r\nx: y"}, "=?base64?YQ0KeDogeQ==?="),
        ("tools/list", {"name": "a"}, None),
    ],
)
def test_headers_mirror_the_body(method: str, params: dict[str, str], name: str | None) -> None:
    headers = MODERN.headers(method, params)
    assert headers.get("mcp-name") == name
    assert headers["mcp-method"] == method
    assert headers["mcp-protocol-version"] == "2026-07-28"


def test_legacy_headers_name_only_the_version() -> None:
    assert HANDSHAKE.headers("tools/call", {"name": "a"}) == {"mcp-protocol-version": HANDSHAKE.version}


@pytest.mark.parametrize("version", ["2026-07-28", "1999-01-01", None, 7])
def test_only_handshake_versions_come_of_a_handshake(version: object) -> None:
    with pytest.raises(LookupError):
        legacy(version)


def test_param_headers_are_computed_from_the_tools_own_schema() -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    headers, definition = ParamHeaders(), {"name": "t", "inputSchema": schema}
    assert headers.of({"arguments": {"region": "eu"}}, definition) == {"Mcp-Param-Region": "eu"}
    assert headers.of({"arguments": {"region": "a\nb"}}, definition) == {"Mcp-Param-Region": "=?base64?YQpi?="}
    assert headers.of({"arguments": {}}, definition) == {}
    assert headers.of({}, definition) == {}
    assert headers.of({"arguments": {"region": "eu"}}, {}) == {}


def test_param_headers_follow_a_schema_that_was_replaced() -> None:
    headers = ParamHeaders()
    plain = {"name": "t", "inputSchema": {"type": "object", "properties": {"r": {"type": "string"}}}}
    marked = {
        "name": "t",
        "inputSchema": {"type": "object", "properties": {"r": {"type": "string", "x-mcp-header": "R"}}},
    }
    assert headers.of({"arguments": {"r": "x"}}, plain) == {}
    assert headers.of({"arguments": {"r": "x"}}, marked) == {"Mcp-Param-R": "x"}


def test_an_invalid_annotation_makes_no_header() -> None:
    schema = {"type": "object", "properties": {"r": {"type": "number", "x-mcp-header": "R"}}}
    assert ParamHeaders().of({"arguments": {"r": 1}}, {"name": "t", "inputSchema": schema}) == {}
