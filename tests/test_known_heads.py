"""Heads known again but for the length of their bodies; the connections' own tests hold them to what a parser says."""

import pytest

from mcp_gateway.known_heads import MAX_HEAD_BYTES, MAX_HEADS, KnownHeads


def head(length: object, line: str = "Content-Length: ", first: str = "POST / HTTP/1.1") -> bytes:
    return f"{first}\r\nHost: a\r\n{line}{length}\r\nX: y\r\n\r\n".encode()


def knowing(*heads: bytes, body: bytes = b"abc") -> KnownHeads[bytes]:
    known = KnownHeads[bytes]()
    for each in heads:
        known.learn(each + body, body, each)
    return known


def test_a_head_is_found_with_its_end_and_the_length_it_tells() -> None:
    known = knowing(head(3))
    for length in (0, 3, 12, 123_456_789):
        found = known.find(head(length) + b"anything")
        assert found == (head(3), len(head(length)), length)


def test_a_head_may_be_learned_from_a_piece_with_no_body_some_of_it_or_all() -> None:
    for part in (b"", b"a", b"abc"):
        known = KnownHeads[str]()
        known.learn(head(3) + part, b"abc", "it")
        assert known.find(head(7)) == ("it", len(head(7)), 7)


@pytest.mark.parametrize(
    ("first", "body"),
    [
        (head(4), b"abc"),
        (head(3) + b"abd", b"abc"),
        (head(3) + b"abcd", b"abc"),
        (head(0), b""),
        (head("03"), b"abc"),
        (head("3 "), b"abc"),
        (head(3, "Content-Length : "), b"abc"),
        (head(3, "X-Length: "), b"abc"),
        (head(3, "Content-Length: 3\r\ncontent-length: "), b"abc"),
        (head(3, "X: " + "y" * MAX_HEAD_BYTES + "\r\nContent-Length: "), b"abc"),
        (head(3)[:-2], b"abc"),
        (b"", b""),
    ],
)
def test_what_is_not_plain_is_not_learned(first: bytes, body: bytes) -> None:
    known = KnownHeads[str]()
    known.learn(first, body, "it")
    assert known.find(head(3)) is None
    assert known.find(first + body) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        head(3)[:-2],
        head("+3"),
        head("3 "),
        head("03"),
        head(""),
        head("three"),
        head("1234567890"),
        head("\u0663"),
        head(3, "content-length: "),
        head(3, first="GET / HTTP/1.1"),
        head(3, "Content-Length: 3\r\nContent-Length: "),
        head(4).replace(b"X: y", b"X: z"),
        b"POST / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\nContent-Length: 3\r\n",
    ],
)
def test_what_differs_in_more_than_its_length_is_not_known(data: bytes) -> None:
    assert knowing(head(3)).find(data) is None


def test_the_oldest_head_goes_first() -> None:
    heads = [head(3, first=f"POST /{number} HTTP/1.1") for number in range(MAX_HEADS + 2)]
    known = knowing(*heads)
    assert [known.find(each) is not None for each in heads] == [False] * 2 + [True] * MAX_HEADS


def test_whoever_writes_the_line_another_way_is_learned_anew() -> None:
    known = knowing(head(3), head(3, "content-length:"))
    assert known.find(head(5, "content-length:")) is not None
    assert known.find(head(5)) is None
    known.learn(head(3) + b"abc", b"abc", head(3))
    assert known.find(head(5)) is not None
