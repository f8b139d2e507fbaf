"""The operations of the model wires we serve, as one table: path, wire, where a stream ends, where usage stands.

Chosen by method and path alone, never by the shape of a body. Same wire in and out: a call is passed on as it is, never
translated into another provider's language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from mcp_gateway.config.models import Wire


class Op(StrEnum):
    """One operation of one wire; conditions and the audit see it as `args.op`."""

    CHAT = "chat"
    RESPONSES = "responses"
    INPUT_TOKENS = "input_tokens"
    EMBEDDINGS = "embeddings"
    COMPLETIONS = "completions"
    MODERATIONS = "moderations"
    IMAGES = "images"
    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"
    GET_RESPONSE = "get_response"
    DELETE_RESPONSE = "delete_response"
    CANCEL_RESPONSE = "cancel_response"
    LIST_INPUT_ITEMS = "list_input_items"
    CREATE_CONVERSATION = "create_conversation"
    GET_CONVERSATION = "get_conversation"
    UPDATE_CONVERSATION = "update_conversation"
    DELETE_CONVERSATION = "delete_conversation"
    LIST_CONVERSATION_ITEMS = "list_conversation_items"
    ADD_CONVERSATION_ITEMS = "add_conversation_items"
    GET_CONVERSATION_ITEM = "get_conversation_item"
    DELETE_CONVERSATION_ITEM = "delete_conversation_item"


FREE: Final = frozenset({Op.COUNT_TOKENS, Op.INPUT_TOKENS})
"""What no provider charges for."""
CHUNKED: Final = frozenset({Op.CHAT, Op.COMPLETIONS})
"""Streamed as chunks without names, ended by `[DONE]`, with usage only where it was asked for."""
NOT_TEXT: Final = frozenset({Op.IMAGES})
"""Priced otherwise than text, so that the price list of a model's tokens says nothing about them."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What is particular about one operation."""

    op: Op
    wire: Wire
    path: str
    """Behind a provider's `url`, as the official SDKs put it there. `{id}` is something that the provider keeps."""
    output_limits: tuple[str, ...] = ()
    """Members of the body that bound how much is generated."""
    lead_in: tuple[bytes, ...] = ()
    """Events that say nothing yet: a provider that fails behind them can still be replaced by another."""
    terminal: tuple[bytes, ...] = ()
    """Events behind which a stream says no more."""
    method: str = "POST"
    about: str = ""
    """What `{id}` is (`domain.Kept.kind`); of an operation without one, what it makes. Empty: nothing that is kept."""
    has_body: bool = True
    pattern: re.Pattern[str] = field(init=False, compare=False, repr=False)
    """Matches the path that agents ask for."""

    def __post_init__(self) -> None:
        path = self.path if self.path.startswith("/v1") else f"/v1{self.path}"
        parts = [re.escape(part) if part[:1] != "{" else f"(?P<{part[1:-1]}>{_ID})" for part in path.split("/")]
        object.__setattr__(self, "pattern", re.compile("/".join(parts)))

    @property
    def is_about_kept(self) -> bool:
        """Whether it is about something that is kept already."""
        return "{id}" in self.path

    def id_in(self, path: str) -> str:
        """What a path of this operation names."""
        match = self.pattern.fullmatch(path)
        return "" if match is None else match["id"]


_ID: Final = "[A-Za-z0-9_-]{1,200}"
"""No dots: nothing in it can be a way up."""
_RESPONSE_LEAD_IN: Final = (b"response.created", b"response.in_progress", b"response.queued")
_RESPONSE_TERMINAL: Final = (b"response.completed", b"response.incomplete", b"response.failed")


def _kept(op: Op, method: str, path: str, *, has_body: bool = False) -> Operation:
    about = "response" if path.startswith("/responses") else "conversation"
    lead_in, terminal = (_RESPONSE_LEAD_IN, _RESPONSE_TERMINAL) if op is Op.GET_RESPONSE else ((), ())
    return Operation(op, "openai", path, (), lead_in, terminal, method, about, has_body)


_OPERATIONS: Final = (
    Operation(Op.CHAT, "openai", "/chat/completions", ("max_completion_tokens", "max_tokens")),
    Operation(
        Op.RESPONSES,
        "openai",
        "/responses",
        ("max_output_tokens",),
        lead_in=_RESPONSE_LEAD_IN,
        terminal=_RESPONSE_TERMINAL,
        about="response",
    ),
    Operation(Op.INPUT_TOKENS, "openai", "/responses/input_tokens"),
    Operation(Op.EMBEDDINGS, "openai", "/embeddings"),
    Operation(Op.COMPLETIONS, "openai", "/completions", ("max_tokens",)),
    Operation(Op.MODERATIONS, "openai", "/moderations"),
    Operation(Op.IMAGES, "openai", "/images/generations", terminal=(b"image_generation.completed",)),
    Operation(
        Op.MESSAGES,
        "anthropic",
        "/v1/messages",
        ("max_tokens",),
        lead_in=(b"message_start", b"ping"),
        terminal=(b"message_stop",),
        about="container",
    ),
    Operation(Op.COUNT_TOKENS, "anthropic", "/v1/messages/count_tokens"),
    _kept(Op.GET_RESPONSE, "GET", "/responses/{id}"),
    _kept(Op.DELETE_RESPONSE, "DELETE", "/responses/{id}"),
    _kept(Op.CANCEL_RESPONSE, "POST", "/responses/{id}/cancel"),
    _kept(Op.LIST_INPUT_ITEMS, "GET", "/responses/{id}/input_items"),
    _kept(Op.CREATE_CONVERSATION, "POST", "/conversations", has_body=True),
    _kept(Op.GET_CONVERSATION, "GET", "/conversations/{id}"),
    _kept(Op.UPDATE_CONVERSATION, "POST", "/conversations/{id}", has_body=True),
    _kept(Op.DELETE_CONVERSATION, "DELETE", "/conversations/{id}"),
    _kept(Op.LIST_CONVERSATION_ITEMS, "GET", "/conversations/{id}/items"),
    _kept(Op.ADD_CONVERSATION_ITEMS, "POST", "/conversations/{id}/items", has_body=True),
    _kept(Op.GET_CONVERSATION_ITEM, "GET", "/conversations/{id}/items/{item}"),
    _kept(Op.DELETE_CONVERSATION_ITEM, "DELETE", "/conversations/{id}/items/{item}"),
)

BY_OP: Final[Mapping[Op, Operation]] = {operation.op: operation for operation in _OPERATIONS}

_OF_STATE: Final = tuple(op for op in _OPERATIONS if op.is_about_kept or op.op is Op.CREATE_CONVERSATION)

BY_PATH: Final[Mapping[str, Operation]] = {
    operation.path if operation.path.startswith("/v1") else f"/v1{operation.path}": operation
    for operation in _OPERATIONS
    if operation not in _OF_STATE
}
"""By the path agents ask for: what each of them can be asked by, with a model in its body."""


def state_operations(path: str) -> Mapping[str, Operation]:
    """What can be done with something that is kept, at this path, by method; empty: nothing is there."""
    return {operation.method: operation for operation in _OF_STATE if operation.pattern.fullmatch(path)}


def operation_of(method: str, path: str) -> Operation:
    """The operation of a path that was found to have one; a query may follow."""
    bare = path.partition("?")[0]
    return BY_PATH.get(bare) or state_operations(bare)[method]
