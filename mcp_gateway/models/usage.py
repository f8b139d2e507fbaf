"""How many tokens a call took, read from three wires and told in one way.

OpenAI's `input` includes what came from a cache, Anthropic's does not: here it always does. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mcp_gateway.domain import Usage
from mcp_gateway.models.asked import BYTES_PER_TOKEN
from mcp_gateway.models.wires import FREE, Op

MAX_TOKENS: Final = 10**12
"""What is more than that is a lie or a mistake, and must not overflow anything that adds up."""

_STREAMED_TEXT: Final = re.compile(
    rb'"(?:content|text|delta|arguments|partial_json|thinking|refusal|input|reasoning_content)"\s*:\s*'
    rb'"((?:[^"\\]|\\.)*)"'
)


def usage_in(op: Op, value: Any) -> Usage | None:
    """The usage in a whole answer, or in the event of a stream that carries it; None where there is none."""
    raw = value.get("usage") if isinstance(value, Mapping) else None
    if op in FREE:
        return Usage()
    if not isinstance(raw, Mapping):
        return None
    return _anthropic(raw) if op is Op.MESSAGES else _openai(raw)


def merged(before: Usage | None, now: Usage) -> Usage:
    """Two reports of one stream: each count is cumulative, so the larger stands."""
    if before is None:
        return now
    return Usage(
        input=max(before.input, now.input),
        output=max(before.output, now.output),
        cache_read=max(before.cache_read, now.cache_read),
        cache_write=max(before.cache_write, now.cache_write),
        reasoning=max(before.reasoning, now.reasoning),
    )


def streamed_characters(piece: bytes) -> int:
    """How much text a piece of a stream carries, about."""
    return sum(len(match) for match in _STREAMED_TEXT.findall(piece))


def estimated(input_tokens: int, characters: int) -> Usage:
    """The usage of an answer that did not say, rather too much than too little."""
    return Usage(input=input_tokens, output=int(characters / BYTES_PER_TOKEN) + 1, is_estimated=True)


def _openai(raw: Mapping[str, Any]) -> Usage:
    read = raw.get("prompt_tokens_details") or raw.get("input_tokens_details")
    written = raw.get("completion_tokens_details") or raw.get("output_tokens_details")
    return Usage(
        input=_count(raw, "prompt_tokens") or _count(raw, "input_tokens"),
        output=_count(raw, "completion_tokens") or _count(raw, "output_tokens"),
        cache_read=_count(read, "cached_tokens"),
        cache_write=_count(read, "cache_write_tokens"),
        reasoning=_count(written, "reasoning_tokens"),
    )


def _anthropic(raw: Mapping[str, Any]) -> Usage:
    read, written = _count(raw, "cache_read_input_tokens"), _count(raw, "cache_creation_input_tokens")
    return Usage(
        input=_count(raw, "input_tokens") + read + written,
        output=_count(raw, "output_tokens"),
        cache_read=read,
        cache_write=written,
    )


def _count(raw: Any, name: str) -> int:
    value = raw.get(name) if isinstance(raw, Mapping) else None
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return min(value, MAX_TOKENS) if is_count and isinstance(value, int) else 0
