"""Which route a request is on."""

from mcp_gateway.rest.editing import AnswerEdits, HeaderEdits, RequestEdits
from mcp_gateway.rest.lifecycle import Life
from mcp_gateway.rest.matching import read_pattern
from mcp_gateway.rest.pointers import Edit
from mcp_gateway.rest.routing import Route, route_of


def route(name: str, *match: str, **more: object) -> Route:
    return Route(name, tuple(read_pattern(text) for text in match), **more)  # type: ignore[arg-type]


def test_the_first_that_speaks_of_a_request_has_it() -> None:
    routes = [route("reads", "GET,HEAD /v1/**"), route("all", "* **")]
    names = [getattr(route_of(routes, method, "/v1/a", {}), "name", None) for method in ("GET", "POST")]
    assert names == ["reads", "all"]
    assert route_of(routes[:1], "POST", "/v1/a", {}) is None


def test_a_host_is_compared_without_its_port_and_in_any_case() -> None:
    routes = [route("v2", "* **", hosts=frozenset({"v2.example", "[::1]"}))]
    hosts = ("v2.example", "V2.EXAMPLE:8443", "[::1]:80", "[::1]", "evil.v2.example", "v2.example.evil", "")
    found = [route_of(routes, "GET", "/", {"host": host} if host else {}) is not None for host in hosts]
    assert found == [True, True, True, True, False, False, False]


def test_every_header_asked_for_has_to_be_there_with_one_of_its_values() -> None:
    wanted = {"accept-version": frozenset({"2", "2.1"}), "x-beta": frozenset({"yes"})}
    routes = [route("beta", "* **", headers=wanted)]
    assert route_of(routes, "GET", "/", {"accept-version": "2.1", "x-beta": "yes"}) is routes[0]
    assert route_of(routes, "GET", "/", {"accept-version": "2.1"}) is None
    assert route_of(routes, "GET", "/", {"accept-version": "2.1, 3", "x-beta": "yes"}) is None


def test_no_part_is_asked_for_of_an_answer_that_is_edited_as_a_whole() -> None:
    passed = {"range": "bytes=0-1", "if-range": "x", "accept": "*/*"}
    whole = route("a", "* **", answer=AnswerEdits(body=(Edit("remove", ("a",)),)))
    assert whole.request_headers(passed) == {"accept": "*/*"}
    edits = RequestEdits(HeaderEdits(set={"x-tenant": "7"}))
    assert route("b", "* **", request=edits).request_headers(passed) == {**passed, "x-tenant": "7"}


def test_an_answer_is_only_touched_where_there_is_something_to_say() -> None:
    assert not route("a", "* **", life=Life(link="https://a.example")).edits_answers
    assert route("a", "* **", life=Life(sunset_at=0)).edits_answers
    assert route("a", "* **", answer=AnswerEdits(HeaderEdits(frozenset({"etag"})))).edits_answers
