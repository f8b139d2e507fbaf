"""Choosing among the addresses of one API."""

from collections import Counter
from contextlib import ExitStack
from email.utils import formatdate

from mcp_gateway.rest.breaker import FAILURES_UNTIL_OPEN, FIRST_REST_S, LONGEST_REST_S, Breaker, retry_after_s


def open_after_failures(breaker: Breaker, address: str, now_s: float) -> None:
    for _ in range(FAILURES_UNTIL_OPEN):
        breaker.failed(address, now_s)


def test_addresses_are_asked_by_weight() -> None:
    breaker = Breaker([("a", 3), ("b", 1)])
    assert Counter(breaker.choose(0)[0] for _ in range(400)) == {"a": 300, "b": 100}


def test_one_that_keeps_failing_is_left_alone_and_then_tried_by_one_call() -> None:
    breaker = Breaker([("a", 1)])
    open_after_failures(breaker, "a", 100)
    assert breaker.choose(100) == (None, FIRST_REST_S)
    assert breaker.choose(100 + FIRST_REST_S) == ("a", 0.0)
    assert breaker.choose(100 + FIRST_REST_S)[0] is None, "one call tries it, not all"
    breaker.worked("a")
    assert breaker.choose(100 + FIRST_REST_S) == ("a", 0.0)


def test_the_rest_grows_and_has_an_end() -> None:
    breaker = Breaker([("a", 1)])
    for _ in range(50):
        breaker.failed("a", 0)
    assert breaker.choose(0)[1] == LONGEST_REST_S


def test_others_take_over_and_none_is_asked_twice_by_one_call() -> None:
    breaker = Breaker([("a", 1), ("b", 1)])
    open_after_failures(breaker, "a", 0)
    assert [breaker.choose(0)[0] for _ in range(3)] == ["b", "b", "b"]
    assert breaker.choose(0, frozenset({"b"}))[0] is None


def test_what_it_says_of_when_to_come_back_is_kept_to() -> None:
    breaker = Breaker([("a", 1)])
    breaker.failed("a", 0, retry_after_s=30)
    assert breaker.choose(29)[0] is None
    assert breaker.choose(30)[0] == "a"


def test_retry_after_in_all_its_forms() -> None:
    assert retry_after_s({"retry-after": formatdate(1_000_030, usegmt=True)}, 1_000_000) == 30
    assert retry_after_s({"retry-after": "soon"}, 0) == 0
    assert retry_after_s({"retry-after": "-5"}, 0) == 0
    assert retry_after_s({"retry-after": "9" * 400}, 0) == 0
    assert retry_after_s({"retry-after": "1.5"}, 0) == 1.5
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "9"}, 0) == 0.25
    assert retry_after_s({}, 0) == 0


def test_by_load_the_one_with_the_least_to_do_for_its_weight_is_next() -> None:
    breaker = Breaker([("a", 1.0), ("b", 2.0)], by_load=True)
    with ExitStack() as under_way:
        chosen = []
        for _ in range(6):
            address, _wait_s = breaker.choose(0.0)
            assert address is not None
            under_way.enter_context(breaker.asking(address))
            chosen.append(address)
        assert Counter(chosen) == {"a": 2, "b": 4}
        assert breaker.choose(0.0, frozenset({"b"}))[0] == "a"
    with breaker.asking("b"), breaker.asking("b"):
        assert breaker.choose(0.0)[0] == "a"


def test_among_those_with_as_little_to_do_the_weights_take_turns() -> None:
    breaker = Breaker([("a", 1.0), ("b", 1.0)], by_load=True)
    assert {breaker.choose(0.0)[0] for _ in range(2)} == {"a", "b"}
