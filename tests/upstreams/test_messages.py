"""What an upstream sends is no message until it proves to be one."""

import pytest

from mcp_gateway.domain import RpcError
from mcp_gateway.upstreams import messages
from mcp_gateway.upstreams.messages import NotAMessage


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"[]", b'"x"', b"{}", b'{"jsonrpc":"1.0","id":1,"result":{}}', b'{"jsonrpc":"2.0"', b"\xff"],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(NotAMessage) as refused:
        messages.read_message(data)
    assert refused.value.request_id is None


@pytest.mark.parametrize("result", [b'{"a":1,"a":2}', b'{"a":"\xff"}', b'{"a":' + b"[" * 200 + b"]" * 200 + b"}"])
def test_a_refused_answer_still_tells_whose_it_was(result: bytes) -> None:
    with pytest.raises(NotAMessage) as refused:
        messages.read_message(b'{"jsonrpc":"2.0","id":7,"result":%s}' % result)
    assert refused.value.request_id == 7


@pytest.mark.parametrize("request_id", [True, 1.0, "1", None, [1], {}])
def test_only_an_integer_can_be_an_id_of_ours(request_id: object) -> None:
    assert messages.response_id({"id": request_id, "result": {}}) is None


@pytest.mark.parametrize("request_id", [None, True, 1.5, "x" * 1000, []])
def test_a_question_needs_an_id_that_can_be_repeated(request_id: object) -> None:
    assert messages.question_id({"id": request_id, "method": "ping"}) is None


@pytest.mark.parametrize(
    "response",
    [
        {"id": 1, "result": []},
        {"id": 1, "result": None},
        {"id": 1, "error": "no"},
        {"id": 1, "error": {"code": "1"}},
        {"id": 1, "error": {"code": True}},
    ],
)
def test_a_response_that_is_neither_result_nor_error_is_refused(response: dict[str, object]) -> None:
    with pytest.raises(NotAMessage):
        messages.answer_in(response)


def test_an_error_keeps_its_data() -> None:
    answer = messages.answer_in({"error": {"code": -1, "message": "x", "data": {"a": None}}})
    assert answer == RpcError(-1, "x", {"a": None})


def test_an_error_beats_a_result_beside_it() -> None:
    assert isinstance(messages.answer_in({"result": {}, "error": {"code": 1, "message": ""}}), RpcError)
