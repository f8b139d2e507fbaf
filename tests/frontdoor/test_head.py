"""Header lines looked through once, and nothing kept that says who is calling."""

from mcp_gateway.frontdoor import head
from mcp_gateway.frontdoor.head import MAX_KEPT, MAX_KEPT_BYTES, Head, Lines, head_of

LINES = [(b"host", b"a"), (b"accept", b"x"), (b"accept", b"y ")]


def secret(token: bytes) -> list[tuple[bytes, bytes]]:
    return [*LINES, (b"authorization", token), (b"content-length", b"7")]


def test_lines_are_found_by_name_and_counted_whole() -> None:
    found = Head(secret(b"Bearer s3cr3t"))
    assert found.authorization == ["Bearer s3cr3t"]
    assert found.lines.values("accept") == ["x", "y "]
    assert found.lines.fields == {"host": "a", "accept": "y"}
    assert found.count == 5
    assert found.size == sum(len(name) + len(value) for name, value in secret(b"Bearer s3cr3t"))


def test_equal_lines_are_judged_once_whoever_sends_them() -> None:
    asked: list[Lines] = []

    def judge(lines: Lines) -> int:
        asked.append(lines)
        return len(asked)

    first, second = Head(secret(b"one")), Head(secret(b"two"))
    assert (first.lines.judged(judge), second.lines.judged(judge)) == (1, 1)
    assert Head([(b"host", b"b")]).lines.judged(judge) == 2


def test_what_says_who_is_calling_is_not_kept() -> None:
    Head(secret(b"Bearer s3cr3t"))
    assert not any(b"authorization" in dict(key) for key in head._kept)


def test_what_is_kept_is_bounded() -> None:
    large = [(b"x", b"y" * MAX_KEPT_BYTES)]
    assert Head(large).lines is not Head(large).lines
    for n in range(MAX_KEPT + 10):
        Head([(b"x", b"%d" % n)])
    assert len(head._kept) <= MAX_KEPT


def test_a_request_is_looked_through_once() -> None:
    scope = {"headers": LINES}
    assert head_of(scope) is head_of(scope)
