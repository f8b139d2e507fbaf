"""One spelling for each path, and none for what can be read in two ways."""

from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.errors import BadRequest
from mcp_gateway.rest.paths import MAX_PATH, canonical_path, canonical_segment, checked_query

SPELLINGS = {
    "/v1/orders/7": ["/v1/orders/7", "/v1/%6Frders/7", "/v1/%6frders/%37", "/%76%31/orders/7", "/v1/order%73/7"],
    "/v1/a%20b": ["/v1/a%20b", "/v1/%61%20%62"],
    "/v1/%C3%A9": ["/v1/%c3%a9", "/v1/%C3%A9", "/v1/%c3%A9"],
    "/v1/a~b-c_d.e": ["/v1/a~b-c_d.e", "/v1/a%7Eb%2Dc%5Fd%2Ee", "/v1/a%7eb%2dc%5fd%2ee"],
    "/v1/x:y@z": ["/v1/x:y@z", "/v1/x%3Ay%40z", "/v1/x%3ay@z"],
    "/v1/a;b=1": ["/v1/a;b=1", "/v1/a%3Bb%3D1"],
    "/v1/100%25": ["/v1/100%25"],
    "/v1/": ["/v1/", "/%76%31/"],
    "/": ["/"],
    "/...": ["/...", "/%2e.."],
}
REFUSED = [
    "/v1/../admin", "/v1/./x", "/..", "/.", "/v1/..", "/v1/%2e%2e/admin", "/v1/.%2e/admin", "/v1/%2E%2E/admin",
    "/v1/%2e/x", "/v1/..;/admin", "/v1/..;a=b/admin", "/v1/.;/x", "/v1/%2e%2e%3b/admin", "/v1/%2e%2e;x/admin",
    "/v1//admin", "//evil.example/x", "//", "/v1/%2fadmin", "/v1%2fadmin", "/v1/%2Fadmin", "/v1/a%2f..%2fadmin",
    "/v1/%5cadmin", "/v1/%5Cadmin", "/v1/..%5cadmin", "/v1/%252e%252e/admin", "/v1/%25%32%65/x", "/v1/a%252fb",
    "/v1/a%2541", "/v1/%00", "/v1/a%00.json", "/v1/%0a", "/v1/a%0d%0aX: y", "/v1/%7f", "/v1/%c2%80",
    "/v1/%c0%ae%c0%ae/x", "/v1/%c0%af", "/v1/%ff", "/v1/%ed%a0%80", "/v1/%", "/v1/%2", "/v1/%zz", "/v1/a b", "/v1/a\tb",
    "/v1/a\\b", "/v1/<x>", '/v1/"x"', "/v1/{id}", "/v1/a|b", "/v1/a^b", "/v1/a`b", "/v1/a?b", "/v1/a#b",
    "v1/orders", "", "http://evil.example/x", "/v1/é", "/v1/. ", "/v1/%20../x", "/v1/..%20/x", "*",
]  # fmt: skip


@pytest.mark.parametrize("path", SPELLINGS)
def test_all_spellings_of_a_path_become_one(path: str) -> None:
    assert {canonical_path(spelling.encode()) for spelling in SPELLINGS[path]} == {path}


@pytest.mark.parametrize("path", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(path: str) -> None:
    with pytest.raises(BadRequest):
        canonical_path(path.encode())


def test_there_are_as_many_spellings_as_were_promised() -> None:
    assert len(REFUSED) + sum(map(len, SPELLINGS.values())) >= 60


@given(st.binary(max_size=60))
def test_the_one_spelling_is_its_own_and_nothing_in_it_escapes(raw: bytes) -> None:
    try:
        path = canonical_path(b"/" + raw)
    except BadRequest:
        return
    assert canonical_path(path.encode()) == path
    assert path.isascii()
    assert not {"..", "."} & {segment.partition(";")[0] for segment in unquote(path).split("/")}
    assert unquote(path).count("/") == path.count("/")


@given(st.text(min_size=1, max_size=40))
def test_a_value_stands_in_a_path_as_itself_or_not_at_all(value: str) -> None:
    try:
        segment = canonical_segment(value)
    except BadRequest:
        return
    assert unquote(segment) == value
    assert canonical_path(f"/v1/{segment}".encode()) == f"/v1/{segment}"
    assert quote(segment, safe="%!$&'()*+,;=:@~") == segment


@pytest.mark.parametrize("value", ["", "..", ".", "a/b", "..;x", "a\\b", "\x00", "a\nb", "%2e%2e", "%2f"])
def test_a_value_that_would_change_the_path_is_refused(value: str) -> None:
    with pytest.raises(BadRequest):
        canonical_segment(value)


def test_a_query_goes_on_as_it_came_or_not_at_all() -> None:
    assert checked_query(b"a=1&b=%20x&c[]=2&d={x}") == "a=1&b=%20x&c[]=2&d={x}"
    for query in (b"a=%", b"a= b", b"a=\r\nX: y", b"a=%00", b"a=\xff", b"x" * 20_000):
        with pytest.raises(BadRequest):
            checked_query(query)


def test_a_path_has_an_end() -> None:
    with pytest.raises(BadRequest, match="longer than"):
        canonical_path(b"/" + b"a" * MAX_PATH)
