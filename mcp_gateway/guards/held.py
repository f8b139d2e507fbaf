"""An HTTP answer that is held back until it has been looked at, and goes on edited, as it came, or not at all.

Only where a guard of the policy speaks of results: everything else is relayed as it comes. A stream of events keeps its
events; text that is spread over several of them is looked at as one, and where something is masked in it the first of
them carries all of the text, so that nothing is found by cutting a secret in two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from anyio import CancelScope

from mcp_gateway.domain import Finding, Inspection, Relay, Stage, Target
from mcp_gateway.errors import Misbehaved
from mcp_gateway.guards.content import Content
from mcp_gateway.jsonrpc import dump

_PIECES: Final = frozenset(
    {"content", "text", "delta", "arguments", "partial_json", "refusal", "thinking", "reasoning_content"}
)
"""Members of streamed events that hold a piece of a longer text, in any of the models' wires."""
_WHICH: Final = ("index", "output_index", "content_index", "item_id", "summary_index")
"""Members of an event that say which text it goes on with."""
_LENGTH: Final = "content-length"

Path = tuple[str | int, ...]


class HeldRelay:
    """A `Relay` that keeps what it is given. `release` sends it on."""

    def __init__(self, relay: Relay, target: Target, max_bytes: int) -> None:
        self.scope: CancelScope = relay.scope
        self._relay = relay
        self._target = target
        self._room = max_bytes
        self._status = 0
        self._headers: Mapping[str, str] = {}
        self._body = bytearray()
        self._error: Exception | None = None

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """See `Relay.begin`."""
        self._status, self._headers = status, headers

    async def write(self, piece: bytes) -> None:
        """See `Relay.write`. Raises `Misbehaved` for an answer that is too long to be held."""
        self.hold(piece)

    def hold(self, piece: bytes) -> None:
        """See `Relay.hold`. Raises `Misbehaved` for an answer that is too long to be held."""
        self._room -= len(piece)
        if self._room < 0:
            message = f"{self._target.public_name} answered with more than a guard can look at"
            raise Misbehaved(self._target.upstream, message)
        self._body += piece

    def hold_error(self, error: Exception) -> None:
        """See `Relay.hold_error`."""
        self._error = error

    def afterwards(self, do: Callable[[], None]) -> None:
        """See `Relay.afterwards`."""
        self._relay.afterwards(do)

    async def release(self, content: Content, inspections: Sequence[Inspection]) -> tuple[Finding, ...]:
        """Look at what is held and send it on; tells what was found. Raises `Blocked`: then nothing is sent."""
        if not self._status:
            return ()
        body, findings = await look_at_body(content, inspections, self._headers, bytes(self._body))
        headers = {name: value for name, value in self._headers.items() if name.lower() != _LENGTH}
        await self._relay.begin(self._status, {**headers, _LENGTH: str(len(body))} if self._has_length() else headers)
        self._relay.hold(body)
        if self._error is not None:
            self._relay.hold_error(self._error)
        return findings

    def _has_length(self) -> bool:
        return any(name.lower() == _LENGTH for name in self._headers)


async def look_at_body(
    content: Content, inspections: Sequence[Inspection], headers: Mapping[str, str], body: bytes
) -> tuple[bytes, tuple[Finding, ...]]:
    """One HTTP body, byte for byte as it came where nothing is masked. Raises `Blocked`."""
    kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    if kind.startswith("text/event-stream"):
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


@dataclass(slots=True)
class _Event:
    """One event of a stream."""

    raw: bytes
    json: Any
    """Its parsed data; None: it holds none."""
    is_edited: bool = False

    def encoded(self) -> bytes:
        """As it goes on: other lines than the data stay."""
        if not self.is_edited:
            return self.raw
        lines = [line for line in self.raw.split(b"\n") if not line.startswith(b"data:")]
        return b"\n".join([*(line for line in lines if line), b"data: " + dump(self.json)])


async def _look_at_events(
    content: Content, inspections: Sequence[Inspection], body: bytes
) -> tuple[bytes, tuple[Finding, ...]]:
    events = [_Event(raw, _data_of(raw)) for raw in body.replace(b"\r\n", b"\n").split(b"\n\n")]
    texts: dict[object, list[tuple[_Event, Path]]] = {}
    for event in events:
        for path, _ in _texts(event.json):
            texts.setdefault(_text_of(event, path), []).append((event, path))
    joined = {str(number): "".join(_at(*place) for place in places) for number, places in enumerate(texts.values())}
    looked = await content.look(inspections, Stage.RESULTS, joined)
    if looked.value is joined:
        return body, looked.findings
    for number, places in enumerate(texts.values()):
        if looked.value[str(number)] != joined[str(number)]:
            _put(places, looked.value[str(number)])
    return b"\n\n".join(event.encoded() for event in events), looked.findings


def _data_of(raw: bytes) -> Any:
    lines = [line[5:].strip() for line in raw.split(b"\n") if line.startswith(b"data:")]
    try:
        return orjson.loads(b"\n".join(lines)) if lines else None
    except orjson.JSONDecodeError:
        return None


def _texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from _texts(member, (*path, key))


def _text_of(event: _Event, path: Path) -> object:
    """Which text the one at `path` is a piece of; by itself where it is whole."""
    if path and path[-1] in _PIECES and isinstance(event.json, dict):
        # A final event repeats the whole text under the same name; its type tells it from the pieces.
        return (path, event.json.get("type"), *(event.json.get(name) for name in _WHICH))
    return (id(event), path)


def _at(event: _Event, path: Path) -> str:
    value = event.json
    for key in path:
        value = value[key]
    return str(value)


def _put(places: Sequence[tuple[_Event, Path]], text: str) -> None:
    """Give the first of these places all of the text and the others nothing."""
    for event, path in places:
        value = event.json
        for key in path[:-1]:
            value = value[key]
        if path:
            value[path[-1]] = text
        else:
            event.json = text
        event.is_edited = True
        text = ""
