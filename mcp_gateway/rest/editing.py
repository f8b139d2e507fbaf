"""What becomes of a request and of its answer on the way, as an operator wrote it down: declarations, never code.

A request is edited before policy is asked, so that what policy judges and the audit keeps is what is sent: the path
as it is rewritten, the query and the body as they are edited. Headers are set after those of the agent were picked by
their list, and no edit reaches a credential or what frames a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote_plus

from mcp_gateway.domain import NOTHING
from mcp_gateway.jsonrpc import dump
from mcp_gateway.rest.headers import NEVER
from mcp_gateway.rest.paths import canonical_path, checked_query
from mcp_gateway.rest.pointers import Edit, EditError, edited

UNTOUCHED: Final = (
    NEVER
    | {"accept-encoding", "content-encoding", "content-type"}
    | {
        "x-gateway-error",
        "x-gateway-request-id",
    }
)
"""Headers that no edit may speak of: credentials, framing, and what says how a body is to be read."""

_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Plain:
    """The parts of a request that edits speak of and policy sees."""

    path: str
    """Canonical."""
    query: str
    body: bytes
    json: Any
    """The body parsed; None: it is no JSON, or none at all."""


@dataclass(frozen=True, slots=True)
class HeaderEdits:
    """Of headers, by their names in lower case: removed first, then set, then added."""

    removed: frozenset[str] = frozenset()
    set: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    added: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """Beside what is there already, after a comma (RFC 9110 section 5.3)."""

    def made_in(self, headers: Mapping[str, str]) -> dict[str, str]:
        """A copy with the edits made.

        >>> HeaderEdits(frozenset({"b"}), {"a": "2"}, {"c": "y"}).made_in({"a": "1", "b": "1", "c": "x"})
        {'a': '2', 'c': 'x, y'}
        """
        kept = {name: value for name, value in headers.items() if name not in self.removed} | dict(self.set)
        return kept | {name: f"{kept[name]}, {value}" if name in kept else value for name, value in self.added.items()}


@dataclass(frozen=True, slots=True)
class QueryEdits:
    """Of query parameters, by their decoded names: removed first, then set, then added."""

    removed: frozenset[str] = frozenset()
    set: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    added: Mapping[str, str] = field(default_factory=lambda: NOTHING)

    def made_in(self, query: str) -> str:
        """The query with the edits made; what none speaks of stays byte for byte.

        >>> QueryEdits(frozenset({"debug"}), {"limit": "10"}).made_in("a=%31&%64ebug=1&limit=1000")
        'a=%31&limit=10'
        """
        gone = self.removed | self.set.keys()
        kept = [part for part in query.split("&") if part and unquote_plus(part.partition("=")[0]) not in gone]
        pairs = [*self.set.items(), *self.added.items()]
        return "&".join([*kept, *(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)])


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A path that begins with `old` begins with `new` when it is sent; a `{place}` is one segment, kept."""

    old: tuple[str, ...]
    """Segments."""
    new: tuple[str, ...]

    def of(self, path: str) -> str:
        """The path as it is sent; as it is where it begins otherwise.

        >>> Rewrite(("v1", "of", "{id}"), ("v2", "{id}")).of("/v1/of/7/lines")
        '/v2/7/lines'
        """
        segments = path[1:].split("/")
        places = self._places_in(segments)
        if places is None:
            return path
        rest = segments[len(self.old) :]
        return "/" + "/".join([*(places.get(segment, segment) for segment in self.new), *rest])

    def _places_in(self, segments: list[str]) -> Mapping[str, str] | None:
        if len(segments) < len(self.old):
            return None
        places: dict[str, str] = {}
        for ours, theirs in zip(self.old, segments, strict=False):
            if is_place(ours) and theirs:
                places[ours] = theirs
            elif ours != theirs:
                return None
        return places


@dataclass(frozen=True, slots=True)
class RequestEdits:
    """Everything that becomes of a request."""

    headers: HeaderEdits = field(default_factory=HeaderEdits)
    query: QueryEdits = field(default_factory=QueryEdits)
    body: tuple[Edit, ...] = ()
    rewrite: Rewrite | None = None

    def made_in(self, method: str, asked: Plain) -> tuple[Plain, str]:
        """The request as it is sent; and why it cannot be, where the body is not one that the edits speak of: it is
        as it was then. Raises `BadRequest` for what has no one spelling any more."""
        path = asked.path if self.rewrite is None else canonical_path(self.rewrite.of(asked.path).encode())
        query = asked.query
        if self.query != _NO_QUERY_EDITS:
            query = checked_query(self.query.made_in(asked.query).encode())
        try:
            body, json = self._body_of(method, asked)
        except EditError as e:
            return Plain(path, query, asked.body, asked.json), str(e)
        return Plain(path, query, body, json), ""

    def _body_of(self, method: str, asked: Plain) -> tuple[bytes, Any]:
        if not self.body or (not asked.body and method in _WITHOUT_BODY):
            return asked.body, asked.json
        if asked.json is None:
            # What is meant to be put in or taken out must not be got around by sending another kind of body.
            raise EditError("the body has to be JSON")
        return _edited(asked.json, self.body)


@dataclass(frozen=True, slots=True)
class AnswerEdits:
    """Everything that becomes of an answer."""

    headers: HeaderEdits = field(default_factory=HeaderEdits)
    body: tuple[Edit, ...] = ()
    """Of JSON with a 2xx status."""

    def body_of(self, value: Any) -> bytes:
        """A body as the agent gets it. Raises `EditError`."""
        return _edited(value, self.body)[0]


def is_json_type(content_type: str) -> bool:
    """Whether a body of this media type is JSON.

    >>> is_json_type("application/problem+json; charset=utf-8")
    True
    """
    kind = content_type.partition(";")[0].strip().lower()
    return kind in ("application/json", "text/json") or kind.endswith("+json")


def is_place(segment: str) -> bool:
    """Whether a segment stands for any one."""
    return segment.startswith("{") and segment.endswith("}")


def _edited(value: Any, edits: tuple[Edit, ...]) -> tuple[bytes, Any]:
    made = edited(value, edits)
    try:
        return dump(made), made
    except TypeError as e:
        raise EditError("the body is nested too deeply") from e


_NO_QUERY_EDITS: Final = QueryEdits()
NO_REQUEST_EDITS: Final = RequestEdits()
NO_ANSWER_EDITS: Final = AnswerEdits()
