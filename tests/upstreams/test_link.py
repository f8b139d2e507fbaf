"""What one process tells another of an upstream arrives as it was meant, however it is cut up on the way."""

import asyncio
import socket
from dataclasses import replace

import pytest

from fakes.waiting import until
from mcp_gateway.domain import (
    Caller,
    Era,
    Json,
    Listing,
    Outcome,
    OutcomeStatus,
    RpcError,
    UpstreamState,
    UpstreamStatus,
)
from mcp_gateway.errors import AgentRefused, LoginNeeded, Misbehaved, TimedOut, Unreachable
from mcp_gateway.upstreams.connection import TooBusy
from mcp_gateway.upstreams.link import (
    FarSide,
    Link,
    Told,
    failure_of,
    outcome_of,
    plain_failure,
    plain_outcome,
    side_of,
)
from mcp_gateway.upstreams.refusals import Rejected

LISTING = Listing(
    "u",
    tools=({"name": "t", "inputSchema": {"type": "object"}},),
    capabilities={"tools": {}},
    instructions="do",
    problems=("left out",),
    extensions=frozenset({"x/tasks"}),
)
READY = UpstreamStatus("u", UpstreamState.READY, Era.LEGACY, "2025-11-25", "stdio")


async def test_messages_arrive_whole_and_in_order_and_the_end_is_noticed_once() -> None:
    one, other = socket.socketpair()
    heard: list[Json] = []
    lost: list[str] = []
    link = Link(heard.append, lambda: lost.append("it"))
    await link.connect(one)
    reader, writer = await asyncio.open_connection(sock=other)
    text = b'{"n":1}\n{"n":2,"text":"' + b"x" * 1_000_000 + b'"}\n{"n":3}\n'
    for begin in range(0, len(text), 99_991):
        writer.write(text[begin : begin + 99_991])
        await writer.drain()
    await until(lambda: len(heard) == 3)
    assert [message["n"] for message in heard] == [1, 2, 3]
    link.tell({"back": True})
    assert await reader.readline() == b'{"back":true}\n'
    writer.close()
    await until(lambda: lost == ["it"])
    link.tell({"to": "nobody"})


def test_what_is_told_of_an_upstream_is_understood_and_a_list_is_told_once() -> None:
    first = Told(READY, LISTING, ("tool:held",), offers_login=True)
    assert Told.of(first.plain(None), None) == first
    later = replace(first, status=replace(READY, state=UpstreamState.DOWN, retry_in_s=2.0))
    assert "listing" not in later.plain(first)
    assert Told.of(later.plain(first), first) == later


def test_an_upstream_that_starts_again_offers_meanwhile_what_it_did() -> None:
    before = Told(READY, LISTING)
    starting = Told(UpstreamStatus("u", UpstreamState.STARTING))
    assert Told.of(starting.plain(None), before).listing is LISTING
    assert Told.of(Told(replace(READY, state=UpstreamState.DOWN)).plain(None), before).listing is None


def test_only_a_modern_server_over_http_keeps_no_state() -> None:
    assert Told(replace(READY, era=Era.MODERN, transport="http")).is_stateless
    for status in (READY, replace(READY, era=Era.MODERN), replace(READY, transport="http"), replace(READY, era=None)):
        assert not Told(status).is_stateless


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(OutcomeStatus.OK, {"content": []}, upstream_ms=1.5),
        Outcome(OutcomeStatus.RPC_ERROR, error=RpcError(-32000, "no", {"why": 1})),
    ],
)
def test_an_outcome_is_the_same_on_the_other_side(outcome: Outcome) -> None:
    assert outcome_of(plain_outcome(outcome)) == outcome


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("u", "gone"),
        TimedOut("u", "late"),
        Misbehaved("u", "odd"),
        LoginNeeded("u", "who"),
        TooBusy("u", "full"),
        Rejected("u", "no", 401, 'Bearer realm="x"'),
        AgentRefused(-1, "will not", [1]),
    ],
)
def test_a_failure_is_the_same_on_the_other_side(error: Unreachable | AgentRefused) -> None:
    again = failure_of("u", plain_failure(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_two_sides_are_one_only_if_their_callers_are() -> None:
    caller = Caller("a", "t", person="p", claims={"scope": "x"}, credential_id="k", token="s")
    assert side_of(caller) == side_of(replace(caller))
    others = (
        replace(caller, agent="b"),
        replace(caller, task=None),
        replace(caller, person=None),
        replace(caller, claims={"scope": "y"}),
        replace(caller, credential_id="l"),
        replace(caller, token="r"),
        replace(caller, expires_at=5.0),
    )
    assert len({side_of(each) for each in (caller, *others)}) == 8
    assert side_of(object()) != side_of([])


def test_who_asks_over_another_process_is_who_asks_here() -> None:
    caller = Caller("a", "t", person="p", claims={"scope": "x"}, credential_id="k", token="s")
    far, other = FarSide(side_of(caller)), replace(caller, person="q")
    assert far == caller and caller == far and far == FarSide(side_of(caller))
    assert far != other and other != far and far != FarSide(side_of(other)) and far != side_of(caller)
