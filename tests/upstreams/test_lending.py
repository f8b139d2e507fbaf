"""Upstreams that one process runs for the others; `test_borrowed.py` has the calls."""

import socket
from typing import Any

from fakes.waiting import until
from mcp_gateway.domain import Json, UpstreamState, UpstreamStatus
from mcp_gateway.upstreams.lending import FarReply, Lending
from mcp_gateway.upstreams.link import FarSide, Link, Told
from upstreams.test_borrowed import LentUpstream

STATUS = UpstreamStatus("u", UpstreamState.READY)


async def met(lending: Lending) -> tuple[Link, list[Json]]:
    """One more process, and what it hears."""
    heard: list[Json] = []
    link = Link(heard.append, lambda: None)
    one, other = socket.socketpair()
    await lending.lend_to(one)
    await link.connect(other)
    return link, heard


async def test_each_process_hears_what_is_another_than_it_knows() -> None:
    lending = Lending(dict, lambda *_: True)
    lending.publish({"u": Told(STATUS)})
    link, heard = await met(lending)
    lending.publish({"u": Told(STATUS)})
    lending.publish({"u": Told(STATUS), "v": Told(STATUS, held=("tool:x",))})
    lending.publish({"v": Told(STATUS, held=("tool:x",))})
    await until(lambda: len(heard) == 3)
    assert [(message["t"], message["u"]) for message in heard] == [("told", "u"), ("told", "v"), ("gone", "u")]
    link.close()
    await lending.returned(5)


async def test_what_two_processes_want_is_wanted_by_each() -> None:
    upstream = LentUpstream("u")
    lending = Lending(lambda: {"u": upstream}, lambda *_: True)
    lending.publish({"u": Told(STATUS)})
    (one, _), (other, heard) = await met(lending), await met(lending)
    one.tell({"t": "watch", "u": "u", "uris": ["a"]})
    other.tell({"t": "watch", "u": "u", "uris": ["b"]})
    await until(lambda: set(upstream.wanted.values()) == {frozenset({"a"}), frozenset({"b"})})
    one.close()
    await until(lambda: set(upstream.wanted.values()) == {frozenset(), frozenset({"b"})})
    lending.note_updated("u", "b")
    await until(lambda: heard[-1] == {"t": "updated", "u": "u", "uri": "b"})
    other.close()
    await lending.returned(5)


async def test_a_new_upstream_by_the_same_name_is_told_what_is_wanted() -> None:
    upstreams = {"u": LentUpstream("u")}
    lending = Lending(lambda: upstreams, lambda *_: True)
    link, _ = await met(lending)
    link.tell({"t": "watch", "u": "u", "uris": ["a"]})
    await until(lambda: upstreams["u"].wanted)
    upstreams["u"] = LentUpstream("u")
    lending.publish({"u": Told(STATUS)})
    assert list(upstreams["u"].wanted.values()) == [frozenset({"a"})]
    link.close()
    await lending.returned(5)


async def test_an_upstream_that_is_gone_is_no_answer() -> None:
    lending = Lending(dict, lambda *_: True)
    link, heard = await met(lending)
    reply = {"progress": False, "log_level": None, "capabilities": {}, "side": "s", "takes_input_required": False}
    call = {"t": "call", "n": 7, "u": "u", "m": "tools/call", "p": {}, "h": {}, "o": "", "s": None, "login": False}
    link.tell({**call, "r": reply})
    await until(lambda: heard)
    assert (heard[0]["t"], heard[0]["n"], heard[0]["why"]) == ("failed", 7, "unreachable")
    link.close()
    await lending.returned(5)


def test_whether_an_agent_can_be_asked_is_told_by_what_it_declared() -> None:
    def can_answer(capabilities: Any, method: str, params: Json) -> bool:
        return method in capabilities

    told = {"progress": True, "log_level": "info", "capabilities": {"roots/list": {}}, "side": "s"}
    reply = FarReply(
        Link(lambda _: None, lambda: None), {"n": 1, "r": {**told, "takes_input_required": True}}, can_answer
    )
    assert reply.can_be_asked("roots/list", {})
    assert not reply.can_be_asked("sampling/createMessage", {})
    assert (reply.wants_progress, reply.log_level, reply.takes_input_required) == (True, "info", True)
    assert reply.side == FarSide("s")
