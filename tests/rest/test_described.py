"""Requests read as arguments of the operation they are."""

from typing import Any

import pytest

from mcp_gateway.errors import BadArguments
from mcp_gateway.rest.described import Described, Sent, arguments_of
from mcp_gateway.rest.operations import Operation, Parameter

INTEGER, STRING, FLAG = {"type": "integer"}, {"type": "string"}, {"type": "boolean"}


def query(name: str, schema: Any, **more: Any) -> Parameter:
    return Parameter(name, name, "query", is_required=False, schema=schema, **more)


def read(operation: Operation, path: str = "/a", asked: str = "", **more: Any) -> Any:
    described = Described([operation], lambda name: name == "x-tenant")
    found = described.find(operation.method, path)
    assert found is not None
    sent = Sent(operation.method, path, asked, more.get("headers", {}), more.get("body", b""), more.get("json"))
    return arguments_of(*found, sent)


def found(templates: list[str], path: str, method: str = "GET") -> str | None:
    described = Described([Operation(each, "GET", each) for each in templates], lambda name: True)
    operation = described.find(method, path)
    return None if operation is None else operation[0].template


def test_what_is_written_out_goes_before_what_has_places() -> None:
    templates = ["/v1/{any}/{more}", "/v1/orders/{id}", "/v1/orders/mine", "/v1/{any}/mine"]
    assert found(templates, "/v1/orders/mine") == "/v1/orders/mine"
    assert found(templates, "/v1/orders/7") == "/v1/orders/{id}"
    assert found(templates, "/v1/people/mine") == "/v1/{any}/mine"
    assert found(templates, "/v1/orders") is None
    assert found(templates, "/v1/orders/7/") is None


def test_a_place_may_stand_within_a_segment_but_not_two_of_them() -> None:
    assert found(["/report.{kind}"], "/report.pdf") == "/report.{kind}"
    assert found(["/report.{kind}"], "/report.") is None
    assert found(["/{a}{b}"], "/xy") is None
    assert found(["/{a}/{a}"], "/x/y") is None
    assert found(["/a%20%62"], "/a%20b") == "/a%20%62"


def test_a_head_asks_what_a_get_would() -> None:
    assert found(["/a"], "/a", "HEAD") == "/a"
    assert found(["/a"], "/a", "DELETE") is None


def test_values_have_the_types_that_the_document_gives_them() -> None:
    operation = Operation(
        "get",
        "GET",
        "/a/{id}",
        (
            Parameter("id", "id", "path", is_required=True, schema={"$ref": "#/$defs/Id"}),
            query("dry", FLAG),
            query("word", STRING),
            query("some", {"anyOf": [INTEGER, {"type": "null"}]}),
            Parameter("x-tenant", "X-Tenant", "header", is_required=True, schema=INTEGER),
        ),
        definitions={"Id": INTEGER},
    )
    asked = "dry=true&word=7&some="
    assert read(operation, "/a/7", asked, headers={"x-tenant": " 12 "}) == {
        "id": 7,
        "dry": True,
        "word": "7",
        "some": None,
        "x-tenant": 12,
    }
    assert read(operation, "/a/7%2E5x", "dry=maybe&some=1e999") == {"id": "7.5x", "dry": "maybe", "some": "1e999"}


def test_lists_and_objects_are_read_in_every_style() -> None:
    numbers: dict[str, Any] = {"type": "array", "items": INTEGER}
    filters = {"type": "object", "properties": {"a": INTEGER, "b": STRING}}
    operation = Operation(
        "get",
        "GET",
        "/a",
        (
            query("many", numbers),
            query("comma", numbers, explode=False),
            query("pipe", numbers, explode=False, style="pipeDelimited"),
            query("space", {"type": "array", "items": STRING}, explode=False, style="spaceDelimited"),
            query("deep", filters, style="deepObject"),
            query("flat", filters, explode=False),
        ),
    )
    asked = "many=1&many=2&comma=1,2&pipe=1%7C2&space=a%2Cb%20c&deep%5Ba%5D=1&deep[c]=x&flat=a,1,b,2"
    assert read(operation, "/a", asked) == {
        "many": [1, 2],
        "comma": [1, 2],
        "pipe": [1, 2],
        "space": ["a,b", "c"],
        "deep": {"a": 1, "c": "x"},
        "flat": {"a": 1, "b": "2"},
    }


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("id=1&id=2", "'id' is given more than once"),
        ("%69d=1&id=2", "'id' is given more than once"),
        ("id=1&other=2", "the query has no parameter 'other'"),
        ("ID=1", "the query has no parameter 'ID'"),
    ],
)
def test_what_is_given_twice_or_is_not_there_is_refused(asked: str, message: str) -> None:
    with pytest.raises(BadArguments, match=message):
        read(Operation("get", "GET", "/a", (query("id", INTEGER),)), "/a", asked)


def test_a_body_is_what_the_document_says_or_refused() -> None:
    body = Parameter("body", "body", "body", is_required=True, schema={"type": "object"})
    takes = Operation("post", "POST", "/a", (body,), "application/json")
    as_json = {"content-type": "application/vnd.a+json"}
    assert read(takes, body=b'{"a":1}', json={"a": 1}, headers=as_json) == {"body": {"a": 1}}
    assert read(takes) == {}
    with pytest.raises(BadArguments, match="has to be application/json"):
        read(takes, body=b"a=1", headers={"content-type": "text/plain"})
    with pytest.raises(BadArguments, match="a body is nothing"):
        read(Operation("post", "POST", "/a"), body=b"{}", headers=as_json, json={})


def test_a_form_is_read_as_its_schema_says() -> None:
    properties = {"n": INTEGER, "many": {"type": "array", "items": INTEGER}, "word": STRING}
    body = Parameter("body", "body", "body", is_required=True, schema={"type": "object", "properties": properties})
    takes = Operation("post", "POST", "/a", (body,), "application/x-www-form-urlencoded")
    headers = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    assert read(takes, body=b"n=1&many=2&word=a+b&x=1&x=2", headers=headers) == {
        "body": {"n": 1, "many": [2], "word": "a b", "x": ["1", "2"]}
    }
    with pytest.raises(BadArguments, match="has to be application/x-www-form-urlencoded"):
        read(takes, body=b"{}", json={}, headers={"content-type": "application/json"})
