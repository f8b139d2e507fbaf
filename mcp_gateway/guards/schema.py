"""Arguments against the tool's own input schema, before anything is sent.

JSON Schema 2020-12, or the older dialect that `$schema` declares; `format` is an annotation and is not asserted.
Nothing is ever fetched: a schema that refers to anything outside itself makes its tool uncallable, and says so.
Checking runs in native code that nobody can interrupt, so what it may cost is settled before it starts:
`schema_cost` for the schema, `patterns` for its regular expressions.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jsonschema_rs
from jsonschema_rs import ValidationError, Validator

from mcp_gateway import jsonrpc
from mcp_gateway.domain import Json, Target
from mcp_gateway.errors import BadArguments, Misbehaved, OverLimit
from mcp_gateway.guards import patterns
from mcp_gateway.guards.limits import Size, measure
from mcp_gateway.guards.schema_cost import (
    MAX_CHECKS,
    Bound,
    Cost,
    Graph,
    Node,
    UnusableSchemaError,
    bound,
    check_extent,
    checking_cost,
    naming_cost,
)

MAX_VIOLATIONS: Final = 5
MAX_SCHEMA_BYTES: Final = 512 * 1024
MAX_PATTERNS_VOLUME: Final = 16_000
"""Of all patterns of a schema together: about 4 us each to compile."""
MAX_DETAILED_CHECKS: Final = 5_000
"""Naming a violation costs up to 17 us for each check; beyond this only the verdict is given."""
DEFAULT_KEPT: Final = 2_000

_SHOWN: Final = 120  # characters of a value in a message
_GIST_OF_ALTERNATIVES: Final = 4
_ABOUT_MEMBERS: Final = ("required", "additionalProperties", "unevaluatedProperties")  # named in the message already
_NO_ARGUMENTS: Final[Mapping[str, Any]] = {"type": "object"}

_DIALECTS: Final[Mapping[str, type[Validator]]] = {
    "https://json-schema.org/draft/2020-12/schema": jsonschema_rs.Draft202012Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema_rs.Draft201909Validator,
    "http://json-schema.org/draft-07/schema": jsonschema_rs.Draft7Validator,
    "http://json-schema.org/draft-06/schema": jsonschema_rs.Draft6Validator,
    "http://json-schema.org/draft-04/schema": jsonschema_rs.Draft4Validator,
}
_DIALECTS_WITHOUT_IF: Final = (jsonschema_rs.Draft6Validator, jsonschema_rs.Draft4Validator)


@dataclass(frozen=True, slots=True)
class Compiled:
    """One schema, ready to check against."""

    validator: Validator
    checks: Bound
    violations: Bound
    volume: int
    """Of all patterns that can meet one text."""
    reach: int | None
    """The longest text that any of those patterns meets; None: any."""

    def check(self, arguments: Json, size: Size) -> list[str]:
        """What is wrong with the arguments, at most `MAX_VIOLATIONS` lines; empty when they fit.

        Raises `OverLimit` for arguments that would take too long to check.
        """
        if self.checks.work(size) > MAX_CHECKS or self._text_work(size) > patterns.MAX_WORK:
            raise OverLimit("there is too much in these arguments to check them against the tool's schema: send less")
        if self.validator.is_valid(arguments) or self._is_valid_but_for_nulls(arguments):
            return []
        if self.violations.work(size) > MAX_DETAILED_CHECKS:
            return ["somewhere in them; they are too large to say where"]
        return _described(list(self.validator.iter_errors(arguments)))

    def _is_valid_but_for_nulls(self, arguments: Json) -> bool:
        """Many agents write null for an argument they leave out, and SEP-2243 takes it for the same; they are sent as
        they are, so what a null means is the upstream's to say."""
        given = {name: value for name, value in arguments.items() if value is not None}
        return len(given) < len(arguments) and self.validator.is_valid(given)

    def _text_work(self, size: Size) -> int:
        if not self.volume:
            return 0
        return self.volume * sum(length for length in size.texts if self.reach is None or length <= self.reach)


class Schemas:
    """Compiled schemas, the most recently used ones kept."""

    def __init__(self, kept: int = DEFAULT_KEPT) -> None:
        self._kept = kept
        self._by_hash: OrderedDict[str, tuple[Any, Compiled | UnusableSchemaError]] = OrderedDict()

    def check_arguments(self, target: Target, arguments: Mapping[str, Any], size: Size | None = None) -> None:
        """Refuse arguments that the tool's own schema refuses; `size` is `measure(arguments)` where known.

        Raises `BadArguments` with each violation's place, rule and value; `OverLimit` where checking would take too
        long; `Misbehaved` for a tool whose schema cannot be used, saying why.
        """
        compiled = self._compiled(target)
        if isinstance(compiled, UnusableSchemaError):
            message = f"{target.public_name} cannot be called: its input schema {compiled}"
            raise Misbehaved(target.upstream, message)
        values = arguments if isinstance(arguments, dict) else dict(arguments)
        if violations := compiled.check(values, size or measure(values)):
            lines = "\n".join(f"- {violation}" for violation in violations)
            raise BadArguments(f"the arguments do not fit the input schema of {target.public_name}:\n{lines}")

    def _compiled(self, target: Target) -> Compiled | UnusableSchemaError:
        schema = target.raw.get("inputSchema", _NO_ARGUMENTS)
        found = self._by_hash.get(target.definition_hash)
        # The hash covers the whole definition, but it came with the target; comparing identities costs nothing.
        if found is not None and found[0] is schema:
            self._by_hash.move_to_end(target.definition_hash)
            return found[1]
        compiled = found[1] if found is not None and found[0] == schema else _compiled_or_why_not(schema)
        self._by_hash[target.definition_hash] = (schema, compiled)
        self._by_hash.move_to_end(target.definition_hash)
        while len(self._by_hash) > self._kept:
            self._by_hash.popitem(last=False)
        return compiled


def compile_schema(schema: Any) -> Compiled:
    """Compile a schema within bounds (about 100 ms at worst). Raises `UnusableSchemaError`, which says why not."""
    if not isinstance(schema, dict):
        raise UnusableSchemaError("is not an object")
    check_extent(schema)
    if _length(schema) > MAX_SCHEMA_BYTES:
        raise UnusableSchemaError(f"is longer than {MAX_SCHEMA_BYTES} bytes")
    dialects = _dialects(schema)
    graph = Graph(schema)
    checks = bound(graph, checking_cost)
    if checks.checks_at[0] > MAX_CHECKS:
        raise UnusableSchemaError("multiplies into too many checks of one value")
    bounded = _replaced(schema, _with_bounded_patterns(graph.nodes, dialects[0]))
    volume = max(bound(graph, _volume).checks_at)
    return Compiled(_validator(bounded, dialects), checks, bound(graph, naming_cost), volume, _reach(graph.nodes))


def _length(schema: Json) -> int:
    try:
        return len(jsonrpc.dump(schema))
    except TypeError as e:
        raise UnusableSchemaError(f"holds what JSON has no exact form for: {e}") from e


def _validator(schema: Json, dialects: Sequence[type[Validator]]) -> Validator:
    """The validator of the first dialect in which the schema is valid."""
    faults: list[str] = []
    for dialect in dialects:
        try:
            return dialect(
                schema,
                validate_formats=False,
                retriever=_refuse_to_fetch,
                pattern_options=jsonschema_rs.RegexOptions(),
                mask="it",
            )
        except (ValueError, jsonschema_rs.ReferencingError) as e:
            faults.append(_shortened(str(e).partition("\n")[0]))
    raise UnusableSchemaError(f"is not valid: {faults[0]}")


def _compiled_or_why_not(schema: Any) -> Compiled | UnusableSchemaError:
    try:
        return compile_schema(schema)
    except UnusableSchemaError as e:
        return e


def _dialects(schema: Json) -> Sequence[type[Validator]]:
    """The dialect that the schema declares; else the one MCP says, and an older one for schemas older than that."""
    declared = schema.get("$schema")
    if declared is None:
        return jsonschema_rs.Draft202012Validator, jsonschema_rs.Draft7Validator
    dialect = _DIALECTS.get(declared.rstrip("#")) if isinstance(declared, str) else None
    if dialect is None:
        # basic/index "JSON Schema Usage": an unsupported dialect is an error, not a reason to guess.
        raise UnusableSchemaError(f"is written in a dialect that is not supported: {_shown(declared)}")
    return (dialect,)


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"{uri!r} lies outside the schema and is never fetched")


def _with_bounded_patterns(nodes: Sequence[Node], dialect: type[Validator]) -> dict[int, Json]:
    """The subschemas to put in place of those whose pattern cannot be asserted on any text, by identity."""
    found = [pattern for node in nodes for pattern in _patterns(node)]
    if sum(patterns.volume(pattern) + 20 for pattern in found if patterns.is_small(pattern)) > MAX_PATTERNS_VOLUME:
        raise UnusableSchemaError("has too many or too large patterns")
    changed: dict[int, Json] = {}
    for node in nodes:
        for name in _names_matched(node):
            if not patterns.is_checked(name):
                raise UnusableSchemaError(f"matches member names with a pattern that cannot be checked: {_shown(name)}")
        pattern = node.schema.get("pattern")
        if isinstance(pattern, str) and not (patterns.is_checked(pattern) and patterns.reach(pattern) is None):
            changed[id(node.schema)] = _with_short_texts_matched(node.schema, pattern, dialect)
    return changed


def _with_short_texts_matched(schema: Mapping[str, Any], pattern: str, dialect: type[Validator]) -> Json:
    """The subschema with its pattern asserted only on the texts it can be tried on; on none where it is not checked."""
    rest = {word: value for word, value in schema.items() if word != "pattern"}
    if not patterns.is_checked(pattern) or dialect in _DIALECTS_WITHOUT_IF:
        return rest
    guarded = {"if": {"maxLength": patterns.reach(pattern)}, "then": {"pattern": pattern}}
    return {**rest, "allOf": [*rest.get("allOf", ()), guarded]}


def _replaced(value: Any, changed: Mapping[int, Json]) -> Any:
    """A copy with the changed subschemas in place; the value itself where nothing changes."""
    if not changed:
        return value
    if isinstance(value, dict):
        return {word: _replaced(each, changed) for word, each in changed.get(id(value), value).items()}
    return [_replaced(each, changed) for each in value] if isinstance(value, list) else value


def _names_matched(node: Node) -> Sequence[str]:
    named = node.schema.get("patternProperties")
    return tuple(named) if isinstance(named, Mapping) else ()


def _patterns(node: Node) -> Sequence[str]:
    pattern = node.schema.get("pattern")
    return (*_names_matched(node), pattern) if isinstance(pattern, str) else _names_matched(node)


def _volume(node: Node) -> Cost:
    checked = [pattern for pattern in _patterns(node) if patterns.is_checked(pattern)]
    return sum(patterns.volume(pattern) for pattern in checked if patterns.reach(pattern) is not None), 0


def _reach(nodes: Sequence[Node]) -> int | None:
    if any(_names_matched(node) for node in nodes):
        return None
    checked = [pattern for node in nodes for pattern in _patterns(node) if patterns.is_checked(pattern)]
    return max((reach for pattern in checked if (reach := patterns.reach(pattern)) is not None), default=0)


def _described(errors: Sequence[ValidationError]) -> list[str]:
    ordered = sorted(
        errors, key=lambda error: ([str(step) for step in error.instance_path], error.kind.name, error.message)
    )
    lines = [_line(error) for error in ordered[:MAX_VIOLATIONS]]
    if len(ordered) > MAX_VIOLATIONS:
        lines.append(f"and {len(ordered) - MAX_VIOLATIONS} more")
    return lines


def _line(error: ValidationError) -> str:
    said = f"{_path(error.instance_path)}: {_expectation(error)} (rule {error.kind.name}"
    return f"{said})" if error.kind.name in _ABOUT_MEMBERS else f"{said}, got {_shown(error.instance)})"


def _expectation(error: ValidationError) -> str:
    kind = error.kind
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Enum):
        return f"it is not one of {_shown(kind.value, 4 * _SHOWN)}"
    if isinstance(kind, (jsonschema_rs.ValidationErrorKind.AnyOf, jsonschema_rs.ValidationErrorKind.OneOfNotValid)):
        gist = [_gist(branch[0], error) for branch in kind.value[:_GIST_OF_ALTERNATIVES] if branch]
        return f"it fits none of the alternatives: {'; '.join(gist)}"
    return _shortened(error.message, 4 * _SHOWN)


def _gist(inner: ValidationError, outer: ValidationError) -> str:
    """Why one alternative does not fit, with the place where that is further in."""
    said = _shortened(inner.message)
    return said if inner.instance_path == outer.instance_path else f"{_path(inner.instance_path)}: {said}"


def _path(steps: Sequence[str | int]) -> str:
    """A JSONPath (RFC 9535) of plain steps."""
    return "$" + "".join(
        f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{_shown(step)}]" for step in steps
    )


def _shown(value: Any, most: int = _SHOWN) -> str:
    # The validator hands large and long numbers back as Decimal.
    return _shortened(json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":")), most)


def _shortened(text: str, most: int = _SHOWN) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
