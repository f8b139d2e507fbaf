"""What checking against a schema can cost, found before any native code sees it.

A schema is a graph of subschemas. From it follows how many of them can look at one value at each depth of the
arguments: `Bound.checks_at`. Multiplied with how many values a call has at each depth this bounds the work of that
call, whatever the schema repeats, references or recurses (SECURITY H12). Only references within the schema itself are
followed; anything else makes it unusable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import mul
from typing import Any, Final
from urllib.parse import unquote

from mcp_gateway.domain import Json
from mcp_gateway.guards.limits import MAX_DEPTH, Size

MAX_VALUES: Final = 10_000
"""JSON values in one schema; reading and compiling takes 5 to 10 us for each."""
MAX_SCHEMA_DEPTH: Final = 200  # the native parser ends at 255
MAX_CHECKS: Final = 1_000_000
"""Checks of one subschema on one value in one call; 40 to 50 ns each."""
_PAST_ANY_BOUND: Final = 2**40

# How far a schema that never ends is followed; arguments nested deeper than that in it are refused.
_MAX_STEPS: Final = 50_000
_LEAST_DEPTH: Final = 6

# Keywords by where the subschemas in them look: at the value itself, at one member or item each, at any of them.
_HERE_ONE: Final = ("not", "if", "then", "else")
_HERE_MANY: Final = ("allOf", "anyOf", "oneOf")
_HERE_NAMED: Final = ("dependentSchemas", "dependencies")
_APART_NAMED: Final = ("properties",)
_APART_LISTED: Final = ("prefixItems", "items")
_ANY_ONE: Final = (
    "items",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
)
_ANY_NAMED: Final = ("patternProperties",)
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_ANCHORS: Final = ("$anchor", "$dynamicAnchor")


Cost = tuple[int, int]
"""On the value a subschema looks at, and on each value below it."""


class UnusableSchemaError(ValueError):
    """A schema that nothing can be checked against; the message says why, after "its input schema"."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The most checks one value can meet, by its depth. The last entry holds for all greater depths."""

    checks_at: tuple[int, ...]

    def work(self, size: Size) -> int:
        """The most checks that arguments of this size can cost."""
        known: int = sum(map(mul, size.values_at, self.checks_at))
        return known + self.checks_at[-1] * sum(size.values_at[len(self.checks_at) :])


@dataclass(slots=True)
class Node:
    """One subschema; and, by index, those in it that look at the same value, at one child each, at every child."""

    schema: Json
    here: list[int] = field(default_factory=list)
    apart: list[int] = field(default_factory=list)
    every: list[int] = field(default_factory=list)


def check_extent(schema: Any) -> None:
    """Raises `UnusableSchemaError` for a schema too large, or nested too deeply, to be looked at any further."""
    count, depth, level = 0, 0, [schema]
    while level:
        depth, count = depth + 1, count + len(level)
        if depth > MAX_SCHEMA_DEPTH:
            raise UnusableSchemaError(f"is nested deeper than {MAX_SCHEMA_DEPTH}")
        if count > MAX_VALUES:
            raise UnusableSchemaError(f"holds more than {MAX_VALUES} values")
        level = [child for node in level for child in _children(node)]


def bound(graph: Graph, cost: Callable[[Node], Cost]) -> Bound:
    """What checking can cost on one value, where one subschema costs `cost`."""
    costs = [cost(node) for node in graph.nodes]
    checks_at: list[int] = []
    before = [0] * len(costs)
    for depth in range(min(MAX_DEPTH, max(_MAX_STEPS // len(costs), _LEAST_DEPTH))):
        now = [0] * len(costs)
        for at in graph.inside_out:
            node, (here, below) = graph.nodes[at], costs[at]
            total = below + _from_above(node, before) if depth else here
            # Past the bound the exact figure does not matter, only that it is past it.
            now[at] = min(total + sum([now[other] for other in node.here]), _PAST_ANY_BOUND)
        checks_at.append(now[0])
        if now == before or now[0] > MAX_CHECKS:
            return Bound(tuple(checks_at))
        before = now
    return Bound((*checks_at, _PAST_ANY_BOUND))


def checking_cost(node: Node) -> Cost:
    """What it costs to check one subschema, without those in it; 1 is 40 to 50 ns."""
    schema = node.schema
    listed = sum(_extent(schema[word]) for word in ("enum", "const", "dependentRequired") if word in schema)
    members = sum(len(list(_named(schema, [word]))) for word in ("properties", "patternProperties"))
    compares_whole_values = any(word in schema for word in ("uniqueItems", "const", "enum"))
    return naming_cost(node)[0] + listed + members // 4, int(compares_whole_values)


def naming_cost(node: Node) -> Cost:
    """How many violations one subschema, without those in it, can find in one value."""
    required = node.schema.get("required")
    return 1 + (len(required) if isinstance(required, list) else 0), 0


def _from_above(node: Node, before: Sequence[int]) -> int:
    single = max([before[other] for other in node.apart]) if node.apart else 0
    return single + sum([before[other] for other in node.every])


class Graph:
    """Every subschema that checking can reach from the root, which is the first.

    Raises `UnusableSchemaError` for a reference that leads out of the schema, or back to itself without looking at
    anything in between.
    """

    def __init__(self, root: Json) -> None:
        self._root = root
        self._identity = "id" if "draft-04" in str(root.get("$schema")) else "$id"
        self._at: dict[int, int] = {}
        self._anchors: dict[str, list[Json]] | None = None
        self.nodes: list[Node] = []
        self._indexes([root])
        for node in self.nodes:  # grows while it is walked
            self._connect(node)
        self.inside_out = _inside_out(self.nodes)
        """The nodes' indexes, so ordered that what looks at the same value as a node comes before it."""

    def _connect(self, node: Node) -> None:
        schema = node.schema
        self._refuse_rebasing(schema)
        node.here = self._indexes([*_one(schema, _HERE_ONE), *_many(schema, _HERE_MANY), *_named(schema, _HERE_NAMED)])
        node.here += self._indexes([target for word in _REFERENCES for target in self._targets(schema, word)])
        node.apart = self._indexes([*_named(schema, _APART_NAMED), *_many(schema, _APART_LISTED)])
        node.every = self._indexes([*_one(schema, _ANY_ONE), *_named(schema, _ANY_NAMED)])
        if "unevaluatedProperties" in schema or "unevaluatedItems" in schema:
            node.here = node.here * 2  # it has to find out again what they looked at

    def _indexes(self, schemas: Sequence[Any]) -> list[int]:
        found: list[int] = []
        for schema in schemas:
            if not isinstance(schema, dict):
                continue
            at = self._at.setdefault(id(schema), len(self.nodes))
            if at == len(self.nodes):
                self.nodes.append(Node(schema))
            found.append(at)
        return found

    def _refuse_rebasing(self, schema: Json) -> None:
        identity = schema.get(self._identity)
        if schema is not self._root and isinstance(identity, str) and not identity.startswith("#"):
            # References below it would count from there, and we would follow others than the validator does.
            raise UnusableSchemaError(f"has a schema with an identity of its own inside ({identity[:100]!r})")

    def _targets(self, schema: Json, word: str) -> list[Any]:
        reference = schema.get(word)
        if reference is None:
            return []
        if not isinstance(reference, str):
            raise UnusableSchemaError(f"has a {word} that is not a string")
        if reference in ("", "#"):
            return [self._root]
        if reference.startswith("#/"):
            return [_at_pointer(self._root, reference)]
        if reference.startswith("#") and (found := self._anchored(reference[1:])):
            return list(found)
        raise UnusableSchemaError(f"has a {word} that leads out of it, which is never followed: {reference[:200]!r}")

    def _anchored(self, name: str) -> Sequence[Json]:
        """Every object with that anchor, wherever it stands: which one counts can depend on the way to it."""
        if self._anchors is None:
            self._anchors = {}
            level: list[Any] = [self._root]
            while level:
                for node in level:
                    if isinstance(node, dict):
                        self._note_anchors(node, self._anchors)
                level = [child for node in level for child in _children(node)]
        return self._anchors.get(name, ())

    def _note_anchors(self, node: Json, anchors: dict[str, list[Json]]) -> None:
        names = {node[word] for word in _ANCHORS if isinstance(node.get(word), str)}
        identity = node.get(self._identity)
        if isinstance(identity, str) and identity.startswith("#"):
            names.add(identity[1:])
        for name in names:
            anchors.setdefault(name, []).append(node)


def _inside_out(nodes: Sequence[Node]) -> list[int]:
    order: list[int] = []
    is_done: dict[int, bool] = {}  # absent: not seen; False: on the way
    for start in range(len(nodes)):
        stack = [] if start in is_done else [(start, iter(nodes[start].here))]
        is_done.setdefault(start, False)
        while stack:
            at, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                is_done[at] = True
                order.append(at)
                stack.pop()
            elif following not in is_done:
                is_done[following] = False
                stack.append((following, iter(nodes[following].here)))
            elif not is_done[following]:
                raise UnusableSchemaError("refers to itself without end")
    return order


def _at_pointer(root: Any, reference: str) -> Any:
    """What a `#/...` reference points at (RFC 6901)."""
    found = root
    for part in reference[2:].split("/"):
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(key)] if isinstance(found, list) and key.isdecimal() else found[key]
        except (KeyError, IndexError, TypeError):
            raise UnusableSchemaError(f"has a $ref to what it does not hold: {reference[:200]!r}") from None
    return found


def _extent(value: Any) -> int:
    count, level = 0, [value]
    while level:
        count += len(level)
        level = [child for node in level for child in _children(node)]
    return count


def _children(node: Any) -> Sequence[Any]:
    if isinstance(node, dict):
        return tuple(node.values())
    return node if isinstance(node, list) else ()


def _one(schema: Json, words: Sequence[str]) -> Iterator[Any]:
    return (schema[word] for word in words if isinstance(schema.get(word), dict))


def _many(schema: Json, words: Sequence[str]) -> Iterator[Any]:
    return (item for word in words if isinstance(schema.get(word), list) for item in schema[word])


def _named(schema: Json, words: Sequence[str]) -> Iterator[Any]:
    return (item for word in words if isinstance(schema.get(word), dict) for item in schema[word].values())
