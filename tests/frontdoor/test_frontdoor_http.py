"""The HTTP door from outside, over a real socket: who is let in, and what is refused before anything happens."""

import gzip
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fakes.front import META, Front, answer_of, front, initialize, modern_request, raw, raw_post, request
from fakes.upstream import raising
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.frontdoor import http_connection
from mcp_gateway.revisions import META_VERSION

PATHS = ["/mcp", "/mcp/work", "/health", "/ready", "/", "/mcp/nothing"]
SMALL = 4096


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Front]:
    """A door that takes bodies of `SMALL` bytes."""
    async with front(tmp_path, max_body_bytes=SMALL) as opened:
        yield opened


async def still_serves(door: Front) -> bool:
    """The oracle after every attack: the next good request is answered."""
    return (await door.call("u__echo", {"well": True})).status_code == 200


async def nothing_happened(door: Front) -> bool:
    """Nothing reached the upstream, and the door still serves."""
    return door.u.asked == [] and await still_serves(door)


# Host and Origin


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.com", "http://localhost:1@evil"]
)
async def test_a_foreign_page_reaches_no_route_and_no_method(door: Front, origin: str) -> None:
    session = await door.handshake()
    headers = door.headers(origin=origin, mcp_session_id=session)
    for path in PATHS:
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            url = f"http://127.0.0.1:{door.port}{path}"
            response = await door.http.request(method, url, headers=headers, content=b"{}")
            assert response.status_code == 403, (method, path)
            assert "access-control-allow-origin" not in response.headers
    assert await nothing_happened(door)


async def test_two_origins_are_refused_even_if_both_are_ours(door: Front) -> None:
    origin = f"origin: http://127.0.0.1:{door.port}"
    answer = await raw(door.port, raw_post(door, b"{}", origin, origin))
    assert answer.statuses == [403]


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["host: evil.example"], 421),
        (["host: evil.example:80"], 421),
        (["host: 127.0.0.1", "host: 127.0.0.1"], 400),
        (["host: 127.0.0.1", "host: evil.example"], 400),
        (["host: -"], 400),
        (["host: 127.0.0.1", "x-forwarded-host: evil.example"], 200),
    ],
)
async def test_a_host_that_is_not_ours_is_never_served(door: Front, lines: list[str], status: int) -> None:
    body, more = modern_request("tools/list")
    named = [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    assert (await raw(door.port, raw_post(door, json.dumps(body).encode(), *lines, *named))).statuses == [status]


# Who


@pytest.mark.parametrize("authorization", ["", "Basic YTpi", "Bearer", "Bearer x", "Bearer mgw_a_b", "mgw_x"])
async def test_nobody_in_particular_is_asked_for_a_token(door: Front, authorization: str) -> None:
    for body in (b"{", json.dumps(request("tools/list")).encode()):
        response = await door.post(body, authorization=authorization)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer ")
    assert door.rows() == []


async def test_two_tokens_are_none(door: Front) -> None:
    line = f"authorization: Bearer {door.token()}"
    assert (await raw(door.port, raw_post(door, b"{}", line, line))).statuses == [401]


async def test_a_token_in_the_query_is_nothing(door: Front) -> None:
    token = door.token()
    response = await door.post(request("ping"), path=f"?access_token={token}&token={token}", authorization="")
    assert response.status_code == 401


async def test_headers_of_a_proxy_prove_nothing(door: Front) -> None:
    claims = {"x_user": "bob", "x_forwarded_user": "bob", "x_forwarded_for": "10.0.0.1", "x_forwarded_prefix": "/x"}
    response = await door.modern("tools/list", **claims)
    assert len(response.json()["result"]["tools"]) == 5  # alice's
    assert (await door.post(request("ping"), authorization="", **claims)).status_code == 401


async def test_what_a_client_calls_itself_decides_nothing(door: Front) -> None:
    named = {"io.modelcontextprotocol/clientInfo": {"name": "bob", "version": "admin"}}
    response = await door.modern("tools/list", {"_meta": named})
    assert len(response.json()["result"]["tools"]) == 5


async def test_an_anonymous_agent_exists_only_where_it_was_written_down(tmp_path: Path) -> None:
    async with front(tmp_path, anonymous="bob") as door:
        response = await door.modern("tools/list", authorization="")
        assert [each["name"] for each in response.json()["result"]["tools"]] == ["u__echo"]
        assert (await door.modern("tools/list", authorization="Bearer wrong")).status_code == 401


async def test_a_key_store_that_cannot_be_read_lets_nobody_in(door: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise StoreUnavailable("/secret/path is locked")

    monkeypatch.setattr(door.verifier, "identify", broken)
    response = await door.modern("tools/list")
    assert response.status_code == 503
    assert "secret" not in response.text


async def test_a_bug_in_the_door_is_a_500_without_detail(
    door: Front, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
        patched.setattr(door.verifier, "identify", broken)
        response = await door.modern("tools/list")
    assert (response.status_code, response.json()) == (500, {"error": "internal error"})
    assert "secret detail" in caplog.text
    assert await still_serves(door)


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_bug_behind_the_door_is_an_internal_error_in_either_era(door: Front, era: str) -> None:
    door.u.script["echo"] = raising(ZeroDivisionError("secret detail"))
    if era == "modern":
        response = await door.call("u__echo", id_="x")
    else:
        response = await door.old(await door.handshake(), "tools/call", {"name": "u__echo"}, id_="x")
    assert response.status_code == 200
    assert response.json() == {"jsonrpc": "2.0", "id": "x", "error": {"code": -32603, "message": "internal error"}}
    assert door.rows("outcome") == [("failed",)]


# Where


@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/mcp/work", "/mcp/work/"])
async def test_an_agent_is_served_on_its_tasks(door: Front, path: str) -> None:
    body, headers = modern_request("tools/list")
    response = await door.http.post(
        f"http://127.0.0.1:{door.port}{path}", content=json.dumps(body), headers=door.headers(**headers)
    )
    assert len(response.json()["result"]["tools"]) == 5


async def test_the_path_picks_the_task(door: Front) -> None:
    assert (await door.modern("tools/list", path="/rest")).json()["result"]["tools"] == []


@pytest.mark.parametrize("path", [
    "/other", "/none", "/Work", "/%77ork", "/work/x", "//work", "/%2e%2e", "/..%2fmcp", "/w%6frk%2f", "/wörk",
    "/work%00", "/%EF%BD%97ork", "//", "/;/work", "/work;x", "/../mcp/other", "/work%0a", "/%",
])  # fmt: skip
async def test_any_other_task_is_as_unknown_as_any_other_path(door: Front, path: str) -> None:
    body, headers = modern_request("tools/list")
    named = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    first = f"POST /mcp{path} HTTP/1.1".encode().decode("latin-1")
    answer = await raw(door.port, raw_post(door, json.dumps(body).encode(), *named, first=first))
    assert answer.statuses in ([404], [400]), answer.data
    assert door.rows() == []


async def test_a_task_of_somebody_else_looks_like_one_that_does_not_exist(door: Front) -> None:
    other, none = [await door.modern("tools/list", path=path) for path in ("/other", "/none")]
    assert (other.status_code, other.content) == (none.status_code, none.content)
    assert other.headers.keys() == none.headers.keys()


@pytest.mark.parametrize("path", ["/", "/MCP", "/mcpx", "/mcp.json", "/health/", "/metrics", "/.well-known/x", "/sse"])
async def test_other_paths_are_not_found(door: Front, path: str) -> None:
    response = await door.http.get(f"http://127.0.0.1:{door.port}{path}", headers=door.headers())
    assert response.status_code == 404


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "PROPFIND"])
async def test_post_is_the_only_method_without_a_session(door: Front, method: str) -> None:
    response = await door.http.request(method, door.url, headers=door.headers())
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert "Bearer" not in response.text


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT"])
async def test_a_session_adds_get_and_delete_only(door: Front, method: str) -> None:
    headers = door.headers(mcp_session_id=await door.handshake())
    assert (await door.http.request(method, door.url, headers=headers)).status_code == 405


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_modern_client_has_no_get_and_no_delete(door: Front, method: str) -> None:
    headers = door.headers(mcp_session_id=await door.handshake(), mcp_protocol_version="2026-07-28")
    assert (await door.http.request(method, door.url, headers=headers)).status_code == 405


# Health


@pytest.mark.parametrize(
    ("ok", "ready", "health", "readiness"), [(True, True, 200, 200), (True, False, 200, 503), (False, True, 503, 503)]
)
async def test_anybody_may_ask_how_it_is(door: Front, ok: bool, ready: bool, health: int, readiness: int) -> None:
    door.health.update(ok=ok, ready=ready)
    for path, status in (("/health", health), ("/ready", readiness)):
        response = await door.http.get(f"http://127.0.0.1:{door.port}{path}")
        assert (response.status_code, response.headers["cache-control"]) == (status, "no-store")
    head = await door.http.head(f"http://127.0.0.1:{door.port}/health")
    assert (head.status_code, head.content) == (health, b"")
    assert (await door.http.post(f"http://127.0.0.1:{door.port}/health")).status_code == 405


# Bodies


@pytest.mark.parametrize(
    "given", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp", "multipart/form-data"]
)
async def test_only_json_is_read(door: Front, given: str) -> None:
    body, headers = modern_request("tools/call", {"name": "u__echo"})
    assert (await door.post(body, content_type=given, **headers)).status_code == 415
    assert await nothing_happened(door)


@pytest.mark.parametrize("given", ["application/json", "text/event-stream", "", "text/html"])
async def test_a_client_says_that_it_reads_both_kinds_of_answer(door: Front, given: str) -> None:
    body = json.dumps(request("ping")).encode()
    lines = [f"accept: {given}"] if given else ["accept: -"]
    assert (await raw(door.port, raw_post(door, body, *lines))).statuses == [406]


async def test_a_body_over_the_limit_is_refused_before_it_is_read(
    small: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connection, "LINGER_S", 0.05)
    answer = await raw(small.port, raw_post(small, b"", f"content-length: {SMALL + 1}"))
    assert answer.statuses == [413]
    assert await nothing_happened(small)


async def test_a_chunked_body_is_refused_where_it_passes_the_limit(small: Front) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(SMALL // 1024 + 1):
            yield b"x" * 1024

    response = await small.http.post(small.url, content=body(), headers=small.headers())
    assert response.status_code == 413
    assert await nothing_happened(small)


async def test_a_body_of_exactly_the_limit_is_read(small: Front) -> None:
    body = json.dumps(request("ping")).encode().ljust(SMALL)
    response = await small.post(body, mcp_session_id=await small.handshake())
    assert response.json()["result"] == {}


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP"])
async def test_a_compressed_body_is_not_opened(door: Front, encoding: str) -> None:
    bomb = gzip.compress(b" " * 1_000_000)
    assert (await door.post(bomb, content_encoding=encoding)).status_code == 415
    assert await nothing_happened(door)


BAD_JSON = [
    b"", b" ", b"{", b"}", b'{"a"', b'{"a":}', b"{'a':1}", b'{"a":1,}', b"[1,]", b"[,1]", b"{,}", b"nul", b"True",
    b"NaN", b'{"id":NaN}', b"Infinity", b"-Infinity", b"+1", b".5", b"1.", b"01", b"0x1", b"1e", b"1e400",
    b'{"a":1e400}', b"9" * 5000, b'{"id":' + b"9" * 5000 + b"}", b'"a', b'"\x01"', b'"\\x"', b'"\\u12"', b'"\\ud800"',
    b'{"a":"\\udc00x"}', b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16"),
    '{"a":1}'.encode("utf-32"), '{"a":1}'.encode("utf-16-le"), b"{}{}", b"{} x", b"{}\x00", b"\x00",
    b"// x\n{}", b"/* */{}", b"\x0c{}", b"\xa0{}",
    b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b'{"a":1,"a":2}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/list"}', b'{"a":{"b":1,"\\u0062":2}}', b'{1:2}', b"a",
    b'{"a" "b"}', b'["a" "b"]', b"[1 2]", b'"\t"', b"\xe2\x80\xa8{}", b"{]", b"[}", b"(1)", b"<a/>",
]  # fmt: skip


async def test_what_is_not_strict_json_is_a_parse_error(door: Front) -> None:
    for body in BAD_JSON:
        response = await door.post(body)
        assert response.status_code == 400, body[:60]
        answer = response.json()
        assert answer["error"]["code"] in (-32700, -32600, -32602), body[:60]
    assert await nothing_happened(door)


GOOD_JSON = [
    b'{}', b' {\r\n\t} ', b'{"":0}', b'{"a":"\\u0000"}', b'{"a":"\\ud83d\\ude00"}', b'{"a":-0.0e+1}', b'{"a":1E5}',
    b'{"a":9007199254740993}', b'{"a":"\\"\\\\\\/\\b\\f\\n\\r\\t"}', b'{"a":"\x7f"}', '{"ü":"\u2028"}'.encode(),
    b'{"a":{"a":{"a":1}}}', b'{"a":"\\"b\\":1"}',
]  # fmt: skip


async def test_strict_json_arrives_as_it_was_meant(door: Front) -> None:
    for number, text in enumerate(GOOD_JSON):
        body, headers = modern_request("tools/call", {"name": "u__echo"})
        raw_body = json.dumps(body).encode().replace(b'"name": "u__echo"', b'"name": "u__echo", "arguments": ' + text)
        response = await door.post(raw_body, **headers)
        assert response.status_code == 200, text
        assert door.u.asked[number].params.get("arguments", {}) == json.loads(text)


BAD_MESSAGES: list[Any] = [
    [], [request("ping")], [request("ping"), request("ping")], [1], None, "x", 1, 1.5, True, {},
    {**request("ping"), "jsonrpc": "1.0"}, {**request("ping"), "jsonrpc": 2}, {"id": 1, "method": "ping"},
    {**request("ping"), "params": []}, {**request("ping"), "params": "x"}, {**request("ping"), "method": 1},
    {**request("ping"), "id": None}, {**request("ping"), "id": 1.5}, {**request("ping"), "id": {}},
    {**request("ping"), "id": []}, {**request("ping"), "id": False}, {**request("ping"), "id": "x" * 1_000_000},
    {"jsonrpc": "2.0", "id": 1}, {"jsonrpc": "2.0", "id": 1, "result": None},
    {"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}}, {"JSONRPC": "2.0", "ID": 1, "METHOD": "ping"},
]  # fmt: skip


async def test_what_is_not_one_message_is_an_invalid_request(door: Front) -> None:
    session = await door.handshake()
    for message in BAD_MESSAGES:
        for headers in ({"mcp_session_id": session}, {"mcp_protocol_version": "2026-07-28"}):
            response = await door.post(message, **headers)
            assert (response.status_code, response.json()["error"]["code"]) == (400, -32600), str(message)[:80]
    assert await nothing_happened(door)


async def test_a_batch_is_not_half_done(door: Front) -> None:
    good, headers = modern_request("tools/call", {"name": "u__echo"})
    assert (await door.post([good, good], **headers)).status_code == 400
    assert await nothing_happened(door)


@pytest.mark.parametrize("meta", [[], "x", 1, True, None, {}, {META_VERSION: "2026-07-28"}, {META_VERSION: 1}])
async def test_an_odd_meta_is_an_error_and_never_a_crash(door: Front, meta: Any) -> None:
    session = await door.handshake()
    body = request("tools/call", {"name": "u__secret", "_meta": meta})
    for headers in ({"mcp_protocol_version": "2026-07-28", "mcp_method": "tools/call"}, {"mcp_session_id": session}):
        response = await door.post(body, **headers)
        assert response.status_code in (200, 400)
        assert "error" in answer_of(response)
    assert await nothing_happened(door)


@pytest.mark.parametrize("id_", [1, "1", 0, "", -1, 2**53, "\u2028\x00ü"])
async def test_an_answer_has_the_id_and_its_type(door: Front, id_: Any) -> None:
    session = await door.handshake()
    for response in (
        await door.modern("tools/list", id_=id_),
        await door.modern("nonsense", id_=id_),
        await door.call("u__nothing", id_=id_),
        await door.old(session, "ping", id_=id_),
        await door.old(session, "nonsense", id_=id_),
    ):
        assert (response.json()["id"], type(response.json()["id"])) == (id_, type(id_))


# Which era


async def test_the_body_says_which_era_it_is(door: Front) -> None:
    session = await door.handshake()
    body, headers = modern_request("tools/list")
    assert "resultType" in (await door.post(body, mcp_session_id=session, **headers)).json()["result"]
    assert (await door.post(body, mcp_session_id=session)).json()["error"]["code"] == -32020
    assert (await door.post(body, mcp_session_id=session, mcp_protocol_version="2025-06-18")).status_code == 400
    old = await door.old(session, "tools/list", mcp_protocol_version="2025-06-18")
    assert "resultType" not in old.json()["result"]


@pytest.mark.parametrize("version", ["1999-01-01", "2026-07-29", "", "x", "2025-06-18, 2026-07-28"])
async def test_a_version_nobody_knows_is_refused(door: Front, version: str) -> None:
    session = await door.handshake()
    lines = (f"mcp-session-id: {session}", f"mcp-protocol-version: {version}")
    for message in (request("tools/list"), {"jsonrpc": "2.0", "method": "notifications/initialized"}):
        answer = await raw(door.port, raw_post(door, json.dumps(message).encode(), *lines))
        assert answer.statuses == [400], (version, message)


async def test_a_handshake_works_whatever_the_envelope_says(door: Front) -> None:
    body = initialize()
    body["params"]["_meta"] = META
    response = await door.post(body)
    assert response.json()["result"]["protocolVersion"] == "2025-11-25"


# Malformed HTTP


def malformed(door: Front) -> dict[str, bytes]:
    good = json.dumps(request("ping")).encode()
    length = len(good)
    chunked = ("transfer-encoding: chunked", "content-length: -")
    return {
        "CL and TE": raw_post(door, b"0\r\n\r\n", "transfer-encoding: chunked", "content-length: 5"),
        "TE and CL": raw_post(door, b"0\r\n\r\n", "content-length: 5", "transfer-encoding: chunked"),
        "two lengths": raw_post(door, good, f"content-length: {length}", f"content-length: {length + 1}"),
        "two equal lengths": raw_post(door, good, f"content-length: {length}", f"content-length: {length}"),
        "a list of lengths": raw_post(door, good, f"content-length: {length}, {length}"),
        "negative length": raw_post(door, good, "content-length: -1"),
        "length with a sign": raw_post(door, good, f"content-length: +{length}"),
        "hex length": raw_post(door, good, "content-length: 0x10"),
        "huge length": raw_post(door, good, "content-length: " + "9" * 5000),
        "unknown coding": raw_post(door, good, "transfer-encoding: xchunked", "content-length: -"),
        "chunked not last": raw_post(door, good, "transfer-encoding: chunked, gzip", "content-length: -"),
        "two codings": raw_post(door, good, "transfer-encoding: chunked", "transfer-encoding: x", "content-length: -"),
        "junk in a chunk size": raw_post(door, b"5 x\r\nhello\r\n0\r\n\r\n", *chunked),
        "huge chunk": raw_post(door, b"F" * 40 + b"\r\n", *chunked),
        "negative chunk": raw_post(door, b"-1\r\n\r\n", *chunked),
        "folded header": raw_post(door, good, "x-a: b\r\n c"),
        "space before colon": raw_post(door, good, "x-a : b"),
        "NUL in a header": raw_post(door, good, "x-a: b\x00c"),
        "NUL in a name": raw_post(door, good, "x\x00a: b"),
        "bare CR in a header": raw_post(door, good, "x-a: b\rx: y"),
        "no colon": raw_post(door, good).replace(b"\r\naccept:", b"\r\nnonsense\r\naccept:"),
        "empty name": raw_post(door, good, ": x"),
        "NUL in the path": raw_post(door, good, first="POST /mcp\x00 HTTP/1.1"),
        "space in the path": raw_post(door, good, first="POST /m cp HTTP/1.1"),
        "no version": raw_post(door, good, first="POST /mcp"),
        "HTTP/0.9": b"GET /health\r\n\r\n",
        "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/9.9": raw_post(door, good, first="POST /mcp HTTP/9.9"),
        "lower-case method": raw_post(door, good, first="post /mcp HTTP/1.1"),
        "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        "somebody else's authority": raw_post(door, good, first="GET http://evil.example/health HTTP/1.1"),
        "our own authority": raw_post(door, good, first="GET http://127.0.0.1/health HTTP/1.1"),
        "bare LF": raw_post(door, good, first="GET /health HTTP/1.1").replace(b"\r\n", b"\n"),
        "asterisk": b"OPTIONS * HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        "long path": raw_post(door, good, first="POST /mcp/" + "x" * 65536 + " HTTP/1.1"),
        "long query": raw_post(door, good, first="POST /mcp?" + "x" * 65536 + " HTTP/1.1"),
        "many headers": raw_post(door, good, *[f"x-{n}: y" for n in range(5000)]),
        "a large header": raw_post(door, good, "x-a: " + "y" * 1_048_576),
    }  # fmt: skip


async def test_malformed_http_is_refused_with_one_response_or_none(door: Front) -> None:
    door.token()
    for name, data in malformed(door).items():
        answer = await raw(door.port, data)
        assert len(answer.statuses) <= 1, name
        assert all(400 <= status < 500 for status in answer.statuses), (name, answer.data[:200])
        assert answer.statuses or answer.closed, name
    assert await nothing_happened(door)


async def test_a_smuggled_request_is_not_answered(door: Front) -> None:
    hidden = raw_post(door, b"{}", first="GET /health HTTP/1.1")
    for lines in (["transfer-encoding: chunked", "content-length: 4"], ["content-length: 0", "content-length: 4"]):
        answer = await raw(door.port, raw_post(door, b"0\r\n\r\n" + hidden, *lines))
        assert len(answer.statuses) <= 1
        assert 200 not in answer.statuses


async def test_a_websocket_is_not_opened(door: Front) -> None:
    lines = ["connection: Upgrade", "upgrade: websocket", "sec-websocket-key: x", "sec-websocket-version: 13"]
    answer = await raw(door.port, raw_post(door, b"", *lines, first="GET /mcp HTTP/1.1"))
    assert 101 not in answer.statuses
    assert await still_serves(door)


async def test_trailers_are_not_headers(door: Front) -> None:
    body, headers = modern_request("tools/list")
    sent = json.dumps(body).encode()
    chunked = b"%x\r\n%s\r\n0\r\n" % (len(sent), sent)
    named = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()).encode()
    lines = ["transfer-encoding: chunked", "content-length: -"]
    answer = await raw(door.port, raw_post(door, chunked + named + b"\r\n", *lines))
    assert answer.statuses == [400]
    assert b"-32020" in answer.data


async def test_refusals_before_identity_are_counted(door: Front) -> None:
    counted = []
    door.audit.count_refusal = counted.append  # type: ignore[method-assign]
    await door.post(b"{}", authorization="")
    await door.post(b"{}", origin="https://evil.example")
    await door.post(b"{}", content_type="text/plain")
    assert counted == ["http_401", "http_403", "http_415"]


async def test_what_a_known_agent_sends_malformed_has_an_entry_of_its_own(door: Front) -> None:
    noted = []

    async def note(kind: str, name: str, **rest: Any) -> None:
        noted.append((kind, rest["agent"]))

    door.audit.note = note  # type: ignore[method-assign, assignment]
    await door.post(b"{")
    assert noted == [("malformed", "alice")]


async def test_requests_one_after_another_on_one_connection_are_answered_in_order(door: Front) -> None:
    first = raw_post(door, b"", first="GET /health HTTP/1.1")
    last = raw_post(door, b"", "connection: close", first="GET /mcp HTTP/1.1")
    assert (await raw(door.port, first + first + last)).statuses == [200, 200, 405]
