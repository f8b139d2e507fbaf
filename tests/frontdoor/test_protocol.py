"""How a JSON-RPC message is read, and what MCP's versions mean."""

from typing import Any

import pytest

from mcp_gateway.domain import Kind
from mcp_gateway.errors import BadRequest
from mcp_gateway.frontdoor.protocol import (
    CALLS,
    LIST_CHANGED,
    LISTS,
    MAX_ID_CHARS,
    Answer,
    Ask,
    Notice,
    client_name,
    has_modern_envelope,
    negotiate_legacy,
    read_message,
    readable_id,
)
from mcp_gateway.revisions import LEGACY_VERSIONS, META_VERSION


@pytest.mark.parametrize("id_", [1, "1", 0, -5, "", "x" * MAX_ID_CHARS, 2**63])
def test_an_id_keeps_its_value_and_its_type(id_: Any) -> None:
    message = read_message({"jsonrpc": "2.0", "id": id_, "method": "ping"})
    assert isinstance(message, Ask)
    assert (message.id, type(message.id)) == (id_, type(id_))


@pytest.mark.parametrize("id_", [None, 1.5, True, {}, [], "x" * (MAX_ID_CHARS + 1)])
def test_an_id_that_cannot_be_echoed_safely_is_refused(id_: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        read_message({"jsonrpc": "2.0", "id": id_, "method": "ping"})
    assert refused.value.rpc_code == -32600


@pytest.mark.parametrize(
    "value",
    [
        None,
        "x",
        1,
        [],
        [{"jsonrpc": "2.0", "id": 1, "method": "ping"}],
        {},
        {"id": 1, "method": "ping"},
        {"jsonrpc": "1.0", "id": 1, "method": "ping"},
        {"jsonrpc": 2.0, "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "id": 1, "method": 1},
        {"jsonrpc": "2.0", "id": 1, "method": None},
        {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []},
        {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": "x"},
        {"jsonrpc": "2.0", "method": "ping", "params": 0},
        {"jsonrpc": "2.0", "id": 1},
        {"jsonrpc": "2.0", "id": 1, "result": 1},
        {"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}},
        {"jsonrpc": "2.0", "result": {}},
        {"JSONRPC": "2.0", "ID": 1, "METHOD": "ping"},
    ],
)
def test_what_is_not_exactly_one_message_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        read_message(value)
    assert refused.value.rpc_code == -32600


def test_absent_and_null_params_are_empty() -> None:
    assert read_message({"jsonrpc": "2.0", "id": 1, "method": "ping"}) == Ask(1, "ping", {})
    assert read_message({"jsonrpc": "2.0", "method": "x", "params": None}) == Notice("x", {})


def test_an_answer_is_told_apart_from_a_request() -> None:
    assert read_message({"jsonrpc": "2.0", "id": "a", "result": {"b": 1}}) == Answer("a", {"b": 1}, None)
    assert read_message({"jsonrpc": "2.0", "id": 1, "error": {"code": 1}}) == Answer(1, None, {"code": 1})


@pytest.mark.parametrize(
    ("value", "id_"),
    [
        ({"id": 7, "method": "x"}, 7),
        ({"id": "7", "method": "x"}, "7"),
        ({"id": 7, "result": {}}, None),
        ({"id": 1.5, "method": "x"}, None),
        ({"id": True, "method": "x"}, None),
        ({"id": "x" * 1000, "method": "x"}, None),
        ([], None),
        (None, None),
    ],
)
def test_a_refusal_carries_the_requests_id_only_where_there_is_one(value: Any, id_: Any) -> None:
    assert readable_id(value) == id_


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_a_handshake_gets_the_version_it_asks_for(version: str) -> None:
    assert negotiate_legacy(version) == version


@pytest.mark.parametrize("version", ["1999-01-01", "2026-07-28", None, 1, []])
def test_any_other_handshake_gets_our_newest(version: Any) -> None:
    assert negotiate_legacy(version) == LEGACY_VERSIONS[0] == max(LEGACY_VERSIONS)


@pytest.mark.parametrize(
    ("params", "is_modern"),
    [
        ({"_meta": {META_VERSION: "2026-07-28"}}, True),
        ({"_meta": {META_VERSION: None}}, True),
        ({"_meta": {"progressToken": 1}}, False),
        ({"_meta": [META_VERSION]}, False),
        ({"_meta": META_VERSION}, False),
        ({"_meta": None}, False),
        ({}, False),
    ],
)
def test_only_the_version_in_meta_makes_a_request_modern(params: dict[str, Any], is_modern: bool) -> None:
    assert has_modern_envelope(params) is is_modern


@pytest.mark.parametrize(
    ("info", "shown"),
    [
        ({"name": "a", "version": "1"}, "a/1"),
        ({"name": "a"}, "a"),
        ({"name": ["a"], "version": {}}, "['a']/{}"),
        ({"name": "n" * 1000, "version": "v" * 1000}, "n" * 80 + "/" + "v" * 40),
        (None, ""),
        ("a", ""),
    ],
)
def test_what_a_client_calls_itself_is_shortened_and_never_an_error(info: Any, shown: str) -> None:
    assert client_name(info) == shown


def test_every_kind_of_target_is_listed_and_announced() -> None:
    of_mcp = set(Kind) - {Kind.MODEL, Kind.ROUTE}
    assert {kind for kind, _ in LISTS.values()} == of_mcp == set(LIST_CHANGED)
    assert {call.kind for call in CALLS.values()} == of_mcp - {Kind.TEMPLATE}
