"""Which process a request belongs to; tests/walk/test_workers.py hands real ones on."""

from typing import Any

import pytest

from mcp_gateway.frontdoor.siblings import Siblings, _as_it_came


def scope(path: str = "/mcp", query: bytes = b"", **headers: str) -> dict[str, Any]:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "http_version": "1.1",
        "headers": lines,
    }


@pytest.mark.parametrize(
    ("request_", "home"),
    [
        (scope(), 0),
        (scope(mcp_session_id="3-abc"), 3),
        (scope(mcp_session_id="2-abc"), 0),  # it is ours
        (scope(mcp_session_id="9-abc"), 0),  # there is no such process (any more): nobody's, and told so here
        (scope(mcp_session_id="abc"), 0),
        (scope(mcp_session_id="-3-abc"), 0),
        (scope(dpop="proof"), 1),
        (scope(mcp_session_id="3-abc", dpop="proof"), 3),
        (scope("/connect/3-aaaaaaaaaaaaaaaaaaaaaaaa"), 3),
        (scope("/connect/aaaaaaaaaaaaaaaaaaaaaaaaaaaa"), 1),
        (scope("/connect/callback", b"code=c&state=3-xyz&iss=i"), 3),
        (scope("/connect/signed-in", b"state=2-xyz"), 0),
        (scope("/connect/client.json"), 1),
        (scope("/health"), 0),
    ],
)
def test_a_request_belongs_to_whoever_has_what_it_names(request_: dict[str, Any], home: int) -> None:
    assert Siblings(2, 3, lambda *_: None).home_of(request_) == home


def test_what_only_one_process_knows_bears_its_number() -> None:
    siblings = Siblings(2, 3, lambda *_: None)
    assert (siblings.mark, siblings.is_first) == ("2-", False)
    assert siblings.ids_after == 2**40
    assert [siblings.home_named(name) for name in ("3-x", "2-x", "x", "")] == [3, 0, 0, 0]


def test_a_request_is_handed_on_as_it_came() -> None:
    sent = _as_it_came(scope("/mcp/work", b"a=1", host="h", content_length="5"), b"he")
    assert sent == b"POST /mcp/work?a=1 HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhe"
    chunked = _as_it_came(scope(host="h", transfer_encoding="chunked"), b"hello")
    assert chunked == b"POST /mcp HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello"
