"""One operation of a plain HTTP API as a tool: its definition for agents, and the request that a call of it becomes.

Where an argument goes is written down once, when the operation is read; a call only fills in. Values enter a path
percent-encoded as one segment, so none of them can lead anywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

from mcp_gateway.domain import NOTHING, Json
from mcp_gateway.errors import BadArguments, BadRequest
from mcp_gateway.jsonrpc import dump
from mcp_gateway.rest.matching import Method
from mcp_gateway.rest.paths import canonical_segment

Where = Literal["path", "query", "header", "body"]

BODY: Final = "body"
"""The argument that becomes the request's body."""
JSON_TYPE: Final = "application/json"
FORM_TYPE: Final = "application/x-www-form-urlencoded"

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
REPEATABLE: Final = _READS | {"PUT", "DELETE"}
"""RFC 9110 section 9.2.2."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument and where it goes."""

    argument: str
    name: str
    """What the API calls it."""
    where: Where
    is_required: bool
    schema: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    description: str = ""
    style: str = "form"
    """Of lists and objects in a query (OpenAPI 3 "style"): form, spaceDelimited, pipeDelimited or deepObject."""
    explode: bool = True


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One request, without its origin and its credential."""

    method: str
    path: str
    """Canonical."""
    query: str
    headers: Mapping[str, str]
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path."""

    name: str
    """The tool's."""
    method: Method
    template: str
    """The path with `{parameters}`."""
    parameters: tuple[Parameter, ...] = ()
    body_type: str = ""
    """The media type of its body; empty: it takes none."""
    description: str = ""
    title: str = ""
    definitions: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    """Schemas that the parameters' refer to, as `$defs`."""
    is_deprecated: bool = False

    @property
    def is_repeatable(self) -> bool:
        """Whether sending it twice is the same as sending it once."""
        return self.method in REPEATABLE

    def definition(self) -> Json:
        """The tool as `tools/list` says it."""
        words = [self.description or self.title or f"{self.method} {self.template}"]
        if self.is_deprecated:
            words.append("Deprecated by its owner.")
        tool: Json = {
            "name": self.name,
            "description": "\n\n".join(words),
            "inputSchema": self.input_schema(),
            "annotations": {
                "readOnlyHint": self.method in _READS,
                "destructiveHint": self.method == "DELETE",
                "idempotentHint": self.is_repeatable,
                "openWorldHint": True,
            },
        }
        return {**tool, "title": self.title} if self.title else tool

    def call(self, arguments: Mapping[str, Any]) -> HttpCall:
        """The request for these arguments. Raises `BadArguments` for what cannot be put where it belongs."""
        headers: dict[str, str] = {}
        query: list[str] = []
        path, body = self.template, None
        for parameter in self.parameters:
            if parameter.argument not in arguments:
                if parameter.is_required:
                    raise BadArguments(f"{parameter.argument!r} is missing")
                continue
            value = arguments[parameter.argument]
            if parameter.where == "path":
                path = path.replace(f"{{{parameter.name}}}", _segment(parameter, value))
            elif parameter.where == "query":
                query += _query(parameter, value)
            elif parameter.where == "header":
                headers[parameter.name] = _header(parameter, value)
            else:
                body = _body(self.body_type, value)
                headers["Content-Type"] = self.body_type
        return HttpCall(self.method, path, "&".join(query), headers, body)

    def input_schema(self) -> Json:
        """What its arguments have to fit."""
        properties = {each.argument: _described(each) for each in self.parameters}
        schema: Json = {"type": "object", "properties": properties, "additionalProperties": False}
        required = [each.argument for each in self.parameters if each.is_required]
        if required:
            schema["required"] = required
        return {**schema, "$defs": dict(self.definitions)} if self.definitions else schema


def _described(parameter: Parameter) -> Json:
    schema = dict(parameter.schema)
    if parameter.description and "description" not in schema and "$ref" not in schema:
        schema["description"] = parameter.description
    return schema


def _segment(parameter: Parameter, value: Any) -> str:
    try:
        if isinstance(value, list):  # style=simple: a,b,c
            return ",".join(canonical_segment(_text(parameter, item)) for item in value)
        return canonical_segment(_text(parameter, value))
    except BadRequest as e:
        raise BadArguments(f"{parameter.argument!r} cannot stand in a path: {e}") from e


def _query(parameter: Parameter, value: Any) -> Iterator[str]:
    name = quote(parameter.name, safe="")
    if isinstance(value, Mapping):
        pairs = [(key, _text(parameter, item)) for key, item in value.items()]
        if parameter.style == "deepObject":
            yield from (f"{name}%5B{quote(key, safe='')}%5D={quote(item, safe='')}" for key, item in pairs)
        elif parameter.explode:
            yield from (f"{quote(key, safe='')}={quote(item, safe='')}" for key, item in pairs)
        else:
            yield f"{name}=" + ",".join(quote(part, safe="") for pair in pairs for part in pair)
    elif isinstance(value, list):
        items = [quote(_text(parameter, item), safe="") for item in value]
        if parameter.explode:
            yield from (f"{name}={item}" for item in items)
        else:
            yield f"{name}=" + {"spaceDelimited": "%20", "pipeDelimited": "%7C"}.get(parameter.style, ",").join(items)
    else:
        yield f"{name}={quote(_text(parameter, value), safe='')}"


def _header(parameter: Parameter, value: Any) -> str:
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    text = ",".join(_text(parameter, item) for item in items)
    if not (text.isascii() and text.isprintable()):
        raise BadArguments(f"{parameter.argument!r} cannot stand in a header")
    return text


def _body(body_type: str, value: Any) -> bytes:
    if body_type == FORM_TYPE:
        if not isinstance(value, Mapping):
            raise BadArguments(f"{BODY!r} must be an object")
        return urlencode({key: _plain(item) for key, item in value.items()}, doseq=True).encode()
    return dump(value)


def _text(parameter: Parameter, value: Any) -> str:
    if isinstance(value, (Mapping, list)):
        raise BadArguments(f"{parameter.argument!r} is nested deeper than its place can carry")
    return str(_plain(value))


def _plain(value: Any) -> Any:
    """JSON's words for what Python writes otherwise."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return [_plain(item) for item in value] if isinstance(value, list) else value
