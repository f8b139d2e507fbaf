"""What is remembered of one that listens."""

from dataclasses import replace

from mcp_gateway.domain import Caller, Era, Kind, Transport
from mcp_gateway.frontdoor.subscriber import Subscriber


def subscriber(caller: Caller, era: Era = Era.MODERN) -> Subscriber:
    return Subscriber(lambda: caller, era, Transport.HTTP, (Kind.TOOL,), lambda method: None)


def test_two_streams_of_one_agent_are_alike_and_others_are_not() -> None:
    caller = Caller("alice", "work", credential_id="k")
    mine = subscriber(caller).likeness_of(caller)
    assert subscriber(caller).likeness_of(caller) == mine
    others = [replace(caller, agent="bob"), replace(caller, task="rest"), replace(caller, credential_id="l")]
    assert mine not in [subscriber(other).likeness_of(other) for other in others]
    assert subscriber(caller, Era.LEGACY).likeness_of(caller) != mine


def test_it_counts_for_the_agent_it_began_as() -> None:
    assert subscriber(Caller("alice", None)).agent == "alice"


def test_who_subscribes_to_nothing_need_not_be_able_to_hear_of_it() -> None:
    subscriber(Caller("alice", None)).tell_updated("note:///open")
