"""What of a request's headers is sent over HTTP/2, and which answers' are believed."""

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.known_heads import MAX_HEADS
from mcp_gateway.upstreams.h2_fields import BadFields, Heads, answer_head, request_block
from mcp_gateway.upstreams.wire import SameHeaders
from mcp_gateway.upstreams.wire_connection import MAX_HEAD_BYTES, MAX_HEADER_LINES


def decoded(block: bytes) -> list[tuple[str, str]]:
    """The headers as a server sees them; it is asked to remember none of them."""
    decoder = Decoder()
    fields = decoder.decode(block)
    assert not decoder.header_table.dynamic_entries
    assert not any(field.indexable for field in fields)
    return [(str(name), str(value)) for name, value in fields]


@given(st.lists(st.tuples(st.from_regex(r"[a-z-]{1,300}", fullmatch=True), st.text("a0 \t~", max_size=5000))))
def test_a_server_sees_what_was_given(headers: list[tuple[str, str]]) -> None:
    known = {name: value for name, value in headers if name not in ("te", "upgrade", "connection", "keep-alive")}
    block = request_block("POST", "host:1", "/p?q", known, b"body")
    pseudo = [(":method", "POST"), (":scheme", "https"), (":authority", "host:1"), (":path", "/p?q")]
    told = [(name, value.strip(" \t")) for name, value in known.items()]
    assert decoded(block) == [*pseudo, *told, ("content-length", "4")]


def test_what_belongs_to_one_connection_is_not_sent() -> None:
    told = {"Keep-Alive": "5", "Proxy-Connection": "x", "Upgrade": "h2c", "TE": "trailers", "HTTP2-Settings": "x"}
    assert decoded(request_block("GET", "a", "/", {**told, "X-A": " b "}, None))[4:] == [("x-a", "b")]


def test_an_empty_body_has_a_length_and_no_body_has_none() -> None:
    assert ("content-length", "0") in decoded(request_block("POST", "a", "/", {}, b""))
    assert "content-length" not in dict(decoded(request_block("GET", "a", "/", {}, None)))


def test_headers_that_come_again_are_made_once() -> None:
    same = SameHeaders({"accept": "a"})
    first, second = (request_block("GET", "a", "/", same, None) for _ in range(2))
    assert first == second == request_block("GET", "a", "/", {"accept": "a"}, None)
    assert same.block and same.block in first


def test_an_answer_has_its_status_first_and_names_that_come_twice_joined() -> None:
    fields = [(b":status", b"204"), (b"a", b"1"), (b"b", "é".encode("latin-1")), (b"a", b"2")]
    assert answer_head(fields)[:2] == (204, {"a": "1, 2", "b": "é"})


@pytest.mark.parametrize("status", [b"", b"20", b"2000", b"2x0", b"-20", b"099", "２00".encode()])
def test_a_status_is_three_digits(status: bytes) -> None:
    with pytest.raises(BadFields):
        answer_head([(b":status", status)])


@pytest.mark.parametrize("count", [MAX_HEADER_LINES + 1, MAX_HEADER_LINES * 10])
def test_there_are_not_any_number_of_headers(count: int) -> None:
    with pytest.raises(BadFields):
        answer_head([(b":status", b"200"), *[(b"a", b"b")] * count])
    assert answer_head([(b":status", b"200"), *[(b"a", b"b")] * MAX_HEADER_LINES])[0] == 200


def test_nor_of_any_size() -> None:
    with pytest.raises(BadFields):
        answer_head([(b":status", b"200"), (b"a", b"b" * MAX_HEAD_BYTES)])


@pytest.mark.parametrize("value", [b"a\nb", b"a\rb", b"a\0b", b"\x01", b"\x7f"])
def test_a_value_that_would_start_another_line_elsewhere_is_refused(value: bytes) -> None:
    with pytest.raises(BadFields):
        answer_head([(b":status", b"200"), (b"a", value)])
    assert answer_head([(b":status", b"200"), (b"a", b"\tb\tc ")])[:2] == (200, {"a": "b\tc"})


def test_a_head_that_comes_again_means_what_the_table_says_by_then() -> None:
    heads, encoder = Heads(), Encoder()
    answer = [(":status", "200"), ("a", "1")]
    first, second, third = (encoder.encode(answer) for _ in range(3))
    assert second == third != first
    assert [heads.read(block).headers for block in (first, second, third)] == [{"a": "1"}] * 3
    assert heads.read(encoder.encode([(":status", "200"), ("b", "2")])).headers == {"b": "2"}
    assert heads.read(third).headers == {"b": "2"}, "the same byte means the newest entry of the table"


def test_only_so_many_heads_are_remembered() -> None:
    heads = Heads()
    for number in range(100):
        heads.read(b"\x88" + bytes([0x90 + number % 40]))
    assert len(heads._known) <= MAX_HEADS
