"""Who is told that a resource changed, and what upstreams are asked for because of it."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from fakes.front import POLICY, Front, listing, parts, snapshot
from fakes.upstream import FakeUpstream
from fakes.waiting import until
from mcp_gateway.catalog.catalog import build
from mcp_gateway.domain import Caller, Era, Kind, Listing, Transport
from mcp_gateway.errors import BadRequest, NotAvailable, OverLimit
from mcp_gateway.frontdoor import updates as module
from mcp_gateway.frontdoor.subscriber import Subscriber
from mcp_gateway.frontdoor.updates import subscription

OPEN, SHUT, SHELVED = "note:///open", "note:///shut", "shelf:///open/1"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Front]:
    async with parts(tmp_path) as opened:
        yield opened
        assert opened.updates._timer is None, "a test ends when what it caused has been told"


class Hearing:
    """A subscriber that writes down what it is told."""

    def __init__(self, made: Front, caller: Caller | None = None, **more: Any) -> None:
        self.told: list[str] = []
        self.made = made
        self.caller = caller or made.caller()
        self.subscriber = Subscriber(
            lambda: self.caller, Era.LEGACY, Transport.HTTP, tuple(Kind), lambda method: None, self.told.append, **more
        )

    async def subscribe(self, uri: str) -> None:
        request = replace(subscription(self.subscriber, uri), request_id="r")
        await self.made.updates.subscribe(self.caller, request, self.subscriber)

    async def subscribe_all(self, *uris: str) -> tuple[str, ...]:
        request = subscription(self.subscriber, "", "subscriptions/listen")
        return await self.made.updates.subscribe_all(self.caller, request, uris, self.subscriber)


async def noted(made: Front, *uris: str, upstream: str = "u") -> None:
    """The upstream says that these changed, and everybody who is to be told has been."""
    for uri in uris:
        made.updates.note(upstream, uri)
    await until(lambda: made.updates._timer is None)


def nothing_is_kept(made: Front) -> bool:
    updates = made.updates
    kept = (updates.count, updates._subscribers_of, updates._upstream_of, updates._watched, updates._count_of)
    return not any(kept) and made.u.watched == frozenset()


# Who is told


@pytest.mark.parametrize("uri", [OPEN, SHELVED])
async def test_whoever_subscribed_is_told_and_nobody_else(made: Front, uri: str) -> None:
    mine, another = Hearing(made), Hearing(made)
    await mine.subscribe(uri)
    await noted(made, uri, SHUT)
    assert (mine.told, another.told) == ([uri], [])
    assert made.updates.dropped == {"nobody subscribed": 1}


async def test_changes_that_meet_are_told_once(made: Front) -> None:
    mine = Hearing(made)
    await mine.subscribe(OPEN)
    await noted(made, *[OPEN] * 1000)
    assert mine.told == [OPEN]


@pytest.mark.parametrize("uri", [SHUT, "note:///none", "shelf:///shut/1", "no uri", "shelf:///open/../shut/1"])
async def test_forbidden_and_unknown_are_refused_alike_and_written_down(made: Front, uri: str) -> None:
    mine = Hearing(made)
    with pytest.raises(NotAvailable):
        await mine.subscribe(uri)
    await noted(made, uri)
    assert mine.told == []
    assert nothing_is_kept(made)
    assert made.rows("kind, decision, outcome, name") == [("subscribe", "denied", "refused", uri)]


async def test_a_listen_gets_what_it_may_read_in_the_order_it_asked(made: Front) -> None:
    mine = Hearing(made)
    assert await mine.subscribe_all(SHELVED, SHUT, OPEN, "note:///none", OPEN) == (SHELVED, OPEN)
    written = {(decision, name) for decision, name in made.rows("decision, name")}
    assert written == {("allowed", SHELVED), ("allowed", OPEN), ("denied", SHUT), ("denied", "note:///none")}
    assert len(made.rows()) == 4


async def test_a_policy_edit_silences_and_speaks_again(made: Front) -> None:
    mine = Hearing(made)
    await mine.subscribe(OPEN)
    made.offer(policy=POLICY.replace('"resource:u/note:///open"', '"resource:u/note:///other"'))
    await noted(made, OPEN)
    assert mine.told == []
    made.offer()
    await noted(made, OPEN)
    assert mine.told == [OPEN]


async def test_whoever_loses_its_task_is_not_told(made: Front) -> None:
    mine = Hearing(made)
    await mine.subscribe(OPEN)
    mine.caller = replace(mine.caller, task="rest")
    await noted(made, OPEN)
    assert (mine.told, made.updates.dropped) == ([], {"not allowed": 1})


async def test_conditions_judge_a_subscription_as_a_read(made: Front) -> None:
    grant = (
        '\n[[tasks.work.grant]]\ntools = ["resource:u/note:///shut"]\nwhen = \'request.method == "resources/read"\'\n'
    )
    made.offer(policy=POLICY + grant)
    mine = Hearing(made)
    await mine.subscribe(SHUT)
    await noted(made, SHUT)
    assert mine.told == [SHUT]


async def test_nobody_announces_changes_of_what_is_not_theirs(made: Front) -> None:
    mine = Hearing(made)
    await mine.subscribe(OPEN)
    await noted(made, OPEN, upstream="v")
    assert (mine.told, made.updates.dropped) == ([], {"nobody subscribed": 1})


async def test_a_thousand_sessions_of_one_agent_are_judged_once(made: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    everybody = [Hearing(made) for _ in range(1000)]
    for one in everybody:
        made.updates._add(one.subscriber, OPEN)
    judged = []
    may_hear = made.gateway.may_hear
    monkeypatch.setattr(made.gateway, "may_hear", lambda *way: (judged.append(way), may_hear(*way))[1])
    await noted(made, OPEN)
    assert len(judged) == 1
    assert all(one.told == [OPEN] for one in everybody)


async def test_a_sub_resource_is_told_to_those_above_it_who_may_read_it(made: Front) -> None:
    shelf = {"uri": "shelf:///open", "name": "the shelf"}
    offered = replace(listing(), resources=(*listing().resources, shelf))
    policy = POLICY.replace('"resource:u/note:///open",', '"resource:u/note:///open", "resource:u/shelf:///open",')
    made.gateway.swap(snapshot(made.u, offered, policy))
    made.bulletin.publish()
    mine = Hearing(made)
    await mine.subscribe("shelf:///open")
    await noted(made, SHELVED, "shelf:///opened/1", "shelf:///shut/1", "shelf:///open/no/such")
    assert mine.told == [SHELVED]


# Until it listens


async def test_what_is_missed_is_told_later_as_far_as_it_still_may(made: Front) -> None:
    mine = Hearing(made, is_listening=False)
    await mine.subscribe_all(OPEN, SHELVED, "shelf:///open/2")
    await noted(made, OPEN, SHELVED, OPEN, "shelf:///open/2")
    assert mine.told == []
    made.updates.unsubscribe(mine.subscriber, "shelf:///open/2")
    made.offer(policy=POLICY.replace('"resource:u/note:///open"', '"resource:u/note:///other"'))
    made.updates.resume(mine.subscriber)
    assert mine.told == [SHELVED]
    made.updates.resume(mine.subscriber)
    assert mine.told == [SHELVED]


async def test_what_is_missed_is_bounded(made: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MISSED", 1)
    mine = Hearing(made, is_listening=False)
    await mine.subscribe_all(OPEN, SHELVED)
    await noted(made, OPEN, SHELVED)
    assert len(mine.subscriber.missed) == 1
    assert made.updates.dropped == {"nobody listening": 1}


# What upstreams are asked for


async def test_an_upstream_is_asked_while_anybody_is_subscribed(made: Front) -> None:
    one, two = Hearing(made), Hearing(made)
    await one.subscribe(OPEN)
    await two.subscribe_all(OPEN, SHELVED)
    assert made.u.watched == {OPEN, SHELVED}
    made.updates.forget(two.subscriber)
    assert made.u.watched == {OPEN}
    made.updates.unsubscribe(one.subscriber, OPEN)
    made.updates.unsubscribe(one.subscriber, OPEN)
    assert nothing_is_kept(made)


async def test_subscribing_twice_is_subscribing_once(made: Front) -> None:
    mine = Hearing(made)
    await mine.subscribe(OPEN)
    await mine.subscribe(OPEN)
    assert made.updates.count == 1
    made.updates.unsubscribe(mine.subscriber, OPEN)
    assert nothing_is_kept(made)


async def test_a_session_that_ended_meanwhile_leaves_nothing_behind(made: Front) -> None:
    mine = Hearing(made)
    made.bulletin.unsubscribe(mine.subscriber)
    await mine.subscribe(OPEN)
    assert await mine.subscribe_all(OPEN, SHELVED) == ()
    assert nothing_is_kept(made)


async def test_what_the_upstream_declines_is_not_promised(made: Front) -> None:
    made.u.refuses = frozenset({OPEN})
    mine = Hearing(made)
    with pytest.raises(BadRequest, match="does not announce"):
        await mine.subscribe(OPEN)
    assert nothing_is_kept(made)
    assert await mine.subscribe_all(OPEN, SHELVED) == (SHELVED,)
    assert made.u.watched == {SHELVED}


async def test_a_subscription_given_up_while_the_upstream_is_asked_is_none(made: Front) -> None:
    async def declined(uris: frozenset[str]) -> frozenset[str]:
        await anyio.sleep_forever()
        raise AssertionError

    made.u.declined = declined  # type: ignore[method-assign]
    mine = Hearing(made)
    with anyio.move_on_after(0.01):
        await mine.subscribe(OPEN)
    assert nothing_is_kept(made)


async def test_a_resource_that_moves_is_watched_where_it_is(made: Front) -> None:
    mine = Hearing(made)
    await mine.subscribe(OPEN)
    v = FakeUpstream("v")
    policy = POLICY.replace('"resource:u/note:///open"', '"resource:v/note:///open"')
    moved = replace(
        snapshot(made.u, Listing("u"), policy),
        catalog=build([Listing("v", resources=({"uri": OPEN, "name": "open"},))], {}),
        upstreams={"u": made.u, "v": v},
    )
    made.gateway.swap(moved)
    made.bulletin.publish()
    assert (made.u.watched, v.watched) == (frozenset(), {OPEN})
    await noted(made, OPEN)
    assert mine.told == []
    await noted(made, OPEN, upstream="v")
    assert mine.told == [OPEN]


async def test_a_resource_that_is_gone_is_not_watched_and_comes_back(made: Front) -> None:
    mine = Hearing(made)
    await mine.subscribe(OPEN)
    made.gateway.swap(snapshot(made.u, Listing("u")))
    made.bulletin.publish()
    assert made.u.watched == frozenset()
    made.offer()
    assert made.u.watched == {OPEN}
    made.updates.forget(mine.subscriber)
    assert nothing_is_kept(made)


async def test_an_upstream_in_anothers_place_is_asked_for_the_same(made: Front) -> None:
    mine = Hearing(made)
    await mine.subscribe(OPEN)
    made.u = FakeUpstream("u")
    made.offer()
    assert made.u.watched == {OPEN}


# Bounds


async def test_one_agent_cannot_take_all_places(made: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_URIS_PER_AGENT", 2)
    monkeypatch.setattr(module, "MAX_URIS", 3)
    one, two, bob = Hearing(made), Hearing(made), Hearing(made, made.caller("bob", "work"))
    await one.subscribe(OPEN)
    assert await two.subscribe_all(OPEN, SHELVED) == (OPEN,)
    with pytest.raises(OverLimit):
        await two.subscribe(SHELVED)
    made.updates._add(bob.subscriber, OPEN)
    with pytest.raises(OverLimit):
        await bob.subscribe(SHELVED)
    for each in (one, two, bob):
        made.updates.forget(each.subscriber)
    assert nothing_is_kept(made)


async def test_more_is_not_even_looked_at_than_one_agent_may_have(made: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_URIS_PER_AGENT", 2)
    assert len(await Hearing(made).subscribe_all(*(f"shelf:///open/{n}" for n in range(50)))) == 2
    assert len(made.rows()) == 2


async def test_a_flood_is_bounded_and_told_at_a_pace_that_leaves_time_for_others(
    made: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 2)
    mine = Hearing(made)
    await mine.subscribe_all(OPEN, SHELVED, "shelf:///open/2")
    await noted(made, OPEN, SHELVED, "shelf:///open/2")
    assert mine.told == [OPEN, SHELVED]
    assert made.updates.dropped == {"too many at once": 1}
    assert made.updates._gap_s >= module.GATHER_S


async def test_subscribing_waits_for_a_gateway_that_is_starting(made: Front) -> None:
    made.gateway.hold()
    mine = Hearing(made)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mine.subscribe, OPEN)
        await anyio.wait_all_tasks_blocked()
        assert made.updates.count == 0
        made.gateway.open()
    assert made.updates.count == 1


@pytest.mark.parametrize(
    ("uri", "places"),
    [
        ("db://a/b/", ["db://a/b/", "db://a/", "db://a"]),
        ("urn:isbn:1", ["urn:isbn:1"]),
        ("note:///open", ["note:///open"]),
        ("", [""]),
    ],
)
def test_what_a_uri_can_be_a_sub_resource_of(uri: str, places: list[str]) -> None:
    assert module._places_above(uri) == places


def test_a_uri_of_slashes_is_not_walked_to_its_end() -> None:
    assert len(module._places_above("a://b" + "/c" * 4000)) <= 2 * module.MAX_DEPTH + 1
