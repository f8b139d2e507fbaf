"""An HTTP answer that is held back until it has been looked at, and goes on edited, as it came, or not at all.

Only where a guard of the policy speaks of results: everything else is relayed as it comes. A stream of events keeps its
events; text that is spread over several of them is looked at as one, and where something is masked in it the first of
them carries all of the text, so that nothing is found by cutting a secret in two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from anyio import CancelScope

from mcp_gateway.domain import Finding, Inspection, Relay, Stage, Target
from mcp_gateway.errors import Misbehaved
from mcp_gateway.guards.content import Content
from mcp_gateway.guards.events import Event, Path, event_of, split
from mcp_gateway.jsonrpc import dump

_LENGTH: Final = "content-length"


class HeldRelay:
    """A `Relay` that keeps what it is given. `release` sends it on."""

    def __init__(self, relay: Relay, target: Target, max_bytes: int) -> None:
        self.scope: CancelScope = relay.scope
        self.relay = relay
        self.target = target
        self.max_bytes = max_bytes
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.error: Exception | None = None
        self._body = bytearray()

    @property
    def content_type(self) -> str:
        """Of the answer that has begun."""
        return next((value for name, value in self.headers.items() if name.lower() == "content-type"), "")

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """See `Relay.begin`."""
        self.status, self.headers = status, headers

    async def write(self, piece: bytes) -> None:
        """See `Relay.write`. Raises `Misbehaved` for an answer that is too long to be held."""
        self.hold(piece)

    def hold(self, piece: bytes) -> None:
        """See `Relay.hold`. Raises `Misbehaved` for an answer that is too long to be held."""
        if len(self._body) + len(piece) > self.max_bytes:
            message = f"{self.target.public_name} answered with more than a guard can look at"
            raise Misbehaved(self.target.upstream, message)
        self._body += piece

    def hold_error(self, error: Exception) -> None:
        """See `Relay.hold_error`."""
        self.error = error

    def afterwards(self, do: Callable[[], None]) -> None:
        """See `Relay.afterwards`."""
        self.relay.afterwards(do)

    async def release(self, content: Content, inspections: Sequence[Inspection]) -> tuple[Finding, ...]:
        """Look at what is held and send it on; tells what was found. Raises `Blocked`: then nothing is sent."""
        if not self.status:
            return ()
        body, findings = await look_at_body(content, inspections, self.content_type, bytes(self._body))
        headers = {name: value for name, value in self.headers.items() if name.lower() != _LENGTH}
        await self.relay.begin(self.status, {**headers, _LENGTH: str(len(body))} if self._has_length() else headers)
        self.relay.hold(body)
        if self.error is not None:
            self.relay.hold_error(self.error)
        return findings

    def _has_length(self) -> bool:
        return any(name.lower() == _LENGTH for name in self.headers)


async def look_at_body(
    content: Content, inspections: Sequence[Inspection], content_type: str, body: bytes
) -> tuple[bytes, tuple[Finding, ...]]:
    """One HTTP body, byte for byte as it came where nothing is masked. Raises `Blocked`."""
    if content_type.startswith("text/event-stream"):
        return await _look_at_events(content, inspections, body)
    value = _parsed(body)
    looked = await content.look(inspections, Stage.RESULTS, value)
    if looked.value is value:
        return body, looked.findings
    edited = looked.value.encode() if isinstance(value, str) else dump(looked.value)
    return edited, looked.findings


def _parsed(body: bytes) -> Any:
    """JSON as a value, other text as one text; of anything else the text that stands in it."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")


async def _look_at_events(
    content: Content, inspections: Sequence[Inspection], body: bytes
) -> tuple[bytes, tuple[Finding, ...]]:
    events, rest = split(body)
    events += [event_of(rest)] if rest else []
    texts: dict[object, list[tuple[Event, Path, str]]] = {}
    for event in events:
        for path, text, goes_on in event.parts():
            texts.setdefault(goes_on or (id(event), path), []).append((event, path, text))
    joined = {str(number): "".join(text for _, _, text in pieces) for number, pieces in enumerate(texts.values())}
    looked = await content.look(inspections, Stage.RESULTS, joined)
    if looked.value is joined:
        return body, looked.findings
    for number, pieces in enumerate(texts.values()):
        masked = looked.value[str(number)]
        if masked != joined[str(number)]:
            _put(pieces, masked)
    return b"".join(event.encoded() for event in events), looked.findings


def _put(pieces: Sequence[tuple[Event, Path, str]], text: str) -> None:
    """Give the first of these places all of the text and the others nothing."""
    for event, path, _ in pieces:
        event.put(path, text)
        text = ""
