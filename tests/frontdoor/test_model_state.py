"""Requests about what providers keep: what of a query and a body goes on."""

from typing import Any

import pytest

from mcp_gateway.errors import BadRequest
from mcp_gateway.frontdoor.model_state import body_of_state, facts_of_state, query_of
from mcp_gateway.models.wires import BY_OP, Op


@pytest.mark.parametrize(
    "query", [b"", b"stream=true&starting_after=4", b"include%5B%5D=a.b&include[]=c", b"limit=5&order=asc&after=msg_1"]
)
def test_known_parameters_go_on_as_they_are(query: bytes) -> None:
    assert query_of({"query_string": query}) == query.decode()


@pytest.mark.parametrize("query", [b"key=x", b"limit=%2e", b"after=a/b", b"&", b"stream=true#x", b"limit=1&" * 40])
def test_others_are_refused(query: bytes) -> None:
    with pytest.raises(BadRequest):
        query_of({"query_string": query})


@pytest.mark.parametrize(
    ("op", "body"),
    [
        (Op.CANCEL_RESPONSE, b'{"a":1}'),
        (Op.GET_RESPONSE, b"x"),
        (Op.ADD_CONVERSATION_ITEMS, b"[]"),
        (Op.ADD_CONVERSATION_ITEMS, b'{"items":[{"id":"msg_1"}]}'),
        (Op.ADD_CONVERSATION_ITEMS, b'{"items":[{"type":"reasoning","id":"rs_1"}]}'),
        (Op.CREATE_CONVERSATION, b'{"items":[{"role":"user","content":[{"type":"input_file","file_id":"f"}]}]}'),
        (Op.UPDATE_CONVERSATION, b'{"metadata":{},"metadata":{}}'),
    ],
)
def test_bodies_that_say_too_much_are_refused(op: Op, body: bytes) -> None:
    with pytest.raises(BadRequest):
        body_of_state(BY_OP[op], body)


@pytest.mark.parametrize(
    ("op", "body", "value"),
    [
        (Op.CANCEL_RESPONSE, b"", None),
        (Op.CANCEL_RESPONSE, b"{}", None),
        (Op.UPDATE_CONVERSATION, b'{"metadata":{}}', {"metadata": {}}),
    ],
)
def test_other_bodies_are_read(op: Op, body: bytes, value: Any) -> None:
    assert body_of_state(BY_OP[op], body) == value


def test_conditions_see_that_it_is_streamed() -> None:
    def is_stream(query: str) -> Any:
        return facts_of_state(BY_OP[Op.GET_RESPONSE], "m", None, query, b"")["stream"]

    assert [is_stream(query) for query in ("stream=true", "a=b&stream=true", "stream=false", "")] == [
        True,
        True,
        False,
        False,
    ]
