"""The answer of a plain HTTP request, as ASGI messages."""

import asyncio
from typing import Any

import anyio

from mcp_gateway.frontdoor.http_relay import HttpRelay


class Wire:
    """ASGI's two halves."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.hung_up = asyncio.Event()

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def receive(self) -> Any:
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


def relay_on(wire: Wire) -> HttpRelay:
    return HttpRelay(wire.send, {"x-ours": "1"}, lambda error: f"broken: {error}".encode())


async def test_what_is_known_in_whole_leaves_with_its_length_and_not_before_the_end() -> None:
    wire = Wire()
    relay = relay_on(wire)
    await relay.begin(418, {"content-type": "application/json"})
    relay.hold(b"whole")
    assert wire.sent == []
    await relay.finish()
    assert wire.sent[0]["status"] == 418
    assert wire.headers == {b"content-type": b"application/json", b"x-ours": b"1", b"content-length": b"5"}
    assert wire.body == b"whole"


async def test_a_stream_leaves_as_it_comes_and_its_end_last() -> None:
    wire = Wire()
    relay = relay_on(wire)
    await relay.begin(200, {})
    await relay.write(b"a")
    assert wire.body == b"a"
    relay.hold(b"z")
    assert wire.body == b"a"
    await relay.finish()
    assert wire.body == b"az"
    assert wire.headers[b"cache-control"] == b"no-cache"
    assert b"content-length" not in wire.headers
    assert [message.get("more_body") for message in wire.sent] == [None, True, False]


async def test_a_stream_that_breaks_off_ends_in_its_wire_s_words() -> None:
    wire = Wire()
    relay = relay_on(wire)
    await relay.begin(200, {})
    await relay.write(b"a ")
    relay.hold_error(ValueError("why"))
    await relay.finish()
    assert wire.body == b"a broken: why"


async def test_an_agent_that_hangs_up_ends_the_work_on_its_answer() -> None:
    wire = Wire()
    relay = relay_on(wire)
    async with relay.watched(wire.receive):
        wire.hung_up.set()
        with relay.scope:
            await anyio.sleep_forever()
    assert relay.scope.cancelled_caught


async def test_nobody_is_watched_once_the_work_is_done() -> None:
    wire = Wire()
    relay = relay_on(wire)
    before = len(asyncio.all_tasks())
    async with relay.watched(wire.receive):
        assert len(asyncio.all_tasks()) == before + 1
    assert len(asyncio.all_tasks()) == before


async def test_what_waits_for_the_answer_to_go_out_is_done_with_its_end_and_never_without() -> None:
    wire, done = Wire(), list[str]()
    relay = relay_on(wire)
    relay.afterwards(lambda: done.append("first"))
    relay.afterwards(lambda: done.append("second"))
    await relay.begin(200, {})
    await relay.write(b"part")
    assert done == []
    await relay.finish()
    assert done == ["first", "second"]
