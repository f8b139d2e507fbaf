"""Which operation of an OpenAPI document a request is, and its values in the types that the document gives them.

The other way round from `operations`: there arguments become a request, here a request becomes arguments, so that both
are checked against one schema. What is given twice, or is not in the document at all, is refused rather than guessed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import unquote, unquote_plus

import orjson

from mcp_gateway.domain import Json
from mcp_gateway.errors import BadArguments, BadRequest
from mcp_gateway.rest.editing import is_json_type
from mcp_gateway.rest.operations import BODY, FORM_TYPE, Operation, Parameter
from mcp_gateway.rest.paths import canonical_segment

_PART: Final = re.compile(r"([^{}]*)(?:\{([^{}]+)\}([^{}]*))?")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_SPLITS: Final = {"spaceDelimited": re.compile(r"%20|\+"), "pipeDelimited": re.compile(r"\||%7[Cc]")}
_COMMA: Final = re.compile(",")
_MAX_DEPTH: Final = 8
"""Schemas looked through for the type of one value."""

_Segment = tuple[str, str, str]
"""What it begins with, the name of its place (empty: none), what it ends with."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it is sent."""

    method: str
    path: str
    """Canonical."""
    query: str
    headers: Mapping[str, str]
    """By name in lower case: those that pass."""
    body: bytes
    json: Any
    """The body parsed, where it is JSON."""


class Described:
    """The operations of one document, found by method and path."""

    def __init__(self, operations: Iterable[Operation], passes: Callable[[str], bool]) -> None:
        """`passes`: whether an agent's header, its name in lower case, gets to the API; no other can be asked for."""
        self._by_length: dict[tuple[str, int], list[tuple[list[_Segment], Operation]]] = defaultdict(list)
        for operation in operations:
            segments = _segments(operation.template)
            if segments is not None:
                kept = tuple(
                    each for each in operation.parameters if each.where != "header" or passes(each.name.lower())
                )
                place = self._by_length[operation.method, len(segments)]
                place.append((segments, replace(operation, parameters=kept)))
        for found in self._by_length.values():
            # OpenAPI 3.1, "Paths Object": what is written out goes before what has places.
            found.sort(key=lambda pair: [bool(name) for _, name, _ in pair[0]])

    def find(self, method: str, path: str) -> tuple[Operation, Mapping[str, str]] | None:
        """The operation, with what stands in the places of its path, percent-encoded. A HEAD asks what a GET would."""
        texts = path[1:].split("/")
        for segments, operation in self._by_length.get((method, len(texts)), ()):
            places = _places_in(segments, texts)
            if places is not None:
                return operation, places
        return self.find("GET", path) if method == "HEAD" else None


def arguments_of(operation: Operation, places: Mapping[str, str], sent: Sent) -> Json:
    """The request as arguments of the operation. Raises `BadArguments` for what the document has no place for."""
    query = _Query(sent.query)
    found: Json = {}
    for parameter in operation.parameters:
        value = _NOTHING
        if parameter.where == "path":
            value = _simple(parameter, operation, places[parameter.name])
        elif parameter.where == "query":
            value = query.take(parameter, operation)
        elif parameter.where == "header" and (written := sent.headers.get(parameter.name.lower())) is not None:
            value = _simple(parameter, operation, written, decode=str.strip)
        if value is not _NOTHING:
            found[parameter.argument] = value
    query.check_nothing_is_left()
    return {**found, **_body(operation, sent)}


_NOTHING: Final = object()


def _segments(template: str) -> list[_Segment] | None:
    """None for a path that is not read: two places in one segment, or of one name, could be read in two ways."""
    found = []
    for text in template[1:].split("/"):
        match = _PART.fullmatch(text)
        if match is None:
            return None
        try:
            before, after = (canonical_segment(unquote(part)) if part else "" for part in (match[1], match[3]))
        except BadRequest:
            return None
        found.append((before, match[2] or "", after))
    names = [name for _, name, _ in found if name]
    return found if len(set(names)) == len(names) else None


def _places_in(segments: list[_Segment], texts: list[str]) -> Mapping[str, str] | None:
    places = {}
    for (before, name, after), text in zip(segments, texts, strict=True):
        if not name:
            if text != before:
                return None
            continue
        is_longer = len(text) > len(before) + len(after)
        if not (is_longer and text.startswith(before) and text.endswith(after)):
            return None
        places[name] = text[len(before) : len(text) - len(after)]
    return places


class _Query:
    """The parameters of a query, each of which is taken once."""

    def __init__(self, query: str) -> None:
        self._left: dict[str, list[str]] = {}
        for part in query.split("&"):
            if part:
                name, _, value = part.partition("=")
                self._left.setdefault(unquote_plus(name), []).append(value)

    def take(self, parameter: Parameter, operation: Operation) -> Any:
        """The value of a parameter; `_NOTHING` where it is not there."""
        kinds = _kinds(parameter.schema, operation)
        if "object" in kinds and (parameter.style == "deepObject" or parameter.explode):
            return self._members(parameter, operation)
        raw = self._left.pop(parameter.name, None)
        if raw is None:
            return _NOTHING
        if "array" in kinds and parameter.explode:
            return [_typed(unquote_plus(item), _items(parameter.schema, operation), operation) for item in raw]
        if len(raw) > 1:
            raise BadArguments(f"{parameter.name[:100]!r} is given more than once")
        return _simple(parameter, operation, raw[0], decode=unquote_plus)

    def check_nothing_is_left(self) -> None:
        """Raises `BadArguments` for a parameter that is not in the document."""
        if self._left:
            raise BadArguments(f"the query has no parameter {min(self._left)[:100]!r}")

    def _members(self, parameter: Parameter, operation: Operation) -> Any:
        schemas = _resolved(parameter.schema, operation).get("properties")
        schemas = schemas if isinstance(schemas, dict) else {}
        if parameter.style == "deepObject":
            prefix = f"{parameter.name}["
            names = {each: each[len(prefix) : -1] for each in self._left if each.startswith(prefix) and each[-1] == "]"}
        else:
            names = {each: each for each in self._left if each in schemas}
        found = {}
        for name, member in names.items():
            [value, *more] = self._left.pop(name)
            if more:
                raise BadArguments(f"{name[:100]!r} is given more than once")
            found[member] = _typed(unquote_plus(value), schemas.get(member, {}), operation)
        return found or _NOTHING


def _simple(parameter: Parameter, operation: Operation, raw: str, decode: Callable[[str], str] = unquote) -> Any:
    """One text as the value it stands for; lists and objects are cut before they are decoded."""
    kinds = _kinds(parameter.schema, operation)
    parts = [decode(part) for part in _SPLITS.get(parameter.style, _COMMA).split(raw)]
    if "array" in kinds:
        return [_typed(part, _items(parameter.schema, operation), operation) for part in parts]
    if "object" in kinds:
        schemas = _resolved(parameter.schema, operation).get("properties", {})
        pairs = zip(parts[::2], parts[1::2], strict=False)
        return {name: _typed(value, schemas.get(name, {}), operation) for name, value in pairs}
    return _typed(decode(raw), parameter.schema, operation)


def _body(operation: Operation, sent: Sent) -> Json:
    if not sent.body:
        return {}
    if not operation.body_type:
        raise BadArguments("a body is nothing that this operation takes")
    kind = sent.headers.get("content-type", "").partition(";")[0].strip().lower()
    if operation.body_type == FORM_TYPE and kind == FORM_TYPE:
        return {BODY: _form(operation, sent.body)}
    if operation.body_type == FORM_TYPE or not is_json_type(kind):
        raise BadArguments(f"the body has to be {operation.body_type}")
    return {BODY: sent.json}


def _form(operation: Operation, body: bytes) -> Json:
    schema = next((each.schema for each in operation.parameters if each.where == "body"), {})
    schemas = _resolved(schema, operation).get("properties", {})
    found: dict[str, list[Any]] = {}
    for part in body.decode("latin-1").split("&"):
        name, _, value = part.partition("=")
        member = schemas.get(unquote_plus(name), {})
        item = _items(member, operation) if "array" in _kinds(member, operation) else member
        found.setdefault(unquote_plus(name), []).append(_typed(unquote_plus(value), item, operation))
    lists = {name for name, member in schemas.items() if "array" in _kinds(member, operation)}
    return {name: values if name in lists or len(values) > 1 else values[0] for name, values in found.items()}


def _typed(text: str, schema: Any, operation: Operation) -> Any:
    """A text as the number, truth value or null that its schema asks for, if it is one; else as it is."""
    kinds = _kinds(schema, operation)
    if kinds & {"integer", "number"} and len(text) <= 30 and _NUMBER.fullmatch(text):
        return _number(text)
    if "boolean" in kinds and text in ("true", "false"):
        return text == "true"
    return None if "null" in kinds and "string" not in kinds and not text else text


def _number(text: str) -> Any:
    """As JSON has it; one that is too large for that stays a text, which no number's schema takes."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _kinds(schema: Any, operation: Operation, depth: int = 0) -> frozenset[str]:
    """The types that a value may have, as far as the schema says."""
    schema = _resolved(schema, operation)
    said = schema.get("type")
    kinds = set(said if isinstance(said, list) else [said] if isinstance(said, str) else [])
    if depth < _MAX_DEPTH:
        for inner in _inner(schema):
            kinds |= _kinds(inner, operation, depth + 1)
    return frozenset(kind for kind in kinds if isinstance(kind, str))


def _inner(schema: Mapping[str, Any]) -> Iterator[Any]:
    for word in ("anyOf", "oneOf", "allOf"):
        written = schema.get(word)
        yield from written[:16] if isinstance(written, list) else ()


def _items(schema: Any, operation: Operation) -> Any:
    return _resolved(schema, operation).get("items", {})


def _resolved(schema: Any, operation: Operation) -> Mapping[str, Any]:
    """The schema that a reference leads to."""
    for _ in range(_MAX_DEPTH):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str):
            break
        schema = operation.definitions.get(reference.removeprefix("#/$defs/"))
    return schema if isinstance(schema, Mapping) else {}
