"""Who is told that lists changed."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fakes.front import POLICY, Front, parts
from mcp_gateway.domain import Caller, Era, Kind, Transport
from mcp_gateway.errors import OverLimit
from mcp_gateway.frontdoor import listen
from mcp_gateway.frontdoor.listen import Listening
from mcp_gateway.frontdoor.protocol import Ask
from mcp_gateway.frontdoor.subscriber import Subscriber

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
TOOLS = "notifications/tools/list_changed"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Front]:
    async with parts(tmp_path) as opened:
        yield opened


def subscribe(made: Front, caller: Caller, kinds: tuple[Kind, ...] = tuple(Kind), **way: Any) -> list[str]:
    """What the caller is told from now on."""
    told: list[str] = []
    era, transport = way.get("era", Era.MODERN), way.get("transport", Transport.HTTP)
    made.bulletin.subscribe(Subscriber(lambda: caller, era, transport, kinds, told.append))
    return told


def listening(notifications: Any, id_: Any = 1) -> Listening:
    return Listening(Ask(id_, "subscriptions/listen", {"notifications": notifications}), {"name": "gw"})


async def test_only_those_are_told_whose_lists_changed(made: Front) -> None:
    alice, bob = subscribe(made, made.caller()), subscribe(made, made.caller("bob", "other"))
    made.offer(policy=POLICY.replace('allow = ["u/echo"]', 'allow = ["u/echo", "u/second"]'))
    assert (alice, bob) == ([], [TOOLS])


async def test_a_tool_nobody_may_see_is_nobodys_news(made: Front) -> None:
    alice = subscribe(made, made.caller())
    made.offer("brand_new")
    assert alice == []


async def test_a_change_and_back_between_two_looks_is_no_change(made: Front) -> None:
    alice = subscribe(made, made.caller())
    made.offer(policy=POLICY.replace('"u/second", ', ""))
    assert alice == [TOOLS]
    made.offer(policy=POLICY.replace('"u/second", ', "") + "\n# a comment\n")
    assert alice == [TOOLS]


async def test_losing_the_task_is_told_as_the_loss_of_everything(made: Front) -> None:
    alice = subscribe(made, made.caller())
    made.offer(policy=POLICY.replace('tasks = ["work", "rest"]\ndefault_task = "work"', 'tasks = ["rest"]'))
    assert alice == ["notifications/prompts/list_changed", "notifications/resources/list_changed", TOOLS]


async def test_a_default_task_that_changes_changes_the_lists(made: Front) -> None:
    def current() -> Caller:
        assigned = made.gateway.assignment("alice")
        assert assigned is not None
        return Caller("alice", assigned.default_task)

    told: list[str] = []
    made.bulletin.subscribe(Subscriber(current, Era.LEGACY, Transport.STDIO, (Kind.TOOL,), told.append))
    made.offer(policy=POLICY.replace('default_task = "work"', 'default_task = "rest"'))
    assert told == [TOOLS]


async def test_conditions_on_the_way_an_agent_came_count(made: Front) -> None:
    http = subscribe(made, made.caller())
    stdio = subscribe(made, made.caller(), transport=Transport.STDIO)
    grant = '\n[[tasks.work.grant]]\ntools = ["u/secret"]\nwhen = \'request.transport == "stdio"\'\n'
    made.offer(policy=POLICY + grant)
    assert (http, stdio) == ([], [TOOLS])


async def test_only_the_kinds_asked_for_are_told(made: Front) -> None:
    alice = subscribe(made, made.caller(), (Kind.PROMPT,))
    made.offer(policy=POLICY.replace('"u/second", ', ""))
    assert alice == []


async def test_whoever_left_is_not_told(made: Front) -> None:
    told: list[str] = []
    subscriber = Subscriber(made.caller, Era.MODERN, Transport.HTTP, (Kind.TOOL,), told.append)
    made.bulletin.subscribe(subscriber)
    made.bulletin.unsubscribe(subscriber)
    made.bulletin.unsubscribe(subscriber)
    made.offer(policy=POLICY.replace('"u/second", ', ""))
    assert told == []


async def test_one_agent_cannot_take_all_places(made: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "MAX_SUBSCRIBERS_PER_AGENT", 2)
    monkeypatch.setattr(listen, "MAX_SUBSCRIBERS", 3)
    for _ in range(2):
        subscribe(made, made.caller())
    with pytest.raises(OverLimit):
        subscribe(made, made.caller())
    subscribe(made, made.caller("bob", "other"))
    with pytest.raises(OverLimit):
        subscribe(made, made.caller("bob", "other"))


async def test_a_thousand_sessions_of_one_agent_are_worked_out_once(
    made: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(1000):
        subscribe(made, made.caller(), (Kind.TOOL,))
    asked = []
    visible = made.gateway.visible
    monkeypatch.setattr(made.gateway, "visible", lambda *way: (asked.append(way), visible(*way))[1])
    made.bulletin.publish()
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("wanted", "honoured"),
    [
        ({"toolsListChanged": True}, {"toolsListChanged": True}),
        ({"toolsListChanged": True, "promptsListChanged": False}, {"toolsListChanged": True}),
        ({"resourcesListChanged": True, "resourceSubscriptions": ["note:///open"]}, {"resourcesListChanged": True}),
        ({"toolsListChanged": 1, "taskIds": ["x"], "other": True}, {}),
        ({}, {}),
        (None, {}),
        ([], {}),
    ],
)
def test_what_is_honoured_is_acknowledged_and_nothing_else(wanted: Any, honoured: Any) -> None:
    acknowledged = listening(wanted).acknowledgement()
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"]["notifications"] == honoured


@pytest.mark.parametrize(
    ("wanted", "uris"), [(["a", 1, None, "b"], ("a", "b")), ("a", ()), ({"a": 1}, ()), (None, ()), ([], ())]
)
def test_resources_are_asked_for_by_their_uris(wanted: Any, uris: tuple[str, ...]) -> None:
    made = listening({"resourceSubscriptions": wanted, "toolsListChanged": True})
    assert made.uris == uris
    notifications = made.acknowledgement(uris[:1])["params"]["notifications"]
    assert notifications == {"toolsListChanged": True} | ({"resourceSubscriptions": ["a"]} if uris else {})


@pytest.mark.parametrize("id_", [1, "1", 0, ""])
def test_every_frame_carries_the_requests_id_in_its_type(id_: Any) -> None:
    made = listening({"toolsListChanged": True}, id_)
    metas = [made.acknowledgement()["params"]["_meta"], made.notification(TOOLS)["params"]["_meta"]]
    metas.append(made.result["result"]["_meta"])
    assert [(meta[SUBSCRIPTION], type(meta[SUBSCRIPTION])) for meta in metas] == [(id_, type(id_))] * 3
    assert made.result["id"] == id_
    assert made.result["result"]["resultType"] == "complete"
