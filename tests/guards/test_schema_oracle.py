"""Our guard says of ordinary schemas what the reference implementation says."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_gateway.domain import Kind, Target
from mcp_gateway.errors import BadArguments
from mcp_gateway.guards.schema import Schemas

VALUES = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(-5, 5), st.text("abc", max_size=4))
TYPES = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object"])
LEAVES: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"type": TYPES}),
    st.fixed_dictionaries({"enum": st.lists(VALUES, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"type": st.just("string"), "minLength": st.integers(0, 3), "pattern": st.just("^a")}),
    st.fixed_dictionaries({"type": st.just("number"), "minimum": st.integers(-2, 2), "multipleOf": st.just(2)}),
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"type": st.just("array"), "items": inner, "maxItems": st.integers(0, 3)}),
        st.fixed_dictionaries({"prefixItems": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=4,
)
ARGUMENTS = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@given(properties=st.dictionaries(st.sampled_from("xyz"), SCHEMAS, max_size=2), value=ARGUMENTS, extra=st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_guard_and_the_reference_agree(properties: dict[str, Any], value: Any, extra: bool) -> None:
    schema = {"type": "object", "properties": properties, "required": ["x"], "additionalProperties": extra}
    target = Target(Kind.TOOL, "u", "t", "u__t", {}, repr(schema), raw={"inputSchema": schema})
    arguments = {"x": value, "y": value}
    if jsonschema.Draft202012Validator(schema).is_valid(arguments):
        Schemas().check_arguments(target, arguments)
    else:
        with pytest.raises(BadArguments):
            Schemas().check_arguments(target, arguments)
