"""Handshake-era agents over HTTP, from outside."""

import json
from typing import Any

import anyio
import httpx2
import pytest

from fakes.front import POLICY, Front, events, initialize, request, utc_now
from fakes.upstream import Hanging, progressing
from fakes.waiting import until
from mcp_gateway.domain import Json, Outcome, OutcomeStatus, Reply, UpstreamRequest
from mcp_gateway.frontdoor import legacy

TOKEN = {"_meta": {"progressToken": 5}}


def notice(method: str, params: Json | None = None) -> Json:
    return {"jsonrpc": "2.0", "method": method, "params": params or {}}


# Sessions


async def test_a_handshake_opens_a_session_nobody_could_guess(door: Front) -> None:
    one, two = await door.handshake(), await door.handshake()
    assert one != two
    assert len(one) >= 32
    assert all(0x21 <= ord(char) <= 0x7E for char in one)


async def test_a_session_id_that_the_client_chose_is_never_adopted(door: Front) -> None:
    response = await door.post(initialize(), mcp_session_id="chosen")
    assert response.headers["mcp-session-id"] != "chosen"
    assert (await door.old("chosen", "ping")).status_code == 404


@pytest.mark.parametrize("method", ["ping", "tools/list", "tools/call", "notifications/initialized"])
async def test_without_a_session_nothing_is_answered(door: Front, method: str) -> None:
    assert (await door.post(request(method, {"name": "u__echo"}))).status_code == 400
    session = await door.handshake()
    assert (await door.post(request(method), path=f"?mcp-session-id={session}")).status_code == 400
    assert door.u.asked == []


@pytest.mark.parametrize("session", ["unknown", "x" * 10_000, "' OR 1=1 --", "../../etc", "\u00e9"])
async def test_an_unknown_session_is_404(door: Front, session: str) -> None:
    response = await door.http.post(
        door.url,
        content=json.dumps(request("ping")),
        headers=[*door.headers().items(), ("mcp-session-id", session.encode("latin-1"))],  # type: ignore[list-item]
    )
    assert response.status_code == 404


async def test_two_session_ids_are_none(door: Front) -> None:
    session = await door.handshake()
    headers = [*door.headers().items(), ("mcp-session-id", session), ("mcp-session-id", session)]
    response = await door.http.post(door.url, content=json.dumps(request("ping")), headers=headers)
    assert response.status_code == 400


async def test_a_session_of_somebody_else_looks_like_an_unknown_one(door: Front) -> None:
    session = await door.handshake("alice")
    theirs = await door.old(session, "ping", agent="bob")
    unknown = await door.old("unknown", "ping", agent="bob")
    assert (theirs.status_code, theirs.content, theirs.headers.keys()) == (404, unknown.content, unknown.headers.keys())
    for method in ("GET", "DELETE"):
        headers = door.headers("bob", mcp_session_id=session)
        assert (await door.http.request(method, door.url, headers=headers)).status_code == 404
    cancelled = await door.post(notice("notifications/cancelled", {"requestId": 1}), "bob", mcp_session_id=session)
    assert cancelled.status_code == 404
    assert (await door.old(session, "ping")).json()["result"] == {}


async def test_a_session_belongs_to_one_key_and_one_task(door: Front) -> None:
    session = await door.handshake()
    assert (await door.old(session, "ping", path="/rest")).status_code == 404
    other, _ = door.keys.create("alice", None, utc_now())
    assert (await door.old(session, "ping", authorization=f"Bearer {other}")).status_code == 404


async def test_a_session_that_was_ended_is_unknown(door: Front) -> None:
    session = await door.handshake()
    headers = door.headers(mcp_session_id=session)
    assert (await door.http.delete(door.url, headers=headers)).status_code == 200
    assert (await door.http.delete(door.url, headers=headers)).status_code == 404
    assert (await door.old(session, "ping")).status_code == 404
    assert door.bulletin._subscribers == set()


async def test_sessions_have_a_bound_for_each_agent_and_for_all(door: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "MAX_SESSIONS_PER_AGENT", 2)
    monkeypatch.setattr(legacy, "MAX_SESSIONS", 3)
    kept = [await door.handshake() for _ in range(2)]
    refused = await door.post(initialize(id_="x"))
    assert (refused.status_code, refused.json()["id"]) == (503, "x")
    await door.handshake("bob")
    assert (await door.post(initialize(), "bob")).status_code == 503
    assert (await door.old(kept[0], "ping")).status_code == 200
    assert len(door.bulletin._subscribers) == 3


async def test_idle_sessions_are_forgotten_and_those_in_use_are_not(
    door: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.u.script["hang"] = hanging = Hanging()
    idle, busy = await door.handshake(), await door.handshake()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door.old, busy, "tools/call", {"name": "u__hang"})
        await until(lambda: hanging.replies)
        monkeypatch.setattr(legacy, "IDLE_S", 0)
        door.legacy.sweep()
        monkeypatch.undo()
        hanging.released.set()
    assert (await door.old(idle, "ping")).status_code == 404
    assert (await door.old(busy, "ping")).status_code == 200
    assert len(door.bulletin._subscribers) == 1


async def test_an_agent_without_any_task_gets_a_session_and_nothing_else(door: Front) -> None:
    session = await door.handshake("idle")
    answer = (await door.old(session, "tools/list", agent="idle")).json()
    assert answer["result"]["tools"] == []


# Answers


async def test_the_old_methods_are_served_and_the_new_are_not(door: Front) -> None:
    session = await door.handshake()
    assert (await door.old(session, "ping")).json() == {"jsonrpc": "2.0", "id": 1, "result": {}}
    for method in ("server/discover", "subscriptions/listen", "tasks/get", "nonsense"):
        response = await door.old(session, method)
        assert (response.status_code, response.json()["error"]["code"]) == (200, -32601)


async def test_notifications_and_answers_are_taken_without_a_word(door: Front) -> None:
    session = await door.handshake()
    messages: list[Any] = [
        notice("notifications/initialized"),
        notice("notifications/roots/list_changed"),
        notice("notifications/nonsense", {"a": 1}),
        notice("notifications/cancelled", {"requestId": {"odd": []}}),
        {"jsonrpc": "2.0", "id": 99, "result": {}},
    ]
    for message in messages:
        response = await door.post(message, mcp_session_id=session)
        assert (response.status_code, response.content) == (202, b"")


async def test_denied_and_unknown_are_the_same_bytes(door: Front) -> None:
    session = await door.handshake()
    cases: list[tuple[str, Json, str, str]] = [
        ("tools/call", {"name": "HERE"}, "u__secret", "u__secreu"),
        ("tools/call", {"name": "HERE", "arguments": {"region": "x"}}, "u__secret_routed", "u__secret_routee"),
        ("prompts/get", {"name": "HERE"}, "u__hush", "u__husi"),
        ("resources/read", {"uri": "HERE"}, "note:///shut", "note:///shuu"),
        ("resources/read", {"uri": "HERE"}, "shelf:///shut/1", "shelg:///shut/1"),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "HERE"}, "argument": {}}, "u__hush", "u__husi"),
    ]
    for method, params, denied, unknown in cases:
        seen = []
        for name in (denied, unknown):
            given = json.loads(json.dumps(params).replace("HERE", name))
            response = await door.old(session, method, given)
            seen.append((response.status_code, response.text.replace(name, "HERE"), sorted(response.headers.items())))
        assert seen[0] == seen[1], method
        assert seen[0][0] == 200
        assert '"error"' in seen[0][1]
    assert door.u.asked == []


@pytest.mark.parametrize("level", ["loud", None, 5])
async def test_a_log_level_that_does_not_exist_is_an_error(door: Front, level: Any) -> None:
    response = await door.old(await door.handshake(), "logging/setLevel", {"level": level})
    assert (response.status_code, response.json()["error"]["code"]) == (200, -32602)


async def test_progress_and_the_answer_come_on_the_requests_own_stream(door: Front) -> None:
    door.u.script["echo"] = progressing({"progress": 1}, {"progress": 0.5}, {"progress": 3})
    response = await door.old(await door.handshake(), "tools/call", {"name": "u__echo", **TOKEN})
    *told, answer = events(response.text)
    assert [(m["params"]["progress"], m["params"]["progressToken"]) for m in told] == [(1, 5), (3, 5)]
    assert "resultType" not in answer["result"]


# Ids, cancellation, going away


async def test_an_id_in_flight_is_refused_and_its_first_call_goes_on(door: Front) -> None:
    door.u.script["hang"] = hanging = Hanging()
    session = await door.handshake()
    answers: list[httpx2.Response] = []

    async def call() -> None:
        answers.append(await door.old(session, "tools/call", {"name": "u__hang"}, id_=7))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await until(lambda: hanging.replies)
        second = await door.old(session, "tools/call", {"name": "u__echo"}, id_=7)
        assert (second.json()["id"], second.json()["error"]["code"]) == (7, -32600)
        assert (await door.old(session, "ping", id_="7")).json()["result"] == {}
        hanging.released.set()
    assert answers[0].json()["result"]["content"][0]["text"] == "released"
    assert (await door.old(session, "ping", id_=7)).json()["result"] == {}


async def test_hanging_up_does_not_cancel(door: Front) -> None:
    door.u.script["hang"] = hanging = Hanging()
    session = await door.handshake()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door.old, session, "tools/call", {"name": "u__hang"})
        await until(lambda: hanging.replies)
        tasks.cancel_scope.cancel()
    assert (await door.old(session, "ping", id_=2)).status_code == 200
    assert door.u.cancelled == []
    hanging.released.set()
    await until(lambda: door.rows("outcome") == [("ok",)])


async def test_a_cancelled_call_is_cancelled_and_not_answered(door: Front) -> None:
    door.u.script["hang"] = hanging = Hanging()
    session = await door.handshake()
    answers: list[httpx2.Response] = []

    async def call() -> None:
        answers.append(await door.old(session, "tools/call", {"name": "u__hang"}, id_=7))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await until(lambda: hanging.replies)
        for wrong in ("7", 8, None):
            await door.post(notice("notifications/cancelled", {"requestId": wrong}), mcp_session_id=session)
        assert door.u.cancelled == []
        await door.post(notice("notifications/cancelled", {"requestId": 7}), mcp_session_id=session)
    assert (answers[0].status_code, answers[0].content) == (202, b"")
    assert len(door.u.cancelled) == 1
    assert door.rows("outcome") == [("cancelled",)]


@pytest.mark.parametrize("how", ["delete", "revoke"])
async def test_a_session_that_ends_ends_its_calls(door: Front, how: str) -> None:
    door.u.script["hang"] = hanging = Hanging()
    session = await door.handshake()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(door.old, session, "tools/call", {"name": "u__hang"})
        await until(lambda: hanging.replies)
        if how == "delete":
            await door.http.delete(door.url, headers=door.headers(mcp_session_id=session))
        else:
            door.revoke()
    assert len(door.u.cancelled) == 1


# The standalone stream


class Stream:
    """What comes on a GET stream."""

    def __init__(self) -> None:
        self.messages: list[Json] = []
        self.is_open = False
        self.has_ended = False

    async def read(self, door: Front, session: str) -> None:
        headers = door.headers(mcp_session_id=session, accept="text/event-stream")
        async with door.http.stream("GET", door.url, headers=headers) as response:
            assert response.status_code == 200
            self.is_open = True
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    self.messages.append(json.loads(line[6:]))
        self.has_ended = True


async def test_changed_lists_are_told_on_the_stream_to_those_they_concern(door: Front) -> None:
    mine, theirs = Stream(), Stream()
    async with anyio.create_task_group() as tasks:
        for stream, agent in ((mine, "alice"), (theirs, "bob")):
            session = await door.handshake(agent)
            headers = door.headers(agent, mcp_session_id=session)

            async def read(stream: Stream = stream, headers: dict[str, str] = headers) -> None:
                async with door.http.stream("GET", door.url, headers=headers) as response:
                    stream.is_open = True
                    async for line in response.aiter_lines():
                        if line.startswith("data: "):
                            stream.messages.append(json.loads(line[6:]))

            tasks.start_soon(read)
        await until(lambda: mine.is_open and theirs.is_open)
        door.offer(policy=POLICY.replace('"u/second", ', ""))
        await until(lambda: mine.messages)
        tasks.cancel_scope.cancel()
    assert mine.messages == [{"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}]
    assert theirs.messages == []


async def test_that_a_link_is_done_is_told_on_the_stream_even_after_the_call_and_before_there_is_one(
    door: Front,
) -> None:
    replies: list[Reply] = []

    async def answering(asked: UpstreamRequest, reply: Reply) -> Outcome:
        replies.append(reply)
        return Outcome(OutcomeStatus.OK, {"content": []})

    door.u.script["echo"] = answering
    session, stream = await door.handshake(), Stream()
    await door.old(session, "tools/call", {"name": "u__echo"})
    replies[0].elicited("before")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.read, door, session)
        await until(lambda: stream.messages)
        replies[0].elicited("after")
        await until(lambda: len(stream.messages) == 2)
        tasks.cancel_scope.cancel()
    assert [(m["method"], m["params"]) for m in stream.messages] == [
        ("notifications/elicitation/complete", {"elicitationId": link_id}) for link_id in ("before", "after")
    ]


async def test_what_happened_before_the_stream_is_told_once_when_it_opens(door: Front) -> None:
    session, stream = await door.handshake(), Stream()
    for policy in (POLICY.replace('"u/second", ', ""), POLICY, POLICY.replace('"u/second", ', "")):
        door.offer(policy=policy)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.read, door, session)
        await until(lambda: stream.messages)
        tasks.cancel_scope.cancel()
    assert len(stream.messages) == 1


async def test_a_second_stream_takes_over_from_the_first(door: Front) -> None:
    session, first, second = await door.handshake(), Stream(), Stream()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.read, door, session)
        await until(lambda: first.is_open)
        tasks.start_soon(second.read, door, session)
        await until(lambda: first.has_ended and second.is_open)
        door.offer(policy=POLICY.replace('"u/second", ', ""))
        await until(lambda: second.messages)
        tasks.cancel_scope.cancel()
    assert first.messages == []


@pytest.mark.parametrize("how", ["delete", "revoke", "stop"])
async def test_a_stream_ends_with_what_it_hangs_on(door: Front, how: str) -> None:
    session, stream = await door.handshake(), Stream()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.read, door, session)
        await until(lambda: stream.is_open)
        if how == "delete":
            await door.http.delete(door.url, headers=door.headers(mcp_session_id=session))
        elif how == "revoke":
            door.revoke()
        else:
            door.closers.close_streams()
        await until(lambda: stream.has_ended)
    assert not any(one.is_stream for one in door.closers._open.values())


OPEN = {"uri": "note:///open"}
UPDATED = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": OPEN}


async def test_a_resource_subscribed_to_is_told_of_on_the_stream_until_it_is_not(door: Front) -> None:
    session, stream = await door.handshake(), Stream()
    assert (await door.old(session, "resources/subscribe", OPEN)).json() == {"jsonrpc": "2.0", "id": 1, "result": {}}
    door.updates.note("u", "note:///open")
    await until(lambda: door.updates._timer is None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.read, door, session)
        await until(lambda: stream.messages == [UPDATED])
        door.updates.note("u", "note:///open")
        await until(lambda: stream.messages == [UPDATED, UPDATED])
        assert (await door.old(session, "resources/unsubscribe", OPEN)).json()["result"] == {}
        assert door.u.watched == frozenset()
        tasks.cancel_scope.cancel()


async def test_what_may_not_be_read_cannot_be_subscribed_to_and_reads_like_what_is_not_there(door: Front) -> None:
    session = await door.handshake()
    for uri in ("note:///shut", "note:///none"):
        error = (await door.old(session, "resources/subscribe", {"uri": uri})).json()["error"]
        assert error == {"code": -32002, "message": "Resource not found", "data": {"uri": uri}}
    rows = door.rows("kind, decision, outcome, name")
    assert rows == [("subscribe", "denied", "refused", f"note:///{name}") for name in ("shut", "none")]


@pytest.mark.parametrize("method", ["resources/subscribe", "resources/unsubscribe"])
async def test_a_subscription_without_a_uri_is_refused(door: Front, method: str) -> None:
    session = await door.handshake()
    for params in ({}, {"uri": 1}):
        assert (await door.old(session, method, params)).json()["error"]["code"] == -32602


@pytest.mark.parametrize("how", ["delete", "revoke", "idle"])
async def test_subscriptions_end_with_their_session(door: Front, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await door.handshake()
    await door.old(session, "resources/subscribe", OPEN)
    assert door.u.watched == {"note:///open"}
    if how == "delete":
        await door.http.delete(door.url, headers=door.headers(mcp_session_id=session))
    elif how == "revoke":
        door.revoke()
    else:
        monkeypatch.setattr("mcp_gateway.frontdoor.legacy.IDLE_S", -1)
        door.legacy.sweep()
    assert (door.u.watched, door.updates.count, door.closers._open) == (frozenset(), 0, {})


async def test_a_stream_must_be_asked_for_as_one(door: Front) -> None:
    headers = door.headers(mcp_session_id=await door.handshake(), accept="application/json")
    assert (await door.http.get(door.url, headers=headers)).status_code == 406


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json, text/event-stream", "application/json"),
        ("text/event-stream, application/json", "text/event-stream"),
        ("*/*", "application/json"),
    ],
)
async def test_an_agent_that_would_rather_have_events_gets_even_a_lone_answer_as_one(
    door: Front, accept: str, kind: str
) -> None:
    session = await door.handshake()
    headers = {**door.headers(), "accept": accept, "mcp-session-id": session}
    response = await door.http.post(door.url, content=json.dumps(request("ping")), headers=headers)
    assert response.headers["content-type"] == kind
    [message] = events(response.text) if kind == "text/event-stream" else [response.json()]
    assert message["result"] == {}
    assert response.headers["mcp-session-id"] == session
