"""One streamed answer as it passes: where its content begins, what it took, where it ends, what must not go through.

Knows each wire's events, sends nothing. Events are passed on byte for byte; only the usage chunk that we asked for, and
the agent did not, is left out, and a credential of ours that a provider repeats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import orjson

from mcp_gateway.domain import Json, Usage
from mcp_gateway.models.framing import Framer, event_data, event_name
from mcp_gateway.models.usage import merged, streamed_characters, usage_in
from mcp_gateway.models.wires import CHUNKED, Operation

_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_ERROR: Final = re.compile(rb'\{\s*"error"\s*:')
_NAMES: Final = {
    "response": re.compile(
        rb'"type"\s*:\s*"response\.(?:created|queued|output_item\.\w+|completed|incomplete|failed)"'
    ),
    "container": re.compile(rb'"container"\s*:\s*\{'),
}
"""What an event looks like that may name something its provider keeps, by what an operation makes."""
REDACTED: Final = b"[redacted]"


class Watch:
    """What is known of a stream so far."""

    def __init__(
        self, operation: Operation, *, strips_usage: bool, secrets: Sequence[bytes], notes: bool = False
    ) -> None:
        """`notes`: whether to gather what events name that the provider keeps (`made`)."""
        self._operation = operation
        self._strips_usage = strips_usage
        self._secrets = secrets
        self._notes = _NAMES.get(operation.about) if notes else None
        self._framer = Framer()
        self.has_content = False
        """Whether anything came that an agent could act on: behind it no other provider can take over."""
        self.error: bytes = b""
        """The data of an error event, if there was one."""
        self.is_over = False
        self.tail: list[bytes] = []
        """The event that ends the stream, and all behind it."""
        self.characters = 0
        self.usage: Usage | None = None
        self.made: list[Json] = []
        """Events that may name something kept, not noted yet."""

    def feed(self, piece: bytes) -> bytes:
        """What may be relayed now. Raises `framing.EventTooLongError`."""
        out: list[bytes] = []
        for event in self._framer.feed(piece):
            self._look_at(event)
            if self._strips_usage and self._is_usage_chunk(event):
                continue
            (self.tail if self.is_over else out).append(self._clean(event))
        return b"".join(out)

    def end(self) -> bytes:
        """What the stream ended in without an end of its own."""
        rest = self._framer.rest()
        if rest.strip():
            self._look_at(rest)
        return self._clean(rest)

    def _look_at(self, event: bytes) -> None:
        is_chunk = self._operation.op in CHUNKED
        name = event_name(event) if not is_chunk else b""
        data = event if not is_chunk else _chat_data(event)
        if name == b"error" or (is_chunk and _ERROR.match(data)):
            self.error = self.error or event_data(event)
        elif not self.has_content:
            self.has_content = bool(data) and not self._is_lead_in(name, event)
        if _USAGE.search(event):
            self._take_usage(event)
        if self._notes is not None and self._notes.search(event):
            self.made.append(_parsed(event))
        self.is_over = self.is_over or name in self._operation.terminal or data == b"[DONE]"
        self.characters += streamed_characters(event)

    def _is_lead_in(self, name: bytes, event: bytes) -> bool:
        return name in self._operation.lead_in or not event_data(event)

    def _take_usage(self, event: bytes) -> None:
        found = usage_in(self._operation.op, _holder_of_usage(event))
        if found is not None:
            self.usage = merged(self.usage, found)

    def _is_usage_chunk(self, event: bytes) -> bool:
        """OpenAI: "an additional chunk will be streamed before the data: [DONE] message", its `choices` empty."""
        return b'"choices"' in event and _USAGE.search(event) is not None and _parsed(event).get("choices") == []

    def _clean(self, event: bytes) -> bytes:
        for secret in self._secrets:
            if secret in event:
                event = event.replace(secret, REDACTED)
        return event


def _chat_data(event: bytes) -> bytes:
    """The data of a chat chunk, which is one line and the only field; anything odder goes the long way."""
    if event.startswith(b"data:") and event.count(b"\n") <= 2:
        return event[5:].strip()
    return event_data(event)


def _parsed(event: bytes) -> Any:
    try:
        value = orjson.loads(event_data(event))
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _holder_of_usage(event: bytes) -> Any:
    """The object that has `usage`: the event itself, or the response or message in it."""
    value = _parsed(event)
    for name in ("response", "message"):
        if isinstance(value.get(name), dict) and "usage" in value[name]:
            return value[name]
    return value
