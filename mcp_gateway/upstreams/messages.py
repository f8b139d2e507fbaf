"""JSON-RPC messages from upstreams: told apart and checked before anybody acts on them.

Pure. What an upstream sends is hostile until proven otherwise: ids are compared with their type (`True` is not 1),
results have to be objects, errors have to have a code.
"""

from __future__ import annotations

from typing import Any

import orjson

from mcp_gateway import jsonrpc
from mcp_gateway.domain import Json, RpcError
from mcp_gateway.errors import BadRequest
from mcp_gateway.upstreams.connection import Answer

MAX_ID_CHARS = 256


class NotAMessage(ValueError):
    """Bytes that are not one JSON-RPC message. `request_id` is ours if they were plainly meant to answer it."""

    def __init__(self, why: str, request_id: int | None = None) -> None:
        super().__init__(why)
        self.request_id = request_id


def read_message(data: bytes) -> Json:
    """One JSON-RPC message as a dict. Raises `NotAMessage`."""
    try:
        message = jsonrpc.parse(data)
    except BadRequest as e:
        raise NotAMessage(str(e), _meant_for(data)) from e
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise NotAMessage("not a JSON-RPC 2.0 message")
    return message


def is_response(message: Json) -> bool:
    """Whether this answers a request."""
    return "method" not in message and ("result" in message or "error" in message)


def response_id(message: Json) -> int | None:
    """The id of a response, if it can be one of ours: we only ever send integers."""
    request_id = message.get("id")
    return request_id if type(request_id) is int else None


def question_id(message: Json) -> int | str | None:
    """The id of a request the upstream sent, if it is one we can repeat back."""
    request_id = message.get("id")
    if type(request_id) is int or (isinstance(request_id, str) and len(request_id) <= MAX_ID_CHARS):
        return request_id
    return None


def answer_in(response: Json) -> Answer:
    """The result or the error of a response. Raises `NotAMessage` if it is neither."""
    if "error" in response:
        return _error_in(response["error"])
    result = response.get("result")
    if not isinstance(result, dict):
        raise NotAMessage("the result is not an object")
    return result


def params_of(message: Json) -> Json:
    """The params of a notification or request; an empty object where there are none."""
    params = message.get("params")
    return params if isinstance(params, dict) else {}


def _error_in(error: Any) -> RpcError:
    if not isinstance(error, dict):
        raise NotAMessage("the error is not an object")
    code, text = error.get("code"), error.get("message")
    if type(code) is not int:
        raise NotAMessage("the error has no integer code")
    return RpcError(code, text if isinstance(text, str) else "", error.get("data"))


def _meant_for(data: bytes) -> int | None:
    """The id in a message that strict parsing refused, so that its call fails now and not at its timeout."""
    try:
        message = orjson.loads(data.decode(errors="replace"))
    except orjson.JSONDecodeError:
        return None
    return response_id(message) if isinstance(message, dict) and is_response(message) else None
