"""What is remembered of one that listens."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from mcp_gateway.domain import Caller, Era, Kind, StartedTask, Transport
from mcp_gateway.frontdoor.subscriber import Subscriber, lasting

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
STARTED = StartedTask("abc", "alice", "work", NOW)


def subscriber(caller: Caller, era: Era = Era.MODERN) -> Subscriber:
    return Subscriber(lambda: caller, era, Transport.HTTP, (Kind.TOOL,), lambda method: None)


def test_two_streams_of_one_agent_are_alike_and_others_are_not() -> None:
    caller = Caller("alice", "work", credential_id="k")
    mine = subscriber(caller).likeness_of(caller)
    assert subscriber(caller).likeness_of(caller) == mine
    others = [replace(caller, agent="bob"), replace(caller, task="rest"), replace(caller, credential_id="l")]
    others.append(replace(caller, started=STARTED))
    assert mine not in [subscriber(other).likeness_of(other) for other in others]
    assert subscriber(caller, Era.LEGACY).likeness_of(caller) != mine


def test_it_counts_for_the_agent_it_began_as() -> None:
    assert subscriber(Caller("alice", None)).agent == "alice"


def test_who_subscribes_to_nothing_need_not_be_able_to_hear_of_it() -> None:
    subscriber(Caller("alice", None)).tell_updated("note:///open")


def test_the_end_a_started_task_had_at_the_beginning_ends_no_listening() -> None:
    """It may have been extended; when it is over, the closers know."""
    caller = Caller("alice", "work", started=STARTED)
    judged = lasting(caller)
    assert judged.started is not None
    assert judged.started.expires > NOW + timedelta(days=1000)
    assert judged.started_id == "abc"
    assert lasting(Caller("alice", None)).started is None
