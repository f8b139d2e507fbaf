"""An upstream that another process runs is used as if it were here; `test_lending.py` has the other side."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from fakes.replies import RecordingReply
from fakes.upstream import FakeUpstream, Hanging, text
from fakes.waiting import until
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.domain import Era, Json, Listing, Outcome, Reply, UpstreamRequest, UpstreamState, UpstreamStatus
from mcp_gateway.errors import AgentRefused, Misbehaved, Unreachable
from mcp_gateway.upstreams import borrowed as module
from mcp_gateway.upstreams.borrowed import BorrowedUpstream, Lender
from mcp_gateway.upstreams.lending import Lending
from mcp_gateway.upstreams.link import Told
from mcp_gateway.upstreams.managed import Surroundings

READY = Told(
    UpstreamStatus("u", UpstreamState.READY, transport="stdio"), Listing("u", tools=({"name": "t"},)), ("tool:x",)
)


@dataclass
class LentUpstream(FakeUpstream):
    """An upstream in the process that runs it."""

    wanted: dict[object, frozenset[str]] = field(default_factory=dict)
    wakes: int = 0

    def watch(self, uris: frozenset[str], asker: object = None) -> None:
        self.wanted[asker] = uris

    def follow(self, task_ids: frozenset[str], asker: object = None) -> None:
        self.followed = task_ids

    def wake(self) -> None:
        self.wakes += 1


@dataclass
class Asked(RecordingReply):
    """An agent's side that says what it is told to say."""

    says: Json | Exception = field(default_factory=dict)
    asked: list[tuple[str, Json]] = field(default_factory=list)

    async def ask(self, method: str, params: Json) -> Json:
        self.asked.append((method, params))
        if isinstance(self.says, Exception):
            raise self.says
        if "hang" in self.says:
            await asyncio.Event().wait()
        return self.says


@dataclass
class Both:
    """Two processes, as far as one upstream `u` is concerned."""

    lent: LentUpstream
    lending: Lending
    lender: Lender
    here: BorrowedUpstream
    changed: list[str]
    updated: list[tuple[str, str]]
    tasks: list[Json]

    async def meet(self) -> None:
        one, other = socket.socketpair()
        await self.lender.connect(other)  # whoever waited speaks before anybody listens
        await self.lending.lend_to(one)

    async def send(self, name: str = "t", reply: Reply | None = None) -> Outcome:
        request = UpstreamRequest(
            "tools/call", {"name": name, "arguments": {"a": 1}}, {"authorization": "x"}, owner="o"
        )
        return await self.here.send(request, reply or RecordingReply())


def yes(capabilities: Any, method: str, params: Json) -> bool:
    return True


@asynccontextmanager
async def both(told: Told = READY, can_answer: Callable[..., bool] = yes) -> AsyncIterator[Both]:
    lent = LentUpstream("u")
    changed: list[str] = []
    updated: list[tuple[str, str]] = []
    tasks: list[Json] = []
    lending = Lending(lambda: {"u": lent}, can_answer)
    lending.publish({"u": told})
    around = Surroundings(
        on_change=changed.append,
        on_updated=lambda name, uri: updated.append((name, uri)),
        on_task=lambda name, params: tasks.append(params),
    )
    lender = Lender(around)
    made = Both(
        lent, lending, lender, lender.upstream(ServerConfig("u", command=("x",)), None), changed, updated, tasks
    )
    await made.meet()
    await until(made.here.settled.is_set) if told is READY else None
    try:
        yield made
    finally:
        for borrower in list(lending._borrowers):
            borrower.link.close()
        await lending.returned(5)
        await until(lambda: not lender.is_there)


async def test_what_it_offers_is_what_the_other_process_says() -> None:
    async with both() as made:
        assert made.here.listing == READY.listing
        assert made.here.status == READY.status
        assert made.lender.told["u"].held == ("tool:x",)
        made.lending.publish({"u": replace(READY, offers_login=True)})
        await until(lambda: made.here.offers_login)
        assert made.changed[-1] == "u"
        made.lending.publish({})
        await until(lambda: made.here.told is None)
        assert made.here.status.state is UpstreamState.STARTING


async def test_a_call_arrives_there_as_it_was_and_its_answer_here() -> None:
    async with both() as made:
        outcome = await made.send()
        assert outcome == text("{'a': 1}")
        [request] = made.lent.asked
        assert (request.headers, request.owner) == ({"authorization": "x"}, "o")


async def test_progress_and_log_lines_come_before_the_answer_and_in_order() -> None:
    async def busy(request: UpstreamRequest, reply: Reply) -> Outcome:
        for number in range(50):
            await reply.progress({"progress": number})
            await reply.log({"level": "info", "data": number})
        return text("done")

    async with both() as made:
        made.lent.script["t"] = busy
        reply = RecordingReply()
        await made.send(reply=reply)
        assert [each["progress"] for each in reply.progressed] == list(range(50))
        assert [each["data"] for each in reply.logged] == list(range(50))


async def asking(request: UpstreamRequest, reply: Reply) -> Outcome:
    try:
        return text(str(await reply.ask("elicitation/create", {"message": "?"})))
    except LookupError as e:
        return text(f"{e} {dict(reply.lacking)}")


async def test_a_question_goes_to_the_agent_here_and_its_answer_there() -> None:
    async with both() as made:
        made.lent.script["t"] = asking
        side = Asked(says={"action": "accept"})
        assert await made.send(reply=side) == text("{'action': 'accept'}")
        assert side.asked == [("elicitation/create", {"message": "?"})]
        assert await made.send(reply=Asked(says=LookupError("nobody"), lacking={"roots": {}})) == text(
            "nobody {'roots': {}}"
        )
        with pytest.raises(AgentRefused, match="will not") as refused:
            await made.send(reply=Asked(says=AgentRefused(-1, "will not", [1])))
        assert (refused.value.rpc_code, refused.value.data) == (-1, [1])


async def test_time_that_a_person_takes_is_counted_there() -> None:
    seen: list[float] = []

    async def waits(request: UpstreamRequest, reply: Reply) -> Outcome:
        question = asyncio.ensure_future(reply.ask("roots/list", {}))
        await until(lambda: reply.waited_s > 0.05)
        question.cancel()
        await asyncio.wait([question])
        seen.append(reply.waited_s)
        return text("done")

    async with both() as made:
        made.lent.script["t"] = waits
        assert await made.send(reply=Asked(says={"hang": True})) == text("done")
        assert 0.05 < seen[0] < 5


async def test_cancelling_a_call_here_cancels_it_there() -> None:
    async with both() as made:
        made.lent.script["t"] = hanging = Hanging()
        calling = asyncio.ensure_future(made.send())
        await until(lambda: hanging.replies)
        calling.cancel()
        await asyncio.wait([calling])
        await until(lambda: made.lent.cancelled)


async def test_failures_of_the_upstream_are_its_own_and_a_bug_there_is_no_silence_here() -> None:
    async def misbehaves(request: UpstreamRequest, reply: Reply) -> Outcome:
        raise Misbehaved("u", "odd")

    async with both() as made:
        made.lent.script["t"] = misbehaves
        with pytest.raises(Misbehaved, match="odd"):
            await made.send()


async def test_when_the_other_process_dies_calls_fail_at_once_and_later_ones_wait_for_the_next() -> None:
    async with both() as made:
        made.lent.script["t"] = hanging = Hanging()
        calling = asyncio.ensure_future(made.send())
        await until(lambda: hanging.replies)
        for borrower in list(made.lending._borrowers):
            borrower.link.close()
        with pytest.raises(Unreachable, match="starts again"):
            await calling
        await until(lambda: made.lent.cancelled)
        assert made.here.status.state is UpstreamState.STARTING
        assert made.here.listing == READY.listing
        waiting = asyncio.ensure_future(made.send("echo"))
        await asyncio.sleep(0)
        await made.meet()
        assert await waiting == text("{'a': 1}")


async def test_nobody_waits_for_ever_for_a_process_that_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STARTING_WAIT_S", 0.05)
    lender = Lender(Surroundings())
    here = lender.upstream(ServerConfig("u", command=("x",)), None)
    with pytest.raises(Unreachable, match="is starting again"):
        await here.send(UpstreamRequest("tools/call", {"name": "t"}), RecordingReply())
    assert await here.declined(frozenset({"a"})) == frozenset()


async def test_what_agents_here_want_to_hear_of_is_watched_there_and_told_here() -> None:
    async with both() as made:
        made.lent.refuses = frozenset({"b"})
        made.here.watch(frozenset({"a", "b"}))
        made.here.follow(frozenset({"job"}))
        assert await made.here.declined(frozenset({"a", "b"})) == {"b"}
        assert list(made.lent.wanted.values()) == [frozenset({"a", "b"})]
        made.lending.note_updated("u", "a")
        made.lending.note_task("u", {"taskId": "job", "status": "working"})
        made.lending.note_task("u", {"taskId": "anothers", "status": "working"})
        await until(lambda: made.updated and made.tasks)
        assert (made.updated, made.tasks) == ([("u", "a")], [{"taskId": "job", "status": "working"}])

        for borrower in list(made.lending._borrowers):
            borrower.link.close()
        await until(lambda: list(made.lent.wanted.values()) == [frozenset()])
        made.updated.clear()
        await made.meet()  # what changed meanwhile, nobody can know
        await until(lambda: made.updated == [("u", "a"), ("u", "b")])
        await until(lambda: frozenset({"a", "b"}) in made.lent.wanted.values())
        made.here.wake()
        await until(lambda: made.lent.wakes)


async def test_a_link_that_a_person_followed_is_called_done_after_the_call() -> None:
    replies: list[Reply] = []

    async def sends_away(request: UpstreamRequest, reply: Reply) -> Outcome:
        replies.append(reply)
        return text(str(await reply.ask("elicitation/create", {"mode": "url", "elicitationId": "e"})))

    async with both() as made:
        made.lent.script["t"] = sends_away
        side = Asked(says={"action": "accept"})
        await made.send(reply=side)
        replies[0].elicited("e")
        await until(lambda: side.links_done == ["e"])


async def test_a_stateless_upstream_is_this_processs_own() -> None:
    lender = Lender(Surroundings())
    here = lender.upstream(ServerConfig("u", url="http://127.0.0.1:9/mcp"), None)
    running = asyncio.create_task(here.run())
    assert here.status.state is UpstreamState.STARTING
    lender._hear({"t": "told", "u": "u", **READY.plain(None)})
    assert here.status.state is UpstreamState.STARTING  # of the handshake era: one session, not one for each process
    modern = replace(READY, status=replace(READY.status, era=Era.MODERN, transport="http"))
    lender._hear({"t": "told", "u": "u", **modern.plain(None)})
    await until(lambda: here.status.state is UpstreamState.DOWN)  # what nobody listens at, it finds out by itself
    assert here.listing == READY.listing
    await here.retire()
    await running
    assert here.finished.is_set()
