"""Waits grow to a bound, and never in step."""

from mcp_gateway.upstreams.backoff import Backoff


def test_waits_double_up_to_the_bound() -> None:
    waits = Backoff(1, 5, jitter=lambda: 1.0)
    assert [waits.next_s() for _ in range(5)] == [1, 2, 4, 5, 5]


def test_success_starts_over() -> None:
    waits = Backoff(1, 5, jitter=lambda: 1.0)
    waits.next_s()
    waits.reset()
    assert waits.next_s() == 1


def test_two_upstreams_do_not_come_back_in_step() -> None:
    firsts = {Backoff(1, 60).next_s() for _ in range(20)}
    assert len(firsts) > 1
    assert all(0.75 <= wait <= 1 for wait in firsts)
