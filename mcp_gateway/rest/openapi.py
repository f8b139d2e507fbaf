"""An OpenAPI 3 document read as tools: only operations that are asked for, and nothing it says is taken on trust.

The document comes from somebody else. It chooses neither host nor credential (`servers` and `security` are not read),
refers only to itself (a `$ref` that leads elsewhere is refused), is bounded in size, and names that collide are refused
rather than resolved. What cannot be offered is left out and named, the rest stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import orjson
import yaml

from mcp_gateway.domain import Json
from mcp_gateway.rest.matching import Method
from mcp_gateway.rest.operations import BODY, FORM_TYPE, JSON_TYPE, Operation, Parameter, Where

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_OPERATIONS: Final = 5_000
MAX_REFS: Final = 64
"""References behind one another."""
MAX_NODES: Final = 200_000
"""Values in the schemas of one operation."""

_METHODS: Final = ("get", "head", "post", "put", "patch", "delete", "options")
_BODY_TYPES: Final = (JSON_TYPE, FORM_TYPE)
_NOT_A_NAME: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_TEMPLATE: Final = re.compile(r"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/%]|\{[^{}/]{1,100}\})*")
_PLACE: Final = re.compile(r"\{([^{}]+)\}")
_SCHEMAS: Final = "#/components/schemas/"
_OURS: Final = frozenset(
    {"host", "authorization", "cookie", "content-length", "content-type", "accept", "connection", "te", "upgrade"}
    | {
        "transfer-encoding",
        "trailer",
        "expect",
        "proxy-authorization",
        "x-forwarded-for",
        "x-forwarded-host",
        "forwarded",
    }
)
"""Headers that no argument may set."""


class NotOpenApiError(ValueError):
    """A document that cannot be read at all."""


class _LeftOutError(Exception):
    """One operation that cannot be offered; the message says why."""


@dataclass(frozen=True, slots=True)
class Api:
    """What a document offers."""

    operations: tuple[Operation, ...]
    problems: tuple[str, ...]
    """Operations that were left out, and why."""
    title: str = ""
    version: str = ""


def read_openapi(text: bytes, admits: Any) -> Api:
    """The operations for which `admits(method, path template)` is true. Raises `NotOpenApiError`."""
    document = _document(text)
    info = document.get("info") if isinstance(document.get("info"), dict) else {}
    found: dict[str, Operation] = {}
    refused: set[str] = set()
    problems: list[str] = []
    for place, method, template, item, written in _written(document):
        if not admits(method, template):
            continue
        try:
            operation = _operation(document, method, template, item, written)
        except _LeftOutError as e:
            problems.append(f"{place}: left out: {e}")
            continue
        if operation.name in found or operation.name in refused:
            problems.append(f"{place}: left out: another operation is called {operation.name!r} too")
            found.pop(operation.name, None)
            refused.add(operation.name)
            continue
        if len(found) == MAX_OPERATIONS:
            problems.append(f"more than {MAX_OPERATIONS} operations: the rest is left out")
            break
        found[operation.name] = operation
    title, version = str(cast(Json, info).get("title", ""))[:200], str(cast(Json, info).get("version", ""))[:50]
    return Api(tuple(found.values()), tuple(problems), title, version)


class _Loader(yaml.SafeLoader):
    """YAML without aliases: a few of them can stand for more values than fit into memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise NotOpenApiError("it uses YAML aliases (*name), which are not read: write the part out")
        return super().compose_node(parent, index)


def _document(text: bytes) -> Json:
    if len(text) > MAX_BYTES:
        raise NotOpenApiError(f"it is longer than {MAX_BYTES} bytes")
    try:
        document = orjson.loads(text) if text.lstrip()[:1] == b"{" else yaml.load(text, _Loader)  # noqa: S506 - is safe
    except (orjson.JSONDecodeError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        raise NotOpenApiError(f"it is neither JSON nor YAML: {str(e).splitlines()[0]}") from e
    if not isinstance(document, dict) or not str(document.get("openapi", "")).startswith("3."):
        raise NotOpenApiError("it is no OpenAPI 3 document ('openapi: 3.x' is missing)")
    return document


def _written(document: Json) -> Iterator[tuple[str, Method, str, Json, Json]]:
    paths = document.get("paths")
    for template, item in paths.items() if isinstance(paths, dict) else ():
        for key in _METHODS:
            written = item.get(key) if isinstance(item, dict) else None
            if isinstance(written, dict) and isinstance(template, str):
                method = cast(Method, key.upper())
                yield f"{method} {template[:200]}", method, template, item, written


def _operation(document: Json, method: Method, template: str, item: Json, written: Json) -> Operation:
    segments = template[1:].split("/")
    if not _TEMPLATE.fullmatch(template) or "" in segments[:-1] or {".", ".."} & set(segments):
        raise _LeftOutError("its path is none")
    schemas = _Schemas(document)
    parameters = _parameters(document, schemas, item, written)
    missing = set(_PLACE.findall(template)) ^ {each.name for each in parameters if each.where == "path"}
    if missing:
        raise _LeftOutError(f"its path and its path parameters do not fit: {', '.join(sorted(missing))}")
    body, body_type = _body(document, schemas, written)
    return Operation(
        name=_name(method, template, written),
        method=method,
        template=template,
        parameters=(*parameters, *([body] if body is not None else [])),
        body_type=body_type,
        description=_text(written.get("description"), 4000),
        title=_text(written.get("summary"), 200),
        definitions=schemas.reached,
        is_deprecated=written.get("deprecated") is True,
    )


def _name(method: str, template: str, written: Json) -> str:
    said = written.get("operationId")
    name = _NOT_A_NAME.sub("_", said if isinstance(said, str) else f"{method.lower()}{template}").strip("_.-")
    if not name or len(name) > 128:
        raise _LeftOutError("it has no operationId that could be a tool's name")
    return name


def _parameters(document: Json, schemas: _Schemas, item: Json, written: Json) -> tuple[Parameter, ...]:
    declared: dict[tuple[str, str], Json] = {}
    for source in (item.get("parameters"), written.get("parameters")):
        for each in source if isinstance(source, list) else ():
            resolved = _resolved(document, each)
            declared[str(resolved.get("in")), str(resolved.get("name"))] = resolved
    found: dict[str, Parameter] = {}
    for (where, name), each in declared.items():
        parameter = _parameter(schemas, where, name, each, taken={*found, BODY})
        if parameter is not None:
            found[parameter.argument] = parameter
    return tuple(found.values())


def _parameter(schemas: _Schemas, where: str, name: str, written: Json, taken: set[str]) -> Parameter | None:
    is_required = where == "path" or written.get("required") is True
    if where not in ("path", "query", "header") or (where == "header" and name.lower() in _OURS):
        if is_required and where != "header":
            raise _LeftOutError(f"it needs {name!r} in {where}, which is not offered")
        return None  # what the gateway decides itself, or what the API can do without
    if "schema" not in written:
        raise _LeftOutError(f"the parameter {name!r} has no schema")
    style = str(written.get("style", "form" if where == "query" else "simple"))
    return Parameter(
        argument=name if name not in taken else f"{name}__{where}",
        name=name,
        where=cast(Where, where),
        is_required=is_required,
        schema=schemas.read(written["schema"]),
        description=_text(written.get("description"), 1000),
        style=style,
        explode=bool(written.get("explode", style in ("form", "deepObject"))),
    )


def _body(document: Json, schemas: _Schemas, written: Json) -> tuple[Parameter | None, str]:
    if "requestBody" not in written:
        return None, ""
    body = _resolved(document, written["requestBody"])
    content = body.get("content")
    types = {str(key).partition(";")[0].strip().lower(): value for key, value in _object(content).items()}
    body_type = next((each for each in _BODY_TYPES if each in types), None)
    if body_type is None:
        if body.get("required") is True:
            raise _LeftOutError(f"its body is none of {', '.join(_BODY_TYPES)}")
        return None, ""
    schema = schemas.read(_object(types[body_type]).get("schema", {}))
    description = _text(body.get("description"), 1000)
    return Parameter(BODY, BODY, "body", body.get("required") is True, schema, description), body_type


class _Schemas:
    """Schemas of one operation, with what they refer to gathered as `$defs`."""

    def __init__(self, document: Json) -> None:
        self.reached: dict[str, Any] = {}
        self._names: dict[str, str] = {}
        self._document = document
        self._left = MAX_NODES

    def read(self, schema: Any) -> Any:
        """A copy in which references lead into `$defs`. Raises `_LeftOutError`."""
        self._left -= 1
        if self._left < 0:
            raise _LeftOutError("its schemas are too large")
        if isinstance(schema, list):
            return [self.read(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return {"$ref": self._reach(reference)}
        return _json_schema({key: self.read(value) for key, value in schema.items()})

    def _reach(self, reference: str) -> str:
        if not reference.startswith(_SCHEMAS):
            raise _LeftOutError(f"it refers to {reference[:100]!r}: only {_SCHEMAS}NAME of the same document is read")
        name = reference.removeprefix(_SCHEMAS)
        if name not in self._names:
            known = _object(_object(self._document.get("components")).get("schemas"))
            if name not in known:
                raise _LeftOutError(f"it refers to {reference[:100]!r}, which is not there")
            ours = _NOT_A_NAME.sub("_", name)
            while ours in self.reached:
                ours += "_"
            self._names[name] = ours
            self.reached[ours] = {}  # it may refer to itself
            self.reached[ours] = self.read(known[name])
        return f"#/$defs/{self._names[name]}"


def _json_schema(schema: Json) -> Json:
    """OpenAPI 3.0's own words in those of JSON Schema 2020-12."""
    schema = {
        key: value for key, value in schema.items() if key not in ("example", "xml", "externalDocs", "discriminator")
    }
    if schema.pop("nullable", False) is True and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
        if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if schema.get(exclusive) is True and bound in schema:
            schema[exclusive] = schema.pop(bound)
        elif isinstance(schema.get(exclusive), bool):
            del schema[exclusive]
    return schema


def _resolved(document: Json, value: Any) -> Json:
    """An object, or the one it refers to in the same document. Raises `_LeftOutError`."""
    for _ in range(MAX_REFS):
        reference = value.get("$ref") if isinstance(value, dict) else None
        if reference is None:
            return _object(value)
        if not isinstance(reference, str) or not reference.startswith("#/"):
            raise _LeftOutError(f"it refers to {str(reference)[:100]!r} outside of the document")
        value = document
        for part in reference[2:].split("/"):
            value = _object(value).get(part.replace("~1", "/").replace("~0", "~"))
    raise _LeftOutError("its references go round in a circle")


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _text(value: Any, length: int) -> str:
    return value.strip()[:length] if isinstance(value, str) else ""
