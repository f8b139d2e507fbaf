"""The walk: what happens to one request, and in which order."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from fakes.front import POLICY, Front, listing, parts, snapshot
from fakes.replies import RecordingReply
from fakes.upstream import FakeUpstream, Hanging, answering_with, raising, text
from fakes.waiting import until
from mcp_gateway.domain import (
    Caller,
    Credential,
    Era,
    Kind,
    Outcome,
    OutcomeStatus,
    Reason,
    Reply,
    Request,
    RpcError,
    Transport,
    UpstreamRequest,
    Verb,
)
from mcp_gateway.errors import (
    BadArguments,
    BadRequest,
    GatewayError,
    Misbehaved,
    NotAvailable,
    StoreUnavailable,
    TimedOut,
    Unreachable,
)

HAPPENED = "decision, outcome, reason, agent, task, name"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Front]:
    async with parts(tmp_path) as opened:
        yield opened


def asking(name: str, arguments: Any = None, **more: Any) -> Request:
    params = {"name": name} if arguments is None else {"name": name, "arguments": arguments}
    return Request("r-1", Verb.CALL, "tools/call", Kind.TOOL, name, {**params, **more.pop("params", {})}, **more)


def listing_of(kind: Kind = Kind.TOOL, **more: Any) -> Request:
    return Request("r-1", Verb.LIST, f"{kind}s/list", kind, "", {}, **more)


async def ask(made: Front, request: Request, caller: Caller | None = None) -> Outcome:
    return await made.gateway.ask(caller or made.caller(), request, RecordingReply())


async def test_a_granted_call_is_written_down_before_it_leaves_and_before_it_is_answered(made: Front) -> None:
    seen: list[Any] = []

    async def looking(request: UpstreamRequest, reply: Reply) -> Outcome:
        seen.append(made.rows(HAPPENED))
        return text("done")

    made.u.script["echo"] = looking
    outcome = await ask(made, asking("u__echo", {"a": 1}))
    assert outcome.result == {"content": [{"type": "text", "text": "done"}]}
    assert seen == [[("allowed", None, "grant", "alice", "work", "echo")]]
    assert made.rows(HAPPENED) == [("allowed", "ok", "grant", "alice", "work", "echo")]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("u__secret", Reason.NO_GRANT), ("u__nothing", Reason.UNKNOWN_TARGET), ("", Reason.UNKNOWN_TARGET)],
)
async def test_a_denied_call_never_reaches_the_upstream(made: Front, name: str, reason: Reason) -> None:
    with pytest.raises(NotAvailable) as refused:
        await ask(made, asking(name))
    assert (refused.value.name, refused.value.decision.reason) == (name, reason)
    assert made.u.asked == []
    assert [row[:3] for row in made.rows(HAPPENED)] == [("denied", "refused", reason.value)]


@pytest.mark.parametrize(
    ("caller", "reason"),
    [
        (Caller("nobody", "work"), "unknown_agent"),
        (Caller("alice", None), "no_task"),
        (Caller("alice", "other"), "task_not_assigned"),
        (Caller("alice", "rest"), "no_grant"),
    ],
)
async def test_every_refusal_is_written_down_with_its_reason(made: Front, caller: Caller, reason: str) -> None:
    with pytest.raises(NotAvailable):
        await ask(made, asking("u__echo"), caller)
    assert [row[2] for row in made.rows(HAPPENED)] == [reason]


async def test_the_upstream_hears_its_own_names_and_nothing_of_the_agents_envelope(made: Front) -> None:
    meta = {"progressToken": 1, "io.modelcontextprotocol/clientInfo": {"name": "x"}, "vendor/key": {"a": None}}
    await ask(made, asking("u__echo", {"a": [1, None]}, params={"_meta": meta, "unknown": 1}))
    [sent] = made.u.asked
    assert sent.params == {"name": "echo", "arguments": {"a": [1, None]}, "_meta": {"vendor/key": {"a": None}}}
    assert sent.definition["name"] == "echo"


async def test_the_credential_of_the_upstream_goes_with_the_call(made: Front) -> None:
    fetched: list[tuple[str, str]] = []

    async def credential_for(caller: Caller, upstream: str) -> Credential:
        fetched.append((caller.agent, upstream))
        return Credential({"authorization": "Bearer upstream"})

    made.gateway.swap(replace(made.gateway.snapshot, credential_for=credential_for))
    await ask(made, asking("u__echo"))
    with pytest.raises(NotAvailable):
        await ask(made, asking("u__secret"))
    assert fetched == [("alice", "u")]
    assert made.u.asked[0].headers == {"authorization": "Bearer upstream"}


async def test_arguments_that_the_schema_refuses_are_not_sent(made: Front) -> None:
    with pytest.raises(BadArguments):
        await ask(made, asking("u__routed", {"region": 5}))
    assert made.u.asked == []
    assert made.rows("decision, outcome") == [("allowed", "bad_arguments")]


async def test_params_of_the_wrong_shape_are_the_agents_fault(made: Front) -> None:
    with pytest.raises(BadRequest):
        await ask(made, asking("u__echo", []))
    assert made.rows("outcome") == [("bad_arguments",)]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Unreachable("u", "no"), "unreachable"),
        (TimedOut("u", "no"), "timed_out"),
        (Misbehaved("u", "no"), "misbehaved"),
        (GatewayError("no"), "failed"),
    ],
)
async def test_a_failure_of_the_upstream_is_raised_and_closes_the_entry(
    made: Front, error: GatewayError, outcome: str
) -> None:
    made.u.script["echo"] = raising(error)
    with pytest.raises(type(error)):
        await ask(made, asking("u__echo"))
    assert made.rows("decision, outcome") == [("allowed", outcome)]


async def test_a_bug_closes_the_entry_too(made: Front) -> None:
    made.u.script["echo"] = raising(ZeroDivisionError("x"))
    with pytest.raises(ZeroDivisionError):
        await ask(made, asking("u__echo"))
    assert made.rows("outcome") == [("failed",)]


async def test_an_upstream_that_is_not_there_is_a_bug_of_ours_and_no_dangling_entry(made: Front) -> None:
    made.gateway.swap(replace(made.gateway.snapshot, upstreams={}))
    with pytest.raises(KeyError):
        await ask(made, asking("u__echo"))
    assert made.rows("outcome") == [("failed",)]


async def test_an_error_of_the_upstream_is_an_outcome(made: Front) -> None:
    made.u.script["echo"] = answering_with(Outcome(OutcomeStatus.RPC_ERROR, error=RpcError(-32000, "no")))
    assert (await ask(made, asking("u__echo"))).error == RpcError(-32000, "no")
    assert made.rows("outcome") == [("rpc_error",)]


async def test_a_cancelled_call_is_cancelled_upstream_and_written_down(made: Front) -> None:
    made.u.script["hang"] = hanging = Hanging()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, made, asking("u__hang"))
        await until(lambda: hanging.replies)
        tasks.cancel_scope.cancel()
    assert len(made.u.cancelled) == 1
    assert made.rows("outcome") == [("cancelled",)]


async def test_a_call_cancelled_at_any_moment_leaves_no_open_entry(made: Front) -> None:
    for ticks in range(12):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, made, asking("u__echo"))
            for _ in range(ticks):
                await asyncio.sleep(0)
            tasks.cancel_scope.cancel()
    await until(lambda: all(outcome is not None for (outcome,) in made.rows("outcome")))


async def test_without_an_audit_nothing_is_dispatched(made: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("disk full")

    monkeypatch.setattr(made.audit, "open", broken)
    monkeypatch.setattr(made.audit, "record", broken)
    for request in (asking("u__echo"), asking("u__secret")):
        with pytest.raises(StoreUnavailable):
            await ask(made, request)
    with pytest.raises(StoreUnavailable):
        await made.gateway.list(made.caller(), listing_of())
    assert made.u.asked == []


async def test_an_outcome_that_cannot_be_written_down_is_not_answered(
    made: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("disk full")

    monkeypatch.setattr(made.audit, "close", broken)
    with pytest.raises(StoreUnavailable):
        await ask(made, asking("u__echo"))


async def test_a_call_finishes_under_the_snapshot_it_began_with(made: Front) -> None:
    made.u.script["hang"] = hanging = Hanging()
    outcomes: list[Outcome] = []

    async def call() -> None:
        outcomes.append(await ask(made, asking("u__hang")))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await until(lambda: hanging.replies)
        made.gateway.swap(snapshot(FakeUpstream("u"), listing(), POLICY.replace('"u/hang", ', "")))
        hanging.released.set()
    assert outcomes[0].status is OutcomeStatus.OK
    with pytest.raises(NotAvailable):
        await ask(made, asking("u__hang"))


async def test_requests_wait_while_the_gateway_is_held(made: Front) -> None:
    made.gateway.hold()
    pages: list[Any] = []

    async def list_tools() -> None:
        pages.append(await made.gateway.list(made.caller(), listing_of()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(list_tools)
        tasks.start_soon(ask, made, asking("u__echo"))
        await anyio.lowlevel.checkpoint()
        assert (pages, made.u.asked, made.rows()) == ([], [], [])
        made.offer(policy=POLICY.replace('"u/second", ', ""))
        made.gateway.open()
    assert "u__second" not in {target.public_name for target in pages[0].targets}
    assert len(made.u.asked) == 1


async def test_a_list_is_one_entry_and_holds_what_can_be_called(made: Front) -> None:
    page = await made.gateway.list(made.caller(), listing_of())
    assert [target.name for target in page.targets] == ["careful", "echo", "hang", "routed", "second"]
    assert page.following is None
    assert made.rows("decision, reason, outcome") == [("allowed", "list", "ok")]


async def test_pages_follow_one_another(tmp_path: Path) -> None:
    async with parts(tmp_path, page_size=2) as made:
        start: int | None = 0
        sizes = []
        while start is not None:
            page = await made.gateway.list(made.caller(), listing_of(), start)
            sizes.append(len(page.targets))
            start = page.following
        assert sizes == [2, 2, 1]


@pytest.mark.parametrize("transport", list(Transport))
@pytest.mark.parametrize("era", list(Era))
async def test_what_is_listed_is_what_can_be_called_whichever_way_one_came(
    made: Front, era: Era, transport: Transport
) -> None:
    grants = "".join(
        f'\n[[tasks.work.grant]]\ntools = ["u/{name}"]\nwhen = \'request.{what} == "{value}"\'\n'
        for name, what, value in (("one", "era", "legacy"), ("two", "transport", "stdio"), ("three", "era", "modern"))
    )
    made.offer("one", "two", "three", policy=POLICY + grants)
    page = await made.gateway.list(made.caller(), listing_of(era=era, transport=transport))
    listed = {target.public_name for target in page.targets}
    for target in made.gateway.snapshot.catalog.targets(Kind.TOOL):
        arguments = {"path": "safe"} if target.name == "careful" else {}
        try:
            await ask(made, asking(target.public_name, arguments, era=era, transport=transport))
            assert target.public_name in listed
        except NotAvailable:
            assert target.public_name not in listed


async def test_a_list_that_depends_on_nothing_but_the_task_is_made_once(tmp_path: Path) -> None:
    plain = """[agents.alice]\ntasks = ["work", "rest"]\ndefault_task = "work"\n[agents.bob]\ntasks = ["work"]
[tasks.work]\npurpose = "p"\nallow = ["u/echo"]\n[tasks.rest]\npurpose = "p"\nallow = ["u/second"]\n"""
    async with parts(tmp_path) as made:
        made.offer(policy=plain)
        seen = made.gateway.visible(made.caller(), Kind.TOOL)
        assert [target.name for target in seen] == ["echo"]
        assert made.gateway.visible(made.caller("bob"), Kind.TOOL) is seen
        assert [target.name for target in made.gateway.visible(made.caller(task="rest"), Kind.TOOL)] == ["second"]
        assert made.gateway.visible(made.caller("bob", "rest"), Kind.TOOL) == ()
        assert made.gateway.visible(made.caller("mallory"), Kind.TOOL) == ()
        made.offer(policy=plain.replace("u/echo", "u/second"))
        assert [target.name for target in made.gateway.visible(made.caller(), Kind.TOOL)] == ["second"]


async def test_a_list_that_may_depend_on_who_asks_is_made_for_each(made: Front) -> None:
    made.offer("hers", policy=f"{POLICY}\n[[tasks.work.grant]]\ntools = ['u/hers']\nwhen = 'person == \"ann\"'\n")
    hers = made.gateway.visible(replace(made.caller(), person="ann"), Kind.TOOL)
    his = made.gateway.visible(replace(made.caller(), person="bob"), Kind.TOOL)
    assert {target.name for target in hers} - {target.name for target in his} == {"hers"}


async def test_the_bytes_of_a_page_are_made_once_for_all_who_see_the_same(made: Front) -> None:
    pages = [
        await made.gateway.list(replace(made.caller(), person=person), listing_of(), start)
        for person in ("ann", "bob")
        for start in (0, 2)
    ]
    first, from_the_third, again, from_the_third_again = (page.json() for page in pages)
    assert again is first
    assert from_the_third_again is from_the_third
    assert first != from_the_third
    made.offer()
    page = await made.gateway.list(made.caller(), listing_of())
    assert page.json() == first
    assert page.json() is not first


async def test_peeking_shows_what_lists_show_and_leaves_no_trace(made: Front) -> None:
    caller = made.caller()
    assert made.gateway.peek(caller, Kind.TOOL, "u__echo") is not None
    assert made.gateway.peek(caller, Kind.TOOL, "u__careful") is not None
    assert made.gateway.peek(caller, Kind.TOOL, "u__secret") is None
    assert made.gateway.peek(caller, Kind.TOOL, "u__nothing") is None
    assert made.rows() == []


async def test_an_agents_tasks_are_those_of_the_policy_in_force(made: Front) -> None:
    assigned = made.gateway.assignment("alice")
    assert assigned is not None
    assert (assigned.tasks, assigned.default_task) == (("work", "rest"), "work")
    assert made.gateway.assignment("nobody") is None


# Subscriptions to resources


def subscribing(uri: str) -> Request:
    return Request("r-1", Verb.SUBSCRIBE, "resources/subscribe", Kind.RESOURCE, uri, {"uri": uri}, Era.LEGACY)


async def test_subscribing_is_decided_and_written_down_like_reading(made: Front) -> None:
    await made.gateway.subscribe(made.caller(), subscribing("note:///open"))
    for uri in ("note:///shut", "note:///none"):
        with pytest.raises(NotAvailable):
            await made.gateway.subscribe(made.caller(), subscribing(uri))
    assert made.rows("kind, " + HAPPENED) == [
        ("subscribe", "allowed", "ok", "grant", "alice", "work", "note:///open"),
        ("subscribe", "denied", "refused", "no_grant", "alice", "work", "note:///shut"),
        ("subscribe", "denied", "refused", "unknown_target", "alice", "work", "note:///none"),
    ]
    assert made.u.asked == []


async def test_hearing_is_decided_by_the_policy_in_force_and_not_written_down(made: Front) -> None:
    def may_hear(uri: str = "note:///open", upstream: str = "u") -> bool:
        return made.gateway.may_hear(made.caller(), subscribing(uri), upstream)

    assert may_hear()
    assert not may_hear("note:///shut")
    assert not may_hear("note:///none")
    assert not may_hear(upstream="v")
    made.offer(policy=POLICY.replace('"resource:u/note:///open"', '"resource:u/note:///other"'))
    assert not may_hear()
    assert made.rows() == []
