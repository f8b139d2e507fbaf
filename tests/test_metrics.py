"""What is counted, under which names, and that nobody who sends something makes a series."""

from __future__ import annotations

import asyncio
import random
import string
from dataclasses import replace

from fakes.waiting import until
from mcp_gateway.domain import (
    Caller,
    Decision,
    Effect,
    Kind,
    Outcome,
    OutcomeStatus,
    Reason,
    Request,
    Target,
    Usage,
    Verb,
)
from mcp_gateway.metrics import (
    CALLS,
    COST,
    DENIED,
    FAMILIES,
    LAG,
    OTHER,
    OWN_TIME,
    REFUSED,
    TOKENS,
    UNDER_WAY,
    UNPRICED,
    UPSTREAM_TIME,
    Family,
    Metrics,
    Names,
    Spread,
)

ALICE = Caller("alice", "work", person="idp:carol")
TARGET = Target(Kind.TOOL, "u", "echo", "u__echo", {}, "d" * 64)
ALLOWED = Decision(Effect.ALLOWED, Reason.GRANT)
DENIED_ = Decision(Effect.DENIED, Reason.UNKNOWN_TARGET)
OK = Outcome(OutcomeStatus.OK, {}, upstream_ms=30.0)
REFUSAL = Outcome(OutcomeStatus.REFUSED)
NAMES = Names(frozenset({"alice"}), frozenset({"work"}), frozenset({"u"}), frozenset({"p/gpt"}))


def asked(name: str = "u__echo") -> Request:
    return Request("r", Verb.CALL, "tools/call", Kind.TOOL, name, {"name": name, "arguments": {"q": "canary"}})


def counted(names: Names = NAMES, most: int = 2_000) -> Metrics:
    metrics = Metrics(most)
    metrics.names = names
    return metrics


def one_call(metrics: Metrics, caller: Caller = ALICE, target: Target = TARGET, outcome: Outcome = OK) -> None:
    metrics.opened(asked(), target)
    metrics.closed(asked(), target, outcome, 2.0)
    metrics.ended(caller, asked(), target, ALLOWED, outcome)


def values(metrics: Metrics, family: Family) -> dict[tuple[str, ...], float | Spread]:
    [taken] = [taken for taken in metrics.taken() if taken.family is family]
    return dict(taken.values)


def test_a_call_is_counted_by_kind_agent_task_upstream_decision_and_outcome() -> None:
    metrics = counted()
    one_call(metrics)
    one_call(metrics)
    assert values(metrics, CALLS) == {("call", "alice", "work", "u", "allowed", "ok"): 2}


def test_a_refusal_is_counted_by_its_reason() -> None:
    metrics = counted()
    metrics.ended(ALICE, asked("nothing"), None, DENIED_, REFUSAL)
    assert values(metrics, CALLS) == {("call", "alice", "work", "_none", "denied", "refused"): 1}
    assert values(metrics, DENIED) == {("alice", "unknown_target"): 1}


def test_a_call_is_under_way_until_it_is_closed() -> None:
    metrics = counted()
    metrics.opened(asked(), TARGET)
    metrics.opened(asked(), TARGET)
    assert values(metrics, UNDER_WAY) == {("call", "u"): 2}
    metrics.closed(asked(), TARGET, OK, 1.0)
    assert values(metrics, UNDER_WAY) == {("call", "u"): 1}


def test_the_gateways_own_time_and_the_upstreams_are_told_apart() -> None:
    metrics = counted()
    one_call(metrics)
    own, upstream = values(metrics, OWN_TIME)["call", "u"], values(metrics, UPSTREAM_TIME)["call", "u"]
    assert isinstance(own, Spread) and isinstance(upstream, Spread)
    assert (own.total, own.counts[OWN_TIME.bounds.index(0.0025)], sum(own.counts)) == (0.002, 1, 1)
    assert (upstream.total, upstream.counts[UPSTREAM_TIME.bounds.index(0.05)], sum(upstream.counts)) == (0.03, 1, 1)


def test_time_that_may_be_the_upstreams_is_not_taken_for_the_gateways_own() -> None:
    metrics = counted()
    one_call(metrics, outcome=Outcome(OutcomeStatus.TIMED_OUT))
    assert values(metrics, OWN_TIME) == values(metrics, UPSTREAM_TIME) == {}


def test_a_value_on_a_bound_is_in_the_bucket_of_that_bound_and_a_huge_one_beyond_all() -> None:
    metrics = counted()
    for ms in (5.0, 1e9):
        one_call(metrics, outcome=replace(OK, upstream_ms=ms))
    spread = values(metrics, UPSTREAM_TIME)["call", "u"]
    assert isinstance(spread, Spread)
    assert (spread.counts[0], spread.counts[-1]) == (1, 1)


def test_tokens_and_cost_are_counted_by_model_and_agent() -> None:
    metrics = counted()
    usage = Usage(input=40, output=20, cache_read=8, cost=0.25, model="p/gpt")
    one_call(metrics, outcome=replace(OK, usage=usage))
    one_call(metrics, outcome=replace(OK, usage=replace(usage, cost=None)))
    assert values(metrics, TOKENS) == {
        ("alice", "p/gpt", "input"): 80,
        ("alice", "p/gpt", "output"): 40,
        ("alice", "p/gpt", "cache_read"): 16,
    }
    assert values(metrics, COST) == {("alice", "p/gpt"): 0.25}
    assert values(metrics, UNPRICED) == {("alice", "p/gpt"): 1}


def test_names_that_nobody_configured_are_all_the_same_one() -> None:
    metrics = counted()
    letters = random.Random(7)
    for _ in range(500):
        name = "".join(letters.choices(string.printable, k=12))
        caller, target = Caller(name, name, person=name), replace(TARGET, upstream=name, name=name)
        usage = Usage(input=1, model=name, cost=1.0)
        one_call(metrics, caller, target, replace(OK, usage=usage))
        metrics.ended(caller, asked(name), None, DENIED_, REFUSAL)
        metrics.refused(f"http_401:{name}\n")
    shown = {label for taken in metrics.taken() for labels, _ in taken.values for label in labels}
    assert shown == {"call", OTHER, "_none", "allowed", "denied", "ok", "refused", "unknown_target", "input"}
    assert values(metrics, CALLS)["call", OTHER, OTHER, OTHER, "allowed", "ok"] == 500


def test_names_beyond_the_bound_are_counted_together_and_nothing_is_lost() -> None:
    agents = [f"a{number}" for number in range(50)]
    metrics = counted(replace(NAMES, agents=frozenset(agents)), most=10)
    for agent in agents * 2:
        one_call(metrics, Caller(agent, "work"))
    found = values(metrics, CALLS)
    assert len(found) == 11
    assert found["call", OTHER, OTHER, OTHER, "allowed", "ok"] == 80
    assert sum(value for value in found.values() if isinstance(value, (int, float))) == 100


def test_reasons_of_refusals_at_the_door_are_bounded_too() -> None:
    metrics = counted()
    for number in range(1_000):
        metrics.refused(f"http_{number}")
    found = values(metrics, REFUSED)
    assert len(found) == 101
    assert found[OTHER,] == 900


def test_a_name_that_policy_has_from_now_on_is_shown_from_now_on() -> None:
    metrics = counted()
    one_call(metrics, Caller("bob", "work"))
    metrics.names = replace(NAMES, agents=frozenset({"alice", "bob"}))
    one_call(metrics, Caller("bob", "work"))
    assert {labels[1]: value for labels, value in values(metrics, CALLS).items()} == {OTHER: 1, "bob": 1}


async def test_how_late_the_event_loop_is_is_measured() -> None:
    metrics = counted()
    watching = asyncio.create_task(metrics.watch_the_loop())

    def seen() -> bool:
        spread = values(metrics, LAG)[()]
        return isinstance(spread, Spread) and sum(spread.counts) > 0

    await until(seen)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def test_every_family_has_a_name_of_its_own_and_ascending_bounds() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert family.name.startswith("mcp_gateway_")
        assert list(family.bounds) == sorted(family.bounds)
        assert bool(family.bounds) == (family.kind == "histogram")
