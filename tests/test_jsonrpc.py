"""JSON as it crosses the walls: what is read, what is refused, and that nothing changes on the way."""

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway import jsonrpc
from mcp_gateway.domain import RpcError
from mcp_gateway.errors import BadRequest
from mcp_gateway.jsonrpc import MAX_DEPTH, Code, canonical, dump, parse

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(['":', 'a":', '\\":', '{"a":1,"a":2}', "\\", '\\"', '" :', "9" * 30, ":"])
)
NAMES = st.text() | st.sampled_from(["a\\", 'a"', '":', "1" * 25, "", " "])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=15
)


def refusal(text: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as refused:
        parse(text)
    return refused.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"[]", []),
        (b"{}", {}),
        (b"null", None),
        (b" \t\n\r true \n", True),
        (b'""', ""),
        (b"0", 0),
        (b"-0", 0),
        (b"-0.0", 0.0),
        (b"1E2", 100.0),
        (b"1e-2", 0.01),
        (b"0.1", 0.1),
        (b"123456789012345678", 123456789012345678),
        (b"18446744073709551615", 2**64 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"1e19", 1e19),
        (b"0.12345678901234567890123", 0.12345678901234568),
        (b"12345678901234567890.5", 12345678901234567890.5),
        (b'{"":0}', {"": 0}),
        (b'{"a":{"a":1},"b":[{"a":2}]}', {"a": {"a": 1}, "b": [{"a": 2}]}),
        (b'{"a" : 1 , "b"\n:\t2}', {"a": 1, "b": 2}),
        (b'["\\u0060\\u012a\\u12AB"]', ["`\u012a\u12ab"]),
        (b'["\\"\\\\\\/\\b\\f\\n\\r\\t"]', ['"\\/\b\f\n\r\t']),
        (b'["\\uD801\\udc37"]', ["\U00010437"]),
        (b'["\\u0000"]', ["\0"]),
        ('["\u20ac\U0001d11e\u2028\x7f\uffff"]'.encode(), ["\u20ac\U0001d11e\u2028\x7f\uffff"]),
    ],
)
def test_json_is_read(text: bytes, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"[",
        b"]",
        b"[1,]",
        b"[,1]",
        b"[1,,2]",
        b"[1 2]",
        b"[]]",
        b"[]x",
        b"{",
        b"}",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1,}',
        b'{"a" 1}',
        b"{a:1}",
        b"{'a':1}",
        b"{1:1}",
        b"[}",
        b"True",
        b"nul",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"+1",
        b"-",
        b"01",
        b"-01",
        b"1.",
        b".1",
        b"1e",
        b"1e+",
        b"0x1",
        b"1_000",
        b"1e400",
        b"-1e400",
        b"9" * 400,
        b'"',
        b'"\\',
        b'"\\x00"',
        b'"\\u12"',
        b'"\t"',
        b'"\x00"',
        b'"\n"',
        b'"\xff"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b"\xef\xbb\xbf{}",
        b"\x00",
        b"[1]\x00",
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-32"),
        b"/* c */ 1",
        b"1 // c",
        b"\xa0[]",
        b"\x0c[]",
        b"<a/>",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_json_is_a_parse_error(text: bytes) -> None:
    assert refusal(text).rpc_code == Code.PARSE_ERROR


@pytest.mark.parametrize(
    "text",
    [
        b'{"path":"/ok","path":"/etc"}',
        b'{"path":"/ok","p\\u0061th":"/etc"}',
        b'{"p\\u0061th":"/ok","path":"/etc"}',
        b'{"a":1,"a":1}',
        b'{"a":1,"b":2,"a":3}',
        b'[{"x":{"a":1,"a":2}}]',
        b'{"":1,"":2}',
        b'{"a" :1,"a":2}',
        b'{"a"\n:1,"a"\t:2}',
        b'{"a\\\\":1,"a\\\\":2}',
        b'{"a\\"":1,"a\\"":2}',
        b'{"x\\\\":1,"a":1,"a":2}',
        b'{"x\\\\" :1,"a":1,"a":2}',
        b'{"t":"\\":","a":1,"a":2}',
        b'{"t":"\\\\","u":"\\":","a":1,"a":2}',
        b'{"t":":","a":1,"a":2}',
        b'{"a":1,"a" :{"b":"x\\" :"}}',
    ],
    ids=repr,
)
def test_a_member_named_twice_is_refused_however_it_is_spelled(text: bytes) -> None:
    refused = refusal(text)
    assert "twice" in str(refused)
    assert refused.rpc_code == Code.INVALID_PARAMS


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**25, -(10**25), 10**200])
@pytest.mark.parametrize("wrap", ["{}", "[{}]", '{{"a":{{"b":{}}}}}', '{{"id":{},"s":"00000000000000000000"}}'])
def test_an_integer_that_would_arrive_as_another_is_refused(number: int, wrap: str) -> None:
    refused = refusal(wrap.format(number).encode())
    assert "64 bits" in str(refused)
    assert refused.rpc_code == Code.INVALID_PARAMS


def test_an_integer_of_five_thousand_digits_is_no_fault_of_ours() -> None:
    refusal(b"1" * 5000)
    refusal(b'{"a":-' + b"1" * 5000 + b"}")


@pytest.mark.parametrize("text", ["1" * 30, "2026-11-21T10:00:00.0000000000000000000Z", "0" * 19])
def test_long_numbers_in_strings_are_just_text(text: str) -> None:
    assert parse(json.dumps({"a": text, text: 1}).encode()) == {"a": text, text: 1}


def test_nesting_is_bounded_whatever_the_strings_hold() -> None:
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert refusal(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1)).rpc_code == Code.PARSE_ERROR


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":', b'{"a":['], ids=["lists", "objects", "both", "turned"])
@pytest.mark.parametrize("gap", [b"", b" "], ids=["compact", "spaced"])
@pytest.mark.parametrize("padding", [b"x", b"x" * jsonrpc.SMALL], ids=["small", "large"])
def test_a_text_of_any_size_is_nested_to_the_bound_and_no_deeper(opening: bytes, gap: bytes, padding: bytes) -> None:
    each = opening.count(b"[") + opening.count(b"{")
    closing = opening.translate(None, b'"a:')[::-1].translate(bytes.maketrans(b"[{", b"]}"))
    inside = b'["%b",%b1]' % (padding, gap)
    turns = (MAX_DEPTH - 1) // each
    rest = MAX_DEPTH - 1 - turns * each
    fits = b"[" * rest + opening * turns + inside + closing * turns + b"]" * rest
    assert parse(fits) is not None
    assert refusal(b"[" + fits + b"]").rpc_code == Code.PARSE_ERROR
    assert refusal(b'{"a":' + fits + b"}").rpc_code == Code.PARSE_ERROR
    assert parse(b'["' + b"[{" * 1000 + b'"]')
    assert len(parse(b"[" + b"[]," * 1000 + b"{}]")) == 1001


@given(VALUES)
def test_whatever_is_written_is_read_back_the_same(value: Any) -> None:
    assert parse(dump(value)) == value
    assert parse(json.dumps(value, indent=1).encode()) == value
    assert parse(json.dumps(value, ensure_ascii=False, separators=(" ,\n", "\t: ")).encode()) == value


@given(
    st.lists(st.tuples(NAMES, LEAVES), min_size=2, max_size=5), st.booleans(), st.sampled_from([":", " :", "\n:", ": "])
)
def test_an_object_is_refused_exactly_when_a_name_comes_twice(
    pairs: list[tuple[str, Any]], escaped: bool, colon: str
) -> None:
    members = [json.dumps(name, ensure_ascii=escaped) + colon + json.dumps(value) for name, value in pairs]
    text = ("{" + ",".join(members) + "}").encode()
    if len({name for name, _ in pairs}) == len(pairs):
        assert parse(text) == dict(pairs)
    else:
        refusal(text)


@pytest.mark.parametrize("again", [b'"a":1', b'"a": 1', b'"b":{"c":1,"c":2}', b'"b":[{"c":1,"c":1}]'])
def test_a_name_that_comes_twice_is_found_in_a_large_text_too(again: bytes) -> None:
    padding = b'"pad":"' + b"x" * jsonrpc.SMALL + b'"'
    refusal(b'{"a":1,' + padding + b"," + again + b"}")
    refusal(b"[{" + again + b',"a":1,' + padding + b"}]")
    refusal(b"[[" + b"18446744073709551616," + b"{" + padding + b"}]]")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_bad_request(text: bytes) -> None:
    try:
        value = parse(text)
    except BadRequest:
        return
    assert json.loads(text) == value


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":"' + b'\\":' * 300_000 + b'"}',
        b"[" + b'":",' * 200_000 + b"1]",
        b"[" + b"{}," * 300_000 + b"1]",
        b"[" + b"1234567890123456789," * 50_000 + b"1]",
        b'{"a":"' + b"\\\\" * 400_000 + b'"}',
    ],
    ids=["quoted", "colons", "empty", "digits", "backslashes"],
)
def test_a_megabyte_of_anything_takes_time_in_proportion(text: bytes) -> None:
    start = time.process_time()
    parse(text)
    assert time.process_time() - start < 1


def test_bytes_of_any_kind_are_read() -> None:
    assert parse(bytearray(b"[1]")) == parse(memoryview(b"[1]")) == [1]


@given(st.dictionaries(st.text(), st.integers(0, 9), max_size=6))
def test_the_canonical_form_does_not_depend_on_order(value: dict[str, int]) -> None:
    assert canonical(value) == canonical(dict(reversed(value.items())))


def test_the_canonical_form_tells_numbers_apart() -> None:
    assert canonical({"a": 1}) != canonical({"a": 1.0})
    assert canonical([math.pi]) == b"[3.141592653589793]"


def test_answers_have_the_shape_of_json_rpc() -> None:
    assert jsonrpc.result_message("1", {"a": 1}) == {"jsonrpc": "2.0", "id": "1", "result": {"a": 1}}
    assert jsonrpc.error_message(None, RpcError(-32700, "x")) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32700, "message": "x"},
    }
    assert jsonrpc.error_message(1, RpcError(1, "x", [2]))["error"]["data"] == [2]
