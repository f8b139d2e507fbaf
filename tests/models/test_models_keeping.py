"""What answers and events name that a provider keeps."""

from typing import Any

import pytest

from mcp_gateway.models.asked import Reference
from mcp_gateway.models.keeping import made_in
from mcp_gateway.models.wires import Op

RESPONSE = {"object": "response", "id": "resp_1", "output": [{"id": "msg_1"}, {"type": "x"}, "odd"]}
OF_RESPONSE = [Reference("response", "resp_1"), Reference("item", "msg_1")]


@pytest.mark.parametrize(
    ("op", "value", "made"),
    [
        (Op.RESPONSES, RESPONSE, OF_RESPONSE),
        (Op.GET_RESPONSE, RESPONSE, OF_RESPONSE),
        (Op.RESPONSES, {"type": "response.created", "response": RESPONSE}, OF_RESPONSE),
        (Op.RESPONSES, {"type": "response.output_item.added", "item": {"id": "rs_1"}}, [Reference("item", "rs_1")]),
        (Op.RESPONSES, {"type": "response.created", "response": None}, []),
        (Op.RESPONSES, {"object": "response", "id": 7, "output": None}, []),
        (Op.CREATE_CONVERSATION, {"id": "conv_1"}, [Reference("conversation", "conv_1")]),
        (Op.MESSAGES, {"id": "msg_1", "container": {"id": "c_1"}}, [Reference("container", "c_1")]),
        (
            Op.MESSAGES,
            {"type": "message_delta", "delta": {"container": {"id": "c_1"}}},
            [Reference("container", "c_1")],
        ),
        (Op.MESSAGES, {"type": "message_start", "message": {"container": None}}, []),
        (Op.LIST_INPUT_ITEMS, {"object": "list", "data": [{"id": "msg_1"}]}, []),
        (Op.DELETE_RESPONSE, {"object": "response.deleted", "id": "resp_1"}, []),
    ],
)
def test_ids_are_found_where_each_wire_has_them(op: Op, value: Any, made: list[Reference]) -> None:
    assert list(made_in(op, value)) == made
