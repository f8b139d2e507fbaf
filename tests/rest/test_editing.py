"""Edits of requests and answers: paths, queries, headers, bodies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.errors import BadRequest
from mcp_gateway.rest.editing import AnswerEdits, HeaderEdits, Plain, QueryEdits, RequestEdits, Rewrite, is_json_type
from mcp_gateway.rest.paths import MAX_PATH, canonical_path
from mcp_gateway.rest.pointers import Edit

V1_TO_V2 = RequestEdits(rewrite=Rewrite(("v1", "of", "{id}"), ("v2", "{id}", "all")))


def sent(edits: RequestEdits, path: str = "/a", query: str = "", body: bytes = b"", json: object = None) -> Plain:
    made, fault = edits.made_in("POST", Plain(path, query, body, json))
    assert fault == ""
    return made


@pytest.mark.parametrize(
    ("asked", "is_sent"),
    [
        ("/v1/of/7", "/v2/7/all"),
        ("/v1/of/7/lines/3", "/v2/7/all/lines/3"),
        ("/v1/of/a%20b", "/v2/a%20b/all"),
        ("/v1/of/", "/v1/of/"),
        ("/v1/of", "/v1/of"),
        ("/v1/off/7", "/v1/off/7"),
        ("/V1/of/7", "/V1/of/7"),
    ],
)
def test_a_path_is_rewritten_segment_by_segment(asked: str, is_sent: str) -> None:
    assert sent(V1_TO_V2, asked).path == is_sent


def test_the_beginning_of_every_path_can_be_written_anew_and_taken_off() -> None:
    assert sent(RequestEdits(rewrite=Rewrite((), ("api",))), "/a/b").path == "/api/a/b"
    assert sent(RequestEdits(rewrite=Rewrite(("api",), ())), "/api/b").path == "/b"
    assert sent(RequestEdits(rewrite=Rewrite(("api",), ())), "/api").path == "/"


@given(st.lists(st.text(min_size=1, max_size=8), max_size=5))
def test_what_is_sent_has_one_spelling_whatever_was_asked(parts: list[str]) -> None:
    try:
        asked = canonical_path(("/v1/of/" + "/".join(parts)).encode("utf-8", "surrogatepass"))
    except BadRequest:
        return
    is_sent = sent(V1_TO_V2, asked).path
    assert canonical_path(is_sent.encode()) == is_sent


def test_a_path_that_grows_too_long_is_refused() -> None:
    longer = RequestEdits(rewrite=Rewrite((), ("x" * 100,)))
    with pytest.raises(BadRequest, match="longer than"):
        longer.made_in("GET", Plain("/" + "a" * (MAX_PATH - 10), "", b"", None))


@pytest.mark.parametrize(
    ("asked", "is_sent"),
    [
        ("", "limit=10&tag=new%20one"),
        ("limit=1&limit=2&l%69mit=3", "limit=10&tag=new%20one"),
        ("debug&%64ebug=1&a=%31&tag=x", "a=%31&tag=x&limit=10&tag=new%20one"),
        ("debug+=1&&", "debug+=1&limit=10&tag=new%20one"),
    ],
)
def test_a_query_is_edited_by_decoded_names(asked: str, is_sent: str) -> None:
    edits = RequestEdits(query=QueryEdits(frozenset({"debug"}), {"limit": "10"}, {"tag": "new one"}))
    assert sent(edits, query=asked).query == is_sent


def test_without_edits_nothing_changes_by_a_byte() -> None:
    asked = Plain("/a%20b", "a=%31&&b", b'{ "a": 1 }', {"a": 1})
    assert RequestEdits().made_in("POST", asked) == (asked, "")


def test_headers_are_removed_then_set_then_added() -> None:
    edits = HeaderEdits(frozenset({"a", "b"}), {"b": "set"}, {"b": "more", "c": "new"})
    assert edits.made_in({"a": "1", "b": "2", "d": "3"}) == {"b": "set, more", "c": "new", "d": "3"}


def test_a_body_that_is_no_json_is_no_way_around_an_edit() -> None:
    edits = RequestEdits(body=(Edit("add", ("tenant",), 7),))
    assert sent(edits, body=b"{}", json={}).body == b'{"tenant":7}'
    assert edits.made_in("POST", Plain("/a", "", b"a=1", None))[1] == "the body has to be JSON"
    assert edits.made_in("POST", Plain("/a", "", b"", None))[1] == "the body has to be JSON"
    assert edits.made_in("GET", Plain("/a", "", b"", None))[1] == ""


def test_a_body_that_cannot_be_edited_is_left_as_it_was_and_the_path_is_not() -> None:
    edits = RequestEdits(body=(Edit("remove", ("a",)),), rewrite=Rewrite(("v1",), ("v2",)))
    made, fault = edits.made_in("POST", Plain("/v1", "", b'{"b":1}', {"b": 1}))
    assert (made, fault) == (Plain("/v2", "", b'{"b":1}', {"b": 1}), "there is no place /a in the body")


def test_an_answer_is_written_compactly() -> None:
    assert AnswerEdits(body=(Edit("remove", ("a",)),)).body_of({"a": 1, "b": [1.5, None]}) == b'{"b":[1.5,null]}'


@pytest.mark.parametrize(
    ("kind", "is_json"),
    [("application/json", True), ("Application/Problem+JSON ; a=b", True), ("text/plain", False), ("", False)],
)
def test_json_is_told_by_its_media_type(kind: str, is_json: bool) -> None:
    assert is_json_type(kind) is is_json
