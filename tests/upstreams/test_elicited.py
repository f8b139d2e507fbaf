"""That a link is done is told to whoever was sent there, once, and to nobody else."""

from fakes.replies import RecordingReply
from mcp_gateway.domain import Json, Reply, RpcError
from mcp_gateway.upstreams.connection import Listener
from mcp_gateway.upstreams.elicited import MAX_LINKS, Elicited


async def answer(method: str, params: Json, reply: Reply | None) -> Json:
    return {"action": "accept"}


def link(link_id: object) -> Json:
    return {"mode": "url", "url": "https://u.example/", "message": "?", "elicitationId": link_id}


async def test_whoever_was_sent_to_a_link_hears_once_that_it_is_done() -> None:
    elicited, alice, bob = Elicited(answer), RecordingReply(), RecordingReply()
    await elicited.ask("elicitation/create", link("a"), alice)
    await elicited.ask("elicitation/create", link("b"), bob)
    listener = Listener(on_elicited=elicited.note_complete)
    for link_id in ("a", "a", "nobody's", 7, ["a"], None):
        listener.take_news("notifications/elicitation/complete", {"elicitationId": link_id})
    assert (alice.links_done, bob.links_done) == (["a"], [])


async def test_a_form_a_strange_id_and_a_question_of_no_call_are_no_links() -> None:
    elicited, alice = Elicited(answer), RecordingReply()
    await elicited.ask("elicitation/create", {"mode": "form", "elicitationId": "f"}, alice)
    await elicited.ask("sampling/createMessage", link("s"), alice)
    await elicited.ask("elicitation/create", link("x"), None)
    for strange in (7, None, "x" * 300):
        await elicited.ask("elicitation/create", link(strange), alice)
    for link_id in ("f", "s", "x", "x" * 300):
        elicited.note_complete({"elicitationId": link_id})
    assert alice.links_done == []


def test_links_of_a_refusal_count_too() -> None:
    elicited, alice = Elicited(answer), RecordingReply()
    elicited.note_refusal(RpcError(-32042, "m", {"elicitations": [link("a"), "x", {}]}), alice)
    elicited.note_refusal(RpcError(-32603, "m", {"elicitations": 7}), alice)
    elicited.note_refusal(None, alice)
    elicited.note_complete({"elicitationId": "a"})
    assert alice.links_done == ["a"]


def test_only_so_many_links_are_remembered() -> None:
    elicited, alice = Elicited(answer), RecordingReply()
    for n in range(MAX_LINKS + 1):
        elicited.note_refusal(RpcError(-32042, "m", {"elicitations": [link(str(n))]}), alice)
    for n in range(MAX_LINKS + 1):
        elicited.note_complete({"elicitationId": str(n)})
    assert len(alice.links_done) == MAX_LINKS
    assert "0" not in alice.links_done
