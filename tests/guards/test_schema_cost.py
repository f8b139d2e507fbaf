"""What checking against a schema can cost is known before anything is checked."""

from typing import Any

import pytest

from mcp_gateway.domain import Json
from mcp_gateway.guards.limits import measure
from mcp_gateway.guards.schema_cost import (
    MAX_CHECKS,
    MAX_SCHEMA_DEPTH,
    MAX_VALUES,
    Graph,
    UnusableSchemaError,
    bound,
    check_extent,
    checking_cost,
)


def checks_at(schema: Json) -> tuple[int, ...]:
    return bound(Graph(schema), checking_cost).checks_at


def fan(levels: int, word: str = "allOf") -> Json:
    """A schema whose parts double `levels` times by reference."""
    parts: Json = {f"a{n}": {word: [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/a0", "$defs": {**parts, f"a{levels}": {"type": "object"}}}


def test_subschemas_of_different_members_do_not_add_up() -> None:
    assert checks_at({"properties": {"a": {}, "b": {"allOf": [{}, {}]}}})[:3] == (1, 3, 0)


def test_subschemas_that_look_at_every_member_do_add_up() -> None:
    assert checks_at({"properties": {"a": {}}, "patternProperties": {"^a": {}}, "additionalProperties": {}})[1] == 3


def test_references_count_each_time_they_are_followed() -> None:
    assert checks_at(fan(10))[0] > 2**10
    assert checks_at(fan(60, "anyOf"))[0] > MAX_CHECKS


def test_a_tree_costs_as_much_at_each_depth() -> None:
    tree: Json = {"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}
    per_value = checks_at(tree)
    assert per_value[-1] == per_value[1]


def test_a_recursion_that_doubles_is_seen_to_double() -> None:
    twice: Json = {"allOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]}
    per_value = checks_at(twice)
    assert per_value[5] > 2 * per_value[4] - 2
    arguments: Json = {}
    for _ in range(30):
        arguments = {"a": arguments}
    assert bound(Graph(twice), checking_cost).work(measure(arguments)) > MAX_CHECKS


def test_a_long_enumeration_counts_with_its_length() -> None:
    assert checks_at({"properties": {"a": {"enum": list(range(500))}}})[1] > 500


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}}},
        {"if": {"$ref": "#"}},
    ],
)
def test_a_schema_that_refers_to_itself_without_end_is_unusable(schema: Json) -> None:
    with pytest.raises(UnusableSchemaError, match="refers to itself without end"):
        Graph(schema)


@pytest.mark.parametrize(
    "reference",
    ["https://evil.example/x.json", "file:///etc/passwd", "other.json#/a", "//evil", "#nowhere", "urn:x:y"],
)
def test_a_reference_out_of_the_schema_is_named(reference: str) -> None:
    with pytest.raises(UnusableSchemaError) as unusable:
        Graph({"properties": {"a": {"items": {"$ref": reference}}}})
    assert reference in str(unusable.value)


@pytest.mark.parametrize("reference", ["#/$defs/none", "#/$defs/a/5", "#/$defs/list/7", "#/type/x"])
def test_a_reference_to_nothing_is_named(reference: str) -> None:
    with pytest.raises(UnusableSchemaError, match="does not hold"):
        Graph({"type": "object", "$ref": reference, "$defs": {"a": {}, "list": [{}]}})


@pytest.mark.parametrize(
    "reference", ["#/$defs/a~1b", "#/$defs/with%20space", "#/$defs/list/0", "#anchored", "#dynamic", "#/elsewhere/deep"]
)
def test_references_within_the_schema_are_followed(reference: str) -> None:
    definitions: Json = {
        "a/b": {},
        "with space": {},
        "list": [{}],
        "n": {"$anchor": "anchored"},
        "d": {"$dynamicAnchor": "dynamic"},
    }
    schema = {"properties": {"p": {"$ref": reference}}, "$defs": definitions, "elsewhere": {"deep": {}}}
    assert checks_at(schema)[1] == 2


def test_an_embedded_identity_would_move_its_references_and_is_refused() -> None:
    with pytest.raises(UnusableSchemaError, match="identity of its own"):
        Graph({"properties": {"a": {"$id": "https://x.example/a", "$ref": "#/b"}}})
    Graph({"$id": "https://x.example/root", "properties": {"$id": {"type": "string"}}})


def test_a_member_that_is_named_like_a_keyword_is_a_member() -> None:
    schema: Json = {"properties": {"$ref": {"type": "string"}, "pattern": {"type": "string"}, "allOf": {}}}
    assert len(Graph(schema).nodes) == 4


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"enum": list(range(MAX_VALUES))}, "holds more than"),
        ({"properties": {f"p{n}": {"type": "string"} for n in range(MAX_VALUES)}}, "holds more than"),
    ],
)
def test_large_schemas_are_not_looked_at(schema: Json, why: str) -> None:
    with pytest.raises(UnusableSchemaError, match=why):
        check_extent(schema)


def test_deep_schemas_are_not_looked_at() -> None:
    schema: Any = {}
    for _ in range(3000):
        schema = {"properties": {"a": schema}}
    with pytest.raises(UnusableSchemaError, match=f"deeper than {MAX_SCHEMA_DEPTH}"):
        check_extent(schema)
