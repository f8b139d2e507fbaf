"""RFC 9111, rule by rule."""

import pytest

from mcp_gateway.rest.freshness import (
    conditions,
    directives,
    initial_age_s,
    is_known_by,
    is_same,
    lifetime_s,
    may_be_stale,
    may_be_stored,
    moment_in,
    seconds_in,
    selecting,
)

NOON = "Fri, 20 Nov 2026 12:00:00 GMT"
LATER = "Fri, 20 Nov 2026 12:05:00 GMT"
NOON_S = moment_in(NOON) or 0.0


def storable(cache_control: str, status: int = 200, *, is_credentialed: bool = False, **headers: str) -> bool:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return may_be_stored(status, {"cache-control": cache_control, **named}, is_credentialed=is_credentialed)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('private="set-cookie, x-a", max-age=1', {"private": "set-cookie, x-a", "max-age": "1"}),
        ("MAX-AGE=1 , PUBLIC", {"max-age": "1", "public": ""}),
        ("max-age=1, max-age=1", {"max-age": "1"}),
        ("max-age=1, max-age=2", {"max-age": ""}),
        ("no-cache,,public", {"no-cache": "", "public": ""}),
        ("", {}),
    ],
)
def test_directives_are_read(text: str, found: dict[str, str]) -> None:
    assert directives(text) == found


@pytest.mark.parametrize("text", ["max-age=60; public", "public max-age=60", '"', 'private="a', "ünlesbar"])
def test_what_cannot_be_read_is_not_stored(text: str) -> None:
    assert "no-store" in directives(text)


@pytest.mark.parametrize("value", ["", "-1", "1.5", "soon", "9" * 30])
def test_seconds_that_are_none_are_none(value: str) -> None:
    assert seconds_in({"max-age": value}, "max-age") == 0


@pytest.mark.parametrize(
    ("cache_control", "may"),
    [
        ("max-age=60", True),
        ("s-maxage=60", True),
        ("max-age=0", False),
        ("no-store, max-age=60", False),
        ("private, max-age=60", False),
        ('private="x-a", max-age=60', False),
        ("no-cache", False),
        ("public", False),
        ("", False),
    ],
)
def test_what_may_be_stored(cache_control: str, may: bool) -> None:
    assert storable(cache_control) is may


def test_nothing_is_kept_on_a_guess_but_what_can_be_asked_about() -> None:
    """Heuristics would keep an old `Last-Modified` for a day; here it is asked about each time."""
    old = {"last-modified": "Fri, 20 Nov 2020 12:00:00 GMT", "date": NOON}
    assert may_be_stored(200, old, is_credentialed=False)
    assert lifetime_s(old, NOON_S) == 0


@pytest.mark.parametrize("status", [206, 302, 303, 307, 304, 400, 401, 403, 500, 503])
def test_parts_and_answers_for_one_moment_are_not_stored(status: int) -> None:
    assert not storable("public, max-age=60", status)


def test_cookies_parts_and_answers_that_depend_on_everything_are_not_stored() -> None:
    assert not storable("public, max-age=60", set_cookie="a=b")
    assert not storable("public, max-age=60", content_range="bytes 0-1/2")
    assert not storable("public, max-age=60", vary="accept, *")
    assert storable("public, max-age=60", vary="accept")


@pytest.mark.parametrize(
    ("cache_control", "may"),
    [("max-age=60", False), ("public, max-age=60", True), ("s-maxage=60", True), ("max-age=60, must-revalidate", True)],
)
def test_what_was_got_with_a_secret_is_stored_only_if_the_api_says_so(cache_control: str, may: bool) -> None:
    """RFC 9111 section 3.5."""
    assert storable(cache_control, is_credentialed=True) is may


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"cache-control": "s-maxage=5, max-age=60"}, 5),
        ({"cache-control": "max-age=60", "expires": LATER, "date": NOON}, 60),
        ({"expires": LATER, "date": NOON}, 300),
        ({"expires": LATER}, 290),
        ({"expires": NOON, "date": LATER}, 0),
        ({"expires": "0", "date": NOON}, 0),
        ({"cache-control": "max-age=oops", "expires": LATER, "date": NOON}, 0),
        ({"cache-control": "no-cache, max-age=60"}, 0),
        ({}, 0),
    ],
)
def test_how_long_an_answer_is_fresh(headers: dict[str, str], seconds: float) -> None:
    assert lifetime_s(headers, NOON_S + 10) == seconds


@pytest.mark.parametrize(
    ("headers", "age"),
    [
        ({}, 2),
        ({"age": "30"}, 32),
        ({"date": NOON}, 12),
        ({"date": NOON, "age": "5"}, 12),
        ({"date": LATER}, 2),
        ({"age": "soon"}, 2),
    ],
)
def test_how_old_an_answer_is_when_it_comes(headers: dict[str, str], age: float) -> None:
    assert initial_age_s(headers, NOON_S + 10, NOON_S + 12) == age


@pytest.mark.parametrize("said", ["must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"])
def test_what_may_not_be_given_when_it_is_too_old(said: str) -> None:
    assert may_be_stale({"cache-control": "max-age=1"})
    assert not may_be_stale({"cache-control": f"max-age=1, {said}"})


def test_what_is_asked_about_is_what_the_api_gave() -> None:
    assert conditions({"etag": '"1"', "last-modified": NOON}) == {"if-none-match": '"1"', "if-modified-since": NOON}
    assert conditions({"etag": "unquoted", "last-modified": "once"}) == {}


@pytest.mark.parametrize(
    ("asked", "is_known"),
    [
        ({"if-none-match": '"1"'}, True),
        ({"if-none-match": 'W/"1"'}, True),
        ({"if-none-match": '"0", "1"'}, True),
        ({"if-none-match": "*"}, True),
        ({"if-none-match": '"2"', "if-modified-since": LATER}, False),
        ({"if-modified-since": NOON}, True),
        ({"if-modified-since": LATER}, True),
        ({"if-modified-since": "Fri, 20 Nov 2026 11:59:59 GMT"}, False),
        ({"if-modified-since": "once"}, False),
        ({}, False),
    ],
)
def test_an_agent_that_has_it_already_is_recognised(asked: dict[str, str], is_known: bool) -> None:
    assert is_known_by(asked, {"etag": '"1"', "last-modified": NOON}) is is_known


def test_a_304_speaks_of_what_it_names() -> None:
    assert is_same({"etag": '"1"'}, {})
    assert is_same({"etag": 'W/"1"'}, {"etag": '"1"'})
    assert not is_same({"etag": '"1"'}, {"etag": '"2"'})


def test_vary_names_headers() -> None:
    assert selecting({"vary": "Accept, accept-language,"}) == ("accept", "accept-language")
    assert selecting({"vary": "*"}) is None
    assert selecting({}) == ()


def test_dates_are_in_gmt_whether_they_say_so_or_not() -> None:
    assert moment_in("Sun Nov  6 08:49:37 1994") == moment_in("Sun, 06 Nov 1994 08:49:37 GMT")
    assert moment_in("-1") is None
