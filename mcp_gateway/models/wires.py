"""The operations of the model wires we serve, as one table: path, wire, where a stream ends, where usage stands.

Chosen by path alone, never by the shape of a body. Same wire in and out: a call is passed on as it is, never translated
into another provider's language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from mcp_gateway.config.models import Wire


class Op(StrEnum):
    """One operation of one wire; conditions and the audit see it as `args.op`."""

    CHAT = "chat"
    RESPONSES = "responses"
    EMBEDDINGS = "embeddings"
    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"


@dataclass(frozen=True, slots=True)
class Operation:
    """What is particular about one operation."""

    op: Op
    wire: Wire
    path: str
    """Behind a provider's `url`, as the official SDKs put it there."""
    output_limits: tuple[str, ...] = ()
    """Members of the body that bound how much is generated."""
    lead_in: tuple[bytes, ...] = ()
    """Events that say nothing yet: a provider that fails behind them can still be replaced by another."""
    terminal: tuple[bytes, ...] = ()
    """Events behind which a stream says no more."""


_OPERATIONS: Final = (
    Operation(Op.CHAT, "openai", "/chat/completions", ("max_completion_tokens", "max_tokens")),
    Operation(
        Op.RESPONSES,
        "openai",
        "/responses",
        ("max_output_tokens",),
        lead_in=(b"response.created", b"response.in_progress", b"response.queued"),
        terminal=(b"response.completed", b"response.incomplete", b"response.failed"),
    ),
    Operation(Op.EMBEDDINGS, "openai", "/embeddings"),
    Operation(
        Op.MESSAGES,
        "anthropic",
        "/v1/messages",
        ("max_tokens",),
        lead_in=(b"message_start", b"ping"),
        terminal=(b"message_stop",),
    ),
    Operation(Op.COUNT_TOKENS, "anthropic", "/v1/messages/count_tokens"),
)

BY_PATH: Final[Mapping[str, Operation]] = {
    operation.path if operation.path.startswith("/v1") else f"/v1{operation.path}": operation
    for operation in _OPERATIONS
}
"""By the path agents ask for."""

BY_OP: Final[Mapping[Op, Operation]] = {operation.op: operation for operation in _OPERATIONS}
