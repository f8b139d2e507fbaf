"""The way back of a request whose route says something about answers: headers as they are edited, JSON bodies too.

A body that is to be edited is held until it is whole, and an answer that cannot be edited as it was written down does
not pass at all: what is taken out must not be got around.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from anyio import CancelScope

from mcp_gateway.domain import Relay
from mcp_gateway.errors import BadRequest, Misbehaved
from mcp_gateway.jsonrpc import parse
from mcp_gateway.rest.editing import is_json_type
from mcp_gateway.rest.lifecycle import with_life
from mcp_gateway.rest.pointers import EditError
from mcp_gateway.rest.routing import Route

_OF_THE_BODY_BEFORE: Final = ("etag", "last-modified", "accept-ranges", "content-length", "digest", "content-digest")
"""Headers that speak of the body as the API sent it: conditional requests would compare the wrong one."""


class EditedRelay:
    """A `Relay` in front of another one."""

    def __init__(self, relay: Relay, route: Route, upstream: str, max_bytes: int) -> None:
        self.scope: CancelScope = relay.scope
        self._relay = relay
        self._route = route
        self._upstream = upstream
        self._room = max_bytes
        self._head: tuple[int, dict[str, str]] | None = None
        """While the body is held."""
        self._body = bytearray()

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """See `Relay.begin`. Raises `Misbehaved` for a part of a body that is to be edited as a whole."""
        edits = self._route.answer
        told = with_life({name.lower(): value for name, value in headers.items()}, self._route.life)
        made = edits.headers.made_in(told)
        if not (edits.body and 200 <= status < 300 and _is_json(headers)):
            await self._relay.begin(status, made)
            return
        if status == 206:
            raise self._uneditable("a part of a body")
        self._head = status, {name: value for name, value in made.items() if name not in _OF_THE_BODY_BEFORE}

    async def write(self, piece: bytes) -> None:
        """See `Relay.write`. Raises `Misbehaved` for a body that is too long to be held."""
        if self._head is None:
            await self._relay.write(piece)
        else:
            self._keep(piece)

    def hold(self, piece: bytes) -> None:
        """See `Relay.hold`."""
        if self._head is None:
            self._relay.hold(piece)
        else:
            self._keep(piece)

    def hold_error(self, error: Exception) -> None:
        """See `Relay.hold_error`."""
        self._relay.hold_error(error)

    def afterwards(self, do: Callable[[], None]) -> None:
        """See `Relay.afterwards`."""
        self._relay.afterwards(do)

    async def end(self) -> None:
        """The body is whole: edit and pass on what was held. Raises `Misbehaved` where it cannot be edited."""
        if self._head is None:
            return
        head, self._head = self._head, None
        body = self._edited(bytes(self._body))
        await self._relay.begin(*head)
        self._relay.hold(body)

    def _edited(self, body: bytes) -> bytes:
        if not body:
            return body  # HEAD
        try:
            return self._route.answer.body_of(parse(body))
        except (BadRequest, EditError) as e:
            raise self._uneditable(str(e)) from e

    def _keep(self, piece: bytes) -> None:
        self._room -= len(piece)
        if self._room < 0:
            raise self._uneditable("too long a body")
        self._body += piece

    def _uneditable(self, why: str) -> Misbehaved:
        return Misbehaved(self._upstream, f"{self._upstream!r} answered with what cannot be edited: {why}")


def _is_json(headers: Mapping[str, str]) -> bool:
    return is_json_type(next((value for name, value in headers.items() if name.lower() == "content-type"), ""))
