"""OpenAPI documents: what is asked for becomes tools, what cannot be offered is named, nothing is taken on trust."""

import json
import time
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mcp_gateway.rest.openapi import MAX_NODES, Api, NotOpenApiError, read_openapi

ORDERS = """
openapi: 3.0.3
info: {title: Orders, version: "1.4"}
servers: [{url: "http://169.254.169.254/"}]
paths:
  /v1/orders/{id}:
    parameters:
      - {name: id, in: path, required: true, schema: {type: string}}
    get:
      operationId: getOrder
      summary: One order
      description: Look an order up.
      parameters:
        - {name: expand, in: query, schema: {type: array, items: {type: string}}}
        - {name: X-Trace, in: header, schema: {type: string}}
        - {name: Authorization, in: header, schema: {type: string}}
    delete: {operationId: deleteOrder, deprecated: true}
  /v1/orders:
    post:
      operationId: createOrder
      requestBody:
        required: true
        content:
          application/json: {schema: {$ref: "#/components/schemas/Order"}}
components:
  schemas:
    Order:
      type: object
      required: [amount]
      properties:
        amount: {type: number, minimum: 0, exclusiveMinimum: true}
        note: {type: string, nullable: true}
        parts: {type: array, items: {$ref: "#/components/schemas/Order"}}
"""


def read(text: str | bytes | dict[str, Any], admits: Any = lambda method, template: True) -> Api:
    data = json.dumps(text).encode() if isinstance(text, dict) else text if isinstance(text, bytes) else text.encode()
    return read_openapi(data, admits)


def one(operation: dict[str, Any], path: str = "/a", **components: Any) -> Api:
    return read({"openapi": "3.1.0", "paths": {path: {"get": operation}}, "components": components})


def test_operations_become_tools_with_typed_arguments() -> None:
    api = read(ORDERS)
    tools = {operation.name: operation.definition() for operation in api.operations}
    assert (api.title, api.version, api.problems) == ("Orders", "1.4", ())
    assert tools["getOrder"] == {
        "name": "getOrder",
        "title": "One order",
        "description": "Look an order up.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "id": {"type": "string"},
                "expand": {"type": "array", "items": {"type": "string"}},
                "X-Trace": {"type": "string"},
            },
            "additionalProperties": False,
            "required": ["id"],
        },
        "annotations": {
            "readOnlyHint": True,
            "destructiveHint": False,
            "idempotentHint": True,
            "openWorldHint": True,
        },
    }
    assert tools["deleteOrder"]["annotations"]["destructiveHint"] is True
    assert "Deprecated" in tools["deleteOrder"]["description"]


def test_schemas_are_json_schema_2020_12_and_may_refer_to_themselves() -> None:
    (create,) = [each for each in read(ORDERS).operations if each.name == "createOrder"]
    schema = create.definition()["inputSchema"]
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    assert validator.is_valid({"body": {"amount": 1, "note": None, "parts": [{"amount": 2}]}})
    assert not validator.is_valid({"body": {"amount": 0}})
    assert not validator.is_valid({"body": {"amount": 1, "parts": [{}]}})


def test_only_what_is_asked_for_is_offered() -> None:
    api = read(ORDERS, lambda method, template: method == "GET")
    assert [each.name for each in api.operations] == ["getOrder"]


@pytest.mark.parametrize(
    ("operation", "why"),
    [
        ({"parameters": [{"$ref": "https://evil.example/p.yaml"}]}, "outside of the document"),
        ({"parameters": [{"$ref": "file:///etc/passwd"}]}, "outside of the document"),
        ({"parameters": [{"$ref": "#/components/parameters/loop"}]}, "circle"),
        ({"parameters": [{"name": "q", "in": "query", "schema": {"$ref": "http://evil.example/s"}}]}, "only #/comp"),
        ({"parameters": [{"name": "q", "in": "query", "schema": {"$ref": "#/components/schemas/No"}}]}, "not there"),
        ({"parameters": [{"name": "c", "in": "cookie", "required": True, "schema": {}}]}, "in cookie"),
        ({"parameters": [{"name": "id", "in": "path", "required": True, "schema": {}}]}, "do not fit"),
        ({"parameters": [{"name": "q", "in": "query", "content": {}}]}, "no schema"),
        ({"requestBody": {"required": True, "content": {"multipart/form-data": {}}}}, "its body is none of"),
        ({"operationId": "!!!"}, "no operationId"),
        ({"operationId": "x" * 200}, "no operationId"),
    ],
)
def test_what_cannot_be_offered_is_left_out_and_named(operation: dict[str, Any], why: str) -> None:
    api = one(operation, parameters={"loop": {"$ref": "#/components/parameters/loop"}})
    assert api.operations == ()
    (problem,) = api.problems
    assert problem.startswith("GET /a: left out: ")
    assert why in problem


@pytest.mark.parametrize(
    "path", ["//evil.example/a", "http://evil.example/a", "/../a", "/a/..", "/a b", "/a/{i/d}", "a"]
)
def test_a_path_that_is_none_is_left_out(path: str) -> None:
    assert one({}, path).operations == ()


def test_two_operations_of_one_name_are_both_left_out() -> None:
    written = {"operationId": "same name"}
    paths = {
        "/a": {"get": written},
        "/b": {"get": {"operationId": "same_name"}},
        "/c": {"get": written},
        "/d": {"get": {}},
    }
    api = read({"openapi": "3.1.0", "paths": paths})
    assert [each.name for each in api.operations] == ["get_d"]
    assert len(api.problems) == 2


def test_arguments_of_one_name_are_told_apart() -> None:
    parameters = [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
        {"name": "id", "in": "query", "schema": {"type": "integer"}},
        {"name": "body", "in": "query", "schema": {}},
    ]
    (operation,) = one({"parameters": parameters}, "/a/{id}").operations
    assert [each.argument for each in operation.parameters] == ["id", "id__query", "body__query"]


def test_headers_that_are_the_gateways_cannot_be_arguments() -> None:
    (operation,) = [each for each in read(ORDERS).operations if each.name == "getOrder"]
    assert "Authorization" not in {each.argument for each in operation.parameters}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no OpenAPI 3"),
        (b"[]", "no OpenAPI 3"),
        (b"{", "neither JSON nor YAML"),
        (b"a: [", "neither JSON nor YAML"),
        (b"\xff\xfe\x00", "neither JSON nor YAML"),
        (b"swagger: '2.0'", "no OpenAPI 3"),
        (b"a: &a [x]\nb: [*a, *a]\nopenapi: 3.0.0", "aliases"),
        (b"!!python/object/apply:os.system ['true']", "neither JSON nor YAML"),
        (b"[" * 100_000, "neither JSON nor YAML"),
        (b"x" * (17 * 1024 * 1024), "longer than"),
    ],
)
def test_what_is_no_document_is_refused_at_once(text: bytes, why: str) -> None:
    began = time.process_time()
    with pytest.raises(NotOpenApiError, match=why):
        read(text)
    assert time.process_time() - began < 2


def test_schemas_that_grow_without_end_are_left_out() -> None:
    schemas: dict[str, Any] = {"S0": {"type": "string"}}
    wide = {f"p{number}": {"type": "string"} for number in range(MAX_NODES // 2)}
    parameters = [{"name": "q", "in": "query", "schema": {"type": "object", "properties": wide}}]
    api = one({"parameters": parameters}, schemas=schemas)
    assert "too large" in api.problems[0]
