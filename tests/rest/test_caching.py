"""Answers of plain APIs are given again exactly as long, and to whom, RFC 9111 and the operator say."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from mcp_gateway.cache import Bounds, Cache, Owner
from mcp_gateway.domain import CacheUse
from mcp_gateway.rest.caching import MAX_VARIANTS, Asked, CacheRules, Clocks, Ready, RouteCache, Stored, Visit
from mcp_gateway.rest.freshness import moment_in
from mcp_gateway.rest.matching import read_pattern

MINUTE = "public, max-age=60"
BOUNDS = Bounds()
ALICE, BOB = ("alice",), ("bob",)

Headers = Mapping[str, str]


@dataclass
class Api:
    """What the API says next, and what it was asked."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"cache-control": MINUTE})
    body: bytes = b"one"
    seen: list[Headers] = field(default_factory=list)

    def says(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.status, self.body = status, body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Trial:
    """A cache with clocks of its own, used as the sender of requests uses it."""

    def __init__(self, stale_s: float = 0.0, routes: str = "GET /v1/**", bounds: Bounds = BOUNDS) -> None:
        self.now_s = 1_000_000.0
        self.api = Api()
        self.entries = Cache[tuple[Stored, ...]](bounds)
        clocks = Clocks(lambda: self.now_s, lambda: self.now_s)
        rules = CacheRules((read_pattern(routes),), stale_s)
        self.cache = RouteCache(rules, ["http://orders.internal/api"], self.entries, clocks)
        self.count = 0

    def visit(self, path: str = "/v1/a", method: str = "GET", owner: Owner = ALICE, **said: Any) -> Visit:
        self.count += 1
        body, secret, route = said.pop("body", False), said.pop("secret", ""), said.pop("route", "")
        headers = {name.replace("_", "-"): value for name, value in said.items()}
        sent = {"accept-encoding": "identity", **headers}
        asked = Asked(owner, method, path, headers, sent, body, secret, f"r{self.count}", route)
        return self.cache.visit(asked)

    def ask(self, path: str = "/v1/a", method: str = "GET", owner: Owner = ALICE, **said: Any) -> Ready:
        visit = self.visit(path, method, owner, **said)
        return visit.at_once() or self.answer(visit)

    def answer(self, visit: Visit, keep: Callable[[Callable[[], None]], None] = lambda do: do()) -> Ready:
        """Let the API answer."""
        api = self.api
        api.seen.append(visit.sent(dict(visit.asked.sent)))
        length = {"content-length": str(len(api.body))}
        shown = dict(api.headers)
        ready = visit.answered(api.status, {"Content-Type": "text/plain", **length, **api.headers}, shown)
        if ready is None:
            for byte in api.body:
                visit.piece(bytes([byte]))
        do = visit.to_keep()
        if do is not None:
            keep(do)
        return ready or Ready(api.status, shown, api.body)


def status_of(answer: Ready) -> str:
    return answer.headers["cache-status"]


def test_a_fresh_answer_is_given_again_and_says_how_old_it_is() -> None:
    cache = Trial()
    first = cache.ask()
    assert status_of(first) == "mcp-gateway; fwd=uri-miss; stored"
    cache.now_s += 15
    again = cache.ask()
    assert (again.status, again.body, again.headers["age"]) == (200, b"one", "15")
    assert status_of(again) == "mcp-gateway; hit; ttl=45"
    assert again.cached is not None
    assert (again.cached.use, again.cached.source, again.cached.age_s) == (CacheUse.HIT, "r1", 15)
    assert len(cache.api.seen) == 1


def test_nobody_gets_what_is_somebody_elses() -> None:
    cache = Trial()
    cache.ask()
    cache.ask(owner=BOB)
    assert len(cache.api.seen) == 2


@pytest.mark.parametrize("path", ["/v1/a?b=1", "/v1/a?", "/v1/b"])
def test_another_address_is_another_answer(path: str) -> None:
    cache = Trial()
    cache.ask()
    cache.ask(path)
    assert len(cache.api.seen) == 2


def test_only_routes_that_are_named_are_cached() -> None:
    cache = Trial(routes="GET /v1/public/**")
    for _ in range(2):
        assert "cache-status" not in cache.ask("/v1/a").headers
        cache.ask("/v1/public/a")
    assert len(cache.api.seen) == 3


@pytest.mark.parametrize("said", [{"range": "bytes=0-1"}, {"if_match": '"1"'}, {"if_range": '"1"'}, {"body": True}])
def test_requests_that_are_not_for_caches_pass_by(said: dict[str, Any]) -> None:
    cache = Trial()
    cache.ask()
    for _ in range(2):
        assert "cache-status" not in cache.ask(**said).headers
    assert len(cache.api.seen) == 3


@pytest.mark.parametrize("wish", ["no-cache", "no-store", "max-age=5", "min-fresh=55", "max-age=0"])
def test_an_agent_can_ask_for_a_newer_one(wish: str) -> None:
    cache = Trial()
    cache.ask()
    cache.now_s += 10
    assert status_of(cache.ask(cache_control=wish)).startswith("mcp-gateway; fwd=request")
    assert len(cache.api.seen) == 2


def test_an_agent_can_ask_for_nothing_to_be_kept_or_asked() -> None:
    cache = Trial()
    cache.ask(cache_control="no-store")
    assert len(cache.entries) == 0
    assert cache.ask(cache_control="only-if-cached").status == 504
    assert len(cache.api.seen) == 1
    cache.ask()
    assert cache.ask(cache_control="only-if-cached").body == b"one"
    assert len(cache.api.seen) == 2


def test_pragma_counts_where_there_is_nothing_newer() -> None:
    cache = Trial()
    cache.ask()
    cache.ask(pragma="no-cache")
    assert len(cache.api.seen) == 2
    assert cache.ask(pragma="no-cache", cache_control="max-age=60").body == b"one"
    assert len(cache.api.seen) == 2


@pytest.mark.parametrize(
    "headers",
    [{"cache-control": "no-store"}, {"cache-control": "private"}, {"cache-control": MINUTE, "set-cookie": "a=b"}],
)
def test_what_the_api_forbids_is_not_kept(headers: dict[str, str]) -> None:
    cache = Trial()
    cache.api.headers = headers
    for _ in range(2):
        assert "stored" not in status_of(cache.ask())
    assert (len(cache.api.seen), len(cache.entries)) == (2, 0)


def test_what_was_got_with_a_secret_is_kept_only_if_the_api_says_that_it_may() -> None:
    cache = Trial()
    cache.api.headers = {"cache-control": "max-age=60"}
    cache.ask(secret="digest")
    assert len(cache.entries) == 0
    cache.ask()
    assert len(cache.entries) == 1


def test_what_was_got_with_one_secret_is_not_for_another() -> None:
    cache = Trial()
    for secret in ("one", "two", "", "one"):
        cache.ask(secret=secret)
    assert len(cache.api.seen) == 3
    cache.ask(method="PUT", secret="two")
    assert len(cache.entries) == 0


def test_an_answer_of_unknown_length_is_not_kept() -> None:
    visit = Trial().visit()
    visit.answered(200, {"cache-control": MINUTE}, {})
    visit.piece(b"half of")
    assert visit.to_keep() is None


def test_an_answer_that_is_too_large_is_not_kept_and_takes_no_room() -> None:
    cache = Trial(bounds=Bounds(max_bytes_each=1000))
    cache.api.body = b"x" * 1001
    visit = cache.visit()
    cache.answer(visit, keep=lambda do: pytest.fail("kept"))
    assert visit._pieces == []


def test_answers_that_depend_on_headers_are_told_apart() -> None:
    cache = Trial()
    cache.api.headers = {"cache-control": MINUTE, "vary": "Accept-Language"}
    cache.ask(accept_language="de")
    cache.api.body = b"two"
    assert status_of(cache.ask(accept_language="en")) == "mcp-gateway; fwd=vary-miss; stored"
    assert cache.ask(accept_language="de").body == b"one"
    assert cache.ask(accept_language="en").body == b"two"
    assert cache.ask().body == b"two"
    assert len(cache.api.seen) == 3


def test_routes_of_one_api_share_no_answer_for_what_they_send_alike() -> None:
    cache = Trial()
    cache.api.headers = {"cache-control": MINUTE}
    cache.ask(route="v1")
    cache.api.body = b"two"
    assert cache.ask(route="v2").body == b"two"
    assert cache.ask(route="v1").body == b"one"


def test_variants_are_bounded() -> None:
    cache = Trial()
    cache.api.headers = {"cache-control": MINUTE, "vary": "x"}
    for number in range(MAX_VARIANTS + 3):
        cache.ask(x=str(number))
    (kept,) = (cache.entries.get(ALICE, (id(cache.cache), "", "/v1/a", "")) or (),)
    assert len(kept) == MAX_VARIANTS


def test_an_old_answer_is_asked_about_and_given_again_if_it_still_holds() -> None:
    cache = Trial()
    cache.api.says(b"one", cache_control=MINUTE, etag='"1"', x_old="1")
    cache.ask()
    cache.now_s += 61
    cache.api.says(status=304, cache_control="public, max-age=10", etag='"1"')
    again = cache.ask(if_none_match='"canary"')
    assert cache.api.seen[-1]["if-none-match"] == '"1"'
    assert (again.status, again.body, again.headers["x-old"]) == (200, b"one", "1")
    assert status_of(again) == "mcp-gateway; fwd=stale; fwd-status=304"
    assert again.cached is not None
    assert (again.cached.use, again.cached.source) == (CacheUse.REVALIDATED, "r1")
    cache.now_s += 9
    assert status_of(cache.ask()) == "mcp-gateway; hit; ttl=1"
    assert len(cache.api.seen) == 2


def test_an_answer_that_must_be_asked_about_is_asked_about_every_time() -> None:
    cache = Trial()
    cache.api.says(b"one", cache_control="no-cache", etag='"1"')
    cache.ask()
    cache.api.says(status=304)
    for _ in range(2):
        assert cache.ask().body == b"one"
    assert len(cache.api.seen) == 3


def test_a_304_that_does_not_say_when_it_was_made_is_as_young_as_it_came() -> None:
    cache = Trial()
    cache.now_s = moment_in("Fri, 20 Nov 2026 12:00:00 GMT") or 0.0
    cache.api.says(b"one", cache_control=MINUTE, etag='"1"', date="Fri, 20 Nov 2026 12:00:00 GMT", age="1")
    cache.ask()
    cache.now_s += 3600
    cache.api.says(status=304)
    cache.ask()
    assert status_of(cache.ask()) == "mcp-gateway; hit; ttl=60"


def test_a_304_that_forbids_keeping_ends_the_keeping() -> None:
    cache = Trial()
    cache.api.says(b"one", cache_control="no-cache", etag='"1"')
    cache.ask()
    cache.api.says(status=304, cache_control="no-store")
    assert cache.ask().body == b"one"
    assert len(cache.entries) == 0


def test_a_304_about_something_else_is_refused() -> None:
    cache = Trial()
    cache.api.says(b"one", cache_control="no-cache", etag='"1"')
    cache.ask()
    cache.api.says(status=304, etag='"2"')
    with pytest.raises(ValueError, match="304"):
        cache.ask()
    assert len(cache.entries) == 0


@pytest.mark.parametrize("headers", [{"cache_control": "no-store"}, {"cache_control": MINUTE}])
def test_a_new_answer_takes_the_place_of_an_old_one_or_ends_it(headers: dict[str, str]) -> None:
    cache = Trial(stale_s=3600)
    cache.api.says(b"one", cache_control=MINUTE, etag='"1"')
    cache.ask()
    cache.now_s += 61
    cache.api.says(b"two", **headers)
    assert cache.ask().body == b"two"
    cache.api.says(b"down", 503)
    assert cache.ask().body == (b"down" if headers["cache_control"] == "no-store" else b"two")


def test_an_agent_that_has_it_gets_304_from_the_cache() -> None:
    cache = Trial()
    cache.api.says(b"one", cache_control=MINUTE, etag='"1"')
    cache.ask()
    known = cache.ask(if_none_match='"1"')
    assert (known.status, known.body, known.headers["etag"]) == (304, b"", '"1"')
    assert cache.ask(if_none_match='"2"').body == b"one"
    assert len(cache.api.seen) == 1


def test_an_agents_own_condition_passes_where_nothing_is_kept() -> None:
    cache = Trial()
    cache.api.says(status=304, etag='"1"')
    assert cache.ask(if_none_match='"1"').status == 304
    assert cache.api.seen[0]["if-none-match"] == '"1"'
    assert len(cache.entries) == 0


def test_head_is_answered_from_what_get_left_and_leaves_nothing() -> None:
    cache = Trial()
    cache.ask(method="HEAD")
    assert len(cache.entries) == 0
    cache.ask()
    answer = cache.ask(method="HEAD")
    assert (answer.status, answer.body, answer.headers["age"]) == (200, b"", "0")
    assert len(cache.api.seen) == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_changing_something_makes_everybody_ask_again(method: str) -> None:
    cache = Trial()
    for owner in (ALICE, BOB):
        cache.ask(owner=owner)
        cache.ask("/v1/a?b=1", owner=owner)
        cache.ask("/v1/b", owner=owner)
    cache.ask(method=method, owner=BOB)
    assert len(cache.entries) == 2
    assert {status_of(cache.ask(path)) for path in ("/v1/a", "/v1/a?b=1")} == {"mcp-gateway; fwd=uri-miss; stored"}
    assert "hit" in status_of(cache.ask("/v1/b"))


def test_what_a_change_names_as_changed_is_asked_for_again() -> None:
    cache = Trial()
    for path in ("/v1/orders/7", "/v1/orders/8", "/v1/orders/9"):
        cache.ask(path)
    cache.api.says(status=201, location="/api/v1/orders/7", content_location="http://orders.internal/api/v1/orders/8")
    cache.ask("/v1/orders", method="POST")
    cache.api.says(status=201, location="http://elsewhere.example/api/v1/orders/9")
    cache.ask("/v1/orders", method="POST")
    found = ["hit" in status_of(cache.ask(path)) for path in ("/v1/orders/7", "/v1/orders/8", "/v1/orders/9")]
    assert found == [False, False, True]


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_change_that_was_refused_changes_nothing(status: int) -> None:
    cache = Trial()
    cache.ask()
    cache.api.status = status
    cache.ask(method="POST")
    assert len(cache.entries) == 1


def test_a_change_that_nobody_knows_the_end_of_counts_as_one() -> None:
    cache = Trial()
    cache.ask()
    visit = cache.visit(method="POST")
    visit.unknown()
    assert len(cache.entries) == 0


def test_what_was_being_read_while_it_changed_is_not_kept() -> None:
    cache = Trial()
    visit = cache.visit()
    assert visit.at_once() is None
    cache.ask(method="PUT")
    cache.answer(visit)
    assert len(cache.entries) == 0


def test_what_changed_while_an_answer_waited_for_the_audit_is_not_kept() -> None:
    cache, waiting = Trial(), list[Callable[[], None]]()
    cache.answer(cache.visit(), keep=waiting.append)
    cache.ask(method="PUT")
    waiting.pop()()
    assert len(cache.entries) == 0


def test_requests_that_are_over_take_no_room() -> None:
    cache = Trial()
    for _ in range(3):
        cache.ask()
        cache.answer(cache.visit(), keep=lambda do: None)
    gc.collect()
    assert len(cache.cache._visits) == 0


def test_a_change_of_nobody_knows_what_empties_the_cache_of_its_api_and_no_other() -> None:
    cache = Trial()
    other = RouteCache(cache.cache.rules, [], cache.entries, cache.cache.clocks)
    visit = cache.visit("/v1/b")
    other.keep(visit.asked, Stored(200, {}, {}, b"", {}, 0, 0, 60, "r"))
    cache.ask()
    cache.cache.empty()
    cache.answer(visit)
    assert len(cache.entries) == 1
    assert "hit" not in status_of(cache.ask())
    assert "hit" in status_of(cache.ask())


def test_what_guards_or_the_audit_do_not_let_go_is_not_kept() -> None:
    cache = Trial()
    cache.answer(cache.visit(), keep=lambda do: None)
    assert len(cache.entries) == 0


@pytest.mark.parametrize("status", [500, 502, 503, 504, None])
def test_an_old_answer_stands_in_for_a_failure_only_where_the_operator_says_so(status: int | None) -> None:
    for stale_s, stands_in in ((0.0, False), (300.0, True)):
        cache = Trial(stale_s=stale_s)
        cache.ask()
        cache.now_s += 100
        cache.api.status = status or 200
        visit = cache.visit()
        assert visit.at_once() is None
        ready = visit.failed() if status is None else visit.answered(status, {}, {})
        assert (ready is not None) is stands_in
        if ready is not None:
            assert (ready.status, ready.body, ready.headers["age"]) == (200, b"one", "100")
            assert ready.cached is not None
            assert ready.cached.use is CacheUse.STALE
            assert status_of(ready).endswith("detail=stale-if-error")


@pytest.mark.parametrize(
    ("cache_control", "after_s", "stands_in"),
    [
        ("public, max-age=60", 360, True),
        ("public, max-age=60", 361, False),
        ("public, max-age=60, stale-if-error=10", 71, False),
        ("public, max-age=60, stale-if-error=3000", 361, False),
        ("public, max-age=60, must-revalidate", 61, False),
        ("s-maxage=60", 61, False),
    ],
)
def test_how_long_an_old_answer_may_stand_in(cache_control: str, after_s: int, stands_in: bool) -> None:
    cache = Trial(stale_s=300)
    cache.api.headers = {"cache-control": cache_control}
    cache.ask()
    cache.now_s += after_s
    visit = cache.visit()
    visit.at_once()
    assert (visit.failed() is not None) is stands_in


def test_an_api_that_has_become_another_one_takes_its_answers_along() -> None:
    cache = Trial()
    other = RouteCache(cache.cache.rules, [], cache.entries, cache.cache.clocks)
    cache.ask()
    late = cache.visit()
    other.keep(late.asked, Stored(200, {}, {}, b"", {}, 0, 0, 60, "r"))
    cache.cache.close()
    cache.answer(late)
    assert len(cache.entries) == 1
