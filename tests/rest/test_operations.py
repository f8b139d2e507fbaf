"""A tool's arguments as the request they become."""

from typing import Any

import pytest

from mcp_gateway.errors import BadArguments
from mcp_gateway.rest.matching import Method
from mcp_gateway.rest.operations import FORM_TYPE, JSON_TYPE, HttpCall, Operation, Parameter
from mcp_gateway.rest.paths import canonical_path

ID = Parameter("id", "id", "path", is_required=True)


def call(arguments: dict[str, Any], *parameters: Parameter, method: Method = "GET", body_type: str = "") -> HttpCall:
    return Operation("op", method, "/v1/orders/{id}", (ID, *parameters), body_type).call({"id": "7", **arguments})


def query(value: Any, **how: Any) -> str:
    return call({"q": value}, Parameter("q", "q", "query", is_required=False, **how)).query


def test_arguments_go_where_they_belong() -> None:
    trace = Parameter("X-Trace", "X-Trace", "header", is_required=False)
    body = Parameter("body", "body", "body", is_required=True)
    asked = {"X-Trace": "a", "body": {"amount": 1}}
    assert call(asked, trace, body, method="PUT", body_type=JSON_TYPE) == HttpCall(
        "PUT", "/v1/orders/7", "", {"X-Trace": "a", "Content-Type": JSON_TYPE}, b'{"amount":1}'
    )


@pytest.mark.parametrize(
    ("value", "how", "expected"),
    [
        ("a b&c=d", {}, "q=a%20b%26c%3Dd"),
        (0, {}, "q=0"),
        (False, {}, "q=false"),
        (None, {}, "q="),
        (["a", "b"], {}, "q=a&q=b"),
        (["a", "b,c"], {"explode": False}, "q=a,b%2Cc"),
        (["a", "b"], {"explode": False, "style": "pipeDelimited"}, "q=a%7Cb"),
        (["a", "b"], {"explode": False, "style": "spaceDelimited"}, "q=a%20b"),
        ({"x": 1, "y": True}, {}, "x=1&y=true"),
        ({"x": 1}, {"explode": False}, "q=x,1"),
        ({"x&": 1}, {"style": "deepObject"}, "q%5Bx%26%5D=1"),
        ([], {}, ""),
    ],
)
def test_a_query_is_written_in_the_style_its_document_says(value: Any, how: dict[str, Any], expected: str) -> None:
    assert query(value, **how) == expected


@pytest.mark.parametrize("value", ["..", ".", "", "a/b", "..;", "a\\b", "%2e%2e", "x\n", "../../admin", "a%2fb"])
def test_no_value_leads_to_another_path(value: str) -> None:
    with pytest.raises(BadArguments, match="'id' cannot stand in a path"):
        call({"id": value})


def test_a_value_is_one_segment_and_stays_what_it_is() -> None:
    path = call({"id": "a b?c#d&e"}).path
    assert path == "/v1/orders/a%20b%3Fc%23d&e" == canonical_path(path.encode())


@pytest.mark.parametrize("value", ["a\r\nX: y", "é", "\x00"])
def test_no_value_adds_a_header(value: str) -> None:
    with pytest.raises(BadArguments, match="header"):
        call({"h": value}, Parameter("h", "h", "header", is_required=False))


def test_what_is_missing_is_named_and_what_may_be_left_out_is() -> None:
    with pytest.raises(BadArguments, match="'q' is missing"):
        call({}, Parameter("q", "q", "query", is_required=True))
    assert call({}, Parameter("q", "q", "query", is_required=False)).query == ""


def test_a_form_is_encoded_as_one() -> None:
    body = Parameter("body", "body", "body", is_required=True)
    asked = {"body": {"a": "x y", "b": [1, True], "c": None}}
    assert call(asked, body, method="POST", body_type=FORM_TYPE).body == b"a=x+y&b=1&b=true&c="


@pytest.mark.parametrize(("method", "is_repeatable"), [("GET", True), ("PUT", True), ("POST", False), ("PATCH", False)])
def test_only_what_is_idempotent_may_be_sent_twice(method: Method, is_repeatable: bool) -> None:
    assert Operation("op", method, "/").is_repeatable is is_repeatable
