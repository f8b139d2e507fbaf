"""Who fails is left alone for a while, and tried again by one call."""

from mcp_gateway.config.models import ModelTarget
from mcp_gateway.models.health import Health
from mcp_gateway.rest.breaker import FAILURES_UNTIL_OPEN, LONGEST_REST_S, LONGEST_RETRY_AFTER_S

A, B = ModelTarget("a", "m"), ModelTarget("b", "m")


def broken(health: Health, *, is_dead: bool = False, now_s: float = 0.0) -> None:
    for _ in range(FAILURES_UNTIL_OPEN):
        health.failed(A, now_s, is_dead=is_dead)


def test_those_nobody_knows_are_well() -> None:
    assert Health().worth_trying([A, B], 0) == ([A, B], 0)


def test_a_few_failures_change_nothing() -> None:
    health = Health()
    for _ in range(FAILURES_UNTIL_OPEN - 1):
        health.failed(A, 0)
    assert health.worth_trying([A, B], 0)[0] == [A, B]


def test_one_that_keeps_failing_rests_while_others_are_left() -> None:
    health = Health()
    broken(health)
    assert health.worth_trying([A, B], 1)[0] == [B]
    assert health.worth_trying([A], 1)[0] == [A]


def test_one_that_does_not_answer_at_all_is_not_asked_while_it_rests() -> None:
    health = Health()
    broken(health, is_dead=True)
    todo, wait_s = health.worth_trying([A], 1)
    assert todo == []
    assert 0 < wait_s <= LONGEST_REST_S


def test_after_its_rest_one_call_tries_it_and_the_others_wait() -> None:
    health = Health()
    broken(health)
    assert health.worth_trying([A, B], LONGEST_REST_S)[0] == [A, B]
    assert health.worth_trying([A, B], LONGEST_REST_S)[0] == [B]
    health.worked(A)
    assert health.worth_trying([A, B], LONGEST_REST_S)[0] == [A, B]


def test_retry_after_is_kept_to_and_not_for_ever() -> None:
    health = Health()
    health.failed(A, 0, retry_after_s=30)
    assert health.worth_trying([A, B], 29)[0] == [B]
    assert health.worth_trying([A, B], 31)[0] == [A, B]
    health.failed(B, 0, retry_after_s=10**9)
    assert B in health.worth_trying([A, B], LONGEST_RETRY_AFTER_S + 1)[0]


def test_the_models_of_one_provider_are_told_apart() -> None:
    health = Health()
    health.failed(A, 0, retry_after_s=30)
    assert health.worth_trying([ModelTarget("a", "other")], 1)[0]
