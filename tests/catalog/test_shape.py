"""Definitions that would break an agent's whole list are told from those that are merely unusual."""

from typing import Any

import pytest

from mcp_gateway.catalog.shape import fault_in
from mcp_gateway.domain import Json, Kind

SCHEMA: Json = {"type": "object"}


@pytest.mark.parametrize(
    ("kind", "definition"),
    [
        (Kind.TOOL, {"name": "x", "inputSchema": SCHEMA}),
        (Kind.TOOL, {"name": "x", "inputSchema": SCHEMA, "description": None, "unknown": {"a": None}}),
        (Kind.TOOL, {"name": "x", "inputSchema": SCHEMA, "annotations": {"readOnlyHint": True, "other": 1}}),
        (Kind.PROMPT, {"name": "x"}),
        (Kind.PROMPT, {"name": "x", "arguments": [{"name": "a", "required": True}]}),
        (Kind.RESOURCE, {"name": "x", "uri": "x://a", "annotations": {"audience": ["user"], "priority": 0.5}}),
        (Kind.TEMPLATE, {"name": "x", "uriTemplate": "x://{a}"}),
    ],
)
def test_a_definition_with_its_required_members_is_fine(kind: Kind, definition: Json) -> None:
    assert fault_in(kind, definition) == ""


@pytest.mark.parametrize(
    ("kind", "definition", "fault"),
    [
        (Kind.TOOL, "x", "is not an object"),
        (Kind.TOOL, {"inputSchema": SCHEMA}, ".name is missing"),
        (Kind.TOOL, {"name": 1, "inputSchema": SCHEMA}, ".name is not a string"),
        (Kind.TOOL, {"name": "x", "inputSchema": {}}, '.inputSchema does not say "type": "object"'),
        (Kind.TOOL, {"name": "x", "inputSchema": SCHEMA, "description": 1}, ".description is not a string"),
        (Kind.TOOL, {"name": "x", "inputSchema": SCHEMA, "icons": [{}]}, ".icons[0].src is missing"),
        (
            Kind.TOOL,
            {"name": "x", "inputSchema": SCHEMA, "annotations": {"readOnlyHint": "yes"}},
            ".annotations.readOnlyHint is not true or false",
        ),
        (Kind.PROMPT, {"name": "x", "arguments": {}}, ".arguments is not a list"),
        (Kind.PROMPT, {"name": "x", "arguments": ["a"]}, ".arguments[0] is not an object"),
        (Kind.RESOURCE, {"name": "x"}, ".uri is missing"),
        (
            Kind.RESOURCE,
            {"name": "x", "uri": "x://a", "annotations": {"priority": 2}},
            ".annotations.priority is not between 0 and 1",
        ),
        (Kind.TEMPLATE, {"uriTemplate": "x://{a}"}, ".name is missing"),
    ],
)
def test_a_fault_says_where_it_is(kind: Kind, definition: Any, fault: str) -> None:
    assert fault_in(kind, definition) == fault
