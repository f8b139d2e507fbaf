"""What of a request's headers is sent over HTTP/2, and which answers' are believed."""

import pytest
from hpack import HeaderTuple

from mcp_gateway.upstreams.h2_fields import BadFields, answer_headers, request_fields
from mcp_gateway.upstreams.wire import SameHeaders
from mcp_gateway.upstreams.wire_connection import MAX_HEAD_BYTES, MAX_HEADER_LINES


def test_what_belongs_to_one_connection_is_not_sent() -> None:
    told = {"Keep-Alive": "5", "Proxy-Connection": "x", "Upgrade": "h2c", "TE": "trailers", "HTTP2-Settings": "x"}
    fields = request_fields("GET", "a", "/", {**told, "X-A": " b "}, None)
    assert [tuple(field) for field in fields[4:]] == [(b"x-a", b"b")]


def test_an_empty_body_has_a_length_and_no_body_has_none() -> None:
    assert (b"content-length", b"0") in request_fields("POST", "a", "/", {}, b"")
    assert b"content-length" not in dict(request_fields("GET", "a", "/", {}, None))


def test_only_what_is_nobodys_may_be_remembered() -> None:
    headers = {"accept": "a", "authorization": "s3cr3t", "mcp-name": "tool", "mcp-param-region": "eu"}
    fields = request_fields("POST", "host", "/path?key=s3cr3t", headers, b"")
    kept = {field[0] for field in fields if isinstance(field, HeaderTuple) and field.indexable}
    assert kept == {b":method", b":scheme", b":authority", b"accept"}


def test_headers_that_come_again_are_made_once() -> None:
    same = SameHeaders({"accept": "a"})
    first, second = (request_fields("GET", "a", "/", same, None) for _ in range(2))
    assert first == second
    assert first[-1] is second[-1]


def test_an_answer_has_its_status_first_and_names_that_come_twice_joined() -> None:
    fields = [(b":status", b"204"), (b"a", b"1"), (b"b", "é".encode("latin-1")), (b"a", b"2")]
    assert answer_headers(fields) == (204, {"a": "1, 2", "b": "é"})


@pytest.mark.parametrize("status", [b"", b"20", b"2000", b"2x0", b"-20", b"099", "２00".encode()])
def test_a_status_is_three_digits(status: bytes) -> None:
    with pytest.raises(BadFields):
        answer_headers([(b":status", status)])


@pytest.mark.parametrize("count", [MAX_HEADER_LINES + 1, MAX_HEADER_LINES * 10])
def test_there_are_not_any_number_of_headers(count: int) -> None:
    with pytest.raises(BadFields):
        answer_headers([(b":status", b"200"), *[(b"a", b"b")] * count])
    assert answer_headers([(b":status", b"200"), *[(b"a", b"b")] * MAX_HEADER_LINES])[0] == 200


def test_nor_of_any_size() -> None:
    with pytest.raises(BadFields):
        answer_headers([(b":status", b"200"), (b"a", b"b" * MAX_HEAD_BYTES)])


@pytest.mark.parametrize("value", [b"a\nb", b"a\rb", b"a\0b", b"\x01", b"\x7f"])
def test_a_value_that_would_start_another_line_elsewhere_is_refused(value: bytes) -> None:
    with pytest.raises(BadFields):
        answer_headers([(b":status", b"200"), (b"a", value)])
    assert answer_headers([(b":status", b"200"), (b"a", b"\tb\tc ")]) == (200, {"a": "b\tc"})
