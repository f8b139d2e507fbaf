"""States of routes and how they are told."""

from mcp_gateway.domain import Kind
from mcp_gateway.rest.lifecycle import Life, State, draft_of, with_life

NEW_YEAR = 1767225600


def test_what_is_active_says_nothing() -> None:
    assert Life().headers() == {}
    assert Life().words() == ""
    assert with_life({"etag": "1"}, Life()) == {"etag": "1"}
    assert not Life().is_told


def test_it_is_over_from_its_sunset_on_or_when_retired() -> None:
    assert not Life(State.DEPRECATED, NEW_YEAR, NEW_YEAR + 10).is_over(NEW_YEAR + 9.9)
    assert Life(State.DEPRECATED, NEW_YEAR, NEW_YEAR + 10).is_over(NEW_YEAR + 10)
    assert Life(State.RETIRED).is_over(0)
    assert not Life(State.DEPRECATED, NEW_YEAR).is_over(NEW_YEAR + 1e9)


def test_dates_are_written_as_their_specifications_say() -> None:
    # RFC 9745 section 2.1 has a date of RFC 9651, RFC 8594 section 3 an HTTP date.
    life = Life(State.DEPRECATED, 1688169599, 1719791999)
    assert life.headers() == {"deprecation": "@1688169599", "sunset": "Sun, 30 Jun 2024 23:59:59 GMT"}


def test_links_stand_beside_those_of_the_api_and_the_operators_dates_in_place_of_its() -> None:
    life = Life(State.DEPRECATED, NEW_YEAR, None, "https://a.example/why", "/v2")
    said = with_life({"link": '</b>; rel="next"', "deprecation": "@1", "date": "today"}, life)
    assert said == {
        "date": "today",
        "deprecation": f"@{NEW_YEAR}",
        "link": '</b>; rel="next", <https://a.example/why>; rel="deprecation", </v2>; rel="successor-version"',
    }


def test_a_tool_says_it_in_words() -> None:
    life = Life(State.DEPRECATED, NEW_YEAR, NEW_YEAR + 86400, "https://a.example/why", "/v2")
    assert life.words() == (
        "Deprecated since 2026-01-01. It ends on 2026-01-02. Use /v2 instead. See https://a.example/why."
    )
    assert Life(link="https://a.example/why", successor="/v2").words() == ""


def test_a_draft_is_a_target_of_its_own() -> None:
    target = draft_of("orders", "v3")
    assert (target.kind, target.key) == (Kind.ROUTE, "_drafts/orders/v3")
