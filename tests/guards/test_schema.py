"""Arguments against the tool's own schema: what is refused, how it is said, and what it can cost."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from mcp_gateway.domain import Json, Kind, Target
from mcp_gateway.errors import BadArguments, Misbehaved, OverLimit
from mcp_gateway.guards.schema import Schemas, compile_schema

CPU_S = 1.5  # what is not bounded takes minutes
"""Five times what is promised: other tests run on the same cores."""


def tool(schema: Any, definition_hash: str = "h") -> Target:
    return Target(Kind.TOOL, "u", "t", "u__t", {}, definition_hash, raw={"name": "t", "inputSchema": schema})


def check(schema: Any, arguments: Json) -> None:
    Schemas().check_arguments(tool(schema), arguments)


def refusal(schema: Json, arguments: Json) -> str:
    with pytest.raises(BadArguments) as refused:
        check(schema, arguments)
    return str(refused.value)


def with_property(schema: Json) -> Json:
    return {"type": "object", "properties": {"a": schema}}


LOG: Json = {
    "type": "object",
    "properties": {
        "repo_path": {"type": "string"},
        "max_count": {"type": "integer", "minimum": 1},
        "order": {"enum": ["asc", "desc"]},
        "paths": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        "odd key": {"const": 3},
    },
    "required": ["repo_path"],
    "additionalProperties": False,
}


def test_arguments_that_fit_pass() -> None:
    check(LOG, {"repo_path": "/r", "max_count": 5, "order": "asc", "paths": ["a"], "odd key": 3})


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({}, '- $: "repo_path" is a required property (rule required)'),
        ({"repo_path": 7}, '- $.repo_path: it is not of type "string" (rule type, got 7)'),
        (
            {"repo_path": "", "max_count": 0},
            "- $.max_count: it is less than the minimum of 1 (rule minimum, got 0)",
        ),
        (
            {"repo_path": "", "max_count": True},
            '- $.max_count: it is not of type "integer" (rule type, got true)',
        ),
        ({"repo_path": "", "order": "up"}, '- $.order: it is not one of ["asc","desc"] (rule enum, got "up")'),
        ({"repo_path": "", "odd key": 4}, '- $["odd key"]: 3 was expected (rule const, got 4)'),
        (
            {"repo_path": "", "extra": 1},
            "- $: Additional properties are not allowed ('extra' was unexpected) (rule additionalProperties)",
        ),
        (
            {"repo_path": "", "paths": ["x", 1]},
            '- $.paths: it fits none of the alternatives: it is not of type "string"; '
            '$.paths[1]: it is not of type "string" (rule anyOf, got ["x",1])',
        ),
    ],
)
def test_a_violation_names_the_place_the_rule_and_the_value(arguments: Json, line: str) -> None:
    assert refusal(LOG, arguments) == f"the arguments do not fit the input schema of u__t:\n{line}"


def test_a_null_for_an_argument_that_may_be_left_out_is_the_upstreams_to_judge() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "string"}, "c": {"type": "object"}},
        "required": ["b"],
    }
    check(schema, {"a": None, "b": "x", "c": None})
    assert "$.b" in refusal(schema, {"b": None})
    assert "$.a" in refusal(schema, {"a": 1, "b": "x", "c": None})
    nested = {"type": "object", "properties": {"c": schema}}
    assert "$.c.a" in refusal(nested, {"c": {"a": None, "b": "x"}})


def test_at_most_five_violations_are_named_always_the_same() -> None:
    schema = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(9)}}
    arguments = {f"p{n}": n for n in reversed(range(9))}
    said = refusal(schema, arguments)
    assert [line[2:6] for line in said.splitlines()[1:6]] == ["$.p0", "$.p1", "$.p2", "$.p3", "$.p4"]
    assert said.endswith("\n- and 4 more")
    assert said == refusal(schema, arguments)


def test_long_values_are_shortened() -> None:
    assert len(refusal(LOG, {"repo_path": ["x" * 100_000]})) < 400


def test_a_violation_in_too_much_to_search_is_still_a_violation() -> None:
    rows = {"type": "array", "items": {"type": "object", "required": ["a"]}}
    assert "too large to say where" in refusal(with_property(rows), {"a": [{}] * 5000})


@pytest.mark.parametrize("declared", [{}, {"$schema": "https://json-schema.org/draft/2020-12/schema"}])
def test_the_dialect_is_2020_12_unless_another_is_declared(declared: Json) -> None:
    schema = with_property({"prefixItems": [{"type": "string"}], "items": False})
    assert "$.a[0]" in refusal({**declared, **schema}, {"a": [1]})
    assert "$.a[1]" in refusal({**declared, **schema}, {"a": ["x", "y"]})


@pytest.mark.parametrize(
    "dialect",
    [
        "http://json-schema.org/draft-07/schema#",
        "http://json-schema.org/draft-07/schema",
        "http://json-schema.org/draft-04/schema#",
    ],
)
def test_an_older_dialect_is_honoured_where_it_is_declared(dialect: str) -> None:
    schema = with_property({"type": "array", "items": [{"type": "string"}]})
    assert "$.a[0]" in refusal({"$schema": dialect, **schema}, {"a": [1]})


def test_a_schema_older_than_the_default_dialect_is_still_understood() -> None:
    schema = with_property({"type": "array", "items": [{"type": "string"}], "additionalItems": False})
    assert "$.a[0]" in refusal(schema, {"a": [1]})


@pytest.mark.parametrize("number", [2**64 - 1, 1e300, 0.1, -5e-324])
def test_numbers_of_any_size_can_be_shown(number: float) -> None:
    assert "rule enum" in refusal(with_property({"enum": ["x", 1e300 / 7, 2**63]}), {"a": number})
    assert "rule type" in refusal(with_property({"type": "string"}), {"a": [number]})


def test_formats_are_not_asserted() -> None:
    check(with_property({"type": "string", "format": "email"}), {"a": "nobody"})


def test_a_tool_without_a_schema_takes_any_object() -> None:
    Schemas().check_arguments(Target(Kind.TOOL, "u", "t", "u__t", {}, "h"), {"a": 1})


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (
            {"$ref": "https://evil.example/x.json"},
            "leads out of it, which is never followed: 'https://evil.example/x.json'",
        ),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "'file:///etc/passwd'"),
        ({"$schema": "https://evil.example/dialect"}, "dialect that is not supported"),
        ({"$schema": 5}, "dialect that is not supported"),
        ({"type": "objekt"}, "is not valid"),
        ({"properties": []}, "is not valid"),
        ({"patternProperties": {"^(?!x)": {}}}, "cannot be checked"),
        ([], "is not an object"),
        ("x", "is not an object"),
    ],
)
def test_a_tool_whose_schema_cannot_be_used_cannot_be_called_and_says_why(schema: Any, why: str) -> None:
    with pytest.raises(Misbehaved) as refused:
        check(schema, {})
    assert why in str(refused.value)
    assert str(refused.value).startswith("u__t cannot be called: its input schema")
    assert refused.value.upstream == "u"


def test_a_schema_is_compiled_once() -> None:
    schemas, target = Schemas(), tool(LOG)
    schemas.check_arguments(target, {"repo_path": ""})
    first = schemas._compiled(target)
    schemas.check_arguments(target, {"repo_path": ""})
    assert schemas._compiled(target) is first


def test_a_schema_seen_again_after_a_refresh_is_not_compiled_again() -> None:
    schemas = Schemas()
    first = schemas._compiled(tool({**LOG}))
    again = tool({**LOG})
    assert schemas._compiled(again) is first
    assert schemas._by_hash["h"][0] is again.raw["inputSchema"]


def test_a_hash_that_lies_never_lends_another_schemas_verdict() -> None:
    schemas = Schemas()
    schemas.check_arguments(tool({"type": "object"}, "same"), {})
    with pytest.raises(BadArguments):
        schemas.check_arguments(tool(LOG, "same"), {})


def test_only_so_many_compiled_schemas_are_kept() -> None:
    schemas = Schemas(kept=3)
    for at in range(10):
        schemas.check_arguments(tool({"type": "object", "title": str(at)}, str(at)), {})
    assert len(schemas._by_hash) == 3


# --- Hostile schemas (H12, H13) --------------------------------------------------------------------------------------


def deep(levels: int) -> Json:
    schema: Json = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def fan(levels: int) -> Json:
    parts: Json = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/a0", "$defs": {**parts, f"a{levels}": {"required": ["x"]}}}


@pytest.mark.parametrize(
    "make",
    [
        lambda: deep(3000),
        lambda: deep(90),
        lambda: fan(10),
        lambda: fan(17),
        lambda: fan(18),
        lambda: fan(100),
        lambda: {"properties": {f"p{n}": {"type": "string"} for n in range(100_000)}},
        lambda: {"properties": {f"p{n}": {"type": "string"} for n in range(4900)}},
        lambda: {"properties": {f"p{n}": {"$ref": "#"} for n in range(4900)}},
        lambda: {"allOf": [{"properties": {f"p{n}": {"$ref": "#"}}} for n in range(2400)]},
        lambda: with_property({"enum": [f"value {n:08}" for n in range(60_000)]}),
        lambda: with_property({"enum": [{"v": n} for n in range(4900)]}),
        lambda: {"required": [f"p{n}" for n in range(9900)]},
        lambda: {"properties": {f"p{n}": {"pattern": "^.{1,500}$"} for n in range(30)}},
        lambda: {"properties": {f"p{n}": {"pattern": "^.{1,500}$"} for n in range(3000)}},
        lambda: with_property({"pattern": "(a{1,1000}){1,1000}"}),
        lambda: with_property({"pattern": r"[\p{L}\p{N}]{1,64}"}),
        lambda: with_property({"description": "x" * 1_000_000}),
        lambda: {"unevaluatedProperties": False, "allOf": [{"properties": {f"p{n}": {}}} for n in range(1000)]},
    ],
)
def test_a_hostile_schema_is_compiled_or_refused_in_a_moment(make: Callable[[], Json]) -> None:
    schema = make()
    start = time.process_time()
    with suppress(Misbehaved, BadArguments):
        check(schema, {})
    assert time.process_time() - start < CPU_S


def array_of(schema: Json) -> Json:
    return with_property({"type": "array", **schema})


@pytest.mark.parametrize(
    ("schema", "arguments"),
    [
        (array_of({"uniqueItems": True}), {"a": list(range(99_000))}),
        (array_of({"uniqueItems": True}), {"a": [{"x": n} for n in range(49_000)]}),
        (array_of({"items": {"enum": list(range(9000))}}), {"a": [8999] * 90_000}),
        (array_of({"items": {"$ref": "#/x"}}) | {"x": fan(8) | {"$ref": "#/x/$defs/a0"}}, {"a": [{}] * 90_000}),
        (array_of({"contains": {"const": [1] * 5000}}), {"a": [[1] * 100] * 900}),
        (with_property({"pattern": "^(a+)+$"}), {"a": "a" * 3_000_000 + "b"}),
        (with_property({"pattern": "[ab]*a[ab]{50}c"}), {"a": "ab" * 1_000_000}),
        (array_of({"items": {"pattern": "[ab]*a[ab]{50}c"}}), {"a": ["ab" * 9000] * 100}),
        (with_property({"pattern": r"(a*)*\1b"}), {"a": "a" * 100_000}),
        (
            {"patternProperties": {f"[ab]*{n}[ab]{{40}}c": {} for n in range(50)}},
            {"ab" * 500 + str(n): 1 for n in range(999)},
        ),
        ({"allOf": [{"properties": {"a": {"$ref": "#"}}}] * 2}, {"a": {"a": {"a": {"a": {"a": {}}}}}}),
        (fan(14), {}),
        (fan(16), {"x": 1}),
    ],
)
def test_hostile_arguments_are_judged_or_refused_in_a_moment(schema: Json, arguments: Json) -> None:
    schemas, target = Schemas(), tool(schema)
    schemas._compiled(target)
    start = time.process_time()
    with suppress(BadArguments, OverLimit, Misbehaved):
        schemas.check_arguments(target, arguments)
    assert time.process_time() - start < CPU_S


def test_a_pattern_is_asserted_on_texts_within_its_reach_and_left_to_the_upstream_beyond() -> None:
    uuid = with_property({"type": "string", "pattern": "^[a-f0-9]{8}-([a-f0-9]{4}-){3}[a-f0-9]{12}$"})
    check(uuid, {"a": "01234567-89ab-cdef-0123-456789abcdef"})
    assert 'does not match "^[a-f0-9]{8}' in refusal(uuid, {"a": "x"})
    check(uuid, {"a": "x" * 100_000})


def test_a_pattern_with_look_around_is_left_to_the_upstream_and_the_rest_is_checked() -> None:
    schema = with_property({"type": "string", "pattern": "^(?!x)", "maxLength": 3})
    check(schema, {"a": "xyz"})
    assert "rule maxLength" in refusal(schema, {"a": "long"})


def test_long_texts_beside_a_pattern_are_no_reason_to_refuse() -> None:
    schema: Json = {
        "type": "object",
        "properties": {"id": {"pattern": "^[a-f0-9]{36}$"}, "content": {"type": "string"}},
    }
    check(schema, {"id": "0" * 36, "content": "x" * 3_000_000})


def test_the_schema_of_a_definition_is_never_changed() -> None:
    schema = with_property({"pattern": "^(?!x)", "allOf": [{"pattern": "^a{40}"}]})
    before = repr(schema)
    compile_schema(schema)
    assert repr(schema) == before


LEAVES = st.sampled_from(
    [{"type": "string"}, {"type": "integer"}, {"minimum": 2}, {"enum": [1, "a"]}, {"pattern": "^a"}, True, False]
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"properties": st.dictionaries(st.sampled_from("ab"), inner, max_size=2)}),
        st.fixed_dictionaries({"items": inner}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"allOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
        st.fixed_dictionaries({"if": inner, "then": inner}),
        st.fixed_dictionaries({"additionalProperties": inner, "required": st.just(["a"])}),
    ),
    max_leaves=8,
)
VALUES = st.recursive(
    st.sampled_from([1, 2, "a", "b", None, True]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=200)
@given(SCHEMAS, st.dictionaries(st.sampled_from("ab"), VALUES, max_size=2))
def test_the_verdict_is_that_of_the_reference_implementation(schema: Any, arguments: Json) -> None:
    whole = {"type": "object", "allOf": [schema]}
    given = {name: value for name, value in arguments.items() if value is not None}  # a null is one left out, too
    expected = any(map(Draft202012Validator(whole).is_valid, (arguments, given)))
    try:
        check(whole, arguments)
        found = True
    except BadArguments:
        found = False
    assert found is expected
