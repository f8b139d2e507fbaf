"""One request over Streamable HTTP, and every way in which its answer can be wrong."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import orjson
import pytest

from fakes.raw_http import Asked, RawHttp, answering, event, http, json_answer, result_for, scripted, stream_start
from fakes.replies import RecordingReply
from fakes.servers import QUICK
from fakes.waiting import until
from mcp_gateway.domain import Json, Reply, RpcError, UpstreamRequest
from mcp_gateway.errors import Misbehaved, Unreachable
from mcp_gateway.upstreams.connection import Answer, Listener, errands
from mcp_gateway.upstreams.dialect import HANDSHAKE, MODERN, Dialect
from mcp_gateway.upstreams.fast_wire import FastClient
from mcp_gateway.upstreams.http import Http
from mcp_gateway.upstreams.refusals import Rejected, SessionLost

CALL = UpstreamRequest("tools/call", {"name": "t"})


class Asking:
    """A served URL and a way to ask it."""

    def __init__(self, http: Http, served: RawHttp) -> None:
        self.http = http
        self.served = served
        self.dropped = http.listener.dropped

    async def ask(
        self, request: UpstreamRequest = CALL, reply: Reply | None = None, dialect: Dialect = MODERN, session: str = ""
    ) -> Answer:
        return await self.http.run(self.http.begin(dialect, request, reply or RecordingReply(), session))


@asynccontextmanager
async def asking(
    answerer: Callable[[Asked, asyncio.StreamWriter], Awaitable[None]], listener: Listener | None = None, **headers: str
) -> AsyncIterator[Asking]:
    async with answering(answerer) as served, errands() as tasks:
        client = FastClient(1)
        try:
            yield Asking(Http("up", served.url, headers, client, tasks, listener or Listener(), QUICK), served)
        finally:
            await client.close()


def always(answer: bytes) -> Any:
    return scripted([lambda asked: answer])


def streaming(*messages: Callable[[Asked], bytes]) -> Any:
    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.rpc_method == "tools/call":
            writer.write(stream_start() + b"".join(message(asked) for message in messages))
        else:
            writer.write(http(202))

    return answerer


def result(**value: Any) -> Callable[[Asked], bytes]:
    return lambda asked: event({"jsonrpc": "2.0", "id": asked.message["id"], "result": value})


def said(method: str, /, **params: Any) -> Callable[[Asked], bytes]:
    return lambda asked: event({"jsonrpc": "2.0", "method": method, "params": params})


def stepped(value: Any, shift: int = 0) -> Callable[[Asked], bytes]:
    return lambda asked: said("notifications/progress", progressToken=asked.message["id"] + shift, progress=value)(
        asked
    )


async def test_a_json_answer_comes_back_untouched() -> None:
    raw = {"content": [], "x": None, "resultType": "input_required"}
    async with asking(scripted([lambda asked: result_for(asked, raw)])) as up:
        assert await up.ask() == raw


async def test_headers_mirror_the_body_and_credentials_win_over_configuration() -> None:
    schema = {"type": "object", "properties": {"r": {"type": "string", "x-mcp-header": "Region"}}}
    params = {"name": "tööl", "arguments": {"r": "eu"}}
    request = UpstreamRequest(
        "tools/call", params, {"Authorization": "Bearer agent's"}, {"name": "tööl", "inputSchema": schema}
    )
    forged = {"Mcp-Method": "x", "MCP-Protocol-Version": "1", "Host": "evil", "Content-Length": "0", "X-Mine": "1"}
    async with asking(scripted([lambda asked: result_for(asked, {})]), Authorization="Bearer config", **forged) as up:
        await up.ask(request)
    [asked] = up.served.asked
    assert asked.headers["authorization"] == "Bearer agent's"
    assert asked.headers["mcp-protocol-version"] == "2026-07-28"
    assert asked.headers["mcp-method"] == "tools/call"
    assert asked.headers["mcp-name"].startswith("=?base64?")
    assert asked.headers["mcp-param-region"] == "eu"
    assert asked.headers["accept"] == "application/json, text/event-stream"
    assert asked.headers["x-mine"] == "1"
    assert asked.headers["host"].startswith("127.0.0.1")
    assert asked.message["params"]["arguments"] == {"r": "eu"}


async def test_a_stream_relays_progress_and_logs_before_the_answer() -> None:
    reply = RecordingReply(log_level="info")
    log = [said("notifications/message", level=level, data=1) for level in ("debug", "error")]
    async with asking(streaming(stepped(1), stepped(1), *log, stepped(2), result(a=1), stepped(3))) as up:
        assert await up.ask(reply=reply) == {"a": 1}
    assert [step["progress"] for step in reply.progressed] == [1, 2]
    assert [line["level"] for line in reply.logged] == ["error"]


async def test_what_belongs_to_another_call_is_dropped() -> None:
    reply = RecordingReply()
    wrong = [lambda asked, odd=odd: event({"jsonrpc": "2.0", "id": odd, "result": {}}) for odd in (99, "1", True, None)]
    strange = [said("notifications/progress", progressToken=token, progress=1) for token in (True, "1", None)]
    async with asking(streaming(*wrong, *strange, stepped(1, shift=1), lambda a: b"data: junk\n\n", result(a=1))) as up:
        assert await up.ask(reply=reply) == {"a": 1}
        assert up.dropped == {"unknown id": 4, "unattributed": 4, "noise": 1}
    assert reply.progressed == []


async def test_a_changed_list_is_told_wherever_it_is_said() -> None:
    changed: list[str] = []
    async with asking(streaming(said("notifications/tools/list_changed"), result()), Listener(changed.append)) as up:
        await up.ask()
    assert changed == ["notifications/tools/list_changed"]


@pytest.mark.parametrize("status", [200, 400, 404, 500])
async def test_a_json_rpc_error_is_an_answer_whatever_its_status(status: int) -> None:
    def answer(asked: Asked) -> bytes:
        return json_answer(
            {"jsonrpc": "2.0", "id": asked.message["id"], "error": {"code": -32602, "message": "x"}}, status
        )

    async with asking(scripted([answer])) as up:
        assert await up.ask() == RpcError(-32602, "x")


async def test_an_error_without_an_id_answers_what_it_came_back_on() -> None:
    body = {"jsonrpc": "2.0", "id": None, "error": {"code": -32020, "message": "headers"}}
    async with asking(always(json_answer(body, 400))) as up:
        assert await up.ask() == RpcError(-32020, "headers")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (http(401, b"{}", "application/json", 'www-authenticate: Bearer realm="x"'), 401),
        (http(403), 403),
        (http(307, b"", "", "location: http://127.0.0.1:1/"), 307),
        (http(500, b"<html>secret", "text/html"), 500),
        (http(502), 502),
        (http(404, b"[]"), 404),
        (http(400, b"{"), 400),
        (json_answer({"jsonrpc": "2.0", "id": 1, "result": {"a": 1, "b": []}}, 401), 401),
    ],
)
async def test_any_other_status_is_kept_as_a_status(answer: bytes, status: int) -> None:
    async with asking(always(answer)) as up:
        with pytest.raises(Rejected) as rejected:
            await up.ask()
    assert rejected.value.status == status
    assert "secret" not in str(rejected.value)
    assert rejected.value.challenge == ('Bearer realm="x"' if answer.find(b"realm") > 0 else "")


GOOD = b'{"jsonrpc":"2.0","id":1,"result":{}}'


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b"<html>hello", "text/html"),
        http(202),
        http(204),
        http(200, GOOD, "text/plain"),
        http(200, b""),
        http(200, b"[" + GOOD + b"]"),
        http(200, b'{"jsonrpc":"2.0","id":2,"result":{}}'),
        http(200, b"\xff\xfe"),
        http(200, b'{"jsonrpc":"2.0","id":1,"result":{"a":1,"a":2}}'),
        http(200, b'{"jsonrpc":"2.0","id":1,"result":[]}'),
        http(200, b'{"jsonrpc":"2.0","method":"ping","id":1}'),
        http(200, b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 10**5),
        http(200, gzip.compress(b" " * 2**24 + GOOD), "application/json", "content-encoding: gzip"),
        http(200, b" " * 2**21 + GOOD),
        stream_start() + b"data: " + b"x" * 2**21,
        stream_start() + b": x\n" * 2**20,
        stream_start("content-encoding: gzip") + gzip.compress(b"data: " + b"x" * 2**26),
        stream_start() + b'data: {"jsonrpc":"2.0","id":1,"result":{"a":1,"a":2}}\n\n',
        stream_start() + b'data: {"jsonrpc":"2.0","id":1,"result":7}\n\n',
    ],
    ids=lambda answer: str(answer[-40:]),
)
async def test_an_answer_that_breaks_the_protocol_or_a_bound_is_misbehaviour(answer: bytes) -> None:
    async with asking(always(answer)) as up:
        with anyio.fail_after(5), pytest.raises(Misbehaved):
            await up.ask()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        http(200, GOOD)[:-3],
        stream_start(),
        stream_start() + b"data: {}\n\n",
        http(200, b"no gzip", "application/json", "content-encoding: gzip"),
    ],
    ids=lambda answer: str(answer[-40:]),
)
async def test_an_answer_that_breaks_off_is_no_answer(answer: bytes) -> None:
    async with asking(always(answer)) as up:
        with pytest.raises(Unreachable):
            await up.ask()
    assert len(up.served.asked) == 1, "what may have run is not sent again"


async def endless(asked: Asked, writer: asyncio.StreamWriter) -> None:
    if asked.rpc_method == "tools/call":
        writer.write(stream_start())
        await asyncio.sleep(3600)
    writer.write(http(202))


async def test_cancelling_a_modern_call_closes_its_stream() -> None:
    async with asking(endless) as up:
        with anyio.move_on_after(0.1):
            await up.ask()
        await until(lambda: up.served.hung_up)
        assert [asked.rpc_method for asked in up.served.asked] == ["tools/call"]


async def test_cancelling_a_legacy_call_says_so() -> None:
    async with asking(endless) as up:
        with anyio.move_on_after(0.1):
            await up.ask(dialect=HANDSHAKE, session="s1")
        [cancelled] = await until(lambda: up.served.asked_for("notifications/cancelled"))
    assert cancelled.message["params"]["requestId"] == up.served.asked[0].message["id"]
    assert cancelled.headers["mcp-session-id"] == "s1"


async def test_a_legacy_stream_that_breaks_off_is_taken_up_where_it_ended() -> None:
    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method == "POST":
            writer.write(stream_start() + event({}, "id: e1", "retry: 10"))
        elif asked.headers["last-event-id"] == "e1":
            writer.write(stream_start() + b"id: e2\ndata:\n\n")
        else:
            writer.write(stream_start() + event({"jsonrpc": "2.0", "id": 1, "result": {"a": 1}}))

    async with asking(answerer) as up:
        assert await up.ask(dialect=HANDSHAKE) == {"a": 1}
    assert [asked.headers.get("last-event-id") for asked in up.served.asked] == [None, "e1", "e2"]


async def test_taking_up_a_stream_in_vain_comes_to_an_end() -> None:
    async with asking(always(stream_start() + b"id: e1\nretry: 1\n\n")) as up:
        with anyio.fail_after(5), pytest.raises(Unreachable):
            await up.ask(dialect=HANDSHAKE)
    assert len(up.served.asked) == 6


async def test_a_modern_stream_that_breaks_off_is_not_taken_up() -> None:
    async with asking(always(stream_start() + b"id: e1\nretry: 1\n\n")) as up:
        with pytest.raises(Unreachable):
            await up.ask()
    assert len(up.served.asked) == 1


@pytest.mark.parametrize(
    ("answer", "session", "is_lost"),
    [
        (http(404), "s", True),
        (http(404), "", False),
        (json_answer({"x": 1}, 404), "s", True),
        (
            json_answer({"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "No valid session"}}, 400),
            "s",
            True,
        ),
    ],
)
async def test_a_forgotten_session_is_recognised(answer: bytes, session: str, is_lost: bool) -> None:
    async with asking(always(answer)) as up:
        with pytest.raises(Unreachable) as error:
            await up.ask(dialect=HANDSHAKE, session=session)
    assert isinstance(error.value, SessionLost) is is_lost


@pytest.mark.parametrize(
    ("method", "plugged", "answer"),
    [
        ("ping", False, {"result": {}}),
        ("roots/list", False, {"error": -32601}),
        ("roots/list", True, {"result": {"a": 1}}),
    ],
)
async def test_a_question_on_a_calls_stream_is_answered(method: str, plugged: bool, answer: Json) -> None:
    async def reply_to(method: str, params: Json, reply: Reply | None) -> Json:
        assert reply is not None
        return params

    question = event({"jsonrpc": "2.0", "id": "q", "method": method, "params": {"a": 1}})
    listener = Listener(on_question=reply_to if plugged else None)
    async with asking(streaming(lambda asked: question, result()), listener) as up:
        await up.ask(dialect=HANDSHAKE, session="s1")
        sent = await until(lambda: [asked for asked in up.served.asked if not asked.rpc_method])
    [response] = sent
    assert response.headers["mcp-session-id"] == "s1"
    assert "mcp-name" not in response.headers
    assert response.message["id"] == "q"
    assert {
        k: v["code"] if k == "error" else v for k, v in response.message.items() if k in ("result", "error")
    } == answer


async def test_a_get_stream_is_heard_and_progress_on_it_reaches_its_call() -> None:
    changed: list[str] = []
    reply = RecordingReply()
    go_on = asyncio.Event()

    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method == "POST":
            await go_on.wait()
            writer.write(result_for(asked, {}))
        else:
            strangers = [{"progressToken": token, "progress": 5} for token in (7, True, "1")]
            progress = [*strangers, {"progressToken": 1, "progress": 1}]
            messages = [{"method": "notifications/progress", "params": params} for params in progress]
            more = [{"method": "notifications/prompts/list_changed"}, {"method": "notifications/message", "params": {}}]
            writer.write(stream_start() + b"".join(event({"jsonrpc": "2.0", **said}) for said in [*messages, *more]))

    async with asking(answerer, Listener(changed.append)) as up, anyio.create_task_group() as tasks:
        tasks.start_soon(up.ask, CALL, reply, HANDSHAKE)
        await until(lambda: up.served.asked)
        await up.http.hear({})
        go_on.set()
    assert changed == ["notifications/prompts/list_changed"]
    assert [step["progress"] for step in reply.progressed] == [1]
    assert up.dropped["unattributed"] == 4


@pytest.mark.parametrize(("calls", "is_asked"), [(["s1"], True), (["s2"], False), (["s1", "s1"], False), ([], False)])
async def test_a_question_on_the_get_stream_is_of_the_one_call_in_its_session(calls: list[str], is_asked: bool) -> None:
    replies: list[Reply | None] = []
    go_on = asyncio.Event()

    async def note(method: str, params: Json, reply: Reply | None) -> Json:
        replies.append(reply)
        return {}

    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.method == "GET":
            question = {"jsonrpc": "2.0", "id": "q", "method": "roots/list"}
            writer.write(stream_start() + event(question))
        elif asked.rpc_method:
            await go_on.wait()
            writer.write(result_for(asked, {}))
        else:
            writer.write(http(202))

    mine = RecordingReply()
    async with asking(answerer, Listener(on_question=note)) as up, anyio.create_task_group() as tasks:
        for session in calls:
            tasks.start_soon(up.ask, CALL, mine, HANDSHAKE, session)
        await until(lambda: len(up.served.asked_for("tools/call")) == len(calls))
        await up.http.hear({"mcp-session-id": "s1"})
        await until(lambda: replies)
        go_on.set()
    assert replies == [mine if is_asked else None]


@pytest.mark.parametrize("answer", [http(405), http(200, b"{}"), http(404)])
async def test_a_server_without_a_get_stream_says_so(answer: bytes) -> None:
    async with asking(always(answer)) as up:
        with pytest.raises(Rejected):
            await up.http.hear({})


async def test_two_hundred_calls_at_once_get_their_own_answers_and_credentials() -> None:
    async def answerer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        mark = asked.message["params"]["arguments"]["mark"]
        token = asked.message["params"]["_meta"]["progressToken"]
        await asyncio.sleep((mark * 7 % 13) / 1000)
        step = {
            "jsonrpc": "2.0",
            "method": "notifications/progress",
            "params": {"progressToken": token, "progress": mark},
        }
        answer = {"mark": mark, "who": asked.headers["authorization"]}
        writer.write(
            stream_start() + event(step) + event({"jsonrpc": "2.0", "id": asked.message["id"], "result": answer})
        )

    async def one(up: Asking, mark: int) -> None:
        reply = RecordingReply()
        request = UpstreamRequest(
            "tools/call", {"name": "t", "arguments": {"mark": mark}}, {"Authorization": f"A{mark % 2}"}
        )
        assert await up.ask(request, reply) == {"mark": mark, "who": f"A{mark % 2}"}
        assert [step["progress"] for step in reply.progressed] == [mark]

    async with asking(answerer) as up, anyio.create_task_group() as tasks:
        for mark in range(200):
            tasks.start_soon(one, up, mark)


async def test_secrets_do_not_show_when_it_is_printed() -> None:
    async with asking(always(b""), Authorization="Bearer s3cr3t") as up:
        assert "s3cr3t" not in repr(up.http)
        assert json.loads(orjson.dumps({"url": up.http.url}))["url"].startswith("http")
